//! Rotary position embedding.

use bitnetc_ir::Pairs;
use bitnetc_ir::interp::Tensor;
use bitnetc_ir::rope::cos_sin;

use crate::fixture::{Fixture, Random, act, assert_same, data, position};

struct Spec {
    width: u32,
    head: u32,
    rot: u32,
    pairs: Pairs,
}

fn rope(spec: &Spec, theta: f32, pos: u32, x: &[f32]) -> Vec<f32> {
    let mut m = Fixture::new();
    let f = m.func(|b| {
        let (x, pos) = (b.input("x", act(spec.width)), b.input("pos", position()));
        Ok(vec![b.rope(x, pos, theta.into(), spec.head, spec.rot, spec.pairs)?])
    });
    let x = Tensor::f32(spec.width as usize, x.to_vec());
    data(&m.run(f, vec![x, Tensor::Position(pos)])[0]).to_vec()
}

#[test]
fn one_pair_turns_by_the_position_in_radians() {
    let spec = Spec { width: 2, head: 2, rot: 2, pairs: Pairs::Halves };
    // Two tokens, at positions 1 and 2.
    let y = rope(&spec, 10_000.0, 1, &[1.0, 0.0, 0.0, 1.0]);
    assert_eq!(y, [0.540_302_3, 0.841_470_96, -0.909_297_4, -0.416_146_84]);
}

#[test]
fn products_are_rounded_before_they_are_added() {
    let spec = Spec { width: 2, head: 2, rot: 2, pairs: Pairs::Halves };
    let mut random = Random(3);
    let mut fused_differs = false;
    for pos in 0..50 {
        let x = random.f32s(2, 1.0);
        let (c, s) = cos_sin(10_000.0, 2, pos, 0);
        let (p, q) = (x[0] * c, x[1] * s);
        let (r, t) = (x[0] * s, x[1] * c);
        assert_eq!(rope(&spec, 10_000.0, pos, &x), [p - q, r + t]);
        fused_differs |= x[0].mul_add(c, -q) != p - q;
    }
    assert!(fused_differs, "the numbers tell fma from product and sum");
}

#[test]
fn halves_pair_j_with_j_plus_half_and_copy_the_rest() {
    let spec = Spec { width: 12, head: 6, rot: 4, pairs: Pairs::Halves };
    let x: Vec<f32> = (1..=12).map(|x| x as f32).collect();
    let y = rope(&spec, 100.0, 3, &x);
    let (c0, s0) = cos_sin(100.0, 4, 3, 0);
    let (c1, s1) = cos_sin(100.0, 4, 3, 1);
    for (x, y) in x.chunks(6).zip(y.chunks(6)) {
        assert_eq!(y[0], x[0] * c0 - x[2] * s0);
        assert_eq!(y[2], x[0] * s0 + x[2] * c0);
        assert_eq!(y[1], x[1] * c1 - x[3] * s1);
        assert_eq!(y[3], x[1] * s1 + x[3] * c1);
        assert_eq!(y[4..], x[4..]);
    }
}

#[test]
fn interleaved_pairs_are_neighbours() {
    let spec = Spec { width: 6, head: 6, rot: 4, pairs: Pairs::Interleaved };
    let x: Vec<f32> = (1..=6).map(|x| x as f32).collect();
    let y = rope(&spec, 100.0, 3, &x);
    let (c0, s0) = cos_sin(100.0, 4, 3, 0);
    let (c1, s1) = cos_sin(100.0, 4, 3, 1);
    assert_eq!(y[0], x[0] * c0 - x[1] * s0);
    assert_eq!(y[1], x[0] * s0 + x[1] * c0);
    assert_eq!(y[2], x[2] * c1 - x[3] * s1);
    assert_eq!(y[3], x[2] * s1 + x[3] * c1);
    assert_eq!(y[4..], x[4..]);
}

#[test]
fn position_zero_changes_nothing() {
    let spec = Spec { width: 64, head: 32, rot: 32, pairs: Pairs::Halves };
    let x = Random(4).f32s(64, 3.0);
    assert_same(&Tensor::f32(64, rope(&spec, 500_000.0, 0, &x)), &Tensor::f32(64, x), "position 0");
}
