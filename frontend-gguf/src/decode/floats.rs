//! F32, F16 and BF16 tensors: plain little-endian elements, rows one after the other.

use half::{bf16, f16};

use crate::tensor_type::TensorType;

/// Storage of a float element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatFormat {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl FloatFormat {
    /// The format of a tensor type, if it is a plain float type.
    pub fn of(ty: TensorType) -> Option<Self> {
        match ty {
            TensorType::F32 => Some(Self::F32),
            TensorType::F16 => Some(Self::F16),
            TensorType::Bf16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The tensor type that stores this format.
    pub fn tensor_type(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::F16 => TensorType::F16,
            Self::Bf16 => TensorType::Bf16,
        }
    }

    /// Exponent mask and lowest exponent bit, repeated over a u64 word.
    fn exponent(self) -> (u64, u64) {
        match self {
            Self::F32 => (0x7f80_0000_7f80_0000, 0x0080_0000_0080_0000),
            Self::F16 => (0x7c00_7c00_7c00_7c00, 0x0400_0400_0400_0400),
            Self::Bf16 => (0x7f80_7f80_7f80_7f80, 0x0080_0080_0080_0080),
        }
    }

    /// Writes elements, each rounded to nearest; `out` has room for exactly as many.
    pub fn write_all(self, values: &[f32], out: &mut [u8]) {
        out.chunks_exact_mut(self.bytes()).zip(values).for_each(|(out, &x)| self.write(x, out));
    }

    /// The values of elements that lie one after the other.
    pub fn values(self, bytes: &[u8]) -> impl Iterator<Item = f32> {
        bytes.chunks_exact(self.bytes()).map(move |x| self.value(x))
    }

    /// Writes one element, rounded to nearest; `out` has room for exactly one.
    pub(crate) fn write(self, x: f32, out: &mut [u8]) {
        match self {
            Self::F32 => out.copy_from_slice(&x.to_le_bytes()),
            Self::F16 => out.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
            Self::Bf16 => out.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
        }
    }

    /// The value of one element; `bytes` holds exactly one.
    pub(crate) fn value(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (Self::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            _ => f32::NAN,
        }
    }
}

/// A matrix (or, with one row, a vector) of floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floats<'a> {
    format: FloatFormat,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl<'a> Floats<'a> {
    /// A view of `rows` × `cols` elements; `None` if `bytes` has another length.
    pub fn new(format: FloatFormat, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let expected = rows.checked_mul(cols)?.checked_mul(format.bytes())?;
        (bytes.len() == expected).then_some(Self { format, rows, cols, bytes })
    }

    /// Storage of the elements.
    pub fn format(&self) -> FloatFormat {
        self.format
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The elements as stored.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Decodes a row; `out` has [`Floats::cols`] elements.
    ///
    /// # Panics
    /// If `row` is not below [`Floats::rows`].
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let width = self.cols * self.format.bytes();
        let bytes = &self.bytes[row * width..(row + 1) * width];
        for (out, element) in out.iter_mut().zip(bytes.chunks_exact(self.format.bytes())) {
            *out = self.format.value(element);
        }
    }

    /// Decodes the whole tensor, rows one after the other.
    pub fn decode(&self) -> Vec<f32> {
        self.bytes.chunks_exact(self.format.bytes()).map(|e| self.format.value(e)).collect()
    }

    /// The first NaN or infinity: its element index and value.
    pub fn first_non_finite(&self) -> Option<(usize, f32)> {
        let (mask, low) = self.format.exponent();
        super::first_bad_chunk(self.bytes, |word| ((word & mask) + low) & (low << exponent_bits(self.format)))
            .and_then(|from| {
                let first = from / self.format.bytes();
                let elements = self.bytes.get(from..)?.chunks_exact(self.format.bytes());
                elements
                    .map(|e| self.format.value(e))
                    .enumerate()
                    .find(|(_, x)| !x.is_finite())
                    .map(|(i, x)| (first + i, x))
            })
    }
}

fn exponent_bits(format: FloatFormat) -> u32 {
    match format {
        FloatFormat::F32 | FloatFormat::Bf16 => 8,
        FloatFormat::F16 => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_known_bit_patterns() {
        let f16s = [0x3c00u16, 0xc000, 0x0001, 0x7bff].map(u16::to_le_bytes).concat();
        let x = Floats::new(FloatFormat::F16, 2, 2, &f16s).unwrap();
        assert_eq!(x.decode(), [1.0, -2.0, 5.960_464_5e-8, 65504.0]);
        let mut row = [0.0; 2];
        x.decode_row(1, &mut row);
        assert_eq!(row, [5.960_464_5e-8, 65504.0]);
        let bf16s = [0x3f80u16, 0xc040].map(u16::to_le_bytes).concat();
        assert_eq!(Floats::new(FloatFormat::Bf16, 1, 2, &bf16s).unwrap().decode(), [1.0, -3.0]);
        assert!(Floats::new(FloatFormat::F32, 1, 2, &bf16s).is_none());
    }

    #[test]
    fn every_position_of_a_non_finite_value_is_found() {
        for format in [FloatFormat::F32, FloatFormat::F16, FloatFormat::Bf16] {
            let size = format.bytes();
            let finite: Vec<u8> = match format {
                FloatFormat::F32 => f32::MAX.to_le_bytes().to_vec(),
                FloatFormat::F16 => f16::MIN.to_le_bytes().to_vec(),
                FloatFormat::Bf16 => bf16::MAX.to_le_bytes().to_vec(),
            };
            let bad: [Vec<u8>; 3] = match format {
                FloatFormat::F32 => {
                    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|x| x.to_le_bytes().to_vec())
                }
                FloatFormat::F16 => {
                    [f16::NAN, f16::INFINITY, f16::NEG_INFINITY].map(|x| x.to_le_bytes().to_vec())
                }
                FloatFormat::Bf16 => {
                    [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY].map(|x| x.to_le_bytes().to_vec())
                }
            };
            for n in [1, 3, 7, 8, 63, 64, 65, 300] {
                let clean = finite.repeat(n);
                assert_eq!(Floats::new(format, 1, n, &clean).unwrap().first_non_finite(), None);
                for at in 0..n {
                    for bad in &bad {
                        let mut bytes = clean.clone();
                        bytes[at * size..(at + 1) * size].copy_from_slice(bad);
                        let found = Floats::new(format, 1, n, &bytes).unwrap().first_non_finite();
                        assert_eq!(found.map(|f| f.0), Some(at), "{format:?} {n} {at}");
                    }
                }
            }
        }
    }
}
