//! How rows of numbers get block-wise codes and scales: the definition for weights and activations alike.
//!
//! This is the one place that rounds a dense matrix to a [`BlockFormat`]; the interpreter and the weight packer both use it.
//! All arithmetic is f32 in the order written here (no fma), so that every machine makes the same codes. Elements are
//! finite; what is not is taken as 0.
//!
//! - A row is first divided by the power of two 2^(e−6), e the exponent of its greatest magnitude: exact, and the f16
//!   scales of a row of any magnitude are then normal numbers.
//! - `w8`: h = f16(max|z| / 127) of the block, q = round(z / h) within ±127.
//! - `w4` and `w6` search for the scale: for each of a few ratios g, the codes q = round(z · g / M) (M the element of
//!   greatest magnitude, with its sign, so that a scale may be negative) explain the share (Σzq)² / Σq² of Σz²; the best g
//!   gives the scale Σzq / Σq², which minimises the squared error for these codes. The scale is rounded to f16 (`w4`) or
//!   to a multiple k of a 127th of the row's greatest one (`w6`), and the codes are then rounded again for it.
//!
//! `round` is to nearest, half to even.

use super::{BLOCK, BlockFormat, HALF_BLOCK};
use crate::interp::scalar;

/// Ratios g that `w4` tries.
const RATIOS_W4: [f32; 10] = [-8.0, -7.0, -7.5, -8.5, -9.0, -9.75, -6.5, 7.0, 7.75, 6.25];
/// Ratios g that `w6` tries.
const RATIOS_W6: [f32; 5] = [-32.0, -31.25, -32.75, -30.5, -33.5];

/// A row as codes and scales.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantisedRow {
    /// Codes, filled up with 0 to whole blocks.
    pub codes: Vec<i8>,
    /// Bits of the f16 scale of each block; empty for `w6`.
    pub halves: Vec<u16>,
    /// Scale of each half block of `w6`; empty for others.
    pub steps: Vec<i8>,
    /// The factor of the row.
    pub factor: f32,
}

/// 1.5 · 2^23: a float of magnitude below 2^22 that this is added to has no bits for a fraction, so it is rounded to an
/// integer, half to even, which stands in its low bits.
const SHIFT: f32 = 12_582_912.0;

/// Rounds to the nearest integer, half to even, for magnitudes below 2^22.
fn round(x: f32) -> f32 {
    (x + SHIFT) - SHIFT
}

/// As [`codes`], to `out`; the bounds are within those of a byte.
fn put_codes(z: &[f32], inverse: f32, least: f32, most: f32, out: &mut [i8]) {
    for (code, &z) in out.iter_mut().zip(z) {
        *code = (clamp(z * inverse, least, most) + SHIFT).to_bits() as i8;
    }
}

fn clamp(x: f32, least: f32, most: f32) -> f32 {
    let x = if x < least { least } else { x };
    if x > most { most } else { x }
}

/// `x` if it is finite, else 0.
fn finite(x: f32) -> f32 {
    if x.is_finite() { x } else { 0.0 }
}

/// Greatest magnitude of finite numbers.
fn absmax(z: &[f32]) -> f32 {
    f32::from_bits(greatest_bits(z.iter().copied()))
}

/// Bits of the greatest magnitude; without their sign, finite floats are ordered as integers.
fn greatest_bits(z: impl Iterator<Item = f32>) -> u32 {
    z.map(|x| (x.to_bits() & 0x7fff_ffff).cast_signed()).max().unwrap_or(0).cast_unsigned()
}

/// 1/x, or 0 for 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Sum of eight lanes as a tree.
fn total(lanes: [f32; 8]) -> f32 {
    let four = [lanes[0] + lanes[4], lanes[1] + lanes[5], lanes[2] + lanes[6], lanes[3] + lanes[7]];
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Codes from `least` to `most`, as numbers, of `z` divided by a scale whose inverse is `inverse`.
fn codes<const N: usize>(z: &[f32; N], inverse: f32, least: f32, most: f32) -> [f32; N] {
    std::array::from_fn(|i| round(clamp(z[i] * inverse, least, most)))
}

/// The scale that explains `z` best, over all `ratios`.
fn search<const N: usize>(z: &[f32; N], ratios: &[f32], least: f32, most: f32) -> f32 {
    let mut extreme = 0.0f32;
    for &x in z {
        extreme = if x.abs() > extreme.abs() { x } else { extreme };
    }
    if extreme == 0.0 {
        return 0.0;
    }
    let (mut best, mut scale) = (-1.0f32, 0.0f32);
    let per_unit = 1.0 / extreme;
    for &ratio in ratios {
        let q = codes(z, ratio * per_unit, least, most);
        let (mut zq, mut qq) = ([0.0f32; 8], [0.0f32; 8]);
        for (z, q) in z.as_chunks::<8>().0.iter().zip(q.as_chunks::<8>().0) {
            for l in 0..8 {
                zq[l] += z[l] * q[l];
                qq[l] += q[l] * q[l];
            }
        }
        let (zq, qq) = (total(zq), total(qq));
        let gain = zq * zq / qq;
        if gain > best {
            (best, scale) = (gain, zq / qq);
        }
    }
    scale
}

impl QuantisedRow {
    /// Quantises `row`, replacing what was here before.
    pub fn quantise(&mut self, format: BlockFormat, row: &[f32]) {
        let blocks = row.len().div_ceil(BLOCK as usize);
        self.codes.clear();
        self.codes.resize(blocks * BLOCK as usize, 0);
        self.halves.clear();
        self.steps.clear();
        let greatest = greatest_bits(row.iter().map(|&x| finite(x)));
        // Exponent fields: that of the power of two, and that of its inverse.
        let exponent = (greatest >> 23).max(7) - 6;
        let (unit, inverse_unit) = (f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23));
        let (whole, rest) = row.as_chunks::<{ BLOCK as usize }>();
        let mut last = [0.0f32; BLOCK as usize];
        last[..rest.len()].copy_from_slice(rest);
        let block = |b: usize| {
            let mut z = *whole.get(b).unwrap_or(&last);
            for x in &mut z {
                *x = finite(*x) * inverse_unit;
            }
            z
        };
        match format {
            BlockFormat::W8 => {
                self.factor = unit;
                for b in 0..blocks {
                    let z = block(b);
                    let half = scalar::f16_bits(absmax(&z) / 127.0);
                    let inverse = inverse(scalar::f16_value(half));
                    put_codes(&z, inverse, -127.0, 127.0, self.block(b));
                    self.halves.push(half);
                }
            }
            BlockFormat::W4 => {
                self.factor = unit;
                for b in 0..blocks {
                    let z = block(b);
                    let half = scalar::f16_bits(search(&z, &RATIOS_W4, -8.0, 7.0));
                    let inverse = inverse(scalar::f16_value(half));
                    put_codes(&z, inverse, -8.0, 7.0, self.block(b));
                    self.halves.push(half);
                }
            }
            BlockFormat::W6 => {
                let scales: Vec<f32> = (0..blocks)
                    .flat_map(|b| {
                        let z = block(b);
                        let halves = z.as_chunks::<{ HALF_BLOCK as usize }>().0;
                        [
                            search(&halves[0], &RATIOS_W6, -32.0, 31.0),
                            search(&halves[1], &RATIOS_W6, -32.0, 31.0),
                        ]
                    })
                    .collect();
                let step = absmax(&scales) / 127.0;
                let per_step = inverse(step);
                self.factor = step * unit;
                for b in 0..blocks {
                    let z = block(b);
                    for (h, z) in z.as_chunks::<{ HALF_BLOCK as usize }>().0.iter().enumerate() {
                        let k = round(clamp(scales[2 * b + h] * per_step, -127.0, 127.0));
                        let out = &mut self.block(b)[h * HALF_BLOCK as usize..];
                        put_codes(z, inverse(k * step), -32.0, 31.0, out);
                        self.steps.push(k as i8);
                    }
                }
            }
        }
    }

    /// The codes of a block.
    fn block(&mut self, block: usize) -> &mut [i8] {
        let at = block * BLOCK as usize;
        &mut self.codes[at..at + BLOCK as usize]
    }

    /// The numbers that the codes stand for, `columns` of them.
    pub fn values(&self, columns: usize) -> Vec<f32> {
        let scale = |c: usize| match self.halves.get(c / BLOCK as usize) {
            Some(&half) => scalar::f16_value(half),
            None => f32::from(self.steps[c / HALF_BLOCK as usize]),
        };
        (0..columns).map(|c| scale(c) * f32::from(self.codes[c]) * self.factor).collect()
    }
}

/// The least magnitude that fills the range of codes of an activation; a block of smaller elements is quantised as if it
/// held this one.
pub const LEAST_ABSMAX: f32 = 1e-30;

/// Codes of a block of an activation, and their scale: with m = max(max|x|, 1e-30), a = 127 / m, the
/// codes are round(x · a) (0 for NaN) and the scale is m / 127. NaN in the block makes the scale NaN, infinity makes it
/// infinity with codes 0.
pub fn quantise_activation(x: &[f32]) -> (Vec<i8>, f32) {
    let m = f32::from_bits(scalar::absmax_bits(x).max(LEAST_ABSMAX.to_bits()));
    let a = 127.0 / m;
    let code = |x: f32| if x.is_nan() { 0 } else { x.round_ties_even() as i8 };
    (x.iter().map(|&x| code(x * a)).collect(), m / 127.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;

    /// Nearly a normal deviate.
    fn gaussian(rng: &mut SplitMix) -> f32 {
        (0..12).map(|_| (rng.next_u64() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }

    /// Root of the mean squared error, as a share of the deviation.
    fn error(format: BlockFormat, scale: f32) -> f64 {
        let mut rng = SplitMix::new(5);
        let mut quantised = QuantisedRow::default();
        let (mut wrong, mut all) = (0.0, 0.0);
        for _ in 0..100 {
            let row: Vec<f32> = (0..2560).map(|_| gaussian(&mut rng) * scale).collect();
            quantised.quantise(format, &row);
            for (x, y) in row.iter().zip(quantised.values(row.len())) {
                wrong += f64::from(x - y).powi(2);
                all += f64::from(*x).powi(2);
            }
        }
        (wrong / all).sqrt()
    }

    #[test]
    fn errors_of_normal_deviates_are_small_at_every_magnitude() {
        for (format, most) in [(BlockFormat::W8, 0.0054), (BlockFormat::W6, 0.0175), (BlockFormat::W4, 0.081)]
        {
            for scale in [1.0, 1e-5, 3e4, 1e-30, 1e30] {
                let error = error(format, scale);
                println!("{format:?} at {scale:e}: {error:.5}");
                assert!(error < most, "{format:?} at {scale:e}: {error}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_and_rows_of_zeros_give_finite_numbers() {
        let mut quantised = QuantisedRow::default();
        for &format in BlockFormat::ALL {
            for row in [vec![0.0; 70], vec![f32::NAN, f32::INFINITY, 1.0], vec![1e38; 33], vec![1e-44; 3]] {
                quantised.quantise(format, &row);
                let values = quantised.values(row.len());
                assert!(values.iter().all(|x| x.is_finite()), "{format:?} {row:?}: {values:?}");
                assert!(row.iter().any(|&x| x != 0.0) || values.iter().all(|&x| x == 0.0));
                assert_eq!(quantised.codes.len(), row.len().next_multiple_of(32));
            }
        }
    }

    #[test]
    fn codes_are_in_their_ranges_and_simple_rows_exact() {
        let mut quantised = QuantisedRow::default();
        let row: Vec<f32> = (-8..8).map(|i| i as f32 * 0.25).collect();
        quantised.quantise(BlockFormat::W4, &row);
        assert_eq!(quantised.values(16), row);
        let row: Vec<f32> = (-32..32).map(|i| i as f32 * 3.0).collect();
        quantised.quantise(BlockFormat::W8, &row);
        let worst = row.iter().zip(quantised.values(64)).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst < 0.4, "{worst}");
        let mut rng = SplitMix::new(9);
        for (format, most) in [(BlockFormat::W8, 127), (BlockFormat::W6, 32), (BlockFormat::W4, 8)] {
            for _ in 0..50 {
                let row: Vec<f32> = (0..96).map(|_| rng.number()).collect();
                quantised.quantise(format, &row);
                assert!(quantised.codes.iter().all(|&q| (-most..=most).contains(&i32::from(q))));
            }
        }
    }

    #[test]
    fn activations_fill_the_range() {
        let (codes, scale) = quantise_activation(&[2.54, -1.0, 0.0, 0.021]);
        assert_eq!((codes, scale), (vec![127, -50, 0, 1], 2.54 / 127.0));
        assert_eq!(quantise_activation(&[0.0; 5]).0, [0; 5]);
        let (codes, scale) = quantise_activation(&[f32::NAN, 1.0]);
        assert!(scale.is_nan() && codes == [0, 0]);
        let (codes, scale) = quantise_activation(&[f32::INFINITY, 1.0]);
        assert!(scale == f32::INFINITY && codes == [0, 0]);
    }
}
