//! I2_S tensors: ternary weights of two bits with one scale for the tensor.
//!
//! Layout ("128/32", the one of the published BitNet b1.58 2B-4T file): the elements in row-major order are cut into
//! blocks of 128 elements = 32 bytes. Element e of a block has the group g = e / 32 and sits in byte e % 32, bits
//! 6 − 2g and 7 − 2g, so group 0 is in the top bits. The codes 0, 1, 2 mean −1, 0, +1; 3 is invalid. After the codes
//! follow the scale as a little-endian f32 and 28 bytes of undefined content. A weight is scale · (code − 1).
//!
//! Source: `quantize_i2_s` in `src/ggml-bitnet-mad.cpp` and `quantize_to_i2_s` in
//! `utils/convert-hf-to-gguf-bitnet.py` of microsoft/BitNet.
//!
//! Two other layouts exist under the same type id and with the same size ([`I2sLayout`]). Nothing in a file tells them
//! apart, so the published one is assumed unless the user says otherwise.

use thiserror::Error;

/// Elements of a block.
pub const BLOCK_ELEMENTS: usize = 128;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 32;
/// Bytes after the codes: the scale and 28 undefined ones.
pub const TAIL_BYTES: usize = 32;

/// Order of the codes in an I2_S tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum I2sLayout {
    /// Blocks of 128 elements in 32 bytes: x86 builds, all converters, ARM builds before 2025-11; every published file.
    #[default]
    Blocks128,
    /// Blocks of 64 elements in 16 bytes, element e in byte e % 16, field e / 16 from above: ARM builds since 2025-11.
    Blocks64,
    /// A byte holds one column of four neighbouring rows, the first in the top bits: x86 builds since 2025-11 that were
    /// compiled without `ACT_PARALLEL`.
    Rows4,
}

impl I2sLayout {
    /// All layouts.
    pub const ALL: &[I2sLayout] = &[Self::Blocks128, Self::Blocks64, Self::Rows4];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocks128 => "x86-128",
            Self::Blocks64 => "arm-64",
            Self::Rows4 => "rows-1x4",
        }
    }

    /// Where the code of an element of a matrix of `cols` columns lies: byte, and shift of its two bits.
    fn position(self, cols: usize, element: usize) -> (usize, u32) {
        let (byte, field) = match self {
            Self::Blocks128 => (element / 128 * 32 + element % 32, element % 128 / 32),
            Self::Blocks64 => (element / 64 * 16 + element % 16, element % 64 / 16),
            Self::Rows4 => {
                let (row, col) = (element / cols, element % cols);
                (row / 4 * cols + col, row % 4)
            }
        };
        (byte, 6 - 2 * field as u32)
    }
}

/// Code 3, which stands for no weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the invalid ternary code 3 in element {element}")]
pub struct InvalidCode {
    /// Index of the element in row-major order.
    pub element: usize,
}

/// A ternary matrix in I2_S form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct I2s<'a> {
    rows: usize,
    cols: usize,
    codes: &'a [u8],
    scale_bytes: &'a [u8; 4],
    scale: f32,
    layout: I2sLayout,
}

impl<'a> I2s<'a> {
    /// A view of `rows` × `cols` weights in the published layout; `None` if `cols` is no multiple of 128 or `bytes` has
    /// another length.
    pub fn new(rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        Self::with_layout(rows, cols, bytes, I2sLayout::Blocks128)
    }

    /// As [`I2s::new`], in another layout; `None` also if the layout needs rows in fours and there are others.
    pub fn with_layout(rows: usize, cols: usize, bytes: &'a [u8], layout: I2sLayout) -> Option<Self> {
        if !cols.is_multiple_of(BLOCK_ELEMENTS) || (layout == I2sLayout::Rows4 && !rows.is_multiple_of(4)) {
            return None;
        }
        let codes = rows.checked_mul(cols / BLOCK_ELEMENTS * BLOCK_BYTES)?;
        if bytes.len() != codes.checked_add(TAIL_BYTES)? {
            return None;
        }
        let (codes, tail) = bytes.split_at_checked(codes)?;
        let scale_bytes = tail.first_chunk()?;
        let scale = f32::from_le_bytes(*scale_bytes);
        Some(Self { rows, cols, codes, scale_bytes, scale, layout })
    }

    /// Number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Weights of a row (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The scale of the tensor. It may be NaN or infinite in an unchecked file.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The scale as it is stored.
    pub fn scale_bytes(&self) -> &'a [u8] {
        self.scale_bytes
    }

    /// Order of the codes.
    pub fn layout(&self) -> I2sLayout {
        self.layout
    }

    /// The packed codes of all rows, in the order of the layout, without scale and padding.
    pub fn packed(&self) -> &'a [u8] {
        self.codes
    }

    /// Decodes a row to −1, 0, +1; `out` has [`I2s::cols`] elements.
    ///
    /// # Errors
    /// The first code 3 of the row.
    ///
    /// # Panics
    /// If `row` is not below [`I2s::rows`].
    pub fn decode_row(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        if self.layout != I2sLayout::Blocks128 {
            return self.decode_elements(row, out);
        }
        let width = self.cols / 4;
        let packed = &self.codes[row * width..(row + 1) * width];
        let mut invalid = 0;
        for (block, out) in packed.chunks_exact(BLOCK_BYTES).zip(out.chunks_exact_mut(BLOCK_ELEMENTS)) {
            for (group, out) in out.chunks_exact_mut(BLOCK_BYTES).enumerate() {
                for (byte, out) in block.iter().zip(out) {
                    let code = byte >> (6 - 2 * group) & 3;
                    invalid |= code & code >> 1;
                    *out = code as i8 - 1;
                }
            }
        }
        match out.iter().position(|&t| t == 2) {
            Some(col) if invalid != 0 => Err(InvalidCode { element: row * self.cols + col }),
            _ => Ok(()),
        }
    }

    /// A row of a layout other than the published one, element by element.
    fn decode_elements(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        for (element, out) in (row * self.cols..).zip(out) {
            let (byte, shift) = self.layout.position(self.cols, element);
            match self.codes[byte] >> shift & 3 {
                3 => return Err(InvalidCode { element }),
                code => *out = code as i8 - 1,
            }
        }
        Ok(())
    }

    /// Decodes the whole tensor, row-major.
    ///
    /// # Errors
    /// The first code 3.
    pub fn decode(&self) -> Result<Vec<i8>, InvalidCode> {
        let mut out = vec![0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
            self.decode_row(row, out)?;
        }
        Ok(out)
    }

    /// The first code 3 in row-major order.
    pub fn first_invalid(&self) -> Option<InvalidCode> {
        const LOW_BITS: u64 = 0x5555_5555_5555_5555;
        let from = super::first_bad_chunk(self.codes, |word| word & word >> 1 & LOW_BITS)?;
        let is_invalid = |element: usize| {
            let (byte, shift) = self.layout.position(self.cols, element);
            self.codes[byte] >> shift & 3 == 3
        };
        // The chunk is a multiple of the block, so elements before it are valid; inside a block, and with rows in fours,
        // the order of the bytes is not that of the elements.
        let first = match self.layout {
            I2sLayout::Rows4 => from / self.cols * 4 * self.cols,
            I2sLayout::Blocks128 | I2sLayout::Blocks64 => from * 4,
        };
        (first..self.rows * self.cols).find(|&e| is_invalid(e)).map(|element| InvalidCode { element })
    }

    /// Offset of the byte that holds an element, from the start of the tensor.
    pub fn byte_of(&self, element: usize) -> usize {
        self.layout.position(self.cols, element).0
    }
}

/// Packs a block; values outside −1..=1 are not representable and give code 3.
pub(crate) fn pack_block(weights: &[i8; BLOCK_ELEMENTS], out: &mut [u8; BLOCK_BYTES]) {
    for (j, out) in out.iter_mut().enumerate() {
        let code = |g: usize| ((weights[g * 32 + j].wrapping_add(1)) as u8).min(3) << (6 - 2 * g);
        *out = code(0) | code(1) | code(2) | code(3);
    }
}

/// Packs row-major ternary weights; the 28 undefined bytes are zero. `weights.len()` is a multiple of 128.
///
/// Used by tests and by tools that write models; values outside −1..=1 are not representable and give code 3.
pub fn pack(weights: &[i8], scale: f32) -> Vec<u8> {
    let mut out = Vec::with_capacity(weights.len() / 4 + TAIL_BYTES);
    for block in weights.as_chunks().0 {
        let mut packed = [0; BLOCK_BYTES];
        pack_block(block, &mut packed);
        out.extend(packed);
    }
    out.extend(scale.to_le_bytes());
    out.extend([0; TAIL_BYTES - 4]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(n: usize) -> Vec<i8> {
        (0..n).map(|i| ((i * 7 + i / 5) % 3) as i8 - 1).collect()
    }

    #[test]
    fn group_zero_is_in_the_top_bits() {
        let mut w = vec![-1i8; 128];
        (w[0], w[33], w[66], w[127]) = (1, 1, 0, 1);
        let bytes = pack(&w, 0.5);
        assert_eq!((bytes[0], bytes[1], bytes[2], bytes[31]), (0x80, 0x20, 0x04, 0x02));
        assert_eq!(bytes.len(), 64);
        let t = I2s::new(1, 128, &bytes).unwrap();
        assert_eq!((t.scale(), t.decode().unwrap()), (0.5, w));
    }

    #[test]
    fn packing_round_trips_by_row() {
        let w = weights(5 * 384);
        let bytes = pack(&w, -2.0);
        let t = I2s::new(5, 384, &bytes).unwrap();
        assert_eq!(t.decode().unwrap(), w);
        let mut row = vec![0; 384];
        t.decode_row(3, &mut row).unwrap();
        assert_eq!(row, w[3 * 384..4 * 384]);
        assert_eq!(t.first_invalid(), None);
        assert!(I2s::new(5, 384, &bytes[1..]).is_none());
        assert!(I2s::new(15, 96, &bytes).is_none());
    }

    #[test]
    fn every_position_of_a_code_3_is_found() {
        for rows in [1, 3, 130] {
            let n = rows * 128;
            let clean = weights(n);
            for at in (0..n).step_by(if rows > 3 { 61 } else { 1 }) {
                let mut w = clean.clone();
                w[at] = 2;
                let bytes = pack(&w, 1.0);
                let t = I2s::new(rows, 128, &bytes).unwrap();
                assert_eq!(t.first_invalid(), Some(InvalidCode { element: at }));
                assert_eq!(t.decode(), Err(InvalidCode { element: at }));
                assert_eq!(bytes[t.byte_of(at)] >> (6 - 2 * (at % 128 / 32)) & 3, 3);
            }
        }
    }

    #[test]
    fn other_layouts_are_other_orders_of_the_same_codes() {
        let (rows, cols) = (8, 256);
        let w = weights(rows * cols);
        for &layout in I2sLayout::ALL {
            let mut bytes = vec![0u8; rows * cols / 4 + TAIL_BYTES];
            for (e, &t) in w.iter().enumerate() {
                let (byte, shift) = layout.position(cols, e);
                assert_eq!(bytes[byte] >> shift & 3, 0, "{layout:?}: element {e} shares its place");
                bytes[byte] |= (t + 1) as u8 * (1 << shift);
            }
            let t = I2s::with_layout(rows, cols, &bytes, layout).unwrap();
            assert_eq!(t.decode().unwrap(), w, "{layout:?}");
            assert_eq!(t.first_invalid(), None);
            for at in [0, 77, 300, rows * cols - 1] {
                let mut bad = bytes.clone();
                let (byte, shift) = layout.position(cols, at);
                bad[byte] |= 3 << shift;
                let t = I2s::with_layout(rows, cols, &bad, layout).unwrap();
                assert_eq!(t.first_invalid(), Some(InvalidCode { element: at }), "{layout:?}");
                assert_eq!(t.decode(), Err(InvalidCode { element: at }));
            }
        }
        assert_eq!(I2s::new(8, 256, &pack(&w, 1.0)).unwrap().decode().unwrap(), w);
        assert!(I2s::with_layout(6, 256, &pack(&w[..6 * 256], 1.0), I2sLayout::Rows4).is_none());
    }

    #[test]
    fn the_bytes_after_the_scale_are_not_read() {
        let mut bytes = pack(&weights(256), 1.5);
        let end = bytes.len();
        bytes[end - 28..].fill(0xff);
        let t = I2s::new(2, 128, &bytes).unwrap();
        assert_eq!(t.first_invalid(), None);
        assert_eq!(t.scale(), 1.5);
    }
}
