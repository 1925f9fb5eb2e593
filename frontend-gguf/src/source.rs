//! The weights of a model by parameter name: which tensor each IR parameter is, its type, its hash and its bytes.
//!
//! One table, `params`, connects parameter names and tensors; lowering declares parameters from it and
//! [`GgufWeights`] serves bytes by it, so that the two cannot disagree.

use std::borrow::Cow;
use std::collections::HashMap;

use bitnetc_ir::{ContentHash, DType, Layout, ParamDecl, ParamDef, Type, WeightBytes, WeightSource};

use crate::arch::LayerRole;
use crate::decode::{FloatFormat, Floats};
use crate::model::{Model, Weights};
use crate::tensors::{TensorId, TensorInfo};

/// Parameter names that are not those of a layer.
pub(crate) const TOKEN_EMBD: &str = "token_embd";
pub(crate) const OUTPUT_NORM: &str = "output_norm";
pub(crate) const OUTPUT: &str = "output";

/// Name of a layer's parameter: `l<layer>.` and the role's short name.
pub(crate) fn layer_param(layer: usize, role: LayerRole) -> String {
    let short = match role {
        LayerRole::AttnNorm => "attn_norm",
        LayerRole::AttnQ => "q",
        LayerRole::AttnK => "k",
        LayerRole::AttnV => "v",
        LayerRole::AttnSubNorm => "attn_sub_norm",
        LayerRole::AttnOutput => "o",
        LayerRole::FfnNorm => "ffn_norm",
        LayerRole::FfnGate => "gate",
        LayerRole::FfnUp => "up",
        LayerRole::FfnSubNorm => "ffn_sub_norm",
        LayerRole::FfnDown => "down",
    };
    format!("l{layer}.{short}")
}

/// Every parameter of a model with its tensor, in the order in which the model uses them.
pub(crate) fn params<'m, 'a>(model: &'m Model<'a>) -> Vec<(String, &'m TensorInfo<'a>)> {
    let mut all = vec![(TOKEN_EMBD.to_owned(), model.token_embd())];
    for layer in 0..model.hparams().layers {
        for t in model.hparams().family.layer_tensors {
            all.extend(model.layer(layer, t.role).map(|tensor| (layer_param(layer, t.role), tensor)));
        }
    }
    all.push((OUTPUT_NORM.to_owned(), model.output_norm()));
    all.extend(model.output().map(|tensor| (OUTPUT.to_owned(), tensor)));
    all
}

/// The declaration of a parameter; reads the whole tensor for its hash. `None` for a tensor that no model uses.
pub(crate) fn declare(model: &Model<'_>, name: String, tensor: &TensorInfo<'_>) -> Option<ParamDecl> {
    let mut hasher = blake3::Hasher::new();
    // Sizes are at most 2^22 (`limits`), so they fit.
    let size = |n: usize| u32::try_from(n).ok();
    let ty = match model.weights(tensor)? {
        Weights::Ternary(w) => {
            // The undefined bytes after the scale are no part of the content.
            hasher.update(w.packed()).update(&w.scale().to_le_bytes());
            Type::matrix(DType::Ter, size(w.rows())?, size(w.cols())?).with_layout(Layout::I2s128)
        }
        Weights::Floats(w) => {
            hasher.update(w.bytes());
            match tensor.dims().as_slice().len() {
                1 => Type::vector(DType::F32, size(w.cols())?),
                _ => Type::matrix(dtype(w.format()), size(w.rows())?, size(w.cols())?),
            }
        }
    };
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    let def = ParamDef::File { tensor: tensor.name().to_owned(), hash: ContentHash(hash) };
    Some(ParamDecl { name, ty, def })
}

fn dtype(format: FloatFormat) -> DType {
    match format {
        FloatFormat::F32 => DType::F32,
        FloatFormat::F16 => DType::F16,
        FloatFormat::Bf16 => DType::Bf16,
    }
}

/// Serves the bytes of a model's parameters in the layouts that the imported module declares.
///
/// Ternary matrices and tables are borrowed from the file; norms stored as F16 or BF16 are converted to f32.
#[derive(Debug)]
pub struct GgufWeights<'m, 'a> {
    model: &'m Model<'a>,
    tensors: HashMap<String, TensorId>,
}

impl<'m, 'a> GgufWeights<'m, 'a> {
    /// The weights of a model.
    pub fn new(model: &'m Model<'a>) -> Self {
        let tensors =
            params(model).into_iter().filter_map(|(name, t)| Some((name, model.gguf().find(t.name())?)));
        Self { model, tensors: tensors.collect() }
    }
}

impl WeightSource for GgufWeights<'_, '_> {
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>> {
        let tensor = self.model.gguf().tensor(*self.tensors.get(name)?);
        Some(match self.model.weights(tensor)? {
            Weights::Ternary(w) => {
                WeightBytes { bytes: Cow::Borrowed(w.packed()), scales: Cow::Owned(vec![w.scale()]) }
            }
            Weights::Floats(w) => {
                let convert = tensor.dims().as_slice().len() == 1 && w.format() != FloatFormat::F32;
                let bytes = if convert { Cow::Owned(to_f32_bytes(&w)) } else { Cow::Borrowed(w.bytes()) };
                WeightBytes { bytes, scales: Cow::Borrowed(&[]) }
            }
        })
    }
}

fn to_f32_bytes(floats: &Floats<'_>) -> Vec<u8> {
    floats.decode().into_iter().flat_map(f32::to_le_bytes).collect()
}
