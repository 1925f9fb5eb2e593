//! Caches and attention.

use bitnetc_ir::interp::{Cache, CacheData, InterpError, Tensor, scalar};
use bitnetc_ir::{CacheDims, DType, Pairs, Type};

use crate::fixture::{Fixture, Random, act, assert_same, data, position};

const CAPACITY: u32 = 192;

/// A cache whose positions hold `rows` (heads one after the other) from 0 on, and NaN after them.
fn cache(dims: CacheDims, rows: &[f32]) -> Tensor {
    let (heads, d) = (dims.kv_heads as usize, dims.head_dim as usize);
    let mut data = vec![f32::NAN; heads * CAPACITY as usize * d];
    for (position, row) in rows.chunks_exact(heads * d).enumerate() {
        for (head, part) in row.chunks_exact(d).enumerate() {
            let at = (head * CAPACITY as usize + position) * d;
            data[at..at + d].copy_from_slice(part);
        }
    }
    Tensor::Cache(Cache { dims, capacity: CAPACITY, data: CacheData::F32(data) })
}

struct Case {
    heads: u32,
    kv: CacheDims,
    scale: f32,
    pos: u32,
}

fn attention(case: &Case, q: &[f32], k: &[f32], v: &[f32]) -> Result<Tensor, InterpError> {
    let width = case.heads * case.kv.head_dim;
    let ty = Type::cache(DType::F32, case.kv);
    let mut m = Fixture::new();
    let f = m.func(|b| {
        let q = b.input("q", act(width));
        let (kc, vc) = (b.input("kc", ty.clone()), b.input("vc", ty));
        let pos = b.input("pos", position());
        Ok(vec![b.attention(q, kc, vc, pos, case.heads, case.kv.kv_heads, case.scale)?])
    });
    let inputs = vec![
        Tensor::f32(width as usize, q.to_vec()),
        cache(case.kv, k),
        cache(case.kv, v),
        Tensor::Position(case.pos),
    ];
    Ok(m.try_run(f, inputs)?.remove(0))
}

fn one_head(pos: u32) -> Case {
    Case { heads: 1, kv: CacheDims { kv_heads: 1, head_dim: 1 }, scale: 1.0, pos }
}

#[test]
fn one_key_returns_its_value() {
    let case = Case { heads: 2, kv: CacheDims { kv_heads: 1, head_dim: 3 }, scale: 0.25, pos: 0 };
    let v = [0.3, -7.0, 1e-30];
    let y = attention(&case, &[1.0, 2.0, 3.0, -9.0, 0.0, 4.0], &[5.0, -6.0, 7.0], &v);
    assert_eq!(y, Ok(Tensor::f32(6, [v, v].concat())));
}

#[test]
fn equal_scores_average_over_the_keys_so_far() {
    // Zero queries: every p is 1 and every merge factor is 1, so sums of whole numbers are exact in any block.
    for keys in [1u32, 2, 63, 64, 65, 128, 129, 130] {
        let v: Vec<f32> = (0..keys).map(|i| (i * i % 61) as f32).collect();
        let k: Vec<f32> = (0..keys).map(|i| i as f32).collect();
        let y = attention(&one_head(keys - 1), &[0.0], &k, &v);
        assert_eq!(y, Ok(Tensor::f32(1, vec![v.iter().sum::<f32>() / keys as f32])), "{keys} keys");
    }
}

#[test]
fn blocks_of_64_are_merged_by_their_maxima() {
    // 64 keys with score 0 and value 3, then one with score 1 and value 5; then the greater score in the first block.
    let e = scalar::exp(-1.0);
    let low = vec![0.0; 64];
    let (k, v) = ([low.clone(), vec![1.0]].concat(), [vec![3.0; 64], vec![5.0]].concat());
    let y = attention(&one_head(64), &[1.0], &k, &v);
    let expected = (192.0 * e + 5.0 * 1.0) / (64.0 * e + 1.0 * 1.0);
    assert_eq!(y, Ok(Tensor::f32(1, vec![expected])));

    let (k, v) = ([vec![1.0; 64], vec![0.0]].concat(), [vec![3.0; 64], vec![5.0]].concat());
    let y = attention(&one_head(64), &[1.0], &k, &v);
    assert_eq!(y, Ok(Tensor::f32(1, vec![(192.0 + 5.0 * e) / (64.0 + e)])));
}

#[test]
fn within_a_block_values_add_by_fma_in_rising_order_and_weights_in_lanes() {
    let n = 40;
    let mut random = Random(21);
    let (k, v) = (random.f32s(n, 3.0), random.f32s(n, 3.0));
    let q = 0.7f32;
    let scores: Vec<f32> = k.iter().map(|&k| q * k * 1.0).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let p: Vec<f32> = scores.iter().map(|&s| scalar::exp(s - max)).collect();
    let mut out = 0.0f32;
    for (p, v) in p.iter().zip(&v) {
        out = p.mul_add(*v, out);
    }
    let y = attention(&one_head(n as u32 - 1), &[q], &k, &v);
    assert_eq!(y, Ok(Tensor::f32(1, vec![out / scalar::sum16(&p)])));
}

/// Softmax attention in f64, without blocks.
fn reference(case: &Case, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
    let d = case.kv.head_dim as usize;
    let (width, kv_width) = (case.heads as usize * d, case.kv.kv_heads as usize * d);
    let mut out = Vec::new();
    for (t, row) in q.chunks_exact(width).enumerate() {
        for (h, q) in row.chunks_exact(d).enumerate() {
            let at = h * case.kv.kv_heads as usize / case.heads as usize * d;
            let seen = case.pos as usize + t + 1;
            let part = |x: &[f32], j: usize, i: usize| f64::from(x[j * kv_width + at + i]);
            let weights: Vec<f64> = (0..seen)
                .map(|j| (0..d).map(|i| f64::from(q[i]) * part(k, j, i)).sum::<f64>() * f64::from(case.scale))
                .map(f64::exp)
                .collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..d).map(|i| (0..seen).map(|j| weights[j] * part(v, j, i)).sum::<f64>() / sum));
        }
    }
    out
}

#[test]
fn attention_is_softmax_for_all_groupings_and_block_edges() {
    for (heads, kv_heads) in [(2, 2), (4, 2), (4, 1), (8, 2), (3, 1)] {
        for (pos, tokens) in [(0, 1), (62, 1), (63, 1), (64, 1), (129, 1), (0, 70), (60, 70)] {
            let case = Case { heads, kv: CacheDims { kv_heads, head_dim: 8 }, scale: 0.353_553_4, pos };
            let mut random = Random(u64::from(heads * 1000 + pos));
            let q = random.f32s(tokens * heads as usize * 8, 3.0);
            let n = (pos as usize + tokens) * kv_heads as usize * 8;
            let (k, v) = (random.f32s(n, 3.0), random.f32s(n, 1.0));
            let y = attention(&case, &q, &k, &v).expect("runs");
            for (y, expected) in data(&y).iter().zip(reference(&case, &q, &k, &v)) {
                assert!(
                    (f64::from(*y) - expected).abs() < 2e-6,
                    "{heads}/{kv_heads} at {pos}: {y} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_nan_key_reaches_the_queries_that_see_it() {
    let n = 70;
    for bad in [3usize, 66] {
        let mut k = vec![0.5; n];
        k[bad] = f32::NAN;
        let y = attention(&one_head(0), &vec![1.0; n], &k, &vec![1.0; n]).expect("runs");
        for (t, y) in data(&y).iter().enumerate() {
            assert_eq!(y.is_nan(), t >= bad, "query {t}, NaN key {bad}");
        }
    }
}

#[test]
fn an_infinite_score_gives_nan() {
    let y = attention(&one_head(1), &[1.0], &[f32::INFINITY, 0.0], &[1.0, 1.0]).expect("runs");
    assert!(data(&y)[0].is_nan());
    let y = attention(&one_head(1), &[1.0], &[f32::NEG_INFINITY, 0.0], &[1.0, 2.0]).expect("runs");
    assert_eq!(data(&y), [2.0]);
}

#[test]
fn attention_beyond_the_capacity_is_an_error() {
    let y = attention(&one_head(CAPACITY - 1), &[1.0, 1.0], &[1.0], &[1.0]);
    assert_eq!(y, Err(InterpError::Capacity { pos: CAPACITY - 1, tokens: 2, capacity: CAPACITY }));
}

fn append(dtype: DType, pos: u32, k: &[f32], v: &[f32]) -> Result<Vec<Tensor>, InterpError> {
    let dims = CacheDims { kv_heads: 2, head_dim: 2 };
    let ty = Type::cache(dtype, dims);
    let mut m = Fixture::new();
    let f = m.func(|b| {
        let (kc, vc) = (b.input("kc", ty.clone()), b.input("vc", ty.clone()));
        let (k, v, pos) = (b.input("k", act(4)), b.input("v", act(4)), b.input("pos", position()));
        Ok(b.kv_append(kc, vc, k, v, pos)?.to_vec())
    });
    let empty = || Tensor::empty_cache(&ty, 64).expect("a cache type");
    let inputs =
        vec![empty(), empty(), Tensor::f32(4, k.to_vec()), Tensor::f32(4, v.to_vec()), Tensor::Position(pos)];
    m.try_run(f, inputs)
}

#[test]
fn kv_append_stores_each_head_at_its_position() {
    let k = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let out = append(DType::F32, 62, &k, &[9.0; 8]).expect("two positions are left");
    let Tensor::Cache(Cache { data: CacheData::F32(kc), .. }) = &out[0] else { panic!("{}", out[0]) };
    let mut expected = vec![0.0; 2 * 64 * 2];
    expected[62 * 2..64 * 2].copy_from_slice(&[1.0, 2.0, 5.0, 6.0]);
    expected[(64 + 62) * 2..].copy_from_slice(&[3.0, 4.0, 7.0, 8.0]);
    assert_eq!(*kc, expected);
    let Tensor::Cache(Cache { data: CacheData::F32(vc), .. }) = &out[1] else { panic!("{}", out[1]) };
    assert_eq!(vc.iter().sum::<f32>(), 72.0);
    let full = append(DType::F32, 63, &k, &k);
    assert_eq!(full, Err(InterpError::Capacity { pos: 63, tokens: 2, capacity: 64 }));
}

#[test]
fn an_f16_cache_rounds_half_to_even_and_overflows_to_infinity() {
    let k = [1.0 + 2.0f32.powi(-11), 1.0 + 3.0 * 2.0f32.powi(-11), 65_519.0, 65_520.0];
    let v = [-1e30, f32::NAN, 2.0f32.powi(-25), -0.0];
    let out = append(DType::F16, 0, &k, &v).expect("runs");
    let first = |t: &Tensor| match t {
        Tensor::Cache(Cache { data: CacheData::F16(c), .. }) => [c[0], c[1], c[128], c[129]],
        other => panic!("{other}"),
    };
    assert_eq!(first(&out[0]), [0x3c00, 0x3c02, 0x7bff, 0x7c00]);
    let v = first(&out[1]);
    assert_eq!([v[0], v[2], v[3]], [0xfc00, 0x0000, 0x8000]);
    assert_eq!(v[1] & 0x7e00, 0x7e00, "a quiet NaN");
}

#[test]
fn rope_kv_append_is_rope_and_kv_append() {
    let dims = CacheDims { kv_heads: 2, head_dim: 8 };
    for (dtype, pairs) in [(DType::F16, Pairs::Halves), (DType::F32, Pairs::Interleaved)] {
        let ty = Type::cache(dtype, dims);
        let mut m = Fixture::new();
        let f = m.func(|b| {
            let (q, k, v) = (b.input("q", act(32)), b.input("k", act(16)), b.input("v", act(16)));
            let (kc, vc) = (b.input("kc", ty.clone()), b.input("vc", ty.clone()));
            let pos = b.input("pos", position());
            let (tq, tk) =
                (b.rope(q, pos, 1e4.into(), 8, 6, pairs)?, b.rope(k, pos, 1e4.into(), 8, 6, pairs)?);
            let [ka, va] = b.kv_append(kc, vc, tk, v, pos)?;
            let [fq, fk, fv] = b.rope_kv_append(q, k, v, kc, vc, pos, 1e4.into(), 8, 6, pairs)?;
            Ok(vec![tq, ka, va, fq, fk, fv])
        });
        let mut random = Random(31);
        let empty = || Tensor::empty_cache(&ty, 64).expect("a cache type");
        let inputs = vec![
            Tensor::f32(32, random.f32s(96, 2.0)),
            Tensor::f32(16, random.f32s(48, 2.0)),
            Tensor::f32(16, random.f32s(48, 2.0)),
            empty(),
            empty(),
            Tensor::Position(60),
        ];
        let out = m.run(f, inputs);
        for i in 0..3 {
            assert_same(&out[i], &out[i + 3], dtype.name());
        }
    }
}
