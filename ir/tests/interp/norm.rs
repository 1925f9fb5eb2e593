//! RMS norm and absmax quantisation.

use bitnetc_ir::interp::Tensor;

use crate::fixture::{Fixture, Random, act, assert_same, data};

fn rms_norm(x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    let mut m = Fixture::new();
    let weight = m.vector("w", w);
    let f = m.func(|b| {
        let x = b.input("x", act(w.len() as u32));
        Ok(vec![b.rms_norm(x, weight, eps)?])
    });
    data(&m.run(f, vec![Tensor::f32(w.len(), x.to_vec())])[0]).to_vec()
}

fn quantise(width: usize, x: &[f32]) -> (Vec<i8>, Vec<f32>, Vec<i32>) {
    let mut m = Fixture::new();
    let f = m.func(|b| {
        let x = b.input("x", act(width as u32));
        Ok(vec![b.quant_absmax(x)?])
    });
    match m.run(f, vec![Tensor::f32(width, x.to_vec())]).remove(0) {
        Tensor::Q8 { codes, a, sums, .. } => (codes, a, sums),
        other => panic!("{other}"),
    }
}

#[test]
fn rms_norm_divides_by_the_root_of_mean_and_eps() {
    // mean(x²) = 35/4 = 8.75; with eps = 0.25 the root is 3.
    let y = rms_norm(&[5.0, -3.0, 1.0, 0.0], &[3.0, 1.0, -6.0, 9.0], 0.25);
    assert_eq!(y, [5.0f32 / 3.0 * 3.0, -1.0, 1.0f32 / 3.0 * -6.0, 0.0]);
}

#[test]
fn rms_norm_divides_before_it_multiplies() {
    let x = [5.0f32, -3.0, 1.0, 0.0].repeat(4);
    let w = Random(1).f32s(16, 9.0);
    let y = rms_norm(&x, &w, 0.25);
    let each = |f: fn(f32, f32) -> f32| -> Vec<f32> { x.iter().zip(&w).map(|(&x, &w)| f(x, w)).collect() };
    assert_eq!(y, each(|x, w| x / 3.0 * w));
    assert_ne!(y, each(|x, w| x * w / 3.0), "the order shows in these numbers");
}

#[test]
fn rms_norm_treats_each_row_alone() {
    let y = rms_norm(&[2.0, 2.0, 4.0, 0.0, f32::NAN, 1.0], &[1.0, 0.5], 1e-20);
    assert_eq!(y[..4], [1.0, 0.5, 4.0 / 8.0f32.sqrt(), 0.0]);
    assert!(y[4].is_nan() && y[5].is_nan(), "NaN spreads over its row: {y:?}");
}

#[test]
fn rms_norm_of_zeros_is_zero() {
    assert_eq!(rms_norm(&[0.0, -0.0], &[1.0, 1.0], 1e-5), [0.0, -0.0]);
}

#[test]
fn rms_norm_sums_in_sixteen_lanes() {
    // 2^24 and 1023 ones: the 63 ones in the lane of 2^24 are lost one by one, the 960 others are not.
    let mut x = vec![1.0; 1024];
    x[0] = 4096.0;
    let y = rms_norm(&x, &[1.0; 1024], 1e-5);
    let root = |sum: f32| (sum / 1024.0 + 1e-5).sqrt();
    assert_eq!(y[0], 4096.0 / root(16_777_216.0 + 960.0));
    assert_ne!(y[0], 4096.0 / root(16_777_216.0 + 1023.0), "an exact sum would show");
    assert_ne!(y[0], 4096.0 / root(16_777_216.0), "a sum in sequence would show");
}

#[test]
fn codes_round_half_to_even() {
    let (codes, a, sums) = quantise(8, &[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]);
    assert_eq!(codes, [127, 0, 2, 2, 0, -2, -2, 126]);
    assert_eq!((a, sums), (vec![1.0], vec![127 + 126]));
}

#[test]
fn codes_reach_127_on_both_sides() {
    let (codes, a, sums) = quantise(2, &[-3.0, 3.0, 1e30, -1e30]);
    assert_eq!(codes, [-127, 127, 127, -127]);
    assert_eq!(a, [127.0 / 3.0, 127.0 / 1e30]);
    assert_eq!(sums, [0, 0]);
}

#[test]
fn a_product_above_127_and_a_half_is_clamped() {
    // The factor is rounded, so |x|·a may lie above 127, by far less than a half; no code leaves ±127.
    let mut random = Random(7);
    for _ in 0..2000 {
        let x = random.f32s(16, 1e3);
        let (codes, ..) = quantise(16, &x);
        assert_eq!(codes.iter().map(|q| q.unsigned_abs()).max(), Some(127), "{x:?}");
    }
}

#[test]
fn rows_below_the_least_magnitude_are_quantised_as_if_they_held_it() {
    let least = 127.0 / 1e-5f32;
    let (codes, a, sums) = quantise(2, &[0.0, -0.0, 2.5e-6, -5e-6, 1e-40, 0.0]);
    assert_eq!(a, [least; 3]);
    // 31.75 and −63.5 (or its neighbour: the products are rounded).
    let second = (-5e-6 * least).round_ties_even() as i8;
    assert_eq!(codes, [0, 0, 32, second, 0, 0]);
    assert!(second == -63 || second == -64);
    assert_eq!(sums, [0, 32 + i32::from(second), 0]);
}

#[test]
fn a_nan_makes_its_rows_factor_nan_and_all_its_codes_zero() {
    let (codes, a, sums) = quantise(3, &[1.0, f32::NAN, 2.0, 1.0, 0.0, -1.0]);
    assert_eq!(codes, [0, 0, 0, 127, 0, -127]);
    assert!(a[0].is_nan());
    assert_eq!((a[1], sums), (127.0, vec![0, 0]));
}

#[test]
fn an_infinity_makes_the_factor_zero() {
    // 0·∞ is NaN and so code 0; what a matrix makes of the row is 0/0.
    let (codes, a, sums) = quantise(2, &[f32::NEG_INFINITY, 5.0]);
    assert_eq!((codes, a, sums), (vec![0, 0], vec![0.0], vec![0]));
}

#[test]
fn the_sum_is_over_all_codes_of_a_row() {
    let (codes, _, sums) = quantise(40, &[1.0; 80]);
    assert!(codes.iter().all(|&q| q == 127));
    assert_eq!(sums, [40 * 127, 40 * 127]);
}

#[test]
fn rms_norm_quant_is_rms_norm_then_quant_absmax() {
    for width in [1u32, 15, 16, 17, 130] {
        let mut random = Random(u64::from(width));
        let mut m = Fixture::new();
        let w = m.vector("w", &random.f32s(width as usize, 2.0));
        let f = m.func(|b| {
            let x = b.input("x", act(width));
            let normed = b.rms_norm(x, w, 1e-5)?;
            Ok(vec![b.quant_absmax(normed)?, b.rms_norm_quant(x, w, 1e-5)?])
        });
        let mut x = random.f32s(3 * width as usize, 10.0);
        x[2 * width as usize] = f32::NAN;
        let out = m.run(f, vec![Tensor::f32(width as usize, x)]);
        assert_same(&out[0], &out[1], &format!("width {width}"));
    }
}
