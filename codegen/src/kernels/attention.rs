//! Causal attention of one query token and one group of query heads (those that share a key/value head).
//!
//! Blocks of 64 keys, merged in rising order. Within a block: the scores of 16 keys at a time (a vector of 16 positions
//! for each element of the head), their maximum, the exponentials; then the sum of values weighted by them, 16 elements
//! of the head at a time. A tile of query heads goes through all blocks together and shares the loads of keys and
//! values. Scores and the running maximum and sum of each head are in the scratch, the running output is in the result
//! row.
//!
//! Masked keys get the score −∞, which the exponential turns into the +0.0 that fills up a vector; the values of masked
//! keys are never read. Lanes of keys beyond the last position may hold anything, so they are replaced, not added to.

use bitnetc_ir::KEY_BLOCK;

use super::lanes::{for_groups, for_tiles_of, halvings, load_dense};
use super::{Arg, Args, CacheShape};
use crate::kir::{F32, I64, IntCond, KernelBuilder, LANES, Vf};

/// Most query heads that go together.
const MAX_TILE: usize = 4;

/// Bytes of the scores of one head.
const SCORES: i32 = 4 * KEY_BLOCK as i32;

/// Offsets of the running maximum, the running sum and the two factors of a merge, behind the scores of all heads.
const STATE: i32 = MAX_TILE as i32 * SCORES;
const STATE_BYTES: i32 = 16;
const MAX: i32 = 0;
const SUM: i32 = 4;
const OLD_FACTOR: i32 = 8;
const NEW_FACTOR: i32 = 12;

/// Scratch of the kernel.
pub(super) const SCRATCH_BYTES: u64 = (STATE + MAX_TILE as i32 * STATE_BYTES) as u64;

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
    let blocking = Blocking::new(args.registers.vectors());
    let head_bytes = 4 * i64::from(head_dim);
    let cached_bytes = i64::from(head_dim) * i64::from(cache.dtype.element_bytes().unwrap_or(4));
    args.for_units(b, |b, unit| {
        let token = b.udiv(unit, kv_heads.into());
        let kv_head = b.urem(unit, kv_heads.into());
        let position = args.position_of(b, token);
        let keys = b.add(position, 1);
        let offset = b.mul(kv_head, args.word(Arg::Capacity));
        let offset = b.mul(offset, cached_bytes);
        let (k, v) = (b.add(args.operand(1), offset), b.add(args.operand(2), offset));
        let offset = b.mul(kv_head, i64::from(group) * head_bytes);
        let q = args.row(b, args.operand(0), 0, token);
        let y = args.row(b, args.result(), 1, token);
        let (q, y) = (b.add(q, offset), b.add(y, offset));
        for_tiles_of(b, group, &halvings(blocking.heads), |b, first, size| {
            let offset = b.mul(first, head_bytes);
            let (q, y) = (b.add(q, offset), b.add(y, offset));
            let rows = |b: &mut KernelBuilder, base: I64| -> Vec<I64> {
                (0..size as i64).map(|i| b.add(base, i * head_bytes)).collect()
            };
            let (q, y) = (rows(b, q), rows(b, y));
            let tile = Tile {
                q,
                y,
                keys,
                k,
                v,
                cache,
                cached_bytes,
                scale: scale.into(),
                scratch: args.word(Arg::Scratch),
                key_vectors: blocking.keys,
                value_vectors: blocking.values,
            };
            tile.run(b);
        });
    });
}

/// Some query heads of one token, over all keys.
struct Tile {
    /// Query rows.
    q: Vec<I64>,
    /// Result rows.
    y: Vec<I64>,
    /// Number of keys that are not masked.
    keys: I64,
    /// Key 0 and value 0 of the head.
    k: I64,
    v: I64,
    cache: CacheShape,
    /// Bytes of one key or value.
    cached_bytes: i64,
    scale: F32,
    scratch: I64,
    key_vectors: usize,
    value_vectors: usize,
}

impl Tile {
    fn run(&self, b: &mut KernelBuilder) {
        b.for_loop(0, self.keys, KEY_BLOCK.into(), (), |b, first, ()| {
            let left = b.sub(self.keys, first);
            let count = b.min(left, i64::from(KEY_BLOCK));
            let offset = b.mul(first, self.cached_bytes);
            let (k, v) = (b.add(self.k, offset), b.add(self.v, offset));
            self.scores(b, k, count);
            self.softmax(b, first, count);
            self.weigh_values(b, v, first, count);
        });
        for (head, &y) in self.y.iter().enumerate() {
            let sum = b.broadcast_f32(self.scratch, state(head) + SUM);
            for_groups(b, self.cache.head_dim, (), |b, group, ()| {
                let o = group.load(b, y);
                let o = b.fdiv(o, sum);
                group.store(b, y, o);
            });
        }
    }

    /// Scaled and masked scores of a block into the scratch.
    fn scores(&self, b: &mut KernelBuilder, k: I64, count: I64) {
        let dtype = self.cache.dtype;
        let element = dtype.element_bytes().unwrap_or(4) as i32;
        let vector_bytes = LANES as i64 * self.cached_bytes;
        let step = (self.key_vectors * LANES) as i64;
        b.for_loop(0, count, step, (), |b, at, ()| {
            let offset = b.mul(at, self.cached_bytes);
            let k = b.add(k, offset);
            let zero = b.splat_f32(0.0);
            let sums = vec![vec![zero; self.q.len()]; self.key_vectors];
            // Element d of 16 keys is 16 neighbouring elements of the cache, element d of a query is one.
            let products = |b: &mut KernelBuilder, d: I64, unroll: i32, mut sums: Vec<Vec<Vf>>| {
                let offset = b.mul(d, i64::from(LANES as i32 * element));
                let k = b.add(k, offset);
                let offset = b.shl(d, 2);
                let q: Vec<I64> = self.q.iter().map(|&q| b.add(q, offset)).collect();
                for i in 0..unroll {
                    let mut vectors = Vec::new();
                    for v in 0..self.key_vectors {
                        let at = v as i32 * vector_bytes as i32 + i * LANES as i32 * element;
                        vectors.push(load_dense(b, k, at, LANES as u8, dtype, false));
                    }
                    for (head, &q) in q.iter().enumerate() {
                        let q = b.broadcast_f32(q, 4 * i);
                        for (sums, &k) in sums.iter_mut().zip(&vectors) {
                            sums[head] = b.fma(q, k, sums[head]);
                        }
                    }
                }
                sums
            };
            let dims = i64::from(self.cache.head_dim);
            let unroll = if dims % 4 == 0 { 4 } else { 1 };
            let sums = b.for_loop(0, dims, unroll, sums, |b, d, sums| products(b, d, unroll as i32, sums));
            let scale = b.splat_f32(self.scale.get());
            let masked = b.splat_f32(f32::NEG_INFINITY);
            let lane = b.iota();
            let to = b.shl(at, 2);
            let to = b.add(self.scratch, to);
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
        let heads = self.q.len() as i64;
        b.for_loop(0, heads, 1, (), |b, head, ()| {
            let offset = b.mul(head, i64::from(SCORES));
            let scores = b.add(self.scratch, offset);
            let offset = b.mul(head, i64::from(STATE_BYTES));
            let state = b.add(self.scratch, offset);

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
                    b.store_f32(state, largest, STATE + MAX, 1);
                    b.store_f32(state, sum, STATE + SUM, 1);
                },
                |b| {
                    let old = b.broadcast_f32(state, STATE + MAX);
                    let merged = b.fmax_gt(largest, old);
                    b.store_f32(state, merged, STATE + MAX, 1);
                    // Both factors in one exponential.
                    let (from_old, from_new) = (b.fsub(old, merged), b.fsub(largest, merged));
                    b.store_f32(state, from_old, STATE + OLD_FACTOR, 1);
                    b.store_f32(state, from_new, STATE + NEW_FACTOR, 1);
                    let factors = b.load_f32(state, STATE + OLD_FACTOR, 2);
                    let factors = exp(b, factors);
                    b.store_f32(state, factors, STATE + OLD_FACTOR, 2);
                    let alpha = b.splat_lane_f32(factors, 0);
                    let beta = b.splat_lane_f32(factors, 1);
                    let old_sum = b.broadcast_f32(state, STATE + SUM);
                    let (left, right) = (b.fmul(old_sum, alpha), b.fmul(sum, beta));
                    let sum = b.fadd(left, right);
                    b.store_f32(state, sum, STATE + SUM, 1);
                },
            );
        });
    }

    /// Adds the values of a block, weighted by the exponentials, to the results.
    fn weigh_values(&self, b: &mut KernelBuilder, v: I64, first: I64, count: I64) {
        let lanes = LANES as u32;
        let whole = self.cache.head_dim / lanes;
        for_tiles_of(b, whole, &halvings(self.value_vectors), |b, at, vectors| {
            let at = b.mul(at, i64::from(lanes));
            self.weigh_vectors(b, v, first, count, at, &vec![LANES as u8; vectors]);
        });
        if !self.cache.head_dim.is_multiple_of(lanes) {
            let at = b.int(i64::from(whole * lanes));
            self.weigh_vectors(b, v, first, count, at, &[(self.cache.head_dim % lanes) as u8]);
        }
    }

    /// The same for the vectors from element `at` on, with `lanes` elements each.
    fn weigh_vectors(&self, b: &mut KernelBuilder, v: I64, first: I64, count: I64, at: I64, lanes: &[u8]) {
        let dtype = self.cache.dtype;
        let element = i64::from(dtype.element_bytes().unwrap_or(4));
        let offset = b.mul(at, element);
        let v = b.add(v, offset);
        let zero = b.splat_f32(0.0);
        let sums = vec![vec![zero; self.q.len()]; lanes.len()];
        let sums = b.for_loop(0, count, 1, sums, |b, key, mut sums| {
            let offset = b.mul(key, self.cached_bytes);
            let v = b.add(v, offset);
            let offset = b.shl(key, 2);
            let p = b.add(self.scratch, offset);
            let mut vectors = Vec::new();
            for (i, &lanes) in lanes.iter().enumerate() {
                vectors.push(load_dense(b, v, (i * LANES) as i32 * element as i32, lanes, dtype, false));
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
                    let alpha = b.broadcast_f32(self.scratch, state(head) + OLD_FACTOR);
                    let beta = b.broadcast_f32(self.scratch, state(head) + NEW_FACTOR);
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

fn state(head: usize) -> i32 {
    STATE + head as i32 * STATE_BYTES
}

/// exp(x) for x <= 0, by the polynomial of Cephes `expf`; see `docs/numerics.md`.
fn exp(b: &mut KernelBuilder, x: Vf) -> Vf {
    const LOG2_E: f32 = 1.442_695_04;
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = 2.121_944_4e-4;
    const LEAST: f32 = -87.0;
    const FIRST: f32 = 1.987_569_15e-4;
    const REST: [f32; 5] = [1.398_199_95e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_55e-1, 5.000_000_1e-1];
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
    let tiny = b.fcmp(x, least, crate::kir::FloatCond::Lt);
    let zero = b.splat_f32(0.0);
    b.fselect(tiny, zero, y)
}

const _: () = assert!(KEY_BLOCK as usize % (4 * LANES) == 0 && SCRATCH_BYTES % 64 == 0);
const _: () = assert!(NEW_FACTOR == OLD_FACTOR + 4);
