//! Types of values and parameters: `dtype[shape]@layout`, and `dtype[shape]@layout_g128` for a ternary matrix or an
//! activation in blocks with a scale for each 128 columns of a row.
//!
//! The layout is part of the type because the same ternary matrix exists in several, and the file format that names one
//! of them (`I2_S`) does not say which bytes it means. What each layout means, byte by byte, is in [`crate::weights`]
//! for parameters and in [`crate::storage`] for activations and caches.
//!
//! Invariants: the `T` (tokens) dimension is the first of an activation and appears in functions over a chunk only;
//! the `C` (context capacity) dimension is the second of a cache. Static dimensions are at least 1. A recurrent state is the one
//! value with three static dimensions.

use std::fmt;

use crate::blocks::BLOCK;

/// Element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// 32-bit signed integer.
    I32,
    /// 8-bit signed integer.
    I8,
    /// Ternary weight, −1, 0 or +1, with scales kept beside the matrix.
    Ter,
    /// Quantised activation: i8 codes, the f32 factor `a` with x ≈ code / a, and the i32 sum of the codes, per token.
    Q8,
    /// Activation quantised in blocks of 32 or 128: i8 codes, with an f32 scale and i32 sums of codes for each block; see
    /// [`crate::blocks`].
    Q8b,
    /// Weight with an 8-bit code, in blocks; see [`crate::blocks`].
    W8,
    /// Weight with a 6-bit code, in blocks.
    W6,
    /// Weight with a 4-bit code, in blocks.
    W4,
    /// Token id or position, unsigned 32-bit.
    Idx,
}

impl DType {
    /// All element types.
    pub const ALL: &[DType] = &[
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::I32,
        DType::I8,
        DType::Ter,
        DType::Q8,
        DType::Q8b,
        DType::W8,
        DType::W6,
        DType::W4,
        DType::Idx,
    ];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::Ter => "ter",
            DType::Q8 => "q8",
            DType::Q8b => "q8b",
            DType::W8 => "w8",
            DType::W6 => "w6",
            DType::W4 => "w4",
            DType::Idx => "idx",
        }
    }

    /// Bytes of one element, where elements are stored one by one (not for weights whose layouts share bytes).
    pub fn element_bytes(self) -> Option<u32> {
        match self {
            DType::F32 | DType::I32 | DType::Idx => Some(4),
            DType::F16 | DType::Bf16 => Some(2),
            DType::I8 | DType::Q8 | DType::Q8b => Some(1),
            DType::Ter | DType::W8 | DType::W6 | DType::W4 => None,
        }
    }
}

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A size known when the module is built.
    N(u32),
    /// Tokens in the chunk, known per call; printed `T`.
    Tokens,
    /// Positions that the KV cache has room for, known per session; printed `C`. A multiple of [`crate::KEY_BLOCK`].
    Ctx,
}

/// Sizes, slowest first: a matrix is `[rows, columns]` with contiguous columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

/// How the elements of a value or parameter lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// Row-major, element by element. Not printed. For `ter`, `w8`, `w6`, `w4`: the logical matrix, which no kernel reads.
    Rows,
    /// `ter` as in GGUF `I2_S` files, 128 elements in 32 bytes.
    I2s128,
    /// `ter` row by row, 16 columns in 4 bytes; see [`crate::weights`].
    Row16,
    /// 16 rows interleaved, for compute: `ter`, 2 bits a weight, 16 rows × 16 columns in 64 bytes (see
    /// [`crate::weights`]), and `w8`, `w6`, `w4` (see [`crate::blocks`]).
    Tile16,
    /// `ter` for compute, 1.6 bits a weight: 16 rows × 20 columns in 64 bytes; see [`crate::weights`].
    Trits16,
    /// As `trits16`, with bytes that tables of 64 entries decode; see [`crate::weights`].
    Lut16,
    /// A K cache with 16 positions interleaved; see [`crate::storage`].
    Keys16,
}

impl Layout {
    /// All layouts.
    pub const ALL: &[Layout] = &[
        Layout::Rows,
        Layout::I2s128,
        Layout::Row16,
        Layout::Tile16,
        Layout::Trits16,
        Layout::Lut16,
        Layout::Keys16,
    ];

    /// The name in the text form, after `@`.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Rows => "rows",
            Layout::I2s128 => "i2s128",
            Layout::Row16 => "row16",
            Layout::Tile16 => "tile16",
            Layout::Trits16 => "trits16",
            Layout::Lut16 => "lut16",
            Layout::Keys16 => "keys16",
        }
    }

    /// Whether kernels read ternary matrices in this layout.
    pub fn is_packed_ternary(self) -> bool {
        matches!(self, Layout::Tile16 | Layout::Trits16 | Layout::Lut16)
    }

    /// Whether a byte holds five ternary codes: 1.6 bits a weight, 20 columns in a group.
    pub fn has_five_a_byte(self) -> bool {
        matches!(self, Layout::Trits16 | Layout::Lut16)
    }
}

/// The type of a value or parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Dimensions; empty for a scalar.
    pub shape: Shape,
    /// Placement of the elements.
    pub layout: Layout,
    /// Columns that share a scale, in a `ter` matrix and in `q8b`. 0: all columns of a row, or in `q8b` blocks of 32; always 0
    /// for other dtypes.
    pub group: u32,
}

/// A value with one row per token: how many tokens, and how wide a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Whether there is a row for each token of a chunk (`T` leads the shape).
    pub per_token: bool,
    /// Elements in a row.
    pub width: u32,
}

/// The dimensions of a KV cache `[kv_heads, C, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheDims {
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
}

/// The dimensions of a recurrent state `[heads, rows, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateDims {
    /// Heads, each with a matrix of its own.
    pub heads: u32,
    /// Rows of a matrix.
    pub rows: u32,
    /// Contiguous columns of a matrix.
    pub cols: u32,
}

impl StateDims {
    /// Elements of all heads; `None` where they cannot be counted.
    pub fn elements(self) -> Option<u64> {
        u64::from(self.heads).checked_mul(u64::from(self.rows))?.checked_mul(u64::from(self.cols))
    }
}

impl Type {
    /// A type in row-major layout.
    pub fn new(dtype: DType, dims: &[Dim]) -> Self {
        Self { dtype, shape: Shape(dims.to_vec()), layout: Layout::Rows, group: 0 }
    }
    /// A scalar.
    pub fn scalar(dtype: DType) -> Self {
        Self::new(dtype, &[])
    }
    /// One row of `width` elements, or one for each token.
    pub fn rows(dtype: DType, rows: Rows) -> Self {
        match rows.per_token {
            true => Self::new(dtype, &[Dim::Tokens, Dim::N(rows.width)]),
            false => Self::new(dtype, &[Dim::N(rows.width)]),
        }
    }
    /// A vector parameter.
    pub fn vector(dtype: DType, n: u32) -> Self {
        Self::new(dtype, &[Dim::N(n)])
    }
    /// A matrix parameter.
    pub fn matrix(dtype: DType, rows: u32, cols: u32) -> Self {
        Self::new(dtype, &[Dim::N(rows), Dim::N(cols)])
    }
    /// A KV cache.
    pub fn cache(dtype: DType, dims: CacheDims) -> Self {
        Self::new(dtype, &[Dim::N(dims.kv_heads), Dim::Ctx, Dim::N(dims.head_dim)])
    }
    /// A recurrent state, in f32.
    pub fn state(dims: StateDims) -> Self {
        Self::new(DType::F32, &[Dim::N(dims.heads), Dim::N(dims.rows), Dim::N(dims.cols)])
    }
    /// The same type in another layout.
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// The same type with a scale for each `group` columns of a row (0: one for the row).
    #[must_use]
    pub fn with_group(mut self, group: u32) -> Self {
        self.group = group;
        self
    }

    /// Columns of a block of a `q8b` activation.
    pub fn quant_block(&self) -> u32 {
        if self.group == 0 { BLOCK } else { self.group }
    }

    /// Scales of each row of a `ter` matrix.
    pub fn scale_groups(&self) -> u32 {
        match (self.group, self.as_matrix()) {
            (0, _) | (_, None) => 1,
            (group, Some((_, cols))) => cols.div_ceil(group),
        }
    }

    /// The row view of an activation: `[n]` or `[T, n]`.
    pub fn as_rows(&self) -> Option<Rows> {
        match self.shape.0[..] {
            [Dim::N(width)] => Some(Rows { per_token: false, width }),
            [Dim::Tokens, Dim::N(width)] => Some(Rows { per_token: true, width }),
            _ => None,
        }
    }
    /// The rows and columns of a matrix.
    pub fn as_matrix(&self) -> Option<(u32, u32)> {
        match self.shape.0[..] {
            [Dim::N(rows), Dim::N(cols)] => Some((rows, cols)),
            _ => None,
        }
    }
    /// The dimensions of a KV cache.
    pub fn as_cache(&self) -> Option<CacheDims> {
        match self.shape.0[..] {
            [Dim::N(kv_heads), Dim::Ctx, Dim::N(head_dim)] => Some(CacheDims { kv_heads, head_dim }),
            _ => None,
        }
    }
    /// The dimensions of a recurrent state.
    pub fn as_state(&self) -> Option<StateDims> {
        match self.shape.0[..] {
            [Dim::N(heads), Dim::N(rows), Dim::N(cols)] if self.dtype == DType::F32 => {
                Some(StateDims { heads, rows, cols })
            }
            _ => None,
        }
    }
    /// Whether values of the type belong to a sequence and outlive the call: KV caches and recurrent states.
    pub fn is_persistent(&self) -> bool {
        self.as_cache().is_some() || self.as_state().is_some()
    }
    /// Number of elements, where every dimension is static and the product fits.
    pub fn elements(&self) -> Option<u64> {
        self.shape.0.iter().try_fold(1u64, |n, dim| match dim {
            Dim::N(d) => n.checked_mul(u64::from(*d)),
            Dim::Tokens | Dim::Ctx => None,
        })
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::N(n) => write!(f, "{n}"),
            Dim::Tokens => f.write_str("T"),
            Dim::Ctx => f.write_str("C"),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.name())?;
        if let Some((first, rest)) = self.shape.0.split_first() {
            write!(f, "[{first}")?;
            for dim in rest {
                write!(f, "x{dim}")?;
            }
            f.write_str("]")?;
        }
        match (self.layout, self.group) {
            (Layout::Rows, 0) => Ok(()),
            (layout, 0) => write!(f, "@{}", layout.name()),
            (layout, group) => write!(f, "@{}_g{group}", layout.name()),
        }
    }
}
