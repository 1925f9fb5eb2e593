//! Super-blocks of 256 elements: Q4_K, Q5_K, Q6_K.
//!
//! Each function decodes one super-block into 256 values. Source of the formulas: `dequantize_row_q*_K` in
//! `ggml-quants.c` of ggml; every operation is f32 and rounds apart.

use super::half_at;

/// Six-bit scale and minimum of sub-block `i`, from the 12 bytes that hold eight of each.
fn scale_and_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4),
    };
    (f32::from(scale), f32::from(min))
}

/// d, dmin: f16, 12 bytes of scales, 128 bytes of two codes; eight sub-blocks of 32: x = d·scale·code − dmin·min.
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    sub_blocks(block, &block[16..144], out, |_, _| 0);
}

/// As Q4_K, with 32 bytes of fifth bits before the codes: bit i of byte j is that of element j of sub-block i.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let high = &block[16..48];
    sub_blocks(block, &block[48..176], out, |sub, j| (high[j] >> sub & 1) << 4);
}

fn sub_blocks(block: &[u8], codes: &[u8], out: &mut [f32], fifth: impl Fn(usize, usize) -> u8) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], sub);
        let (scale, min) = (d * scale, dmin * min);
        for (j, x) in out.iter_mut().enumerate() {
            let byte = codes[sub / 2 * 32 + j];
            let code = (if sub % 2 == 0 { byte & 15 } else { byte >> 4 }) + fifth(sub, j);
            *x = scale * f32::from(code) - min;
        }
    }
}

/// 128 bytes of low halves, 64 bytes of four upper bit pairs, 16 signed scales, d: f16; x = d·scale·(code − 32).
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 208);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        let low = &block[64 * half..64 * half + 64];
        let high = &block[128 + 32 * half..160 + 32 * half];
        let scales = &block[192 + 8 * half..200 + 8 * half];
        for (e, x) in out.iter_mut().enumerate() {
            let (group, l) = (e / 32, e % 32);
            let byte = low[l + 32 * (group % 2)];
            let low = if group < 2 { byte & 15 } else { byte >> 4 };
            let code = i32::from(low | (high[l] >> (2 * group) & 3) << 4) - 32;
            *x = d * f32::from(scales[e / 16] as i8) * code as f32;
        }
    }
}
