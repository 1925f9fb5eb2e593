//! Products with matrices, epilogues, embedding, and the elementwise ops.

use bitnetc_ir::interp::{InterpError, Tensor};
use bitnetc_ir::{DType, Epilogue, Layout, ParamDef, Sizes};

use crate::fixture::{Fixture, Random, act, assert_same, data, f32_bytes, quant, tokens};

/// The product of one quantised row with a matrix.
fn product(codes: &[i8], a: f32, rows: u32, w: &[i8], scales: &[f32]) -> Vec<f32> {
    let cols = codes.len() as u32;
    let mut m = Fixture::new();
    let w = m.ternary("w", Layout::Tile16, (rows, cols), w, scales);
    let f = m.func(|b| {
        let x = b.input("x", quant(cols));
        Ok(vec![b.ternary_matmul(x, w)?])
    });
    let sums = vec![codes.iter().map(|&q| i32::from(q)).sum()];
    let x = Tensor::Q8 { rows: 1, width: codes.len(), codes: codes.to_vec(), a: vec![a], sums };
    data(&m.run(f, vec![x])[0]).to_vec()
}

#[test]
fn a_sum_is_divided_by_the_factor_and_then_scaled() {
    // 10 − 20 + 0 = −10 in the even rows and 20 + 30 = 50 in the odd ones, with a = 3.
    let scales = Random(1).f32s(32, 9.0);
    assert!(scales.iter().any(|&s| s < 0.0), "negative scales are among them");
    let y = product(&[10, 20, 30], 3.0, 32, &[1, -1, 0, 0, 1, 1].repeat(16), &scales);
    let each = |f: fn(f32, f32) -> f32| -> Vec<f32> {
        scales.iter().zip([-10.0, 50.0].into_iter().cycle()).map(|(&s, sum)| f(sum, s)).collect()
    };
    assert_eq!(y, each(|sum, s| sum / 3.0 * s));
    assert_ne!(y, each(|sum, s| sum * s / 3.0), "the order shows in these numbers");
}

#[test]
fn the_extreme_codes_do_not_saturate() {
    let n = 300;
    let y = product(&vec![-128; n], 1.0, 2, &[vec![-1i8; n], vec![1; n]].concat(), &[1.0, 1.0]);
    assert_eq!(y, [38_400.0, -38_400.0]);
    let y = product(&vec![127; n], 1.0, 1, &vec![1; n], &[1.0]);
    assert_eq!(y, [38_100.0]);
}

#[test]
fn a_sum_beyond_24_bits_rounds_half_to_even() {
    // 127 · 132105 = 2^24 + 119, halfway between 2^24 + 118 and 2^24 + 120, of which the latter is even.
    let y = product(&vec![127; 132_105], 1.0, 1, &vec![1; 132_105], &[1.0]);
    assert_eq!(y, [16_777_336.0]);
}

#[test]
fn a_nan_factor_and_a_zero_factor_give_nan() {
    assert!(product(&[0, 0], f32::NAN, 1, &[1, 0], &[1.0])[0].is_nan());
    assert!(product(&[0, 0], 0.0, 1, &[1, 0], &[1.0])[0].is_nan());
}

#[test]
fn a_nan_element_reaches_every_result_of_its_token_and_no_other() {
    let mut m = Fixture::new();
    let w = m.ternary("w", Layout::Tile16, (2, 3), &[0, 0, 0, 1, 1, 1], &[1.0, -0.5]);
    let norm = m.vector("norm", &[1.0; 3]);
    let f = m.func(|b| {
        let x = b.input("x", act(3));
        let q = b.rms_norm_quant(x, norm, 1e-5)?;
        Ok(vec![b.bitlinear(q, w, None, Epilogue::None)?])
    });
    let y = m.run(f, vec![Tensor::f32(3, vec![1.0, f32::NAN, 1.0, 2.0, 2.0, 2.0])]);
    let y = data(&y[0]);
    assert!(y[0].is_nan() && y[1].is_nan());
    assert_eq!(y[2], 0.0);
    assert!((y[3] - -1.5).abs() < 1e-4, "{y:?}");
}

#[test]
fn epilogues_are_the_ops_that_they_replace() {
    let (cols, half) = (48u32, 32u32);
    let mut random = Random(11);
    let mut m = Fixture::new();
    let codes = [random.ternary(half * cols), random.ternary(half * cols)];
    let scales = [random.f32s(half as usize, 1.0), random.f32s(half as usize, 1.0)];
    let gate = m.ternary("gate", Layout::Tile16, (half, cols), &codes[0], &scales[0]);
    let up = m.ternary("up", Layout::Tile16, (half, cols), &codes[1], &scales[1]);
    let both = m.derived("gate_up", Layout::Rows, (2 * half, cols), ParamDef::Interleave16(gate, up));
    let f = m.func(|b| {
        let (x, r) = (b.input("x", act(cols)), b.input("r", act(half)));
        let q = b.quant_absmax(x)?;
        let (g, u) = (b.ternary_matmul(q, gate)?, b.ternary_matmul(q, up)?);
        let sum = b.add(g, r)?;
        let active = b.relu2(g)?;
        let gated = b.mul(active, u)?;
        Ok(vec![
            g,
            b.bitlinear(q, gate, None, Epilogue::None)?,
            sum,
            b.bitlinear(q, gate, Some(r.into()), Epilogue::Add)?,
            gated,
            b.bitlinear(q, both, None, Epilogue::Relu2Mul)?,
        ])
    });
    let (x, mut r) = (random.f32s(3 * cols as usize, 5.0), random.f32s(3 * half as usize, 5.0));
    r[5] = f32::NAN;
    let out = m.run(f, vec![Tensor::f32(cols as usize, x), Tensor::f32(half as usize, r)]);
    for (pair, what) in out.chunks(2).zip(["none", "add", "relu2_mul"]) {
        assert_same(&pair[0], &pair[1], what);
    }
    assert!(data(&out[4]).iter().any(|&y| y != 0.0), "the gated form was tried on more than zeros");
}

#[test]
fn a_merged_projection_splits_into_its_parts() {
    let cols = 20u32;
    let mut random = Random(12);
    let mut m = Fixture::new();
    let mut parts = Vec::new();
    for (name, rows) in [("q", 24u32), ("k", 8), ("v", 3)] {
        let (codes, scales) = (random.ternary(rows * cols), random.f32s(rows as usize, 1.0));
        parts.push(m.ternary(name, Layout::Tile16, (rows, cols), &codes, &scales));
    }
    let all = m.derived("qkv", Layout::Rows, (35, cols), ParamDef::Concat(parts.clone()));
    let f = m.func(|b| {
        let x = b.input("x", act(cols));
        let q = b.quant_absmax(x)?;
        let y = b.bitlinear(q, all, None, Epilogue::None)?;
        let mut out = b.split(y, Sizes(vec![24, 8, 3]))?;
        for &part in &parts {
            out.push(b.ternary_matmul(q, part)?);
        }
        Ok(out)
    });
    let out = m.run(f, vec![Tensor::f32(cols as usize, random.f32s(2 * cols as usize, 1.0))]);
    for i in 0..3 {
        assert_same(&out[i], &out[i + 3], "part");
    }
}

#[test]
fn elementwise_ops() {
    let mut m = Fixture::new();
    let f = m.func(|b| {
        let (x, y) = (b.input("x", act(4)), b.input("y", act(4)));
        Ok(vec![b.add(x, y)?, b.mul(x, y)?, b.relu2(x)?])
    });
    let x = vec![3.0, -2.0, f32::NAN, -0.0];
    let y = vec![0.5, 4.0, 1.0, 7.0];
    let out = m.run(f, vec![Tensor::f32(4, x), Tensor::f32(4, y)]);
    assert_eq!(out[0], Tensor::f32(4, vec![3.5, 2.0, f32::NAN, 7.0]));
    assert_eq!(out[1], Tensor::f32(4, vec![1.5, -8.0, f32::NAN, -0.0]));
    assert_eq!(out[2], Tensor::f32(4, vec![9.0, 0.0, f32::NAN, 0.0]));
}

#[test]
fn split_takes_columns() {
    let mut m = Fixture::new();
    let f = m.func(|b| {
        let x = b.input("x", act(5));
        b.split(x, Sizes(vec![2, 1, 2]))
    });
    let out = m.run(f, vec![Tensor::f32(5, (0..10).map(|x| x as f32).collect())]);
    assert_eq!(out[0], Tensor::f32(2, vec![0.0, 1.0, 5.0, 6.0]));
    assert_eq!(out[1], Tensor::f32(1, vec![2.0, 7.0]));
    assert_eq!(out[2], Tensor::f32(2, vec![3.0, 4.0, 8.0, 9.0]));
}

fn half_bytes(bits: &[u16]) -> Vec<u8> {
    bits.iter().flat_map(|b| b.to_le_bytes()).collect()
}

#[test]
fn embedding_converts_rows_exactly() {
    // f16: 1, −2, 65504, the least subnormal 2^−24. bf16: 1, −2, 2^127, 2^−126.
    let f16 = half_bytes(&[0x3c00, 0xc000, 0x7bff, 0x0001]);
    let bf16 = half_bytes(&[0x3f80, 0xc000, 0x7f00, 0x0080]);
    let cases = [
        (DType::F16, f16, [1.0, -2.0, 65504.0, 2.0f32.powi(-24)]),
        (DType::Bf16, bf16, [1.0, -2.0, 2.0f32.powi(127), f32::MIN_POSITIVE]),
        (DType::F32, f32_bytes(&[1.0, -2.0, 0.1, 1e-40]), [1.0, -2.0, 0.1, 1e-40]),
    ];
    for (dtype, bytes, values) in cases {
        let mut m = Fixture::new();
        let table = m.dense("table", dtype, 2, 2, bytes);
        let f = m.func(|b| {
            let ids = b.input("tok", tokens());
            Ok(vec![b.embed(ids, table)?])
        });
        let out = m.run(f, vec![Tensor::Tokens(vec![1, 0, 1])]);
        let [a, b, c, d] = values;
        assert_eq!(out[0], Tensor::f32(2, vec![c, d, a, b, c, d]), "{}", dtype.name());
        let error = m.try_run(f, vec![Tensor::Tokens(vec![0, 2])]);
        assert_eq!(error, Err(InterpError::TokenId { token: 2, place: 1, vocab: 2 }));
    }
}

#[test]
fn matmul_sums_by_fma_in_sixteen_lanes() {
    let mut m = Fixture::new();
    // Row 0: 2^24 and 1 in lane 0 (the 1 is lost), 1 and 1 in lane 1. Row 1: lanes 0, 8 and 4 of the tree.
    let mut w = vec![0.0; 64];
    (w[0], w[16], w[1], w[17]) = (16_777_216.0, 1.0, 1.0, 1.0);
    (w[32], w[40], w[36]) = (1e8, -1e8, 1.0);
    let head = m.dense("head", DType::F32, 2, 32, f32_bytes(&w));
    let f = m.func(|b| {
        let x = b.input("x", act(32));
        Ok(vec![b.matmul(x, head)?])
    });
    let out = m.run(f, vec![Tensor::f32(32, vec![1.0; 32])]);
    assert_eq!(data(&out[0]), [16_777_218.0, 1.0]);
}

#[test]
fn matmul_rounds_once_for_each_product() {
    // (1 + 2^−12)² = 1 + 2^−11 + 2^−24: with fma the last bit survives next to −1 − 2^−11.
    let mut m = Fixture::new();
    let a = 1.0 + 2.0f32.powi(-12);
    let mut w = vec![0.0; 17];
    (w[0], w[16]) = (-1.0 - 2.0f32.powi(-11), a);
    let mut x = vec![0.0; 17];
    (x[0], x[16]) = (1.0, a);
    let head = m.dense("head", DType::F32, 1, 17, f32_bytes(&w));
    let f = m.func(|b| {
        let x = b.input("x", act(17));
        Ok(vec![b.matmul(x, head)?])
    });
    assert_eq!(data(&m.run(f, vec![Tensor::f32(17, x)])[0]), [2.0f32.powi(-24)]);
}
