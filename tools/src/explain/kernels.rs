//! Kernels as the document has them: who made the code, how much there is of it, and, where asked for, its texts.

use bitnetc_codegen::clif;
use bitnetc_codegen::compile::{Codegen, CompileError, Selector, compile_kernel};
use bitnetc_codegen::kernels::{KernelSpec, Registers};
use bitnetc_codegen::program::Programs;
use bitnetc_ir::{Arch, TargetDesc};
use rayon::prelude::*;

use super::document::{KernelInfo, Listing};

/// Compiles every kernel of `programs` for `target`, which need not be this machine.
pub(super) fn kernels(
    programs: &Programs,
    target: &TargetDesc,
    codegen: Codegen,
    texts: bool,
) -> Result<Vec<KernelInfo>, CompileError> {
    let specs: Vec<&KernelSpec> = programs.kernels.values().collect();
    let kernels = specs.par_iter().map(|spec| kernel(spec, target, codegen, texts));
    bitnetc_threads::install(|| kernels.collect())
}

fn kernel(
    spec: &KernelSpec,
    target: &TargetDesc,
    codegen: Codegen,
    texts: bool,
) -> Result<KernelInfo, CompileError> {
    let made = compile_kernel(spec, target, codegen)?;
    let listing = texts.then(|| {
        let narrow = spec.build_for(Registers::cranelift(target)).ok();
        let narrow = narrow.and_then(|kernel| clif::compile_with_listing(&kernel, target).ok());
        let asm = match (target.arch, made.selector, &narrow) {
            (Arch::Aarch64, Selector::Cranelift, Some((_, listing))) => listing.vcode.clone(),
            _ => made.code.disassemble(),
        };
        Listing { kernel: made.kernel.to_string(), clif: narrow.map(|(_, listing)| listing.clif), asm }
    });
    Ok(KernelInfo {
        name: spec.name(),
        selector: made.selector.name(),
        refusal: made.refusal.map(|why| why.to_string()),
        code_bytes: made.code.bytes.len(),
        listing,
    })
}
