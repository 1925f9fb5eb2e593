//! Ternary matrix times quantised activations: exact integer sums, then the scales and an epilogue.
//!
//! [`tile`] and [`passes`] are inner products of a few row tiles with a few tokens; [`gemv`] and [`gemm`] choose one and walk
//! the units. [`trits`] and [`lut`] are what differs for a matrix of 1.6 bits a weight. [`grouped`] is the product where columns have
//! scales of their own, [`float`] that with activations that are not quantised. The layouts of the matrix
//! (`tile16`, `trits16`, `lut16`) are in `bitnetc_ir::weights`, that of an activation row in `bitnetc_ir::storage`. A stored
//! code is the weight plus 1, so the sum of the codes' products exceeds the sum of the weights' products by the sum of the
//! activation's codes, which its row carries.

mod float;
mod gemm;
mod gemv;
mod grouped;
mod grouped_tiles;
mod lut;
mod one;
mod passes;
mod steps;
mod tile;
mod tile_registers;
pub(super) mod trits;

use bitnetc_ir::storage::{Q8_A, Q8_SUM, q8_tail};
use bitnetc_ir::weights::{TILE_COLS, TILE_ROWS, TRITS_COLS};
use bitnetc_ir::{Epilogue, Layout};

use super::args::TokenRows;
use super::elementwise::{relu2, silu};
use super::kernel;
use crate::kir::{I64, IntCond, KernelBuilder, LANES, Vf, Vi};

/// Scratch of a kernel for many tokens: for row tiles in other forms than they are stored in, and for sums.
pub(super) fn scratch_bytes(cols: u32, layout: Layout) -> u64 {
    trits::scratch_bytes(cols, layout) + tile_registers::scratch_bytes(cols)
}

pub(super) use float::{bitlinear_f32, scratch_bytes as float_scratch_bytes};
pub(super) use grouped::{bitlinear_grouped, scratch_bytes as grouped_scratch_bytes};
pub(super) use tile::Form;

/// Bytes of one group of 16 rows.
const GROUP_BYTES: i64 = 64;

/// The matrix.
#[derive(Clone, Copy)]
struct Matrix {
    rows: u32,
    cols: u32,
    layout: Layout,
    /// What happens to the sums.
    epilogue: Epilogue,
}

/// What becomes of the sums of a matrix.
#[derive(Clone, Copy)]
struct Output {
    matrix: Matrix,
    scales: I64,
    /// What [`Epilogue::Add`] adds.
    residual: Option<TokenRows>,
    y: TokenRows,
}

/// What the name of a kernel says of its epilogue.
pub(super) fn suffix(epilogue: Epilogue) -> &'static str {
    match epilogue {
        Epilogue::None => "",
        Epilogue::Add => "_add",
        Epilogue::Relu2Mul => "_relu2_mul",
        Epilogue::SiluMul => "_silu_mul",
    }
}

/// What the name of a kernel says of groups of columns that share a scale.
pub(super) fn group_suffix(group: u32) -> String {
    if group == 0 { String::new() } else { format!("_g{group}") }
}

/// Stores the codes of one lane of a group of `layout`, the four bytes at `from`, to `to`, a byte each.
pub(super) fn store_codes(b: &mut KernelBuilder, layout: Layout, from: I64, to: I64) {
    let stored = b.broadcast_i32(from, 0);
    let fields = match layout.has_five_a_byte() {
        true => trits::codes(b, layout, stored),
        false => tile::codes(b, stored),
    };
    for (field, codes) in (0..).zip(fields) {
        let codes = b.as_vb(codes);
        b.store_bytes(to, codes, field * tile::FIELD_COLS, tile::FIELD_COLS as u8);
    }
}

/// A unit is a tile of 16 rows, or a pair of a gate tile and an up tile, for all tokens.
pub(super) fn bitlinear(b: &mut KernelBuilder, kernel: &kernel::Bitlinear) {
    let &kernel::Bitlinear { rows, cols, layout, epilogue, scales, residual, y, .. } = kernel;
    let output = Output { matrix: Matrix { rows, cols, layout, epilogue }, scales, residual, y };
    match kernel.scratch {
        None => gemv::gemv(b, kernel, output),
        Some(scratch) => gemm::gemm(b, kernel, scratch, output),
    }
}

impl Matrix {
    /// Groups in a row tile, as stored.
    fn groups(self) -> u32 {
        self.cols.div_ceil(if self.layout.has_five_a_byte() { TRITS_COLS } else { TILE_COLS })
    }

    /// Bytes of a row tile, as stored.
    fn tile_bytes(self) -> i64 {
        i64::from(self.groups()) * GROUP_BYTES
    }

    fn paired(self) -> bool {
        self.epilogue.is_gated()
    }

    /// Row tiles in a unit.
    fn tiles_per_unit(self) -> usize {
        if self.paired() { 2 } else { 1 }
    }
}

impl Output {
    /// Finishes a unit of one token: `sums` are those of its tiles, `x` is the activation row.
    fn finish(self, b: &mut KernelBuilder, unit: I64, token: I64, x: I64, sums: &[Vi]) {
        let tail = q8_tail(self.matrix.cols) as i32;
        let a = b.broadcast_f32(x, tail + Q8_A as i32);
        let offset = b.broadcast_i32(x, tail + Q8_SUM as i32);
        let tiles = sums.len() as i64;
        let at = b.mul(unit, tiles * 4 * i64::from(TILE_ROWS));
        let scales = b.add(self.scales, at);
        let rescaled: Vec<Vf> = sums
            .iter()
            .zip(0..)
            .map(|(&sum, tile)| {
                let acc = b.isub(sum, offset);
                let acc = b.cvt_i32_f32(acc);
                let y = b.fdiv(acc, a);
                let scale = b.load_f32(scales, tile * 4 * TILE_ROWS as i32, LANES as u8);
                b.fmul(y, scale)
            })
            .collect();
        self.store(b, unit, token, &rescaled);
    }

    /// Applies the epilogue to a unit of one token and stores it: `rescaled` are the products of its tiles.
    fn store(self, b: &mut KernelBuilder, unit: I64, token: I64, rescaled: &[Vf]) {
        let Matrix { rows, epilogue, .. } = self.matrix;
        let y = self.y.of(b, token);
        let at = b.mul(unit, 4 * i64::from(TILE_ROWS));
        let y = b.add(y, at);
        let left = rows % TILE_ROWS;
        let store = |b: &mut KernelBuilder, lanes: u8| {
            let value = match (epilogue, rescaled, self.residual) {
                (Epilogue::Relu2Mul, &[gate, up], _) => {
                    let gate = relu2(b, gate);
                    b.fmul(gate, up)
                }
                (Epilogue::SiluMul, &[gate, up], _) => {
                    let gate = silu(b, gate);
                    b.fmul(gate, up)
                }
                (Epilogue::Add, _, Some(residual)) => {
                    let residual = residual.of(b, token);
                    let residual = b.add(residual, at);
                    let residual = b.load_f32(residual, 0, lanes);
                    b.fadd(rescaled[0], residual)
                }
                _ => rescaled[0],
            };
            b.store_f32(y, value, 0, lanes);
        };
        if left == 0 {
            store(b, LANES as u8);
        } else {
            let last = i64::from(rows / TILE_ROWS);
            b.if_else(unit, IntCond::Lt, last, |b| store(b, LANES as u8), |b| store(b, left as u8));
        }
    }
}
