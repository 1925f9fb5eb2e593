//! Ternary matrices with a scale for each group of columns, and activations with a scale for each block.
//!
//! Integer sums are exact within a *step* only: as many columns as have one scale of either kind. At its end the sum is converted
//! and goes, times the scale, into a float sum by fma, in rising order of the steps (`docs/numerics.md`). The offset of the codes
//! is taken off step by step too, by the sum of the step's activation codes: the record of a block has it, and for a
//! token with one factor a product with ones gives it.
//!
//! One token goes through [`steps`](super::steps) where registers are many. Else row tiles are brought into the form of `tile16` and
//! multiplied by dots, or in tile registers ([`grouped_tiles`](super::grouped_tiles)).

use bitnetc_ir::blocks::TERNARY_BLOCK;
use bitnetc_ir::storage::{Q8_A, Q8B_HALVES, Q8B_RECORD, Q8B_SCALE, Q8B_SUM, q8_tail};
use bitnetc_ir::weights::{TILE_COLS, TILE_ROWS};

use super::{Form, Matrix, Output, grouped_tiles, steps, tile, trits};
use crate::kernels::args::{Call, TokenRows};
use crate::kernels::lanes::{for_tiles, halvings};
use crate::kernels::{ActivationScale, kernel};
use crate::kir::{I64, IntCond, KernelBuilder, LANES, Vf, Vi};

/// Bytes of the scales of one group of a tile.
pub(super) const SCALES_BYTES: i64 = 4 * TILE_ROWS as i64;

/// How the loop is blocked: row tiles and tokens that go together. The float sums stay in registers beside the integer
/// ones, so there is room for fewer than in [`super::gemm`].
fn blocking(vectors: usize, one: bool) -> (Form, usize, usize) {
    match (vectors, one) {
        (24.., true) => (Form::InPlace, 2, 1),
        (24.., false) => (Form::Shifted, 2, 4),
        _ => (Form::Shifted, 1, 1),
    }
}

/// The columns of a matrix as scales divide them.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// Columns.
    pub(super) cols: u32,
    /// Columns that share a scale of the matrix; 0: all of a row.
    group: u32,
    activation: ActivationScale,
}

impl Steps {
    /// Columns of a step: a power of two.
    pub(super) fn step(self) -> u32 {
        match (self.activation, self.group) {
            (ActivationScale::Block, 0) => TERNARY_BLOCK,
            (ActivationScale::Block, group) => group.min(TERNARY_BLOCK),
            (ActivationScale::Token, group) => group,
        }
    }

    /// Columns after which steps and blocks begin anew.
    pub(super) fn whole(self) -> u32 {
        match self.activation {
            ActivationScale::Block => TERNARY_BLOCK,
            ActivationScale::Token => self.group,
        }
    }

    /// Whether several steps have one scale of the matrix, but not all.
    pub(super) fn shares_scales(self) -> bool {
        self.group > self.step()
    }

    /// Steps of a block of the activation.
    fn parts(self) -> u32 {
        (TERNARY_BLOCK / self.step()).max(1)
    }

    /// Scales of a row of the matrix.
    pub(super) fn scales(self) -> u32 {
        self.cols.checked_div(self.group).unwrap_or(1)
    }

    /// Bytes from the scales of a tile's first step to those of step `index`, if each step or the row has its own.
    pub(super) fn scale_at(self, index: u32) -> i32 {
        if self.group == 0 { 0 } else { index as i32 * SCALES_BYTES as i32 }
    }

    /// Bytes from the scales of a tile's first step to those of a step whose number the kernel computes.
    pub(super) fn scale_of(self, b: &mut KernelBuilder, index: I64) -> I64 {
        if self.group == 0 {
            return b.int(0);
        }
        let group = b.shr(index, (self.group / self.step()).ilog2() as u8);
        b.mul(group, SCALES_BYTES)
    }

    /// Bytes from the first record of a row to that of step `index`, and from there to the sum of the step's codes.
    pub(super) fn record_at(self, index: u32) -> (i32, i32) {
        let parts = self.parts();
        let record = (index / parts * Q8B_RECORD as u32) as i32;
        let sum = match parts {
            1 => Q8B_SUM as i32,
            _ => Q8B_HALVES as i32 + 4 * (index % parts) as i32,
        };
        (record, sum)
    }

    /// As [`Steps::record_at`], for a number that the kernel computes: both from the first record.
    pub(super) fn record_of(self, b: &mut KernelBuilder, index: I64) -> (I64, I64) {
        let parts = i64::from(self.parts());
        let block = b.shr(index, parts.ilog2() as u8);
        let record = b.mul(block, Q8B_RECORD as i64);
        let sum = match parts {
            1 => b.add(record, Q8B_SUM as i64),
            _ => {
                let half = b.and(index, parts - 1);
                let at = b.shl(half, 2);
                let sum = b.add(record, at);
                b.add(sum, Q8B_HALVES as i64)
            }
        };
        (record, sum)
    }
}

/// The product under construction.
#[derive(Clone, Copy)]
pub(super) struct Grouped {
    pub(super) call: Call,
    pub(super) x: TokenRows,
    w: I64,
    scratch: I64,
    pub(super) steps: Steps,
    pub(super) activation: ActivationScale,
    pub(super) output: Output,
}

/// Addresses of a row tile's codes and scales.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) codes: I64,
    pub(super) scales: I64,
}

/// What a step has of one token.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    /// The sum of its codes, in all lanes.
    offset: Vi,
    /// Its scale, in all lanes; none where the token has one factor.
    scale: Option<Vf>,
}

/// Scratch of a kernel: for row tiles in the form of `tile16`, and for many tokens those of tile registers.
pub(in crate::kernels) fn scratch_bytes(cols: u32, layout: bitnetc_ir::Layout, many: bool) -> u64 {
    trits::scratch_bytes(cols, layout) + if many { grouped_tiles::scratch_bytes(cols) } else { 0 }
}

/// A unit is a tile of 16 rows, or a pair of a gate tile and an up tile, for all tokens. `group` is a multiple of 16 that
/// divides the columns.
pub(in crate::kernels) fn bitlinear_grouped(b: &mut KernelBuilder, kernel: &kernel::BitlinearGrouped) {
    let &kernel::BitlinearGrouped { call, rows, cols, layout, group, activation, epilogue, x, w, .. } =
        kernel;
    let &kernel::BitlinearGrouped { scales, residual, y, scratch, .. } = kernel;
    let output = Output { matrix: Matrix { rows, cols, layout, epilogue }, scales, residual, y };
    let scratch = scratch.unwrap_or(w);
    let steps = Steps { cols, group, activation };
    let grouped = Grouped { call, x, w, scratch, steps, activation, output };
    let zero = b.int(0);
    if call.one() && call.registers.vectors() >= 24 && steps.step() <= TERNARY_BLOCK {
        return steps::gemv(b, &grouped);
    }
    if call.one() || !call.registers.tiles() {
        return grouped.by_dots(b, zero);
    }
    // What is left of whole tiles of tokens is multiplied as where there are no tile registers.
    let whole = b.and(call.tokens, -(grouped_tiles::TOKENS as i64));
    b.if_then(zero, IntCond::Lt, whole, |b| grouped_tiles::run(b, &grouped, whole));
    b.if_then(whole, IntCond::Lt, call.tokens, |b| grouped.by_dots(b, whole));
}

impl Grouped {
    /// The row tiles of some units, as stored.
    pub(super) fn tiles(&self, b: &mut KernelBuilder, unit: I64, units: usize) -> Vec<Tile> {
        let (matrix, scales) = (self.output.matrix, i64::from(self.steps.scales()) * SCALES_BYTES);
        let per_unit = matrix.tiles_per_unit();
        let at = b.mul(unit, per_unit as i64 * matrix.tile_bytes());
        let w = b.add(self.w, at);
        let at = b.mul(unit, per_unit as i64 * scales);
        let first = b.add(self.output.scales, at);
        (0..(units * per_unit) as i64)
            .map(|i| Tile { codes: b.add(w, i * matrix.tile_bytes()), scales: b.add(first, i * scales) })
            .collect()
    }

    /// As [`Grouped::tiles`], with the codes in the form of `tile16`.
    pub(super) fn tiles16(&self, b: &mut KernelBuilder, unit: I64, units: usize) -> Vec<Tile> {
        let tiles = self.tiles(b, unit, units);
        let stored = tiles.iter().map(|tile| tile.codes).collect();
        let (codes, _) = trits::tile16(b, self.scratch, self.output.matrix, stored);
        tiles.iter().zip(codes).map(|(tile, codes)| Tile { codes, ..*tile }).collect()
    }

    /// Scratch after that of row tiles in the form of `tile16`.
    pub(super) fn scratch_after_tiles(&self, b: &mut KernelBuilder) -> I64 {
        b.add(self.scratch, trits::scratch_of(self.output.matrix) as i64)
    }

    /// Groups of 16 columns of a row tile in the form of `tile16`.
    pub(super) fn groups16(&self) -> u32 {
        self.steps.cols.div_ceil(TILE_COLS)
    }

    /// The factors of a step that covers `cols` columns from the code at `codes` on; `record` and `sum` are its places in the
    /// activation row, if that is in blocks.
    pub(super) fn factors(
        &self,
        b: &mut KernelBuilder,
        codes: (I64, i32),
        cols: u32,
        (record, sum): ((I64, i32), (I64, i32)),
    ) -> Factors {
        match self.activation {
            ActivationScale::Token => Factors { offset: code_sum(b, codes, cols), scale: None },
            ActivationScale::Block => Factors {
                offset: b.broadcast_i32(sum.0, sum.1),
                scale: Some(b.broadcast_f32(record.0, record.1 + Q8B_SCALE as i32)),
            },
        }
    }

    /// The float sum of a row tile and a token after a step, of which `product` is the sum of codes times codes and `scale` the scale
    /// of the matrix.
    pub(super) fn scaled(&self, b: &mut KernelBuilder, of: Factors, product: Vi, scale: Vf, sum: Vf) -> Vf {
        let product = b.isub(product, of.offset);
        let product = b.cvt_i32_f32(product);
        let scale = match of.scale {
            Some(of_token) => b.fmul(scale, of_token),
            None => scale,
        };
        b.fma(product, scale, sum)
    }

    /// Finishes a unit of the token with the activation row `x`: `sums` are those of its tiles.
    pub(super) fn finish(&self, b: &mut KernelBuilder, unit: I64, token: I64, x: I64, sums: &[Vf]) {
        let values: Vec<Vf> = match self.activation {
            ActivationScale::Token => {
                let a = b.broadcast_f32(x, q8_tail(self.steps.cols) as i32 + Q8_A as i32);
                sums.iter().map(|&sum| b.fdiv(sum, a)).collect()
            }
            ActivationScale::Block => sums.to_vec(),
        };
        self.output.store(b, unit, token, &values);
    }

    /// All units for the tokens from `from` on, without tile registers.
    fn by_dots(&self, b: &mut KernelBuilder, from: I64) {
        let (form, tiles, tokens) = blocking(self.call.registers.vectors(), self.call.one());
        let per_unit = self.output.matrix.tiles_per_unit();
        let together = halvings((tiles / per_unit).max(1));
        for_tiles(b, self.call.unit_begin, self.call.unit_end, &together, |b, unit, units| {
            let tiles = self.tiles16(b, unit, units);
            let work = |b: &mut KernelBuilder, token: I64, count: usize| {
                let first = self.x.of(b, token);
                let x = self.x.neighbours(b, first, count);
                let sums = self.dot(b, form, &tiles, &x);
                for (i, of_unit) in (0..).zip(sums.chunks(per_unit)) {
                    let unit = b.add(unit, i);
                    for (row, &x) in x.iter().enumerate() {
                        let token = b.add(token, row as i64);
                        let sums: Vec<Vf> = of_unit.iter().map(|of_tile| of_tile[row]).collect();
                        self.finish(b, unit, token, x, &sums);
                    }
                }
            };
            if self.call.one() {
                work(b, from, 1);
            } else {
                for_tiles(b, from, self.call.tokens, &halvings(tokens), work);
            }
        });
    }

    /// Σ over the steps of sum · scale for every tile, in the form of `tile16`, and every row at `rows`, as `[tile][row]`.
    fn dot(&self, b: &mut KernelBuilder, form: Form, tiles: &[Tile], rows: &[I64]) -> Vec<Vec<Vf>> {
        let zero = b.splat_f32(0.0);
        let sums = vec![vec![zero; rows.len()]; tiles.len()];
        let step = self.steps.step();
        let whole = self.steps.cols / step;
        let sums = b.for_loop(0, i64::from(whole), 1, sums, |b, index, sums| {
            self.add_step(b, form, tiles, rows, index, step, sums)
        });
        match self.steps.cols % step {
            0 => sums,
            left => {
                let index = b.int(i64::from(whole));
                self.add_step(b, form, tiles, rows, index, left, sums)
            }
        }
    }

    /// Adds step `index`, of `cols` columns.
    #[expect(clippy::too_many_arguments, reason = "what a step is made of")]
    fn add_step(
        &self,
        b: &mut KernelBuilder,
        form: Form,
        tiles: &[Tile],
        rows: &[I64],
        index: I64,
        cols: u32,
        mut sums: Vec<Vec<Vf>>,
    ) -> Vec<Vec<Vf>> {
        let column = b.mul(index, i64::from(self.steps.step()));
        let codes: Vec<I64> = rows.iter().map(|&x| b.add(x, column)).collect();
        // 16 columns are 64 bytes of a tile.
        let at = b.shl(column, 2);
        let of_tiles: Vec<I64> = tiles.iter().map(|t| b.add(t.codes, at)).collect();
        let products = tile::dot(b, form, &of_tiles, &codes, cols.div_ceil(TILE_COLS), 1, None);
        let tail = q8_tail(self.steps.cols) as i64;
        let places = (self.activation == ActivationScale::Block).then(|| self.steps.record_of(b, index));
        let factors: Vec<Factors> = rows
            .iter()
            .zip(&codes)
            .map(|(&x, &codes)| {
                let (record, sum) = match places {
                    None => (x, x),
                    Some((record, sum)) => {
                        let records = b.add(x, tail);
                        (b.add(records, record), b.add(records, sum))
                    }
                };
                self.factors(b, (codes, 0), cols, ((record, 0), (sum, 0)))
            })
            .collect();
        let at = self.steps.scale_of(b, index);
        for ((sums, products), tile) in sums.iter_mut().zip(products).zip(tiles) {
            let scales = b.add(tile.scales, at);
            let scale = b.load_f32(scales, 0, LANES as u8);
            for ((sum, product), &factors) in sums.iter_mut().zip(products).zip(&factors) {
                *sum = self.scaled(b, factors, product, scale, *sum);
            }
        }
        sums
    }
}

/// The sum of the `count` activation codes at an address and an offset, in all lanes.
fn code_sum(b: &mut KernelBuilder, (x, offset): (I64, i32), count: u32) -> Vi {
    let ones = b.splat_i32(0x0101_0101);
    let ones = b.as_vb(ones);
    let mut sum = b.splat_i32(0);
    for first in (0..count).step_by(64) {
        let codes = b.load_bytes(x, offset + first as i32, (count - first).min(64) as u8);
        sum = b.dot_u8i8(sum, ones, codes, 1);
    }
    b.reduce_add_i32(sum)
}
