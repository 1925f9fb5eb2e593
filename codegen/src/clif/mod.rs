//! The Cranelift selector: kernel IR to 128-bit machine code for x86-64 (SSE4.1 up) and aarch64.
//!
//! Every virtual vector becomes four 128-bit parts, lane 0 in the first. One CLIF function is made per kernel; its
//! only parameter is the address of the argument words. What differs between instruction sets is chosen here, from the
//! [`TargetDesc`], so that Cranelift never falls back to a library call: the code has no relocations, which is checked
//! after every compilation.
//!
//! Invariants: the result agrees with [`crate::kir::interp`] bit for bit (NaN payloads aside); loads and stores touch
//! exactly the bytes that the op names.

mod dot;
mod float;
#[cfg(all(test, target_arch = "x86_64"))]
mod foreign_tests;
mod isa;
mod lanes;
mod lower;
mod memory;
mod tables;

use bitnetc_ir::TargetDesc;
use cranelift_codegen::Context;
use cranelift_codegen::FinalizedRelocTarget;
use cranelift_frontend::FunctionBuilderContext;

pub use isa::target_isa;

use self::isa::Features;
use crate::error::CodegenError;
use crate::kir::{Kernel, verify};
use crate::machine_code::{CODE_LIMIT, MachineCode};

/// How a kernel was compiled, for dumps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The CLIF that the kernel was lowered to, before Cranelift's optimiser.
    pub clif: String,
    /// Cranelift's listing of the machine instructions, after register allocation.
    pub vcode: String,
}

/// Compiles a kernel for `target`, which need not be this machine.
///
/// # Errors
/// The kernel is malformed, too large, or hits a defect of the backend.
pub fn compile(kernel: &Kernel, target: &TargetDesc) -> Result<MachineCode, CodegenError> {
    Ok(translate(kernel, target, Features::of(target), false)?.0)
}

/// Compiles a kernel and also says how.
///
/// # Errors
/// As [`compile`].
pub fn compile_with_listing(
    kernel: &Kernel,
    target: &TargetDesc,
) -> Result<(MachineCode, Listing), CodegenError> {
    translate(kernel, target, Features::of(target), true)
}

/// Lowers for `features` and lets Cranelift select instructions for `target`; the tests give features of another machine.
fn translate(
    kernel: &Kernel,
    target: &TargetDesc,
    features: Features,
    list: bool,
) -> Result<(MachineCode, Listing), CodegenError> {
    verify(kernel)?;
    if kernel.uses_tiles() {
        return Err(CodegenError::Tiles { kernel: kernel.name.clone(), target: target.to_string() });
    }
    let isa = target_isa(target)?;
    let failed = |reason: String| CodegenError::Backend { kernel: kernel.name.clone(), reason };

    let mut ctx = Context::new();
    ctx.set_disasm(list);
    lower::lower(kernel, features, &*isa, &mut ctx.func, &mut FunctionBuilderContext::new());
    let clif = if list { ctx.func.display().to_string() } else { String::new() };
    let compiled =
        ctx.compile(&*isa, &mut Default::default()).map_err(|e| failed(format!("{:?}", e.inner)))?;
    let vcode = compiled.vcode.clone().unwrap_or_default();
    let bytes = compiled.code_buffer().to_vec();
    let align = compiled.buffer.alignment;
    if let Some(reloc) = compiled.buffer.relocs().first() {
        let symbol = match &reloc.target {
            FinalizedRelocTarget::ExternalName(name) => format!("{name:?}"),
            FinalizedRelocTarget::Func(offset) => format!("its own offset {offset}"),
        };
        return Err(CodegenError::Relocation { kernel: kernel.name.clone(), symbol });
    }
    if bytes.len() > CODE_LIMIT {
        return Err(CodegenError::TooLarge {
            kernel: kernel.name.clone(),
            bytes: bytes.len(),
            limit: CODE_LIMIT,
        });
    }
    Ok((MachineCode { target: target.clone(), bytes, align }, Listing { clif, vcode }))
}
