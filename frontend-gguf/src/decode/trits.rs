//! Blocks of ternary weights with a scale each: TQ1_0 and TQ2_0 of ggml, PTQ1_0 of PrismML, Q2_0 and Q1_0 of both.
//!
//! Each function decodes one block. Sources: `dequantize_row_tq*_0`, `dequantize_row_q2_0` and `dequantize_row_q1_0` in
//! `ggml-quants.c` of ggml; PTQ1_0 as ports of PrismML's fork have it. TQ1_0 and PTQ1_0 store five ternary digits v in a byte
//! as ⌈256·v / 243⌉, most significant first.

use super::half_at;

/// Where code 3, which stands for no weight, is in a TQ2_0 block: an element and the byte that holds it.
pub(super) fn tq2_0_invalid(block: &[u8]) -> Option<(usize, usize)> {
    (0..256).map(|e| (e, e / 128 * 32 + e % 32)).find(|&(e, byte)| block[byte] >> (e % 128 / 32 * 2) & 3 == 3)
}

/// 64 bytes of four codes, d: f16. Element 128h + 32g + j is field g, from below, of byte 32h + j; x = (code − 1)·d.
pub(super) fn tq2_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 64);
    for (e, x) in out.iter_mut().enumerate() {
        let code = block[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
        *x = (f32::from(code) - 1.0) * d;
    }
}

/// 48 bytes of five digits, 4 bytes of four, d: f16; x = (digit − 1)·d. The first 32 bytes hold elements 0 to 159, all
/// first digits before all second ones, the next 16 bytes elements 160 to 239, the last 4 bytes elements 240 to 255.
pub(super) fn tq1_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 52);
    let (first, rest) = out.split_at_mut(160);
    let (second, last) = rest.split_at_mut(80);
    for (bytes, out) in [(&block[..32], first), (&block[32..48], second), (&block[48..52], last)] {
        digits(bytes, d, out);
    }
}

/// 24 bytes of five digits, 2 bytes of four, d: f16; x = (digit − 1)·d. The first 16 bytes hold elements 0 to 79, all first
/// digits before all second ones, the next 8 bytes elements 80 to 119, the last 2 bytes elements 120 to 127.
pub(super) fn ptq1_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 26);
    let (first, rest) = out.split_at_mut(80);
    let (second, last) = rest.split_at_mut(40);
    for (bytes, out) in [(&block[..16], first), (&block[16..24], second), (&block[24..26], last)] {
        digits(bytes, d, out);
    }
}

/// The digits of some bytes, all first ones before all second ones, as many of each as `out` has room for.
fn digits(bytes: &[u8], d: f32, out: &mut [f32]) {
    for (out, power) in out.chunks_exact_mut(bytes.len()).zip([1u8, 3, 9, 27, 81]) {
        for (x, &byte) in out.iter_mut().zip(bytes) {
            let rest = byte.wrapping_mul(power);
            *x = (f32::from(((u16::from(rest) * 3) >> 8) as u8) - 1.0) * d;
        }
    }
}

/// d: f16, then four codes a byte, the first in the lowest bits; x = (code − 1)·d, where code 3 gives 2·d.
pub(super) fn q2_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (e, x) in out.iter_mut().enumerate() {
        *x = (f32::from(block[2 + e / 4] >> (e % 4 * 2) & 3) - 1.0) * d;
    }
}

/// d: f16, then eight bits a byte, the first in the lowest bit; x = d where the bit is set, else −d.
pub(super) fn q1_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (e, x) in out.iter_mut().enumerate() {
        *x = if block[2 + e / 8] >> (e % 8) & 1 == 1 { d } else { -d };
    }
}
