//! One tile of `trits16` or `lut16` from 16 stored rows.
//!
//! Codes are first laid out as *fields*: four neighbouring columns of 16 rows, one code per byte, rows side by side. Five
//! fields are a group, and what is left is the same arithmetic in each of its 64 bytes. Strips of [`STRIP_COLS`] columns,
//! a whole number of groups and of the 128 columns of `i2s128`, stay in the first-level cache meanwhile.

use bitnetc_ir::Layout;
use bitnetc_ir::weights::{TILE_ROWS, TRITS, TRITS_COLS, lut_byte, ternary_code};

use super::PackError;
use super::rows::Row;

/// Columns per field.
const FIELD_COLS: usize = 4;
/// 16 rows of four codes.
type Field = [u8; TILE_ROWS as usize * FIELD_COLS];
/// Columns that are packed together: a multiple of 20 and of 128.
const STRIP_COLS: usize = 640;

/// Writes the tile of `rows` (at most 16) to `out`, which holds exactly one tile.
pub(super) fn write<'a>(
    rows: impl Iterator<Item = Row<'a>>,
    cols: u32,
    layout: Layout,
    out: &mut [u8],
) -> Result<(), PackError> {
    let pack_group = if layout == Layout::Lut16 { for_tables } else { fractions };
    let rows: Vec<Row<'_>> = rows.collect();
    let cols = cols as usize;
    let strip_bytes = STRIP_COLS / TRITS_COLS as usize * 64;
    let mut fields = [[0; TILE_ROWS as usize * FIELD_COLS]; STRIP_COLS / FIELD_COLS];
    for (strip, out) in out.chunks_mut(strip_bytes).enumerate() {
        let strip = strip * STRIP_COLS..cols.min((strip + 1) * STRIP_COLS);
        if strip.len() < STRIP_COLS {
            fields.as_flattened_mut().fill(0);
        }
        if rows.iter().all(|row| row.stored.layout == Layout::I2s128) {
            from_i2s128(&rows, cols, strip, &mut fields)?;
        } else {
            for (r, &row) in rows.iter().enumerate() {
                match row.stored.layout {
                    Layout::Row16 => from_row16(row, cols, strip.clone(), r, &mut fields)?,
                    _ => by_element(row, strip.clone(), r, &mut fields)?,
                }
            }
        }
        for (group, fields) in out.as_chunks_mut::<64>().0.iter_mut().zip(fields.as_chunks::<TRITS>().0) {
            pack_group(fields, group);
        }
    }
    Ok(())
}

/// Five codes a byte: `bitnetc_ir::weights::trits_byte` of every byte.
fn fractions(fields: &[Field; TRITS], out: &mut [u8; 64]) {
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

/// Five codes a byte: `bitnetc_ir::weights::lut_byte` of every byte.
fn for_tables(fields: &[Field; TRITS], out: &mut [u8; 64]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = lut_byte(fields.each_ref().map(|field| field[i]));
    }
}

/// The columns `strip` of rows in `i2s128`, whole blocks of 128: 32 bytes each, where byte b holds the columns b, b + 32, b + 64
/// and b + 96, the first in the highest two bits. Four bytes of all rows side by side are a field of each quarter of a block.
fn from_i2s128(
    rows: &[Row<'_>],
    cols: usize,
    strip: std::ops::Range<usize>,
    fields: &mut [Field],
) -> Result<(), PackError> {
    const ROWS: usize = TILE_ROWS as usize;
    let sources = rows.iter().map(|row| {
        let start = row.row as usize * (cols / 4);
        row.stored.bytes[start..][strip.start / 4..strip.end / 4].as_chunks::<4>().0
    });
    let sources: Vec<&[[u8; 4]]> = sources.collect();
    let mut threes = [0u32; ROWS];
    for (block, fields) in fields.as_chunks_mut::<32>().0.iter_mut().enumerate().take(strip.len() / 128) {
        for i in 0..8 {
            let mut words = [0u32; ROWS];
            for (word, source) in words.iter_mut().zip(&sources) {
                *word = u32::from_le_bytes(source[8 * block + i]);
            }
            for (threes, word) in threes.iter_mut().zip(&words) {
                *threes |= word & (word >> 1) & 0x5555_5555;
            }
            for quarter in 0..4 {
                let codes = fields[8 * quarter + i].as_chunks_mut::<FIELD_COLS>().0;
                for (codes, word) in codes.iter_mut().zip(&words) {
                    *codes = (word >> (6 - 2 * quarter) & 0x0303_0303).to_le_bytes();
                }
            }
        }
    }
    match threes.iter().position(|&threes| threes != 0) {
        Some(row) => Err(rows[row].bad_code()),
        None => Ok(()),
    }
}

/// The columns `strip` of a row in `row16`, from a multiple of 16 on: a field of 16 columns is two bits of each of four bytes.
/// Columns after the last one get the code 0, as they have it in a strip that is not full.
fn from_row16(
    row: Row<'_>,
    cols: usize,
    strip: std::ops::Range<usize>,
    r: usize,
    fields: &mut [Field],
) -> Result<(), PackError> {
    let start = row.row as usize * (cols.div_ceil(16) * 4);
    let words = row.stored.bytes[start..][strip.start / 4..strip.end.div_ceil(16) * 4].as_chunks::<4>().0;
    let mut threes = 0u32;
    for (word, fields) in words.iter().zip(fields.chunks_mut(4)) {
        let word = u32::from_le_bytes(*word);
        threes |= word & (word >> 1) & 0x5555_5555;
        for (field, codes) in fields.iter_mut().enumerate() {
            let codes = &mut codes[FIELD_COLS * r..FIELD_COLS * (r + 1)];
            codes.copy_from_slice(&(word >> (2 * field) & 0x0303_0303).to_le_bytes());
        }
    }
    for at in strip.len()..strip.len().next_multiple_of(16).min(STRIP_COLS) {
        fields[at / FIELD_COLS][FIELD_COLS * r + at % FIELD_COLS] = 0;
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
