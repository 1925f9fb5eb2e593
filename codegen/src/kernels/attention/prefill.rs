//! Attention of a chunk of tokens: a unit is a key/value head and a tile of neighbouring tokens, whose query heads all go
//! over a block of keys before the next one, so that the block comes from memory once and is converted to f32 once.
//!
//! A token that is alone in its tile, as each is where many sequences grow by one token, goes over the blocks as in
//! [`super::decode`]: its query heads share the loads of elements as they are stored, and nothing is converted in between. Where
//! registers are few, kernels have no code for it.
//!
//! Where a key/value head has few query heads, rows of several tokens go into one tile of the products, in blocks that
//! all tokens of the tile see whole. In the blocks at the diagonal each token has another number of keys and goes alone.

use bitnetc_ir::partition::QUERY_TILE;
use bitnetc_ir::{DType, KEY_BLOCK, storage};

use super::super::args::{Position, TokenRows};
use super::super::lanes::{for_tiles, for_tiles_of, halvings};
use super::super::{CacheShape, kernel};
use super::{
    Block, Blocking, Caches, KeyBlock, MAX_OFFSET, Places, Results, Rows, SCORES, STATE, Shape, Tile,
    converted_bytes, softmax,
};
use crate::kir::{I64, IntCond, KernelBuilder, LANES};

const _: () = assert!(QUERY_TILE == 16 && KEY_BLOCK == 64);

/// Where the parts of the scratch are.
pub(super) struct Scratch {
    states: u64,
    converted: u64,
    pub(super) bytes: u64,
}

impl Scratch {
    pub(super) fn new(group: u32, cache: CacheShape) -> Self {
        let rows = u64::from(QUERY_TILE) * u64::from(group);
        let states = rows * SCORES as u64;
        let converted = states + storage::align(rows * STATE as u64);
        Self { states, converted, bytes: converted + converted_bytes(cache) }
    }
}

/// A unit is a key/value head and a tile of tokens; see `bitnetc_ir::partition`.
pub(in crate::kernels) fn tiles(b: &mut KernelBuilder, kernel: &kernel::AttentionTiles) {
    let &kernel::AttentionTiles { call, heads, cache, scale, q, y, .. } = kernel;
    let &kernel::AttentionTiles { k_cache, v_cache, position, capacity, scratch: scores, .. } = kernel;
    let shape_of = |one| Shape::new(heads, cache, f32::from_bits(scale), Blocking::new(call.registers, one));
    let (shape, alone) = (&shape_of(false), &shape_of(true));
    let caches = Caches {
        keys: k_cache,
        values: v_cache,
        capacity,
        stored: shape.stored,
        level: Caches::prefetch_level(call.registers),
    };
    let tokens = call.tokens;
    let tiles = b.add(tokens, i64::from(QUERY_TILE) - 1);
    let tiles = b.shr(tiles, 4);
    let (begin, end) = (call.unit_begin, call.unit_end);
    let layout = Scratch::new(shape.group, cache);
    let states = b.add(scores, layout.states as i64);
    let converted = b.add(scores, layout.converted as i64);
    b.for_loop(0, shape.kv_heads, 1, (), |b, kv_head, ()| {
        let before = b.mul(kv_head, tiles);
        let low = b.sub(begin, before);
        let low = b.max(low, 0);
        let high = b.sub(end, before);
        let high = b.min(high, tiles);
        let offset = b.mul(kv_head, i64::from(shape.group) * shape.head_bytes());
        let q = q.skip(b, offset);
        let y = y.skip(b, offset);
        b.for_loop(low, high, 1, (), |b, tile, ()| {
            let first = b.shl(tile, 4);
            let end = b.add(first, i64::from(QUERY_TILE));
            let end = b.min(end, tokens);
            let unit = Unit { shape, caches, position, kv_head, first, end, q, y, scores, states, converted };
            match call.registers.vectors() {
                // Bound by arithmetic in any case, and long.
                ..8 => unit.run(b),
                _ => {
                    let tokens = b.sub(end, first);
                    let run_alone = |b: &mut KernelBuilder| Unit { shape: alone, ..unit }.run_alone(b);
                    b.if_else(tokens, IntCond::Eq, 1, run_alone, |b| unit.run(b));
                }
            }
            unit.divide(b);
        });
    });
}

/// A tile of tokens, over all keys that they see.
#[derive(Clone, Copy)]
struct Unit<'a> {
    shape: &'a Shape,
    caches: Caches,
    position: Position,
    kv_head: I64,
    /// First token of the tile, and the first after it.
    first: I64,
    end: I64,
    /// Queries and results of the key/value head.
    q: TokenRows,
    y: TokenRows,
    /// Parts of the scratch.
    scores: I64,
    states: I64,
    converted: I64,
}

impl Unit<'_> {
    /// Tokens whose rows go into one tile of the products.
    fn tokens_at_once(&self) -> usize {
        let far = self.q.stride().max(self.y.stride());
        let most = (self.shape.blocking.rows / self.shape.group as usize).max(1);
        if far * most as i64 > MAX_OFFSET { 1 } else { most }
    }

    fn run(&self, b: &mut KernelBuilder) {
        let (shape, caches) = (self.shape, self.caches);
        let position = self.position.first();
        let keys = b.add(position, self.end);
        b.for_loop(0, keys, KEY_BLOCK.into(), (), |b, block, ()| {
            let left = b.sub(keys, block);
            let count = b.min(left, i64::from(KEY_BLOCK));
            let offset = caches.offset(b, self.kv_head, block);
            let load = |b: &mut KernelBuilder, stored: Block, step: usize| match shape.stored.dtype {
                DType::F32 => stored,
                _ => stored.convert(b, self.converted, count, step),
            };
            // The first token of the tile that sees the block, and up to where tokens can go together.
            let from = b.sub(block, position);
            let from = b.max(from, self.first);
            let at_once = self.tokens_at_once();
            let together = match at_once {
                1 => from,
                _ => {
                    let whole = b.add(position, self.first);
                    let whole = b.sub(whole, block);
                    let fewest = i64::from(KEY_BLOCK) - 1;
                    b.if_else(whole, IntCond::Ge, fewest, |_| self.end, |_| from)
                }
            };
            let each = |b: &mut KernelBuilder, body: &dyn Fn(&mut KernelBuilder, &Tile, I64)| {
                if at_once > 1 {
                    let all = i64::from(KEY_BLOCK);
                    for_tiles(b, from, together, &halvings(at_once), |b, token, size| {
                        let count = b.int(all);
                        self.for_heads(b, token, size, |b, tile| body(b, tile, count));
                    });
                }
                b.for_loop(together, self.end, 1, (), |b, token, ()| {
                    let count = self.keys_in_block(b, token, block);
                    self.for_heads(b, token, 1, |b, tile| body(b, tile, count));
                });
            };
            let k = caches.block_of_keys(b, offset);
            let k = load(b, k, shape.keys_at_once());
            each(b, &|b, tile, count| shape.score(b, tile, k, count));
            b.for_loop(from, self.end, 1, (), |b, token, ()| {
                let count = self.keys_in_block(b, token, block);
                let row = self.row(b, token);
                b.for_loop(0, shape.group, 1, (), |b, member, ()| {
                    let row = b.add(row, member);
                    let offset = b.mul(row, i64::from(SCORES));
                    let scores = b.add(self.scores, offset);
                    let offset = b.mul(row, i64::from(STATE));
                    let state = b.add(self.states, offset);
                    softmax(b, scores, state, block, count);
                });
            });
            let v = caches.block_of_values(b, offset, None);
            let v = load(b, v, LANES);
            each(b, &|b, tile, count| shape.weigh(b, tile, v, block, count));
        });
    }

    /// As [`Unit::run`], for a tile of one token.
    fn run_alone(&self, b: &mut KernelBuilder) {
        let (shape, caches) = (self.shape, self.caches);
        let (q, y) = (self.q.of(b, self.first), self.y.of(b, self.first));
        // `q` and `y` begin at the key/value head.
        let head = b.mul(self.kv_head, i64::from(shape.group) * shape.head_bytes());
        let places = Places { q: b.sub(q, head), caches, scores: self.scores, converted: self.converted };
        let results = Results::Row { states: self.states, outputs: y, head_bytes: shape.head_bytes() };
        let seen = self.position.of(b, self.first);
        let keys = b.add(seen, 1);
        let zero = b.int(0);
        let next_head = b.add(self.kv_head, 1);
        let of_next_head = caches.offset(b, next_head, zero);
        b.for_loop(0, keys, KEY_BLOCK.into(), (), |b, first, ()| {
            let left = b.sub(keys, first);
            let count = b.min(left, i64::from(KEY_BLOCK));
            let following = b.add(first, i64::from(KEY_BLOCK));
            let following = caches.offset(b, self.kv_head, following);
            let next_keys =
                b.if_else(left, IntCond::Gt, i64::from(KEY_BLOCK), |_| following, |_| of_next_head);
            let kv_head = self.kv_head;
            let block = KeyBlock { kv_head, first, count, results, fresh: first, next_keys: Some(next_keys) };
            shape.block(b, &places, &block);
        });
    }

    /// Divides the outputs by their sums.
    fn divide(&self, b: &mut KernelBuilder) {
        let shape = self.shape;
        b.for_loop(self.first, self.end, 1, (), |b, token, ()| {
            let row = self.row(b, token);
            let y = self.y.of(b, token);
            b.for_loop(0, shape.group, 1, (), |b, member, ()| {
                let offset = b.mul(member, shape.head_bytes());
                let y = b.add(y, offset);
                let row = b.add(row, member);
                let offset = b.mul(row, i64::from(STATE));
                let state = b.add(self.states, offset);
                shape.divide(b, y, state, y);
            });
        });
    }

    /// Keys of the block from key `block` on that a token sees.
    fn keys_in_block(&self, b: &mut KernelBuilder, token: I64, block: I64) -> I64 {
        let seen = self.position.of(b, token);
        let seen = b.add(seen, 1);
        let seen = b.sub(seen, block);
        b.min(seen, i64::from(KEY_BLOCK))
    }

    /// Number of the token's first row in the scratch.
    fn row(&self, b: &mut KernelBuilder, token: I64) -> I64 {
        let row = b.sub(token, self.first);
        b.mul(row, i64::from(self.shape.group))
    }

    /// Runs `body` for tiles that cover the query heads of `tokens` tokens from `token` on.
    fn for_heads(
        &self,
        b: &mut KernelBuilder,
        token: I64,
        tokens: usize,
        body: impl Fn(&mut KernelBuilder, &Tile),
    ) {
        let shape = self.shape;
        let q = self.q.of(b, token);
        let y = self.y.of(b, token);
        let row = self.row(b, token);
        for_tiles_of(b, shape.group, &halvings(shape.blocking.rows / tokens), |b, member, size| {
            let offset = b.mul(member, shape.head_bytes());
            let rows = |b: &mut KernelBuilder, base: I64, stride: i64| {
                let rows = (0..tokens as i64).flat_map(|t| (0..size as i64).map(move |m| (t, m)));
                let offsets = rows.map(|(t, m)| b.offset(t * stride + m * shape.head_bytes())).collect();
                Rows { base: b.add(base, offset), offsets }
            };
            let (q, y) = (rows(b, q, self.q.stride()), rows(b, y, self.y.stride()));
            let row = b.add(row, member);
            let at = b.mul(row, i64::from(SCORES));
            let scores = b.add(self.scores, at);
            let at = b.mul(row, i64::from(STATE));
            let states = b.add(self.states, at);
            let states = Rows::apart(b, states, tokens * size, STATE.into());
            body(b, &Tile { q, y, scores, states });
        });
    }
}
