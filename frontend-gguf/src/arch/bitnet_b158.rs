//! BitNet b1.58 (`bitnet-b1.58`, and `bitnet-25` as its first upload was called): microsoft/bitnet-b1.58-2B-4T and
//! models of its shape.
//!
//! A layer is attention and a gated feed-forward network, each with an RMSNorm before it and one ("sub norm") before
//! its last projection; all projections are ternary; the gate's activation is relu²; queries and keys are rotated in
//! halves. The head is the transposed embedding unless `output.weight` is there. Sources: `build_bitnet_158` of
//! ik_llama.cpp, `models/bitnet/modeling_bitnet.py` of transformers.

use bitnetc_ir::Pairs;

use super::common::{
    ATTN_K, ATTN_NORM, ATTN_OUTPUT, ATTN_Q, ATTN_SUB_NORM, ATTN_V, FFN_DOWN, FFN_GATE, FFN_NORM,
    FFN_SUB_NORM, FFN_UP,
};
use super::{Activation, Defaults, Family, LayerTensor};
use crate::activations::ActivationFormat;

/// The tensors of a layer.
pub(super) const LAYER: &[LayerTensor] = &[
    ATTN_NORM,
    ATTN_Q,
    ATTN_K,
    ATTN_V,
    ATTN_SUB_NORM,
    ATTN_OUTPUT,
    FFN_NORM,
    FFN_GATE,
    FFN_UP,
    FFN_SUB_NORM,
    FFN_DOWN,
];

pub(super) static FAMILY: Family = Family {
    name: "BitNet b1.58",
    architectures: &["bitnet-b1.58", "bitnet-25"],
    activations: &[Activation::Relu2],
    activation_varies: false,
    rope: Pairs::Halves,
    defaults: Defaults { context: 4096, rope_theta: 10_000.0 },
    layer_tensors: LAYER,
    scale_tensors: false,
    rotations: false,
    hybrid: None,
    quantisation: ActivationFormat::Int8Token,
    ternary_tables: false,
};
