//! How large a module may be: the one home of the bounds that keep the cost of a module from outside in proportion to its
//! text. The parser refuses what is larger as it reads, and [`crate::verify`] whatever was built by other means.
//!
//! The largest model that a file may describe (512 layers, see `frontend_gguf::limits`) stays below every bound by a factor
//! of two or more. What is done with a module takes time `n log n` in the sizes that are bounded here by large numbers, and
//! may take the square of those that are bounded by small ones: the parts of a value and the operands of an op.

/// Most parameters of a module.
pub const MAX_PARAMS: usize = 1 << 17;
/// Most functions of a module.
pub const MAX_FUNCS: usize = 256;
/// Most ops of all functions of a module together.
pub const MAX_OPS: usize = 1 << 16;
/// Most inputs of a function.
pub const MAX_INPUTS: usize = 1 << 12;
/// Most outputs of a function.
pub const MAX_OUTPUTS: usize = 1 << 12;
/// Most parts of a value, through all splits of it and of its parts, and so most results of an op.
pub const MAX_PARTS: usize = 64;
/// Positions after which no call of a single function may end: the context of the largest model that a file may describe.
/// Tables and caches are made for all positions of a call.
pub const MAX_POSITIONS: u32 = 1 << 20;
/// Most bytes of what a call of a single function is made of ([`crate::sample::call_bytes`]), where the sizes come from a
/// module alone.
pub const MAX_CALL_BYTES: u64 = 2 << 30;
/// Columns that may share a scale in a ternary matrix: what file formats have.
pub const GROUPS: [u32; 3] = [64, 128, 256];
/// Most elements of an attention head. Kernels are unrolled over parts of a head.
pub const MAX_HEAD: u32 = 1 << 12;
/// Most heads of an attention, of queries or of keys and values.
pub const MAX_HEADS: u32 = 1 << 12;
/// Most elements that a Hadamard transform mixes.
pub const MAX_HADAMARD: u32 = 1 << 14;
/// Most tokens that a short convolution looks at.
pub const MAX_TAPS: u32 = 4;
/// Most elements of a row of an activation, and most rows and columns of a matrix.
pub const MAX_WIDTH: u32 = 1 << 26;
