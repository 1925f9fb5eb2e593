//! Many tokens on machines with tile registers: 16 tokens times 16 matrix rows times 64 columns in one instruction.
//!
//! A field of a group of `tile16` is already what the unsigned operand of `tile_dot` has in a row: 16 matrix rows side by
//! side, four neighbouring columns each. Sixteen of them, 64 columns, make a tile, so a row tile is unpacked by shifts and
//! masks alone, once for all tokens, into the scratch. The signed operand is 16 activation rows as they are. Two tiles of
//! tokens and two of matrix rows share their loads: four sums, which hide the latency of an instruction. Up to 32 tokens are
//! these two tiles: then a row tile is not unpacked as a whole, but 64 columns between the products, and unpacked
//! codes stay in the first-level cache. Two tiles of 17 to 31 tokens overlap, and so do two half tiles of 9 to 15; tokens that are in
//! both are stored once, since what an epilogue adds may be in the place of the result.
//!
//! Invariants: after the last column the unpacked codes are 0, so what is in the tail of an activation row does not count;
//! loads stay in front of the row's tail, since that starts at a multiple of 64 bytes.

use bitnetc_ir::weights::TILE_COLS;

use super::gemm::Gemm;
use super::{GROUP_BYTES, Matrix};
use crate::kernels::lanes::for_tiles;
use crate::kernels::prefetch;
use crate::kir::{I64, IntCond, KernelBuilder, LANES, TILE_ROWS, VECTOR_BYTES, Vi};

/// Fewest tokens that are worth unpacking the matrix: as many as two halves of a tile, which overlap, may be.
pub(super) const FEWEST_TOKENS: i64 = HALF_ROWS as i64 + 1;
/// Rows of half a tile.
const HALF_ROWS: usize = TILE_ROWS / 2;
/// Columns of a tile.
const TILE_K: u32 = VECTOR_BYTES as u32;
/// Fields of a group.
const FIELDS: u8 = 4;
/// Groups of a tile.
const TILE_GROUPS: u32 = TILE_K / TILE_COLS;
/// Bytes of a tile register.
pub(super) const TILE_BYTES: i64 = (TILE_ROWS * VECTOR_BYTES) as i64;
/// Row tiles that go together, and tiles of tokens.
const TOGETHER: usize = 2;
/// Bytes of two unpacked tiles.
const SET_BYTES: i64 = TOGETHER as i64 * TILE_BYTES;
/// Bytes of an unpacked group.
const GROUP_UNPACKED: i32 = FIELDS as i32 * VECTOR_BYTES as i32;
/// The first register for activations.
const ACTIVATIONS: u8 = 4;
/// The first register for weights.
const WEIGHTS: u8 = 6;

/// Tiles of a row tile with so many columns.
pub(super) fn steps(cols: u32) -> i64 {
    i64::from(cols.div_ceil(TILE_K))
}

/// Room for two unpacked row tiles, or for the two sets that take turns.
fn unpacked_bytes(cols: u32) -> i64 {
    (TOGETHER as i64 * steps(cols) * TILE_BYTES).max(2 * SET_BYTES)
}

/// Scratch for two unpacked row tiles and the sums.
pub(super) fn scratch_bytes(cols: u32) -> u64 {
    (unpacked_bytes(cols) + (TOGETHER * TOGETHER) as i64 * TILE_BYTES) as u64
}

/// One call: where things are.
struct TileGemm<'a> {
    gemm: &'a Gemm,
    matrix: Matrix,
    /// Address of the unpacked row tiles.
    unpacked: I64,
    /// Address of the sums.
    sums: I64,
}

/// The whole range of units for the tokens `first..end`, at least [`FEWEST_TOKENS`]; `scratch` is the place of
/// [`scratch_bytes`].
pub(super) fn chunk(b: &mut KernelBuilder, gemm: &Gemm, scratch: I64, first: I64, end: I64) {
    let matrix = gemm.output.matrix;
    let unpacked_bytes = unpacked_bytes(matrix.cols);
    let tokens = b.sub(end, first);
    let this = TileGemm { gemm, matrix, unpacked: scratch, sums: b.add(scratch, unpacked_bytes) };
    let per_unit = matrix.tiles_per_unit();
    b.tile_begin(TILE_ROWS as u8);
    let together: &[usize] = if per_unit == TOGETHER { &[1] } else { &[2, 1] };
    for_tiles(b, gemm.call.unit_begin, gemm.call.unit_end, together, |b, unit, units| {
        let (weights, groups) = gemm.weights(b, unit, units);
        // Where the sums of all tokens have registers, unpacked columns are used once: they never leave the first-level cache.
        let one = |b: &mut KernelBuilder| {
            let zero = b.int(0);
            this.streamed(b, unit, (&weights, groups), TILE_ROWS, &[(first, zero)]);
        };
        let overlapping = |b: &mut KernelBuilder, rows: usize| {
            let zero = b.int(0);
            let second = b.sub(end, rows as i64);
            let skipped = b.int(2 * rows as i64);
            let skipped = b.sub(skipped, tokens);
            this.streamed(b, unit, (&weights, groups), rows, &[(first, zero), (second, skipped)]);
        };
        let halves = |b: &mut KernelBuilder| {
            b.tile_begin(HALF_ROWS as u8);
            overlapping(b, HALF_ROWS);
            b.tile_begin(TILE_ROWS as u8);
        };
        let many = |b: &mut KernelBuilder| {
            for (i, &tile) in (0..).zip(&weights) {
                let to = b.add(this.unpacked, i * steps(matrix.cols) * TILE_BYTES);
                unpack(b, matrix.cols, tile, to, groups);
            }
            for_tiles(b, first, end, &[32, 16, 8, 4, 2, 1], |b, token, tokens| {
                this.block(b, unit, &weights, token, tokens);
            });
        };
        let tiles = |b: &mut KernelBuilder| {
            let two = |b: &mut KernelBuilder| overlapping(b, TILE_ROWS);
            b.if_else(tokens, IntCond::Lt, TILE_ROWS as i64 + 1, one, two);
        };
        let few = |b: &mut KernelBuilder| b.if_else(tokens, IntCond::Lt, TILE_ROWS as i64, halves, tiles);
        b.if_else(tokens, IntCond::Lt, (TOGETHER * TILE_ROWS) as i64 + 1, few, many);
    });
    b.tile_end();
}

impl TileGemm<'_> {
    /// The row tiles of `weights`, in the form of `tile16`, times one or two tiles of `rows` tokens, where no others need them
    /// unpacked: 64 columns at a time are unpacked and multiplied. A tile is its first token and how many of its tokens
    /// have been in the one before it.
    fn streamed(
        &self,
        b: &mut KernelBuilder,
        unit: I64,
        (weights, groups): (&[I64], u32),
        rows: usize,
        blocks: &[(I64, I64)],
    ) {
        let mask = b.splat_i32(0x0303_0303);
        let zero = b.splat_i32(0);
        let zero = b.as_vb(zero);
        let step = |b: &mut KernelBuilder, at: I64, groups: u32, x: &[I64]| {
            // Sets take turns, so that one is unpacked while the one before it is multiplied.
            let set = b.mul(at, SET_BYTES / TILE_BYTES);
            let set = b.and(set, SET_BYTES);
            let set = b.add(self.unpacked, set);
            let packed = b.shr(at, FIELDS.ilog2() as u8);
            let mut tiles = Vec::new();
            for (i, &tile) in (0..).zip(weights) {
                let from = b.add(tile, packed);
                let to = b.add(set, i * TILE_BYTES);
                for group in 0..groups as i32 {
                    unpack_group(b, mask, (from, group * GROUP_BYTES as i32), to, group * GROUP_UNPACKED);
                }
                for vector in groups as i32 * i32::from(FIELDS)..TILE_ROWS as i32 {
                    b.store_bytes(to, zero, vector * VECTOR_BYTES as i32, VECTOR_BYTES as u8);
                }
                tiles.push(to);
            }
            self.multiply(b, at, weights, &tiles, x);
        };
        let x: Vec<I64> = blocks.iter().map(|&(start, _)| self.gemm.x.of(b, start)).collect();
        self.clear(b, weights.len(), blocks.len());
        let whole = i64::from(groups / TILE_GROUPS) * TILE_BYTES;
        b.for_loop(0, whole, TILE_BYTES, (), |b, at, ()| step(b, at, TILE_GROUPS, &x));
        if !groups.is_multiple_of(TILE_GROUPS) {
            let at = b.int(whole);
            step(b, at, groups % TILE_GROUPS, &x);
        }
        self.finish(b, unit, weights.len(), blocks, rows);
    }

    /// The unpacked row tiles of `weights` times `tokens` tokens (32, 16 or less) from `token` on.
    fn block(&self, b: &mut KernelBuilder, unit: I64, weights: &[I64], token: I64, tokens: usize) {
        let tiles = weights.len();
        let rows = tokens.min(TILE_ROWS);
        let starts: Vec<I64> =
            (0..tokens.div_ceil(TILE_ROWS)).map(|block| b.add(token, (block * TILE_ROWS) as i64)).collect();
        let x: Vec<I64> = starts.iter().map(|&start| self.gemm.x.of(b, start)).collect();
        if rows < TILE_ROWS {
            b.tile_begin(rows as u8);
        }
        self.clear(b, tiles, starts.len());
        let row_tile = steps(self.matrix.cols) * TILE_BYTES;
        b.for_loop(0, row_tile, TILE_BYTES, (), |b, at, ()| {
            let w = b.add(self.unpacked, at);
            let w: Vec<I64> = (0..tiles as i64).map(|tile| b.add(w, tile * row_tile)).collect();
            self.multiply(b, at, weights, &w, &x);
        });
        let zero = b.int(0);
        let starts: Vec<(I64, I64)> = starts.into_iter().map(|start| (start, zero)).collect();
        self.finish(b, unit, tiles, &starts, rows);
        if rows < TILE_ROWS {
            b.tile_begin(TILE_ROWS as u8);
        }
    }

    /// Zeros in the sums of `tiles` row tiles and `blocks` tiles of tokens.
    fn clear(&self, b: &mut KernelBuilder, tiles: usize, blocks: usize) {
        for (block, tile) in pairs(tiles, blocks) {
            b.tile_zero(accumulator(block, tile));
        }
    }

    /// Adds to the sums the products of 64 columns, from the tile at `at` of an unpacked row tile on: of weights at `unpacked` with
    /// the activation rows at `x`. Meanwhile the row tiles after those at `weights` come into the second-level cache: with few
    /// tokens, memory is what unpacking would wait for.
    fn multiply(&self, b: &mut KernelBuilder, at: I64, weights: &[I64], unpacked: &[I64], x: &[I64]) {
        if self.gemm.in_place() {
            let next = weights.len() as i64 * self.matrix.tile_bytes();
            let packed = b.shr(at, FIELDS.ilog2() as u8);
            for &tile in weights {
                let tile = b.add(tile, packed);
                for group in 0..TILE_GROUPS as i32 {
                    prefetch::ahead(b, tile, group * GROUP_BYTES as i32, next, 2);
                }
            }
        }
        let (x_stride, w_stride) = (b.int(self.gemm.x.stride()), b.int(VECTOR_BYTES as i64));
        let column = b.shr(at, (TILE_BYTES / i64::from(TILE_K)).ilog2() as u8);
        for (block, &x) in (0..).zip(x) {
            let x = b.add(x, column);
            b.tile_load(x, x_stride, 0, ACTIVATIONS + block);
        }
        for (tile, &w) in (0..).zip(unpacked) {
            b.tile_load(w, w_stride, 0, WEIGHTS + tile);
        }
        for (block, tile) in pairs(unpacked.len(), x.len()) {
            b.tile_dot(accumulator(block, tile), ACTIVATIONS + block as u8, WEIGHTS + tile as u8);
        }
    }

    /// Stores what becomes of the sums: of `rows` tokens of each tile from its start on, but for those that are skipped.
    fn finish(&self, b: &mut KernelBuilder, unit: I64, tiles: usize, starts: &[(I64, I64)], rows: usize) {
        let w_stride = b.int(VECTOR_BYTES as i64);
        let offset = |block, tile| i32::from(accumulator(block, tile)) * TILE_BYTES as i32;
        for (block, tile) in pairs(tiles, starts.len()) {
            b.tile_store(self.sums, w_stride, offset(block, tile), accumulator(block, tile));
        }
        for (block, &(start, skipped)) in starts.iter().enumerate() {
            b.for_loop(skipped, rows as i64, 1, (), |b, row, ()| {
                let token = b.add(start, row);
                let x = self.gemm.x.of(b, token);
                let at = b.shl(row, VECTOR_BYTES.ilog2() as u8);
                let sums = b.add(self.sums, at);
                let sums: Vec<Vi> =
                    (0..tiles).map(|tile| b.load_i32(sums, offset(block, tile), LANES as u8)).collect();
                for (i, sums) in (0i64..).zip(sums.chunks(self.matrix.tiles_per_unit())) {
                    let unit = b.add(unit, i);
                    self.gemm.output.finish(b, unit, token, x, sums);
                }
            });
        }
    }
}

/// Tiles of tokens and row tiles whose products are summed.
fn pairs(tiles: usize, blocks: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..blocks).flat_map(move |block| (0..tiles).map(move |tile| (block, tile)))
}

/// The register of the sums of a tile of tokens and a row tile.
fn accumulator(block: usize, tile: usize) -> u8 {
    (block * TOGETHER + tile) as u8
}

/// Unpacks the row tile at `from` of a matrix with so many columns, in the form of `tile16`.
pub(super) fn unpack(b: &mut KernelBuilder, cols: u32, from: I64, to: I64, groups: u32) {
    let mask = b.splat_i32(0x0303_0303);
    let stored = i64::from(groups) * GROUP_BYTES;
    b.for_loop(0, stored, GROUP_BYTES, (), |b, at, ()| {
        let from = b.add(from, at);
        let at = b.shl(at, FIELDS.ilog2() as u8);
        let to = b.add(to, at);
        unpack_group(b, mask, (from, 0), to, 0);
    });
    let zero = b.splat_i32(0);
    let zero = b.as_vb(zero);
    let whole = cols.div_ceil(TILE_K) * TILE_GROUPS;
    for vector in groups * u32::from(FIELDS)..whole * u32::from(FIELDS) {
        let to = b.add(to, i64::from(vector) * VECTOR_BYTES as i64);
        b.store_bytes(to, zero, 0, VECTOR_BYTES as u8);
    }
}

/// Unpacks the group at an address and an offset to `to` and an offset: one vector for each field.
fn unpack_group(b: &mut KernelBuilder, mask: Vi, (from, at): (I64, i32), to: I64, offset: i32) {
    let v = b.load_bytes(from, at, VECTOR_BYTES as u8);
    let v = b.as_vi(v);
    for field in 0..FIELDS {
        let codes = if field > 0 { b.ushr(v, 2 * field) } else { v };
        let codes = b.band(codes, mask);
        let codes = b.as_vb(codes);
        b.store_bytes(to, codes, offset + i32::from(field) * VECTOR_BYTES as i32, VECTOR_BYTES as u8);
    }
}
