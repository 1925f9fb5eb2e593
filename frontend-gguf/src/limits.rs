//! Every bound that a GGUF file has to respect, as named constants.
//!
//! A file is untrusted input: no number read from it is used as a size, a count or an index before it has been
//! compared with a constant of this module *and* with the bytes that are really there. The values are far above
//! what published models need (332 tensors, 24 keys, 280,147 merges for BitNet b1.58 2B-4T).

/// Parts of a split file.
pub const MAX_PARTS: usize = 1024;
/// Metadata entries in one file.
pub const MAX_KEYS: u64 = 4096;
/// Tensors in one file.
pub const MAX_TENSORS: u64 = 65_536;
/// Bytes of a metadata key (the GGUF specification's own bound).
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Bytes of a tensor name (the GGUF specification's own bound).
pub const MAX_TENSOR_NAME_BYTES: u64 = 64;
/// Bytes of any string value.
pub const MAX_STRING_BYTES: u64 = 1 << 20;
/// Elements of one metadata array.
pub const MAX_ARRAY_LEN: u64 = 1 << 24;
/// Array levels: 1 is a plain array, 2 is an array of arrays.
pub const MAX_ARRAY_DEPTH: u32 = 2;
/// Dimensions of a tensor.
pub const MAX_DIMS: u32 = 4;
/// Elements of a tensor; a tensor must have fewer.
pub const MAX_ELEMENTS: u64 = 1 << 40;
/// Alignment of tensor data when `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// Smallest accepted `general.alignment`.
pub const MIN_ALIGNMENT: u64 = 8;
/// Largest accepted `general.alignment`.
pub const MAX_ALIGNMENT: u64 = 64 << 10;

/// Decoder layers of a model.
pub const MAX_LAYERS: u64 = 512;
/// Width of any activation vector: hidden, feed-forward, and heads × head dimension.
///
/// 128 · 2^20 stays below 2^31, so an i32 dot product of int8 codes and ternary weights cannot overflow.
pub const MAX_WIDTH: u64 = 1 << 20;
/// Attention heads of a layer.
pub const MAX_HEADS: u64 = 4096;
/// Context length that is taken from a file; a larger one is lowered to this and reported.
pub const MAX_CONTEXT: u64 = 1 << 20;
/// Tokens of a vocabulary.
pub const MAX_VOCAB: u64 = 1 << 22;
/// Bytes of a chat template; a longer one is ignored and reported.
pub const MAX_TEMPLATE_BYTES: usize = 64 << 10;
