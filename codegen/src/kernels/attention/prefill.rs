//! Attention of a chunk of tokens: a unit is a key/value head and a tile of neighbouring tokens, whose query heads all go
//! over a block of keys before the next one, so that the block comes from memory once and is converted to f32 once.
//!
//! Where a key/value head has few query heads, rows of several tokens go into one tile of the products, in blocks that
//! all tokens of the tile see whole. In the blocks at the diagonal each token has another number of keys and goes alone.

use bitnetc_ir::partition::QUERY_TILE;
use bitnetc_ir::{DType, KEY_BLOCK, storage};

use super::super::lanes::{for_tiles, for_tiles_of, halvings};
use super::super::{Arg, Args, CacheShape};
use super::{MAX_OFFSET, Rows, SCORES, STATE, Shape, Tile, converted_bytes, softmax};
use crate::kir::{I64, IntCond, KernelBuilder};

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
pub(super) fn tiles(b: &mut KernelBuilder, args: &Args, shape: &Shape) {
    let tokens = args.word(Arg::Tokens);
    let tiles = b.add(tokens, i64::from(QUERY_TILE) - 1);
    let tiles = b.shr(tiles, 4);
    let (begin, end) = (args.word(Arg::UnitBegin), args.word(Arg::UnitEnd));
    let cache =
        CacheShape { kv_heads: shape.kv_heads, head_dim: shape.head_dim(), dtype: shape.stored.dtype };
    let layout = Scratch::new(shape.group, cache);
    let scores = args.word(Arg::Scratch);
    let states = b.add(scores, layout.states as i64);
    let converted = b.add(scores, layout.converted as i64);
    b.for_loop(0, shape.kv_heads, 1, (), |b, kv_head, ()| {
        let before = b.mul(kv_head, tiles);
        let low = b.sub(begin, before);
        let low = b.max(low, 0);
        let high = b.sub(end, before);
        let high = b.min(high, tiles);
        let offset = b.mul(kv_head, i64::from(shape.group) * shape.head_bytes());
        let q = b.add(args.operand(0), offset);
        let y = b.add(args.result(), offset);
        b.for_loop(low, high, 1, (), |b, tile, ()| {
            let first = b.shl(tile, 4);
            let end = b.add(first, i64::from(QUERY_TILE));
            let end = b.min(end, tokens);
            let unit = Unit { shape, args, kv_head, first, end, q, y, scores, states, converted };
            unit.run(b);
        });
    });
}

/// A tile of tokens, over all keys that they see.
struct Unit<'a> {
    shape: &'a Shape,
    args: &'a Args,
    kv_head: I64,
    /// First token, and the first behind the tile.
    first: I64,
    end: I64,
    /// Queries and results of token 0.
    q: I64,
    y: I64,
    /// Parts of the scratch.
    scores: I64,
    states: I64,
    converted: I64,
}

impl Unit<'_> {
    /// Tokens whose rows go into one tile of the products.
    fn tokens_at_once(&self) -> usize {
        let far = self.args.stride(0).max(self.args.stride(1));
        let most = (self.shape.blocking.rows / self.shape.group as usize).max(1);
        if far * most as i64 > MAX_OFFSET { 1 } else { most }
    }

    fn run(&self, b: &mut KernelBuilder) {
        let (shape, args) = (self.shape, self.args);
        let position = args.word(Arg::Position);
        let keys = b.add(position, self.end);
        b.for_loop(0, keys, KEY_BLOCK.into(), (), |b, block, ()| {
            let left = b.sub(keys, block);
            let count = b.min(left, i64::from(KEY_BLOCK));
            let offset = shape.stored.offset(b, args, self.kv_head, block);
            let load = |b: &mut KernelBuilder, operand: u8| {
                let stored = shape.stored_block(b, args, operand, offset);
                match shape.stored.dtype {
                    DType::F32 => stored,
                    _ => stored.convert(b, self.converted, count),
                }
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
            let k = load(b, 1);
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
            let v = load(b, 2);
            each(b, &|b, tile, count| shape.weigh(b, tile, v, block, count));
        });
        b.for_loop(self.first, self.end, 1, (), |b, token, ()| {
            let row = self.row(b, token);
            let y = args.row(b, self.y, 1, token);
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
        let seen = self.args.position_of(b, token);
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
        let (shape, args) = (self.shape, self.args);
        let q = args.row(b, self.q, 0, token);
        let y = args.row(b, self.y, 1, token);
        let row = self.row(b, token);
        for_tiles_of(b, shape.group, &halvings(shape.blocking.rows / tokens), |b, member, size| {
            let offset = b.mul(member, shape.head_bytes());
            let rows = |b: &mut KernelBuilder, base: I64, stride: i64| {
                let place = |token: usize, member: usize| {
                    (token as i64 * stride + member as i64 * shape.head_bytes()) as i32
                };
                let offsets = (0..tokens).flat_map(|t| (0..size).map(move |m| place(t, m))).collect();
                Rows { base: b.add(base, offset), offsets }
            };
            let (q, y) = (rows(b, q, args.stride(0)), rows(b, y, args.stride(1)));
            let row = b.add(row, member);
            let at = b.mul(row, i64::from(SCORES));
            let scores = b.add(self.scores, at);
            let at = b.mul(row, i64::from(STATE));
            let states = b.add(self.states, at);
            let states = Rows::apart(states, tokens * size, STATE.into());
            body(b, &Tile { q, y, scores, states });
        });
    }
}
