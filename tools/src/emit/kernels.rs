//! Kernel IR, CLIF and machine code of every distinct kernel, each under a heading that names the kernel, what made it and
//! the ops that use it.
//!
//! Kernels are made in parallel and shown in the order of the module's steps.

use std::fmt::Write;

use bitnetc_codegen::clif;
use bitnetc_codegen::compile::{Codegen, CompileError, CompiledKernel, Selector, compile_kernel};
use bitnetc_codegen::kernels::{KernelSpec, Registers};
use bitnetc_ir::{Arch, TargetDesc};
use rayon::prelude::*;

use super::Lowered;
use crate::error::Error;

/// Most ops that a heading lists by text; it says how many there are.
const MOST_USERS: usize = 4;

fn heading(spec: &KernelSpec, users: &[String], made: &str) -> String {
    let plural = if users.len() == 1 { "" } else { "s" };
    let mut text = format!("; kernel {}\n; {made}\n; used by {} op{plural}:\n", spec.name(), users.len());
    for user in users.iter().take(MOST_USERS) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, ";   {}", user.escape_debug());
    }
    if users.len() > MOST_USERS {
        let _ = writeln!(text, ";   … and {} more", users.len() - MOST_USERS);
    }
    text
}

/// What made a kernel, and its text.
type Section = (String, String);

/// `show` of every kernel, under its heading.
fn sections(
    lowered: &Lowered,
    show: &(dyn Fn(&KernelSpec) -> Result<Section, Error> + Sync),
) -> Result<String, Error> {
    let specs: Vec<&KernelSpec> = lowered.programs.kernels.values().collect();
    let shown = specs.par_iter().map(|spec| show(spec));
    let shown: Vec<Section> = bitnetc_threads::install(|| shown.collect::<Result<_, _>>())?;
    let users = lowered.users();
    let sections = specs.iter().zip(&users).zip(shown).map(|((spec, users), (made, text))| {
        format!("{}{}\n", heading(spec, users, &made), text.trim_end_matches('\n').to_owned() + "\n")
    });
    Ok(sections.collect())
}

fn made(compiled: &CompiledKernel, target: &TargetDesc) -> String {
    let refused = compiled.refusal.as_ref().map_or_else(String::new, |why| format!(", since {why}"));
    format!(
        "made by {} for {target}: {} bytes of code, {} virtual vectors in registers{refused}",
        compiled.selector.name(),
        compiled.code.bytes.len(),
        compiled.registers.vectors()
    )
}

/// Kernel IR.
pub(super) fn kernels(lowered: &Lowered, target: &TargetDesc, codegen: Codegen) -> Result<String, Error> {
    sections(lowered, &|spec| {
        let compiled = compile_kernel(spec, target, codegen)?;
        Ok((made(&compiled, target), compiled.kernel.to_string()))
    })
}

/// CLIF, before Cranelift's optimiser.
pub(super) fn clif(lowered: &Lowered, target: &TargetDesc, codegen: Codegen) -> Result<String, Error> {
    sections(lowered, &|spec| {
        let chosen = compile_kernel(spec, target, codegen)?;
        let note = match chosen.selector {
            Selector::Cranelift => made(&chosen, target),
            Selector::X64 => {
                format!("{}; this is what --codegen cranelift makes instead", made(&chosen, target))
            }
        };
        Ok((note, listing(spec, target)?.clif))
    })
}

/// Cranelift's listing of a kernel.
fn listing(spec: &KernelSpec, target: &TargetDesc) -> Result<clif::Listing, CompileError> {
    let name = || spec.name();
    let kernel = spec
        .build_for(Registers::cranelift(target))
        .map_err(|source| CompileError::Kernel { name: name(), source })?;
    Ok(clif::compile_with_listing(&kernel, target)?.1)
}

/// Machine code: of x86-64 decoded from the bytes, of aarch64 as Cranelift lists it.
pub(super) fn asm(lowered: &Lowered, target: &TargetDesc, codegen: Codegen) -> Result<String, Error> {
    sections(lowered, &|spec| {
        let compiled = compile_kernel(spec, target, codegen)?;
        let text = match target.arch {
            Arch::X86_64 => compiled.code.disassemble(),
            Arch::Aarch64 => listing(spec, target)?.vcode,
        };
        Ok((made(&compiled, target), text))
    })
}
