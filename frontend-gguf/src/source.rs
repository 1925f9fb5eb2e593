//! The weights of a model by parameter name: which tensor each IR parameter is, its type, its hash and its bytes.
//!
//! One table, `params`, connects parameter names and tensors; lowering declares parameters from it and
//! [`GgufWeights`] serves bytes by it, so that the two cannot disagree.

use std::borrow::Cow;
use std::collections::HashMap;

use bitnetc_ir::{ContentHash, DType, Layout, ParamDecl, ParamDef, Type, WeightBytes, WeightSource};

use crate::arch::LayerRole;
use crate::decode::FloatFormat;
use crate::form::{Form, Weights};
use crate::hadamard::Rotation;
use crate::model::Model;
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
        LayerRole::AttnQNorm => "q_norm",
        LayerRole::AttnKNorm => "k_norm",
        LayerRole::AttnSubNorm => "attn_sub_norm",
        LayerRole::AttnOutput => "o",
        LayerRole::AttnQBias => "q_bias",
        LayerRole::AttnKBias => "k_bias",
        LayerRole::AttnVBias => "v_bias",
        LayerRole::DeltaQkv => "qkv",
        LayerRole::DeltaGate => "z",
        LayerRole::DeltaAlpha => "alpha",
        LayerRole::DeltaBeta => "beta",
        LayerRole::DeltaConv => "conv",
        LayerRole::DeltaRate => "decay_rate",
        LayerRole::DeltaBias => "decay_bias",
        LayerRole::DeltaNorm => "delta_norm",
        LayerRole::DeltaOutput => "delta_out",
        LayerRole::FfnNorm => "ffn_norm",
        LayerRole::FfnGate => "gate",
        LayerRole::FfnUp => "up",
        LayerRole::FfnSubNorm => "ffn_sub_norm",
        LayerRole::FfnDown => "down",
    };
    format!("l{layer}.{short}")
}

/// Name of the parameter with the signs of a rotation for rows of this width.
pub(crate) fn signs_param(width: usize) -> String {
    format!("signs.{width}")
}

/// Every parameter of a model with its tensor, in the order in which the model uses them; signs of a rotation, which are no
/// tensors, are apart ([`declare_signs`]).
pub(crate) fn params<'m, 'a>(model: &'m Model<'a>) -> Vec<(String, &'m TensorInfo<'a>)> {
    let mut all = vec![(TOKEN_EMBD.to_owned(), model.token_embd())];
    for layer in 0..model.hparams().layers {
        for t in model.hparams().layer_tensors(layer) {
            all.extend(model.layer(layer, t.role).map(|tensor| (layer_param(layer, t.role), tensor)));
        }
    }
    all.push((OUTPUT_NORM.to_owned(), model.output_norm()));
    all.extend(model.output().map(|tensor| (OUTPUT.to_owned(), tensor)));
    all
}

/// The declaration of a parameter; reads the whole tensor for its hash, and for its form. `None` for a tensor that no
/// model uses.
pub(crate) fn declare(model: &Model<'_>, name: String, tensor: &TensorInfo<'_>) -> Option<ParamDecl> {
    let weights = model.weights(tensor)?;
    let ty = param_type(model, tensor, &weights)?;
    let mut hasher = blake3::Hasher::new();
    for part in weights.content() {
        bitnetc_threads::install(|| hasher.update_rayon(part));
    }
    let scale = model.separate_scale(tensor);
    if scale.to_bits() != 1.0f32.to_bits() {
        hasher.update(&scale.to_le_bytes());
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    let def = ParamDef::File { tensor: tensor.name().to_owned(), hash: ContentHash(hash) };
    Some(ParamDecl { name, ty, def })
}

/// The declaration of the signs for rows of this width.
pub(crate) fn declare_signs(rotation: &Rotation, width: usize) -> Option<ParamDecl> {
    let bytes = sign_bytes(rotation.signs(width)?);
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
    Some(ParamDecl {
        name: signs_param(width),
        ty: Type::vector(DType::F32, u32::try_from(width).ok()?),
        def: ParamDef::File {
            tensor: format!("prism.hadamard.sign_values.{width}"),
            hash: ContentHash(hash),
        },
    })
}

fn sign_bytes(signs: &[i8]) -> Vec<u8> {
    signs.iter().flat_map(|&sign| f32::from(sign).to_le_bytes()).collect()
}

fn param_type(model: &Model<'_>, tensor: &TensorInfo<'_>, weights: &Weights<'_>) -> Option<Type> {
    // Sizes are at most 2^22 (`limits`), so they fit.
    let size = |n: usize| u32::try_from(n).ok();
    let (rows, cols) = (size(weights.rows())?, size(weights.cols())?);
    if tensor.dims().as_slice().len() == 1 {
        return Some(Type::vector(DType::F32, cols));
    }
    if model.is_transposed(tensor) {
        return Some(Type::matrix(DType::F32, cols, rows));
    }
    let ternary = Type::matrix(DType::Ter, rows, cols);
    Some(match model.form(tensor)? {
        Form::I2s128 => ternary.with_layout(Layout::I2s128),
        Form::Ternary { group } => ternary.with_layout(Layout::Row16).with_group(group.unwrap_or(0)),
        Form::Dense(format) => Type::matrix(dtype(format), rows, cols),
    })
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
/// I2_S matrices and tables of floats are borrowed from the file; norms are converted to f32, weights of convolutions transposed,
/// and matrices of other types converted to what [`Form`] says, each time they are asked for.
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

/// The columns of a matrix of f32 as rows.
fn transposed(bytes: &[u8], cols: usize) -> Vec<u8> {
    let elements = bytes.as_chunks::<4>().0;
    (0..cols).flat_map(|col| elements.iter().skip(col).step_by(cols.max(1)).flatten().copied()).collect()
}

impl GgufWeights<'_, '_> {
    /// The signs that are the parameter of this name.
    fn signs(&self, name: &str) -> Option<&[i8]> {
        let width: usize = name.strip_prefix("signs.")?.parse().ok()?;
        self.model.rotation()?.signs(width)
    }
}

impl WeightSource for GgufWeights<'_, '_> {
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>> {
        let none = Cow::Borrowed(&[][..]);
        if let Some(signs) = self.signs(name) {
            return Some(WeightBytes { bytes: Cow::Owned(sign_bytes(signs)), scales: none });
        }
        let tensor = self.model.gguf().tensor(*self.tensors.get(name)?);
        let weights = self.model.weights(tensor)?;
        if self.model.is_transposed(tensor) {
            let bytes = transposed(&weights.to_floats(FloatFormat::F32, 1.0), weights.cols());
            return Some(WeightBytes { bytes: Cow::Owned(bytes), scales: none });
        }
        let scale = self.model.separate_scale(tensor);
        let vector = tensor.dims().as_slice().len() == 1;
        let form = if vector { Form::Dense(FloatFormat::F32) } else { self.model.form(tensor)? };
        Some(match (form, &weights) {
            (Form::I2s128, Weights::Ternary(w)) => {
                WeightBytes { bytes: Cow::Borrowed(w.packed()), scales: Cow::Owned(vec![w.scale() * scale]) }
            }
            (Form::Dense(format), Weights::Floats(w)) if w.format() == format && scale == 1.0 => {
                WeightBytes { bytes: Cow::Borrowed(w.bytes()), scales: none }
            }
            (Form::Dense(format), w) => {
                WeightBytes { bytes: Cow::Owned(w.to_floats(format, scale)), scales: none }
            }
            // Only I2_S has this form.
            (Form::I2s128, _) => return None,
            (Form::Ternary { group }, w) => {
                let (bytes, scales) = w.to_row16(group, scale);
                WeightBytes { bytes: Cow::Owned(bytes), scales: Cow::Owned(scales) }
            }
        })
    }
}
