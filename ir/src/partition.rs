//! How the work of an op divides among threads: the one place that counts an op's units. A unit is the least piece that
//! one thread does alone; a thread gets one contiguous range of units. The number of threads never changes what a unit
//! computes, so it never changes a bit.

use crate::ops::Op;
use crate::types::Type;
use crate::weights::TILE_ROWS;

/// The units of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// Units, or units of each token.
    pub count: u32,
    /// Whether there are `count` units for each token; unit u then belongs to token u / count.
    pub per_token: bool,
}

impl Units {
    /// Units of a call with `tokens` tokens.
    pub fn total(self, tokens: u32) -> u64 {
        u64::from(self.count) * if self.per_token { u64::from(tokens) } else { 1 }
    }
    /// The contiguous share of thread `thread` of `threads` in `total` units; the shares cover all units in order and
    /// differ by at most one.
    pub fn share(total: u64, thread: u32, threads: u32) -> std::ops::Range<u64> {
        let (t, n) = (u64::from(thread), u64::from(threads.max(1)));
        (total * t / n)..(total * (t + 1) / n)
    }
}

/// The units of `op` on operands and results of these types; `None` for an op that does no work (a view).
pub fn units(op: &Op, operands: &[&Type], results: &[&Type]) -> Option<Units> {
    let tile_rows = |ty: &Type| ty.as_matrix().map_or(1, |(rows, _)| rows.div_ceil(TILE_ROWS));
    match op {
        Op::Split { .. } => None,
        Op::TernaryMatmul { .. } | Op::Matmul { .. } => {
            Some(Units { count: tile_rows(operands[1]), per_token: false })
        }
        // A unit of the gated form is a pair of tiles.
        Op::Bitlinear { epilogue } => {
            let tiles = tile_rows(operands[1]);
            let paired = epilogue.is_gated();
            Some(Units { count: if paired { tiles / 2 } else { tiles }, per_token: false })
        }
        Op::Attention { kv_heads, .. } => Some(Units { count: *kv_heads, per_token: true }),
        Op::Embed { .. }
        | Op::RmsNorm { .. }
        | Op::RmsNormHeads { .. }
        | Op::Silu { .. }
        | Op::QuantAbsmax { .. }
        | Op::Rope { .. }
        | Op::KvAppend { .. }
        | Op::Add { .. }
        | Op::Mul { .. }
        | Op::Relu2 { .. }
        | Op::RmsNormQuant { .. }
        | Op::RopeKvAppend { .. } => {
            debug_assert!(!results.is_empty());
            Some(Units { count: 1, per_token: true })
        }
    }
}
