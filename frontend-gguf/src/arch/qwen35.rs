//! Qwen 3.5 to 3.8 with ternary layers: Ternary Bonsai 2 of PrismML.
//!
//! Three of four layers are Gated DeltaNet (Yang et al. 2024, arXiv 2412.06464): queries, keys and values go through a short
//! convolution and update a state of fixed size. The others have attention with heads of their own width, of which a part is rotated
//! in halves, and a gate for each element of its result. Value heads of the state are stored *tiled*: head j belongs to key head j
//! modulo their number. Norms are stored with 1 added where Qwen adds it, the decay rates as −exp(A_log). Matrices are mostly
//! stored rotated ([`crate::hadamard`]). Sources: `src/models/qwen35.cpp` and `conversion/qwen.py` of llama.cpp and of PrismML's fork,
//! `models/qwen3_5` of transformers.

use bitnetc_ir::Pairs;

use super::common::{ATTN_K, ATTN_NORM, ATTN_OUTPUT, ATTN_V, FFN_DOWN, FFN_GATE, FFN_UP};
use super::{
    Activation, Defaults, Family, Hybrid, LayerKind, LayerRole, LayerTensor, TensorClass, linear, matrix,
    norm, tensor,
};
use crate::activations::ActivationFormat;
use crate::hparams::HyperParams;
use crate::tensors::Dims;

const fn recurrent(tensor: LayerTensor) -> LayerTensor {
    tensor.only(LayerKind::Recurrent)
}

const fn attention(tensor: LayerTensor) -> LayerTensor {
    tensor.only(LayerKind::Attention)
}

/// A number for each value head.
fn of_value_heads(h: &HyperParams) -> Dims {
    Dims::vector(h.delta().value_heads as u64)
}

fn gate(h: &HyperParams) -> Dims {
    matrix(h.hidden, h.delta().value_heads)
}

fn head_vector(h: &HyperParams) -> Dims {
    Dims::vector(h.head_dim as u64)
}

pub(super) static FAMILY: Family = Family {
    name: "Qwen3.5",
    architectures: &["qwen35"],
    activations: &[Activation::Silu],
    activation_varies: false,
    rope: Pairs::Halves,
    defaults: Defaults { context: 262_144, rope_theta: 10_000_000.0 },
    layer_tensors: &[
        ATTN_NORM,
        recurrent(linear(LayerRole::DeltaQkv, "attn_qkv", |h| matrix(h.hidden, h.delta().channels()))),
        recurrent(linear(LayerRole::DeltaGate, "attn_gate", |h| matrix(h.hidden, h.delta().value_width()))),
        recurrent(tensor(LayerRole::DeltaAlpha, "ssm_alpha", TensorClass::Gate, gate)),
        recurrent(tensor(LayerRole::DeltaBeta, "ssm_beta", TensorClass::Gate, gate)),
        recurrent(tensor(LayerRole::DeltaConv, "ssm_conv1d", TensorClass::Conv, |h| {
            matrix(h.delta().taps, h.delta().channels())
        })),
        recurrent(norm(LayerRole::DeltaRate, "ssm_a", of_value_heads).ending("")),
        recurrent(norm(LayerRole::DeltaBias, "ssm_dt", of_value_heads).ending(".bias")),
        recurrent(norm(LayerRole::DeltaNorm, "ssm_norm", |h| Dims::vector(h.delta().head_dim as u64))),
        recurrent(linear(LayerRole::DeltaOutput, "ssm_out", |h| matrix(h.delta().value_width(), h.hidden))),
        // Queries and the gate of each head, one after the other.
        attention(linear(LayerRole::AttnQ, "attn_q", |h| matrix(h.hidden, 2 * h.attention_width()))),
        attention(ATTN_K),
        attention(ATTN_V),
        attention(norm(LayerRole::AttnQNorm, "attn_q_norm", head_vector)),
        attention(norm(LayerRole::AttnKNorm, "attn_k_norm", head_vector)),
        attention(ATTN_OUTPUT),
        norm(LayerRole::FfnNorm, "post_attention_norm", |h| Dims::vector(h.hidden as u64)),
        FFN_GATE,
        FFN_UP,
        FFN_DOWN,
    ],
    scale_tensors: false,
    quantisation: ActivationFormat::Int8Blocks,
    ternary_tables: true,
    rotations: true,
    hybrid: Some(Hybrid {
        attention_interval: 4,
        keys: &[
            "attention.recurrent_layers",
            "full_attention_interval",
            "nextn_predict_layers",
            "rope.dimension_sections",
            "ssm.conv_kernel",
            "ssm.group_count",
            "ssm.inner_size",
            "ssm.state_size",
            "ssm.time_step_rank",
        ],
    }),
};
