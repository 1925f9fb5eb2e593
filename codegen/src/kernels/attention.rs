//! Causal attention of one query token and the query heads that share one key/value head.
//!
//! Blocks of 64 keys, merged in rising order. Within a block: the scores of 16 keys at a time (a vector of 16 positions
//! for each element of the head), their maximum, the exponentials; then the sum of values weighted by them, 16 elements
//! of the head at a time. Query heads go through both products in tiles that share the loads of keys and values. Scores
//! and the running maximum and sum of each head are in the scratch, the running output is in the result row. Where more
//! than one tile would convert the same f16, the block is converted once, into the scratch.
//!
//! Masked keys get the score −∞, which the exponential turns into the +0.0 that fills up a vector; the values of masked
//! keys are never read. Lanes of keys beyond the last position may hold anything, so they are replaced, not added to.

use bitnetc_ir::{DType, KEY_BLOCK, storage};

use super::lanes::{for_groups, for_tiles_of, halvings, load_dense};
use super::{Arg, Args, CacheShape};
use crate::kir::{FloatCond, I64, IntCond, KernelBuilder, LANES, Vf};

/// Bytes of the scores of one head, in the scratch.
const SCORES: i32 = 4 * KEY_BLOCK as i32;

/// The state of one head, in the scratch: running maximum, running sum, and the two factors of a merge.
const STATE: i32 = 16;
const MAX: i32 = 0;
const SUM: i32 = 4;
const OLD_FACTOR: i32 = 8;
const NEW_FACTOR: i32 = 12;

const _: () = assert!(NEW_FACTOR == OLD_FACTOR + 4);

/// Where the states and the converted block are in the scratch, and how long it is.
struct ScratchLayout {
    states: u64,
    converted: u64,
    bytes: u64,
}

impl ScratchLayout {
    fn new(heads: u32, cache: CacheShape) -> Self {
        let group = u64::from(heads / cache.kv_heads.max(1));
        let states = group * SCORES as u64;
        let converted = states + storage::align(group * STATE as u64);
        let block = 4 * u64::from(KEY_BLOCK) * u64::from(cache.head_dim);
        Self { states, converted, bytes: converted + block }
    }
}

/// Scratch of the kernel.
pub(super) fn scratch_bytes(heads: u32, cache: CacheShape) -> u64 {
    ScratchLayout::new(heads, cache).bytes
}

/// How the two products are blocked.
struct Blocking {
    /// Query heads.
    heads: usize,
    /// Vectors of 16 keys in the product with the keys: 1, 2 or 4.
    keys: usize,
    /// Vectors of 16 elements in the product with the values.
    values: usize,
}

impl Blocking {
    fn new(vectors: usize) -> Self {
        match vectors {
            24.. => Self { heads: 4, keys: 4, values: 4 },
            8.. => Self { heads: 4, keys: 1, values: 1 },
            _ => Self { heads: 2, keys: 1, values: 1 },
        }
    }
}

/// A unit is a token and a key/value head.
pub(super) fn attention(b: &mut KernelBuilder, args: &Args, heads: u32, cache: CacheShape, scale: f32) {
    let CacheShape { kv_heads, head_dim, .. } = cache;
    let group = heads / kv_heads;
    let head_bytes = 4 * i64::from(head_dim);
    let layout = ScratchLayout::new(heads, cache);
    let scores = args.word(Arg::Scratch);
    let states = b.add(scores, layout.states as i64);
    let converted = b.add(scores, layout.converted as i64);
    args.for_units(b, |b, unit| {
        let token = b.udiv(unit, kv_heads.into());
        let kv_head = b.urem(unit, kv_heads.into());
        let position = args.position_of(b, token);
        let keys = b.add(position, 1);
        let offset = b.mul(kv_head, args.word(Arg::Capacity));
        let stored = Stored { dtype: cache.dtype, head_dim };
        let offset = b.mul(offset, stored.row_bytes());
        let (k, v) = (b.add(args.operand(1), offset), b.add(args.operand(2), offset));
        let offset = b.mul(kv_head, i64::from(group) * head_bytes);
        let q = args.row(b, args.operand(0), 0, token);
        let y = args.row(b, args.result(), 1, token);
        let (q, y) = (b.add(q, offset), b.add(y, offset));
        let blocking = Blocking::new(args.registers.vectors());
        Group { group, q, y, keys, k, v, stored, scale, scores, states, converted, blocking }.run(b);
    });
}

/// How a block of keys or values lies in memory.
#[derive(Clone, Copy)]
struct Stored {
    dtype: DType,
    head_dim: u32,
}

impl Stored {
    fn element_bytes(self) -> i32 {
        self.dtype.element_bytes().unwrap_or(4) as i32
    }
    /// Bytes of one key or value.
    fn row_bytes(self) -> i64 {
        i64::from(self.head_dim) * i64::from(self.element_bytes())
    }
    /// Bytes of one element of 16 keys, and of 16 elements of one value.
    fn vector_bytes(self) -> i32 {
        LANES as i32 * self.element_bytes()
    }
}

/// The query heads of one token that share a key/value head, over all keys.
struct Group {
    /// Number of query heads.
    group: u32,
    /// First query row and first result row.
    q: I64,
    y: I64,
    /// Number of keys that are not masked.
    keys: I64,
    /// Key 0 and value 0 of the head.
    k: I64,
    v: I64,
    stored: Stored,
    scale: f32,
    /// Parts of the scratch.
    scores: I64,
    states: I64,
    converted: I64,
    blocking: Blocking,
}

/// Some of the heads.
struct Tile {
    /// Query rows and result rows.
    q: Vec<I64>,
    y: Vec<I64>,
    /// Scores and state of the first head; those of the others follow.
    scores: I64,
    states: I64,
}

impl Group {
    fn run(&self, b: &mut KernelBuilder) {
        let convert = self.stored.dtype != DType::F32 && self.group as usize > self.blocking.heads;
        let tiles = halvings(self.blocking.heads);
        b.for_loop(0, self.keys, KEY_BLOCK.into(), (), |b, first, ()| {
            let left = b.sub(self.keys, first);
            let count = b.min(left, i64::from(KEY_BLOCK));
            let offset = b.mul(first, self.stored.row_bytes());
            let (k, v) = (b.add(self.k, offset), b.add(self.v, offset));
            let block = |b: &mut KernelBuilder, at: I64| match convert {
                true => self.convert(b, at, count),
                false => (at, self.stored),
            };
            let (k, stored) = block(b, k);
            for_tiles_of(b, self.group, &tiles, |b, head, size| {
                let tile = self.tile(b, head, size);
                self.score(b, &tile, k, stored, count);
            });
            self.softmax(b, first, count);
            let (v, stored) = block(b, v);
            for_tiles_of(b, self.group, &tiles, |b, head, size| {
                let tile = self.tile(b, head, size);
                self.weigh(b, &tile, v, stored, first, count);
            });
        });
        let head_bytes = 4 * i64::from(self.stored.head_dim);
        b.for_loop(0, self.group, 1, (), |b, head, ()| {
            let offset = b.mul(head, head_bytes);
            let y = b.add(self.y, offset);
            let offset = b.mul(head, i64::from(STATE));
            let state = b.add(self.states, offset);
            let sum = b.broadcast_f32(state, SUM);
            for_groups(b, self.stored.head_dim, (), |b, group, ()| {
                let o = group.load(b, y);
                let o = b.fdiv(o, sum);
                group.store(b, y, o);
            });
        });
    }

    fn tile(&self, b: &mut KernelBuilder, head: I64, size: usize) -> Tile {
        let head_bytes = 4 * i64::from(self.stored.head_dim);
        let rows = |b: &mut KernelBuilder, base: I64| -> Vec<I64> {
            let offset = b.mul(head, head_bytes);
            let base = b.add(base, offset);
            (0..size as i64).map(|i| b.add(base, i * head_bytes)).collect()
        };
        let (q, y) = (rows(b, self.q), rows(b, self.y));
        let offset = b.mul(head, i64::from(SCORES));
        let scores = b.add(self.scores, offset);
        let offset = b.mul(head, i64::from(STATE));
        let states = b.add(self.states, offset);
        Tile { q, y, scores, states }
    }

    /// Converts a block of `count` keys or values at `at` to f32, in the scratch. Both are contiguous. Up to 15 keys, or
    /// elements, behind them are converted too: a block that is not full does not end the cache.
    fn convert(&self, b: &mut KernelBuilder, at: I64, count: I64) -> (I64, Stored) {
        let whole = b.add(count, LANES as i64 - 1);
        let whole = b.and(whole, -(LANES as i64));
        let elements = b.mul(whole, i64::from(self.stored.head_dim));
        let element = i64::from(self.stored.element_bytes());
        b.for_loop(0, elements, LANES as i64, (), |b, i, ()| {
            let offset = b.mul(i, element);
            let from = b.add(at, offset);
            let v = load_dense(b, from, 0, LANES as u8, self.stored.dtype, false);
            let offset = b.shl(i, 2);
            let to = b.add(self.converted, offset);
            b.store_f32(to, v, 0, LANES as u8);
        });
        (self.converted, Stored { dtype: DType::F32, ..self.stored })
    }

    /// Scaled and masked scores of a block.
    fn score(&self, b: &mut KernelBuilder, tile: &Tile, k: I64, stored: Stored, count: I64) {
        let heads = tile.q.len();
        let step = (self.blocking.keys * LANES) as i64;
        b.for_loop(0, count, step, (), |b, at, ()| {
            let offset = b.mul(at, stored.row_bytes());
            let k = b.add(k, offset);
            let zero = b.splat_f32(0.0);
            let sums = vec![vec![zero; heads]; self.blocking.keys];
            // Element d of 16 keys is 16 neighbouring elements of the cache, element d of a query is one.
            let dims = i64::from(stored.head_dim);
            let unroll = if dims % 4 == 0 { 4 } else { 1 };
            let sums = b.for_loop(0, dims, unroll, sums, |b, d, mut sums| {
                let offset = b.mul(d, i64::from(stored.vector_bytes()));
                let k = b.add(k, offset);
                let offset = b.shl(d, 2);
                let q: Vec<I64> = tile.q.iter().map(|&q| b.add(q, offset)).collect();
                for i in 0..unroll as i32 {
                    let mut vectors = Vec::new();
                    for v in 0..self.blocking.keys as i32 {
                        let at = v * LANES as i32 * stored.row_bytes() as i32 + i * stored.vector_bytes();
                        vectors.push(load_dense(b, k, at, LANES as u8, stored.dtype, false));
                    }
                    for (head, &q) in q.iter().enumerate() {
                        let q = b.broadcast_f32(q, 4 * i);
                        for (sums, &k) in sums.iter_mut().zip(&vectors) {
                            sums[head] = b.fma(q, k, sums[head]);
                        }
                    }
                }
                sums
            });
            let scale = b.splat_f32(self.scale);
            let masked = b.splat_f32(f32::NEG_INFINITY);
            let lane = b.iota();
            let to = b.shl(at, 2);
            let to = b.add(tile.scores, to);
            let left = b.sub(count, at);
            for (v, sums) in sums.into_iter().enumerate() {
                let left = b.sub(left, (v * LANES) as i64);
                let left = b.splat_i64(left);
                let inside = b.icmp(lane, left, IntCond::Lt);
                for (head, sum) in sums.into_iter().enumerate() {
                    let score = b.fmul(sum, scale);
                    let score = b.fselect(inside, score, masked);
                    b.store_f32(to, score, head as i32 * SCORES + (4 * v * LANES) as i32, LANES as u8);
                }
            }
        });
    }

    /// Turns the scores of a block into exponentials, and merges its maxima and sums into the state of each head. A loop,
    /// since the exponential is long and the scores are few.
    fn softmax(&self, b: &mut KernelBuilder, first: I64, count: I64) {
        b.for_loop(0, self.group, 1, (), |b, head, ()| {
            let offset = b.mul(head, i64::from(SCORES));
            let scores = b.add(self.scores, offset);
            let offset = b.mul(head, i64::from(STATE));
            let state = b.add(self.states, offset);

            let masked = b.splat_f32(f32::NEG_INFINITY);
            let largest = b.for_loop(0, count, LANES as i64, masked, |b, at, largest| {
                let at = b.shl(at, 2);
                let at = b.add(scores, at);
                let score = b.load_f32(at, 0, LANES as u8);
                b.fmax_gt(score, largest)
            });
            let largest = b.reduce_max_f32(largest);
            let zero = b.splat_f32(0.0);
            let sum = b.for_loop(0, count, LANES as i64, zero, |b, at, sum| {
                let at = b.shl(at, 2);
                let at = b.add(scores, at);
                let score = b.load_f32(at, 0, LANES as u8);
                let difference = b.fsub(score, largest);
                let p = exp(b, difference);
                b.store_f32(at, p, 0, LANES as u8);
                b.fadd(sum, p)
            });
            let sum = b.reduce_add_f32(sum);
            b.if_else(
                first,
                IntCond::Eq,
                0,
                |b| {
                    b.store_f32(state, largest, MAX, 1);
                    b.store_f32(state, sum, SUM, 1);
                },
                |b| {
                    let old = b.broadcast_f32(state, MAX);
                    let merged = b.fmax_gt(largest, old);
                    b.store_f32(state, merged, MAX, 1);
                    // Both factors in one exponential.
                    let (from_old, from_new) = (b.fsub(old, merged), b.fsub(largest, merged));
                    b.store_f32(state, from_old, OLD_FACTOR, 1);
                    b.store_f32(state, from_new, NEW_FACTOR, 1);
                    let factors = b.load_f32(state, OLD_FACTOR, 2);
                    let factors = exp(b, factors);
                    b.store_f32(state, factors, OLD_FACTOR, 2);
                    let alpha = b.splat_lane_f32(factors, 0);
                    let beta = b.splat_lane_f32(factors, 1);
                    let old_sum = b.broadcast_f32(state, SUM);
                    let (left, right) = (b.fmul(old_sum, alpha), b.fmul(sum, beta));
                    let sum = b.fadd(left, right);
                    b.store_f32(state, sum, SUM, 1);
                },
            );
        });
    }

    /// Adds the values of a block, weighted by the exponentials, to the results.
    fn weigh(&self, b: &mut KernelBuilder, tile: &Tile, v: I64, stored: Stored, first: I64, count: I64) {
        let lanes = LANES as u32;
        let whole = stored.head_dim / lanes;
        for_tiles_of(b, whole, &halvings(self.blocking.values), |b, at, vectors| {
            let at = b.mul(at, i64::from(lanes));
            tile.weigh(b, v, stored, first, count, at, &vec![LANES as u8; vectors]);
        });
        if !stored.head_dim.is_multiple_of(lanes) {
            let at = b.int(i64::from(whole * lanes));
            tile.weigh(b, v, stored, first, count, at, &[(stored.head_dim % lanes) as u8]);
        }
    }
}

impl Tile {
    /// [`Group::weigh`] for the vectors from element `at` on, with `lanes` elements each.
    #[allow(clippy::too_many_arguments, reason = "the loop's whole context")]
    fn weigh(
        &self,
        b: &mut KernelBuilder,
        v: I64,
        stored: Stored,
        first: I64,
        count: I64,
        at: I64,
        lanes: &[u8],
    ) {
        let offset = b.mul(at, i64::from(stored.element_bytes()));
        let v = b.add(v, offset);
        let zero = b.splat_f32(0.0);
        let sums = vec![vec![zero; self.q.len()]; lanes.len()];
        let sums = b.for_loop(0, count, 1, sums, |b, key, mut sums| {
            let offset = b.mul(key, stored.row_bytes());
            let v = b.add(v, offset);
            let offset = b.shl(key, 2);
            let p = b.add(self.scores, offset);
            let mut vectors = Vec::new();
            for (i, &lanes) in (0..).zip(lanes) {
                vectors.push(load_dense(b, v, i * stored.vector_bytes(), lanes, stored.dtype, false));
            }
            for head in 0..self.q.len() {
                let p = b.broadcast_f32(p, head as i32 * SCORES);
                for (sums, &value) in sums.iter_mut().zip(&vectors) {
                    sums[head] = b.fma(p, value, sums[head]);
                }
            }
            sums
        });
        let to = b.shl(at, 2);
        let y: Vec<I64> = self.y.iter().map(|&y| b.add(y, to)).collect();
        b.if_else(
            first,
            IntCond::Eq,
            0,
            |b| {
                for (i, sums) in sums.iter().enumerate() {
                    for (&sum, &y) in sums.iter().zip(&y) {
                        b.store_f32(y, sum, (4 * i * LANES) as i32, lanes[i]);
                    }
                }
            },
            |b| {
                for (head, &y) in y.iter().enumerate() {
                    let alpha = b.broadcast_f32(self.states, head as i32 * STATE + OLD_FACTOR);
                    let beta = b.broadcast_f32(self.states, head as i32 * STATE + NEW_FACTOR);
                    for (i, sums) in sums.iter().enumerate() {
                        let offset = (4 * i * LANES) as i32;
                        let old = b.load_f32(y, offset, lanes[i]);
                        let (left, right) = (b.fmul(old, alpha), b.fmul(sums[head], beta));
                        let sum = b.fadd(left, right);
                        b.store_f32(y, sum, offset, lanes[i]);
                    }
                }
            },
        );
    }
}

/// exp(x) for x <= 0, by the polynomial of Cephes `expf`; see `docs/numerics.md`.
#[allow(
    clippy::excessive_precision,
    clippy::approx_constant,
    reason = "the digits are those of the definition"
)]
pub(super) fn exp(b: &mut KernelBuilder, x: Vf) -> Vf {
    const LOG2_E: f32 = 1.44269504;
    const LN2_HIGH: f32 = 0.693359375;
    const LN2_LOW: f32 = 2.12194440e-4;
    const LEAST: f32 = -87.0;
    const FIRST: f32 = 1.9875691500e-4;
    const REST: [f32; 5] =
        [1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1];
    let log2_e = b.splat_f32(LOG2_E);
    let n = b.fmul(x, log2_e);
    let n = b.fround(n);
    let high = b.splat_f32(-LN2_HIGH);
    let r = b.fma(n, high, x);
    let low = b.splat_f32(LN2_LOW);
    let r = b.fma(n, low, r);
    let mut p = b.splat_f32(FIRST);
    for c in REST {
        let c = b.splat_f32(c);
        p = b.fma(p, r, c);
    }
    let square = b.fmul(r, r);
    let y = b.fma(p, square, r);
    let one = b.splat_f32(1.0);
    let y = b.fadd(y, one);
    let n = b.cvt_f32_i32(n);
    let n = b.ishl(n, 23);
    let bits = b.as_vi(y);
    let bits = b.iadd(bits, n);
    let y = b.as_vf(bits);
    let least = b.splat_f32(LEAST);
    let tiny = b.fcmp(x, least, FloatCond::Lt);
    let zero = b.splat_f32(0.0);
    b.fselect(tiny, zero, y)
}
