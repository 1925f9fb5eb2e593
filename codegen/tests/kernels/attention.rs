//! Kernels that touch the KV caches.

use bitnetc_ir::interp::{Cache, CacheData, Tensor};
use bitnetc_ir::{CacheDims, DType, Layout, Op, Pairs, Type};
use half::f16;

use super::random::Random;
use super::rows::{TOKENS, act, position, random_act};
use super::trial::{Input, Trial};

/// A cache whose elements are `number()`, stored as `dtype`.
fn cache(
    dims: CacheDims,
    capacity: u32,
    dtype: DType,
    layout: Layout,
    mut number: impl FnMut() -> f32,
) -> Input {
    let n = (dims.kv_heads * dims.head_dim * capacity) as usize;
    let data = match dtype {
        DType::F16 => CacheData::F16((0..n).map(|_| f16::from_f32(number()).to_bits()).collect()),
        _ => CacheData::F32((0..n).map(|_| number()).collect()),
    };
    let ty = Type::cache(dtype, dims).with_layout(layout);
    Input::Value(ty, Tensor::Cache(Cache { dims, capacity, data }))
}

pub(crate) fn caches(random: &mut Random, dims: CacheDims, capacity: u32, dtype: DType) -> [Input; 2] {
    let keys = cache(dims, capacity, dtype, Layout::Keys16, || random.unit());
    let values = cache(dims, capacity, dtype, Layout::Rows, || random.number());
    [keys, values]
}

#[test]
fn kv_append() {
    let mut random = Random(21);
    for (kv_heads, head_dim) in [(1, 1), (2, 15), (1, 16), (3, 17), (2, 40)] {
        for dtype in [DType::F16, DType::F32] {
            for tokens in TOKENS {
                let dims = CacheDims { kv_heads, head_dim };
                let [kc, vc] = caches(&mut random, dims, 64, dtype);
                let at = [0, 14, 15, 16, 60][random.below(5) as usize];
                let mut row = || random_act(&mut random, tokens, kv_heads * head_dim);
                let inputs = vec![kc, vc, row(), row(), position(at)];
                Trial { op: Op::KvAppend {}, inputs, tokens, position: at, capacity: 64 }.run();
            }
        }
    }
}

#[test]
fn kv_append_rounds_to_f16() {
    let special =
        [65519.0, 65520.0, 1e30, f32::INFINITY, f32::NAN, 6e-8, 3e-8, 2.9e-8, 1e-40, 2049.0, 2051.0, -0.0];
    let dims = CacheDims { kv_heads: 1, head_dim: special.len() as u32 };
    let [kc, vc] = caches(&mut Random(22), dims, 64, DType::F16);
    let row = act(None, dims.head_dim, special.to_vec());
    let inputs = vec![kc, vc, row.clone(), row, position(5)];
    Trial { op: Op::KvAppend {}, inputs, tokens: None, position: 5, capacity: 64 }.run();
}

#[test]
fn rope_kv_append() {
    let mut random = Random(23);
    for (head, rot) in [(2, 2), (18, 16), (34, 34), (40, 20), (64, 64)] {
        for pairs in [Pairs::Halves, Pairs::Interleaved] {
            for dtype in [DType::F16, DType::F32] {
                for tokens in TOKENS {
                    let dims = CacheDims { kv_heads: 2, head_dim: head };
                    let [kc, vc] = caches(&mut random, dims, 128, dtype);
                    let at = random.below(120) as u32;
                    let q = random_act(&mut random, tokens, 6 * head);
                    let (k, v) = (
                        random_act(&mut random, tokens, 2 * head),
                        random_act(&mut random, tokens, 2 * head),
                    );
                    let op = Op::RopeKvAppend { theta: 10_000.0.into(), head, rot, pairs };
                    let inputs = vec![q, k, v, kc, vc, position(at)];
                    Trial { op, inputs, tokens, position: at, capacity: 128 }.run();
                }
            }
        }
    }
}

/// Attention of `group` query heads for each of 2 key/value heads.
fn attend(
    random: &mut Random,
    head_dim: u32,
    group: u32,
    dtype: DType,
    tokens: Option<u32>,
    at: u32,
    capacity: u32,
) {
    let dims = CacheDims { kv_heads: 2, head_dim };
    let [kc, vc] = caches(random, dims, capacity, dtype);
    let q = random_act(random, tokens, 2 * group * head_dim);
    let op = Op::Attention { heads: 2 * group, kv_heads: 2, scale: 1.0 / (head_dim as f32).sqrt() };
    Trial { op, inputs: vec![q, kc, vc, position(at)], tokens, position: at, capacity }.run();
}

#[test]
fn attention_of_every_head_size() {
    let mut random = Random(24);
    for head_dim in [1, 2, 15, 16, 17, 36, 64] {
        for dtype in [DType::F16, DType::F32] {
            attend(&mut random, head_dim, 1, dtype, None, 20, 64);
            attend(&mut random, head_dim, 3, dtype, Some(2), 65, 128);
        }
    }
}

#[test]
fn attention_of_every_group_size() {
    let mut random = Random(25);
    for group in 1..=9 {
        attend(&mut random, 20, group, DType::F16, None, 70, 128);
    }
    // Chunks that begin and end inside of tiles of tokens, with whole blocks before the diagonal.
    for (group, tokens, at) in [(1, 35, 50), (2, 18, 100), (3, 17, 60), (4, 33, 47), (6, 2, 127)] {
        attend(&mut random, 20, group, DType::F16, Some(tokens), at, 192);
    }
}

#[test]
fn attention_at_the_borders_of_vectors_and_blocks() {
    let mut random = Random(26);
    for at in [0, 1, 14, 15, 16, 17, 31, 47, 62, 63, 64, 79, 80, 127, 128, 191] {
        attend(&mut random, 20, 4, DType::F16, None, at, 192);
    }
    attend(&mut random, 20, 4, DType::F16, Some(5), 61, 192);
}

#[test]
fn attention_of_a_token_that_is_alone_in_its_tile() {
    let mut random = Random(30);
    for dtype in [DType::F16, DType::F32] {
        for (group, at) in [(1, 0), (3, 63), (4, 64), (4, 150), (6, 127), (9, 70)] {
            attend(&mut random, 20, group, dtype, Some(1), at, 192);
        }
        // The last of a chunk of whole tiles and one.
        attend(&mut random, 17, 4, dtype, Some(17), 50, 192);
    }
}

#[test]
fn attention_does_not_read_masked_keys() {
    let dims = CacheDims { kv_heads: 1, head_dim: 24 };
    for dtype in [DType::F16, DType::F32] {
        for at in [0, 5, 15, 40, 66] {
            let mut random = Random(27);
            // Everything after the position is NaN.
            let mut count = 0;
            let [kc, vc] = [Layout::Keys16, Layout::Rows].map(|layout| {
                let first = count;
                cache(dims, 128, dtype, layout, || {
                    count += 1;
                    let position = (count - first - 1) / dims.head_dim;
                    if position > at { f32::NAN } else { random.unit() }
                })
            });
            let q = random_act(&mut random, None, 3 * dims.head_dim);
            let op = Op::Attention { heads: 3, kv_heads: 1, scale: 0.25 };
            Trial { op, inputs: vec![q, kc, vc, position(at)], tokens: None, position: at, capacity: 128 }
                .run();
        }
    }
}

#[test]
fn attention_of_special_scores() {
    let dims = CacheDims { kv_heads: 1, head_dim: 16 };
    for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 60_000.0, -60_000.0] {
        for where_ in [3u32, 70] {
            let mut random = Random(28);
            let mut count = 0;
            let kc = cache(dims, 128, DType::F16, Layout::Keys16, || {
                count += 1;
                if count == where_ * 16 + 2 { special } else { random.unit() }
            });
            let vc = cache(dims, 128, DType::F16, Layout::Rows, || random.unit());
            let q = act(None, 32, (0..32).map(|i| if i % 16 == 1 { 50.0 } else { 0.1 * i as f32 }).collect());
            let op = Op::Attention { heads: 2, kv_heads: 1, scale: 1.0 };
            Trial { op, inputs: vec![q, kc, vc, position(90)], tokens: None, position: 90, capacity: 128 }
                .run();
        }
    }
}

#[test]
fn attention_with_far_apart_maxima() {
    // Scores that fall or rise from block to block by more than the exponential's range.
    let dims = CacheDims { kv_heads: 1, head_dim: 16 };
    for sign in [1.0, -1.0] {
        let mut count = 0;
        let kc = cache(dims, 192, DType::F32, Layout::Keys16, || {
            count += 1;
            sign * ((count - 1) / 16) as f32
        });
        let mut random = Random(29);
        let vc = cache(dims, 192, DType::F32, Layout::Rows, || random.number());
        let q = act(None, 16, vec![0.3; 16]);
        let op = Op::Attention { heads: 1, kv_heads: 1, scale: 0.5 };
        Trial { op, inputs: vec![q, kc, vc, position(150)], tokens: None, position: 150, capacity: 192 }
            .run();
    }
}
