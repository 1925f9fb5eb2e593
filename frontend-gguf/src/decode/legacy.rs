//! Blocks of 32 elements with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Each function decodes one block into 32 values. Source of the formulas: `dequantize_row_*` in `ggml-quants.c` of ggml;
//! every operation is f32 and rounds apart.

use super::half_at;

/// d: f16, then 16 bytes of two codes: x = d · (code − 8), low halves first.
pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..18], out, |q| (i32::from(q) - 8) as f32 * d);
}

/// d, m: f16, then 16 bytes of two codes: x = code · d + m.
pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..20], out, |q| f32::from(q) * d + m);
}

/// d: f16, the fifth bits of all codes, then their low halves: x = d · (code − 16).
pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..22], out, f32::from);
    for (i, x) in out.iter_mut().enumerate() {
        *x = (*x as i32 + fifth(high, i) - 16) as f32 * d;
    }
}

/// d, m: f16, the fifth bits of all codes, then their low halves: x = code · d + m.
pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(&block[8..24], out, f32::from);
    for (i, x) in out.iter_mut().enumerate() {
        *x = (*x as i32 + fifth(high, i)) as f32 * d + m;
    }
}

/// d: f16, then 32 signed bytes: x = code · d.
pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..34]) {
        *x = f32::from(q as i8) * d;
    }
}

/// 16, if the fifth bit of code `i` is set.
fn fifth(high: u32, i: usize) -> i32 {
    ((high >> i & 1) << 4) as i32
}

/// The low halves of all bytes, then the high ones.
fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (value(byte & 15), value(byte >> 4));
    }
}
