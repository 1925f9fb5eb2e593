//! Products with matrices, and the embedding, which reads rows of one.

use super::error::InterpError;
use super::frame::Multiplicand;
use super::scalar;
use super::tensor::Tensor;
use super::weights::{Dense, Table, Ternary};
use crate::attr::Epilogue;
use crate::blocks::TERNARY_BLOCK;
use crate::weights::TILE_ROWS;

/// The rows of `table` that belong to the tokens.
pub(super) fn embed(tokens: &[u32], table: Table<'_, '_>) -> Result<Tensor, InterpError> {
    let (rows, cols) = match table {
        Table::Dense(table) => (table.rows, table.cols),
        Table::Ternary(table) => (table.rows, table.cols),
    };
    let width = cols as usize;
    let mut data = Vec::with_capacity(tokens.len() * width);
    for (place, &token) in tokens.iter().enumerate() {
        if token >= rows {
            return Err(InterpError::TokenId { token, place, vocab: rows });
        }
        match table {
            Table::Dense(table) => data.extend(table.row(token)),
            Table::Ternary(table) => {
                let (codes, scales) = table.row(token);
                let group = table.scale_cols();
                data.extend(codes.iter().enumerate().map(|(c, &t)| f32::from(t) * scales[c / group]));
            }
        }
    }
    Ok(Tensor::F32 { rows: tokens.len(), width, data })
}

/// `x · Wᵀ` with the dense matrix W, one dot product for each token and row of W.
pub(super) fn matmul(tokens: usize, x: &[f32], w: &Dense<'_>) -> Tensor {
    let (width, cols) = (w.rows as usize, w.cols as usize);
    let mut data = vec![0.0; tokens * width];
    for r in 0..w.rows {
        let row = w.row(r);
        for (t, x) in x.chunks_exact(cols).enumerate() {
            data[t * width + r as usize] = scalar::dot16(x, &row);
        }
    }
    Tensor::F32 { rows: tokens, width, data }
}

/// One token times row `r` of a ternary matrix.
///
/// - With a factor for the token: the exact sum, divided by the factor, times the row's scale; with several groups, their sums
///   times their scales, added by fma in rising order, divided by the factor.
/// - With scales for blocks: the exact sum of each step, as many columns as have one scale of either kind, times the product of
///   the two scales, added by fma in rising order.
/// - Of f32: the columns of each step added by fma in rising order, and the sums as before, with the scale of the matrix. A step
///   is at most [`TERNARY_BLOCK`] columns.
fn row_product(x: TokenRow<'_>, w: &Ternary, r: u32) -> f32 {
    let ((row, scales), group) = (w.row(r), w.scale_cols());
    match x {
        TokenRow::Quant(codes, a) => {
            let mut sums = codes.chunks(group).zip(row.chunks(group)).map(|(x, row)| dot(x, row) as f32);
            match (w.group, scales) {
                (0, &[scale]) => sums.next().unwrap_or(0.0) / a * scale,
                _ => sums.zip(scales).fold(0.0f32, |y, (sum, &scale)| sum.mul_add(scale, y)) / a,
            }
        }
        TokenRow::Blocks(codes, of_blocks, block) => {
            let step = group.min(block);
            let steps = codes.chunks(step).zip(row.chunks(step)).enumerate();
            steps.fold(0.0f32, |y, (i, (x, row))| {
                let scale = scales[i * step / group] * of_blocks[i * step / block];
                (dot(x, row) as f32).mul_add(scale, y)
            })
        }
        TokenRow::Act(x) => {
            let step = group.min(TERNARY_BLOCK as usize);
            let steps = x.chunks(step).zip(row.chunks(step)).enumerate();
            steps.fold(0.0f32, |y, (i, (x, row))| {
                let sum = x.iter().zip(row).fold(0.0f32, |sum, (&x, &t)| f32::from(t).mul_add(x, sum));
                sum.mul_add(scales[i * step / group], y)
            })
        }
    }
}

fn dot(x: &[i8], w: &[i8]) -> i32 {
    x.iter().zip(w).map(|(&q, &w)| i32::from(q) * i32::from(w)).sum()
}

/// A row of what a ternary matrix multiplies.
#[derive(Clone, Copy)]
enum TokenRow<'t> {
    Act(&'t [f32]),
    /// Codes and the factor.
    Quant(&'t [i8], f32),
    /// Codes, the scales of blocks, and columns of a block.
    Blocks(&'t [i8], &'t [f32], usize),
}

fn token_rows<'t>(x: Multiplicand<'t>, cols: usize) -> Vec<TokenRow<'t>> {
    match x {
        Multiplicand::Act(x) => x.data.chunks_exact(cols).map(TokenRow::Act).collect(),
        Multiplicand::Quant(x) => {
            x.codes.chunks_exact(cols).zip(x.a).map(|(codes, &a)| TokenRow::Quant(codes, a)).collect()
        }
        Multiplicand::Blocks(x) => {
            let block = x.block as usize;
            let scales = x.scales.chunks_exact(cols.div_ceil(block));
            x.codes.chunks_exact(cols).zip(scales).map(|(q, d)| TokenRow::Blocks(q, d, block)).collect()
        }
    }
}

/// Products with a ternary matrix, then the epilogue. The residual is there exactly with [`Epilogue::Add`].
pub(super) fn bitlinear(
    x: Multiplicand<'_>,
    w: &Ternary,
    epilogue: Epilogue,
    residual: Option<&[f32]>,
) -> Tensor {
    let tokens = token_rows(x, w.cols as usize);
    let (rows, mut width) = (tokens.len(), w.rows as usize);
    let mut data = vec![0.0; rows * width];
    for r in 0..w.rows {
        for (t, &x) in tokens.iter().enumerate() {
            data[t * width + r as usize] = row_product(x, w, r);
        }
    }
    match epilogue {
        Epilogue::None => {}
        Epilogue::Add => {
            for (y, &r) in data.iter_mut().zip(residual.unwrap_or_default()) {
                *y += r;
            }
        }
        Epilogue::Relu2Mul | Epilogue::SiluMul => {
            // 16 gate elements, then the 16 up elements that belong to them.
            let block = TILE_ROWS as usize;
            let gated = data.chunks_exact(2 * block).flat_map(|pair| {
                let (gate, up) = pair.split_at(block);
                gate.iter().zip(up).map(|(&g, &u)| match epilogue {
                    Epilogue::SiluMul => scalar::silu(g) * u,
                    _ => scalar::relu2(g) * u,
                })
            });
            data = gated.collect();
            width /= 2;
        }
    }
    Tensor::F32 { rows, width, data }
}
