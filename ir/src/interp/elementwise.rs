//! Ops on single elements, and `split`, which only moves them.

use super::frame::Act;
use super::scalar;
use super::tensor::Tensor;

/// `f(x)` of every element.
pub(super) fn map(rows: usize, width: usize, x: &[f32], f: fn(f32) -> f32) -> Tensor {
    Tensor::F32 { rows, width, data: x.iter().map(|&x| f(x)).collect() }
}

/// `f(a, b)` of every pair of elements.
pub(super) fn zip(rows: usize, width: usize, a: &[f32], b: &[f32], f: fn(f32, f32) -> f32) -> Tensor {
    Tensor::F32 { rows, width, data: a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect() }
}

/// The parts of every row, one tensor for each size.
pub(super) fn split(rows: usize, width: usize, x: &[f32], sizes: &[u32]) -> Vec<Tensor> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let size = size as usize;
        let data = x.chunks_exact(width).flat_map(|row| &row[start..start + size]).copied().collect();
        parts.push(Tensor::F32 { rows, width: size, data });
        start += size;
    }
    parts
}

/// exp(rate · softplus(x + bias)) of every element.
pub(super) fn softplus_decay(x: Act<'_>, bias: &[f32], rate: &[f32]) -> Tensor {
    let of_row = |row: &[f32]| -> Vec<f32> {
        let all = row.iter().zip(bias).zip(rate);
        all.map(|((&x, &bias), &rate)| scalar::softplus_decay(x + bias, rate)).collect()
    };
    let data = x.data.chunks_exact(x.width).flat_map(of_row).collect();
    Tensor::F32 { rows: x.rows, width: x.width, data }
}
