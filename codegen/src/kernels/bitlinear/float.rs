//! Ternary matrix times activations that are not quantised.
//!
//! For models that are to be compared with float references: plain, and slow beside integers. A row tile is brought into the form
//! of `tile16`; then one column after the other gives 16 weights as f32, one for each row, which are multiplied with the elements
//! of a few tokens. The sum of a step starts at 0 and is added, times the scale of the matrix, to that of the row by fma, as
//! `docs/numerics.md` fixes it.

use bitnetc_ir::Layout;
use bitnetc_ir::blocks::TERNARY_BLOCK;
use bitnetc_ir::weights::{TILE_COLS, TILE_ROWS};

use super::{GROUP_BYTES, Matrix, Output, trits};
use crate::kernels::args::TokenRows;
use crate::kernels::lanes::{for_tiles, halvings};
use crate::kernels::{Registers, kernel};
use crate::kir::{I64, KernelBuilder, LANES, Vf, Vi};

/// Bytes of the scales of one group of a tile.
const SCALES_BYTES: i64 = 4 * TILE_ROWS as i64;

/// Scratch for row tiles in the form of `tile16`.
pub(in crate::kernels) fn scratch_bytes(cols: u32, layout: Layout) -> u64 {
    trits::scratch_bytes(cols, layout)
}

/// Tokens that go together: each has two sums, and in the second tile of a pair that of the first.
fn tokens(registers: Registers, per_unit: usize) -> usize {
    match registers.vectors() {
        24.. => 8,
        8.. if per_unit == 1 => 2,
        _ => 1,
    }
}

/// The product under construction.
struct Float {
    /// Columns.
    cols: u32,
    /// Columns that share a scale of the matrix; 0: all of a row.
    group: u32,
    x: TokenRows,
    output: Output,
}

/// A unit is a tile of 16 rows, or a pair of a gate tile and an up tile, for all tokens.
pub(in crate::kernels) fn bitlinear_f32(b: &mut KernelBuilder, kernel: &kernel::BitlinearF32) {
    let &kernel::BitlinearF32 {
        call, rows, cols, layout, group, epilogue, x, w, scales, residual, y, ..
    } = kernel;
    let matrix = Matrix { rows, cols, layout, epilogue };
    let this = Float { cols, group, x, output: Output { matrix, scales, residual, y } };
    let scratch = kernel.scratch.unwrap_or(w);
    let per_unit = matrix.tiles_per_unit();
    let of_tile = i64::from(this.groups()) * SCALES_BYTES;
    call.for_units(b, |b, unit| {
        let first = b.mul(unit, per_unit as i64);
        let at = b.mul(first, matrix.tile_bytes());
        let stored = b.add(w, at);
        let stored = (0..per_unit as i64).map(|i| b.add(stored, i * matrix.tile_bytes())).collect();
        let (codes, _) = trits::tile16(b, scratch, matrix, stored);
        let at = b.mul(first, of_tile);
        let scales = b.add(scales, at);
        let tiles: Vec<(I64, I64)> =
            (0..).zip(codes).map(|(i, codes)| (codes, b.add(scales, i * of_tile))).collect();
        let zero = b.int(0);
        match call.one() {
            true => this.block(b, unit, &tiles, zero, 1),
            false => for_tiles(
                b,
                zero,
                call.tokens,
                &halvings(tokens(call.registers, per_unit)),
                |b, token, count| {
                    this.block(b, unit, &tiles, token, count);
                },
            ),
        }
    });
}

impl Float {
    /// Scales of a row.
    fn groups(&self) -> u32 {
        self.cols.checked_div(self.group).unwrap_or(1)
    }

    /// Columns of a step.
    fn step(&self) -> u32 {
        if self.group == 0 { TERNARY_BLOCK } else { self.group.min(TERNARY_BLOCK) }
    }

    /// The row tiles of a unit, their codes and scales, times some tokens.
    fn block(&self, b: &mut KernelBuilder, unit: I64, tiles: &[(I64, I64)], token: I64, count: usize) {
        let first = self.x.of(b, token);
        let x = self.x.neighbours(b, first, count);
        let sums: Vec<Vec<Vf>> =
            tiles.iter().map(|&(codes, scales)| self.dot(b, codes, scales, &x)).collect();
        for row in 0..count {
            let token = b.add(token, row as i64);
            let values: Vec<Vf> = sums.iter().map(|of_tile| of_tile[row]).collect();
            self.output.store(b, unit, token, &values);
        }
    }

    /// The sums of a row tile with every row at `x`.
    fn dot(&self, b: &mut KernelBuilder, codes: I64, scales: I64, x: &[I64]) -> Vec<Vf> {
        let zero = b.splat_f32(0.0);
        let whole = self.cols / self.step();
        let sums = b.for_loop(0, i64::from(whole), 1, vec![zero; x.len()], |b, index, sums| {
            self.add_step(b, (codes, scales), x, index, self.step(), sums)
        });
        match self.cols % self.step() {
            0 => sums,
            left => {
                let index = b.int(i64::from(whole));
                self.add_step(b, (codes, scales), x, index, left, sums)
            }
        }
    }

    /// Adds step `index`, of `cols` columns.
    fn add_step(
        &self,
        b: &mut KernelBuilder,
        (codes, scales): (I64, I64),
        x: &[I64],
        index: I64,
        cols: u32,
        sums: Vec<Vf>,
    ) -> Vec<Vf> {
        let column = b.mul(index, i64::from(self.step()));
        // 16 columns are 64 bytes, of a tile as of an activation.
        let at = b.shl(column, 2);
        let codes = b.add(codes, at);
        let x: Vec<I64> = x.iter().map(|&x| b.add(x, at)).collect();
        let zero = b.splat_f32(0.0);
        let mut of_step = vec![zero; x.len()];
        let whole = cols / TILE_COLS;
        if whole > 0 {
            of_step = b.for_loop(0, i64::from(whole) * GROUP_BYTES, GROUP_BYTES, of_step, |b, at, sums| {
                let codes = b.add(codes, at);
                let x: Vec<I64> = x.iter().map(|&x| b.add(x, at)).collect();
                add_columns(b, codes, &x, TILE_COLS, sums)
            });
        }
        if cols > whole * TILE_COLS {
            let at = i64::from(whole) * GROUP_BYTES;
            let codes = b.add(codes, at);
            let x: Vec<I64> = x.iter().map(|&x| b.add(x, at)).collect();
            of_step = add_columns(b, codes, &x, cols - whole * TILE_COLS, of_step);
        }
        let at = match self.group {
            0 => b.int(0),
            group => {
                let group = b.shr(index, (group / self.step()).ilog2() as u8);
                b.mul(group, SCALES_BYTES)
            }
        };
        let scales = b.add(scales, at);
        let scale = b.load_f32(scales, 0, LANES as u8);
        sums.into_iter().zip(of_step).map(|(sum, of_step)| b.fma(of_step, scale, sum)).collect()
    }
}

/// Columns of a field.
const FIELD_COLS: u32 = 4;

/// Adds the first `cols` columns of the group at `codes`, times the elements at `x`, in rising order.
fn add_columns(b: &mut KernelBuilder, codes: I64, x: &[I64], cols: u32, mut sums: Vec<Vf>) -> Vec<Vf> {
    let group = b.load_bytes(codes, 0, GROUP_BYTES as u8);
    let mut group = b.as_vi(group);
    let whole = i64::from(cols / FIELD_COLS * FIELD_COLS * 4);
    if whole > 0 {
        // Fields are taken one after the other from the lowest bits, so that one is as much code as four.
        let init = (group, sums);
        (group, sums) = b.for_loop(0, whole, i64::from(4 * FIELD_COLS), init, |b, at, (group, sums)| {
            let x: Vec<I64> = x.iter().map(|&x| b.add(x, at)).collect();
            let sums = add_field(b, group, &x, 0, FIELD_COLS, sums);
            (b.ushr(group, 2), sums)
        });
    }
    add_field(b, group, x, whole as i32, cols % FIELD_COLS, sums)
}

/// Adds the first `cols` columns of the lowest field of a group, times the elements `at` bytes after `x`.
fn add_field(b: &mut KernelBuilder, group: Vi, x: &[I64], at: i32, cols: u32, mut sums: Vec<Vf>) -> Vec<Vf> {
    let (mask, one) = (b.splat_i32(3), b.splat_i32(1));
    for c in 0..cols {
        let code = if c > 0 { b.ushr(group, 8 * c as u8) } else { group };
        let code = b.band(code, mask);
        let weight = b.isub(code, one);
        let weight = b.cvt_i32_f32(weight);
        for (sum, &x) in sums.iter_mut().zip(x) {
            let x = b.broadcast_f32(x, at + 4 * c as i32);
            *sum = b.fma(weight, x, *sum);
        }
    }
    sums
}
