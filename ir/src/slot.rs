//! What may stand where an op takes an operand: the kinds that the op table gives its operands.
//!
//! Invariant: a slot takes either values or parameters, never both.

use crate::blocks::{BLOCK, TERNARY_BLOCK};
use crate::types::{DType, Dim, Layout, Type};

/// What may stand in an operand slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// An f32 activation, `[n]` or `[T, n]`.
    Act,
    /// What a ternary matrix multiplies: an activation, f32, or quantised with a scale for the token or for each block of
    /// [`TERNARY_BLOCK`] columns.
    Multiplicand,
    /// An activation quantised in blocks of [`BLOCK`] columns.
    BlockQuant,
    /// Numbers of matrix rows, as `screen` gives them.
    RowNumbers,
    /// Token ids, `idx[1]` or `idx[T]`.
    Tokens,
    /// The position of the first token, a scalar `idx`.
    Position,
    /// A KV cache.
    Cache,
    /// A recurrent state.
    State,
    /// An f32 vector parameter.
    VectorParam,
    /// A dense matrix parameter (f32, f16 or bf16).
    DenseParam,
    /// A matrix parameter whose rows are looked up: dense or ternary.
    TableParam,
    /// A ternary matrix parameter.
    TernaryParam,
    /// A block-quantised matrix parameter.
    BlockParam,
}

impl Slot {
    /// Whether the slot takes a parameter (and not a value).
    pub fn takes_param(self) -> bool {
        match self {
            Slot::VectorParam
            | Slot::DenseParam
            | Slot::TableParam
            | Slot::TernaryParam
            | Slot::BlockParam => true,
            Slot::Act | Slot::Multiplicand | Slot::BlockQuant | Slot::RowNumbers => false,
            Slot::Tokens | Slot::Position | Slot::Cache | Slot::State => false,
        }
    }

    /// Whether what the slot takes belongs to a sequence and outlives the call.
    pub fn is_persistent(self) -> bool {
        matches!(self, Slot::Cache | Slot::State)
    }

    /// What the slot takes, for messages.
    pub fn expected(self) -> &'static str {
        match self {
            Slot::Act => "an f32 activation [n] or [Txn]",
            Slot::Multiplicand => "an f32, q8 or q8b (blocks of 128) activation [n] or [Txn]",
            Slot::BlockQuant => "a q8b activation [n] or [Txn] in blocks of 32",
            Slot::RowNumbers => "row numbers i32[n] or i32[Txn]",
            Slot::Tokens => "token ids idx[1] or idx[T]",
            Slot::Position => "a scalar idx",
            Slot::Cache => "an f16 or f32 cache [kv_heads x C x head_dim]",
            Slot::State => "an f32 state [heads x rows x cols]",
            Slot::VectorParam => "an f32 vector parameter",
            Slot::DenseParam => "an f32, f16 or bf16 matrix parameter",
            Slot::TableParam => "an f32, f16, bf16 or ter matrix parameter",
            Slot::TernaryParam => "a ter matrix parameter",
            Slot::BlockParam => "a w8, w6 or w4 matrix parameter",
        }
    }

    /// Whether a value or parameter of type `ty` may stand here.
    pub fn accepts(self, ty: &Type, is_param: bool) -> bool {
        if is_param != self.takes_param() {
            return false;
        }
        match self {
            Slot::Act => ty.dtype == DType::F32 && ty.as_rows().is_some(),
            Slot::Multiplicand => {
                let dtype = match ty.dtype {
                    DType::Q8b => ty.quant_block() == TERNARY_BLOCK,
                    dtype => matches!(dtype, DType::F32 | DType::Q8),
                };
                dtype && ty.as_rows().is_some()
            }
            Slot::BlockQuant => ty.dtype == DType::Q8b && ty.quant_block() == BLOCK && ty.as_rows().is_some(),
            Slot::RowNumbers => ty.dtype == DType::I32 && ty.as_rows().is_some(),
            Slot::Tokens => ty.dtype == DType::Idx && matches!(ty.shape.0[..], [Dim::N(1)] | [Dim::Tokens]),
            Slot::Position => ty.dtype == DType::Idx && ty.shape.0.is_empty(),
            Slot::Cache => matches!(ty.dtype, DType::F16 | DType::F32) && ty.as_cache().is_some(),
            Slot::State => ty.layout == Layout::Rows && ty.as_state().is_some(),
            Slot::VectorParam => ty.dtype == DType::F32 && ty.shape.0.len() == 1 && ty.elements().is_some(),
            Slot::DenseParam => {
                matches!(ty.dtype, DType::F32 | DType::F16 | DType::Bf16) && ty.as_matrix().is_some()
            }
            Slot::TableParam => {
                matches!(ty.dtype, DType::F32 | DType::F16 | DType::Bf16 | DType::Ter)
                    && ty.as_matrix().is_some()
            }
            Slot::TernaryParam => ty.dtype == DType::Ter && ty.as_matrix().is_some(),
            Slot::BlockParam => crate::blocks::block_matrix(ty).is_some(),
        }
    }
}
