//! BitNet b1.58 (`bitnet-b1.58`, and `bitnet-25` as its first upload was called): microsoft/bitnet-b1.58-2B-4T and
//! models of its shape.
//!
//! A layer is attention and a gated feed-forward network, each with an RMSNorm before it and one ("sub norm") before
//! its last projection; all projections are ternary; the gate's activation is relu²; queries and keys are rotated in
//! halves. The head is the transposed embedding unless `output.weight` is there. Sources: `build_bitnet_158` of
//! ik_llama.cpp, `models/bitnet/modeling_bitnet.py` of transformers.

use bitnetc_ir::Pairs;

use super::{Activation, Family, LayerRole, LayerTensor, Neutral, TensorClass};
use crate::hparams::HyperParams;
use crate::tensors::Dims;

pub(super) static FAMILY: Family = Family {
    name: "BitNet b1.58",
    architectures: &["bitnet-b1.58", "bitnet-25"],
    activation: Activation::Relu2,
    rope: Pairs::Halves,
    default_context: 4096,
    // What every ggml-based reader takes when the key is absent.
    default_rope_theta: 10_000.0,
    layer_tensors: &[
        norm(LayerRole::AttnNorm, "attn_norm", |h| Dims::vector(h.hidden as u64)),
        linear(LayerRole::AttnQ, "attn_q", |h| matrix(h.hidden, h.attention_width())),
        linear(LayerRole::AttnK, "attn_k", |h| matrix(h.hidden, h.kv_width())),
        linear(LayerRole::AttnV, "attn_v", |h| matrix(h.hidden, h.kv_width())),
        norm(LayerRole::AttnSubNorm, "attn_sub_norm", |h| Dims::vector(h.attention_width() as u64)),
        linear(LayerRole::AttnOutput, "attn_output", |h| matrix(h.attention_width(), h.hidden)),
        norm(LayerRole::FfnNorm, "ffn_norm", |h| Dims::vector(h.hidden as u64)),
        linear(LayerRole::FfnGate, "ffn_gate", |h| matrix(h.hidden, h.ffn)),
        linear(LayerRole::FfnUp, "ffn_up", |h| matrix(h.hidden, h.ffn)),
        norm(LayerRole::FfnSubNorm, "ffn_sub_norm", |h| Dims::vector(h.ffn as u64)),
        linear(LayerRole::FfnDown, "ffn_down", |h| matrix(h.ffn, h.hidden)),
    ],
    neutral_keys: &[
        ("rope.scaling.type", Neutral::OneOf(&["none", "linear"])),
        ("rope.scaling.factor", Neutral::Number(1.0)),
        ("rope.scaling.attn_factor", Neutral::Number(1.0)),
        ("rope.scale_linear", Neutral::Number(1.0)),
        ("hidden_activation", Neutral::OneOf(&["relu2"])),
        ("attention.causal", Neutral::Bool(true)),
        ("attention.sliding_window", Neutral::Number(0.0)),
        ("attention.clamp_kqv", Neutral::Number(0.0)),
        ("attention.max_alibi_bias", Neutral::Number(0.0)),
        ("attn_logit_softcapping", Neutral::Number(0.0)),
        ("final_logit_softcapping", Neutral::Number(0.0)),
        ("logit_scale", Neutral::Number(1.0)),
        ("embedding_scale", Neutral::Number(1.0)),
        ("residual_scale", Neutral::Number(1.0)),
        ("expert_count", Neutral::Number(0.0)),
        ("use_parallel_residual", Neutral::Bool(false)),
    ],
};

const fn norm(role: LayerRole, stem: &'static str, dims: fn(&HyperParams) -> Dims) -> LayerTensor {
    LayerTensor { role, stem, class: TensorClass::Norm, dims }
}

const fn linear(role: LayerRole, stem: &'static str, dims: fn(&HyperParams) -> Dims) -> LayerTensor {
    LayerTensor { role, stem, class: TensorClass::Linear, dims }
}

fn matrix(inputs: usize, outputs: usize) -> Dims {
    Dims::matrix(inputs as u64, outputs as u64)
}
