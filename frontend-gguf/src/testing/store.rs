//! Stores ternary weights in any type: the inverse of the decoders, for tests.

use half::f16;

use super::writer::TensorData;
use crate::decode::{FloatFormat, I2s};
use crate::tensor_type::{Storage, TensorType};

/// Stores an I2_S tensor again as `ty`. Its scale has to be a number of that type.
///
/// # Panics
/// If the tensor is not I2_S, or the type is none of those that this can write.
pub fn convert_i2s(tensor: &mut TensorData, ty: TensorType) {
    let &[cols, rows] = &tensor.dims[..] else { panic!("a matrix") };
    let Some(matrix) = I2s::new(rows as usize, cols as usize, &tensor.data) else { panic!("an I2_S matrix") };
    let Ok(codes) = matrix.decode() else { panic!("ternary weights") };
    let scale = matrix.scale();
    let mut data = Vec::new();
    let cols = cols as usize;
    if let Some(format) = FloatFormat::of(ty) {
        data = vec![0; codes.len() * format.bytes()];
        for (out, &t) in data.chunks_exact_mut(format.bytes()).zip(&codes) {
            format.write(f32::from(t) * scale, out);
        }
    } else if ty == TensorType::Iq2BnR4 {
        codes.chunks_exact(4 * cols).for_each(|rows| iq2_bn_r4(rows, cols, scale, &mut data));
    } else {
        let d = f16::from_f32(scale).to_le_bytes();
        for row in codes.chunks_exact(cols) {
            match ty {
                TensorType::Iq1Bn => data.extend(d),
                TensorType::Iq2Bn => data.extend(scale.to_le_bytes()),
                _ => {}
            }
            let block = match ty.storage() {
                Storage::Blocks { elements, .. } | Storage::RowBlocks { elements, .. } => elements as usize,
                Storage::I2S => panic!("{} is not written here", ty.name()),
            };
            row.chunks_exact(block).for_each(|t| write_block(ty, t, d, &mut data));
        }
    }
    tensor.ty = ty.id();
    tensor.data = data;
}

fn code(t: i8) -> u8 {
    (t + 1) as u8
}

/// ⌈256·v / 243⌉ of the digits, most significant first.
fn digits(t: impl Iterator<Item = i8>) -> u8 {
    let v = t.fold(0u32, |v, t| 3 * v + u32::from(code(t)));
    (256 * v).div_ceil(243) as u8
}

fn write_block(ty: TensorType, t: &[i8], d: [u8; 2], out: &mut Vec<u8>) {
    match ty {
        TensorType::Q8_0 => {
            out.extend(d);
            out.extend(t.iter().map(|&t| t as u8));
        }
        TensorType::Q2_0 | TensorType::Q2_0G128 | TensorType::Pq2_0 => {
            out.extend(d);
            let bytes = t.chunks_exact(4);
            out.extend(bytes.map(|b| (0..4).fold(0, |byte, i| byte | code(b[i]) << (2 * i))));
        }
        TensorType::Tq2_0 => {
            for half in t.chunks_exact(128) {
                out.extend(
                    (0..32).map(|j| (0..4).fold(0, |byte, g| byte | code(half[32 * g + j]) << (2 * g))),
                );
            }
            out.extend(d);
        }
        TensorType::Tq1_0 => {
            out.extend((0..32).map(|j| digits((0..5).map(|k| t[32 * k + j]))));
            out.extend((0..16).map(|j| digits((0..5).map(|k| t[160 + 16 * k + j]))));
            // Four digits, with a fifth of 0 behind them.
            out.extend((0..4).map(|j| digits((0..4).map(|k| t[240 + 4 * k + j]).chain([-1]))));
            out.extend(d);
        }
        TensorType::Iq2Bn => {
            out.extend((0..16).map(|j| (0..4).fold(0, |byte, g| byte | code(t[16 * g + j]) << (2 * g))));
        }
        TensorType::Iq1Bn => {
            for i in 0..4 {
                out.extend((0..3).map(|k| digits((0..5).rev().map(|j| t[16 * i + 5 * k + j]))));
            }
            out.push(digits((0..4).rev().map(|i| t[16 * i + 15])));
        }
        _ => panic!("{} is not written here", ty.name()),
    }
}

fn iq2_bn_r4(rows: &[i8], cols: usize, scale: f32, out: &mut Vec<u8>) {
    (0..4).for_each(|_| out.extend(scale.to_le_bytes()));
    for first in (0..cols).step_by(64) {
        let place = |byte: usize, t: usize| {
            let (l, k, i) = (byte / 16, byte % 16 / 4, byte % 4);
            rows[k * cols + first + 16 * l + i + 4 * t]
        };
        out.extend((0..64).map(|byte| (0..4).fold(0, |b, t| b | code(place(byte, t)) << (2 * t))));
    }
}
