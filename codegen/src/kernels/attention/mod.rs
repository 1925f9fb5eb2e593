//! Causal attention: query heads that share a key/value head go over its cache together.
//!
//! Keys are taken in blocks of 64, merged in rising order. Within a block: the scores of 16 keys at a time (a vector of
//! 16 positions for each element of the head), their maximum, the exponentials; then the sum of values weighted by
//! them, 16 elements of the head at a time. Both products go through a tile of query rows that share the loads of keys
//! and values. What is here works on one block; [`decode`] and [`prefill`] say which rows and blocks a unit has.
//!
//! A row's *state* is 16 bytes: running maximum, running sum, and the two factors of the last merge. A row's *output* is
//! the running weighted sum of values, divided by the running sum at the end.
//!
//! Masked keys get the score −∞, which the exponential turns into the +0.0 that fills up a vector; the values of masked
//! keys are never read. Lanes of keys beyond the last position may hold anything, so they are replaced, not added to.

mod decode;
pub(super) mod exp;
mod prefill;

use bitnetc_ir::{DType, KEY_BLOCK};

use super::args::WorkspaceBytes;
use super::lanes::{for_groups, for_tiles_of, halvings, load_dense};
use super::{CacheShape, Registers};
use crate::kir::{I64, IntCond, KernelBuilder, LANES, Vf};

pub(super) use decode::{blocks, merge};
pub(super) use prefill::tiles;

/// Bytes of the scores of one row.
const SCORES: i32 = 4 * KEY_BLOCK as i32;

/// Bytes of a line of the caches.
const LINE: usize = 64;

/// The state of a row.
const STATE: i32 = 16;
const MAX: i32 = 0;
const SUM: i32 = 4;
const OLD_FACTOR: i32 = 8;
const NEW_FACTOR: i32 = 12;

const _: () = assert!(NEW_FACTOR == OLD_FACTOR + 4);

/// Bytes of the state at the start of a record, which the output follows; see [`decode`].
const RECORD_STATE: u64 = 64;

/// Greatest distance of rows that a tile addresses by constant offsets.
const MAX_OFFSET: i64 = 1 << 24;

/// Scratch of [`blocks`].
pub(super) fn blocks_scratch_bytes(heads: u32, cache: CacheShape) -> u64 {
    decode::Scratch::new(group_of(heads, cache), cache).bytes
}

/// Scratch of [`tiles`].
pub(super) fn tiles_scratch_bytes(heads: u32, cache: CacheShape) -> u64 {
    prefill::Scratch::new(group_of(heads, cache), cache).bytes
}

/// What [`blocks`] leaves for [`merge`].
pub(super) fn workspace_bytes(heads: u32, cache: CacheShape) -> WorkspaceBytes {
    decode::workspace_bytes(heads, cache)
}

/// Query heads of a key/value head; of caches without any, all.
fn group_of(heads: u32, cache: CacheShape) -> u32 {
    heads / cache.kv_heads.max(1)
}

/// Bytes of a block of keys or values as f32.
fn converted_bytes(cache: CacheShape) -> u64 {
    4 * u64::from(KEY_BLOCK) * u64::from(cache.head_dim)
}

/// How the two products are blocked.
#[derive(Clone, Copy)]
struct Blocking {
    /// Query rows.
    rows: usize,
    /// Vectors of 16 keys in the product with the keys: 1, 2 or 4.
    keys: usize,
    /// Vectors of 16 elements in the product with the values.
    values: usize,
}

impl Blocking {
    fn new(registers: Registers, one: bool) -> Self {
        match registers.vectors() {
            // Neighbouring vectors of keys are pages apart.
            24.. if one && registers.one_stream() => Self { rows: 4, keys: 1, values: 4 },
            24.. => Self { rows: 4, keys: 4, values: 4 },
            8.. => Self { rows: 4, keys: 1, values: 1 },
            _ => Self { rows: 2, keys: 1, values: 1 },
        }
    }
}

/// What the kernel is made for.
struct Shape {
    kv_heads: u32,
    /// Query heads for each key/value head.
    group: u32,
    stored: Stored,
    scale: f32,
    blocking: Blocking,
}

impl Shape {
    fn new(heads: u32, cache: CacheShape, scale: f32, blocking: Blocking) -> Self {
        let stored = Stored { dtype: cache.dtype, head_dim: cache.head_dim };
        Self { kv_heads: cache.kv_heads, group: heads / cache.kv_heads, stored, scale, blocking }
    }

    fn head_dim(&self) -> u32 {
        self.stored.head_dim
    }

    /// Keys whose scores are made together.
    fn keys_at_once(&self) -> usize {
        self.blocking.keys * LANES
    }

    /// Bytes of a head in a row of queries or results.
    fn head_bytes(&self) -> i64 {
        4 * i64::from(self.head_dim())
    }
}

/// The caches. Behind the keys of a block its values are read, and after these the keys of the block that follows.
#[derive(Clone, Copy)]
struct Caches {
    keys: I64,
    values: I64,
    /// Positions that there is room for.
    capacity: I64,
    stored: Stored,
    /// The cache level into which a block is prefetched.
    level: u8,
}

impl Caches {
    /// The level for [`Caches::level`].
    fn prefetch_level(registers: Registers) -> u8 {
        // Where the hardware brings lines into the first level by itself, a block that comes too early displaces the one in use.
        if registers.one_stream() { 2 } else { 1 }
    }

    /// Bytes that lie before key or value `first` of `kv_head`.
    fn offset(self, b: &mut KernelBuilder, kv_head: I64, first: I64) -> I64 {
        let at = b.mul(kv_head, self.capacity);
        let at = b.add(at, first);
        b.mul(at, self.stored.row_bytes())
    }

    /// The block of keys that lies `offset` bytes from the start of the cache.
    fn block_of_keys(self, b: &mut KernelBuilder, offset: I64) -> Block {
        let next = b.add(self.values, offset);
        Block { at: b.add(self.keys, offset), stored: self.stored, next: Some((next, self.level)) }
    }

    /// The block of values that lies `offset` bytes from the start of the cache. `next_keys` is the place in the cache of the keys
    /// that are read next, if they do not follow.
    fn block_of_values(self, b: &mut KernelBuilder, offset: I64, next_keys: Option<I64>) -> Block {
        let next = match next_keys {
            Some(next_keys) => b.add(self.keys, next_keys),
            None => {
                let next = b.add(self.keys, offset);
                b.add(next, i64::from(KEY_BLOCK) * self.stored.row_bytes())
            }
        };
        Block { at: b.add(self.values, offset), stored: self.stored, next: Some((next, self.level)) }
    }
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

/// One block of keys or of values.
#[derive(Clone, Copy)]
struct Block {
    at: I64,
    stored: Stored,
    /// Address of the block that is read next, whose lines are prefetched while this one is read, and into which level of
    /// the cache; none where that is not worth it. Hardware follows lines within a page only, and a block is a few pages.
    next: Option<(I64, u8)>,
}

impl Block {
    /// Prefetches what lies `offsets` after byte `within` of the next block.
    fn prefetch(self, b: &mut KernelBuilder, within: I64, offsets: impl IntoIterator<Item = i32>) {
        let Some((next, level)) = self.next else { return };
        let at = b.add(next, within);
        offsets.into_iter().for_each(|offset| b.prefetch(at, offset, level));
    }
}

impl Block {
    /// Converts the first `count` keys or values to f32, at `to`, and those after them up to a multiple of `step`, which is a
    /// multiple of 16: a block that is not full does not end the cache. Whoever reads so many at a time then meets numbers
    /// from the cache. What else lies in the scratch, such as codes of weights, may be denormal as f32, and each
    /// multiplication with those takes a hundred times as long.
    fn convert(self, b: &mut KernelBuilder, to: I64, count: I64, step: usize) -> Self {
        let Stored { dtype, head_dim } = self.stored;
        let whole = b.add(count, step as i64 - 1);
        let whole = b.and(whole, -(step as i64));
        let elements = b.mul(whole, i64::from(head_dim));
        let element = i64::from(self.stored.element_bytes());
        b.for_loop(0, elements, LANES as i64, (), |b, i, ()| {
            let offset = b.mul(i, element);
            let from = b.add(self.at, offset);
            self.prefetch(b, offset, [0]);
            let v = load_dense(b, from, 0, LANES as u8, dtype, false);
            let offset = b.shl(i, 2);
            let to = b.add(to, offset);
            b.store_f32(to, v, 0, LANES as u8);
        });
        Block { at: to, stored: Stored { dtype: DType::F32, head_dim }, next: None }
    }
}

/// The rows of a tile in one buffer: row i is at `base + offsets[i]`.
struct Rows {
    base: I64,
    offsets: Vec<i32>,
}

impl Rows {
    /// `count` rows, `apart` bytes each.
    fn apart(b: &mut KernelBuilder, base: I64, count: usize, apart: i64) -> Self {
        Self { base, offsets: (0..count as i64).map(|i| b.offset(i * apart)).collect() }
    }
}

/// Where the query heads of one token leave their states and outputs.
#[derive(Clone, Copy)]
enum Results {
    /// In records, `apart` bytes each, the first of which is that of the first query head: see [`decode`].
    Records { first: I64, apart: i64 },
    /// States in one place, outputs in the row of results.
    Row { states: I64, outputs: I64, head_bytes: i64 },
}

impl Results {
    /// Address of the state of query head `member`.
    fn state(self, b: &mut KernelBuilder, member: I64) -> I64 {
        let (first, apart) = match self {
            Results::Records { first, apart } => (first, apart),
            Results::Row { states, .. } => (states, i64::from(STATE)),
        };
        let offset = b.mul(member, apart);
        b.add(first, offset)
    }

    /// The states and the outputs of `count` query heads from `member` on.
    fn of(self, b: &mut KernelBuilder, member: I64, count: usize) -> (Rows, Rows) {
        let state = self.state(b, member);
        let (output, apart, states_apart) = match self {
            Results::Records { apart, .. } => (b.add(state, RECORD_STATE as i64), apart, apart),
            Results::Row { outputs, head_bytes, .. } => {
                let offset = b.mul(member, head_bytes);
                (b.add(outputs, offset), head_bytes, i64::from(STATE))
            }
        };
        let outputs = Rows::apart(b, output, count, apart);
        (Rows::apart(b, state, count, states_apart), outputs)
    }
}

/// What the key blocks of one token have in common.
struct Places {
    /// The row of queries.
    q: I64,
    caches: Caches,
    /// Scores of the query heads of a key/value head.
    scores: I64,
    /// Room for a block as f32.
    converted: I64,
}

/// A key/value head and a block of keys, all of which one token sees.
struct KeyBlock {
    kv_head: I64,
    /// First key, and how many there are.
    first: I64,
    count: I64,
    results: Results,
    /// 0 where nothing has been merged into the results.
    fresh: I64,
    /// Bytes from the start of the cache to the keys that are read after this block, if they are not those that follow it.
    next_keys: Option<I64>,
}

/// Some query rows, whose scores are [`SCORES`] bytes apart.
struct Tile {
    q: Rows,
    y: Rows,
    scores: I64,
    states: Rows,
}

impl Shape {
    /// All query heads of a key/value head over one block, for one token.
    fn block(&self, b: &mut KernelBuilder, places: &Places, unit: &KeyBlock) {
        let (caches, scores) = (places.caches, places.scores);
        let offset = caches.offset(b, unit.kv_head, unit.first);
        // Where more than one tile would convert the same elements, the block is converted once.
        let convert = self.stored.dtype != DType::F32 && self.group as usize > self.blocking.rows;
        let load = |b: &mut KernelBuilder, block: Block, step: usize| {
            if convert { block.convert(b, places.converted, unit.count, step) } else { block }
        };
        let q = b.mul(unit.kv_head, i64::from(self.group) * self.head_bytes());
        let q = b.add(places.q, q);
        let sizes = halvings(self.blocking.rows);
        let tile = |b: &mut KernelBuilder, member: I64, size: usize| {
            let offset = b.mul(member, self.head_bytes());
            let q = b.add(q, offset);
            let q = Rows::apart(b, q, size, self.head_bytes());
            let offset = b.mul(member, i64::from(SCORES));
            let scores = b.add(scores, offset);
            let (states, y) = unit.results.of(b, member, size);
            Tile { q, y, scores, states }
        };
        let keys = caches.block_of_keys(b, offset);
        let keys = load(b, keys, self.keys_at_once());
        for_tiles_of(b, self.group, &sizes, |b, member, size| {
            let tile = tile(b, member, size);
            self.score(b, &tile, keys, unit.count);
        });
        b.for_loop(0, self.group, 1, (), |b, member, ()| {
            let offset = b.mul(member, i64::from(SCORES));
            let scores = b.add(scores, offset);
            let state = unit.results.state(b, member);
            softmax(b, scores, state, unit.fresh, unit.count);
        });
        let values = caches.block_of_values(b, offset, unit.next_keys);
        let values = load(b, values, LANES);
        for_tiles_of(b, self.group, &sizes, |b, member, size| {
            let tile = tile(b, member, size);
            self.weigh(b, &tile, values, unit.fresh, unit.count);
        });
    }

    /// Scaled and masked scores of the first `count` keys of a block.
    fn score(&self, b: &mut KernelBuilder, tile: &Tile, keys: Block, count: I64) {
        let rows = tile.q.offsets.len();
        let stored = keys.stored;
        let step = self.keys_at_once() as i64;
        b.for_loop(0, count, step, (), |b, at, ()| {
            let first = b.mul(at, stored.row_bytes());
            let k = b.add(keys.at, first);
            let zero = b.splat_f32(0.0);
            let sums = vec![vec![zero; rows]; self.blocking.keys];
            // Element d of 16 keys is 16 neighbouring elements of the cache, element d of a query is one.
            let dims = i64::from(stored.head_dim);
            let unroll = if dims % 4 == 0 { 4 } else { 1 };
            let sums = b.for_loop(0, dims, unroll, sums, |b, d, mut sums| {
                let within = b.mul(d, i64::from(stored.vector_bytes()));
                let k = b.add(k, within);
                let within = b.add(first, within);
                let offset = b.shl(d, 2);
                let q = b.add(tile.q.base, offset);
                let apart = LANES as i64 * stored.row_bytes();
                let of_keys: Vec<i32> = (0..self.blocking.keys as i64).map(|v| b.offset(v * apart)).collect();
                let bytes = unroll as i32 * stored.vector_bytes();
                let lines = of_keys.iter().flat_map(|&of_key| (of_key..of_key + bytes).step_by(LINE));
                keys.prefetch(b, within, lines);
                for i in 0..unroll as i32 {
                    let mut vectors = Vec::new();
                    for of_key in &of_keys {
                        let at = of_key + i * stored.vector_bytes();
                        vectors.push(load_dense(b, k, at, LANES as u8, stored.dtype, false));
                    }
                    for (row, &offset) in tile.q.offsets.iter().enumerate() {
                        let q = b.broadcast_f32(q, 4 * i + offset);
                        for (sums, &k) in sums.iter_mut().zip(&vectors) {
                            sums[row] = b.fma(q, k, sums[row]);
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
                for (row, sum) in sums.into_iter().enumerate() {
                    let score = b.fmul(sum, scale);
                    let score = b.fselect(inside, score, masked);
                    b.store_f32(to, score, row as i32 * SCORES + (4 * v * LANES) as i32, LANES as u8);
                }
            }
        });
    }

    /// Adds the values of a block, weighted by the exponentials, to the outputs; `fresh` is 0 where the block is the
    /// first of its rows.
    fn weigh(&self, b: &mut KernelBuilder, tile: &Tile, values: Block, fresh: I64, count: I64) {
        let lanes = LANES as u32;
        let dims = values.stored.head_dim;
        let whole = dims / lanes;
        for_tiles_of(b, whole, &halvings(self.blocking.values), |b, at, vectors| {
            let at = b.mul(at, i64::from(lanes));
            tile.weigh(b, values, fresh, count, at, &vec![LANES as u8; vectors]);
        });
        if !dims.is_multiple_of(lanes) {
            let at = b.int(i64::from(whole * lanes));
            tile.weigh(b, values, fresh, count, at, &[(dims % lanes) as u8]);
        }
    }

    /// Divides an output by its sum: the result of a row.
    fn divide(&self, b: &mut KernelBuilder, output: I64, state: I64, y: I64) {
        let sum = b.broadcast_f32(state, SUM);
        for_groups(b, self.head_dim(), (), |b, group, ()| {
            let o = group.load(b, output);
            let o = b.fdiv(o, sum);
            group.store(b, y, o);
        });
    }
}

impl Tile {
    /// [`Shape::weigh`] for the vectors from element `at` on, with `lanes` elements each.
    fn weigh(&self, b: &mut KernelBuilder, values: Block, fresh: I64, count: I64, at: I64, lanes: &[u8]) {
        let stored = values.stored;
        let first = b.mul(at, i64::from(stored.element_bytes()));
        let v = b.add(values.at, first);
        let rows = self.y.offsets.len();
        let zero = b.splat_f32(0.0);
        let sums = vec![vec![zero; rows]; lanes.len()];
        let sums = b.for_loop(0, count, 1, sums, |b, key, mut sums| {
            let within = b.mul(key, stored.row_bytes());
            let v = b.add(v, within);
            let within = b.add(first, within);
            values.prefetch(b, within, (0..lanes.len() as i32 * stored.vector_bytes()).step_by(LINE));
            let offset = b.shl(key, 2);
            let p = b.add(self.scores, offset);
            let mut vectors = Vec::new();
            for (i, &lanes) in (0..).zip(lanes) {
                vectors.push(load_dense(b, v, i * stored.vector_bytes(), lanes, stored.dtype, false));
            }
            for row in 0..rows {
                let p = b.broadcast_f32(p, row as i32 * SCORES);
                for (sums, &value) in sums.iter_mut().zip(&vectors) {
                    sums[row] = b.fma(p, value, sums[row]);
                }
            }
            sums
        });
        let to = b.shl(at, 2);
        let y = b.add(self.y.base, to);
        let place = |row: usize, i: usize| self.y.offsets[row] + (4 * i * LANES) as i32;
        b.if_else(
            fresh,
            IntCond::Eq,
            0,
            |b| {
                for (i, sums) in sums.iter().enumerate() {
                    for (row, &sum) in sums.iter().enumerate() {
                        b.store_f32(y, sum, place(row, i), lanes[i]);
                    }
                }
            },
            |b| {
                for row in 0..rows {
                    let state = self.states.offsets[row];
                    let alpha = b.broadcast_f32(self.states.base, state + OLD_FACTOR);
                    let beta = b.broadcast_f32(self.states.base, state + NEW_FACTOR);
                    for (i, sums) in sums.iter().enumerate() {
                        let old = b.load_f32(y, place(row, i), lanes[i]);
                        let (left, right) = (b.fmul(old, alpha), b.fmul(sums[row], beta));
                        let sum = b.fadd(left, right);
                        b.store_f32(y, sum, place(row, i), lanes[i]);
                    }
                }
            },
        );
    }
}

/// Turns the `count` scores of a row into exponentials, and puts their maximum and sum into its state: as they are where
/// `fresh` is 0, merged with what is there otherwise. A function of one row that callers loop over, since the
/// exponential is long and the scores are few.
fn softmax(b: &mut KernelBuilder, scores: I64, state: I64, fresh: I64, count: I64) {
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
        let p = exp::exp(b, difference);
        b.store_f32(at, p, 0, LANES as u8);
        b.fadd(sum, p)
    });
    let sum = b.reduce_add_f32(sum);
    b.if_else(
        fresh,
        IntCond::Eq,
        0,
        |b| {
            b.store_f32(state, largest, MAX, 1);
            b.store_f32(state, sum, SUM, 1);
        },
        |b| {
            merge_state(b, state, largest, sum);
        },
    );
}

/// Merges the maximum and sum of a later block (in all lanes) into a state; returns the factors of the earlier and of the
/// later output, which are in the state too.
fn merge_state(b: &mut KernelBuilder, state: I64, largest: Vf, sum: Vf) -> (Vf, Vf) {
    let old = b.broadcast_f32(state, MAX);
    let merged = b.fmax_gt(largest, old);
    b.store_f32(state, merged, MAX, 1);
    // Both factors in one exponential.
    let (from_old, from_new) = (b.fsub(old, merged), b.fsub(largest, merged));
    b.store_f32(state, from_old, OLD_FACTOR, 1);
    b.store_f32(state, from_new, NEW_FACTOR, 1);
    let factors = b.load_f32(state, OLD_FACTOR, 2);
    let factors = exp::exp(b, factors);
    b.store_f32(state, factors, OLD_FACTOR, 2);
    let alpha = b.splat_lane_f32(factors, 0);
    let beta = b.splat_lane_f32(factors, 1);
    let old_sum = b.broadcast_f32(state, SUM);
    let (left, right) = (b.fmul(old_sum, alpha), b.fmul(sum, beta));
    let sum = b.fadd(left, right);
    b.store_f32(state, sum, SUM, 1);
    (alpha, beta)
}
