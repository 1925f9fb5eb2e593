//! Prefetches for kernels that read weights once, from memory.
//!
//! Every line is asked for twice: for the second-level cache when the block of row tiles before it is read, and for the first
//! when the lines [`NEAR`] bytes before it are. What depends on a load keeps registers of the core until the load is done, so
//! the first-level cache must have the line by then; and a line that is asked for from so far away that the first-level cache
//! loses it again has come for nothing.
//!
//! On machines that read one sequence fastest (`Registers::one_stream`) the hardware does all of this by itself, and
//! instructions for it are in its way; generators ask for nothing there.
//!
//! Invariants: a prefetch changes no result and never faults, wherever it points.

use crate::kir::{I64, KernelBuilder, OFFSET_LIMIT};

/// Bytes from a line to the one of the same sequence that is brought into the first-level cache meanwhile.
const NEAR: i32 = 1024;

/// What is to be read after the line at `place + offset`: the line `far` bytes on, and the one [`NEAR`] bytes on. Nothing
/// without `far`.
pub(super) fn stream(b: &mut KernelBuilder, place: I64, offset: i32, far: Option<i64>) {
    let Some(far) = far else { return };
    ahead(b, place, offset, far, 2);
    b.prefetch(place, offset + NEAR, 1);
}

/// The line `far` bytes after `place + offset`, into the cache of level `level`, if an address can say that.
pub(super) fn ahead(b: &mut KernelBuilder, place: I64, offset: i32, far: i64, level: u8) {
    let at = far.saturating_add(offset.into());
    if let Ok(at) = i32::try_from(at)
        && (-OFFSET_LIMIT..=OFFSET_LIMIT).contains(&at)
    {
        b.prefetch(place, at, level);
    }
}
