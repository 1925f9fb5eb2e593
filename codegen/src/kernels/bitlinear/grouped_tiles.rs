//! Ternary matrices with scales for steps of columns, for whole tiles of tokens on machines with tile registers.
//!
//! A row tile is brought into the form of `tile16` and unpacked once for all tokens, as in [`tile_registers`]. Sixteen tokens go
//! together: the sums of a step, one or more products of tiles of 64 columns, go through the scratch to float sums of each token,
//! which stay in registers to the end of the row. Two places for the sums of a step take turns, so that tiles are multiplied while
//! the sums of the step before are scaled.
//!
//! Invariants: a step is a multiple of 64 columns, but for the last one, after which unpacked codes are 0.

use bitnetc_ir::storage::q8_tail;
use bitnetc_ir::weights::TILE_ROWS as MATRIX_ROWS;

use super::grouped::{Factors, Grouped, Tile};
use super::tile_registers::{TILE_BYTES, steps, unpack};
use crate::kernels::ActivationScale;
use crate::kir::{I64, KernelBuilder, LANES, TILE_ROWS, VECTOR_BYTES, Vf};

/// Tokens that go together.
pub(super) const TOKENS: usize = TILE_ROWS;
/// Columns of a tile.
const TILE_K: u32 = VECTOR_BYTES as u32;
/// Row tiles of a unit, at most.
const MOST_TILES: i64 = 2;
/// The register of the sums, of activations and of weights.
const SUMS: u8 = 0;
const ACTIVATIONS: u8 = 4;
const WEIGHTS: u8 = 6;

/// Scratch for the unpacked row tiles of a unit, the sums of two steps, and the float sums of sixteen tokens.
pub(super) fn scratch_bytes(cols: u32) -> u64 {
    (MOST_TILES * steps(cols) * TILE_BYTES + 2 * TILE_BYTES + MOST_TILES * TILE_BYTES) as u64
}

/// Where things are.
struct Tiles<'a> {
    grouped: &'a Grouped,
    /// Unpacked row tiles.
    unpacked: I64,
    /// Sums of two steps.
    sums: I64,
    /// Float sums: of each row tile of a unit those of sixteen tokens.
    floats: I64,
}

/// All units for the first `tokens` tokens, a multiple of [`TOKENS`].
pub(super) fn run(b: &mut KernelBuilder, grouped: &Grouped, tokens: I64) {
    let unpacked = grouped.scratch_after_tiles(b);
    let row_tile = steps(grouped.steps.cols) * TILE_BYTES;
    let sums = b.add(unpacked, MOST_TILES * row_tile);
    let floats = b.add(sums, 2 * TILE_BYTES);
    let this = Tiles { grouped, unpacked, sums, floats };
    b.tile_begin(TILE_ROWS as u8);
    grouped.call.for_units(b, |b, unit| {
        let tiles = grouped.tiles16(b, unit, 1);
        for (i, tile) in (0..).zip(&tiles) {
            let to = b.add(this.unpacked, i * row_tile);
            unpack(b, grouped.steps.cols, tile.codes, to, grouped.groups16());
        }
        b.for_loop(0, tokens, TOKENS as i64, (), |b, token, ()| this.block(b, unit, &tiles, token));
    });
    b.tile_end();
}

impl Tiles<'_> {
    /// The row tiles of a unit times sixteen tokens from `token` on.
    fn block(&self, b: &mut KernelBuilder, unit: I64, tiles: &[Tile], token: I64) {
        let row_tile = steps(self.grouped.steps.cols) * TILE_BYTES;
        let x = self.grouped.x.of(b, token);
        for (i, tile) in (0..).zip(tiles) {
            let unpacked = b.add(self.unpacked, i * row_tile);
            let sums = self.dot(b, unpacked, tile.scales, x);
            for (row, sum) in (0..).zip(sums) {
                b.store_f32(self.floats, sum, self.float_at(i, row), LANES as u8);
            }
        }
        b.for_loop(0, TOKENS as i64, 1, (), |b, row, ()| {
            let token = b.add(token, row);
            let x = self.grouped.x.of(b, token);
            let at = b.shl(row, VECTOR_BYTES.ilog2() as u8);
            let floats = b.add(self.floats, at);
            let sums: Vec<Vf> = (0..tiles.len() as i64)
                .map(|i| b.load_f32(floats, self.float_at(i, 0), LANES as u8))
                .collect();
            self.grouped.finish(b, unit, token, x, &sums);
        });
    }

    /// Where the float sum of a row tile and a token is.
    fn float_at(&self, tile: i64, row: i64) -> i32 {
        (tile * TILE_BYTES + row * VECTOR_BYTES as i64) as i32
    }

    /// The float sums of a row tile with the sixteen tokens whose rows begin at `x`.
    fn dot(&self, b: &mut KernelBuilder, unpacked: I64, scales: I64, x: I64) -> Vec<Vf> {
        let zero = b.splat_f32(0.0);
        let (step, cols) = (self.grouped.steps.step(), self.grouped.steps.cols);
        let whole = cols / step;
        let sums = b.for_loop(0, i64::from(whole), 1, vec![zero; TOKENS], |b, index, sums| {
            self.add_step(b, unpacked, scales, x, (index, step), sums)
        });
        match cols % step {
            0 => sums,
            left => {
                let index = b.int(i64::from(whole));
                self.add_step(b, unpacked, scales, x, (index, left), sums)
            }
        }
    }

    /// Adds a step: its number and its columns.
    fn add_step(
        &self,
        b: &mut KernelBuilder,
        unpacked: I64,
        scales: I64,
        x: I64,
        (index, cols): (I64, u32),
        sums: Vec<Vf>,
    ) -> Vec<Vf> {
        let (grouped, stride) = (self.grouped, self.grouped.x.stride());
        let column = b.mul(index, i64::from(grouped.steps.step()));
        let codes = b.add(x, column);
        let at = b.mul(column, TILE_BYTES / i64::from(TILE_K));
        let w = b.add(unpacked, at);
        let (x_stride, w_stride) = (b.int(stride), b.int(VECTOR_BYTES as i64));
        b.tile_zero(SUMS);
        for tile in 0..cols.div_ceil(TILE_K) {
            // Two registers of either kind take turns.
            let (activations, weights) = (ACTIVATIONS + (tile % 2) as u8, WEIGHTS + (tile % 2) as u8);
            b.tile_load(codes, x_stride, (tile * TILE_K) as i32, activations);
            b.tile_load(w, w_stride, tile as i32 * TILE_BYTES as i32, weights);
            b.tile_dot(SUMS, activations, weights);
        }
        let turn = b.and(index, 1);
        let at = b.mul(turn, TILE_BYTES);
        let exact = b.add(self.sums, at);
        b.tile_store(exact, w_stride, 0, SUMS);
        let (record, sum) = match grouped.activation {
            ActivationScale::Block => grouped.steps.record_of(b, index),
            ActivationScale::Token => (b.int(0), b.int(0)),
        };
        let records = b.add(x, q8_tail(grouped.steps.cols) as i64);
        let (record, sum) = (b.add(records, record), b.add(records, sum));
        let at = grouped.steps.scale_of(b, index);
        let scales = b.add(scales, at);
        let scale = b.load_f32(scales, 0, LANES as u8);
        let of_tokens = (0..).zip(sums).map(|(token, of_token)| {
            let apart = token * stride;
            let [codes, record, sum] = [codes, record, sum].map(|base| b.add(base, apart));
            let factors: Factors = grouped.factors(b, (codes, 0), cols, ((record, 0), (sum, 0)));
            let exact = b.load_i32(exact, (token * VECTOR_BYTES as i64) as i32, LANES as u8);
            grouped.scaled(b, factors, exact, scale, of_token)
        });
        of_tokens.collect()
    }
}

// A row of the sums is a vector of the rows of a tile.
const _: () = assert!(MATRIX_ROWS as usize == LANES);
