//! Random weights, made as fast as they can be written: every draw of 16 random bits looks up finished bytes.
//!
//! - Ternary matrices: each weight is 0 with the share [`ZERO_SHARE`] and ±1 otherwise, independently; the tables map 16
//!   bits to a byte of four codes, or of five or four digits (the shares are met to 1/65536). The scale, in types with blocks up to a
//!   quarter more or less in each of them, is `gain / √(columns · (1 − zero share))`, so
//!   that an activation with a mean square of 1 gives outputs with a mean square of gain².
//! - Embedding and head: normal, with a spread of its own for each row; the table maps 16 bits to a sample of the normal
//!   distribution, rounded to f16.
//! - Norms: near 1.

use bitnetc_ir::random::SplitMix;
use half::{bf16, f16};

use super::Rng;
use crate::decode::FloatFormat;
use crate::decode::i2s::TAIL_BYTES;
use crate::tensor_type::TensorType;

/// Share of zeros among the ternary weights; that of microsoft/bitnet-b1.58-2B-4T.
pub(super) const ZERO_SHARE: f64 = 0.42;

/// Draws that 16 bits tell apart.
const DRAWS: usize = 1 << 16;

/// Different spreads of embedding rows.
const SPREADS: usize = 8;

/// What 16 random bits become.
pub(super) struct Tables {
    codes: Vec<u8>,
    /// Bytes of PTQ1_0: of five digits, and of four.
    digits: [Vec<u8>; 2],
    /// [`SPREADS`] times [`DRAWS`] elements in the table's format.
    normal: Vec<u8>,
    format: FloatFormat,
}

impl Tables {
    /// For embeddings in `format` whose elements have the standard deviation `spread`.
    pub(super) fn new(format: FloatFormat, spread: f32) -> Self {
        let mut rng = Rng::new(0x6e6f_726d);
        let samples: Vec<f32> = (0..DRAWS).map(|_| rng.normal()).collect();
        let mut normal = Vec::with_capacity(SPREADS * DRAWS * format.bytes());
        for i in 0..SPREADS {
            let own = spread * (0.75 + 0.5 * i as f32 / (SPREADS - 1) as f32);
            for x in samples.iter().map(|x| x * own) {
                match format {
                    FloatFormat::F32 => normal.extend(x.to_le_bytes()),
                    FloatFormat::F16 => normal.extend(f16::from_f32(x).to_le_bytes()),
                    FloatFormat::Bf16 => normal.extend(bf16::from_f32(x).to_le_bytes()),
                }
            }
        }
        Self { codes: code_bytes(), digits: [5, 4].map(digit_bytes), normal, format }
    }

    /// Fills `out` with packed codes.
    pub(super) fn fill_codes(&self, rng: &mut SplitMix, out: &mut [u8]) {
        draw(rng, &self.codes, out);
    }

    /// Fills `out` with blocks of `ty`, PTQ1_0 or PQ2_0, whose scales are around `scale`.
    pub(super) fn fill_blocks(&self, rng: &mut SplitMix, ty: TensorType, scale: f32, out: &mut [u8]) {
        let (bytes, at) = if ty == TensorType::Ptq1_0 { (28, 26) } else { (34, 0) };
        for block in out.chunks_exact_mut(bytes) {
            let own = scale * (0.75 + 0.5 * (rng.next_u64() >> 40) as f32 / (1u64 << 24) as f32);
            block[at..at + 2].copy_from_slice(&f16::from_f32(own).to_le_bytes());
            match ty {
                TensorType::Ptq1_0 => {
                    let [five, four] = &self.digits;
                    draw(rng, five, &mut block[..24]);
                    draw(rng, four, &mut block[24..26]);
                }
                _ => draw(rng, &self.codes, &mut block[2..]),
            }
        }
    }

    /// Fills a row of an embedding.
    pub(super) fn fill_row(&self, rng: &mut SplitMix, row: &mut [u8]) {
        let size = DRAWS * self.format.bytes();
        let start = rng.below(SPREADS) * size;
        let samples = &self.normal[start..start + size];
        match self.format {
            FloatFormat::F32 => gather(rng, samples.as_chunks::<4>().0, row.as_chunks_mut::<4>().0),
            FloatFormat::F16 | FloatFormat::Bf16 => {
                gather(rng, samples.as_chunks::<2>().0, row.as_chunks_mut::<2>().0);
            }
        }
    }
}

/// Bytes of a table with one for each draw.
fn draw(rng: &mut SplitMix, table: &[u8], out: &mut [u8]) {
    for chunk in out.chunks_mut(4) {
        let mut bits = rng.next_u64();
        for byte in chunk {
            *byte = table[(bits & 0xffff) as usize];
            bits >>= 16;
        }
    }
}

fn gather<const N: usize>(rng: &mut SplitMix, samples: &[[u8; N]], row: &mut [[u8; N]]) {
    for group in row.chunks_mut(4) {
        let mut bits = rng.next_u64();
        for element in group {
            *element = samples[(bits & 0xffff) as usize];
            bits >>= 16;
        }
    }
}

/// A byte of four codes for each draw: the 81 possible bytes, each as often as it is likely.
fn code_bytes() -> Vec<u8> {
    bytes_of(4, |codes| codes.iter().fold(0u8, |byte, &c| byte << 2 | c))
}

/// A byte of so many digits of base 3, four or five, for each draw.
fn digit_bytes(count: u32) -> Vec<u8> {
    let last = 3u32.pow(5 - count);
    bytes_of(count, |codes| {
        let v = codes.iter().fold(0, |v, &c| 3 * v + u32::from(c)) * last;
        (256 * v).div_ceil(243) as u8
    })
}

/// A byte for each draw: of every combination of so many codes the one that `byte` makes, as often as the codes are likely.
fn bytes_of(count: u32, byte: impl Fn(&[u8]) -> u8) -> Vec<u8> {
    let share = |code: u8| if code == 1 { ZERO_SHARE } else { (1.0 - ZERO_SHARE) / 2.0 };
    let mut bytes = Vec::with_capacity(DRAWS);
    let mut sum = 0.0;
    for combination in 0..3u32.pow(count) {
        let codes: Vec<u8> = (0..count).rev().map(|i| (combination / 3u32.pow(i) % 3) as u8).collect();
        sum += codes.iter().map(|&c| share(c)).product::<f64>();
        bytes.resize(((sum * DRAWS as f64).round() as usize).min(DRAWS), byte(&codes));
    }
    bytes
}

/// The scale of a matrix with `columns` columns.
pub(super) fn scale(rng: &mut SplitMix, columns: usize, gain: f32) -> f32 {
    let own = 0.8 + 0.4 * (rng.next_u64() >> 40) as f32 / (1u64 << 24) as f32;
    gain * own / (columns as f32 * (1.0 - ZERO_SHARE) as f32).sqrt()
}

/// What follows the codes of I2_S: the scale, and 28 zeros.
pub(super) fn tail(rng: &mut SplitMix, columns: usize, gain: f32) -> [u8; TAIL_BYTES] {
    let mut tail = [0; TAIL_BYTES];
    tail[..4].copy_from_slice(&scale(rng, columns, gain).to_le_bytes());
    tail
}

/// The weights of a norm.
pub(super) fn norm(seed: u64, n: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..n).flat_map(|_| (1.0 + 0.1 * rng.normal()).to_le_bytes()).collect()
}

/// The rates by which states decay: below 0.
pub(crate) fn decay_rates(seed: u64, n: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..n).flat_map(|_| (-0.01 - 0.5 * rng.unit()).to_le_bytes()).collect()
}

/// The weights of short convolutions.
pub(crate) fn convolution(seed: u64, n: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..n).flat_map(|_| (0.5 * rng.normal()).to_le_bytes()).collect()
}

/// A matrix whose products gate a state, in bf16.
pub(crate) fn gate(seed: u64, cols: usize, rows: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let spread = 1.0 / (cols as f32).sqrt();
    (0..cols * rows).flat_map(|_| bf16::from_f32(spread * rng.normal()).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_shares() {
        let bytes = code_bytes();
        assert_eq!(bytes.len(), DRAWS);
        let mut counts = [0u32; 4];
        for byte in bytes {
            (0..4).for_each(|g| counts[usize::from(byte >> (2 * g) & 3)] += 1);
        }
        let share = |code: usize| f64::from(counts[code]) / (4 * DRAWS) as f64;
        assert_eq!(counts[3], 0);
        assert!((share(1) - ZERO_SHARE).abs() < 1e-4, "{counts:?}");
        assert!((share(0) - share(2)).abs() < 2e-4, "{counts:?}");
    }

    #[test]
    fn digits_have_their_shares_in_every_place() {
        for count in [4u32, 5] {
            let bytes = digit_bytes(count);
            assert_eq!(bytes.len(), DRAWS);
            for place in 0..count {
                let digit = |&&byte: &&u8| (u16::from(byte.wrapping_mul(3u8.pow(place))) * 3) >> 8 == 1;
                let zeros = bytes.iter().filter(digit).count();
                assert!((zeros as f64 / DRAWS as f64 - ZERO_SHARE).abs() < 2e-3, "{count} {place}: {zeros}");
            }
        }
    }

    #[test]
    fn rows_are_normal() {
        let tables = Tables::new(FloatFormat::F16, 2.0);
        let mut rng = SplitMix::new(3);
        let mut row = vec![0; 2 * 4096];
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..64 {
            tables.fill_row(&mut rng, &mut row);
            for &bytes in row.as_chunks::<2>().0 {
                let x = f64::from(f16::from_le_bytes(bytes).to_f32());
                (sum, squares) = (sum + x, squares + x * x);
            }
        }
        let n = 64.0 * 4096.0;
        assert!((sum / n).abs() < 0.05, "{}", sum / n);
        // The spreads are around the one that was asked for.
        assert!(((squares / n).sqrt() - 2.0).abs() < 0.2, "{}", (squares / n).sqrt());
    }
}
