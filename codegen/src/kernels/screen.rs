//! The three steps of a screened head after the approximate logits: which rows (`screen`), their exact logits
//! (`matmul_rows`), and both together (`merge_screened`).
//!
//! Numbers are compared by their *keys*: the bits as a signed integer, with all but the sign flipped for negative ones, so
//! that −∞ < … < −0 < +0 < … < ∞; every NaN has the greatest key.
//!
//! `screen` needs the n-th greatest key exactly and reads all elements once only. The maxima of chunks of 64 elements come
//! first. The n-th greatest of these maxima bounds the n-th greatest element from below, as n chunks have an element
//! that is as great; so all elements that may be chosen are those at least as great, in chunks whose maximum is. These
//! candidates, few more than n unless many elements are equal, are gathered in rising order, and their n-th greatest is the
//! threshold: everything above it is chosen, and of what equals it the first. Both searches build the threshold bit by
//! bit, with one count of a list for each of the 32 bits.

use bitnetc_ir::partition::MERGE_UNIT;
use bitnetc_ir::storage;
use bitnetc_ir::weights::TILE_ROWS;

use super::kernel;
use super::lanes::{for_groups, for_tiles, halvings};
use super::matmul::{Blocking, dot};
use crate::kir::{FloatCond, I64, IntCond, KernelBuilder, LANES, Scalar, Vf, Vi};

/// Elements of a chunk.
const CHUNK: u32 = 64;

/// Where the parts of the scratch are, and how long it is.
struct ScratchLayout {
    /// Keys of one chunk.
    chunk: i64,
    /// Maxima of the chunks, filled up to whole vectors.
    maxima: i64,
    /// Keys of candidates, with room for a vector after them.
    keys: i64,
    /// Numbers of candidates.
    numbers: i64,
    bytes: u64,
}

impl ScratchLayout {
    fn new(width: u32) -> Self {
        let words = |n: u32| storage::align(4 * (u64::from(n) + LANES as u64)) as i64;
        let maxima = 4 * i64::from(CHUNK);
        let keys = maxima + words(width.div_ceil(CHUNK));
        let numbers = keys + words(width);
        Self { chunk: 0, maxima, keys, numbers, bytes: (numbers + words(width)) as u64 }
    }
}

/// Scratch of `screen`.
pub(super) fn scratch_bytes(width: u32) -> u64 {
    ScratchLayout::new(width).bytes
}

/// The key of every lane.
fn keys_of(b: &mut KernelBuilder, v: Vf) -> Vi {
    let bits = b.as_vi(v);
    let key = flip(b, bits);
    let nan = b.fcmp(v, v, FloatCond::Uno);
    let greatest = b.splat_i32(i32::MAX);
    b.iselect(nan, greatest, key)
}

/// Flips all but the sign of negative lanes: bits to keys of numbers, and back.
fn flip(b: &mut KernelBuilder, bits: Vi) -> Vi {
    let sign = b.sshr(bits, 31);
    let mask = b.ushr(sign, 1);
    b.bxor(bits, mask)
}

/// `lanes` keys of the f32 at `at + offset`; lanes beyond them are `rest`.
fn load_keys(b: &mut KernelBuilder, at: I64, offset: i32, lanes: u32, rest: i32) -> Vi {
    if lanes == 0 {
        return b.splat_i32(rest);
    }
    let v = b.load_f32(at, offset, lanes as u8);
    let keys = keys_of(b, v);
    if lanes == LANES as u32 {
        return keys;
    }
    let (lane, count) = (b.iota(), b.splat_i32(lanes as i32));
    let inside = b.icmp(lane, count, IntCond::Lt);
    let rest = b.splat_i32(rest);
    b.iselect(inside, keys, rest)
}

/// The four vectors of keys of a chunk of `n` elements.
fn chunk_keys(b: &mut KernelBuilder, at: I64, n: u32) -> [Vi; 4] {
    std::array::from_fn(|i| {
        let first = i as u32 * LANES as u32;
        load_keys(b, at, 4 * first as i32, n.saturating_sub(first).min(LANES as u32), i32::MIN)
    })
}

/// How many of the `vectors` words at `list` stand to `bound` as `cond` says.
fn count(b: &mut KernelBuilder, list: I64, end: I64, cond: IntCond, bound: I64) -> I64 {
    let bound = b.splat_i64(bound);
    let zero = b.splat_i32(0);
    let counts = b.for_loop(0, end, 4 * LANES as i64, zero, |b, at, counts| {
        let at = b.add(list, at);
        let keys = b.load_i32(at, 0, LANES as u8);
        let holds = b.icmp(keys, bound, cond);
        b.isub(counts, holds)
    });
    let total = b.reduce_add_i32(counts);
    b.extract_i32(total, 0)
}

/// The `n`-th greatest of the words in the first `end` bytes at `list`, which are at least `n` whole vectors together.
fn nth_greatest(b: &mut KernelBuilder, list: I64, end: I64, n: u32) -> I64 {
    let start = (b.int(i64::from(i32::MIN)), b.int(1 << 31));
    let (bound, _) = b.for_loop(0, 32, 1, start, |b, _, (bound, step)| {
        let higher = b.add(bound, step);
        let enough = count(b, list, end, IntCond::Ge, higher);
        let bound = b.if_else(enough, IntCond::Ge, i64::from(n), |_| higher, |_| bound);
        (bound, b.shr(step, 1))
    });
    bound
}

/// A unit is a token.
pub(super) fn screen(b: &mut KernelBuilder, kernel: &kernel::Screen) {
    let &kernel::Screen { call, width, n, y, chosen, scratch } = kernel;
    let layout = ScratchLayout::new(width);
    let chunk = b.add(scratch, layout.chunk);
    let maxima = b.add(scratch, layout.maxima);
    let (keys, numbers) = (b.add(scratch, layout.keys), b.add(scratch, layout.numbers));
    call.for_units(b, |b, token| {
        let y = y.of(b, token);
        let chosen = chosen.of(b, token);
        let chunks = width.div_ceil(CHUNK);
        // Behind the last maximum stands what is below every key, up to a whole vector.
        let lowest = b.splat_i32(i32::MIN);
        b.store_i32(maxima, lowest, 4 * chunks as i32, LANES as u8);
        let sign = b.splat_i32(i32::MIN);
        for_chunks(b, width, |b, index, n| {
            let at = b.mul(index, 4 * i64::from(CHUNK));
            let y = b.add(y, at);
            let [a, c, d, e] = chunk_keys(b, y, n);
            let (a, d) = (b.smax(a, c), b.smax(d, e));
            let greatest = b.smax(a, d);
            let greatest = b.bxor(greatest, sign);
            let greatest = b.reduce_umax_i32(greatest);
            let greatest = b.bxor(greatest, sign);
            let at = b.shl(index, 2);
            let at = b.add(maxima, at);
            b.store_i32(at, greatest, 0, 1);
        });
        let bound = if n <= chunks {
            let end = b.int(4 * i64::from(chunks.next_multiple_of(LANES as u32)));
            nth_greatest(b, maxima, end, n)
        } else {
            b.int(i64::from(i32::MIN))
        };

        // The candidates. A key that is none is stored too, and overwritten by the next.
        let zero = b.int(0);
        let gather = |b: &mut KernelBuilder, index: I64, n: u32, found: I64| {
            let at = b.shl(index, 2);
            let at = b.add(maxima, at);
            let greatest = b.load_int(at, 0);
            b.if_else(
                greatest,
                IntCond::Ge,
                bound,
                |b| {
                    let first = b.mul(index, i64::from(CHUNK));
                    let at = b.shl(first, 2);
                    let y = b.add(y, at);
                    for (i, part) in (0..).zip(chunk_keys(b, y, n)) {
                        b.store_i32(chunk, part, i * 4 * LANES as i32, LANES as u8);
                    }
                    b.for_loop(0, i64::from(n), 1, found, |b, i, found| {
                        let at = b.shl(i, 2);
                        let at = b.add(chunk, at);
                        let key = b.load_int(at, 0);
                        let place = b.shl(found, 2);
                        let to = b.add(keys, place);
                        b.store_scalar(to, key, 0, Scalar::I32);
                        let to = b.add(numbers, place);
                        let number = b.add(first, i);
                        b.store_scalar(to, number, 0, Scalar::I32);
                        // −1 where the key is below the bound, else 0.
                        let below = b.sub(key, bound);
                        let below = b.shr(below, 63);
                        let next = b.add(found, 1);
                        b.add(next, below)
                    })
                },
                |_| found,
            )
        };
        let whole = width / CHUNK;
        let mut found = zero;
        if whole > 0 {
            found = b.for_loop(0, i64::from(whole), 1, found, |b, i, found| gather(b, i, CHUNK, found));
        }
        if width > whole * CHUNK {
            let last = b.int(i64::from(whole));
            found = gather(b, last, width - whole * CHUNK, found);
        }
        let end = b.shl(found, 2);
        let behind = b.add(keys, end);
        b.store_i32(behind, lowest, 0, LANES as u8);
        let end = b.add(end, 4 * LANES as i64 - 1);
        let end = b.and(end, -4 * LANES as i64);
        let threshold = nth_greatest(b, keys, end, n);
        let above = count(b, keys, end, IntCond::Gt, threshold);
        let n = b.int(i64::from(n));
        let equal = b.sub(n, above);
        b.for_loop(0, found, 1, (chosen, equal), |b, i, (to, equal)| {
            let place = b.shl(i, 2);
            let at = b.add(keys, place);
            let key = b.load_int(at, 0);
            let at = b.add(numbers, place);
            let number = b.load_int(at, 0);
            let take = |b: &mut KernelBuilder, equal: I64| {
                b.store_scalar(to, number, 0, Scalar::I32);
                (b.add(to, 4), equal)
            };
            b.if_else(
                key,
                IntCond::Gt,
                threshold,
                |b| take(b, equal),
                |b| {
                    b.if_else(
                        key,
                        IntCond::Eq,
                        threshold,
                        |b| {
                            b.if_else(
                                equal,
                                IntCond::Gt,
                                0,
                                |b| {
                                    let left = b.sub(equal, 1);
                                    take(b, left)
                                },
                                |_| (to, equal),
                            )
                        },
                        |_| (to, equal),
                    )
                },
            )
        });
    });
}

/// Runs `body(number, elements)` for each chunk of a row.
fn for_chunks(b: &mut KernelBuilder, width: u32, body: impl Fn(&mut KernelBuilder, I64, u32)) {
    let whole = width / CHUNK;
    if whole > 0 {
        b.for_loop(0, i64::from(whole), 1, (), |b, index, ()| body(b, index, CHUNK));
    }
    if width > whole * CHUNK {
        let last = b.int(i64::from(whole));
        body(b, last, width - whole * CHUNK);
    }
}

/// A unit is a token and 16 of its chosen rows. A row's sum is that of `matmul`.
pub(super) fn matmul_rows(b: &mut KernelBuilder, kernel: &kernel::MatmulRows) {
    let &kernel::MatmulRows { call, rows, cols, dtype, n, x, chosen, w, y } = kernel;
    let Blocking { rows: row_tile, unroll, .. } = Blocking::new(call.registers.vectors(), true);
    let row_bytes = i64::from(cols) * i64::from(dtype.element_bytes().unwrap_or(4));
    let parts = i64::from(n.div_ceil(TILE_ROWS));
    call.for_units(b, |b, unit| {
        let (token, part) = (b.udiv(unit, parts), b.urem(unit, parts));
        let x = x.of(b, token);
        let chosen = chosen.of(b, token);
        let y = y.of(b, token);
        let first = b.mul(part, i64::from(TILE_ROWS));
        let end = b.add(first, i64::from(TILE_ROWS));
        let end = b.min(end, i64::from(n));
        for_tiles(b, first, end, &halvings(row_tile), |b, first, count| {
            let at = b.shl(first, 2);
            let (chosen, y) = (b.add(chosen, at), b.add(y, at));
            let w: Vec<I64> = (0..count as i32)
                .map(|i| {
                    // Within the matrix whatever the numbers are.
                    let number = b.load_int(chosen, 4 * i);
                    let number = b.max(number, 0);
                    let number = b.min(number, i64::from(rows) - 1);
                    let offset = b.mul(number, row_bytes);
                    b.add(w, offset)
                })
                .collect();
            let sums = dot(b, &w, &[x], cols, dtype, unroll);
            for (i, &sum) in (0..).zip(sums.iter().flatten()) {
                let total = b.reduce_add_f32(sum);
                b.store_f32(y, total, 4 * i, 1);
            }
        });
    });
}

/// A unit is a token and a part of its row.
pub(super) fn merge_screened(b: &mut KernelBuilder, kernel: &kernel::MergeScreened) {
    let &kernel::MergeScreened { call, width, n, y, chosen, exact, z } = kernel;
    let parts = i64::from(width.div_ceil(MERGE_UNIT));
    call.for_units(b, |b, unit| {
        let (token, part) = (b.udiv(unit, parts), b.urem(unit, parts));
        let y = y.of(b, token);
        let chosen = chosen.of(b, token);
        let exact = exact.of(b, token);
        let z = z.of(b, token);

        // The least key is the greatest of the complements, compared without sign.
        let none = b.splat_i32(i32::MAX);
        let least = for_groups(b, n, none, |b, group, least| {
            let at = group.words(b, exact);
            let keys = load_keys(b, at, 0, group.lanes.into(), i32::MAX);
            b.smin(least, keys)
        });
        let complement = b.splat_i32(i32::MAX);
        let least = b.bxor(least, complement);
        let least = b.reduce_umax_i32(least);
        let least = b.bxor(least, complement);

        let first = b.mul(part, i64::from(MERGE_UNIT));
        let end = b.add(first, i64::from(MERGE_UNIT));
        let end = b.min(end, i64::from(width));
        let cap = |b: &mut KernelBuilder, at: I64, lanes: u8| {
            let at = b.shl(at, 2);
            let from = b.add(y, at);
            let v = b.load_f32(from, 0, lanes);
            let keys = keys_of(b, v);
            let keys = b.smin(keys, least);
            let bits = flip(b, keys);
            let v = b.as_vf(bits);
            let to = b.add(z, at);
            b.store_f32(to, v, 0, lanes);
        };
        let left = width % LANES as u32;
        let whole = b.and(end, -(LANES as i64));
        b.for_loop(first, whole, LANES as i64, (), |b, at, ()| cap(b, at, LANES as u8));
        if left > 0 {
            b.if_then(end, IntCond::Eq, i64::from(width), |b| {
                let at = b.int(i64::from(width - left));
                cap(b, at, left as u8);
            });
        }
        b.for_loop(0, i64::from(n), 1, (), |b, i, ()| {
            let at = b.shl(i, 2);
            let from = b.add(chosen, at);
            let number = b.load_int(from, 0);
            b.if_then(number, IntCond::Ge, first, |b| {
                b.if_then(number, IntCond::Lt, end, |b| {
                    let from = b.add(exact, at);
                    let bits = b.load_scalar(from, 0, Scalar::I32);
                    let to = b.shl(number, 2);
                    let to = b.add(z, to);
                    b.store_scalar(to, bits, 0, Scalar::I32);
                });
            });
        });
    });
}
