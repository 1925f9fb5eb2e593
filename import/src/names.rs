//! How the tensors of a checkpoint are called, and which tensor of a GGUF model each is.

use bitnetc_frontend_gguf::LayerRole;

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const NORM: &str = "model.norm.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// The module of a layer's tensor, under which are `weight` and perhaps `weight_scale`.
pub(crate) fn module(layer: usize, role: LayerRole) -> String {
    let part = match role {
        LayerRole::AttnNorm => "input_layernorm",
        LayerRole::AttnQ => "self_attn.q_proj",
        LayerRole::AttnK => "self_attn.k_proj",
        LayerRole::AttnV => "self_attn.v_proj",
        LayerRole::AttnQNorm => "self_attn.q_norm",
        LayerRole::AttnKNorm => "self_attn.k_norm",
        LayerRole::AttnSubNorm => "self_attn.attn_sub_norm",
        LayerRole::AttnOutput => "self_attn.o_proj",
        LayerRole::AttnQBias => "self_attn.q_proj",
        LayerRole::AttnKBias => "self_attn.k_proj",
        LayerRole::AttnVBias => "self_attn.v_proj",
        LayerRole::DeltaQkv => "linear_attn.in_proj_qkv",
        LayerRole::DeltaGate => "linear_attn.in_proj_z",
        LayerRole::DeltaAlpha => "linear_attn.in_proj_a",
        LayerRole::DeltaBeta => "linear_attn.in_proj_b",
        LayerRole::DeltaConv => "linear_attn.conv1d",
        LayerRole::DeltaRate => "linear_attn.A_log",
        LayerRole::DeltaBias => "linear_attn.dt_bias",
        LayerRole::DeltaNorm => "linear_attn.norm",
        LayerRole::DeltaOutput => "linear_attn.out_proj",
        LayerRole::FfnNorm => "post_attention_layernorm",
        LayerRole::FfnGate => "mlp.gate_proj",
        LayerRole::FfnUp => "mlp.up_proj",
        LayerRole::FfnSubNorm => "mlp.ffn_sub_norm",
        LayerRole::FfnDown => "mlp.down_proj",
    };
    format!("model.layers.{layer}.{part}")
}

/// Whether a tensor that nobody asked for says nothing about the function: tables that transformers once stored.
pub(crate) fn is_derived(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}
