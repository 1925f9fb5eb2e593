//! What a kernel must do: the key by which kernels are generated, shared and cached.
//!
//! A [`KernelSpec`] says everything that changes the code (op, sizes, epilogue, cache dtype, one token or many) and
//! nothing else, so that the 30 layers of a model share a dozen kernels. [`KernelSpec::of`] makes the spec of an op; the
//! shapes, and what a kernel of each takes, needs and is called, are the rows of the kernel table (`table.rs`). The bits
//! that a kernel must produce are in `docs/numerics.md`.
//!
//! Invariants: two ops with equal specs can share a kernel whatever buffers they use; strides are multiples of 4.

use bitnetc_ir::{DType, Entity, Epilogue, Layout, Op, Pairs, Type, Units, blocks};

use super::KernelKind;

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
pub enum ElementwiseFn {
    /// a + b
    Add,
    /// a · b
    Mul,
    /// relu(x)²
    Relu2,
    /// x / (1 + e^−x)
    Silu,
    /// 1 / (1 + e^−x)
    Sigmoid,
}

impl ElementwiseFn {
    /// Whether there are two operands.
    pub fn is_binary(self) -> bool {
        match self {
            Self::Add | Self::Mul => true,
            Self::Relu2 | Self::Silu | Self::Sigmoid => false,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Mul => "mul",
            Self::Relu2 => "relu2",
            Self::Silu => "silu",
            Self::Sigmoid => "sigmoid",
        }
    }
}

/// Which codes of a quantised activation share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationScale {
    /// All of a token (`q8`).
    Token,
    /// Those of [`bitnetc_ir::blocks::TERNARY_BLOCK`] columns (`q8b`).
    Block,
}

impl ActivationScale {
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Token => "",
            Self::Block => "_blocks",
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

/// The key of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelSpec {
    /// What is computed.
    pub kind: KernelKind,
    /// For how many tokens.
    pub tokens: TokenMode,
    /// Bytes between the rows of two tokens, for each argument that is rows of an activation: operands in op order, then
    /// results. Empty for [`TokenMode::One`]. Token ids are packed u32 and have no stride here.
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
    /// the one that follows it after a barrier. What is in them before and after both does not matter.
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
    #[error("the operands of `{op}` violate its rule")]
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
            let ((rows, cols), layout, group) = (matrix(1)?, ty.layout, ty.group);
            let grouped =
                |activation| KernelKind::BitlinearGrouped { rows, cols, layout, group, activation, epilogue };
            match (operands.first().map(|x| x.dtype).ok_or_else(bad)?, group) {
                (DType::Q8, 0) => Ok(KernelKind::Bitlinear { rows, cols, layout, epilogue }),
                (DType::Q8, _) => Ok(grouped(ActivationScale::Token)),
                (DType::Q8b, _) => Ok(grouped(ActivationScale::Block)),
                (DType::F32, _) => Ok(KernelKind::BitlinearF32 { rows, cols, layout, group, epilogue }),
                _ => Err(bad()),
            }
        };
        let kind = match op {
            Op::Split { .. } => return Ok(None),
            Op::Embed {} if operands.get(1).is_some_and(|table| table.dtype == DType::Ter) => {
                let table = operands[1];
                if !table.layout.is_packed_ternary() {
                    layout(1, Layout::Tile16, "tile16, trits16 or lut16")?;
                }
                KernelKind::EmbedTernary { width: matrix(1)?.1, layout: table.layout, group: table.group }
            }
            Op::Embed {} => KernelKind::Embed { width: matrix(1)?.1, dtype: operands[1].dtype },
            Op::RmsNorm { eps } => KernelKind::RmsNorm { width: width(0)?, eps: eps.to_bits() },
            Op::RmsNormQuant { eps } => KernelKind::RmsNormQuant { width: width(0)?, eps: eps.to_bits() },
            Op::RmsNormHeads { eps, head } => {
                KernelKind::RmsNormHeads { width: width(0)?, head: *head, eps: eps.to_bits() }
            }
            Op::Silu {} => KernelKind::Elementwise { op: ElementwiseFn::Silu, width: width(0)? },
            Op::Sigmoid {} => KernelKind::Elementwise { op: ElementwiseFn::Sigmoid, width: width(0)? },
            Op::AddBias {} => KernelKind::AddBias { width: width(0)? },
            Op::SoftplusDecay {} => KernelKind::SoftplusDecay { width: width(0)? },
            Op::Hadamard { block, direction } => KernelKind::Hadamard {
                width: width(0)?,
                block: *block,
                direction: *direction,
                signed: operands.len() > 1,
            },
            Op::TransposeHeads { head, rows } => {
                KernelKind::TransposeHeads { width: width(0)?, head: *head, rows: *rows }
            }
            Op::L2NormHeads { eps, head, scale } => KernelKind::L2NormHeads {
                width: width(0)?,
                head: *head,
                eps: eps.to_bits(),
                scale: scale.to_bits(),
            },
            Op::CausalConv {} => {
                let (taps, channels) = matrix(1)?;
                KernelKind::CausalConv { channels, taps }
            }
            Op::DeltaRule {} => {
                let state = operands.get(5).and_then(|ty| ty.as_state()).ok_or_else(bad)?;
                let key_heads = width(0)?.checked_div(state.cols).ok_or_else(bad)?;
                KernelKind::DeltaRule { key_heads, heads: state.heads, d: state.cols }
            }
            Op::QuantAbsmax {} => KernelKind::QuantAbsmax { width: width(0)? },
            Op::TernaryMatmul {} => bitlinear(Epilogue::None)?,
            Op::Bitlinear { epilogue } => bitlinear(*epilogue)?,
            Op::Matmul {} => {
                let (rows, cols) = matrix(1)?;
                KernelKind::Matmul { rows, cols, dtype: operands[1].dtype }
            }
            Op::QuantBlocks { block } => KernelKind::QuantBlocks { width: width(0)?, block: block.cols() },
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
                let (heads, cache, scale) = (*heads, caches(1, 2)?, scale.to_bits());
                match tokens {
                    TokenMode::One => KernelKind::AttentionBlocks { heads, cache, scale },
                    TokenMode::Many => KernelKind::AttentionTiles { heads, cache, scale },
                }
            }
            Op::Add {} => KernelKind::Elementwise { op: ElementwiseFn::Add, width: width(0)? },
            Op::Mul {} => KernelKind::Elementwise { op: ElementwiseFn::Mul, width: width(0)? },
            Op::Relu2 {} => KernelKind::Elementwise { op: ElementwiseFn::Relu2, width: width(0)? },
        };
        Ok(Some(Self { kind, tokens, strides }))
    }

    /// The words that the kernel takes, in order. Always ends with `Tokens, UnitBegin, UnitEnd`.
    pub fn args(&self) -> Vec<Arg> {
        self.signature().args
    }

    /// Bytes of working memory that each thread of a call needs: what [`Arg::Scratch`] points to. 0 for kernels without
    /// that word.
    pub fn scratch_bytes(&self) -> u64 {
        self.signature().scratch_bytes
    }

    /// Bytes of shared memory that a call needs with caches of `capacity` positions: what [`Arg::Workspace`] points to. 0
    /// for kernels without that word.
    pub fn workspace_bytes(&self, capacity: u32) -> u64 {
        self.signature().workspace_bytes.of_capacity(capacity)
    }

    /// The kernel that finishes the op when all threads have run this one, with its name in profiles and its units; `None`
    /// where this one does all.
    pub fn after_barrier(&self) -> Option<(&'static str, Self, Units)> {
        let (name, kind, units) = self.second_step()?;
        Some((name, Self { kind, tokens: self.tokens, strides: Vec::new() }, units))
    }

    /// A readable name, unique for each spec: the name of the kernel in dumps.
    pub fn name(&self) -> String {
        let mut name = self.shape_name();
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

impl RopeShape {
    pub(super) fn name(self) -> String {
        let pairs = match self.pairs {
            Pairs::Halves => "halves",
            Pairs::Interleaved => "interleaved",
        };
        format!("{}of{}_{pairs}", self.rot, self.head)
    }
}

impl CacheShape {
    pub(super) fn name(self) -> String {
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
