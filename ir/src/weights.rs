//! What the bytes of a parameter mean, and where they come from.
//!
//! Ternary layouts, for a matrix of R rows and K columns, codes {0, 1, 2} for {−1, 0, +1}, 3 never:
//!
//! - `i2s128` (GGUF `I2_S` as published): element e = r·K + c of the flat matrix lies in byte `(e/128)·32 + e%32`, in bits
//!   `6 − 2g` and `7 − 2g` with g = (e%128)/32. K is a multiple of 128. One scale for the matrix.
//! - `row16`: rows of ⌈K/16⌉ groups of 4 bytes for 16 columns each (filled up with code 1). Element (r, c) lies in byte
//!   `4·(r·⌈K/16⌉ + c/16) + c%4`, in bits `2f` and `2f + 1` with f = (c%16)/4: a row lies as it does in a tile. One scale
//!   per row.
//! - `tile16`: tiles of 16 rows (the last one filled up with rows of code 1), each ⌈K/16⌉ groups of 64 bytes for 16 rows ×
//!   16 columns (columns filled up with code 1). Element (r, c) of a group lies in byte `4·(r%16) + c%4`, in bits `2f` and
//!   `2f + 1` with f = (c%16)/4: each 32-bit lane is one row, each field f of its four bytes four neighbouring columns.
//!   One scale per row.
//! - `rows`: the logical matrix; it has no bytes.
//!
//! Where a type has groups of g columns (`_g128`: g = 128; a multiple of 16 that divides K, never with `i2s128`), there is
//! a scale for each group of a row instead: row after row in [`WeightBytes`], and for kernels tile after tile, in each the
//! groups in rising order, in each the 16 rows.
//!
//! The activation of a padded column is 0, so what a padded code says does not matter; code 1 makes it 0 either way.

use std::borrow::Cow;

use crate::types::{DType, Layout, Type};

/// Bytes and scales of one stored parameter, in the layout that its type names.
#[derive(Clone, Debug)]
pub struct WeightBytes<'a> {
    /// The elements.
    pub bytes: Cow<'a, [u8]>,
    /// For `ter`: one scale for the matrix (`i2s128`), or one for each row or each group of each row, row after row; empty
    /// for other dtypes.
    pub scales: Cow<'a, [f32]>,
}

/// Where the bytes of parameters come from: a GGUF, a plan file, or memory.
pub trait WeightSource: Sync {
    /// The bytes of the parameter of this name (without the `@`), or `None` where this source does not hold it.
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>>;
}

impl WeightSource for std::collections::BTreeMap<String, WeightBytes<'_>> {
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>> {
        self.get(name)
            .map(|w| WeightBytes { bytes: Cow::Borrowed(&w.bytes), scales: Cow::Borrowed(&w.scales) })
    }
}

/// Rows in a tile of [`Layout::Tile16`].
pub const TILE_ROWS: u32 = 16;
/// Columns in a 64-byte group of [`Layout::Tile16`].
pub const TILE_COLS: u32 = 16;

/// Bytes of a `rows` × `cols` ternary matrix in `layout`; `None` where the layout cannot hold it.
pub fn ternary_bytes(layout: Layout, rows: u32, cols: u32) -> Option<u64> {
    let (rows, cols) = (u64::from(rows), u64::from(cols));
    match layout {
        Layout::I2s128 => (cols % 128 == 0).then(|| rows * cols / 4),
        Layout::Row16 => rows.checked_mul(cols.div_ceil(u64::from(TILE_COLS)))?.checked_mul(4),
        Layout::Tile16 => rows
            .div_ceil(u64::from(TILE_ROWS))
            .checked_mul(cols.div_ceil(u64::from(TILE_COLS)))?
            .checked_mul(64),
        Layout::Rows | Layout::Keys16 => None,
    }
}

/// Where the scale of group `group` of row `row` stands among the packed scales of a matrix with `groups` groups a row.
pub fn packed_scale_index(groups: u32, row: u32, group: u32) -> u64 {
    let (tile, lane) = (u64::from(row / TILE_ROWS), u64::from(row % TILE_ROWS));
    (tile * u64::from(groups) + u64::from(group)) * u64::from(TILE_ROWS) + lane
}

/// Where the code of element (r, c) lies: byte offset and shift of its two bits.
pub fn ternary_position(layout: Layout, cols: u32, r: u32, c: u32) -> Option<(u64, u32)> {
    let (k, row, col) = (u64::from(cols), u64::from(r), u64::from(c));
    match layout {
        Layout::I2s128 => {
            let e = row * k + col;
            Some((e / 128 * 32 + e % 32, 6 - 2 * ((e % 128) / 32) as u32))
        }
        Layout::Row16 => {
            Some((4 * (row * k.div_ceil(16) + col / 16) + col % 4, 2 * ((c % 16) / 4)))
        }
        Layout::Tile16 => {
            let group = (row / 16) * k.div_ceil(16) + col / 16;
            Some((group * 64 + 4 * (row % 16) + col % 4, 2 * ((c % 16) / 4)))
        }
        Layout::Rows | Layout::Keys16 => None,
    }
}

/// Bytes that the elements of a parameter of this type take as kernels read them, and bytes of its scales (f32, one per
/// row or group, rows filled up to a multiple of 16); `None` for a type that no kernel reads.
pub fn packed_bytes(ty: &Type) -> Option<(u64, u64)> {
    match (ty.dtype, ty.as_matrix()) {
        (DType::Ter, Some((rows, cols))) => {
            let bytes = ternary_bytes(ty.layout, rows, cols)?;
            let rows = u64::from(rows).next_multiple_of(u64::from(TILE_ROWS));
            Some((bytes, rows * u64::from(ty.scale_groups()) * 4))
        }
        (DType::Ter, None) => None,
        (dtype, _) => Some((ty.elements()?.checked_mul(u64::from(dtype.element_bytes()?))?, 0)),
    }
}
