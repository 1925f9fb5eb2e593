//! Model families: one file per family, each a table of what its GGUF files hold.
//!
//! A family says which `general.architecture` names it covers, which defaults apply to absent keys, which tensors a
//! model has with which shapes, and which tensors would change the computation and are therefore refused. What keys mean
//! is the same for all families: [`crate::keys`].

mod bitnet;
mod bitnet_b158;
mod llama;
mod qwen2;
mod qwen3;
mod qwen35;

use bitnetc_ir::Pairs;

use crate::activations::ActivationFormat;
use crate::hparams::HyperParams;
use crate::tensors::Dims;

/// What a family of models has in common.
#[derive(Debug)]
pub struct Family {
    /// Name of the family.
    pub name: &'static str,
    /// Values of `general.architecture` that belong to it.
    pub architectures: &'static [&'static str],
    /// Activations of the feed-forward gate that its models have; the first one if the file does not say.
    pub activations: &'static [Activation],
    /// Whether models with either activation are in circulation under these names, so that an absent key is worth a remark.
    pub activation_varies: bool,
    /// Pairing of elements in the rotary embedding.
    pub rope: Pairs,
    /// What stands for keys that are absent.
    pub defaults: Defaults,
    /// The tensors of a layer, of each kind that there is.
    pub layer_tensors: &'static [LayerTensor],
    /// Whether a layer may have a tensor `<stem>.scale` beside a matrix, by which its result is multiplied.
    pub scale_tensors: bool,
    /// In which form activations meet ternary matrices, unless asked otherwise.
    pub quantisation: ActivationFormat,
    /// Whether an embedding or a head whose values are ternary is computed as ternary, like a layer; else it is a table of
    /// floats.
    pub ternary_tables: bool,
    /// Whether its matrices may be stored rotated ([`crate::hadamard`]).
    pub rotations: bool,
    /// What models have that consist of layers of two kinds; `None` where all layers have attention.
    pub hybrid: Option<Hybrid>,
}

/// What is particular to models of attention and recurrent layers.
#[derive(Debug, Clone, Copy)]
pub struct Hybrid {
    /// Every layer whose number, counted from 1, is a multiple of this has attention, if the file does not say.
    pub attention_interval: usize,
    /// Keys below the architecture that are followed here, and refused for other families.
    pub keys: &'static [&'static str],
}

/// Of which kind a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Attention over all tokens before.
    Attention,
    /// Gated DeltaNet: a short convolution and the gated delta rule.
    Recurrent,
}

/// What stands for keys that are absent; each use is reported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// `context_length`: what the family was trained with.
    pub context: u64,
    /// `rope.freq_base`: what every ggml-based reader takes.
    pub rope_theta: f32,
}

/// Activation function of the feed-forward gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// relu(x)².
    Relu2,
    /// x · sigmoid(x).
    Silu,
}

impl Activation {
    /// All activations.
    pub const ALL: &[Activation] = &[Self::Relu2, Self::Silu];

    /// The name in the key `hidden_activation` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu2 => "relu2",
            Self::Silu => "silu",
        }
    }
}

/// The place of a tensor in a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of the layer's parts")]
pub enum LayerRole {
    AttnNorm,
    AttnQ,
    AttnK,
    AttnV,
    AttnQNorm,
    AttnKNorm,
    AttnSubNorm,
    AttnOutput,
    AttnQBias,
    AttnKBias,
    AttnVBias,
    DeltaQkv,
    DeltaGate,
    DeltaAlpha,
    DeltaBeta,
    DeltaConv,
    DeltaRate,
    DeltaBias,
    DeltaNorm,
    DeltaOutput,
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
    /// A matrix: floats, I2_S or a quantised type.
    Linear,
    /// The embedding or the output head: floats or a quantised type.
    Table,
    /// A matrix whose products gate a recurrent state: as a table.
    Gate,
    /// Weights of a short convolution, a row for each channel: F32, F16 or BF16. Its parameter is transposed.
    Conv,
}

impl TensorClass {
    /// Whether its values are multiplied as floats, whatever they are.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Table | Self::Gate)
    }
}

/// A tensor that every layer of a family has, or every layer of one kind.
#[derive(Debug, Clone, Copy)]
pub struct LayerTensor {
    /// Its place.
    pub role: LayerRole,
    /// Its name is `blk.<layer>.<stem><suffix>`.
    pub stem: &'static str,
    /// What follows the stem: `.weight`, mostly.
    pub suffix: &'static str,
    /// The layers that have it, if not all have.
    pub kind: Option<LayerKind>,
    /// What it is used as.
    pub class: TensorClass,
    /// Its shape.
    pub dims: fn(&HyperParams) -> Dims,
}

impl LayerTensor {
    /// The same in layers of one kind.
    const fn only(self, kind: LayerKind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// The same with another end of its name.
    const fn ending(self, suffix: &'static str) -> Self {
        Self { suffix, ..self }
    }
}

const fn tensor(
    role: LayerRole,
    stem: &'static str,
    class: TensorClass,
    dims: fn(&HyperParams) -> Dims,
) -> LayerTensor {
    LayerTensor { role, stem, suffix: ".weight", kind: None, class, dims }
}

const fn norm(role: LayerRole, stem: &'static str, dims: fn(&HyperParams) -> Dims) -> LayerTensor {
    tensor(role, stem, TensorClass::Norm, dims)
}

const fn linear(role: LayerRole, stem: &'static str, dims: fn(&HyperParams) -> Dims) -> LayerTensor {
    tensor(role, stem, TensorClass::Linear, dims)
}

fn matrix(inputs: usize, outputs: usize) -> Dims {
    Dims::matrix(inputs as u64, outputs as u64)
}

/// The tensors that every family has, under the same names.
mod common {
    use super::{LayerRole, LayerTensor, linear, matrix, norm};
    use crate::tensors::Dims;

    pub(super) const ATTN_NORM: LayerTensor =
        norm(LayerRole::AttnNorm, "attn_norm", |h| Dims::vector(h.hidden as u64));
    pub(super) const ATTN_Q: LayerTensor =
        linear(LayerRole::AttnQ, "attn_q", |h| matrix(h.hidden, h.attention_width()));
    pub(super) const ATTN_K: LayerTensor =
        linear(LayerRole::AttnK, "attn_k", |h| matrix(h.hidden, h.kv_width()));
    pub(super) const ATTN_V: LayerTensor =
        linear(LayerRole::AttnV, "attn_v", |h| matrix(h.hidden, h.kv_width()));
    pub(super) const ATTN_SUB_NORM: LayerTensor =
        norm(LayerRole::AttnSubNorm, "attn_sub_norm", |h| Dims::vector(h.attention_width() as u64));
    pub(super) const ATTN_OUTPUT: LayerTensor =
        linear(LayerRole::AttnOutput, "attn_output", |h| matrix(h.attention_width(), h.hidden));
    pub(super) const FFN_NORM: LayerTensor =
        norm(LayerRole::FfnNorm, "ffn_norm", |h| Dims::vector(h.hidden as u64));
    pub(super) const FFN_GATE: LayerTensor =
        linear(LayerRole::FfnGate, "ffn_gate", |h| matrix(h.hidden, h.ffn));
    pub(super) const FFN_UP: LayerTensor = linear(LayerRole::FfnUp, "ffn_up", |h| matrix(h.hidden, h.ffn));
    pub(super) const FFN_SUB_NORM: LayerTensor =
        norm(LayerRole::FfnSubNorm, "ffn_sub_norm", |h| Dims::vector(h.ffn as u64));
    pub(super) const FFN_DOWN: LayerTensor =
        linear(LayerRole::FfnDown, "ffn_down", |h| matrix(h.ffn, h.hidden));
}

/// All families.
pub static FAMILIES: &[&Family] =
    &[&bitnet_b158::FAMILY, &bitnet::FAMILY, &llama::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &qwen35::FAMILY];

/// The family of an architecture name.
pub fn find(architecture: &str) -> Option<(&'static Family, &'static str)> {
    FAMILIES.iter().find_map(|family| {
        family.architectures.iter().find(|&&a| a == architecture).map(|&name| (*family, name))
    })
}

/// Why a tensor that no family asks for cannot be ignored, if so: it takes part in the computation.
pub(crate) fn changes_results(name: &str) -> Option<&'static str> {
    const EXACT: &[(&str, &str)] = &[
        ("rope_factors_long.weight", "scales rotary frequencies, which is not supported"),
        ("rope_factors_short.weight", "scales rotary frequencies, which is not supported"),
        ("token_embd_norm.weight", "normalises the embedding, which is not supported"),
        ("position_embd.weight", "adds a learned position, which is not supported"),
    ];
    const SUFFIXES: &[(&str, &str)] = &[
        (".bias", "is a bias, which is not supported"),
        (".scale", "is a separate scale of a matrix that this architecture does not have"),
        ("_scale", "is a separate scale, which is not supported: convert the model again to I2_S"),
        (".attn_q_norm.weight", "normalises queries, which this architecture does not do"),
        (".attn_k_norm.weight", "normalises keys, which this architecture does not do"),
        (".attn_sub_norm.weight", "is a norm that this architecture does not have"),
        (".ffn_sub_norm.weight", "is a norm that this architecture does not have"),
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
