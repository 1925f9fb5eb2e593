//! LLaMA with ternary layers: HF1BitLLM/Llama3-8B-1.58-100B-tokens, Falcon3-1.58bit and Falcon-E of TII.
//!
//! A layer has an RMSNorm before attention and one before the gated feed-forward network, and SiLU in the gate. The
//! converter permutes queries and keys, so that neighbouring elements are rotated together. Activations are quantised
//! before every ternary product. Sources: `src/models/llama.cpp` of llama.cpp, `integrations/bitnet.py` of
//! transformers.

use bitnetc_ir::Pairs;

use super::common::{ATTN_K, ATTN_NORM, ATTN_OUTPUT, ATTN_Q, ATTN_V, FFN_DOWN, FFN_GATE, FFN_NORM, FFN_UP};
use super::{Activation, Defaults, Family};
use crate::activations::ActivationFormat;

pub(super) static FAMILY: Family = Family {
    name: "LLaMA",
    architectures: &["llama"],
    activations: &[Activation::Silu],
    activation_varies: false,
    rope: Pairs::Interleaved,
    defaults: Defaults { context: 2048, rope_theta: 10_000.0 },
    layer_tensors: &[ATTN_NORM, ATTN_Q, ATTN_K, ATTN_V, ATTN_OUTPUT, FFN_NORM, FFN_GATE, FFN_UP, FFN_DOWN],
    scale_tensors: true,
    rotations: true,
    hybrid: None,
    quantisation: ActivationFormat::Int8Token,
    ternary_tables: false,
};
