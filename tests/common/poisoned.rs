//! A model of which some texts make NaN.

use bitnetc_frontend_gguf::testing::TinyModel;

/// A model of the default shape that computes NaN after any text with this token.
pub fn model_with_nan_after(token: usize) -> Vec<u8> {
    with_nan_after(&TinyModel::default(), token)
}

/// A model that computes NaN after any text with this token, and is like others without it: the first norm multiplies a
/// channel by more than a number can hold, and that channel is 0 in the embeddings of all other tokens.
pub fn with_nan_after(shape: &TinyModel, token: usize) -> Vec<u8> {
    let mut writer = shape.writer();
    let norm = &mut writer.tensor_mut("blk.0.attn_norm.weight").data;
    norm[..4].copy_from_slice(&3e38f32.to_le_bytes());
    let table = &mut writer.tensor_mut("token_embd.weight").data;
    for (id, row) in table.chunks_exact_mut(shape.hidden * 2).enumerate() {
        // As f16: 30, which stays 10 when the row is normalised, or 0.
        let value: u16 = if id == token { 0x4f80 } else { 0 };
        row[..2].copy_from_slice(&value.to_le_bytes());
    }
    writer.build()
}
