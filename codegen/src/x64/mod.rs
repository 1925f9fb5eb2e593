//! The instruction selector for wide x86-64: kernel IR to 256-bit (AVX2, AVX-VNNI) or 512-bit (AVX-512) code.
//!
//! Selection gives machine instructions over virtual registers, constants get their places, registers are allocated, and
//! the result is encoded. Code is System V code; where the platform calls functions in another way ([`available`]) the
//! Cranelift selector is used.
//!
//! Invariants: the code computes what the kernel interpreter computes, bit for bit (NaN payloads aside). No vector moves
//! between registers and the frame inside an innermost loop: a kernel for which the registers do not suffice is refused by
//! [`CodegenError::Registers`]. The code has no relocations, and its constants follow it.

mod analysis;
mod constants;
mod emit;
mod forms;
mod levels;
mod liveness;
mod mach;
mod regalloc;
mod select;

use std::collections::BTreeSet;

use bitnetc_ir::TargetDesc;
use bitnetc_ir::target::Feature;

pub use levels::Level;

use self::mach::Code;
use self::regalloc::{Assignment, Pressure};
use crate::error::CodegenError;
use crate::kir::{Kernel, verify};
use crate::machine_code::{CODE_LIMIT, MachineCode};

/// Largest frame of a kernel, in bytes.
const FRAME_LIMIT: usize = 16 << 10;

/// Whether this machine calls functions as this selector's code expects.
pub fn available() -> bool {
    cfg!(all(target_arch = "x86_64", unix))
}

/// Whether this selector makes code for `target` on this machine: code of another architecture is only looked at, so how
/// this machine calls functions does not matter to it.
pub fn available_for(target: &TargetDesc) -> bool {
    available() || target.arch.to_string() != std::env::consts::ARCH
}

/// Compiles a verified or unverified kernel for `target`, which need not be this machine.
///
/// # Errors
/// The kernel is malformed, its code or frame too large, the target has no level of this selector, or its registers do
/// not suffice.
pub fn compile(kernel: &Kernel, target: &TargetDesc) -> Result<MachineCode, CodegenError> {
    verify(kernel)?;
    let level = Level::of(target).ok_or_else(|| CodegenError::Narrow { target: target.to_string() })?;
    if level != Level::Amx && kernel.uses_tiles() {
        return Err(CodegenError::Tiles { kernel: kernel.name.clone(), target: target.to_string() });
    }
    let wide = level.wide();
    let selected = select::select(kernel, level, target.has(Feature::Avx512vbmi));
    let (code, assignment) = allocate(&selected, wide, false)
        .or_else(|_| allocate(&selected, wide, true))
        .map_err(|regalloc::Pressure { needed, available, .. }| CodegenError::Registers {
            kernel: kernel.name.clone(),
            needed,
            available,
        })?;
    let frame = emit::frame(&code).1 as usize;
    if frame > FRAME_LIMIT {
        let kernel = kernel.name.clone();
        return Err(CodegenError::Frame { kernel, bytes: frame, limit: FRAME_LIMIT });
    }
    let bytes = emit::emit(&code, &assignment, wide)
        .map_err(|reason| CodegenError::Backend { kernel: kernel.name.clone(), reason })?;
    if bytes.len() > CODE_LIMIT {
        let (kernel, bytes) = (kernel.name.clone(), bytes.len());
        return Err(CodegenError::TooLarge { kernel, bytes, limit: CODE_LIMIT });
    }
    Ok(MachineCode { target: target.clone(), bytes, align: emit::ALIGN })
}

/// Gives constants and values their registers; constants leave them, the least used first, as long as that may help.
fn allocate(selected: &Code, wide: bool, split: bool) -> Result<(Code, Assignment), Pressure> {
    let mut demoted = BTreeSet::new();
    loop {
        let mut code = selected.clone();
        let demand = constants::place(&mut code, wide, &demoted);
        let pressure = match regalloc::allocate(&mut code, wide, split) {
            Ok(assignment) => return Ok((code, assignment)),
            Err(pressure) => pressure,
        };
        let candidates = demand
            .iter()
            .filter(|((number, _), (_, foldable))| *foldable && pressure.in_loops.contains(number));
        match candidates.min_by_key(|(_, (reads, _))| *reads) {
            Some((&hoist, _)) => demoted.insert(hoist),
            None => return Err(pressure),
        };
    }
}
