//! Qwen3 with ternary layers: Bonsai of PrismML.
//!
//! As [`super::llama`], but queries and keys go through an RMSNorm of each head before they are rotated, in halves, and
//! heads may be wider or narrower than their share of the residual stream. Sources: `src/models/qwen3.cpp` of llama.cpp,
//! `models/qwen3/modeling_qwen3.py` of transformers.

use bitnetc_ir::Pairs;

use super::common::{ATTN_K, ATTN_NORM, ATTN_OUTPUT, ATTN_Q, ATTN_V, FFN_DOWN, FFN_GATE, FFN_NORM, FFN_UP};
use super::{Activation, Defaults, Family, LayerRole, norm};
use crate::activations::ActivationFormat;
use crate::tensors::Dims;

pub(super) static FAMILY: Family = Family {
    name: "Qwen3",
    architectures: &["qwen3"],
    activations: &[Activation::Silu],
    activation_varies: false,
    rope: Pairs::Halves,
    defaults: Defaults { context: 32_768, rope_theta: 10_000.0 },
    layer_tensors: &[
        ATTN_NORM,
        ATTN_Q,
        ATTN_K,
        ATTN_V,
        norm(LayerRole::AttnQNorm, "attn_q_norm", |h| Dims::vector(h.head_dim as u64)),
        norm(LayerRole::AttnKNorm, "attn_k_norm", |h| Dims::vector(h.head_dim as u64)),
        ATTN_OUTPUT,
        FFN_NORM,
        FFN_GATE,
        FFN_UP,
        FFN_DOWN,
    ],
    scale_tensors: true,
    rotations: true,
    hybrid: None,
    quantisation: ActivationFormat::Int8Token,
    ternary_tables: false,
};
