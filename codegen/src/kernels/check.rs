//! What a spec must keep so that its kernel can be built: sizes within the reach of offsets, dtypes that have loads,
//! one stride per activation.

use bitnetc_ir::weights::{TILE_COLS, TILE_ROWS, TRITS_MAX_COLS};
use bitnetc_ir::{DType, Epilogue, Layout};

use super::{CacheShape, KernelError, KernelKind, KernelSpec, MAX_STRIDE, MAX_WIDTH, RopeShape, TokenMode};

impl KernelSpec {
    /// Checks the sizes, dtypes and strides.
    pub(super) fn check(&self) -> Result<(), KernelError> {
        match self.kind {
            KernelKind::Embed { width, dtype } => {
                self.width("the width", width)?;
                self.dense("the table", dtype)?;
            }
            KernelKind::RmsNorm { width, .. }
            | KernelKind::QuantAbsmax { width }
            | KernelKind::QuantBlocks { width }
            | KernelKind::Elementwise { width, .. } => self.width("the width", width)?,
            KernelKind::Bitlinear { rows, cols, layout, epilogue } => {
                self.width("the number of rows", rows)?;
                match layout {
                    Layout::Trits16 | Layout::Lut16 => {
                        self.size("the number of columns", cols, TRITS_MAX_COLS.into())?
                    }
                    _ => self.width("the number of columns", cols)?,
                }
                self.rule(layout.is_packed_ternary(), "a ternary matrix is in tile16, trits16 or lut16")?;
                self.gated(rows, epilogue)?;
            }
            KernelKind::BitlinearGrouped { rows, cols, group, epilogue } => {
                self.width("the number of rows", rows)?;
                self.width("the number of columns", cols)?;
                let whole = group > 0 && group.is_multiple_of(TILE_COLS) && cols.is_multiple_of(group);
                self.rule(whole, "groups are multiples of 16 columns that divide the row")?;
                self.gated(rows, epilogue)?;
            }
            KernelKind::RmsNormHeads { width, head, .. } => {
                self.width("the width", width)?;
                self.width("the width of a head", head)?;
                self.rule(width.is_multiple_of(head), "heads divide the width")?;
            }
            KernelKind::Matmul { rows, cols, dtype } => {
                self.width("the number of rows", rows)?;
                self.width("the number of columns", cols)?;
                self.dense("the matrix", dtype)?;
            }
            KernelKind::BlockMatmul { rows, cols, .. } => {
                self.width("the number of rows", rows)?;
                self.width("the number of columns", cols)?;
            }
            KernelKind::Screen { width, n } => {
                self.width("the width", width)?;
                self.size("the number of rows to choose", n, width.into())?;
            }
            KernelKind::MatmulRows { rows, cols, dtype, n } => {
                self.width("the number of rows", rows)?;
                self.width("the number of columns", cols)?;
                self.width("the number of chosen rows", n)?;
                self.dense("the matrix", dtype)?;
            }
            KernelKind::MergeScreened { width, n } => {
                self.width("the width", width)?;
                self.width("the number of exact elements", n)?;
            }
            KernelKind::Rope { width, rope } => self.rope(width, rope)?,
            KernelKind::KvAppend { cache } => self.cache(cache)?,
            KernelKind::RopeKvAppend { q_width, rope, cache } => {
                self.rope(q_width, rope)?;
                self.cache(cache)?;
                self.rule(
                    rope.head == cache.head_dim,
                    "the heads of keys and of the cache are equally wide",
                )?;
            }
            KernelKind::Attention { heads, cache, .. } | KernelKind::AttentionMerge { heads, cache } => {
                self.cache(cache)?;
                self.size("the number of heads", heads, u64::from(MAX_WIDTH) / u64::from(cache.head_dim))?;
                self.rule(heads.is_multiple_of(cache.kv_heads), "key/value heads divide the heads")?;
            }
        }
        let expected = if self.tokens == TokenMode::One { 0 } else { self.activations() };
        let sound = self.strides.iter().all(|&s| s.is_multiple_of(4) && (1..=MAX_STRIDE).contains(&s));
        match self.strides.len() == expected && sound {
            true => Ok(()),
            false => Err(KernelError::Strides { kernel: self.name(), expected, got: self.strides.len() }),
        }
    }

    /// Activation operands and results: those that have a stride.
    pub fn activations(&self) -> usize {
        match self.kind {
            KernelKind::Embed { .. } | KernelKind::AttentionMerge { .. } => 1,
            KernelKind::Bitlinear { epilogue: Epilogue::Add, .. }
            | KernelKind::BitlinearGrouped { epilogue: Epilogue::Add, .. }
            | KernelKind::MatmulRows { .. } => 3,
            KernelKind::Elementwise { op, .. } => 2 + usize::from(op.is_binary()),
            KernelKind::MergeScreened { .. } => 4,
            KernelKind::RopeKvAppend { .. } => 4,
            KernelKind::RmsNorm { .. }
            | KernelKind::RmsNormHeads { .. }
            | KernelKind::QuantAbsmax { .. }
            | KernelKind::Bitlinear { .. }
            | KernelKind::BitlinearGrouped { .. }
            | KernelKind::Matmul { .. }
            | KernelKind::QuantBlocks { .. }
            | KernelKind::BlockMatmul { .. }
            | KernelKind::Screen { .. }
            | KernelKind::Rope { .. }
            | KernelKind::KvAppend { .. }
            | KernelKind::Attention { .. } => 2,
        }
    }

    fn size(&self, what: &'static str, value: u32, max: u64) -> Result<(), KernelError> {
        match (1..=max).contains(&u64::from(value)) {
            true => Ok(()),
            false => Err(KernelError::Size { kernel: self.name(), what, value: value.into(), max }),
        }
    }

    fn width(&self, what: &'static str, value: u32) -> Result<(), KernelError> {
        self.size(what, value, MAX_WIDTH.into())
    }

    fn rule(&self, holds: bool, rule: &'static str) -> Result<(), KernelError> {
        match holds {
            true => Ok(()),
            false => Err(KernelError::Shape { kernel: self.name(), rule }),
        }
    }

    fn gated(&self, rows: u32, epilogue: Epilogue) -> Result<(), KernelError> {
        let whole = !epilogue.is_gated() || rows.is_multiple_of(2 * TILE_ROWS);
        self.rule(whole, "gate and up rows come in blocks of 16 + 16")
    }

    fn dense(&self, what: &'static str, dtype: DType) -> Result<(), KernelError> {
        match dtype {
            DType::F32 | DType::F16 | DType::Bf16 => Ok(()),
            _ => Err(KernelError::DType { kernel: self.name(), what, dtype: dtype.name() }),
        }
    }

    fn rope(&self, width: u32, rope: RopeShape) -> Result<(), KernelError> {
        self.width("the width", width)?;
        self.width("the width of a head", rope.head)?;
        self.rule(width.is_multiple_of(rope.head), "heads divide the width")?;
        let even = rope.rot >= 2 && rope.rot.is_multiple_of(2) && rope.rot <= rope.head;
        self.rule(even, "what is turned of a head is even, at least 2 and at most the head")
    }

    fn cache(&self, cache: CacheShape) -> Result<(), KernelError> {
        self.width("the width of a head", cache.head_dim)?;
        self.size("the number of key/value heads", cache.kv_heads, u64::from(MAX_WIDTH / cache.head_dim))?;
        match cache.dtype {
            DType::F16 | DType::F32 => Ok(()),
            dtype => Err(KernelError::DType { kernel: self.name(), what: "a cache", dtype: dtype.name() }),
        }
    }
}
