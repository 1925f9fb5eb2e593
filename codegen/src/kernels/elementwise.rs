//! Element-by-element functions. The result may take the place of either operand.

use super::attention::exp::exp;
use super::lanes::for_groups;
use super::{ElementwiseFn, kernel};
use crate::kir::{FloatCond, KernelBuilder, Vf};

/// A unit is a token.
pub(super) fn elementwise(b: &mut KernelBuilder, kernel: &kernel::Elementwise) {
    let &kernel::Elementwise { call, op, width, x, other, y } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let other = other.map_or(x, |other| other.of(b, token));
        let y = y.of(b, token);
        for_groups(b, width, (), |b, group, ()| {
            let xv = group.load(b, x);
            let value = match op {
                ElementwiseFn::Add => {
                    let other = group.load(b, other);
                    b.fadd(xv, other)
                }
                ElementwiseFn::Mul => {
                    let other = group.load(b, other);
                    b.fmul(xv, other)
                }
                ElementwiseFn::Relu2 => relu2(b, xv),
                ElementwiseFn::Silu => silu(b, xv),
                ElementwiseFn::Sigmoid => sigmoid(b, xv),
            };
            group.store(b, y, value);
        });
    });
}

/// A unit is a token.
pub(super) fn add_bias(b: &mut KernelBuilder, kernel: &kernel::AddBias) {
    let &kernel::AddBias { call, width, x, bias, y } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let y = y.of(b, token);
        for_groups(b, width, (), |b, group, ()| {
            let (x, bias) = (group.load(b, x), group.load(b, bias));
            let sum = b.fadd(x, bias);
            group.store(b, y, sum);
        });
    });
}

/// By what recurrent states decay. A unit is a token.
pub(super) fn softplus_decay(b: &mut KernelBuilder, kernel: &kernel::SoftplusDecay) {
    let &kernel::SoftplusDecay { call, width, x, bias, rate, y } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let y = y.of(b, token);
        for_groups(b, width, (), |b, group, ()| {
            let (x, bias) = (group.load(b, x), group.load(b, bias));
            let x = b.fadd(x, bias);
            let softplus = softplus(b, x);
            let rate = group.load(b, rate);
            let exponent = b.fmul(rate, softplus);
            let zero = b.splat_f32(0.0);
            let above = b.fcmp(exponent, zero, FloatCond::Gt);
            let exponent = b.fselect(above, zero, exponent);
            let v = exp(b, exponent);
            group.store(b, y, v);
        });
    });
}

/// e^−|x|, which does not overflow.
fn exp_of_minus_abs(b: &mut KernelBuilder, x: Vf) -> Vf {
    let sign = b.splat_i32(i32::MIN);
    let bits = b.as_vi(x);
    let negative = b.bor(bits, sign);
    let negative = b.as_vf(negative);
    exp(b, negative)
}

/// 1 / (1 + e^−x) by e = e^−|x|: 1 / (1 + e) where x is not below 0, else e / (1 + e).
fn sigmoid(b: &mut KernelBuilder, x: Vf) -> Vf {
    let e = exp_of_minus_abs(b, x);
    let zero = b.splat_f32(0.0);
    let below = b.fcmp(x, zero, FloatCond::Lt);
    let one = b.splat_f32(1.0);
    let numerator = b.fselect(below, e, one);
    let denominator = b.fadd(one, e);
    b.fdiv(numerator, denominator)
}

/// log(1 + e^x) = max(x, 0) + log(1 + e), e = e^−|x|; the logarithm by 2·atanh(e / (2 + e)), see `docs/numerics.md`.
fn softplus(b: &mut KernelBuilder, x: Vf) -> Vf {
    const SERIES: [f32; 7] = [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0];
    let e = exp_of_minus_abs(b, x);
    let two = b.splat_f32(2.0);
    let denominator = b.fadd(two, e);
    let s = b.fdiv(e, denominator);
    let t = b.fmul(s, s);
    let [first, rest @ ..] = SERIES;
    let mut p = b.splat_f32(first);
    for c in rest {
        let c = b.splat_f32(c);
        p = b.fma(p, t, c);
    }
    let twice = b.fadd(s, s);
    let cubed = b.fmul(twice, t);
    let log = b.fma(p, cubed, twice);
    let zero = b.splat_f32(0.0);
    let relu = b.fmax_gt(zero, x);
    b.fadd(relu, log)
}

/// x / (1 + e^−x) by e = e^−|x|: x / (1 + e) where x is not below 0, else x·e / (1 + e).
pub(super) fn silu(b: &mut KernelBuilder, x: Vf) -> Vf {
    let e = exp_of_minus_abs(b, x);
    let scaled = b.fmul(x, e);
    let zero = b.splat_f32(0.0);
    let below = b.fcmp(x, zero, FloatCond::Lt);
    let numerator = b.fselect(below, scaled, x);
    let one = b.splat_f32(1.0);
    let denominator = b.fadd(one, e);
    b.fdiv(numerator, denominator)
}

/// relu(x)²: relu is `if 0 > x { 0 } else { x }`, so that NaN stays NaN.
pub(super) fn relu2(b: &mut KernelBuilder, x: Vf) -> Vf {
    let zero = b.splat_f32(0.0);
    let relu = b.fmax_gt(zero, x);
    b.fmul(relu, relu)
}
