//! The exponential of attention.

use crate::kir::{FloatCond, KernelBuilder, Vf};

/// exp(x) for x <= 0, by the polynomial of Cephes `expf`; see `docs/numerics.md`.
#[allow(
    clippy::excessive_precision,
    clippy::approx_constant,
    reason = "the digits are those of the definition"
)]
pub(in crate::kernels) fn exp(b: &mut KernelBuilder, x: Vf) -> Vf {
    const LOG2_E: f32 = 1.44269504;
    const LN2_HIGH: f32 = 0.693359375;
    const LN2_LOW: f32 = 2.12194440e-4;
    const LEAST: f32 = -87.0;
    const FIRST: f32 = 1.9875691500e-4;
    const REST: [f32; 5] =
        [1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1];
    let log2_e = b.splat_f32(LOG2_E);
    let n = b.fmul(x, log2_e);
    let n = b.fround(n);
    let high = b.splat_f32(-LN2_HIGH);
    let r = b.fma(n, high, x);
    let low = b.splat_f32(LN2_LOW);
    let r = b.fma(n, low, r);
    let mut p = b.splat_f32(FIRST);
    for c in REST {
        let c = b.splat_f32(c);
        p = b.fma(p, r, c);
    }
    let square = b.fmul(r, r);
    let y = b.fma(p, square, r);
    let one = b.splat_f32(1.0);
    let y = b.fadd(y, one);
    let n = b.cvt_f32_i32(n);
    let n = b.ishl(n, 23);
    let bits = b.as_vi(y);
    let bits = b.iadd(bits, n);
    let y = b.as_vf(bits);
    let least = b.splat_f32(LEAST);
    let tiny = b.fcmp(x, least, FloatCond::Lt);
    let zero = b.splat_f32(0.0);
    b.fselect(tiny, zero, y)
}
