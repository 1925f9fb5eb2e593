//! KV caches and attention over them.

use super::error::InterpError;
use super::scalar;
use super::tensor::{Cache, Tensor};
use crate::KEY_BLOCK;

fn check_room(cache: &Cache, pos: u32, tokens: usize) -> Result<(), InterpError> {
    match u64::from(pos) + tokens as u64 <= u64::from(cache.capacity) {
        true => Ok(()),
        false => Err(InterpError::Capacity { pos, tokens, capacity: cache.capacity }),
    }
}

/// Stores the rows of the tokens from position `pos` on. A row is the heads one after the other.
pub(super) fn append(cache: &mut Cache, x: &[f32], pos: u32) -> Result<(), InterpError> {
    let head_dim = cache.dims.head_dim as usize;
    let width = cache.dims.kv_heads as usize * head_dim;
    check_room(cache, pos, x.len() / width)?;
    for (t, row) in x.chunks_exact(width).enumerate() {
        for (head, part) in row.chunks_exact(head_dim).enumerate() {
            cache.store(head, pos as usize + t, part);
        }
    }
    Ok(())
}

/// The attributes of `attention` and the sizes that follow from them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) heads: usize,
    /// Key/value heads; query head h reads head `h / (heads / kv_heads)`.
    pub(super) kv_heads: usize,
    /// Factor of the scores.
    pub(super) scale: f32,
}

/// What attention keeps of the blocks of keys seen so far.
struct Partial {
    /// The greatest score.
    max: f32,
    /// Sum of exp(score − max).
    sum: f32,
    /// Sum of exp(score − max) · value.
    out: Vec<f32>,
}

/// Causal attention: the token at `pos + t` attends to positions up to its own.
pub(super) fn attention(
    tokens: usize,
    q: &[f32],
    kc: &Cache,
    vc: &Cache,
    pos: u32,
    spec: Heads,
) -> Result<Tensor, InterpError> {
    check_room(kc, pos, tokens)?;
    check_room(vc, pos, tokens)?;
    let d = kc.dims.head_dim as usize;
    let width = spec.heads * d;
    let group = spec.heads / spec.kv_heads;
    let positions = pos as usize + tokens;
    let mut data = vec![0.0; tokens * width];
    for kv_head in 0..spec.kv_heads {
        let (keys, values) = (kc.load(kv_head, positions), vc.load(kv_head, positions));
        for t in 0..tokens {
            let seen = pos as usize + t + 1;
            for head in kv_head * group..(kv_head + 1) * group {
                let at = t * width + head * d;
                let y = attend(&q[at..at + d], &keys[..seen * d], &values[..seen * d], spec.scale);
                data[at..at + d].copy_from_slice(&y);
            }
        }
    }
    Ok(Tensor::F32 { rows: tokens, width, data })
}

/// One query over all keys that it sees, at least one: block by block, merged in rising order.
fn attend(q: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f32> {
    let block = KEY_BLOCK as usize * q.len();
    let mut blocks = keys.chunks(block).zip(values.chunks(block)).map(|(k, v)| attend_block(q, k, v, scale));
    let Some(first) = blocks.next() else { return vec![f32::NAN; q.len()] };
    let all = blocks.fold(first, merge);
    all.out.iter().map(|&o| o / all.sum).collect()
}

fn attend_block(q: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Partial {
    let d = q.len();
    let scores: Vec<f32> = keys.chunks_exact(d).map(|k| scalar::dot_seq(q, k) * scale).collect();
    let max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
    let p: Vec<f32> = scores.iter().map(|&s| scalar::exp(s - max)).collect();
    let mut out = vec![0.0f32; d];
    for (&p, v) in p.iter().zip(values.chunks_exact(d)) {
        for (o, &v) in out.iter_mut().zip(v) {
            *o = p.mul_add(v, *o);
        }
    }
    Partial { max, sum: scalar::sum16(&p), out }
}

fn merge(a: Partial, b: Partial) -> Partial {
    let max = if b.max > a.max { b.max } else { a.max };
    let (alpha, beta) = (scalar::exp(a.max - max), scalar::exp(b.max - max));
    Partial {
        max,
        sum: a.sum * alpha + b.sum * beta,
        out: a.out.iter().zip(&b.out).map(|(&a, &b)| a * alpha + b * beta).collect(),
    }
}
