//! Element-by-element functions. The result may take the place of either operand.

use super::attention::exp::exp;
use super::lanes::for_groups;
use super::{Args, Elementwise};
use crate::kir::{FloatCond, KernelBuilder, Vf};

/// A unit is a token.
pub(super) fn elementwise(b: &mut KernelBuilder, args: &Args, op: Elementwise, width: u32) {
    args.for_units(b, |b, token| {
        let x = args.row(b, args.operand(0), 0, token);
        let second = op.is_binary().then(|| args.row(b, args.operand(1), 1, token));
        let y = args.row(b, args.result(), if second.is_some() { 2 } else { 1 }, token);
        let other = second.unwrap_or(x);
        for_groups(b, width, (), |b, group, ()| {
            let xv = group.load(b, x);
            let value = match op {
                Elementwise::Add => {
                    let other = group.load(b, other);
                    b.fadd(xv, other)
                }
                Elementwise::Mul => {
                    let other = group.load(b, other);
                    b.fmul(xv, other)
                }
                Elementwise::Relu2 => relu2(b, xv),
                Elementwise::Silu => silu(b, xv),
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
