//! What a kernel must do: the key by which kernels are generated, shared and cached.
//!
//! A [`KernelSpec`] says everything that changes the code (op, sizes, epilogue, cache dtype, one token or many) and
//! nothing else, so that the 30 layers of a model share a dozen kernels. [`KernelSpec::of`] makes the spec of an op;
//! [`KernelSpec::args`] says which words the kernel takes, in order. The bits that a kernel must produce are in
//! `docs/numerics.md`.
//!
//! Invariants: two ops with equal specs can share a kernel whatever buffers they use; strides are multiples of 4.

use bitnetc_ir::partition::Per;
use bitnetc_ir::{BlockFormat, DType, Entity, Epilogue, Layout, Op, Pairs, Type, Units, blocks};

/// Whether a kernel handles one token or as many as the word `tokens` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TokenMode {
    /// One.
    One,
    /// Rows are `stride` bytes apart, token by token.
    Many,
}

/// An element-by-element function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elementwise {
    /// a + b
    Add,
    /// a · b
    Mul,
    /// relu(x)²
    Relu2,
    /// x / (1 + e^−x)
    Silu,
}

impl Elementwise {
    /// Whether there are two operands.
    pub fn is_binary(self) -> bool {
        match self {
            Self::Add | Self::Mul => true,
            Self::Relu2 | Self::Silu => false,
        }
    }
}

/// The turning of RoPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeShape {
    /// Elements of a head.
    pub head: u32,
    /// Elements that are turned, even, at most `head`.
    pub rot: u32,
    /// Which elements go together.
    pub pairs: Pairs,
}

/// Shape of the KV caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheShape {
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// f16 or f32.
    pub dtype: DType,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelKind {
    /// Table rows of `width` elements of `dtype`.
    Embed {
        /// Columns.
        width: u32,
        /// Of the table.
        dtype: DType,
    },
    /// RMSNorm, with the result quantised if `quant`.
    RmsNorm {
        /// Columns.
        width: u32,
        /// Bits of eps.
        eps: u32,
        /// Whether the result is q8.
        quant: bool,
    },
    /// RMSNorm of each head.
    RmsNormHeads {
        /// Columns.
        width: u32,
        /// Elements of a head.
        head: u32,
        /// Bits of eps.
        eps: u32,
    },
    /// Absmax quantisation.
    QuantAbsmax {
        /// Columns.
        width: u32,
    },
    /// Ternary matrix times q8.
    Bitlinear {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Of the matrix: `tile16`, `trits16` or `lut16`.
        layout: Layout,
        /// What happens to the sums.
        epilogue: Epilogue,
    },
    /// Ternary matrix in `tile16` with a scale for each group of columns, times q8.
    BitlinearGrouped {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Columns of a group.
        group: u32,
        /// What happens to the sums.
        epilogue: Epilogue,
    },
    /// Dense matrix times f32.
    Matmul {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Of the matrix.
        dtype: DType,
    },
    /// Quantisation in blocks of 32.
    QuantBlocks {
        /// Columns.
        width: u32,
    },
    /// Block-quantised matrix in `tile16` times q8b.
    BlockMatmul {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// How its elements are coded.
        format: BlockFormat,
    },
    /// The numbers of the greatest elements of a row.
    Screen {
        /// Columns.
        width: u32,
        /// How many.
        n: u32,
    },
    /// Some rows of a dense matrix times f32.
    MatmulRows {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Of the matrix.
        dtype: DType,
        /// How many rows.
        n: u32,
    },
    /// Exact elements among approximate ones.
    MergeScreened {
        /// Columns.
        width: u32,
        /// Exact elements.
        n: u32,
    },
    /// RoPE of every head in a row of `width`.
    Rope {
        /// Columns.
        width: u32,
        /// The turning.
        rope: RopeShape,
    },
    /// Keys and values into the caches (K in `keys16`, V in rows).
    KvAppend {
        /// The caches.
        cache: CacheShape,
    },
    /// RoPE of queries and keys, then [`KernelKind::KvAppend`].
    RopeKvAppend {
        /// Columns of the queries.
        q_width: u32,
        /// The turning.
        rope: RopeShape,
        /// The caches.
        cache: CacheShape,
    },
    /// Causal attention over the caches. For one token, the part before [`KernelSpec::after_barrier`].
    Attention {
        /// Query heads.
        heads: u32,
        /// The caches.
        cache: CacheShape,
        /// Bits of the scale.
        scale: u32,
    },
    /// What is left of attention of one token when all threads have done their blocks of keys.
    AttentionMerge {
        /// Query heads.
        heads: u32,
        /// The caches.
        cache: CacheShape,
    },
    /// Element by element.
    Elementwise {
        /// The function.
        op: Elementwise,
        /// Columns.
        width: u32,
    },
}

/// The key of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelSpec {
    /// What is computed.
    pub kind: KernelKind,
    /// For how many tokens.
    pub tokens: TokenMode,
    /// Bytes between the rows of two tokens: activation operands in op order, then activation results. Empty for
    /// [`TokenMode::One`]. Token ids are packed u32 and have no stride here.
    pub strides: Vec<u64>,
}

/// One word of a kernel's argument array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arg {
    /// Address of operand i of the op (row of the first token for activations; packed u32 for token ids; the bytes of a
    /// parameter). The position operand has no address: see [`Arg::Position`].
    Operand(u8),
    /// Address of the scales (or factors) of parameter operand i, one f32 per row, filled up to a multiple of 16; with
    /// groups as in `bitnetc_ir::weights`.
    Scales(u8),
    /// Address of result i. Caches are changed in place through their operand.
    Result(u8),
    /// Address of the RoPE table: for position p, at byte p·8·rot, `rot` f32 factors c then `rot` f32 factors s, in element
    /// order of the turned part of a head: result(e) = x(e)·c(e) + x(partner of e)·s(e), where s is −sin for the first
    /// and +sin for the second element of a pair. Rows are filled up to nothing: 8·rot bytes each.
    RopeTable,
    /// Position of the first token.
    Position,
    /// Number of tokens.
    Tokens,
    /// Capacity C of the caches, a multiple of 64.
    Capacity,
    /// Address of [`KernelSpec::scratch_bytes`] bytes, 64-byte aligned, that no other thread uses meanwhile. What is in
    /// them before and after a call does not matter.
    Scratch,
    /// Address of [`KernelSpec::workspace_bytes`] bytes, 64-byte aligned, that all threads share: what a kernel hands to
    /// the one that follows it behind a barrier. What is in them before and after both does not matter.
    Workspace,
    /// First unit to do (see `bitnetc_ir::partition`).
    UnitBegin,
    /// First unit not to do.
    UnitEnd,
}

/// Why an op has no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// An operand's layout is not one that kernels read; `assign-layout` chooses it.
    #[error("`{op}`: operand {operand} is {ty}; kernels read {expected}: run assign-layout")]
    Layout {
        /// The op.
        op: &'static str,
        /// Position of the operand.
        operand: u8,
        /// Its type.
        ty: String,
        /// The layout that is needed.
        expected: &'static str,
    },
    /// The types do not fit the op; the verifier says how.
    #[error("`{op}` has operands that its rule refuses")]
    Types {
        /// The op.
        op: &'static str,
    },
}

impl KernelSpec {
    /// The spec of `op` on operands and results of these types; `strides` as in the field. `None` for views.
    ///
    /// # Errors
    /// A layout that no kernel reads, or types that the op's rule refuses.
    pub fn of(
        op: &Op,
        operands: &[&Type],
        tokens: TokenMode,
        strides: Vec<u64>,
    ) -> Result<Option<Self>, SpecError> {
        let name = op.info().mnemonic;
        let bad = || SpecError::Types { op: name };
        let width = |i: usize| operands.get(i).and_then(|t| t.as_rows()).map(|r| r.width).ok_or_else(bad);
        let matrix = |i: usize| operands.get(i).and_then(|t| t.as_matrix()).ok_or_else(bad);
        let layout = |i: usize, layout: Layout, expected: &'static str| match operands.get(i) {
            Some(ty) if ty.layout == layout => Ok(()),
            Some(ty) => Err(SpecError::Layout { op: name, operand: i as u8, ty: ty.to_string(), expected }),
            None => Err(bad()),
        };
        let caches = |k: usize, v: usize| {
            layout(k, Layout::Keys16, "keys16")?;
            layout(v, Layout::Rows, "rows")?;
            let dims = operands[k].as_cache().ok_or_else(bad)?;
            Ok(CacheShape { kv_heads: dims.kv_heads, head_dim: dims.head_dim, dtype: operands[k].dtype })
        };
        let bitlinear = |epilogue| {
            let ty = operands.get(1).ok_or_else(bad)?;
            if !ty.layout.is_packed_ternary() {
                layout(1, Layout::Tile16, "tile16, trits16 or lut16")?;
            }
            let (rows, cols) = matrix(1)?;
            match (ty.group, ty.layout) {
                (0, layout) => Ok(KernelKind::Bitlinear { rows, cols, layout, epilogue }),
                (group, Layout::Tile16) => Ok(KernelKind::BitlinearGrouped { rows, cols, group, epilogue }),
                _ => Err(SpecError::Layout {
                    op: name,
                    operand: 1,
                    ty: ty.to_string(),
                    expected: "matrices with groups in tile16",
                }),
            }
        };
        let kind = match op {
            Op::Split { .. } => return Ok(None),
            Op::Embed {} => KernelKind::Embed { width: matrix(1)?.1, dtype: operands[1].dtype },
            Op::RmsNorm { eps } => KernelKind::RmsNorm { width: width(0)?, eps: eps.to_bits(), quant: false },
            Op::RmsNormQuant { eps } => {
                KernelKind::RmsNorm { width: width(0)?, eps: eps.to_bits(), quant: true }
            }
            Op::RmsNormHeads { eps, head } => {
                KernelKind::RmsNormHeads { width: width(0)?, head: *head, eps: eps.to_bits() }
            }
            Op::Silu {} => KernelKind::Elementwise { op: Elementwise::Silu, width: width(0)? },
            Op::QuantAbsmax {} => KernelKind::QuantAbsmax { width: width(0)? },
            Op::TernaryMatmul {} => bitlinear(Epilogue::None)?,
            Op::Bitlinear { epilogue } => bitlinear(*epilogue)?,
            Op::Matmul {} => {
                let (rows, cols) = matrix(1)?;
                KernelKind::Matmul { rows, cols, dtype: operands[1].dtype }
            }
            Op::QuantBlocks {} => KernelKind::QuantBlocks { width: width(0)? },
            Op::BlockMatmul {} => {
                layout(1, Layout::Tile16, "tile16")?;
                let (format, rows, cols) =
                    operands.get(1).and_then(|ty| blocks::block_matrix(ty)).ok_or_else(bad)?;
                KernelKind::BlockMatmul { rows, cols, format }
            }
            Op::Screen { n } => KernelKind::Screen { width: width(0)?, n: *n },
            Op::MatmulRows {} => {
                let (rows, cols) = matrix(2)?;
                KernelKind::MatmulRows { rows, cols, dtype: operands[2].dtype, n: width(1)? }
            }
            Op::MergeScreened {} => KernelKind::MergeScreened { width: width(0)?, n: width(1)? },
            Op::Rope { head, rot, pairs, .. } => KernelKind::Rope {
                width: width(0)?,
                rope: RopeShape { head: *head, rot: *rot, pairs: *pairs },
            },
            Op::KvAppend {} => KernelKind::KvAppend { cache: caches(0, 1)? },
            Op::RopeKvAppend { head, rot, pairs, .. } => KernelKind::RopeKvAppend {
                q_width: width(0)?,
                rope: RopeShape { head: *head, rot: *rot, pairs: *pairs },
                cache: caches(3, 4)?,
            },
            Op::Attention { heads, scale, .. } => {
                KernelKind::Attention { heads: *heads, cache: caches(1, 2)?, scale: scale.to_bits() }
            }
            Op::Add {} => KernelKind::Elementwise { op: Elementwise::Add, width: width(0)? },
            Op::Mul {} => KernelKind::Elementwise { op: Elementwise::Mul, width: width(0)? },
            Op::Relu2 {} => KernelKind::Elementwise { op: Elementwise::Relu2, width: width(0)? },
        };
        Ok(Some(Self { kind, tokens, strides }))
    }

    /// The words that the kernel takes, in order. Always ends with `Tokens, UnitBegin, UnitEnd`.
    pub fn args(&self) -> Vec<Arg> {
        use Arg::{Capacity, Operand, Position, Result, RopeTable, Scales};
        let mut args = match self.kind {
            KernelKind::Embed { .. } => vec![Operand(0), Operand(1), Result(0)],
            KernelKind::RmsNorm { quant: true, .. } => vec![Operand(0), Operand(1), Result(0), Arg::Scratch],
            KernelKind::RmsNorm { quant: false, .. } | KernelKind::RmsNormHeads { .. } => {
                vec![Operand(0), Operand(1), Result(0)]
            }
            KernelKind::QuantAbsmax { .. } => vec![Operand(0), Result(0)],
            KernelKind::Bitlinear { epilogue: Epilogue::Add, .. }
            | KernelKind::BitlinearGrouped { epilogue: Epilogue::Add, .. } => {
                vec![Operand(0), Operand(1), Scales(1), Operand(2), Result(0)]
            }
            KernelKind::Bitlinear { .. } | KernelKind::BitlinearGrouped { .. } => {
                vec![Operand(0), Operand(1), Scales(1), Result(0)]
            }
            KernelKind::Matmul { .. } => vec![Operand(0), Operand(1), Result(0)],
            KernelKind::QuantBlocks { .. } => vec![Operand(0), Result(0)],
            KernelKind::BlockMatmul { .. } => vec![Operand(0), Operand(1), Scales(1), Result(0)],
            KernelKind::Screen { .. } => vec![Operand(0), Result(0), Arg::Scratch],
            KernelKind::MatmulRows { .. } | KernelKind::MergeScreened { .. } => {
                vec![Operand(0), Operand(1), Operand(2), Result(0)]
            }
            KernelKind::Rope { .. } => vec![Operand(0), Result(0), RopeTable, Position],
            KernelKind::KvAppend { .. } => {
                vec![Operand(0), Operand(1), Operand(2), Operand(3), Position, Capacity]
            }
            KernelKind::RopeKvAppend { .. } => vec![
                Operand(0),
                Operand(1),
                Operand(2),
                Operand(3),
                Operand(4),
                Result(0),
                RopeTable,
                Position,
                Capacity,
            ],
            KernelKind::Attention { .. } => {
                let to = if self.tokens == TokenMode::One { Arg::Workspace } else { Result(0) };
                vec![Operand(0), Operand(1), Operand(2), to, Position, Capacity, Arg::Scratch]
            }
            KernelKind::AttentionMerge { .. } => vec![Arg::Workspace, Result(0), Position, Capacity],
            KernelKind::Elementwise { op, .. } if !op.is_binary() => vec![Operand(0), Result(0)],
            KernelKind::Elementwise { .. } => vec![Operand(0), Operand(1), Result(0)],
        };
        if self.expands_tiles() {
            args.push(Arg::Scratch);
        }
        args.extend([Arg::Tokens, Arg::UnitBegin, Arg::UnitEnd]);
        args
    }

    /// Bytes of working memory that each thread of a call needs: what [`Arg::Scratch`] points to. 0 for kernels without
    /// that word.
    pub fn scratch_bytes(&self) -> u64 {
        match self.kind {
            KernelKind::Attention { heads, cache, .. } => {
                super::attention::scratch_bytes(heads, cache, self.tokens)
            }
            KernelKind::Screen { width, .. } => super::screen::scratch_bytes(width),
            KernelKind::RmsNorm { width, quant: true, .. } => super::norm::scratch_bytes(width),
            KernelKind::Bitlinear { cols, layout, .. } if self.tokens == TokenMode::Many => {
                super::bitlinear::scratch_bytes(cols, layout)
            }
            _ => 0,
        }
    }

    /// Whether the kernel brings row tiles into other forms before it uses them.
    fn expands_tiles(&self) -> bool {
        matches!(self.kind, KernelKind::Bitlinear { .. }) && self.tokens == TokenMode::Many
    }

    /// Bytes of shared memory that a call needs with caches of `capacity` positions: what [`Arg::Workspace`] points to. 0
    /// for kernels without that word.
    pub fn workspace_bytes(&self, capacity: u32) -> u64 {
        match self.kind {
            KernelKind::Attention { heads, cache, .. } if self.tokens == TokenMode::One => {
                super::attention::workspace_bytes(heads, cache, capacity)
            }
            KernelKind::AttentionMerge { heads, cache } => {
                super::attention::workspace_bytes(heads, cache, capacity)
            }
            _ => 0,
        }
    }

    /// The kernel that finishes the op when all threads have run this one, with its name in profiles and its units; `None`
    /// where this one does all.
    pub fn after_barrier(&self) -> Option<(&'static str, Self, Units)> {
        match self.kind {
            KernelKind::Attention { heads, cache, .. } if self.tokens == TokenMode::One => {
                let kind = KernelKind::AttentionMerge { heads, cache };
                let units = Units { count: heads, per: Per::Call };
                Some(("attention_merge", Self { kind, tokens: self.tokens, strides: Vec::new() }, units))
            }
            _ => None,
        }
    }

    /// A readable name, unique for each spec: the name of the kernel in dumps.
    pub fn name(&self) -> String {
        let mut name = match self.kind {
            KernelKind::Embed { width, dtype } => format!("embed_{}_{width}", dtype.name()),
            KernelKind::RmsNorm { width, eps, quant } => {
                format!("rms_norm{}_{width}_eps{:?}", if quant { "_quant" } else { "" }, f32::from_bits(eps))
            }
            KernelKind::QuantAbsmax { width } => format!("quant_absmax_{width}"),
            KernelKind::Bitlinear { rows, cols, layout, epilogue } => {
                format!("bitlinear_{}_{rows}x{cols}{}", layout.name(), epilogue_suffix(epilogue))
            }
            KernelKind::BitlinearGrouped { rows, cols, group, epilogue } => {
                format!("bitlinear_{rows}x{cols}_g{group}{}", epilogue_suffix(epilogue))
            }
            KernelKind::RmsNormHeads { width, head, eps } => {
                format!("rms_norm_heads_{width}of{head}_eps{:?}", f32::from_bits(eps))
            }
            KernelKind::Matmul { rows, cols, dtype } => format!("matmul_{}_{rows}x{cols}", dtype.name()),
            KernelKind::QuantBlocks { width } => format!("quant_blocks_{width}"),
            KernelKind::BlockMatmul { rows, cols, format } => {
                format!("block_matmul_{}_{rows}x{cols}", format.dtype().name())
            }
            KernelKind::Screen { width, n } => format!("screen_{n}of{width}"),
            KernelKind::MatmulRows { rows, cols, dtype, n } => {
                format!("matmul_rows_{}_{n}of{rows}x{cols}", dtype.name())
            }
            KernelKind::MergeScreened { width, n } => format!("merge_screened_{n}of{width}"),
            KernelKind::Rope { width, rope } => format!("rope_{width}_{}", rope.name()),
            KernelKind::KvAppend { cache } => format!("kv_append_{}", cache.name()),
            KernelKind::RopeKvAppend { q_width, rope, cache } => {
                format!("rope_kv_append_{q_width}_{}_{}", rope.name(), cache.name())
            }
            KernelKind::Attention { heads, cache, scale } => {
                format!("attention_h{heads}_{}_scale{:?}", cache.name(), f32::from_bits(scale))
            }
            KernelKind::AttentionMerge { heads, cache } => {
                format!("attention_merge_h{heads}_{}", cache.name())
            }
            KernelKind::Elementwise { op, width } => {
                let op = match op {
                    Elementwise::Add => "add",
                    Elementwise::Mul => "mul",
                    Elementwise::Relu2 => "relu2",
                    Elementwise::Silu => "silu",
                };
                format!("{op}_{width}")
            }
        };
        if self.tokens == TokenMode::Many {
            name.push_str("_many");
            for stride in &self.strides {
                name.push_str(&format!("_{stride}"));
            }
        }
        // The kernel IR has no `-` in names; here it stands only in exponents.
        name.replace('-', "_")
    }
}

fn epilogue_suffix(epilogue: Epilogue) -> &'static str {
    match epilogue {
        Epilogue::None => "",
        Epilogue::Add => "_add",
        Epilogue::Relu2Mul => "_relu2_mul",
        Epilogue::SiluMul => "_silu_mul",
    }
}

impl RopeShape {
    fn name(self) -> String {
        let pairs = match self.pairs {
            Pairs::Halves => "halves",
            Pairs::Interleaved => "interleaved",
        };
        format!("{}of{}_{pairs}", self.rot, self.head)
    }
}

impl CacheShape {
    fn name(self) -> String {
        format!("{}_{}x{}", self.dtype.name(), self.kv_heads, self.head_dim)
    }
}

/// An index into the kernels of a compiled module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelIndex(u32);

impl Entity for KernelIndex {
    fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer than 2^32 kernels"))
    }
    fn index(self) -> usize {
        self.0 as usize
    }
}
