//! Many tokens: a few row tiles and as many tokens as there are accumulators for go together.
//!
//! Tokens are cut into blocks of at most that many whose sizes differ by one at most, since a block of a few tokens pays
//! for the weights as much as a full one. All tokens pass a row tile before the next one is read. Where the activations of
//! all tokens do not fit in the second-level cache, they are cut into chunks that do, and the matrix is read for each.
//!
//! Machines with tile registers do chunks of enough tokens in another way: see [`tile_registers`].

use super::{Form, Output, passes, tile, tile_registers, trits};
use crate::kernels::args::{Call, TokenRows};
use crate::kernels::kernel;
use crate::kernels::lanes::{for_tiles, halvings};
use crate::kir::{I64, IntCond, KernelBuilder};

/// How the loop is blocked.
struct Blocking {
    /// Most tokens that go together.
    tokens: usize,
    /// Row tiles that go together.
    tiles: usize,
    /// Up to so many tokens, the fields have accumulators of their own: else there are too few products in flight.
    few: usize,
}

/// Bytes of activations that stay in the second-level cache while the matrix passes.
const CHUNK_BYTES: i64 = 1 << 20;

impl Blocking {
    fn new(vectors: usize) -> Self {
        match vectors {
            24.. => Self { tokens: 12, tiles: 2, few: 3 },
            8.. => Self { tokens: 5, tiles: 1, few: 0 },
            _ => Self { tokens: 2, tiles: 2, few: 2 },
        }
    }
}

/// The kernel under construction.
pub(super) struct Gemm {
    pub(super) call: Call,
    /// The activation.
    pub(super) x: TokenRows,
    w: I64,
    scratch: I64,
    pub(super) output: Output,
    blocking: Blocking,
    /// How few tokens are handled, see [`Blocking::few`].
    few: Form,
}

pub(super) fn gemm(b: &mut KernelBuilder, kernel: &kernel::Bitlinear, scratch: I64, output: Output) {
    let &kernel::Bitlinear { call, x, w, .. } = kernel;
    let vectors = call.registers.vectors();
    let few = if vectors >= 8 { Form::InPlace } else { Form::Shifted };
    let blocking = Blocking::new(vectors);
    Gemm { call, x, w, scratch, output, blocking, few }.run(b);
}

impl Gemm {
    fn run(&self, b: &mut KernelBuilder) {
        let all = self.call.tokens;
        let tokens = self.blocking.tokens as i64;
        let chunk = (CHUNK_BYTES / self.x.stride().max(1) / tokens).max(1) * tokens;
        b.for_loop(0, all, chunk, (), |b, first, ()| {
            let end = b.add(first, chunk);
            let end = b.min(end, all);
            if !self.call.registers.tiles() {
                return self.chunk(b, first, end);
            }
            let tokens = b.sub(end, first);
            b.if_else(
                tokens,
                IntCond::Lt,
                tile_registers::FEWEST_TOKENS,
                |b| self.chunk(b, first, end),
                |b| {
                    let scratch = b.add(self.scratch, trits::scratch_of(self.output.matrix) as i64);
                    tile_registers::chunk(b, self, scratch, first, end);
                },
            );
        });
    }

    /// Whether row tiles are read where they are stored, not from copies in the scratch.
    pub(super) fn in_place(&self) -> bool {
        !self.output.matrix.layout.has_five_a_byte()
    }

    /// The row tiles of some units in the form of `tile16`, and their groups.
    pub(super) fn weights(&self, b: &mut KernelBuilder, unit: I64, units: usize) -> (Vec<I64>, u32) {
        let per_unit = self.output.matrix.tiles_per_unit();
        let at = b.mul(unit, per_unit as i64 * self.output.matrix.tile_bytes());
        let w = b.add(self.w, at);
        let weights: Vec<I64> =
            (0..units * per_unit).map(|i| b.add(w, i as i64 * self.output.matrix.tile_bytes())).collect();
        trits::tile16(b, self.scratch, self.output.matrix, weights)
    }

    /// The whole range of units for the tokens `first..end`.
    fn chunk(&self, b: &mut KernelBuilder, first: I64, end: I64) {
        let per_unit = self.output.matrix.tiles_per_unit();
        let together = halvings(self.blocking.tiles / per_unit);
        let full = together[0];
        for_tiles(b, self.call.unit_begin, self.call.unit_end, &together, |b, unit, units| {
            let (weights, groups) = self.weights(b, unit, units);
            let block = |b: &mut KernelBuilder, token: I64, tokens: usize| {
                self.block(b, unit, &weights, groups, token, tokens);
            };
            match units == full {
                true => self.balanced(b, first, end, block),
                // What is left of a range: one unit at most, for which less code will do.
                false => for_tiles(b, first, end, &halvings(self.blocking.tokens.min(4)), block),
            }
        });
    }

    /// Runs `body(first token, tokens)` for the fewest blocks that cover `first..end`, of nearly equal sizes.
    fn balanced(
        &self,
        b: &mut KernelBuilder,
        first: I64,
        end: I64,
        body: impl Fn(&mut KernelBuilder, I64, usize),
    ) {
        let most = self.blocking.tokens as i64;
        let tokens = b.sub(end, first);
        let padded = b.add(tokens, most - 1);
        let blocks = b.udiv(padded, most);
        let zero = b.int(0);
        let (mut token, mut longer) = (first, zero);
        for size in (1..=most).rev() {
            // The blocks of at least this size: one for each token that is left when all blocks have one less.
            let others = b.mul(blocks, size - 1);
            let left = b.sub(tokens, others);
            let left = b.max(left, zero);
            let this_long = b.min(left, blocks);
            let count = b.sub(this_long, longer);
            let stretch = b.mul(count, size);
            let next = b.add(token, stretch);
            b.for_loop(token, next, size, (), |b, token, ()| body(b, token, size as usize));
            (token, longer) = (next, this_long);
        }
    }

    /// Some row tiles of so many groups, in the form of `tile16`, times some tokens.
    fn block(
        &self,
        b: &mut KernelBuilder,
        unit: I64,
        weights: &[I64],
        groups: u32,
        token: I64,
        tokens: usize,
    ) {
        let matrix = self.output.matrix;
        let x = self.x.of(b, token);
        let x = self.x.neighbours(b, x, tokens);
        // The tiles that come next arrive from memory while these are multiplied; expanded ones are in the scratch.
        let next = self.in_place().then(|| weights.len() as i64 * matrix.tile_bytes());
        let mut sums = Vec::new();
        for tiles in weights.chunks(self.blocking.tiles) {
            sums.extend(if tokens <= self.blocking.few {
                tile::dot(b, self.few, tiles, &x, groups, 1, next)
            } else if groups <= passes::MOST_GROUPS {
                passes::dot(b, tiles, &x, groups, next)
            } else {
                tile::dot(b, Form::Shifted, tiles, &x, groups, 1, next)
            });
        }
        let per_unit = matrix.tiles_per_unit();
        for (i, sums) in sums.chunks(per_unit).enumerate() {
            let unit = b.add(unit, i as i64);
            for (row, &x) in x.iter().enumerate() {
                let token = b.add(token, row as i64);
                let sums: Vec<_> = sums.iter().map(|of_tile| of_tile[row]).collect();
                self.output.finish(b, unit, token, x, &sums);
            }
        }
    }
}
