//! Qwen2 with ternary layers.
//!
//! As [`super::llama`], but queries, keys and values get a bias, and elements are rotated in halves. Sources:
//! `src/models/qwen2.cpp` of llama.cpp, `models/qwen2/modeling_qwen2.py` of transformers.

use bitnetc_ir::Pairs;

use super::common::{ATTN_K, ATTN_NORM, ATTN_OUTPUT, ATTN_Q, ATTN_V, FFN_DOWN, FFN_GATE, FFN_NORM, FFN_UP};
use super::{Activation, Defaults, Family, LayerRole, norm};
use crate::activations::ActivationFormat;
use crate::tensors::Dims;

pub(super) static FAMILY: Family = Family {
    name: "Qwen2",
    architectures: &["qwen2"],
    activations: &[Activation::Silu],
    activation_varies: false,
    rope: Pairs::Halves,
    defaults: Defaults { context: 32_768, rope_theta: 10_000.0 },
    layer_tensors: &[
        ATTN_NORM,
        ATTN_Q,
        norm(LayerRole::AttnQBias, "attn_q", |h| Dims::vector(h.attention_width() as u64)).ending(".bias"),
        ATTN_K,
        norm(LayerRole::AttnKBias, "attn_k", |h| Dims::vector(h.kv_width() as u64)).ending(".bias"),
        ATTN_V,
        norm(LayerRole::AttnVBias, "attn_v", |h| Dims::vector(h.kv_width() as u64)).ending(".bias"),
        ATTN_OUTPUT,
        FFN_NORM,
        FFN_GATE,
        FFN_UP,
        FFN_DOWN,
    ],
    scale_tensors: true,
    quantisation: ActivationFormat::Int8Token,
    ternary_tables: false,
    rotations: false,
    hybrid: None,
};
