//! Block-quantised products, and the choice and exact recomputation of some rows of a head.

use super::scalar;
use super::tensor::Tensor;
use super::weights::{Blocks, Dense};
use crate::blocks::quantise::{QuantisedRow, quantise_activation};
use crate::blocks::{BLOCK, HALF_BLOCK};

/// int8 codes with a scale for each block of `block` columns.
pub(super) fn quant_blocks(rows: usize, width: usize, x: &[f32], block: u32) -> Tensor {
    let (mut codes, mut scales) = (Vec::with_capacity(x.len()), Vec::new());
    for x in x.chunks_exact(width).flat_map(|row| row.chunks(block as usize)) {
        let (of_block, scale) = quantise_activation(x);
        codes.extend(of_block);
        scales.push(scale);
    }
    Tensor::Q8b { rows, width, block, codes, scales }
}

fn dot(x: &[i8], w: &[i8]) -> i32 {
    x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum()
}

/// One row of codes times one row of an activation: block by block in rising order, from +0.0.
fn row_product(codes: &[i8], scales: &[f32], w: &QuantisedRow) -> f32 {
    let blocks = codes.chunks(BLOCK as usize).zip(w.codes.chunks(BLOCK as usize)).zip(scales);
    let mut acc = 0.0f32;
    for (b, ((x, q), &scale)) in blocks.enumerate() {
        match w.halves.get(b) {
            Some(&half) => acc = (dot(x, q) as f32).mul_add(scalar::f16_value(half) * scale, acc),
            None => {
                let half = (HALF_BLOCK as usize).min(x.len());
                let first = dot(&x[..half], q) * i32::from(w.steps[2 * b]);
                let second = dot(&x[half..], &q[half..]) * i32::from(w.steps[2 * b + 1]);
                acc = ((first + second) as f32).mul_add(scale, acc);
            }
        }
    }
    acc * w.factor
}

/// `x · Wᵀ` with the block-quantised matrix W.
pub(super) fn block_matmul(rows: usize, width: usize, codes: &[i8], scales: &[f32], w: &Blocks) -> Tensor {
    let blocks = width.div_ceil(BLOCK as usize);
    let tokens = codes.chunks_exact(width).zip(scales.chunks_exact(blocks));
    let data = tokens
        .flat_map(|(codes, scales)| w.rows.iter().map(move |row| row_product(codes, scales, row)))
        .collect();
    Tensor::F32 { rows, width: w.rows.len(), data }
}

/// An integer that orders as the numbers do, −0 below +0, with every NaN above all.
pub(super) fn key(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    if x.is_nan() { i32::MAX } else { bits ^ (bits >> 31 & i32::MAX) }
}

/// The number with this key; NaN for that of NaN.
fn unkey(key: i32) -> f32 {
    f32::from_bits((key ^ (key >> 31 & i32::MAX)) as u32)
}

/// The numbers of the `n` greatest elements of each row, in rising order; of equal ones the first.
pub(super) fn screen(rows: usize, width: usize, y: &[f32], n: usize) -> Tensor {
    let mut data = Vec::with_capacity(rows * n);
    for row in y.chunks_exact(width) {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(key(row[i])), i));
        order.truncate(n);
        order.sort_unstable();
        data.extend(order.into_iter().map(|i| i as i32));
    }
    Tensor::I32 { rows, width: n, data }
}

/// What `matmul` gives for the rows `chosen` (as many for each token).
pub(super) fn matmul_rows(tokens: usize, x: &[f32], chosen: &[i32], n: usize, w: &Dense<'_>) -> Tensor {
    let data = x
        .chunks_exact(w.cols as usize)
        .zip(chosen.chunks_exact(n))
        .flat_map(|(x, chosen)| {
            chosen.iter().map(move |&r| scalar::dot16(x, &w.row(r.clamp(0, w.rows as i32 - 1) as u32)))
        })
        .collect();
    Tensor::F32 { rows: tokens, width: n, data }
}

/// `exact` in the places `chosen`, and elsewhere `y`, but no more than the least of `exact`.
pub(super) fn merge_screened(
    rows: usize,
    width: usize,
    y: &[f32],
    chosen: &[i32],
    exact: &[f32],
    n: usize,
) -> Tensor {
    let mut data = Vec::with_capacity(y.len());
    let tokens = y.chunks_exact(width).zip(chosen.chunks_exact(n)).zip(exact.chunks_exact(n));
    for ((y, chosen), exact) in tokens {
        let least = exact.iter().map(|&x| key(x)).min().unwrap_or(i32::MAX);
        let start = data.len();
        data.extend(y.iter().map(|&y| unkey(key(y).min(least))));
        for (&r, &x) in chosen.iter().zip(exact) {
            if let Some(slot) = usize::try_from(r).ok().and_then(|r| data[start..].get_mut(r)) {
                *slot = x;
            }
        }
    }
    Tensor::F32 { rows, width, data }
}
