//! Stores the I2_S tensors of a test's file in other types.

use super::writer::TensorData;
use crate::decode::I2s;
use crate::encode;
use crate::tensor_type::TensorType;

/// Stores an I2_S tensor again as `ty`. Its scale has to be a number of that type.
///
/// # Panics
/// If the tensor is not I2_S, or the type is none of [`encode::TERNARY_TYPES`] or does not fit the shape.
pub fn convert_i2s(tensor: &mut TensorData, ty: TensorType) {
    let &[cols, rows] = &tensor.dims[..] else { panic!("a matrix") };
    let (cols, rows) = (cols as usize, rows as usize);
    let Some(matrix) = I2s::new(rows, cols, &tensor.data) else { panic!("an I2_S matrix") };
    let scale = matrix.scale();
    let units = rows / ty.row_group() as usize;
    // Matrices of one row again and again, as random models have them, are converted once.
    let mut stored = tensor.data[..rows * cols / 4].chunks_exact(cols / 4);
    let first = stored.next();
    let converted = if stored.all(|row| Some(row) == first) { units.min(1) } else { units };
    let mut codes = vec![0; cols * ty.row_group() as usize];
    let Some(group) = encode::group_bytes(ty, cols) else { panic!("{} does not store this", ty.name()) };
    let mut data = vec![0; converted * group];
    for (unit, out) in data.chunks_exact_mut(group).enumerate() {
        for (row, codes) in codes.chunks_exact_mut(cols).enumerate() {
            let decoded = matrix.decode_row(unit * ty.row_group() as usize + row, codes);
            assert!(decoded.is_ok(), "ternary weights");
        }
        encode::store_group(ty, cols, scale, &codes, out);
    }
    let mut data = if converted < units { data.repeat(units) } else { data };
    data.extend(encode::tail(ty, scale).into_iter().flatten());
    tensor.ty = ty.id();
    tensor.data = data;
}
