//! Executable memory: machine code in, callable kernels out.
//!
//! An [`Image`] is built once and then immutable. Its pages are written while they are read-write and then turned
//! read-execute; at no time is a page writable and executable. The memory lives as long as any handle to it: an
//! [`Image`] and every [`KernelEntry`] share ownership, and the last one to go frees the pages.
//!
//! This is the crate's one room for `unsafe`: freeing the pages, turning an address into a function pointer, and asking the
//! operating system for the tile registers.
//! Calling that pointer is the caller's unsafe act; [`KernelEntry::function`] states its contract.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex};

use bitnetc_ir::TargetDesc;
use cranelift_codegen::ir::Signature;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module as _, default_libcall_names};

use crate::clif::target_isa;
use crate::error::CodegenError;
use crate::host;
use crate::machine_code::MachineCode;

/// Type of every kernel.
pub type KernelFn = unsafe extern "C" fn(args: *const u64);

/// Collects machine code for an [`Image`].
pub struct ImageBuilder {
    host: TargetDesc,
    module: Pages,
    entries: Vec<Pending>,
}

struct Pending {
    name: String,
    id: FuncId,
    code: MachineCode,
}

impl ImageBuilder {
    /// An empty image for code that is compiled for `target`.
    ///
    /// # Errors
    /// This machine cannot run code for `target`.
    pub fn new(target: &TargetDesc) -> Result<Self, CodegenError> {
        let host = host::probe()?;
        check_runs_on(target, &host)?;
        let isa = target_isa(&TargetDesc::baseline(host.arch))?;
        let module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        Ok(Self { host, module: Pages(Some(module)), entries: Vec::new() })
    }

    /// Adds a kernel, whichever instruction selector made it. The first one defined is kernel 0 of the image.
    ///
    /// # Errors
    /// The name is taken, this machine cannot run the code, or there is no memory.
    pub fn define(&mut self, name: &str, code: &MachineCode) -> Result<(), CodegenError> {
        check_runs_on(&code.target, &self.host)?;
        if self.entries.iter().any(|e| e.name == name) {
            return Err(CodegenError::Duplicate { kernel: name.to_owned() });
        }
        let module = self.module.get()?;
        let signature = Signature::new(module.isa().default_call_conv());
        let id = module.declare_function(name, Linkage::Export, &signature).map_err(memory_error)?;
        let align = u64::from(code.align).next_power_of_two();
        module.define_function_bytes(id, align, &code.bytes, &[]).map_err(memory_error)?;
        self.entries.push(Pending { name: name.to_owned(), id, code: code.clone() });
        Ok(())
    }

    /// Makes the code executable and read-only.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn finish(mut self) -> Result<Image, CodegenError> {
        let module = self.module.get()?;
        module.finalize_definitions().map_err(memory_error)?;
        let kernels = self
            .entries
            .into_iter()
            .map(|e| Loaded {
                name: e.name,
                address: module.get_finalized_function(e.id) as usize,
                code: e.code,
            })
            .collect();
        Ok(Image { shared: Arc::new(Shared { kernels, _pages: Mutex::new(self.module) }) })
    }
}

impl fmt::Debug for ImageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageBuilder").field("kernels", &self.entries.len()).finish_non_exhaustive()
    }
}

fn memory_error(error: impl fmt::Display) -> CodegenError {
    CodegenError::Memory { reason: error.to_string() }
}

fn check_runs_on(target: &TargetDesc, host: &TargetDesc) -> Result<(), CodegenError> {
    let missing: Vec<_> = match target.arch == host.arch {
        true => target.missing_on(host).into_iter().map(|f| f.name().to_owned()).collect(),
        false => vec![target.arch.to_string()],
    };
    if missing.is_empty() {
        return Ok(());
    }
    Err(CodegenError::WrongTarget {
        target: target.to_string(),
        host: host.to_string(),
        missing: missing.join(", "),
    })
}

/// The pages, freed on drop (a `JITModule` by itself leaks them).
struct Pages(Option<JITModule>);

impl Pages {
    fn get(&mut self) -> Result<&mut JITModule, CodegenError> {
        self.0.as_mut().ok_or_else(|| memory_error("the pages are gone"))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(module) = self.0.take() {
            // SAFETY: No kernel of these pages runs or is called afterwards. An address leaves this module only through
            // a `KernelEntry`, which owns a share of the pages; `KernelEntry::function` obliges its caller to keep the
            // entry alive during every call. So when the last share is dropped, which is when this runs, nobody is
            // inside a kernel and nobody may enter one.
            unsafe { module.free_memory() }
        }
    }
}

struct Loaded {
    name: String,
    address: usize,
    code: MachineCode,
}

struct Shared {
    kernels: Vec<Loaded>,
    // In a mutex only because a `JITModule` is not `Sync`; it is never locked.
    _pages: Mutex<Pages>,
}

/// Executable kernels. Cheap to clone; all clones share the pages.
#[derive(Clone)]
pub struct Image {
    shared: Arc<Shared>,
}

impl Image {
    /// The kernel that was defined as number `index`.
    ///
    /// # Panics
    /// If fewer kernels were defined.
    pub fn entry(&self, index: usize) -> KernelEntry {
        assert!(index < self.len(), "kernel {index} of an image of {}", self.len());
        KernelEntry { shared: Arc::clone(&self.shared), index }
    }

    /// The kernel of that name.
    pub fn find(&self, name: &str) -> Option<KernelEntry> {
        let index = self.shared.kernels.iter().position(|k| k.name == name)?;
        Some(self.entry(index))
    }

    /// Number of kernels.
    pub fn len(&self) -> usize {
        self.shared.kernels.len()
    }

    /// Whether there are no kernels.
    pub fn is_empty(&self) -> bool {
        self.shared.kernels.is_empty()
    }

    /// All kernels, in the order in which they were defined.
    pub fn entries(&self) -> impl Iterator<Item = KernelEntry> + '_ {
        (0..self.len()).map(|index| self.entry(index))
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shared.kernels.iter().map(|k| &k.name)).finish()
    }
}

/// A kernel in executable memory, and a share of that memory.
#[derive(Clone)]
pub struct KernelEntry {
    shared: Arc<Shared>,
    index: usize,
}

impl KernelEntry {
    /// The kernel as a function.
    ///
    /// # Safety of calling it
    /// This method is safe; calling what it returns is not. The caller keeps this entry (or its image) alive during
    /// the call, and passes a pointer to as many words as the kernel has parameters. Each `ptr` parameter is the
    /// address of memory that is valid for all loads and stores that the kernel does through it with these arguments
    /// (run the kernel in the interpreter, or prove the ranges from its spec), and no other thread writes that memory,
    /// or reads what the kernel stores, during the call.
    pub fn function(&self) -> KernelFn {
        let address = self.loaded().address as *const ();
        // SAFETY: The address is that of a finalized, executable function of this image, which is not null and was
        // compiled for exactly this signature and this machine; the pages outlive `self`.
        unsafe { std::mem::transmute::<*const (), KernelFn>(address) }
    }

    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.loaded().name
    }

    /// The machine code.
    pub fn code(&self) -> &MachineCode {
        &self.loaded().code
    }

    fn loaded(&self) -> &Loaded {
        &self.shared.kernels[self.index]
    }
}

impl fmt::Debug for KernelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelEntry({})", self.name())
    }
}

/// Tile registers (AMX), which the operating system gives to a process that asks for them.
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles {
    /// Whether code of this process may use tile registers and products of bytes between them. Asks for the permission at
    /// the first call.
    #[cfg(target_os = "linux")]
    pub(crate) fn permitted() -> bool {
        /// `ARCH_REQ_XCOMP_PERM` of the Linux kernel's `asm/prctl.h`.
        const REQUEST: libc::c_long = 0x1023;
        /// `XFEATURE_XTILE_DATA`, as the same interface counts.
        const TILE_DATA: libc::c_long = 18;
        /// AMX-TILE and AMX-INT8 in EDX of leaf 7 (Intel SDM, volume 2A, CPUID).
        const FEATURES: u32 = 1 << 24 | 1 << 25;

        static PERMITTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *PERMITTED.get_or_init(|| {
            let has_leaf = std::arch::x86_64::__cpuid(0).eax >= 7;
            if !has_leaf || std::arch::x86_64::__cpuid_count(7, 0).edx & FEATURES != FEATURES {
                return false;
            }
            // SAFETY: the call reads its two numbers and no memory; it changes only what this process may use.
            unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn permitted() -> bool {
        false
    }
}

/// Calls a kernel, for unit tests of the selectors: the test has run the same words in the kernel interpreter, which checks
/// every access.
#[cfg(test)]
pub(crate) fn call_in_test(entry: &KernelEntry, words: &[u64]) {
    // SAFETY: the caller has seen the interpreter accept these words, which bounds every access; `entry` keeps the code.
    unsafe { entry.function()(words.as_ptr()) }
}
