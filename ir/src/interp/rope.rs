//! Rotary position embedding.

use super::tensor::Tensor;
use crate::attr::Pairs;
use crate::rope::{Theta, cos_sin};

/// The attributes of `rope`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Base of the frequencies.
    pub(super) theta: Theta,
    /// Elements of a head.
    pub(super) head: u32,
    /// Elements of a head that are turned; the rest is copied.
    pub(super) rot: u32,
    /// Which elements are turned together.
    pub(super) pairs: Pairs,
}

/// Turns the pairs of every head of every token; token t stands at `pos + t`.
pub(super) fn rope(rows: usize, width: usize, x: &[f32], pos: u32, turn: Turn) -> Tensor {
    let mut data = x.to_vec();
    let half = turn.rot as usize / 2;
    for (t, row) in data.chunks_exact_mut(width).enumerate() {
        let angles: Vec<(f32, f32)> =
            (0..turn.rot / 2).map(|j| cos_sin(turn.theta, turn.rot, pos + t as u32, j)).collect();
        for head in row.chunks_exact_mut(turn.head as usize) {
            for (j, &(c, s)) in angles.iter().enumerate() {
                let (i0, i1) = match turn.pairs {
                    Pairs::Halves => (j, j + half),
                    Pairs::Interleaved => (2 * j, 2 * j + 1),
                };
                let (x0, x1) = (head[i0], head[i1]);
                head[i0] = x0 * c - x1 * s;
                head[i1] = x0 * s + x1 * c;
            }
        }
    }
    Tensor::F32 { rows, width, data }
}
