//! Model families: one file per family, each a table of what its GGUF files hold.
//!
//! A family says which `general.architecture` names it covers, which defaults apply to absent keys, which tensors a
//! model has with which shapes, and which keys and tensors would change the computation and are therefore refused.

mod bitnet_b158;

use bitnetc_ir::Pairs;

use crate::hparams::HyperParams;
use crate::tensors::Dims;

/// What a family of models has in common.
#[derive(Debug)]
pub struct Family {
    /// Name of the family.
    pub name: &'static str,
    /// Values of `general.architecture` that belong to it.
    pub architectures: &'static [&'static str],
    /// Activation of the feed-forward gate.
    pub activation: Activation,
    /// Pairing of elements in the rotary embedding.
    pub rope: Pairs,
    /// Context length if the file has none.
    pub default_context: u64,
    /// Base of the rotary embedding if the file has none.
    pub default_rope_theta: f32,
    /// The tensors of a layer.
    pub layer_tensors: &'static [LayerTensor],
    /// Keys (without `<architecture>.`) that are accepted only with a value that changes nothing.
    pub neutral_keys: &'static [(&'static str, Neutral)],
}

/// Activation function of the feed-forward gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// relu(x)².
    Relu2,
}

/// The place of a tensor in a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of the layer's parts")]
pub enum LayerRole {
    AttnNorm,
    AttnQ,
    AttnK,
    AttnV,
    AttnSubNorm,
    AttnOutput,
    FfnNorm,
    FfnGate,
    FfnUp,
    FfnSubNorm,
    FfnDown,
}

/// What a tensor is used as; decides which storage types are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorClass {
    /// Weights of an RMSNorm: F32, F16 or BF16.
    Norm,
    /// A ternary matrix: I2_S.
    Linear,
    /// The embedding or the output head: F32, F16 or BF16.
    Table,
}

/// A tensor that every layer of a family has.
#[derive(Debug, Clone, Copy)]
pub struct LayerTensor {
    /// Its place.
    pub role: LayerRole,
    /// Its name is `blk.<layer>.<stem>.weight`.
    pub stem: &'static str,
    /// What it is used as.
    pub class: TensorClass,
    /// Its shape.
    pub dims: fn(&HyperParams) -> Dims,
}

/// The value with which a key changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Neutral {
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// This number, as integer or float.
    Number(f32),
    /// This bool.
    Bool(bool),
}

/// All families.
pub static FAMILIES: &[&Family] = &[&bitnet_b158::FAMILY];

/// The family of an architecture name.
pub fn find(architecture: &str) -> Option<(&'static Family, &'static str)> {
    FAMILIES.iter().find_map(|family| {
        family.architectures.iter().find(|&&a| a == architecture).map(|&name| (*family, name))
    })
}

/// Why a tensor that no family asks for cannot be ignored, if so: it takes part in the computation.
pub(crate) fn changes_results(name: &str) -> Option<&'static str> {
    const EXACT: &[(&str, &str)] = &[
        ("rope_freqs.weight", "scales rotary frequencies, which is not supported"),
        ("rope_factors_long.weight", "scales rotary frequencies, which is not supported"),
        ("rope_factors_short.weight", "scales rotary frequencies, which is not supported"),
        ("token_embd_norm.weight", "normalises the embedding, which is not supported"),
        ("position_embd.weight", "adds a learned position, which is not supported"),
    ];
    const SUFFIXES: &[(&str, &str)] = &[
        (".bias", "is a bias, which is not supported"),
        (".scale", "is a separate scale, which is not supported: convert the model again to I2_S"),
        ("_scale", "is a separate scale, which is not supported: convert the model again to I2_S"),
        (".attn_q_norm.weight", "normalises queries, which is not supported"),
        (".attn_k_norm.weight", "normalises keys, which is not supported"),
        (".attn_qkv.weight", "merges the attention projections, which is not supported"),
        (".post_attention_norm.weight", "is an additional norm, which is not supported"),
        (".post_ffw_norm.weight", "is an additional norm, which is not supported"),
        ("_norm_in.weight", "is an additional norm, which is not supported"),
        (".lora_a", "is an adapter, which is not supported: merge it into the model"),
        (".lora_b", "is an adapter, which is not supported: merge it into the model"),
    ];
    EXACT
        .iter()
        .find(|(exact, _)| *exact == name)
        .or_else(|| SUFFIXES.iter().find(|(suffix, _)| name.ends_with(suffix)))
        .map(|(_, why)| *why)
}
