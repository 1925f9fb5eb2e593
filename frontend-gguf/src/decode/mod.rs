//! One scalar decoder per tensor format that a model may use: it defines what the bytes mean.
//!
//! A decoder is a view of a tensor's bytes and copies nothing. Decoders do not know tensor names or file offsets; a
//! bad element is reported by its index and the caller says where that is.

mod bitnet_rows;
pub mod floats;
pub mod i2s;
mod kquants;
mod legacy;
pub mod quantised;
mod trits;

use half::f16;

pub use floats::{FloatFormat, Floats};
pub use i2s::{I2s, I2sLayout, InvalidCode};
pub use quantised::Quantised;

/// The f16 at an offset of a block that has it.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The f32 at an offset of a row that has it.
fn float_at(row: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
}

/// Bytes that the scanners look at between two tests for a hit.
const SCAN_BYTES: usize = 4096;

/// Offset of the first chunk of `bytes` with a word for which `hit` is not zero. Chunks start at multiples of
/// [`SCAN_BYTES`]; a last word that is not full is filled up with zeros, which must not be a hit.
fn first_bad_chunk(bytes: &[u8], hit: impl Fn(u64) -> u64) -> Option<usize> {
    let found = |chunk: &[u8]| {
        let (words, rest) = chunk.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let hits = words.iter().fold(0, |acc, word| acc | hit(u64::from_le_bytes(*word)));
        hits | hit(u64::from_le_bytes(last)) != 0
    };
    bytes.chunks(SCAN_BYTES).position(found).map(|i| i * SCAN_BYTES)
}
