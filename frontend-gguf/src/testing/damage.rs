//! Random models, and random damage to their files: structured, so that much of it gets past the first checks.

use super::Rng;
use super::store;
use super::tiny::TinyModel;
use super::writer::GgufWriter;
use crate::decode::FloatFormat;
use crate::tensor_type::TensorType;
use crate::write::MetaValue;

/// A small model of a random shape, architecture name and storage. Most of them are complete and supported.
pub fn random_model(rng: &mut Rng) -> GgufWriter {
    let pick = |rng: &mut Rng, all: &[usize]| all[rng.below(all.len())];
    let head_dim = pick(rng, &[16, 32, 64]);
    let hidden = pick(rng, &[128, 128, 128, 256]);
    let kv_heads = pick(rng, &[1, 2]);
    let model = TinyModel {
        hidden,
        layers: 1,
        heads: hidden / head_dim,
        kv_heads,
        head_dim,
        ffn: pick(rng, &[128, 128, 128, 256]),
        vocab: pick(rng, &[8, 8, 64, 270]),
        tied: rng.below(2) == 0,
        arch: ["bitnet-b1.58", "bitnet-25", "bitnet"][rng.below(3)],
        table: [FloatFormat::F16, FloatFormat::Bf16, FloatFormat::F32][rng.below(3)],
        seed: rng.bits(),
        drawn: 128,
        ..TinyModel::default()
    };
    let mut w = model.writer();
    const STORED: [TensorType; 8] = [
        TensorType::F16,
        TensorType::Q8_0,
        TensorType::Tq1_0,
        TensorType::Tq2_0,
        TensorType::Q2_0,
        TensorType::Q2_0G128,
        TensorType::Iq1Bn,
        TensorType::Iq2Bn,
    ];
    let stored = STORED[rng.below(STORED.len())];
    let whole = [hidden, model.ffn].iter().all(|&n| (n as u64).is_multiple_of(stored.block_elements()));
    if rng.below(4) == 0 && whole {
        for t in w.tensors.iter_mut().filter(|t| t.ty == TensorType::I2S.id()) {
            store::convert_i2s(t, stored);
        }
    }
    w
}

/// Changes one thing in the structure of a file.
pub fn change(w: &mut GgufWriter, rng: &mut Rng) {
    let number = |rng: &mut Rng| match rng.below(4) {
        0 => rng.below(300) as u64,
        1 => 1 << rng.below(64),
        2 => u64::MAX - rng.below(64) as u64,
        _ => rng.bits(),
    };
    let n = number(rng);
    match rng.below(10) {
        0 if !w.entries.is_empty() => {
            let at = rng.below(w.entries.len());
            w.entries.remove(at);
        }
        1 if !w.entries.is_empty() => {
            let at = rng.below(w.entries.len());
            w.entries[at].1 = match rng.below(5) {
                0 => MetaValue::U32(n as u32),
                1 => MetaValue::U64(n),
                2 => MetaValue::F32(f32::from_bits(n as u32)),
                3 => MetaValue::String(format!("{n:x}")),
                _ => MetaValue::I32s(vec![n as i32; rng.below(4)]),
            };
        }
        2 if !w.entries.is_empty() => {
            let copy = w.entries[rng.below(w.entries.len())].clone();
            w.entries.push(copy);
        }
        3 if !w.tensors.is_empty() => {
            let at = rng.below(w.tensors.len());
            w.tensors.remove(at);
        }
        4 if !w.tensors.is_empty() => {
            let at = rng.below(w.tensors.len());
            let tensor = &mut w.tensors[at];
            let dim = rng.below(tensor.dims.len().max(1));
            if let Some(dim) = tensor.dims.get_mut(dim) {
                *dim = n;
            }
        }
        5 if !w.tensors.is_empty() => {
            let at = rng.below(w.tensors.len());
            w.tensors[at].ty = [0, 1, 8, 14, 34, 35, 36, 39, 42, 134, 135, 142, n as u32][rng.below(13)];
        }
        6 if !w.tensors.is_empty() => {
            let at = rng.below(w.tensors.len());
            w.tensors[at].offset = Some(if rng.below(2) == 0 { n } else { n & 0xffe0 });
        }
        7 if !w.tensors.is_empty() => {
            let at = rng.below(w.tensors.len());
            let data = &mut w.tensors[at].data;
            if !data.is_empty() {
                let byte = rng.below(data.len());
                data[byte] = n as u8;
            }
        }
        8 => w.tensor_count = Some(n),
        _ => w.key_count = Some(n),
    }
}

/// Flips bits, cuts or splices the bytes of a file.
pub fn corrupt(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    // Most of what matters stands at the start.
    let place = |rng: &mut Rng, len: usize| match rng.below(2) {
        0 => rng.below(len.min(8192)),
        _ => rng.below(len),
    };
    match rng.below(4) {
        0 => {
            for _ in 0..=rng.below(8) {
                let at = place(rng, bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
        }
        1 => {
            let at = place(rng, bytes.len());
            bytes.truncate(at);
        }
        2 => {
            let (from, to) = (place(rng, bytes.len()), place(rng, bytes.len()));
            let len = (1 + rng.below(64)).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + len, to);
        }
        _ => {
            let at = place(rng, bytes.len());
            let end = (at + 8).min(bytes.len());
            let value = [0, 0xff, 0x7f, 0x80][rng.below(4)];
            bytes[at..end].fill(value);
        }
    }
}
