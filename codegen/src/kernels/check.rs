//! What a spec must keep so that its kernel can be built: sizes within the reach of offsets, dtypes that have loads,
//! one stride per activation.

use bitnetc_ir::limits::{GROUPS, MAX_HEAD, MAX_HEADS, MAX_WIDTH};
use bitnetc_ir::weights::{TILE_ROWS, TRITS_MAX_COLS};
use bitnetc_ir::{DType, Epilogue, Layout};

use super::{Arg, CacheShape, KernelError, KernelSpec, MAX_STRIDE, RopeShape, TokenMode};

impl KernelSpec {
    /// Checks the shape by the `check` column of the kernel table, and the strides.
    pub(super) fn check(&self) -> Result<(), KernelError> {
        self.check_shape()?;
        let rows = if self.tokens == TokenMode::One { Vec::new() } else { self.signature().rows };
        let expected = rows.len();
        let fits = |(&stride, arg): (&u64, Arg)| {
            stride.is_multiple_of(4)
                && (1..=MAX_STRIDE).contains(&stride)
                && self.shape_bytes(arg).is_some_and(|row| row <= stride)
        };
        match self.strides.len() == expected && self.strides.iter().zip(rows).all(fits) {
            true => Ok(()),
            false => Err(KernelError::Strides { kernel: self.name(), expected, got: self.strides.len() }),
        }
    }
}

/// What the `check` column is made of.
impl KernelSpec {
    pub(super) fn size(&self, what: &'static str, value: u32, max: u64) -> Result<(), KernelError> {
        match (1..=max).contains(&u64::from(value)) {
            true => Ok(()),
            false => Err(KernelError::Size { kernel: self.name(), what, value: value.into(), max }),
        }
    }

    pub(super) fn width(&self, what: &'static str, value: u32) -> Result<(), KernelError> {
        self.size(what, value, MAX_WIDTH.into())
    }

    pub(super) fn head(&self, value: u32) -> Result<(), KernelError> {
        self.size("the width of a head", value, MAX_HEAD.into())
    }
    pub(super) fn rule(&self, holds: bool, rule: &'static str) -> Result<(), KernelError> {
        match holds {
            true => Ok(()),
            false => Err(KernelError::Shape { kernel: self.name(), rule }),
        }
    }

    pub(super) fn gated(&self, rows: u32, epilogue: Epilogue) -> Result<(), KernelError> {
        let whole = !epilogue.is_gated() || rows.is_multiple_of(2 * TILE_ROWS);
        self.rule(whole, "gate and up rows come in blocks of 16 + 16")
    }

    pub(super) fn dense(&self, what: &'static str, dtype: DType) -> Result<(), KernelError> {
        match dtype {
            DType::F32 | DType::F16 | DType::Bf16 => Ok(()),
            _ => Err(KernelError::DType { kernel: self.name(), what, dtype: dtype.name() }),
        }
    }

    pub(super) fn rope(&self, width: u32, rope: RopeShape) -> Result<(), KernelError> {
        self.width("the width", width)?;
        self.head(rope.head)?;
        self.rule(width.is_multiple_of(rope.head), "heads divide the width")?;
        let even = rope.rot >= 2 && rope.rot.is_multiple_of(2) && rope.rot <= rope.head;
        self.rule(even, "what is turned of a head is even, at least 2 and at most the head")
    }

    pub(super) fn cache(&self, cache: CacheShape) -> Result<(), KernelError> {
        self.head(cache.head_dim)?;
        self.size("the number of key/value heads", cache.kv_heads, MAX_HEADS.into())?;
        match cache.dtype {
            DType::F16 | DType::F32 => Ok(()),
            dtype => Err(KernelError::DType { kernel: self.name(), what: "a cache", dtype: dtype.name() }),
        }
    }

    /// Heads of queries over a cache.
    pub(super) fn attention(&self, heads: u32, cache: CacheShape) -> Result<(), KernelError> {
        self.cache(cache)?;
        self.size("the number of heads", heads, MAX_HEADS.into())?;
        self.rule(heads.is_multiple_of(cache.kv_heads), "key/value heads divide the heads")
    }

    /// Columns of a ternary matrix, which a layout may bound.
    pub(super) fn ternary_columns(&self, cols: u32, layout: Layout) -> Result<(), KernelError> {
        match layout {
            Layout::Trits16 | Layout::Lut16 => {
                self.size("the number of columns", cols, TRITS_MAX_COLS.into())
            }
            _ => self.width("the number of columns", cols),
        }
    }

    pub(super) fn packed_ternary(&self, layout: Layout) -> Result<(), KernelError> {
        self.rule(layout.is_packed_ternary(), "a ternary matrix is in tile16, trits16 or lut16")
    }

    /// Groups of columns that share a scale; 0: all of a row.
    pub(super) fn groups(&self, cols: u32, group: u32) -> Result<(), KernelError> {
        let whole = group == 0 || GROUPS.contains(&group) && cols.is_multiple_of(group);
        self.rule(whole, "groups are 64, 128 or 256 columns, and divide the row")
    }

    /// For kinds that are one of several ways to compute an op.
    pub(super) fn only_for(&self, tokens: TokenMode) -> Result<(), KernelError> {
        self.rule(self.tokens == tokens, "a chunk and a single token have kernels of their own")
    }
}
