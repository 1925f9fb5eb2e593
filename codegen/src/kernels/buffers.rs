//! How large the buffers are that a kernel gets: what the verifier of the kernel IR compares offsets with.
//!
//! Sizes follow from the shape, as [`bitnetc_ir::storage`] and [`bitnetc_ir::weights`] lay things out; what depends on the call
//! (tokens, positions) counts with the most that any call has. Readers may go as far as the padding after each buffer.

use bitnetc_ir::blocks::{BLOCK, BlockFormat, TERNARY_BLOCK};
use bitnetc_ir::storage::{MAX_TOKENS, PADDING, row_stride, state_bytes};
use bitnetc_ir::weights::{TILE_ROWS, packed_bytes};
use bitnetc_ir::{DType, Epilogue, Layout, Rows, StateDims, Type};

use super::{ActivationScale, Arg, CacheShape, KernelKind, KernelSpec, TokenMode};

/// Bytes of a row of an activation.
fn row(dtype: DType, width: u32) -> Option<u64> {
    row_stride(&Type::rows(dtype, Rows { per_token: false, width }))
}

/// Bytes of a row of `q8b` in such blocks.
fn blocks_row(width: u32, block: u32) -> Option<u64> {
    row_stride(&Type::rows(DType::Q8b, Rows { per_token: false, width }).with_group(block))
}

/// Bytes of all heads of a row.
fn heads(count: u32, head: u32) -> Option<u64> {
    (u64::from(count) * u64::from(head) * 4).checked_next_multiple_of(64)
}

/// Bytes of the elements of a parameter, and of its scales.
fn packed(ty: &Type) -> (Option<u64>, Option<u64>) {
    packed_bytes(ty).unzip()
}

/// A cache of the most positions.
fn cache_bytes(cache: CacheShape) -> Option<u64> {
    let element = u64::from(cache.dtype.element_bytes()?);
    let of_position = u64::from(cache.kv_heads).checked_mul(u64::from(cache.head_dim) * element)?;
    of_position.checked_mul(u64::from(u32::MAX))
}

impl KernelSpec {
    /// The most bytes that a kernel may access after the address that is this argument; `stride` is that of its rows, where it
    /// has several. `None` for what is no address.
    pub(super) fn buffer_bytes(&self, arg: Arg, stride: Option<u64>) -> Option<u64> {
        let bytes = match arg {
            Arg::Scratch => Some(self.scratch_bytes()),
            Arg::Workspace => Some(self.workspace_bytes(u32::MAX)),
            _ => match stride {
                Some(stride) => stride.checked_mul(u64::from(MAX_TOKENS)),
                None => self.shape_bytes(arg),
            },
        };
        bytes?.checked_add(PADDING)
    }

    /// As [`KernelSpec::buffer_bytes`] without padding, for one row.
    pub(super) fn shape_bytes(&self, arg: Arg) -> Option<u64> {
        use Arg::{Operand, Result, RopeTable, Scales};
        let ternary = |rows, cols, layout: Layout, group| {
            packed(&Type::matrix(DType::Ter, rows, cols).with_layout(layout).with_group(group))
        };
        let product = |rows: u32, epilogue: Epilogue| row(DType::F32, rows >> u32::from(epilogue.is_gated()));
        let rope_table = |rot: u32| u64::from(u32::MAX).checked_mul(u64::from(rot) * 8);
        match (self.kind, arg) {
            (KernelKind::Embed { .. } | KernelKind::EmbedTernary { .. }, Operand(0)) => match self.tokens {
                TokenMode::One => Some(4),
                TokenMode::Many => Some(4 * u64::from(MAX_TOKENS)),
            },
            // The table has a row for each token, of which the shape does not know how many there are.
            (KernelKind::Embed { width, dtype }, Operand(1)) => {
                (u64::from(width) * u64::from(dtype.element_bytes()?)).checked_mul(u64::from(u32::MAX))
            }
            (KernelKind::Embed { width, .. } | KernelKind::EmbedTernary { width, .. }, Result(_)) => {
                row(DType::F32, width)
            }
            (KernelKind::EmbedTernary { width, layout, group }, Operand(1) | Scales(_)) => {
                let (codes, scales) = ternary(TILE_ROWS, width, layout, group);
                let of_tile = if matches!(arg, Scales(_)) { scales } else { codes };
                of_tile?.checked_mul(u64::from(u32::MAX / TILE_ROWS) + 1)
            }

            (KernelKind::RmsNorm { width, .. } | KernelKind::RmsNormQuant { width, .. }, Operand(_)) => {
                row(DType::F32, width)
            }
            (KernelKind::RmsNorm { width, .. }, Result(_)) => row(DType::F32, width),
            (KernelKind::RmsNormQuant { width, .. }, Result(_)) => row(DType::Q8, width),
            (KernelKind::RmsNormHeads { head, .. }, Operand(1)) => row(DType::F32, head),
            (KernelKind::RmsNormHeads { width, .. }, _) => row(DType::F32, width),
            (KernelKind::QuantAbsmax { width } | KernelKind::QuantBlocks { width, .. }, Operand(_)) => {
                row(DType::F32, width)
            }
            (KernelKind::QuantAbsmax { width }, Result(_)) => row(DType::Q8, width),
            (KernelKind::QuantBlocks { width, block }, Result(_)) => blocks_row(width, block),

            (KernelKind::Bitlinear { cols, .. }, Operand(0)) => row(DType::Q8, cols),
            (KernelKind::BitlinearGrouped { cols, activation, .. }, Operand(0)) => match activation {
                ActivationScale::Token => row(DType::Q8, cols),
                ActivationScale::Block => blocks_row(cols, TERNARY_BLOCK),
            },
            (KernelKind::BitlinearF32 { cols, .. }, Operand(0)) => row(DType::F32, cols),
            (KernelKind::Bitlinear { rows, cols, layout, .. }, Operand(1)) => {
                ternary(rows, cols, layout, 0).0
            }
            (KernelKind::Bitlinear { rows, cols, layout, .. }, Scales(_)) => ternary(rows, cols, layout, 0).1,
            (
                KernelKind::BitlinearGrouped { rows, cols, layout, group, .. }
                | KernelKind::BitlinearF32 { rows, cols, layout, group, .. },
                Operand(1) | Scales(_),
            ) => {
                let (codes, scales) = ternary(rows, cols, layout, group);
                if matches!(arg, Scales(_)) { scales } else { codes }
            }
            (
                KernelKind::Bitlinear { rows, epilogue, .. }
                | KernelKind::BitlinearGrouped { rows, epilogue, .. }
                | KernelKind::BitlinearF32 { rows, epilogue, .. },
                _,
            ) => product(rows, epilogue),

            (KernelKind::Matmul { cols, .. } | KernelKind::MatmulRows { cols, .. }, Operand(0)) => {
                row(DType::F32, cols)
            }
            (KernelKind::Matmul { rows, cols, dtype }, Operand(_)) => {
                packed(&Type::matrix(dtype, rows, cols)).0
            }
            (KernelKind::Matmul { rows, .. } | KernelKind::BlockMatmul { rows, .. }, Result(_)) => {
                row(DType::F32, rows)
            }
            (KernelKind::MatmulRows { n, .. }, Operand(1)) => row(DType::I32, n),
            (KernelKind::MatmulRows { rows, cols, dtype, .. }, Operand(_)) => {
                packed(&Type::matrix(dtype, rows, cols)).0
            }
            (KernelKind::MatmulRows { n, .. }, Result(_)) => row(DType::F32, n),
            (KernelKind::BlockMatmul { cols, .. }, Operand(0)) => blocks_row(cols, BLOCK),
            (KernelKind::BlockMatmul { rows, cols, format }, _) => {
                let of_format = |format: BlockFormat| Type::matrix(format.dtype(), rows, cols);
                let (elements, factors) = packed(&of_format(format).with_layout(Layout::Tile16));
                if matches!(arg, Scales(_)) { factors } else { elements }
            }

            (KernelKind::Screen { width, .. }, Operand(_)) => row(DType::F32, width),
            (KernelKind::Screen { n, .. }, _) => row(DType::I32, n),
            (KernelKind::MergeScreened { n, .. }, Operand(1 | 2)) => row(DType::F32, n),
            (KernelKind::MergeScreened { width, .. }, _) => row(DType::F32, width),

            (KernelKind::Rope { rope, .. } | KernelKind::RopeKvAppend { rope, .. }, RopeTable) => {
                rope_table(rope.rot)
            }
            (KernelKind::Rope { width, .. }, _) => row(DType::F32, width),
            (KernelKind::RopeKvAppend { q_width, .. }, Operand(0) | Result(_)) => row(DType::F32, q_width),
            (KernelKind::KvAppend { cache }, Operand(0 | 1))
            | (KernelKind::RopeKvAppend { cache, .. }, Operand(3 | 4))
            | (
                KernelKind::AttentionBlocks { cache, .. } | KernelKind::AttentionTiles { cache, .. },
                Operand(1 | 2),
            ) => cache_bytes(cache),
            (KernelKind::KvAppend { cache } | KernelKind::RopeKvAppend { cache, .. }, _) => {
                heads(cache.kv_heads, cache.head_dim)
            }
            (
                KernelKind::AttentionBlocks { heads: count, cache, .. }
                | KernelKind::AttentionMerge { heads: count, cache }
                | KernelKind::AttentionTiles { heads: count, cache, .. },
                _,
            ) => heads(count, cache.head_dim),
            (KernelKind::Elementwise { width, .. }, _)
            | (KernelKind::AddBias { width } | KernelKind::SoftplusDecay { width }, _)
            | (KernelKind::Hadamard { width, .. } | KernelKind::TransposeHeads { width, .. }, _)
            | (KernelKind::L2NormHeads { width, .. }, _) => row(DType::F32, width),
            (KernelKind::CausalConv { channels, taps }, Operand(1)) => {
                packed(&Type::matrix(DType::F32, taps, channels)).0
            }
            (KernelKind::CausalConv { channels, taps }, Operand(2)) => state_bytes(&Type::state(StateDims {
                heads: 1,
                rows: taps.saturating_sub(1),
                cols: channels,
            })),
            (KernelKind::CausalConv { channels, .. }, _) => row(DType::F32, channels),
            (KernelKind::DeltaRule { key_heads, d, .. }, Operand(0 | 1)) => heads(key_heads, d),
            (KernelKind::DeltaRule { heads, .. }, Operand(3 | 4)) => row(DType::F32, heads),
            (KernelKind::DeltaRule { heads, d, .. }, Operand(5)) => {
                state_bytes(&Type::state(StateDims { heads, rows: d, cols: d }))
            }
            (KernelKind::DeltaRule { heads: count, d, .. }, _) => heads(count, d),
            (KernelKind::EmbedTernary { .. }, _)
            | (KernelKind::Embed { .. } | KernelKind::Matmul { .. } | KernelKind::RmsNorm { .. }, _)
            | (KernelKind::RmsNormQuant { .. } | KernelKind::MatmulRows { .. }, _)
            | (KernelKind::QuantAbsmax { .. } | KernelKind::QuantBlocks { .. }, _) => None,
        }
    }
}
