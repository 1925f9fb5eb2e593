//! The Walsh-Hadamard transform of a rotation, and the order of heads that goes with it.

use super::frame::Act;
use super::tensor::Tensor;
use crate::attr::Direction;

/// Butterflies with steps 1, 2, 4, …, then the factor 1/√block, in each block; signs before it or after it.
pub(super) fn hadamard(x: Act<'_>, signs: Option<&[f32]>, block: usize, direction: Direction) -> Tensor {
    let mut data = x.data.to_vec();
    let apply_signs = |data: &mut [f32]| {
        for row in data.chunks_exact_mut(x.width) {
            row.iter_mut().zip(signs.unwrap_or_default()).for_each(|(x, &sign)| *x *= sign);
        }
    };
    if direction == Direction::Forward {
        apply_signs(&mut data);
    }
    data.chunks_exact_mut(block).for_each(transform);
    if direction == Direction::Inverse {
        apply_signs(&mut data);
    }
    Tensor::F32 { rows: x.rows, width: x.width, data }
}

/// The factor by which a block is multiplied after the butterflies.
pub fn factor(block: u32) -> f32 {
    (1.0 / f64::from(block).sqrt()) as f32
}

fn transform(block: &mut [f32]) {
    let mut step = 1;
    while step < block.len() {
        for pair in block.chunks_exact_mut(2 * step) {
            let (low, high) = pair.split_at_mut(step);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        step *= 2;
    }
    let factor = factor(block.len() as u32);
    block.iter_mut().for_each(|x| *x *= factor);
}

/// The heads of each row, a matrix of `of` rows of heads, in the order of the transposed matrix.
pub(super) fn transpose_heads(x: Act<'_>, head: usize, of: usize) -> Tensor {
    let columns = x.width / (head * of);
    let mut data = Vec::with_capacity(x.data.len());
    for row in x.data.chunks_exact(x.width) {
        for (column, line) in (0..columns).flat_map(|c| (0..of).map(move |r| (c, r))) {
            data.extend_from_slice(&row[(line * columns + column) * head..][..head]);
        }
    }
    Tensor::F32 { rows: x.rows, width: x.width, data }
}
