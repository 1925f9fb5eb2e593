//! Dense matrix times f32 activations: the language-model head.
//!
//! Each row has its own vector of 16 partial sums along the columns, in the order of `sum16`; rows that go together
//! share the loads of the activation, tokens that go together share the converted weights.

use bitnetc_ir::DType;
use bitnetc_ir::weights::TILE_ROWS;

use super::lanes::{for_tiles, halvings, load_dense};
use super::{Registers, kernel};
use crate::kir::{I64, KernelBuilder, LANES, Vf};

/// How the loop is blocked.
pub(super) struct Blocking {
    /// Matrix rows that go together.
    pub(super) rows: usize,
    /// Tokens that go together.
    tokens: usize,
    /// Vectors of 16 columns per iteration.
    pub(super) unroll: u32,
}

impl Blocking {
    /// For rows wherever they are.
    pub(super) fn new(vectors: usize, one: bool) -> Self {
        match (vectors, one) {
            (24.., true) => Self { rows: 8, tokens: 1, unroll: 2 },
            (24.., false) => Self { rows: 4, tokens: 4, unroll: 1 },
            (8.., true) => Self { rows: 4, tokens: 1, unroll: 2 },
            (8.., false) => Self { rows: 2, tokens: 2, unroll: 1 },
            (_, true) => Self { rows: 2, tokens: 1, unroll: 1 },
            (_, false) => Self { rows: 1, tokens: 2, unroll: 1 },
        }
    }

    /// For all rows of a matrix, in order.
    fn of_matrix(registers: Registers, one: bool) -> Self {
        match registers.vectors() {
            8.. if one && registers.one_stream() => Self { rows: 1, tokens: 1, unroll: 2 },
            vectors => Self::new(vectors, one),
        }
    }
}

/// A unit is a tile of 16 rows, for all tokens.
pub(super) fn matmul(b: &mut KernelBuilder, kernel: &kernel::Matmul) {
    let &kernel::Matmul { call, rows, cols, dtype, x, w, y } = kernel;
    let Blocking { rows: row_tile, tokens, unroll } = Blocking::of_matrix(call.registers, call.one());
    let row_bytes = i64::from(cols) * i64::from(dtype.element_bytes().unwrap_or(4));
    let row_of = |b: &mut KernelBuilder, unit: I64| {
        let row = b.mul(unit, i64::from(TILE_ROWS));
        b.min(row, i64::from(rows))
    };
    let (begin, end) = (row_of(b, call.unit_begin), row_of(b, call.unit_end));
    let zero = b.int(0);
    for_tiles(b, begin, end, &halvings(row_tile), |b, row, row_count| {
        let offset = b.mul(row, row_bytes);
        let w = b.add(w, offset);
        let w: Vec<I64> = (0..row_count as i64).map(|i| b.add(w, i * row_bytes)).collect();
        let products = |b: &mut KernelBuilder, token: I64, count: usize| {
            let first = x.of(b, token);
            let to = y.of(b, token);
            let at = b.shl(row, 2);
            let to = b.add(to, at);
            let x = x.neighbours(b, first, count);
            let sums = dot(b, &w, &x, cols, dtype, unroll);
            for (t, of_token) in (0..).zip(sums) {
                let y = b.add(to, t * y.stride());
                for (r, sum) in (0..).zip(of_token) {
                    let total = b.reduce_add_f32(sum);
                    b.store_f32(y, total, 4 * r, 1);
                }
            }
        };
        if call.one() {
            products(b, zero, 1);
        } else {
            for_tiles(b, zero, call.tokens, &halvings(tokens), products);
        }
    });
}

/// The 16 partial sums of every token at `x` with every row at `w`, as `[token][row]`.
pub(super) fn dot(
    b: &mut KernelBuilder,
    w: &[I64],
    x: &[I64],
    cols: u32,
    dtype: DType,
    unroll: u32,
) -> Vec<Vec<Vf>> {
    let lanes = LANES as u32;
    let element = dtype.element_bytes().unwrap_or(4);
    let zero = b.splat_f32(0.0);
    let mut sums = vec![vec![zero; w.len()]; x.len()];
    // One vector of columns: the activations first, then row after row.
    let step = |b: &mut KernelBuilder, w: &[I64], x: &[I64], at: i32, lanes: u8, mut sums: Vec<Vec<Vf>>| {
        let vectors: Vec<Vf> = x.iter().map(|&x| b.load_f32(x, 4 * at, lanes)).collect();
        for (row, &w) in w.iter().enumerate() {
            let weights = load_dense(b, w, element as i32 * at, lanes, dtype, true);
            for (sums, &v) in sums.iter_mut().zip(&vectors) {
                sums[row] = b.fma(v, weights, sums[row]);
            }
        }
        sums
    };
    let stride = unroll * lanes;
    let whole = cols / stride * stride;
    if whole > 0 {
        sums = b.for_loop(0, i64::from(whole), stride.into(), sums, |b, col, mut sums| {
            let at = b.shl(col, 2);
            let x: Vec<I64> = x.iter().map(|&x| b.add(x, at)).collect();
            let at = b.mul(col, i64::from(element));
            let w: Vec<I64> = w.iter().map(|&w| b.add(w, at)).collect();
            for i in 0..unroll {
                sums = step(b, &w, &x, (i * lanes) as i32, lanes as u8, sums);
            }
            sums
        });
    }
    let left = cols - whole;
    if left > 0 {
        let x: Vec<I64> = x.iter().map(|&x| b.add(x, 4 * i64::from(whole))).collect();
        let w: Vec<I64> = w.iter().map(|&w| b.add(w, i64::from(element) * i64::from(whole))).collect();
        for first in (0..left).step_by(LANES) {
            let lanes = (left - first).min(lanes) as u8;
            sums = step(b, &w, &x, first as i32, lanes, sums);
        }
    }
    sums
}
