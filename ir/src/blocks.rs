//! Block-quantised matrices and activations: what their codes, scales and bytes mean.
//!
//! A matrix of a [`BlockFormat`] is for the language-model head. Each row has a factor s (f32) and is cut into blocks of
//! 32 columns (the last one filled up with zeros); element (r, c) stands for
//!
//! - `w8`: h · q · s with the 8-bit code q from −128 to 127 and the f16 scale h of the block: 8.5 bits an element;
//! - `w4`: h · q · s with q from −8 to 7: 4.5 bits;
//! - `w6`: k · q · s with q from −32 to 31 and the i8 scale k of a half block of 16 columns: 6.5 bits.
//!
//! How a row gets its codes and scales is in [`quantise`].
//!
//! In the layout `tile16`, the only one with bytes, 16 rows (the last tile filled up with zero bytes) are interleaved. A tile
//! is a sequence of groups of 64 columns. A group is 64 bytes of scales and then its two blocks; where the last group has one
//! block, the place of the other is filled with zero bytes. A code is stored as q plus [`BlockFormat::offset`]. With row r of
//! the tile and column c of the block:
//!
//! - scales: f16 at byte 32·block + 2·r (`w8`, `w4`), i8 at byte 32·block + 16·(c / 16) + r (`w6`);
//! - `w8`: the code is byte 64·(c / 4) + 4·r + c % 4 of the 512 bytes of the block;
//! - `w4`: byte 64·((c % 16) / 4) + 4·r + c % 4 of 256 bytes, in its low four bits for c < 16, else in its high four;
//! - `w6`: each half block has 192 bytes, three vectors of 64. With i = (c % 16) / 4 and p = 4·r + c % 4, the codes of
//!   i = 0, 1, 2 are the low six bits of byte p of vector i. The code of i = 3 is in the high two bits of byte p of all three
//!   vectors, its highest bits in vector 0.
//!
//! So a 64-byte vector holds 16 rows × 4 columns, and four neighbouring codes of an activation meet all of it.
//!
//! Activations that such matrices multiply (`q8b`) are quantised in the same blocks, those of ternary matrices in blocks of
//! [`TERNARY_BLOCK`]; their bytes are in [`crate::storage`].

pub mod quantise;

use crate::types::{DType, Layout, Type};
use crate::weights::TILE_ROWS;

/// Columns in a block.
pub const BLOCK: u32 = 32;
/// Columns in a block of an activation that a ternary matrix multiplies: as many as share a scale in the formats of such
/// matrices.
pub const TERNARY_BLOCK: u32 = 128;
/// Columns in a half block, which has a scale of its own in `w6`.
pub const HALF_BLOCK: u32 = 16;
/// Columns in a group of `tile16`: two blocks after their scales.
pub const GROUP: u32 = 64;
/// Bytes of the scales of a group of 16 rows.
pub const GROUP_SCALES: u64 = 64;

/// How the elements of a block-quantised matrix are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockFormat {
    /// 8-bit codes, f16 scales.
    W8,
    /// 6-bit codes, i8 scales of half blocks.
    W6,
    /// 4-bit codes, f16 scales.
    W4,
}

/// A piece of a stored code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Byte in the matrix.
    pub byte: u64,
    /// Lowest bit in the byte.
    pub shift: u32,
    /// Number of bits.
    pub bits: u32,
    /// Lowest bit in the code.
    pub place: u32,
}

impl BlockFormat {
    /// All formats.
    pub const ALL: &[BlockFormat] = &[BlockFormat::W8, BlockFormat::W6, BlockFormat::W4];

    /// The format of matrices of this element type.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::W8 => Some(BlockFormat::W8),
            DType::W6 => Some(BlockFormat::W6),
            DType::W4 => Some(BlockFormat::W4),
            _ => None,
        }
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            BlockFormat::W8 => DType::W8,
            BlockFormat::W6 => DType::W6,
            BlockFormat::W4 => DType::W4,
        }
    }

    /// What is added to a code to store it.
    pub fn offset(self) -> i32 {
        1 << (self.bits() - 1)
    }

    /// Bits of a stored code.
    pub fn bits(self) -> u32 {
        match self {
            BlockFormat::W8 => 8,
            BlockFormat::W6 => 6,
            BlockFormat::W4 => 4,
        }
    }

    /// Bytes of the codes of 16 rows of a block.
    pub fn block_bytes(self) -> u64 {
        u64::from(BLOCK * TILE_ROWS * self.bits() / 8)
    }

    /// Bytes of 16 rows of a group.
    pub fn group_bytes(self) -> u64 {
        GROUP_SCALES + 2 * self.block_bytes()
    }

    /// Bytes of a tile of 16 rows.
    pub fn tile_bytes(self, cols: u32) -> u64 {
        u64::from(cols.div_ceil(GROUP)) * self.group_bytes()
    }

    /// Bytes of a matrix in `tile16`; `None` where they do not fit in 64 bits.
    pub fn bytes(self, rows: u32, cols: u32) -> Option<u64> {
        u64::from(rows.div_ceil(TILE_ROWS)).checked_mul(self.tile_bytes(cols))
    }

    /// First byte of the group that column `c` of row `r` is in.
    fn group_start(self, cols: u32, r: u32, c: u32) -> u64 {
        u64::from(r / TILE_ROWS) * self.tile_bytes(cols) + u64::from(c / GROUP) * self.group_bytes()
    }

    /// Where the stored code of element (r, c) of a matrix of `cols` columns is: one piece, or three.
    pub fn code_pieces(self, cols: u32, r: u32, c: u32) -> Vec<Piece> {
        let block = u64::from(c % GROUP / BLOCK);
        let start = self.group_start(cols, r, c) + GROUP_SCALES + block * self.block_bytes();
        let lane = u64::from(4 * (r % TILE_ROWS) + c % 4);
        let (half, vector) = (c % BLOCK / HALF_BLOCK, c % HALF_BLOCK / 4);
        match self {
            BlockFormat::W8 => {
                let byte = start + u64::from(64 * (c % BLOCK / 4)) + lane;
                vec![Piece { byte, shift: 0, bits: 8, place: 0 }]
            }
            BlockFormat::W4 => {
                let byte = start + u64::from(64 * vector) + lane;
                vec![Piece { byte, shift: 4 * half, bits: 4, place: 0 }]
            }
            BlockFormat::W6 => {
                let start = start + u64::from(192 * half) + lane;
                match vector {
                    3 => (0..3)
                        .map(|v| Piece {
                            byte: start + 64 * u64::from(v),
                            shift: 6,
                            bits: 2,
                            place: 4 - 2 * v,
                        })
                        .collect(),
                    _ => {
                        vec![Piece { byte: start + 64 * u64::from(vector), shift: 0, bits: 6, place: 0 }]
                    }
                }
            }
        }
    }

    /// First byte of the scale of element (r, c): an f16, or an i8 for `w6`.
    pub fn scale_position(self, cols: u32, r: u32, c: u32) -> u64 {
        let start = self.group_start(cols, r, c) + u64::from(32 * (c % GROUP / BLOCK));
        let row = u64::from(r % TILE_ROWS);
        match self {
            BlockFormat::W8 | BlockFormat::W4 => start + 2 * row,
            BlockFormat::W6 => start + u64::from(c % BLOCK / HALF_BLOCK * TILE_ROWS) + row,
        }
    }

    /// The code of element (r, c) in the bytes of a matrix; `None` where they are too few.
    pub fn code(self, bytes: &[u8], cols: u32, r: u32, c: u32) -> Option<i32> {
        self.code_pieces(cols, r, c)
            .into_iter()
            .try_fold(0, |code, piece| {
                let byte = *bytes.get(usize::try_from(piece.byte).ok()?)?;
                let bits = byte >> piece.shift & (0xff >> (8 - piece.bits));
                Some(code | i32::from(bits) << piece.place)
            })
            .map(|stored: i32| stored - self.offset())
    }
}

/// The format and the sizes (rows, columns) of a block-quantised matrix type.
pub fn block_matrix(ty: &Type) -> Option<(BlockFormat, u32, u32)> {
    let (rows, cols) = ty.as_matrix()?;
    Some((BlockFormat::of(ty.dtype)?, rows, cols))
}

/// Bytes of a parameter of this type, if it is a block-quantised matrix in a layout with bytes.
pub fn packed_bytes(ty: &Type) -> Option<u64> {
    let (format, rows, cols) = block_matrix(ty)?;
    if ty.layout == Layout::Tile16 { format.bytes(rows, cols) } else { None }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_bit_belongs_to_one_element() {
        for &format in BlockFormat::ALL {
            for (rows, cols) in [(1, 1), (17, 40), (32, 96), (16, 64), (3, 130)] {
                let bytes = format.bytes(rows, cols).unwrap();
                let mut taken = HashSet::new();
                for r in 0..rows {
                    for c in 0..cols {
                        let pieces = format.code_pieces(cols, r, c);
                        assert_eq!(pieces.iter().map(|p| p.bits).sum::<u32>(), format.bits());
                        for piece in pieces {
                            assert!(piece.byte < bytes && piece.shift + piece.bits <= 8);
                            for bit in piece.shift..piece.shift + piece.bits {
                                assert!(taken.insert((piece.byte, bit)), "{format:?} ({r}, {c})");
                            }
                        }
                    }
                }
                let codes: HashSet<u64> = taken.iter().map(|&(byte, _)| byte).collect();
                for r in 0..rows {
                    for c in 0..cols {
                        let at = format.scale_position(cols, r, c);
                        assert!(at < bytes && !codes.contains(&at));
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_are_the_bits_that_the_formats_promise() {
        for (format, bits) in [(BlockFormat::W8, 8.5), (BlockFormat::W6, 6.5), (BlockFormat::W4, 4.5)] {
            assert_eq!(format.bytes(128256, 2560), Some((128256.0 * 2560.0 * bits / 8.0) as u64));
        }
        assert_eq!(BlockFormat::W4.bytes(1, 1), Some(576));
        assert_eq!(BlockFormat::W8.bytes(u32::MAX, u32::MAX), None);
    }
}
