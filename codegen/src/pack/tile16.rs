//! One tile of `tile16` from 16 stored rows.
//!
//! From `i2s128`: 128 columns are 32 bytes, where byte b holds the columns b, b + 32, b + 64 and b + 96, the first in
//! the highest two bits. They become 8 groups of 16 columns, each with 4 bytes of this row, where byte b holds the columns
//! b, b + 4, b + 8 and b + 12, the first in the lowest two bits. So of the four 4-byte words of 16 source bytes, viewed as a
//! 4 × 4 matrix of two-bit fields (words × fields), the output words are the transpose, with the order of the fields reversed.

use bitnetc_ir::Layout;
use bitnetc_ir::weights::{TILE_ROWS, set_ternary_code, ternary_code};

use super::PackError;
use super::rows::Row;

/// Bytes from one group of a tile to the next.
const GROUP: usize = 64;
/// Code 1, the weight 0, in all fields.
const ZEROS: u8 = 0x55;
/// Lower bit of each code, eight bytes at a time.
const LOW_BITS: u64 = 0x5555_5555_5555_5555;

/// Writes the tile of `rows` (at most 16) to `out`, which holds exactly one tile.
pub(super) fn write<'a>(
    rows: impl Iterator<Item = Row<'a>>,
    cols: u32,
    out: &mut [u8],
) -> Result<(), PackError> {
    let mut written = 0;
    for (r, row) in rows.enumerate() {
        match row.stored.layout {
            Layout::I2s128 => from_i2s128(row, cols as usize, r, out)?,
            Layout::Row16 => from_row16(row, cols as usize, r, out)?,
            _ => by_element(row, r, out)?,
        }
        written = r + 1;
    }
    for r in written..TILE_ROWS as usize {
        for group in out.chunks_exact_mut(GROUP) {
            group[4 * r..4 * r + 4].fill(ZEROS);
        }
    }
    Ok(())
}

fn from_i2s128(row: Row<'_>, cols: usize, r: usize, out: &mut [u8]) -> Result<(), PackError> {
    let bytes = cols / 4;
    let source = &row.stored.bytes[row.row as usize * bytes..][..bytes];
    let mut threes = 0u64;
    for (source, out) in source.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<{ 8 * GROUP }>().0) {
        // Word i of the first 16 bytes in the low half of words[i], that of the second in the high half.
        let word = |i: usize| {
            u64::from(u32::from_le_bytes([source[i], source[i + 1], source[i + 2], source[i + 3]]))
        };
        let words: [u64; 4] = std::array::from_fn(|i| word(4 * i) | word(4 * i + 16) << 32);
        for w in words {
            threes |= w & (w >> 1) & LOW_BITS;
        }
        for (i, w) in transposed(words).into_iter().rev().enumerate() {
            let at = 2 * i * GROUP + 4 * r;
            out[at..at + 4].copy_from_slice(&(w as u32).to_le_bytes());
            out[at + GROUP..at + GROUP + 4].copy_from_slice(&((w >> 32) as u32).to_le_bytes());
        }
    }
    if threes == 0 { Ok(()) } else { Err(row.bad_code()) }
}

/// Transposes, in each byte lane, the matrix of words × two-bit fields (lowest first).
fn transposed([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    // Exchanges the high fields of one word with the low fields of another.
    let exchange = |low: &mut u64, high: &mut u64, shift: u32, mask: u64| {
        let t = ((*low >> shift) ^ *high) & mask;
        *high ^= t;
        *low ^= t << shift;
    };
    exchange(&mut a, &mut c, 4, 0x0f0f_0f0f_0f0f_0f0f);
    exchange(&mut b, &mut d, 4, 0x0f0f_0f0f_0f0f_0f0f);
    exchange(&mut a, &mut b, 2, 0x3333_3333_3333_3333);
    exchange(&mut c, &mut d, 2, 0x3333_3333_3333_3333);
    [a, b, c, d]
}

/// A row of `row16` lies as it does in a tile, without the other 15 between its groups.
fn from_row16(row: Row<'_>, cols: usize, r: usize, out: &mut [u8]) -> Result<(), PackError> {
    let bytes = cols.div_ceil(16) * 4;
    let source = &row.stored.bytes[row.row as usize * bytes..][..bytes];
    let mut threes = 0u8;
    for (source, group) in source.as_chunks::<4>().0.iter().zip(out.chunks_exact_mut(GROUP)) {
        group[4 * r..4 * r + 4].copy_from_slice(source);
        threes = source.iter().fold(threes, |threes, b| threes | b & b >> 1 & 0x55);
    }
    if threes == 0 { Ok(()) } else { Err(row.bad_code()) }
}

/// For layouts that are not worth a fast path: element by element.
fn by_element(row: Row<'_>, r: usize, out: &mut [u8]) -> Result<(), PackError> {
    let stored = row.stored;
    for group in out.chunks_exact_mut(GROUP) {
        group[4 * r..4 * r + 4].fill(ZEROS);
    }
    for c in 0..stored.cols {
        match ternary_code(stored.layout, stored.cols, &stored.bytes, row.row, c) {
            Some(code @ 0..=2) => set_ternary_code(Layout::Tile16, stored.cols, out, r as u32, c, code),
            _ => return Err(row.bad_code()),
        };
    }
    Ok(())
}
