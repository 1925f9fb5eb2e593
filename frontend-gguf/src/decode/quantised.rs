//! A matrix in any of the quantised types: which decoder a type has, and what can be wrong with its bytes.

use super::{bitnet_rows, float_at, half_at, kquants, legacy, trits};
use crate::tensor_type::{Storage, TensorType};

/// Decodes one block.
type BlockDecoder = fn(&[u8], &mut [f32]);

/// A decoder of blocks, and the offsets of the f16 factors in a block.
fn of_blocks(ty: TensorType) -> Option<(BlockDecoder, &'static [usize])> {
    Some(match ty {
        TensorType::Q4_0 => (legacy::q4_0, &[0]),
        TensorType::Q4_1 => (legacy::q4_1, &[0, 2]),
        TensorType::Q5_0 => (legacy::q5_0, &[0]),
        TensorType::Q5_1 => (legacy::q5_1, &[0, 2]),
        TensorType::Q8_0 => (legacy::q8_0, &[0]),
        TensorType::Q4K => (kquants::q4_k, &[0, 2]),
        TensorType::Q5K => (kquants::q5_k, &[0, 2]),
        TensorType::Q6K => (kquants::q6_k, &[208]),
        TensorType::Tq1_0 => (trits::tq1_0, &[52]),
        TensorType::Tq2_0 => (trits::tq2_0, &[64]),
        TensorType::Ptq1_0 => (trits::ptq1_0, &[26]),
        TensorType::Q1_0 => (trits::q1_0, &[0]),
        TensorType::Q2_0 | TensorType::Q2_0G128 | TensorType::Pq2_0 => (trits::q2_0, &[0]),
        _ => return None,
    })
}

/// A matrix (or, with one row, a vector) of a type that this module decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantised<'a> {
    ty: TensorType,
    rows: usize,
    cols: usize,
    /// Bytes of the rows that are stored together.
    stride: usize,
    bytes: &'a [u8],
}

/// Something in a tensor that stands for no finite weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadElement {
    /// Index of the element in row-major order, or of the first one of its block.
    pub element: usize,
    /// Offset of the byte from the start of the tensor.
    pub byte: usize,
    /// What is there.
    pub found: String,
}

impl<'a> Quantised<'a> {
    /// Whether the type has a decoder here.
    pub fn supports(ty: TensorType) -> bool {
        of_blocks(ty).is_some() || matches!(ty.storage(), Storage::RowBlocks { .. })
    }

    /// A view of `rows` × `cols` elements; `None` if the type has no decoder, or `bytes` another length.
    pub fn new(ty: TensorType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let size = ty.tensor_bytes(cols as u64, rows as u64)?;
        let stride = ty.tensor_bytes(cols as u64, ty.row_group())?;
        let right = Self::supports(ty) && size == bytes.len() as u64 && stride > 0;
        right.then_some(Self { ty, rows, cols, stride: usize::try_from(stride).ok()?, bytes })
    }

    /// The type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The tensor as stored.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Decodes a row; `out` has [`Quantised::cols`] elements.
    ///
    /// # Panics
    /// If `row` is not below [`Quantised::rows`], or `out` has another length.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}", self.rows);
        let group = self.ty.row_group() as usize;
        let stored = &self.bytes[row / group * self.stride..][..self.stride];
        match (self.ty, of_blocks(self.ty), self.ty.storage()) {
            (_, Some((decode, _)), Storage::Blocks { elements, bytes }) => {
                let blocks = stored.chunks_exact(bytes as usize);
                for (block, out) in blocks.zip(out.chunks_exact_mut(elements as usize)) {
                    decode(block, out);
                }
            }
            (TensorType::Iq2Bn, ..) => bitnet_rows::iq2_bn(stored, out),
            (TensorType::Iq2BnR4, ..) => bitnet_rows::iq2_bn_r4(stored, row % group, out),
            (TensorType::Iq1Bn, ..) => bitnet_rows::iq1_bn(stored, out),
            // `new` accepts no other types.
            _ => out.fill(f32::NAN),
        }
    }

    /// Decodes the whole tensor, rows one after the other.
    pub fn decode(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
            self.decode_row(row, out);
        }
        out
    }

    /// The first factor that is NaN or infinite, or the first code that stands for no weight.
    pub fn first_bad(&self) -> Option<BadElement> {
        match (of_blocks(self.ty), self.ty.storage()) {
            (Some((_, factors)), Storage::Blocks { elements, bytes }) => {
                let invalid_codes = self.ty == TensorType::Tq2_0;
                let blocks = self.bytes.chunks_exact(bytes as usize);
                blocks.enumerate().find_map(|(i, block)| {
                    let place = |element: usize, byte: usize, found| BadElement {
                        element: i * elements as usize + element,
                        byte: i * bytes as usize + byte,
                        found,
                    };
                    let factor = factors.iter().find(|&&at| !half_at(block, at).is_finite());
                    let bad = factor.map(|&at| place(0, at, format!("the scale {}", half_at(block, at))));
                    bad.or_else(|| {
                        let (element, byte) = invalid_codes.then(|| trits::tq2_0_invalid(block)).flatten()?;
                        Some(place(element, byte, INVALID.to_owned()))
                    })
                })
            }
            _ => self.first_bad_row(),
        }
    }

    fn first_bad_row(&self) -> Option<BadElement> {
        let group = self.ty.row_group() as usize;
        self.bytes.chunks_exact(self.stride).enumerate().find_map(|(i, rows)| {
            let place = |row: usize, byte: usize, found| BadElement {
                element: (i * group + row) * self.cols,
                byte: i * self.stride + byte,
                found,
            };
            let scale = |row: usize| match self.ty {
                TensorType::Iq1Bn => half_at(rows, 0),
                _ => float_at(rows, 4 * row),
            };
            let bad = (0..group).find(|&row| !scale(row).is_finite());
            let bad = bad.map(|row| place(row, 4 * row, format!("the scale {}", scale(row))));
            bad.or_else(|| {
                let header = 4 * group;
                let coded = self.ty != TensorType::Iq1Bn;
                let at = coded.then(|| bitnet_rows::iq2_bn_invalid(&rows[header..])).flatten()?;
                Some(place(0, header + at, INVALID.to_owned()))
            })
        })
    }
}

const INVALID: &str = "the invalid ternary code 3";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_type_with_a_decoder_takes_its_own_size_only() {
        let decodable: Vec<TensorType> =
            TensorType::ALL.iter().copied().filter(|&t| Quantised::supports(t)).collect();
        assert_eq!(decodable.len(), 18);
        for ty in decodable {
            let (rows, cols) = (4, 512);
            let bytes = vec![0; ty.tensor_bytes(cols as u64, rows as u64).unwrap() as usize];
            let view = Quantised::new(ty, rows, cols, &bytes).unwrap();
            assert!(view.decode().iter().all(|x| *x == 0.0), "{ty:?}");
            assert_eq!(view.first_bad(), None);
            assert!(Quantised::new(ty, rows, cols, &bytes[1..]).is_none());
            assert!(Quantised::new(ty, rows, cols - 1, &bytes).is_none());
        }
    }

    #[test]
    fn bad_scales_and_codes_are_found_where_they_are() {
        for (ty, at, bad) in [
            (TensorType::Tq2_0, 66 + 64, 0x7c00u16.to_le_bytes().to_vec()),
            (TensorType::Q6K, 210 + 208, 0x7e00u16.to_le_bytes().to_vec()),
            (TensorType::Ptq1_0, 28 + 26, 0x7c00u16.to_le_bytes().to_vec()),
            (TensorType::Q4_1, 20 + 2, 0xfc00u16.to_le_bytes().to_vec()),
            (TensorType::Iq2Bn, 132, f32::NAN.to_le_bytes().to_vec()),
            (TensorType::Iq2BnR4, 8, f32::INFINITY.to_le_bytes().to_vec()),
            (TensorType::Iq1Bn, 106, 0x7c00u16.to_le_bytes().to_vec()),
            (TensorType::Tq2_0, 70, vec![0x0c]),
            (TensorType::Iq2Bn, 140, vec![0xc0]),
        ] {
            let mut bytes = vec![0; ty.tensor_bytes(512, 4).unwrap() as usize];
            bytes[at..at + bad.len()].copy_from_slice(&bad);
            let found = Quantised::new(ty, 4, 512, &bytes).unwrap().first_bad().unwrap();
            assert_eq!(found.byte, at, "{ty:?}: {found:?}");
        }
        // Field 1 of byte 4 of the second block.
        let mut bytes = vec![0; 66 * 2];
        bytes[70] = 0x0c;
        let found = Quantised::new(TensorType::Tq2_0, 1, 512, &bytes).unwrap().first_bad().unwrap();
        assert_eq!(found.element, 256 + 32 + 4);
    }
}
