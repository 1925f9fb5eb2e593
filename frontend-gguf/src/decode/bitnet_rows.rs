//! Rows of ternary weights with one scale a row: IQ1_BN, IQ2_BN and IQ2_BN_R4 of ik_llama.cpp.
//!
//! Each function decodes one row; the scale stands before its blocks of 64 elements. Sources: `iqk_quantize.cpp` and
//! `ggml-common.h` of ik_llama.cpp.

use super::{float_at, half_at};

/// d: f32, then 16 bytes a block: element 16g + j is field g, from below, of byte j; x = (code − 1)·d.
pub(super) fn iq2_bn(row: &[u8], out: &mut [f32]) {
    let d = float_at(row, 0);
    for (block, out) in row[4..].chunks_exact(16).zip(out.chunks_exact_mut(64)) {
        for (e, x) in out.iter_mut().enumerate() {
            *x = (f32::from(block[e % 16] >> (e / 16 * 2) & 3) - 1.0) * d;
        }
    }
}

/// Row `k` of four that are stored together: four d: f32, then 64 bytes for 64 columns, where column 16l + i + 4t of row k
/// is field t, from below, of byte 16l + 4k + i.
pub(super) fn iq2_bn_r4(rows: &[u8], k: usize, out: &mut [f32]) {
    let d = float_at(rows, 4 * k);
    for (block, out) in rows[16..].chunks_exact(64).zip(out.chunks_exact_mut(64)) {
        for (c, x) in out.iter_mut().enumerate() {
            let byte = block[c / 16 * 16 + 4 * k + c % 4];
            *x = (f32::from(byte >> (c % 16 / 4 * 2) & 3) - 1.0) * d;
        }
    }
}

/// The first byte of a row, or of four rows, of codes that holds code 3.
pub(super) fn iq2_bn_invalid(codes: &[u8]) -> Option<usize> {
    codes.iter().position(|b| b & b >> 1 & 0x55 != 0)
}

/// d: f16, then 13 bytes a block: digit j of byte 3i + k is element 16i + 5k + j, digit i of the last byte is element
/// 16i + 15. Digits are those of ⌈256·v / 243⌉, least significant first; x = (digit − 1)·d.
pub(super) fn iq1_bn(row: &[u8], out: &mut [f32]) {
    let d = half_at(row, 0);
    let digit = |byte: u8, power: usize| {
        let v = u16::from(byte.wrapping_mul([81, 27, 9, 3, 1][power]));
        (f32::from((v + (v >> 1)) >> 7) - 1.0) * d
    };
    for (block, out) in row[2..].chunks_exact(13).zip(out.chunks_exact_mut(64)) {
        for (i, out) in out.chunks_exact_mut(16).enumerate() {
            for (e, x) in out.iter_mut().enumerate() {
                *x = match e {
                    15 => digit(block[12], i),
                    _ => digit(block[3 * i + e / 5], e % 5),
                };
            }
        }
    }
}
