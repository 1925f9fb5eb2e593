//! How the work of an op divides among threads: the one place that counts units. Which kind of units an op has is a column of
//! the op table ([`Division`]). A unit is the least piece that one thread does alone; a thread gets one contiguous range of
//! units. The number of threads never changes what a unit computes, so it never changes a bit.
//!
//! Most ops have units of equal work, and shares of equal number. The work of attention grows with the position, so its
//! units are counted per call and its shares are equal in keys that are looked at.

use std::ops::Range;

use crate::KEY_BLOCK;
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

impl Per {
    /// Whether units have only a part of what an element of the result is made of, so that the threads meet inside the op
    /// and put the parts together in a second step.
    pub fn in_two_steps(self) -> bool {
        match self {
            Per::KeyBlock => true,
            Per::Call | Per::Token | Per::QueryTile => false,
        }
    }
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
        let (work, threads) = (self.work(call), threads.max(1));
        let border = |thread: u32| self.border(call, part(work, thread, threads));
        border(thread)..border(thread + 1)
    }

    /// The work of a call: its units, or in attention the keys that are looked at.
    fn work(self, call: Extent) -> u128 {
        match self.per {
            Per::Call | Per::Token => u128::from(self.total(call)),
            Per::KeyBlock => u128::from(self.count) * u128::from(call.keys()),
            Per::QueryTile => u128::from(self.count) * call.keys_of(u64::from(call.tokens)),
        }
    }

    /// The unit whose start is nearest to where so much of the work is done; all units for all of the work.
    fn border(self, call: Extent, work: u128) -> u64 {
        let each = self.each(call);
        let item = match self.per {
            Per::Call | Per::Token => return work as u64,
            Per::KeyBlock => u128::from(call.keys()),
            Per::QueryTile => call.keys_of(u64::from(call.tokens)),
        };
        if item == 0 {
            return 0;
        }
        let keys = work % item;
        let within = match self.per {
            Per::QueryTile => {
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
            }
            _ => ((keys as u64 + u64::from(KEY_BLOCK) / 2) / u64::from(KEY_BLOCK)).min(each),
        };
        (work / item) as u64 * each + within
    }

    /// Units of several calls together.
    pub fn total_of_calls(self, calls: impl Iterator<Item = Extent>) -> u64 {
        calls.map(|call| self.total(call)).sum()
    }

    /// The share of a thread where one step does several calls one after the other, as a range of the units of all of them in
    /// order: [`Units::in_calls`] says which units of which call these are. The shares of all threads cover all units in order,
    /// and the work of a share is a thread's part of the work of all calls together.
    pub fn share_of_calls(
        self,
        calls: impl Iterator<Item = Extent> + Clone,
        thread: u32,
        threads: u32,
    ) -> Range<u64> {
        let all = calls.clone().map(|call| self.work(call)).sum();
        let threads = threads.max(1);
        let border = |thread: u32| {
            let (at, mut before, mut units) = (part(all, thread, threads), 0, 0);
            for call in calls.clone() {
                let work = self.work(call);
                if at < before + work {
                    return units + self.border(call, at - before);
                }
                before += work;
                units += self.total(call);
            }
            units
        };
        border(thread)..border(thread + 1)
    }

    /// Gives `visit` the number of each call of which a unit is among the units `range` of all calls in order, and these units of
    /// the call.
    pub fn in_calls(
        self,
        calls: impl Iterator<Item = Extent>,
        range: Range<u64>,
        mut visit: impl FnMut(usize, Range<u64>),
    ) {
        let mut before = 0;
        for (number, call) in calls.enumerate() {
            if before >= range.end {
                return;
            }
            let end = before + self.total(call);
            let part = range.start.max(before)..range.end.min(end);
            if !part.is_empty() {
                visit(number, part.start - before..part.end - before);
            }
            before = end;
        }
    }
}

/// The first `thread` of `threads` equal parts.
fn part(all: u128, thread: u32, threads: u32) -> u128 {
    all * u128::from(thread) / u128::from(threads)
}

/// Into what the work of an op divides: the kinds that the op table chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// A unit is a token: an op over rows.
    Tokens,
    /// A unit is [`TILE_ROWS`] elements of the result, for all tokens: a product with a matrix, whose rows (with a gated
    /// epilogue, pairs of them) give these elements. Each unit reads a part of the matrix that no other one does.
    RowTiles,
    /// A unit is a token and [`TILE_ROWS`] elements of the result: a product with rows that the token chose.
    ChosenRows,
    /// A unit is a token and [`MERGE_UNIT`] elements of the result.
    Elements,
    /// A unit is a key/value head and, with one token, a block of keys, else a tile of tokens.
    KeyHeads,
}

impl Division {
    /// The units of an op on operands and results of these types.
    pub(crate) fn units(self, operands: &[&Type], results: &[&Type]) -> Units {
        let rows = results.first().and_then(|ty| ty.as_rows());
        let parts = |size: u32| rows.map_or(1, |rows| rows.width.div_ceil(size));
        match self {
            Division::Tokens => Units { count: 1, per: Per::Token },
            Division::RowTiles => Units { count: parts(TILE_ROWS), per: Per::Call },
            Division::ChosenRows => Units { count: parts(TILE_ROWS), per: Per::Token },
            Division::Elements => Units { count: parts(MERGE_UNIT), per: Per::Token },
            Division::KeyHeads => {
                let heads = operands.iter().find_map(|ty| ty.as_cache()).map_or(1, |cache| cache.kv_heads);
                let per =
                    if rows.is_some_and(|rows| rows.per_token) { Per::QueryTile } else { Per::KeyBlock };
                Units { count: heads, per }
            }
        }
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
    fn several_calls_are_shared_as_a_whole() {
        let sets: [&[(u32, u32)]; 5] = [
            &[(7, 1)],
            &[(0, 1), (1000, 1), (3, 1)],
            &[(0, 40), (512, 1), (9, 17), (9, 1)],
            &[(5, 1); 16],
            &[(4000, 1), (0, 1), (0, 1), (0, 1), (0, 1)],
        ];
        for set in sets {
            let calls = set.iter().map(|&(position, tokens)| Extent { position, tokens });
            for (count, per) in [(1, Per::Token), (5, Per::QueryTile), (1, Per::QueryTile)] {
                let units = Units { count, per };
                for threads in THREADS {
                    let mut ends = vec![0; set.len()];
                    let mut fair = u128::MAX;
                    for thread in 0..threads {
                        let mut work = 0;
                        let share = units.share_of_calls(calls.clone(), thread, threads);
                        units.in_calls(calls.clone(), share, |call, share| {
                            assert_eq!(share.start, ends[call], "{set:?} {units:?} {threads}");
                            ends[call] = share.end;
                            work += u128::from(share.end - share.start);
                        });
                        fair = fair.min(work);
                    }
                    for (call, end) in calls.clone().zip(ends) {
                        assert_eq!(end, units.total(call), "{set:?} {units:?} {threads}");
                    }
                    // No thread idles where there are enough equal units.
                    let all = units.total_of_calls(calls.clone());
                    assert!(per != Per::Token || fair == u128::from(all / u64::from(threads)));
                }
            }
        }
    }

    #[test]
    fn one_of_several_calls_is_shared_as_if_it_were_alone() {
        for (position, tokens) in [(0, 1), (300, 70), (64, 16)] {
            let call = Extent { position, tokens };
            for (count, per) in [(1, Per::Token), (5, Per::QueryTile)] {
                for thread in 0..3 {
                    let units = Units { count, per };
                    let seen = units.share_of_calls(std::iter::once(call), thread, 3);
                    assert_eq!(seen, units.share(call, thread, 3));
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
