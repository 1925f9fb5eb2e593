//! The tables that RoPE kernels turn by (`bitnetc_codegen::kernels::Arg::RopeTable`), filled as far as positions are used:
//! a context of a million positions costs nothing until it is used.
//!
//! Invariant: before a kernel runs, the rows of all positions up to the last one of the call are filled.

use bitnetc_codegen::program::RopeSpec;
use bitnetc_ir::{Pairs, rope};

use super::memory::buffer;
use crate::error::SessionError;
use crate::map::AlignedBuffer;

/// A table for `capacity` positions.
#[derive(Debug)]
pub(crate) struct RopeTable {
    buffer: AlignedBuffer,
    frequencies: Vec<f64>,
    pairs: Pairs,
    filled: u32,
    capacity: u32,
}

impl RopeTable {
    /// An empty table.
    pub(crate) fn new(spec: &RopeSpec, capacity: u32) -> Result<Self, SessionError> {
        let bytes = u64::from(capacity).saturating_mul(u64::from(spec.rot) * 8);
        let buffer = buffer("RoPE table", bytes)?;
        let frequencies = rope::frequencies(spec.theta, spec.rot);
        Ok(Self { buffer, frequencies, pairs: spec.pairs, filled: 0, capacity })
    }

    /// Address of the first row.
    pub(crate) fn address(&self) -> u64 {
        self.buffer.address()
    }

    /// Bytes of the whole table.
    pub(crate) fn len(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Fills the rows below `end` that are not filled yet.
    pub(crate) fn fill_to(&mut self, end: u32) {
        let end = end.min(self.capacity);
        if end <= self.filled {
            return;
        }
        let half = self.frequencies.len();
        let rot = 2 * half;
        let (first, last) = (self.filled as usize, end as usize);
        let rows = &mut self.buffer.as_mut_slice()[first * rot * 8..last * rot * 8];
        for (row, position) in rows.chunks_exact_mut(rot * 8).zip(self.filled..end) {
            for (j, &frequency) in self.frequencies.iter().enumerate() {
                let (cos, sin) = rope::cos_sin_at(frequency, position);
                let (a, b) = match self.pairs {
                    Pairs::Halves => (j, j + half),
                    Pairs::Interleaved => (2 * j, 2 * j + 1),
                };
                for (element, value) in [(a, cos), (b, cos), (rot + a, -sin), (rot + b, sin)] {
                    row[element * 4..element * 4 + 4].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
        self.filled = end;
    }
}
