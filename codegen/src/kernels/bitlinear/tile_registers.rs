//! Many tokens on machines with tile registers: 16 tokens times 16 matrix rows times 64 columns in one instruction.
//!
//! A field of a group of `tile16` is already what the unsigned operand of `tile_dot` has in a row: 16 matrix rows side by
//! side, four neighbouring columns each. Sixteen of them, 64 columns, make a tile, so a row tile is unpacked by shifts and
//! masks alone, once for all tokens, into the scratch. The signed operand is 16 activation rows as they are. Two tiles of
//! tokens and two of matrix rows share their loads: four sums, which hide the latency of an instruction.
//!
//! Invariants: after the last column the unpacked codes are 0, so what is in the tail of an activation row does not count;
//! loads stay in front of the row's tail, since that starts at a multiple of 64 bytes.

use bitnetc_ir::weights::TILE_COLS;

use super::gemm::Gemm;
use super::{GROUP_BYTES, Matrix};
use crate::kernels::lanes::for_tiles;
use crate::kernels::prefetch;
use crate::kir::{I64, KernelBuilder, LANES, TILE_ROWS, VECTOR_BYTES, Vi};

/// Fewest tokens that are worth unpacking the matrix.
pub(super) const FEWEST_TOKENS: i64 = TILE_ROWS as i64;
/// Columns of a tile.
const TILE_K: u32 = VECTOR_BYTES as u32;
/// Fields of a group.
const FIELDS: u8 = 4;
/// Groups of a tile.
const TILE_GROUPS: u32 = TILE_K / TILE_COLS;
/// Bytes of a tile register.
const TILE_BYTES: i64 = (TILE_ROWS * VECTOR_BYTES) as i64;
/// Row tiles that go together, and tiles of tokens.
const TOGETHER: usize = 2;
/// The first register for activations.
const ACTIVATIONS: u8 = 4;
/// The first register for weights.
const WEIGHTS: u8 = 6;

/// Tiles of a row tile with so many columns.
fn steps(cols: u32) -> i64 {
    i64::from(cols.div_ceil(TILE_K))
}

/// Scratch for two unpacked row tiles and the sums.
pub(super) fn scratch_bytes(cols: u32) -> u64 {
    (TOGETHER as i64 * steps(cols) * TILE_BYTES + (TOGETHER * TOGETHER) as i64 * TILE_BYTES) as u64
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
    let unpacked_bytes = TOGETHER as i64 * steps(matrix.cols) * TILE_BYTES;
    let this = TileGemm { gemm, matrix, unpacked: scratch, sums: b.add(scratch, unpacked_bytes) };
    let per_unit = matrix.tiles_per_unit();
    b.tile_begin(TILE_ROWS as u8);
    let together: &[usize] = if per_unit == TOGETHER { &[1] } else { &[2, 1] };
    for_tiles(b, gemm.call.unit_begin, gemm.call.unit_end, together, |b, unit, units| {
        let (weights, groups) = gemm.weights(b, unit, units);
        for (i, &tile) in (0..).zip(&weights) {
            let to = b.add(this.unpacked, i * steps(matrix.cols) * TILE_BYTES);
            this.unpack(b, tile, to, groups);
        }
        for_tiles(b, first, end, &[32, 16, 8, 4, 2, 1], |b, token, tokens| {
            this.block(b, unit, &weights, token, tokens);
        });
    });
    b.tile_end();
}

impl TileGemm<'_> {
    /// Unpacks the row tile at `from` in the form of `tile16`.
    fn unpack(&self, b: &mut KernelBuilder, from: I64, to: I64, groups: u32) {
        let mask = b.splat_i32(0x0303_0303);
        let stored = i64::from(groups) * GROUP_BYTES;
        b.for_loop(0, stored, GROUP_BYTES, (), |b, at, ()| {
            let from = b.add(from, at);
            let v = b.load_bytes(from, 0, VECTOR_BYTES as u8);
            let v = b.as_vi(v);
            let at = b.shl(at, FIELDS.ilog2() as u8);
            let to = b.add(to, at);
            for field in 0..FIELDS {
                let codes = if field > 0 { b.ushr(v, 2 * field) } else { v };
                let codes = b.band(codes, mask);
                let codes = b.as_vb(codes);
                b.store_bytes(to, codes, i32::from(field) * VECTOR_BYTES as i32, VECTOR_BYTES as u8);
            }
        });
        let zero = b.splat_i32(0);
        let zero = b.as_vb(zero);
        let whole = self.matrix.cols.div_ceil(TILE_K) * TILE_GROUPS;
        for vector in groups * u32::from(FIELDS)..whole * u32::from(FIELDS) {
            let to = b.add(to, i64::from(vector) * VECTOR_BYTES as i64);
            b.store_bytes(to, zero, 0, VECTOR_BYTES as u8);
        }
    }

    /// The unpacked row tiles of `weights` times `tokens` tokens (32, 16 or less) from `token` on. Meanwhile the row tiles that are
    /// unpacked next come into the second-level cache: with few tokens, memory is what unpacking would wait for.
    fn block(&self, b: &mut KernelBuilder, unit: I64, weights: &[I64], token: I64, tokens: usize) {
        let tiles = weights.len();
        let next = tiles as i64 * self.matrix.tile_bytes();
        let stride = self.gemm.x.stride();
        let rows = tokens.min(TILE_ROWS);
        let blocks = tokens.div_ceil(TILE_ROWS);
        let x = self.gemm.x.of(b, token);
        let accumulator = |block: usize, tile: usize| (block * TOGETHER + tile) as u8;
        let pairs: Vec<(usize, usize)> =
            (0..blocks).flat_map(|block| (0..tiles).map(move |tile| (block, tile))).collect();
        if rows < TILE_ROWS {
            b.tile_begin(rows as u8);
        }
        for &(block, tile) in &pairs {
            b.tile_zero(accumulator(block, tile));
        }
        let (x_stride, w_stride) = (b.int(stride), b.int(VECTOR_BYTES as i64));
        let row_tile = steps(self.matrix.cols) * TILE_BYTES;
        b.for_loop(0, row_tile, TILE_BYTES, (), |b, at, ()| {
            let w = b.add(self.unpacked, at);
            if self.gemm.in_place() {
                let packed = b.shr(at, FIELDS.ilog2() as u8);
                for &tile in weights {
                    let tile = b.add(tile, packed);
                    for group in 0..TILE_GROUPS as i32 {
                        prefetch::ahead(b, tile, group * GROUP_BYTES as i32, next, 2);
                    }
                }
            }
            let column = b.shr(at, (TILE_BYTES / i64::from(TILE_K)).ilog2() as u8);
            let x = b.add(x, column);
            for block in 0..blocks {
                let x = b.add(x, (block * TILE_ROWS) as i64 * stride);
                b.tile_load(x, x_stride, 0, ACTIVATIONS + block as u8);
            }
            for tile in 0..tiles {
                let w = b.add(w, tile as i64 * row_tile);
                b.tile_load(w, w_stride, 0, WEIGHTS + tile as u8);
            }
            for &(block, tile) in &pairs {
                b.tile_dot(accumulator(block, tile), ACTIVATIONS + block as u8, WEIGHTS + tile as u8);
            }
        });
        for &(block, tile) in &pairs {
            let offset = i32::from(accumulator(block, tile)) * TILE_BYTES as i32;
            b.tile_store(self.sums, w_stride, offset, accumulator(block, tile));
        }
        if rows < TILE_ROWS {
            b.tile_begin(TILE_ROWS as u8);
        }
        for block in 0..blocks {
            b.for_loop(0, rows as i64, 1, (), |b, row, ()| {
                let token = b.add(token, (block * TILE_ROWS) as i64);
                let token = b.add(token, row);
                let x = self.gemm.x.of(b, token);
                let at = b.shl(row, VECTOR_BYTES.ilog2() as u8);
                let sums = b.add(self.sums, at);
                let sums: Vec<Vi> = (0..tiles)
                    .map(|tile| {
                        let offset = i32::from(accumulator(block, tile)) * TILE_BYTES as i32;
                        b.load_i32(sums, offset, LANES as u8)
                    })
                    .collect();
                for (i, sums) in (0i64..).zip(sums.chunks(self.matrix.tiles_per_unit())) {
                    let unit = b.add(unit, i);
                    self.gemm.output.finish(b, unit, token, x, sums);
                }
            });
        }
    }
}
