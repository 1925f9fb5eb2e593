//! From a planned module to running code: programs, one kernel for each distinct spec, one image.
//!
//! Kernels are generated and compiled in parallel; a model of 30 layers has about two dozen. Nothing of this is stored:
//! a plan file holds the module, and code is made again at load.
//!
//! Which instruction selector makes a kernel ([`Codegen`]) never changes a bit of what it computes; it does change how
//! the generator blocks the kernel, since the selectors have different registers.

use rayon::prelude::*;

use bitnetc_ir::{Entity, Module, TargetDesc};

use crate::clif;
use crate::error::CodegenError;
use crate::image::{Image, ImageBuilder, KernelEntry};
use crate::kernels::roofline::RooflineKind;
use crate::kernels::{KernelError, KernelIndex, KernelSpec, Registers};
use crate::kir::Kernel;
use crate::machine_code::MachineCode;
use crate::program::{self, ProgramError, Programs};
use crate::x64;

/// Why a planned module could not be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The module could not be flattened.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A kernel could not be generated.
    #[error("kernel {name}: {source}")]
    Kernel {
        /// The kernel.
        name: String,
        /// Why.
        source: KernelError,
    },
    /// A kernel could not be turned into executable code.
    #[error(transparent)]
    Code(#[from] CodegenError),
}

/// Which instruction selector is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codegen {
    /// The wide one where the target has wide registers, and Cranelift for kernels that it refuses.
    #[default]
    Auto,
    /// Cranelift's 128-bit registers.
    Cranelift,
    /// The wide one, or an error.
    X64,
}

/// The instruction selector that made a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// [`crate::clif`].
    Cranelift,
    /// [`crate::x64`].
    X64,
}

impl Selector {
    /// The name, as `--codegen` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Selector::Cranelift => "cranelift",
            Selector::X64 => "x64",
        }
    }
}

/// A kernel in machine code.
#[derive(Debug)]
pub struct CompiledKernel {
    /// As it was generated.
    pub kernel: Kernel,
    /// Its code.
    pub code: MachineCode,
    /// What made the code.
    pub selector: Selector,
    /// Why the wide selector did not, where [`Codegen::Auto`] asked it first.
    pub refusal: Option<CodegenError>,
    /// The registers that it was blocked for.
    pub registers: Registers,
}

/// A module as programs and code.
#[derive(Debug)]
pub struct Compiled {
    /// What to call.
    pub programs: Programs,
    /// The kernels as they were generated, by kernel index.
    pub kernels: Vec<Kernel>,
    /// Which selector made each kernel, by kernel index.
    pub selectors: Vec<Selector>,
    /// Why the wide selector did not make a kernel that it was to make.
    pub refusals: Vec<CodegenError>,
    image: Image,
}

impl Compiled {
    /// The entry of a kernel.
    pub fn entry(&self, kernel: KernelIndex) -> KernelEntry {
        self.image.entry(kernel.index())
    }
    /// The executable image.
    pub fn image(&self) -> &Image {
        &self.image
    }
}

/// A kernel that belongs to no module, compiled, with the registers that it was blocked for.
#[derive(Debug)]
pub struct RooflineCode {
    /// What it measures.
    pub kind: RooflineKind,
    /// What the selector that compiled it has.
    pub registers: Registers,
    /// The code.
    pub entry: KernelEntry,
}

/// Compiles the kernels that measure a machine's limits, with the widest registers that `target` has.
///
/// # Errors
/// A kernel that cannot be compiled.
pub fn compile_roofline(
    kinds: &[RooflineKind],
    target: &TargetDesc,
) -> Result<Vec<RooflineCode>, CompileError> {
    let mut builder = ImageBuilder::new(target)?;
    let mut built = Vec::with_capacity(kinds.len());
    for &kind in kinds {
        let malformed = |e| CompileError::Kernel { name: kind.name(), source: KernelError::Malformed(e) };
        let build = |registers: Registers| kind.build(registers).map_err(malformed);
        let CompiledKernel { kernel, code, registers, .. } = select(&build, target, Codegen::Auto)?;
        builder.define(&kernel.name, &code)?;
        built.push((kind, registers));
    }
    let image = builder.finish()?;
    let code = |(i, (kind, registers))| RooflineCode { kind, registers, entry: image.entry(i) };
    Ok(built.into_iter().enumerate().map(code).collect())
}

/// Compiles a planned module for `target`, which must be the host or less, by [`Codegen::Auto`].
///
/// # Errors
/// As [`compile_with`].
pub fn compile(module: &Module, target: &TargetDesc) -> Result<Compiled, CompileError> {
    compile_with(module, target, Codegen::Auto)
}

/// Compiles a planned module for `target`, which must be the host or less.
///
/// # Errors
/// A module that is not planned or has an op without kernel; a kernel that cannot be compiled; with [`Codegen::X64`] a
/// target without wide registers, or a kernel for which they do not suffice.
pub fn compile_with(
    module: &Module,
    target: &TargetDesc,
    codegen: Codegen,
) -> Result<Compiled, CompileError> {
    let programs = program::lower(module)?;
    let specs: Vec<_> = programs.kernels.values().collect();
    let compiled = specs.par_iter().map(|spec| compile_kernel(spec, target, codegen));
    let compiled: Vec<_> = bitnetc_threads::install(|| compiled.collect::<Result<_, _>>())?;
    let mut builder = ImageBuilder::new(target)?;
    let mut kernels = Vec::with_capacity(compiled.len());
    let mut selectors = Vec::with_capacity(compiled.len());
    let mut refusals = Vec::new();
    for CompiledKernel { kernel, code, selector, refusal, .. } in compiled {
        builder.define(&kernel.name, &code)?;
        kernels.push(kernel);
        selectors.push(selector);
        refusals.extend(refusal);
    }
    let image = builder.finish()?;
    Ok(Compiled { programs, kernels, selectors, refusals, image })
}

/// Generates and compiles one kernel.
///
/// # Errors
/// As [`compile_with`].
pub fn compile_kernel(
    spec: &KernelSpec,
    target: &TargetDesc,
    codegen: Codegen,
) -> Result<CompiledKernel, CompileError> {
    let build = |registers: Registers| {
        spec.build_for(registers).map_err(|source| CompileError::Kernel { name: spec.name(), source })
    };
    select(&build, target, codegen)
}

/// Compiles what `build` generates for the registers of the selector that `codegen` asks for.
fn select(
    build: &dyn Fn(Registers) -> Result<Kernel, CompileError>,
    target: &TargetDesc,
    codegen: Codegen,
) -> Result<CompiledKernel, CompileError> {
    let level = x64::Level::of(target).filter(|_| x64::available_for(target));
    let mut refusal = None;
    if let (Codegen::Auto | Codegen::X64, Some(level)) = (codegen, level) {
        let (registers, selector) = (level.registers().tuned_for(target), Selector::X64);
        let kernel = build(registers)?;
        match x64::compile(&kernel, target) {
            Ok(code) => return Ok(CompiledKernel { kernel, code, selector, registers, refusal }),
            Err(e @ (CodegenError::Registers { .. } | CodegenError::TooLarge { .. }))
                if codegen == Codegen::Auto =>
            {
                refusal = Some(e);
            }
            Err(other) => return Err(other.into()),
        }
    } else if codegen == Codegen::X64 {
        return Err(CodegenError::Narrow { target: target.to_string() }.into());
    }
    let (registers, selector) = (Registers::cranelift(target), Selector::Cranelift);
    let kernel = build(registers)?;
    let code = clif::compile(&kernel, target)?;
    Ok(CompiledKernel { kernel, code, selector, registers, refusal })
}
