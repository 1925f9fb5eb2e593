//! Products with matrices, and the embedding, which reads rows of one.

use super::error::InterpError;
use super::scalar;
use super::tensor::Tensor;
use super::weights::{Dense, Ternary};
use crate::attr::Epilogue;
use crate::weights::TILE_ROWS;

/// The rows of `table` that belong to the tokens.
pub(super) fn embed(tokens: &[u32], table: &Dense<'_>) -> Result<Tensor, InterpError> {
    let width = table.cols as usize;
    let mut data = Vec::with_capacity(tokens.len() * width);
    for (place, &token) in tokens.iter().enumerate() {
        if token >= table.rows {
            return Err(InterpError::TokenId { token, place, vocab: table.rows });
        }
        data.extend(table.row(token));
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

/// `x · Wᵀ` with the ternary matrix W: exact integer sums, divided by the token's factor, times the row's scale; with
/// groups, the sums of the groups times their scales, added by fma in rising order, divided by the token's factor.
fn products(codes: &[i8], a: &[f32], w: &Ternary) -> Vec<f32> {
    let (width, cols) = (w.rows as usize, w.cols as usize);
    let mut y = vec![0.0; a.len() * width];
    let group = if w.group == 0 { cols } else { w.group as usize };
    let scales = w.scales.chunks_exact(cols.div_ceil(group));
    for (r, (row, scales)) in w.codes.chunks_exact(cols).zip(scales).enumerate() {
        for (t, x) in codes.chunks_exact(cols).enumerate() {
            let mut sums = x.chunks(group).zip(row.chunks(group)).map(|(x, row)| {
                x.iter().zip(row).map(|(&q, &w)| i32::from(q) * i32::from(w)).sum::<i32>() as f32
            });
            y[t * width + r] = match (w.group, scales) {
                (0, &[scale]) => sums.next().unwrap_or(0.0) / a[t] * scale,
                _ => sums.zip(scales).fold(0.0f32, |y, (sum, &scale)| sum.mul_add(scale, y)) / a[t],
            };
        }
    }
    y
}

/// Products with a ternary matrix, and nothing more.
pub(super) fn ternary_matmul(codes: &[i8], a: &[f32], w: &Ternary) -> Tensor {
    Tensor::F32 { rows: a.len(), width: w.rows as usize, data: products(codes, a, w) }
}

/// Products with a ternary matrix, then the epilogue. The residual is there exactly with [`Epilogue::Add`].
pub(super) fn bitlinear(
    codes: &[i8],
    a: &[f32],
    w: &Ternary,
    epilogue: Epilogue,
    residual: Option<&[f32]>,
) -> Tensor {
    let (rows, mut width, mut data) = (a.len(), w.rows as usize, products(codes, a, w));
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
