//! One tile of `trits16` from 16 stored rows.
//!
//! Codes are first laid out as *fields*: four neighbouring columns of 16 rows, one code per byte, rows side by side. Five
//! fields are a group, and what is left is the same arithmetic in each of its 64 bytes. Strips of [`STRIP_COLS`] columns,
//! a whole number of groups and of the 128 columns of `i2s128`, stay in the first-level cache meanwhile.

use bitnetc_ir::Layout;
use bitnetc_ir::weights::{TILE_ROWS, TRITS, TRITS_COLS, ternary_code};

use super::PackError;
use super::rows::Row;

/// Columns per field.
const FIELD_COLS: usize = 4;
/// 16 rows of four codes.
type Field = [u8; TILE_ROWS as usize * FIELD_COLS];
/// Columns that are packed together: a multiple of 20 and of 128.
const STRIP_COLS: usize = 640;
/// Lower bit of each code, one code a byte.
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

/// Writes the tile of `rows` (at most 16) to `out`, which holds exactly one tile.
pub(super) fn write<'a>(
    rows: impl Iterator<Item = Row<'a>>,
    cols: u32,
    out: &mut [u8],
) -> Result<(), PackError> {
    let rows: Vec<Row<'_>> = rows.collect();
    let cols = cols as usize;
    let strip_bytes = STRIP_COLS / TRITS_COLS as usize * 64;
    let mut fields = [[0; TILE_ROWS as usize * FIELD_COLS]; STRIP_COLS / FIELD_COLS];
    for (strip, out) in out.chunks_mut(strip_bytes).enumerate() {
        let strip = strip * STRIP_COLS..cols.min((strip + 1) * STRIP_COLS);
        if strip.len() < STRIP_COLS {
            fields.as_flattened_mut().fill(0);
        }
        for (r, &row) in rows.iter().enumerate() {
            match row.stored.layout {
                Layout::I2s128 => from_i2s128(row, cols, strip.clone(), r, &mut fields)?,
                _ => by_element(row, strip.clone(), r, &mut fields)?,
            }
        }
        for (group, fields) in out.as_chunks_mut::<64>().0.iter_mut().zip(fields.as_chunks::<TRITS>().0) {
            pack_group(fields, group);
        }
    }
    Ok(())
}

/// Five codes a byte: `bitnetc_ir::weights::trits_byte` of every byte.
fn pack_group(fields: &[Field; TRITS], out: &mut [u8; 64]) {
    let mut sums: Field = fields[0];
    for field in &fields[1..] {
        for (sum, &code) in sums.iter_mut().zip(field) {
            // Three times by additions, which bytes of a vector have.
            *sum = sum.wrapping_add(*sum).wrapping_add(*sum).wrapping_add(code);
        }
    }
    // Half the time of `div_ceil`; the sum is at most 242 · 256 + 242, which 16 bits hold.
    #[expect(clippy::manual_div_ceil, reason = "vectors have no remainder")]
    for (out, &v) in out.iter_mut().zip(&sums) {
        *out = ((u16::from(v) * 256 + 242) / 243) as u8;
    }
}

/// The columns `strip` of a row, whole blocks of 128: 32 bytes each, where byte b holds the columns b, b + 32, b + 64 and
/// b + 96, the first in the highest two bits.
fn from_i2s128(
    row: Row<'_>,
    cols: usize,
    strip: std::ops::Range<usize>,
    r: usize,
    fields: &mut [Field],
) -> Result<(), PackError> {
    let source = &row.stored.bytes[row.row as usize * (cols / 4)..][strip.start / 4..strip.end / 4];
    let mut threes = 0u64;
    for (block, fields) in source.as_chunks::<32>().0.iter().zip(fields.as_chunks_mut::<32>().0) {
        for (pair, word) in block.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            for quarter in 0..4 {
                let codes = word >> (6 - 2 * quarter) & (3 * LOW_BITS);
                threes |= codes & (codes >> 1) & LOW_BITS;
                let codes = codes.to_le_bytes();
                let first = 8 * quarter + 2 * pair;
                fields[first][FIELD_COLS * r..][..FIELD_COLS].copy_from_slice(&codes[..4]);
                fields[first + 1][FIELD_COLS * r..][..FIELD_COLS].copy_from_slice(&codes[4..]);
            }
        }
    }
    if threes == 0 { Ok(()) } else { Err(row.bad_code()) }
}

/// For layouts that are not worth a fast path: element by element.
fn by_element(
    row: Row<'_>,
    strip: std::ops::Range<usize>,
    r: usize,
    fields: &mut [Field],
) -> Result<(), PackError> {
    let stored = row.stored;
    for (at, c) in strip.enumerate() {
        match ternary_code(stored.layout, stored.cols, &stored.bytes, row.row, c as u32) {
            Some(code @ 0..=2) => fields[at / FIELD_COLS][FIELD_COLS * r + at % FIELD_COLS] = code,
            _ => return Err(row.bad_code()),
        }
    }
    Ok(())
}
