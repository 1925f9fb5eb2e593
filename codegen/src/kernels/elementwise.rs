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
            };
            group.store(b, y, value);
        });
    });
}

/// x / (1 + e^−x) by e = e^−|x|: x / (1 + e) where x is not below 0, else x·e / (1 + e).
pub(super) fn silu(b: &mut KernelBuilder, x: Vf) -> Vf {
    let sign = b.splat_i32(i32::MIN);
    let bits = b.as_vi(x);
    let negative = b.bor(bits, sign);
    let negative = b.as_vf(negative);
    let e = exp(b, negative);
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
