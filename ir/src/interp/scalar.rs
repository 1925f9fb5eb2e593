//! Scalar functions and reductions, each with one order of operations: what `docs/numerics.md` calls sum16, seq, absmax,
//! relu and exp. Nothing here depends on the machine: `mul_add` is a single rounding on every build.

use half::{bf16, f16};

/// Lanes of a virtual vector: partial sums of every f32 reduction.
pub const LANES: usize = 16;

/// Elements `16·group ..` of `x`, filled up with +0.0.
fn group(x: &[f32], group: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    let rest = &x[group * LANES..];
    let n = rest.len().min(LANES);
    lanes[..n].copy_from_slice(&rest[..n]);
    lanes
}

/// Adds the lanes as a tree: i + 8, i + 4, i + 2, i + 1.
fn tree(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// The sum of `x` in 16 lanes and a tree.
pub fn sum16(x: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    for g in 0..x.len().div_ceil(LANES) {
        let x = group(x, g);
        for l in 0..LANES {
            acc[l] += x[l];
        }
    }
    tree(acc)
}

/// The sum of the products `a·b` in 16 lanes, each by fma, and a tree. Both have the same length.
pub fn dot16(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut acc = [0.0f32; LANES];
    for g in 0..a.len().div_ceil(LANES) {
        let (a, b) = (group(a, g), group(b, g));
        for l in 0..LANES {
            acc[l] = a[l].mul_add(b[l], acc[l]);
        }
    }
    tree(acc)
}

/// The sum of the products `a·b` by fma in rising order, from +0.0.
pub fn dot_seq(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0f32, |acc, (&a, &b)| a.mul_add(b, acc))
}

/// The greatest `bits(x) & 0x7fff_ffff`: the bits of the greatest magnitude, or of a NaN if there is one.
pub fn absmax_bits(x: &[f32]) -> u32 {
    x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0)
}

/// max(x, 0), with NaN staying NaN and −0.0 staying −0.0.
pub fn relu(x: f32) -> f32 {
    if 0.0 > x { 0.0 } else { x }
}

/// relu(x)².
pub fn relu2(x: f32) -> f32 {
    let r = relu(x);
    r * r
}

/// x / (1 + e^−x), by e^−|x|, which does not overflow: x·e / (1 + e) for a negative x. NaN gives NaN.
pub fn silu(x: f32) -> f32 {
    let e = exp(-x.abs());
    let numerator = if 0.0 > x { x * e } else { x };
    numerator / (1.0 + e)
}

/// 1 / (1 + e^−x), by e^−|x|, which does not overflow: e / (1 + e) for a negative x. NaN gives NaN.
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let numerator = if 0.0 > x { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// 1/15, 1/13, …, 1/3: the series of atanh, highest power first.
const ATANH_COEFFICIENTS: [f32; 7] =
    [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0];

/// log(1 + e) for e from 0 to 1: 2·atanh(e / (2 + e)).
pub fn log1p(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let t = s * s;
    let [first, rest @ ..] = ATANH_COEFFICIENTS;
    let p = rest.iter().fold(first, |p, &c| p.mul_add(t, c));
    let twice = s + s;
    p.mul_add(twice * t, twice)
}

/// log(1 + e^x) = max(x, 0) + log(1 + e^−|x|). NaN gives NaN.
pub fn softplus(x: f32) -> f32 {
    relu(x) + log1p(exp(-x.abs()))
}

/// exp(rate · softplus(x)), and 1 where the exponent is above 0. NaN gives NaN.
pub fn softplus_decay(x: f32, rate: f32) -> f32 {
    let exponent = rate * softplus(x);
    exp(if exponent > 0.0 { 0.0 } else { exponent })
}

/// Coefficients of the polynomial of Cephes' `expf`, highest power first, with the digits of their source.
#[allow(clippy::excessive_precision)]
const EXP_COEFFICIENTS: [f32; 6] =
    [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1];

/// e^x for x ≤ 0: the polynomial of Cephes' `expf`, and 0 below −87. NaN gives NaN.
#[allow(clippy::excessive_precision)]
pub fn exp(x: f32) -> f32 {
    if x < -87.0 {
        return 0.0;
    }
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693359375, x);
    let r = n.mul_add(2.12194440e-4, r);
    let [first, rest @ ..] = EXP_COEFFICIENTS;
    let p = rest.iter().fold(first, |p, &c| p.mul_add(r, c));
    let y = p.mul_add(r * r, r) + 1.0;
    // A NaN has n = 0 here and so stays as it is.
    f32::from_bits(y.to_bits().wrapping_add((n as i32 as u32) << 23))
}

/// f32 to the bits of the nearest f16 (ties to even; overflow to infinity).
pub fn f16_bits(x: f32) -> u16 {
    f16::from_f32(x).to_bits()
}

/// The f16 with these bits.
pub fn f16_value(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// The bf16 with these bits.
pub fn bf16_value(bits: u16) -> f32 {
    bf16::from_bits(bits).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum16_adds_lane_by_lane_and_then_as_a_tree() {
        // Lane 0: 10⁸ + 1 loses the 1; lane 1: −10⁸ + 1 too.
        let mut x = vec![0.0; 32];
        (x[0], x[1], x[16], x[17]) = (1e8, -1e8, 1.0, 1.0);
        assert_eq!(sum16(&x), 0.0);
        // Lanes 0 and 8 meet first and cancel out, so the 1 in lane 4 survives; in lane 8 it would not.
        let mut x = vec![0.0; 16];
        (x[0], x[8], x[4]) = (1e8, -1e8, 1.0);
        assert_eq!(sum16(&x), 1.0);
        (x[0], x[4], x[8]) = (1e8, -1e8, 1.0);
        assert_eq!(sum16(&x), 0.0);
        // Then 4, then 2, then 1.
        for (a, b) in [(4, 2), (2, 1)] {
            let mut x = vec![0.0; 16];
            (x[0], x[a], x[b]) = (1e8, -1e8, 1.0);
            assert_eq!(sum16(&x), 1.0, "{a} before {b}");
        }
        assert_eq!(sum16(&[]), 0.0);
        assert_eq!(sum16(&[1.0; 37]), 37.0);
    }

    #[test]
    fn a_short_group_is_filled_up_with_positive_zeros() {
        // The product underflows to −0.0; what is added after it makes the sum +0.0.
        let (a, b) = ([-1e-30; 17], [1e-30; 17]);
        assert_eq!(dot16(&a[..1], &b[..1]).to_bits(), 0.0f32.to_bits());
        assert_eq!(dot_seq(&a[..1], &b[..1]).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn absmax_prefers_nan_and_ignores_signs() {
        assert_eq!(absmax_bits(&[1.0, -3.0, 2.0]), 3.0f32.to_bits());
        assert!(f32::from_bits(absmax_bits(&[f32::INFINITY, -f32::NAN, 2.0])).is_nan());
        assert_eq!(absmax_bits(&[-0.0]), 0);
    }

    #[test]
    fn relu_keeps_nan_and_squares() {
        assert_eq!(relu(-0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!((relu(-1e-40), relu2(-5.0), relu2(-0.0).to_bits(), relu2(3.0)), (0.0, 0.0, 0, 9.0));
        assert!(relu(f32::NAN).is_nan() && relu2(-f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_close_to_the_exponential_and_exact_where_it_must_be() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-87.000_01), 0.0);
        assert!(exp(-87.0) >= f32::MIN_POSITIVE);
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
        let mut x = -87.0f32;
        let mut last = 0.0;
        while x < 0.0 {
            let (got, expected) = (exp(x), f64::from(x).exp());
            assert!((f64::from(got) - expected).abs() <= 1.3e-7 * expected, "exp({x}) = {got}, {expected}");
            assert!(got >= last * (1.0 - 1e-6));
            (last, x) = (got, x + 0.000_7);
        }
    }

    #[test]
    fn silu_is_close_to_its_formula() {
        assert_eq!((silu(0.0).to_bits(), silu(-0.0).to_bits()), (0.0f32.to_bits(), (-0.0f32).to_bits()));
        assert_eq!((silu(100.0), silu(-100.0).abs()), (100.0, 0.0));
        assert_eq!(silu(f32::INFINITY), f32::INFINITY);
        assert!(silu(f32::NAN).is_nan() && silu(f32::NEG_INFINITY).is_nan());
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            let expected = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(silu(x)) - expected).abs();
            assert!(error <= 4e-7 * expected.abs() + 1e-37, "silu({x}) = {}", silu(x));
        }
    }

    #[test]
    fn exp_has_these_bits() {
        // Worked out from the formula with exact rational arithmetic and one rounding for each operation.
        for (x, bits) in [
            (-0.1, 0x3f67a36d),
            (-0.346_573_6, 0x3f3504f3),
            (-0.5, 0x3f1b4598),
            (-1.0, 0x3ebc5ab2),
            (-2.75, 0x3d82ec9c),
            (-10.3, 0x380d1141),
            (-43.7, 0x1ff8014a),
            (-86.99, 0xb503b6),
        ] {
            assert_eq!(exp(x).to_bits(), bits, "exp({x})");
        }
    }
}
