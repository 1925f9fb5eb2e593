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
    let Ok(codes) = matrix.decode() else { panic!("ternary weights") };
    let scale = matrix.scale();
    let Some(group) = encode::group_bytes(ty, cols) else { panic!("{} does not store this", ty.name()) };
    let mut data = vec![0; rows / ty.row_group() as usize * group];
    for (codes, out) in codes.chunks_exact(ty.row_group() as usize * cols).zip(data.chunks_exact_mut(group)) {
        encode::store_group(ty, cols, scale, codes, out);
    }
    data.extend(encode::tail(ty, scale).into_iter().flatten());
    tensor.ty = ty.id();
    tensor.data = data;
}
