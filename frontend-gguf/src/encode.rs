//! Storing ternary weights in a tensor type: the inverse of [`crate::decode`], for tools that write models.
//!
//! Weights come as −1, 0 and 1 with one scale for the whole matrix, in units of rows that the type stores together
//! ([`TensorType::row_group`]), so that a matrix can be written as a stream. Types that keep their scales as f16 numbers
//! round it: [`stored_scale`] says to what.
//!
//! Invariants: nothing is allocated; decoding gives back each weight times the stored scale, by bits.

use half::f16;

use crate::decode::i2s::{self, TAIL_BYTES};
use crate::decode::{FloatFormat, i2s::BLOCK_BYTES};
use crate::tensor_type::{Storage, TensorType};

/// The types that ternary weights can be stored in.
pub const TERNARY_TYPES: &[TensorType] = &[
    TensorType::I2S,
    TensorType::Tq1_0,
    TensorType::Tq2_0,
    TensorType::Iq1Bn,
    TensorType::Iq2Bn,
    TensorType::Iq2BnR4,
    TensorType::Q2_0,
    TensorType::Q2_0G128,
    TensorType::Pq2_0,
    TensorType::Ptq1_0,
    TensorType::Q8_0,
    TensorType::F32,
    TensorType::F16,
    TensorType::Bf16,
];

/// The scale that a type keeps when it is given `scale`; of floats, the magnitude of a weight.
pub fn stored_scale(ty: TensorType, scale: f32) -> f32 {
    match (FloatFormat::of(ty), ty) {
        (Some(format), _) => {
            let mut bytes = [0; 4];
            format.write(scale, &mut bytes[..format.bytes()]);
            format.value(&bytes[..format.bytes()])
        }
        (None, TensorType::I2S | TensorType::Iq2Bn | TensorType::Iq2BnR4) => scale,
        (None, _) => f16::from_f32(scale).to_f32(),
    }
}

/// Bytes of the rows that a type stores together, without what stands after all rows (see [`tail`]); `None` if the type
/// is none of [`TERNARY_TYPES`], or `cols` is no multiple of its block.
pub fn group_bytes(ty: TensorType, cols: usize) -> Option<usize> {
    if !TERNARY_TYPES.contains(&ty) {
        return None;
    }
    let bytes = ty.tensor_bytes(cols as u64, ty.row_group())?;
    usize::try_from(bytes - tail(ty, 0.0).map_or(0, |t| t.len() as u64)).ok()
}

/// What stands after the last row: of I2_S its scale and 28 zeros.
pub fn tail(ty: TensorType, scale: f32) -> Option<[u8; TAIL_BYTES]> {
    (ty == TensorType::I2S).then(|| {
        let mut tail = [0; TAIL_BYTES];
        tail[..4].copy_from_slice(&scale.to_le_bytes());
        tail
    })
}

/// Stores [`TensorType::row_group`] rows of `cols` weights, given one after the other.
///
/// # Panics
/// If `codes` or `out` have another length than these rows ([`group_bytes`]).
pub fn store_group(ty: TensorType, cols: usize, scale: f32, codes: &[i8], out: &mut [u8]) {
    let rows = ty.row_group() as usize;
    assert!(codes.len() == rows * cols && Some(out.len()) == group_bytes(ty, cols), "rows of {}", ty.name());
    let d = f16::from_f32(scale).to_le_bytes();
    match (FloatFormat::of(ty), ty.storage()) {
        (Some(format), _) => {
            for (out, &t) in out.chunks_exact_mut(format.bytes()).zip(codes) {
                format.write(f32::from(t) * scale, out);
            }
        }
        (None, Storage::I2S) => {
            let blocks = codes.as_chunks().0.iter().zip(out.as_chunks_mut().0);
            blocks.for_each(|(t, out)| i2s::pack_block(t, out));
        }
        (None, Storage::Blocks { elements, bytes }) => {
            let blocks = codes.chunks_exact(elements as usize).zip(out.chunks_exact_mut(bytes as usize));
            blocks.for_each(|(t, out)| store_block(ty, t, d, out));
        }
        (None, Storage::RowBlocks { .. }) if ty == TensorType::Iq2BnR4 => iq2_bn_r4(codes, cols, scale, out),
        (None, Storage::RowBlocks { header, elements, bytes, .. }) => {
            let (head, body) = out.split_at_mut(header as usize);
            match ty {
                TensorType::Iq1Bn => head.copy_from_slice(&d),
                _ => head.copy_from_slice(&scale.to_le_bytes()),
            }
            let blocks = codes.chunks_exact(elements as usize).zip(body.chunks_exact_mut(bytes as usize));
            blocks.for_each(|(t, out)| store_block(ty, t, d, out));
        }
    }
}

fn code(t: i8) -> u8 {
    (t + 1) as u8
}

/// ⌈256·v / 243⌉ of the digits, most significant first.
fn digits(t: impl Iterator<Item = i8>) -> u8 {
    let v = t.fold(0u32, |v, t| 3 * v + u32::from(code(t)));
    (256 * v).div_ceil(243) as u8
}

/// A byte of four codes, the first in the lowest bits.
fn fields(t: impl Fn(usize) -> i8) -> u8 {
    (0..4).fold(0, |byte, i| byte | code(t(i)) << (2 * i))
}

/// One block with its f16 scale `d`, where the type has it in the block.
fn store_block(ty: TensorType, t: &[i8], d: [u8; 2], out: &mut [u8]) {
    match ty {
        TensorType::Q8_0 => {
            out[..2].copy_from_slice(&d);
            out[2..].iter_mut().zip(t).for_each(|(out, &t)| *out = t as u8);
        }
        TensorType::Q2_0 | TensorType::Q2_0G128 | TensorType::Pq2_0 => {
            out[..2].copy_from_slice(&d);
            out[2..].iter_mut().zip(t.chunks_exact(4)).for_each(|(out, t)| *out = fields(|i| t[i]));
        }
        TensorType::Tq2_0 => {
            let (codes, scale) = out.split_at_mut(64);
            scale.copy_from_slice(&d);
            for (half, out) in t.chunks_exact(128).zip(codes.chunks_exact_mut(BLOCK_BYTES)) {
                out.iter_mut().enumerate().for_each(|(j, out)| *out = fields(|g| half[32 * g + j]));
            }
        }
        TensorType::Tq1_0 => {
            (0..32).for_each(|j| out[j] = digits((0..5).map(|k| t[32 * k + j])));
            (0..16).for_each(|j| out[32 + j] = digits((0..5).map(|k| t[160 + 16 * k + j])));
            // Four digits, with a fifth of 0 after them.
            (0..4).for_each(|j| out[48 + j] = digits((0..4).map(|k| t[240 + 4 * k + j]).chain([-1])));
            out[52..].copy_from_slice(&d);
        }
        TensorType::Ptq1_0 => {
            (0..16).for_each(|j| out[j] = digits((0..5).map(|k| t[16 * k + j])));
            (0..8).for_each(|j| out[16 + j] = digits((0..5).map(|k| t[80 + 8 * k + j])));
            (0..2).for_each(|j| out[24 + j] = digits((0..4).map(|k| t[120 + 2 * k + j]).chain([-1])));
            out[26..].copy_from_slice(&d);
        }
        TensorType::Iq2Bn => (0..16).for_each(|j| out[j] = fields(|g| t[16 * g + j])),
        TensorType::Iq1Bn => {
            for i in 0..4 {
                (0..3).for_each(|k| out[3 * i + k] = digits((0..5).rev().map(|j| t[16 * i + 5 * k + j])));
            }
            out[12] = digits((0..4).rev().map(|i| t[16 * i + 15]));
        }
        // `TERNARY_TYPES` has no other types of blocks.
        _ => unreachable!("{} has no blocks of ternary weights", ty.name()),
    }
}

fn iq2_bn_r4(rows: &[i8], cols: usize, scale: f32, out: &mut [u8]) {
    let (head, body) = out.split_at_mut(16);
    head.chunks_exact_mut(4).for_each(|s| s.copy_from_slice(&scale.to_le_bytes()));
    for (first, out) in (0..cols).step_by(64).zip(body.chunks_exact_mut(64)) {
        let place = |byte: usize, t: usize| {
            let (l, k, i) = (byte / 16, byte % 16 / 4, byte % 4);
            rows[k * cols + first + 16 * l + i + 4 * t]
        };
        out.iter_mut().enumerate().for_each(|(byte, out)| *out = fields(|t| place(byte, t)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Floats, I2s, Quantised};

    #[test]
    fn decoders_give_back_what_was_stored() {
        let (rows, cols, scale) = (8, 512, 0.3f32);
        let codes: Vec<i8> = (0..rows * cols).map(|i| ((i * 7 + i / 11) % 3) as i8 - 1).collect();
        for &ty in TERNARY_TYPES {
            let group = ty.row_group() as usize;
            let mut bytes = Vec::new();
            for codes in codes.chunks_exact(group * cols) {
                let at = bytes.len();
                bytes.resize(at + group_bytes(ty, cols).unwrap(), 0xaa);
                store_group(ty, cols, scale, codes, &mut bytes[at..]);
            }
            bytes.extend(tail(ty, scale).into_iter().flatten());
            assert_eq!(Some(bytes.len() as u64), ty.tensor_bytes(cols as u64, rows as u64), "{ty:?}");
            let values = match FloatFormat::of(ty) {
                Some(format) => Floats::new(format, rows, cols, &bytes).unwrap().decode(),
                None if ty == TensorType::I2S => {
                    let matrix = I2s::new(rows, cols, &bytes).unwrap();
                    matrix.decode().unwrap().iter().map(|&t| f32::from(t) * matrix.scale()).collect()
                }
                None => Quantised::new(ty, rows, cols, &bytes).unwrap().decode(),
            };
            let stored = stored_scale(ty, scale);
            assert!((stored / scale - 1.0).abs() < 1.0 / 256.0);
            let expected: Vec<f32> = codes.iter().map(|&t| f32::from(t) * stored).collect();
            assert_eq!(values, expected, "{ty:?}");
        }
    }

    #[test]
    fn other_types_and_rows_are_refused() {
        assert_eq!(group_bytes(TensorType::Q4_0, 512), None);
        assert_eq!(group_bytes(TensorType::Tq2_0, 384), None);
        assert_eq!(group_bytes(TensorType::I2S, 384), Some(96));
    }
}
