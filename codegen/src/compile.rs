//! From a planned module to running code: programs, one kernel for each distinct spec, one image.
//!
//! Kernels are generated and compiled in parallel; a model of 30 layers has about two dozen. Nothing of this is stored:
//! a plan file holds the module, and code is made again at load.

use rayon::prelude::*;

use bitnetc_ir::{Entity, Module, TargetDesc};

use crate::clif;
use crate::error::CodegenError;
use crate::image::{Image, ImageBuilder, KernelEntry};
use crate::kernels::roofline::RooflineKind;
use crate::kernels::{KernelError, KernelIndex, Registers};
use crate::kir::Kernel;
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

/// A module as programs and code.
#[derive(Debug)]
pub struct Compiled {
    /// What to call.
    pub programs: Programs,
    /// The kernels as they were generated, by kernel index.
    pub kernels: Vec<Kernel>,
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
    let level = x64::Level::of(target).filter(|_| x64::available());
    for &kind in kinds {
        let build = |registers| {
            let malformed = |e| CompileError::Kernel { name: kind.name(), source: KernelError::Malformed(e) };
            kind.build(registers).map_err(malformed)
        };
        let (registers, code) = match level {
            Some(level) => (level.registers(), x64::compile(&build(level.registers())?, target)?),
            None => {
                let registers = Registers::cranelift(target);
                (registers, clif::compile(&build(registers)?, target)?)
            }
        };
        builder.define(&kind.name(), &code)?;
        built.push((kind, registers));
    }
    let image = builder.finish()?;
    let code = |(i, (kind, registers))| RooflineCode { kind, registers, entry: image.entry(i) };
    Ok(built.into_iter().enumerate().map(code).collect())
}

/// Compiles a planned module for `target`, which must be the host or less.
///
/// # Errors
/// A module that is not planned or has an op without kernel; a kernel that cannot be compiled.
pub fn compile(module: &Module, target: &TargetDesc) -> Result<Compiled, CompileError> {
    let programs = program::lower(module)?;
    let specs: Vec<_> = programs.kernels.values().collect();
    let compiled: Vec<_> = specs
        .par_iter()
        .map(|spec| {
            let kernel =
                spec.build(target).map_err(|source| CompileError::Kernel { name: spec.name(), source })?;
            let code = clif::compile(&kernel, target)?;
            Ok((kernel, code))
        })
        .collect::<Result<_, CompileError>>()?;
    let mut builder = ImageBuilder::new(target)?;
    let mut kernels = Vec::with_capacity(compiled.len());
    for (kernel, code) in compiled {
        builder.define(&kernel.name, &code)?;
        kernels.push(kernel);
    }
    let image = builder.finish()?;
    Ok(Compiled { programs, kernels, image })
}
