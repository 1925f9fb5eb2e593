//! How the work of an op divides among threads: the one place that counts an op's units. A unit is the least piece that
//! one thread does alone; a thread gets one contiguous range of units. The number of threads never changes what a unit
//! computes, so it never changes a bit.
//!
//! Most ops have units of equal work, and shares of equal number. The work of attention grows with the position, so its
//! units are counted per call and its shares are equal in keys that are looked at.

use std::ops::Range;

use crate::KEY_BLOCK;
use crate::ops::Op;
use crate::types::Type;
use crate::weights::TILE_ROWS;

/// Elements in a unit of `merge_screened`.
pub const MERGE_UNIT: u32 = 4096;

/// Query tokens of one unit of attention over a chunk: they share the loads of keys and values.
pub const QUERY_TILE: u32 = 16;

/// What there are units of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// The call.
    Call,
    /// Each token; unit u belongs to token u / count.
    Token,
    /// Each block of [`KEY_BLOCK`] keys that the one token of the call sees; with b blocks, unit u is block u % b of
    /// item u / b.
    KeyBlock,
    /// Each [`QUERY_TILE`] tokens of the chunk; with t tiles, unit u is tile u % t of item u / t.
    QueryTile,
}

/// The units of an op: `count` items for each of what `per` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// Items.
    pub count: u32,
    /// Of what.
    pub per: Per,
}

/// The numbers of a call that decide how much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position of the first token.
    pub position: u32,
    /// Tokens.
    pub tokens: u32,
}

impl Extent {
    /// Keys that the last token sees.
    fn keys(self) -> u64 {
        u64::from(self.position) + u64::from(self.tokens)
    }

    /// Keys that the first `tokens` tokens see, added up.
    fn keys_of(self, tokens: u64) -> u128 {
        let n = u128::from(tokens.min(u64::from(self.tokens)));
        n * u128::from(self.position) + n * (n + 1) / 2
    }
}

impl Units {
    /// Units of one item in a call.
    fn each(self, call: Extent) -> u64 {
        match self.per {
            Per::Call => 1,
            Per::Token => u64::from(call.tokens),
            Per::KeyBlock => call.keys().div_ceil(u64::from(KEY_BLOCK)),
            Per::QueryTile => u64::from(call.tokens).div_ceil(u64::from(QUERY_TILE)),
        }
    }

    /// Units of a call.
    pub fn total(self, call: Extent) -> u64 {
        u64::from(self.count) * self.each(call)
    }

    /// The contiguous share of thread `thread` of `threads`. The shares cover all units in order. Where units are of
    /// equal work they differ by at most one; in attention the work of a share is a thread's part of all, to half a unit
    /// at either end.
    pub fn share(self, call: Extent, thread: u32, threads: u32) -> Range<u64> {
        let threads = threads.max(1);
        self.border(call, thread, threads)..self.border(call, thread + 1, threads)
    }

    /// First unit behind the shares of the first `thread` threads.
    fn border(self, call: Extent, thread: u32, threads: u32) -> u64 {
        let each = self.each(call);
        let part = |all: u128| all * u128::from(thread) / u128::from(threads);
        let within: &dyn Fn(u128) -> u64 = match self.per {
            Per::Call | Per::Token => return part(u128::from(self.total(call))) as u64,
            Per::KeyBlock => {
                &|keys| ((keys as u64 + u64::from(KEY_BLOCK) / 2) / u64::from(KEY_BLOCK)).min(each)
            }
            Per::QueryTile => &|keys| {
                let before = |tile: u64| call.keys_of(tile.saturating_mul(u64::from(QUERY_TILE)));
                let (mut low, mut high) = (0, each);
                while low < high {
                    let middle = (low + high) / 2;
                    // The middle of a tile decides on which side of the border it is.
                    match before(middle) + before(middle + 1) < 2 * keys {
                        true => low = middle + 1,
                        false => high = middle,
                    }
                }
                low
            },
        };
        let item = match self.per {
            Per::KeyBlock => u128::from(call.keys()),
            _ => call.keys_of(u64::from(call.tokens)),
        };
        if item == 0 {
            return 0;
        }
        let target = part(u128::from(self.count) * item);
        (target / item) as u64 * each + within(target % item)
    }
}

/// The units of `op` on operands and results of these types; `None` for an op that does no work (a view).
pub fn units(op: &Op, operands: &[&Type], results: &[&Type]) -> Option<Units> {
    let tile_rows = |ty: &Type| ty.as_matrix().map_or(1, |(rows, _)| rows.div_ceil(TILE_ROWS));
    let parts = |ty: &Type, size: u32| ty.as_rows().map_or(1, |rows| rows.width.div_ceil(size));
    match op {
        Op::Split { .. } => None,
        Op::TernaryMatmul { .. } | Op::Matmul { .. } | Op::BlockMatmul { .. } => {
            Some(Units { count: tile_rows(operands[1]), per: Per::Call })
        }
        // A unit of the gated form is a pair of tiles.
        Op::Bitlinear { epilogue } => {
            let tiles = tile_rows(operands[1]);
            let paired = epilogue.is_gated();
            Some(Units { count: if paired { tiles / 2 } else { tiles }, per: Per::Call })
        }
        Op::Attention { kv_heads, .. } => {
            let chunk = operands[0].as_rows().is_some_and(|rows| rows.per_token);
            Some(Units { count: *kv_heads, per: if chunk { Per::QueryTile } else { Per::KeyBlock } })
        }
        // 16 of the chosen rows, and 4096 elements.
        Op::MatmulRows { .. } => Some(Units { count: parts(results[0], TILE_ROWS), per: Per::Token }),
        Op::MergeScreened { .. } => Some(Units { count: parts(results[0], MERGE_UNIT), per: Per::Token }),
        Op::QuantBlocks { .. }
        | Op::Screen { .. }
        | Op::Embed { .. }
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
            Some(Units { count: 1, per: Per::Token })
        }
    }
}

/// Whether every thread may run all of the op for itself, each with its own copies of the results: ops over a row, whose
/// work is small beside meeting the other threads, and which write nothing that outlives the call.
pub fn can_replicate(op: &Op) -> bool {
    match op {
        Op::Embed { .. }
        | Op::RmsNorm { .. }
        | Op::QuantAbsmax { .. }
        | Op::QuantBlocks { .. }
        | Op::RmsNormQuant { .. }
        | Op::Rope { .. }
        | Op::Add { .. }
        | Op::Mul { .. }
        | Op::RmsNormHeads { .. }
        | Op::Silu { .. }
        | Op::Relu2 { .. } => true,
        Op::Split { .. }
        | Op::TernaryMatmul { .. }
        | Op::Matmul { .. }
        | Op::BlockMatmul { .. }
        | Op::Screen { .. }
        | Op::MatmulRows { .. }
        | Op::MergeScreened { .. }
        | Op::Bitlinear { .. }
        | Op::Attention { .. }
        | Op::KvAppend { .. }
        | Op::RopeKvAppend { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREADS: [u32; 7] = [1, 2, 3, 5, 7, 16, 64];

    /// Shares in order, after checking that they cover everything.
    fn shares(units: Units, call: Extent, threads: u32) -> Vec<Range<u64>> {
        let shares: Vec<_> = (0..threads).map(|t| units.share(call, t, threads)).collect();
        let mut end = 0;
        for share in &shares {
            assert!(share.start == end && share.end >= end, "{units:?} {call:?}: {shares:?}");
            end = share.end;
        }
        assert_eq!(end, units.total(call), "{units:?} {call:?}");
        shares
    }

    #[test]
    fn equal_units_are_shared_to_within_one() {
        for count in [1, 2, 3, 160, 240, 432, 8016] {
            for threads in THREADS {
                for (per, tokens) in [(Per::Call, 512), (Per::Token, 1), (Per::Token, 37)] {
                    let call = Extent { position: 9, tokens };
                    let lengths = shares(Units { count, per }, call, threads);
                    let lengths = lengths.iter().map(|s| s.end - s.start);
                    let (least, most) = (lengths.clone().min(), lengths.max());
                    assert!(most.unwrap() - least.unwrap() <= 1);
                }
            }
        }
    }

    #[test]
    fn decode_attention_is_shared_by_keys() {
        for position in [0, 1, 62, 63, 64, 65, 127, 128, 300, 2047, 2048, 131_071] {
            for (kv_heads, threads) in [(1, 2), (5, 2), (5, 3), (8, 16), (32, 5)] {
                let call = Extent { position, tokens: 1 };
                let units = Units { count: kv_heads, per: Per::KeyBlock };
                let keys = u64::from(position) + 1;
                let blocks = keys.div_ceil(64);
                let work = |u: u64| u / blocks * keys + (u % blocks * 64).min(keys);
                for share in shares(units, call, threads) {
                    let got = work(share.end) - work(share.start);
                    let fair = u64::from(kv_heads) * keys / u64::from(threads);
                    assert!(
                        got.abs_diff(fair) <= 65,
                        "{got} keys of {fair}: {position} {kv_heads} {threads}"
                    );
                }
            }
        }
    }

    #[test]
    fn chunks_are_shared_by_the_area_of_the_triangle() {
        for (position, tokens) in [(0, 1), (0, 16), (0, 17), (0, 512), (512, 512), (3000, 33), (7, 4096)] {
            for (kv_heads, threads) in [(1, 2), (5, 2), (5, 3), (8, 16), (32, 5)] {
                let call = Extent { position, tokens };
                let units = Units { count: kv_heads, per: Per::QueryTile };
                let tiles = u64::from(tokens).div_ceil(16);
                let head = call.keys_of(u64::from(tokens));
                let work = |u: u64| u128::from(u / tiles) * head + call.keys_of(u % tiles * 16);
                let unit = u128::from(16 * (position + tokens));
                for share in shares(units, call, threads) {
                    let got = work(share.end) - work(share.start);
                    let fair = u128::from(kv_heads) * head / u128::from(threads);
                    assert!(got.abs_diff(fair) <= unit + 1, "{got} of {fair}: {call:?} {kv_heads} {threads}");
                }
            }
        }
    }

    #[test]
    fn no_tokens_are_no_work() {
        for per in [Per::Token, Per::QueryTile] {
            shares(Units { count: 3, per }, Extent { position: 0, tokens: 0 }, 2);
        }
    }
}
