//! Layers with a recurrent state: the short convolution and the gated delta rule. Both go through their tokens one by one, which
//! defines the order of every sum, so tokens may come in any number of calls. A call at position 0 begins a sequence: its state is
//! zeros, whatever the value holds.

use super::frame::Act;
use super::scalar;
use super::tensor::{State, Tensor};
use super::weights::Dense;

/// Takes what another sequence has left out of the state.
fn begin(state: &mut State, pos: u32) {
    if pos == 0 {
        state.data.fill(0.0);
    }
}

/// Each channel of each token: the products of `w` with the newest token and those before it, by fma from the oldest to the newest.
pub(super) fn causal_conv(x: Act<'_>, w: &Dense<'_>, state: &mut State, pos: u32) -> Tensor {
    begin(state, pos);
    let channels = x.width;
    let taps: Vec<Vec<f32>> = (0..w.rows).map(|tap| w.row(tap)).collect();
    let before = state.data.len();
    // Tokens of the state, then those of the call.
    let mut all = std::mem::take(&mut state.data);
    all.extend_from_slice(x.data);
    let mut data = Vec::with_capacity(x.data.len());
    for t in 0..x.rows {
        for c in 0..channels {
            let products = taps.iter().enumerate().map(|(j, w)| (w[c], all[(t + j) * channels + c]));
            data.push(products.fold(0.0f32, |y, (w, x)| w.mul_add(x, y)));
        }
    }
    all.drain(..all.len() - before);
    state.data = all;
    Tensor::F32 { rows: x.rows, width: channels, data }
}

/// What the delta rule reads beside its state.
pub(super) struct DeltaInputs<'a> {
    pub(super) q: Act<'a>,
    pub(super) k: Act<'a>,
    pub(super) v: Act<'a>,
    pub(super) decay: Act<'a>,
    pub(super) beta: Act<'a>,
}

/// Per token and value head: the state decays, the value at the key is predicted from it, what is missing is added to it, and
/// it is read at the query. Value head j belongs to key head j modulo their number.
pub(super) fn delta_rule(inputs: &DeltaInputs<'_>, state: &mut State, pos: u32) -> Tensor {
    begin(state, pos);
    let DeltaInputs { q, k, v, decay, beta } = *inputs;
    let (heads, d) = (state.dims.heads as usize, state.dims.cols as usize);
    let key_heads = q.width / d;
    let mut data = Vec::with_capacity(v.data.len());
    for t in 0..v.rows {
        for head in 0..heads {
            let key = t * q.width + head % key_heads * d..;
            let (q, k) = (&q.data[key.clone()][..d], &k.data[key][..d]);
            let v = &v.data[t * v.width + head * d..][..d];
            let (decay, beta) = (decay.data[t * heads + head], beta.data[t * heads + head]);
            let matrix = &mut state.data[head * d * d..(head + 1) * d * d];
            data.extend(delta_step(q, k, v, decay, beta, matrix));
        }
    }
    Tensor::F32 { rows: v.rows, width: v.width, data }
}

/// One token of one head, whose matrix has a row for each element of the key and a column for each of the value.
fn delta_step(q: &[f32], k: &[f32], v: &[f32], decay: f32, beta: f32, matrix: &mut [f32]) -> Vec<f32> {
    let d = v.len();
    matrix.iter_mut().for_each(|s| *s *= decay);
    let column = |matrix: &[f32], e: usize| -> Vec<f32> { matrix[e..].iter().step_by(d).copied().collect() };
    let missing: Vec<f32> = (0..d).map(|e| (v[e] - scalar::dot_seq(&column(matrix, e), k)) * beta).collect();
    for (row, &k) in matrix.chunks_exact_mut(d).zip(k) {
        for (s, &missing) in row.iter_mut().zip(&missing) {
            *s = missing.mul_add(k, *s);
        }
    }
    (0..d).map(|e| scalar::dot_seq(&column(matrix, e), q)).collect()
}
