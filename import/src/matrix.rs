//! A tensor on its way: from the rows of a checkpoint to the rows of a GGUF tensor, a band at a time.
//!
//! - Packed ternary weights (`pack_weights` in `integrations/bitnet.py` of transformers): byte (r, c) of [out/4, in]
//!   holds column c of the rows r, r + out/4, r + 2·out/4 and r + 3·out/4, the first in the lowest two bits, as codes 0, 1,
//!   2 for −1, 0, 1.
//! - Master weights (`WeightQuant` there): m = max(mean |w|, 1e-5), t = clamp(round_half_even(w / m), −1, 1), scale m, in
//!   f32. The mean is summed in f64 in the order of the rows, so it does not depend on threads; that of torch is summed in
//!   f32 in its own order, and may differ in the last bit.
//! - Queries and keys of models whose GGUF form rotates neighbours are permuted: row h·d + 2i + j is row h·d + j·d/2 + i.
//!
//! Invariants: a band has at most [`limits::BAND_BYTES`] of decoded weights, or one unit of rows that are stored together.

use bitnetc_frontend_gguf::TensorType;
use bitnetc_frontend_gguf::decode::{FloatFormat, Floats};
use bitnetc_frontend_gguf::encode;
use rayon::prelude::*;

use crate::error::ImportError;
use crate::limits;
use crate::safetensors::{Dtype, Tensor};

/// Where the rows of a matrix come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Two bits a weight, `bytes` of [rows/4, cols].
    Packed(&'a [u8]),
    /// Floats.
    Floats(Floats<'a>),
}

/// A matrix of a checkpoint, in the order of rows that the GGUF file has.
#[derive(Debug, Clone)]
pub(crate) struct Matrix<'a> {
    pub(crate) name: String,
    pub(crate) file: &'a str,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) data: Rows<'a>,
    /// Elements of a head, if the rows of each head are permuted.
    pub(crate) permuted: Option<usize>,
}

/// What becomes of its weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Values {
    /// The codes as they are packed.
    Codes,
    /// The signs.
    Signs,
    /// Rounded multiples of this magnitude.
    Rounded {
        /// 1 / mean |w|, in f32.
        inverse: f32,
    },
}

/// How a matrix is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Form {
    /// Ternary weights with one scale.
    Ternary { values: Values, scale: f32, ty: TensorType },
    /// Floats, rounded to a format.
    Floats(FloatFormat),
}

/// The format of a type of floats.
pub(crate) fn float_format(dtype: Dtype) -> Option<FloatFormat> {
    match dtype {
        Dtype::F32 => Some(FloatFormat::F32),
        Dtype::F16 => Some(FloatFormat::F16),
        Dtype::BF16 => Some(FloatFormat::Bf16),
        Dtype::U8 | Dtype::Other(_) => None,
    }
}

impl<'a> Matrix<'a> {
    /// A tensor of `rows` × `cols` weights: floats of this shape, or packed weights of a quarter of the rows. A vector is
    /// a matrix of one row.
    pub(crate) fn new(
        name: &str,
        tensor: &Tensor<'a>,
        rows: usize,
        cols: usize,
    ) -> Result<Self, ImportError> {
        let shape: &[usize] = if rows == 1 { &[cols] } else { &[rows, cols] };
        let floats = float_format(tensor.dtype).filter(|_| tensor.shape == shape);
        let floats = floats.and_then(|format| Floats::new(format, rows, cols, tensor.data));
        let packed = tensor.dtype == Dtype::U8 && rows.is_multiple_of(4) && tensor.shape == [rows / 4, cols];
        let data = match (floats, packed) {
            (Some(floats), _) => Rows::Floats(floats),
            (None, true) => Rows::Packed(tensor.data),
            (None, false) => {
                return Err(ImportError::WrongTensor {
                    tensor: name.to_owned(),
                    file: tensor.file.to_owned(),
                    found: tensor.describe(),
                    expected: match rows {
                        1 => format!("F32, F16 or BF16 {shape:?}"),
                        _ => format!(
                            "F32, F16 or BF16 {shape:?}, or packed weights, U8 [{}, {cols}]",
                            rows / 4
                        ),
                    },
                });
            }
        };
        Ok(Self { name: name.to_owned(), file: tensor.file, rows, cols, data, permuted: None })
    }

    /// The row of the checkpoint that becomes a row of the file.
    fn source_row(&self, row: usize) -> usize {
        match self.permuted {
            Some(d) => row / d * d + row % 2 * (d / 2) + row % d / 2,
            None => row,
        }
    }

    fn bad(&self, row: usize, column: usize, found: impl Into<String>) -> ImportError {
        ImportError::BadWeights {
            tensor: self.name.clone(),
            file: self.file.to_owned(),
            row,
            column,
            found: found.into(),
        }
    }

    /// A row of floats; refuses what is not finite.
    fn float_row(&self, floats: &Floats<'_>, source: usize, out: &mut [f32]) -> Result<(), ImportError> {
        floats.decode_row(source, out);
        match out.iter().position(|x| !x.is_finite()) {
            Some(column) => Err(self.bad(source, column, out[column].to_string())),
            None => Ok(()),
        }
    }

    /// Rows that are worked on at a time, a multiple of `unit`.
    fn band(&self, unit: usize) -> usize {
        let fit = limits::BAND_BYTES / (self.cols.max(1) * size_of::<f32>());
        (fit / unit * unit).max(unit)
    }

    /// Mean magnitude of all weights; `None` for packed ones.
    pub(crate) fn mean_magnitude(&self) -> Result<Option<f64>, ImportError> {
        let Rows::Floats(floats) = &self.data else { return Ok(None) };
        let mut sum = 0.0;
        for first in (0..self.rows).step_by(self.band(1)) {
            let band = (first..self.rows.min(first + self.band(1))).into_par_iter();
            let sums = band.map_init(
                || vec![0.0; self.cols],
                |values, row| {
                    self.float_row(floats, row, values)?;
                    Ok(values.iter().map(|x| f64::from(x.abs())).sum())
                },
            );
            let sums: Result<Vec<f64>, ImportError> = bitnetc_threads::install(|| sums.collect());
            sum = sums?.into_iter().fold(sum, |sum, row| sum + row);
        }
        Ok(Some(sum / (self.rows * self.cols).max(1) as f64))
    }

    /// The one magnitude of all weights that are not zero, 0 if there are none; `None` if there are several.
    pub(crate) fn one_magnitude(&self) -> Result<Option<f32>, ImportError> {
        let Rows::Floats(floats) = &self.data else { return Ok(None) };
        let mut one = 0.0f32;
        let mut values = vec![0.0; self.cols];
        for row in 0..self.rows {
            self.float_row(floats, row, &mut values)?;
            for x in values.iter().map(|x| x.abs()).filter(|&x| x != 0.0) {
                if one == 0.0 {
                    one = x;
                } else if x != one {
                    return Ok(None);
                }
            }
        }
        Ok(Some(one))
    }

    /// Hands the rows over as they stand in the file, band by band, without padding.
    pub(crate) fn write<E: From<ImportError>>(
        &self,
        form: &Form,
        sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (unit, bytes) = match *form {
            Form::Ternary { ty, .. } => {
                let bytes = encode::group_bytes(ty, self.cols).ok_or_else(|| ImportError::BadType {
                    tensor: self.name.clone(),
                    cols: self.cols,
                    ty: ty.name(),
                })?;
                (ty.row_group() as usize, bytes)
            }
            Form::Floats(format) => (1, self.cols * format.bytes()),
        };
        let band = self.band(unit);
        let mut out = vec![0; band.min(self.rows) / unit * bytes];
        for first in (0..self.rows).step_by(band) {
            let rows = band.min(self.rows - first);
            let out = &mut out[..rows / unit * bytes];
            let units = out.par_chunks_mut(bytes.max(1)).enumerate();
            let stored = || {
                units.try_for_each_init(
                    || (vec![0i8; unit * self.cols], vec![0.0f32; self.cols]),
                    |(codes, values), (i, out)| self.store(form, first + i * unit, codes, values, out),
                )
            };
            bitnetc_threads::install(stored)?;
            sink(out)?;
        }
        if let Form::Ternary { scale, ty, .. } = *form {
            encode::tail(ty, scale).map_or(Ok(()), |tail| sink(&tail))?;
        }
        Ok(())
    }

    /// Stores the rows from `first` on that are stored together.
    fn store(
        &self,
        form: &Form,
        first: usize,
        codes: &mut [i8],
        values: &mut [f32],
        out: &mut [u8],
    ) -> Result<(), ImportError> {
        match (*form, &self.data) {
            (Form::Ternary { values: how, scale, ty }, data) => {
                for (row, codes) in (first..).zip(codes.chunks_exact_mut(self.cols)) {
                    self.codes(data, how, self.source_row(row), codes, values)?;
                }
                encode::store_group(ty, self.cols, scale, codes, out);
            }
            (Form::Floats(format), Rows::Floats(floats)) => {
                self.float_row(floats, self.source_row(first), values)?;
                format.write_all(values, out);
                if let Some(column) = values.iter().zip(format.values(out)).position(|(_, x)| !x.is_finite())
                {
                    let found =
                        format!("{}, which {} cannot store", values[column], format.tensor_type().name());
                    return Err(self.bad(self.source_row(first), column, found));
                }
            }
            (Form::Floats(_), Rows::Packed(_)) => {
                return Err(self.bad(first, 0, "packed weights where floats are needed"));
            }
        }
        Ok(())
    }

    /// A row of the checkpoint as −1, 0 and 1.
    fn codes(
        &self,
        data: &Rows<'_>,
        how: Values,
        source: usize,
        codes: &mut [i8],
        values: &mut [f32],
    ) -> Result<(), ImportError> {
        match data {
            Rows::Packed(bytes) => {
                let (row, field) = (source % (self.rows / 4), source / (self.rows / 4));
                let packed = &bytes[row * self.cols..(row + 1) * self.cols];
                for (code, byte) in codes.iter_mut().zip(packed) {
                    *code = (byte >> (2 * field) & 3) as i8 - 1;
                }
                match codes.iter().position(|&code| code == 2) {
                    Some(column) => Err(self.bad(source, column, "the invalid ternary code 3")),
                    None => Ok(()),
                }
            }
            Rows::Floats(floats) => {
                self.float_row(floats, source, values)?;
                for (code, &x) in codes.iter_mut().zip(&*values) {
                    *code = match how {
                        Values::Rounded { inverse } => (x * inverse).round_ties_even().clamp(-1.0, 1.0) as i8,
                        Values::Codes | Values::Signs => i8::from(x > 0.0) - i8::from(x < 0.0),
                    };
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: Dtype, shape: &[usize], data: &'static [u8]) -> Tensor<'static> {
        Tensor { dtype, shape: shape.to_vec(), data, file: "a.safetensors" }
    }

    fn written(matrix: &Matrix<'_>, form: &Form) -> Result<Vec<u8>, ImportError> {
        let mut all = Vec::new();
        matrix.write(form, &mut |piece: &[u8]| {
            all.extend_from_slice(piece);
            Ok::<_, ImportError>(())
        })?;
        Ok(all)
    }

    const AS_F32: TensorType = TensorType::F32;

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn packed_rows_are_a_quarter_of_the_matrix_apart() {
        // The example of the documentation of `unpack_weights`, with one column fewer.
        let data = &[0b1010_0001, 0b1001_0000];
        let matrix = Matrix::new("w", &tensor(Dtype::U8, &[2, 1], data), 8, 1).unwrap();
        let form = Form::Ternary { values: Values::Codes, scale: 1.0, ty: AS_F32 };
        assert_eq!(floats(&written(&matrix, &form).unwrap()), [0.0, -1.0, -1.0, -1.0, 1.0, 0.0, 1.0, 1.0]);
        let bad = Matrix::new("w", &tensor(Dtype::U8, &[1, 2], &[0, 0b0000_1100]), 4, 2).unwrap();
        let error = written(&bad, &form).unwrap_err();
        assert!(error.to_string().contains("code 3 (row 1, column 1)"), "{error}");
    }

    #[test]
    fn heads_are_permuted_from_halves_to_neighbours() {
        let data: &'static [u8] = Box::leak((0..16u32).flat_map(|i| (i as f32).to_le_bytes()).collect());
        let mut matrix = Matrix::new("q", &tensor(Dtype::F32, &[16, 1], data), 16, 1).unwrap();
        matrix.permuted = Some(8);
        let rows = floats(&written(&matrix, &Form::Floats(FloatFormat::F32)).unwrap());
        assert_eq!(rows[..8], [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
        assert_eq!(rows[8..12], [8.0, 12.0, 9.0, 13.0]);
    }

    #[test]
    fn master_weights_are_rounded_half_to_even() {
        // Mean magnitude 1: 0.5 and 1.5 are ties, which fall to 0 and 2, and 2 is cut to 1.
        let values = [0.5f32, -0.5, 1.5, -1.5, 0.51, -0.49, 0.0, 3.0];
        let data: &'static [u8] = Box::leak(values.iter().flat_map(|x| x.to_le_bytes()).collect());
        let matrix = Matrix::new("w", &tensor(Dtype::F32, &[2, 4], data), 2, 4).unwrap();
        assert_eq!(matrix.mean_magnitude().unwrap(), Some(1.0));
        assert_eq!(matrix.one_magnitude().unwrap(), None);
        let form = Form::Ternary { values: Values::Rounded { inverse: 1.0 }, scale: 2.0, ty: AS_F32 };
        assert_eq!(floats(&written(&matrix, &form).unwrap()), [0.0, 0.0, 2.0, -2.0, 2.0, 0.0, 0.0, 2.0]);
    }

    #[test]
    fn what_is_not_finite_or_does_not_fit_is_refused() {
        let data: &'static [u8] =
            Box::leak([1.0f32, f32::NAN].iter().flat_map(|x| x.to_le_bytes()).collect());
        let matrix = Matrix::new("w", &tensor(Dtype::F32, &[2], data), 1, 2).unwrap();
        assert!(written(&matrix, &Form::Floats(FloatFormat::F32)).unwrap_err().to_string().contains("NaN"));
        assert!(matrix.mean_magnitude().is_err());
        let data: &'static [u8] = Box::leak([1e6f32, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect());
        let matrix = Matrix::new("w", &tensor(Dtype::F32, &[2], data), 1, 2).unwrap();
        assert!(written(&matrix, &Form::Floats(FloatFormat::F16)).unwrap_err().to_string().contains("F16"));
        for shape in [&[2, 1][..], &[1], &[1, 2], &[]] {
            assert!(Matrix::new("w", &tensor(Dtype::F32, shape, &[0; 8]), 1, 2).is_err(), "{shape:?}");
        }
    }
}
