//! RMS norm, L2 norm and absmax quantisation.

use super::blocks::quant_blocks;
use super::error::{InterpError, MAX_QUANT_WIDTH};
use super::scalar;
use super::tensor::Tensor;
use crate::types::{DType, Type};

/// The least magnitude that fills the int8 range; a row of smaller elements is quantised as if it held this one.
const LEAST_ABSMAX: f32 = 1e-5;

/// `x / sqrt(mean(x²) + eps) · w`, row by row.
pub(super) fn rms_norm(rows: usize, width: usize, x: &[f32], w: &[f32], eps: f32) -> Tensor {
    let mut data = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        let ss = scalar::dot16(row, row);
        let r = (ss / width as f32 + eps).sqrt();
        data.extend(row.iter().zip(w).map(|(&x, &w)| x / r * w));
    }
    Tensor::F32 { rows, width, data }
}

/// `x / sqrt(Σx² + eps) · scale`, head by head.
pub(super) fn l2_norm(rows: usize, width: usize, x: &[f32], head: usize, eps: f32, scale: f32) -> Tensor {
    let mut data = Vec::with_capacity(x.len());
    for head in x.chunks_exact(head) {
        let r = (scalar::dot16(head, head) + eps).sqrt();
        data.extend(head.iter().map(|&x| x / r * scale));
    }
    Tensor::F32 { rows, width, data }
}

/// int8 codes with one factor for each row.
pub(super) fn quant_absmax(rows: usize, width: usize, x: &[f32]) -> Result<Tensor, InterpError> {
    if width > MAX_QUANT_WIDTH {
        return Err(InterpError::QuantWidth { width });
    }
    let (mut codes, mut a, mut sums) = (Vec::with_capacity(x.len()), Vec::new(), Vec::new());
    for row in x.chunks_exact(width) {
        let m = f32::from_bits(scalar::absmax_bits(row).max(LEAST_ABSMAX.to_bits()));
        let factor = 127.0 / m;
        let first = codes.len();
        codes.extend(row.iter().map(|&x| code(x * factor)));
        a.push(factor);
        sums.push(codes[first..].iter().map(|&q| i32::from(q)).sum());
    }
    Ok(Tensor::Q8 { rows, width, codes, a, sums })
}

impl Tensor {
    /// Quantised rows of type `ty` as `quant_absmax` (`q8`) or `quant_blocks` (`q8b`) makes them; `None` for another type.
    ///
    /// # Errors
    /// A row that is too wide for `q8`.
    pub fn quantised(ty: &Type, x: &[f32]) -> Result<Option<Self>, InterpError> {
        let Some(width) = ty.as_rows().map(|rows| rows.width as usize) else { return Ok(None) };
        let rows = x.len().checked_div(width).unwrap_or(0);
        Ok(match ty.dtype {
            DType::Q8 => Some(quant_absmax(rows, width, x)?),
            DType::Q8b => Some(quant_blocks(rows, width, x, ty.quant_block())),
            _ => None,
        })
    }
}

/// The int8 nearest to `x`, ties to even; 0 for NaN.
fn code(x: f32) -> i8 {
    match x.is_nan() {
        true => 0,
        false => x.round_ties_even().clamp(-128.0, 127.0) as i8,
    }
}
