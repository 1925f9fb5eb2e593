//! Block-quantised products of whole tiles of tokens, sixteen each, on machines with tile registers.
//!
//! A *part* is what has one scale of the matrix in every row: a block, or in `w6` a half block. Its sums must leave the tile registers
//! before the next part is added, so a product of a part takes a tile of its own, in which only the rows of its columns are not
//! zero: four tiles of weights (two, where a part is a block) meet the same tile of 64 columns of the activations. A product of tiles
//! takes as long with zeros in it, which is still half as long as that of vectors; what is saved beside are the loads of
//! activations. Then each part of a token is a vector of 16 sums in the scratch, as in [`super`].
//!
//! What the offset of the stored codes adds to a sum depends on the token and the part only, and is made once for all rows of the
//! matrix.
//!
//! Invariants: the tiles of weights hold zeros wherever no part of theirs is; the two sets of tiles and sums take turns, so that a
//! group is unpacked while the sums of the one before it are scaled.

use bitnetc_ir::BlockFormat;
use bitnetc_ir::blocks::{BLOCK, GROUP};
use bitnetc_ir::storage::{Q8B_HALVES, Q8B_RECORD, Q8B_SCALE, Q8B_SUM, q8_tail};
use bitnetc_ir::weights::TILE_ROWS as MATRIX_ROWS;

use super::{Matrix, VECTOR, load};
use crate::kernels::args::{Call, TokenRows};
use crate::kir::{I64, KernelBuilder, LANES, Scalar, TILE_ROWS, VECTOR_BYTES, Vf, Vi};

/// Tokens that go together.
pub(super) const TOKENS: usize = TILE_ROWS;

/// Tokens that a row tile meets before the next one is read.
pub(super) const MOST_TOKENS: usize = 2 * TOKENS;

/// Bytes of a tile register.
const TILE_BYTES: i64 = (TILE_ROWS * VECTOR_BYTES) as i64;
/// Most parts of a group.
const MOST_PARTS: i64 = 4;
/// Bytes of the tiles of weights, or of the sums, of a group.
const SET_BYTES: i64 = MOST_PARTS * TILE_BYTES;
/// Where the parts of the scratch are.
const SUMS: i64 = 2 * SET_BYTES;
const OFFSETS: i64 = 4 * SET_BYTES;
/// The tile of activations, and the first of two tiles of weights.
const ACTIVATIONS: u8 = 4;
const WEIGHTS: u8 = 6;

/// Bytes of the offsets of a token.
fn offsets_bytes(cols: u32, parts: u32) -> i64 {
    4 * i64::from(parts) * i64::from(cols.div_ceil(BLOCK))
}

/// Scratch for the tiles, their sums, and the offsets of all parts.
pub(super) fn scratch_bytes(cols: u32, format: BlockFormat) -> u64 {
    let parts = Matrix { rows: 0, cols, format }.parts();
    (OFFSETS + MOST_TOKENS as i64 * offsets_bytes(cols, parts)) as u64
}

/// The product of all units of a call with some of its tokens.
pub(super) struct TileMatmul {
    pub(super) matrix: Matrix,
    pub(super) call: Call,
    pub(super) x: TokenRows,
    pub(super) w: I64,
    pub(super) factors: I64,
    pub(super) y: TokenRows,
    pub(super) scratch: I64,
    /// The first of the tokens.
    pub(super) first: I64,
    /// How many there are: a multiple of [`TOKENS`], and at most [`MOST_TOKENS`].
    pub(super) tokens: I64,
}

impl TileMatmul {
    pub(super) fn run(&self, b: &mut KernelBuilder) {
        let Matrix { cols, format, .. } = self.matrix;
        self.clear(b);
        self.offsets(b);
        b.tile_begin(TILE_ROWS as u8);
        let tile_bytes = format.tile_bytes(cols) as i64;
        self.call.for_units(b, |b, unit| {
            let at = b.mul(unit, tile_bytes);
            let w = b.add(self.w, at);
            // The row tile is in the cache when the second sixteen come.
            b.for_loop(0, self.tokens, TOKENS as i64, (), |b, token, ()| self.unit(b, unit, w, token));
        });
        b.tile_end();
    }

    /// The unit whose row tile is at `w`, with sixteen tokens from number `token` of them on.
    fn unit(&self, b: &mut KernelBuilder, unit: I64, w: I64, token: I64) {
        let blocks = self.matrix.cols.div_ceil(BLOCK);
        let group = i64::from(GROUP);
        let whole = i64::from(blocks / 2) * group;
        let zero = b.splat_f32(0.0);
        let mut sums = vec![zero; TOKENS];
        if whole > 0 {
            sums = b.for_loop(0, whole, group, sums, |b, column, sums| {
                self.group(b, (w, token), column, 2, sums)
            });
        }
        if blocks % 2 == 1 {
            let column = b.int(whole);
            sums = self.group(b, (w, token), column, 1, sums);
        }
        let at = b.mul(unit, 4 * i64::from(MATRIX_ROWS));
        let factors = b.add(self.factors, at);
        let factor = b.load_f32(factors, 0, LANES as u8);
        let first = b.add(self.first, token);
        let to = self.y.of(b, first);
        let to = b.add(to, at);
        for (token, sum) in (0..).zip(sums) {
            let to = b.add(to, token * self.y.stride());
            let value = b.fmul(sum, factor);
            self.matrix.store(b, unit, to, value);
        }
    }

    /// Zeros in the tiles of weights.
    fn clear(&self, b: &mut KernelBuilder) {
        let zero = b.splat_i32(0);
        let zero = b.as_vb(zero);
        b.for_loop(0, 2 * SET_BYTES, VECTOR_BYTES as i64, (), |b, at, ()| {
            let to = b.add(self.scratch, at);
            b.store_bytes(to, zero, 0, VECTOR_BYTES as u8);
        });
    }

    /// What has to be added to the sum of each part of each token, because codes are stored with an offset.
    fn offsets(&self, b: &mut KernelBuilder) {
        let Matrix { cols, format, .. } = self.matrix;
        let parts = self.matrix.parts();
        let sum_at = if parts > 1 { Q8B_HALVES } else { Q8B_SUM } as i32;
        b.for_loop(0, self.tokens, 1, (), |b, token, ()| {
            let to = b.mul(token, offsets_bytes(cols, parts));
            let to = b.add(to, OFFSETS);
            let to = b.add(self.scratch, to);
            let row = b.add(self.first, token);
            let row = self.x.of(b, row);
            let records = b.add(row, q8_tail(cols) as i64);
            b.for_loop(0, i64::from(cols.div_ceil(BLOCK)), 1, (), |b, block, ()| {
                let at = b.mul(block, Q8B_RECORD as i64);
                let record = b.add(records, at);
                let at = b.mul(block, 4 * i64::from(parts));
                let to = b.add(to, at);
                for part in 0..parts as i32 {
                    let sum = b.load_int(record, sum_at + 4 * part);
                    let offset = b.mul(sum, -i64::from(format.offset()));
                    b.store_scalar(to, offset, 4 * part, Scalar::I32);
                }
            });
        });
    }

    /// Adds `blocks` blocks of the row tile at `w` from column `column` on, which begins a group, for sixteen tokens from number
    /// `token` on.
    fn group(
        &self,
        b: &mut KernelBuilder,
        (w, token): (I64, I64),
        column: I64,
        blocks: i32,
        mut sums: Vec<Vf>,
    ) -> Vec<Vf> {
        let Matrix { cols, format, .. } = self.matrix;
        let parts = self.matrix.parts() as i32;
        let at = b.mul(column, (format.group_bytes() / u64::from(GROUP)) as i64);
        let codes = b.add(w, at);
        self.matrix.prefetch(b, &[codes], format.tile_bytes(cols) as i64);
        // Sets take turns from group to group.
        let set = b.mul(column, SET_BYTES / i64::from(GROUP));
        let set = b.and(set, SET_BYTES);
        let tiles = b.add(self.scratch, set);
        let tile = |part: i32| part * TILE_BYTES as i32;
        for part in 0..parts * blocks {
            let vectors = self.matrix.unpack(b, codes, part);
            let from = tile(part) + part * vectors.len() as i32 * VECTOR;
            for (at, vector) in (from..).step_by(VECTOR as usize).zip(vectors) {
                let vector = b.as_vb(vector);
                b.store_bytes(tiles, vector, at, VECTOR_BYTES as u8);
            }
        }
        let first = b.add(self.first, token);
        let first = self.x.of(b, first);
        let x = b.add(first, column);
        let (x_stride, stride) = (b.int(self.x.stride()), b.int(VECTOR_BYTES as i64));
        b.tile_load(x, x_stride, 0, ACTIVATIONS);
        for part in 0..parts * blocks {
            let weights = WEIGHTS + part as u8 % 2;
            b.tile_zero(part as u8);
            b.tile_load(tiles, stride, tile(part), weights);
            b.tile_dot(part as u8, ACTIVATIONS, weights);
        }
        let exact = b.add(tiles, SUMS);
        for part in 0..parts * blocks {
            b.tile_store(exact, stride, tile(part), part as u8);
        }
        let at = b.mul(column, 2 * Q8B_RECORD as i64);
        let at = b.shr(at, GROUP.ilog2() as u8);
        let records = b.add(first, at);
        let records = b.add(records, q8_tail(cols) as i64);
        let at = b.mul(column, 8 * i64::from(parts));
        let at = b.shr(at, GROUP.ilog2() as u8);
        let offsets = b.mul(token, offsets_bytes(cols, parts as u32));
        let offsets = b.add(offsets, at);
        let offsets = b.add(offsets, OFFSETS);
        let offsets = b.add(self.scratch, offsets);
        for block in 0..blocks {
            let scales = self.matrix.scales(b, codes, block);
            for (token, sum) in (0i32..).zip(&mut sums) {
                let record = b.add(records, i64::from(token) * self.x.stride());
                let offsets = b.add(offsets, i64::from(token) * offsets_bytes(cols, parts as u32));
                let exact: Vec<Vi> = (block * parts..(block + 1) * parts)
                    .map(|part| {
                        let sum = b.load_i32(exact, tile(part) + token * VECTOR, LANES as u8);
                        let offset = b.broadcast_i32(offsets, 4 * part);
                        b.iadd(sum, offset)
                    })
                    .collect();
                let of_row = b.broadcast_f32(record, block * Q8B_RECORD as i32 + Q8B_SCALE as i32);
                *sum = self.matrix.add_parts(b, *sum, &exact, &scales, of_row);
            }
        }
        sums
    }
}

impl Matrix {
    /// The codes of part `part` of a group, each in a byte: four columns of 16 rows in a vector, column after column.
    fn unpack(self, b: &mut KernelBuilder, group: I64, part: i32) -> Vec<Vi> {
        match self.format {
            BlockFormat::W8 => {
                (0..BLOCK as i32 / 4).map(|i| load(b, group, self.codes_at(part) + VECTOR * i)).collect()
            }
            BlockFormat::W4 => {
                let mask = b.splat_i32(0x0f0f_0f0f);
                let stored: Vec<Vi> =
                    (0..4).map(|i| load(b, group, self.codes_at(part) + VECTOR * i)).collect();
                let low: Vec<Vi> = stored.iter().map(|&v| b.band(v, mask)).collect();
                let high = stored.iter().map(|&v| {
                    let v = b.ushr(v, 4);
                    b.band(v, mask)
                });
                let high: Vec<Vi> = high.collect();
                [low, high].concat()
            }
            BlockFormat::W6 => {
                let mask = b.splat_i32(0x3f3f_3f3f);
                let at = self.codes_at(part / 2) + 3 * VECTOR * (part % 2);
                let mut codes = Vec::new();
                let mut last: Option<Vi> = None;
                for vector in 0..3 {
                    let v = load(b, group, at + VECTOR * vector);
                    codes.push(b.band(v, mask));
                    last = Some(self.gathered(b, last, v, mask, vector));
                }
                codes.extend(last);
                codes
            }
        }
    }
}
