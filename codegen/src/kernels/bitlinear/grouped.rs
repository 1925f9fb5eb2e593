//! Ternary matrices with a scale for each group of columns.
//!
//! Integer sums are exact within a group only: at its end the sum is converted and goes, times the scale, into a float
//! sum by fma, in rising order of the groups (`docs/numerics.md`). The offset of the codes is taken off group by group
//! too, by the sum of the group's activation codes, which a product with ones gives.

use bitnetc_ir::Layout;
use bitnetc_ir::storage::{Q8_A, q8_tail};
use bitnetc_ir::weights::{TILE_COLS, TILE_ROWS};

use super::{Form, Matrix, Output, tile};
use crate::kernels::kernel;
use crate::kernels::lanes::{for_tiles, halvings};
use crate::kir::{I64, KernelBuilder, LANES, Vf, Vi};

/// Bytes of the scales of one group of a tile.
const SCALES_BYTES: i64 = 4 * TILE_ROWS as i64;

/// How the loop is blocked: row tiles and tokens that go together. The float sums stay in registers beside the integer
/// ones, so there is room for fewer than in [`super::gemm`].
fn blocking(vectors: usize, one: bool) -> (Form, usize, usize) {
    match (vectors, one) {
        (24.., true) => (Form::InPlace, 2, 1),
        (24.., false) => (Form::Shifted, 2, 2),
        _ => (Form::Shifted, 1, 1),
    }
}

/// A unit is a tile of 16 rows, or a pair of a gate tile and an up tile, for all tokens. `group` is a multiple of 16 that
/// divides the columns.
pub(in crate::kernels) fn bitlinear_grouped(b: &mut KernelBuilder, kernel: &kernel::BitlinearGrouped) {
    let &kernel::BitlinearGrouped { call, rows, cols, group, epilogue, x, scales, residual, y, .. } = kernel;
    let matrix = Matrix { rows, cols, layout: Layout::Tile16, epilogue };
    let output = Output { matrix, scales, residual, y };
    let (form, tiles, tokens) = blocking(call.registers.vectors(), call.one());
    let per_unit = matrix.tiles_per_unit();
    let groups = i64::from(cols / group);
    let zero = b.int(0);
    for_tiles(b, call.unit_begin, call.unit_end, &halvings((tiles / per_unit).max(1)), |b, unit, units| {
        let at = b.mul(unit, per_unit as i64 * matrix.tile_bytes());
        let w = b.add(kernel.w, at);
        let at = b.mul(unit, per_unit as i64 * groups * SCALES_BYTES);
        let scales = b.add(scales, at);
        let tiles: Vec<Tile> = (0..(units * per_unit) as i64)
            .map(|i| Tile {
                codes: b.add(w, i * matrix.tile_bytes()),
                scales: b.add(scales, i * groups * SCALES_BYTES),
            })
            .collect();
        let work = |b: &mut KernelBuilder, token: I64, count: usize| {
            let first = x.of(b, token);
            let x = x.neighbours(b, first, count);
            let sums = dot(b, form, &tiles, &x, group, groups);
            for (i, of_unit) in (0..).zip(sums.chunks(per_unit)) {
                let unit = b.add(unit, i);
                for (row, &x) in x.iter().enumerate() {
                    let token = b.add(token, row as i64);
                    let a = b.broadcast_f32(x, q8_tail(cols) as i32 + Q8_A as i32);
                    let values: Vec<Vf> = of_unit.iter().map(|of_tile| b.fdiv(of_tile[row], a)).collect();
                    output.store(b, unit, token, &values);
                }
            }
        };
        if call.one() {
            work(b, zero, 1);
        } else {
            for_tiles(b, zero, call.tokens, &halvings(tokens), work);
        }
    });
}

/// Addresses of a row tile's codes and scales.
struct Tile {
    codes: I64,
    scales: I64,
}

/// Σ over the groups of sum · scale, as `[tile][row]`.
fn dot(
    b: &mut KernelBuilder,
    form: Form,
    tiles: &[Tile],
    rows: &[I64],
    group: u32,
    groups: i64,
) -> Vec<Vec<Vf>> {
    let zero = b.splat_f32(0.0);
    let sums = vec![vec![zero; rows.len()]; tiles.len()];
    b.for_loop(0, groups, 1, sums, |b, index, mut sums| {
        let column = b.mul(index, i64::from(group));
        let rows: Vec<I64> = rows.iter().map(|&x| b.add(x, column)).collect();
        // 16 columns are 64 bytes of a tile.
        let at = b.shl(column, 2);
        let codes: Vec<I64> = tiles.iter().map(|t| b.add(t.codes, at)).collect();
        let products = tile::dot(b, form, &codes, &rows, group / TILE_COLS, 1, None);
        let offsets: Vec<Vi> = rows.iter().map(|&x| code_sum(b, x, group)).collect();
        let at = b.mul(index, SCALES_BYTES);
        for ((sums, products), tile) in sums.iter_mut().zip(products).zip(tiles) {
            let scales = b.add(tile.scales, at);
            let scale = b.load_f32(scales, 0, LANES as u8);
            for ((sum, product), &offset) in sums.iter_mut().zip(products).zip(&offsets) {
                let product = b.isub(product, offset);
                let product = b.cvt_i32_f32(product);
                *sum = b.fma(product, scale, *sum);
            }
        }
        sums
    })
}

/// The sum of the `count` activation codes at `x`, in all lanes.
fn code_sum(b: &mut KernelBuilder, x: I64, count: u32) -> Vi {
    let ones = b.splat_i32(0x0101_0101);
    let ones = b.as_vb(ones);
    let mut sum = b.splat_i32(0);
    for first in (0..count).step_by(64) {
        let codes = b.load_bytes(x, first as i32, (count - first).min(64) as u8);
        sum = b.dot_u8i8(sum, ones, codes, 1);
    }
    b.reduce_add_i32(sum)
}
