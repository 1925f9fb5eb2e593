//! A model: hyper-parameters, the tensor of every place, and the tokenizer, all checked against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crate::arch::{self, Activation, LayerRole, LayerTensor, TensorClass};
use crate::decode::{FloatFormat, Floats, I2s, I2sLayout, Quantised};
use crate::error::{GgufError, printable};
use crate::form::{Form, Weights};
use crate::hadamard::{Matrix, Rotation};
use crate::hparams::{HyperParams, ROPE_FREQS};
use crate::note::Note;
use crate::reader::Gguf;
use crate::tensor_type::TensorType;
use crate::tensors::{Dims, TensorId, TensorInfo};
use crate::tokenizer_meta::TokenizerMeta;

/// A GGUF file that holds a complete, supported model. Weights have not been read; see [`Model::check_weights`].
#[derive(Debug, Clone)]
pub struct Model<'a> {
    gguf: Gguf<'a>,
    hparams: HyperParams,
    tokenizer: TokenizerMeta<'a>,
    token_embd: TensorId,
    output_norm: TensorId,
    output: Option<TensorId>,
    layers: Vec<Vec<TensorId>>,
    /// The scalar by which the result of a matrix is multiplied, where there is one.
    scales: BTreeMap<TensorId, TensorId>,
    /// Matrices that are multiplied as floats, whatever their values are.
    floats: BTreeSet<TensorId>,
    /// Weights of convolutions.
    transposed: BTreeSet<TensorId>,
    rotation: Option<Rotation>,
    options: ModelOptions,
    /// What each matrix becomes, once somebody has asked.
    forms: Vec<OnceLock<Form>>,
    notes: Vec<Note>,
}

/// What a file does not say and a user may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelOptions {
    /// Order of the codes in I2_S tensors.
    pub i2s_layout: I2sLayout,
    /// Activation of the feed-forward gate, instead of the file's.
    pub activation: Option<Activation>,
}

pub(crate) const TOKEN_EMBD: &str = "token_embd.weight";
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
pub(crate) const OUTPUT: &str = "output.weight";

impl<'a> Model<'a> {
    /// Parses a file and checks all but its weights.
    ///
    /// # Errors
    /// Every [`GgufError`] but `BadWeights`.
    pub fn open(bytes: &'a [u8]) -> Result<Self, GgufError> {
        Self::open_parts(&[bytes], &ModelOptions::default())
    }

    /// As [`Model::open`], for the parts of a split file, in order.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_parts(parts: &[&'a [u8]], options: &ModelOptions) -> Result<Self, GgufError> {
        Self::from_gguf(Gguf::parse_parts(parts)?, options)
    }

    /// Checks that a parsed container holds a model.
    ///
    /// # Errors
    /// Every [`GgufError`] from `UnsupportedArch` to `BadTokenizer`.
    pub fn from_gguf(gguf: Gguf<'a>, options: &ModelOptions) -> Result<Self, GgufError> {
        let (hparams, mut notes) = HyperParams::read(&gguf, options.activation)?;
        if gguf.tensors().is_empty() {
            return Err(GgufError::NoTensors);
        }
        let rotation = read_rotation(&gguf, &hparams)?;
        refuse_lone_predictor(&gguf, &hparams)?;
        let mut binder =
            Binder { gguf: &gguf, used: vec![false; gguf.tensors().len()], i2s_layout: options.i2s_layout };
        let table = Dims::matrix(hparams.hidden as u64, hparams.vocab as u64);
        let vector = Dims::vector(hparams.hidden as u64);
        let token_embd = binder.bind(TOKEN_EMBD, table, TensorClass::Table)?;
        let output_norm = binder.bind(OUTPUT_NORM, vector, TensorClass::Norm)?;
        if let Some(id) = gguf.find(ROPE_FREQS) {
            // Read with the hyper-parameters.
            binder.mark(id);
        }
        let output = match gguf.find(OUTPUT) {
            Some(_) => Some(binder.bind(OUTPUT, table, TensorClass::Table)?),
            None => None,
        };
        // Grows with tensors that exist: a layer that lacks one ends the loop.
        let mut layers = Vec::new();
        let (mut scales, mut floats, mut transposed) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let mut matrices: Vec<(String, TensorClass, u64)> = Vec::new();
        for layer in 0..hparams.layers {
            let mut tensors = Vec::with_capacity(hparams.family.layer_tensors.len());
            for t in hparams.layer_tensors(layer) {
                let name = layer_tensor_name(layer, t);
                let dims = (t.dims)(&hparams);
                let id = binder.bind(&name, dims, t.class)?;
                tensors.push(id);
                if t.class.is_float() {
                    floats.insert(id);
                }
                if t.class == TensorClass::Conv {
                    transposed.insert(id);
                }
                if matches!(t.class, TensorClass::Linear | TensorClass::Gate) {
                    matrices.push((name, t.class, dims.row()));
                }
                let scale = format!("blk.{layer}.{}.scale", t.stem);
                if t.class == TensorClass::Linear
                    && hparams.family.scale_tensors
                    && gguf.find(&scale).is_some()
                {
                    scales.insert(id, binder.bind(&scale, Dims::vector(1), TensorClass::Norm)?);
                }
            }
            layers.push(tensors);
        }
        if let Some(rotation) = &rotation {
            if output.is_some() {
                matrices.push((OUTPUT.to_owned(), TensorClass::Table, hparams.hidden as u64));
            }
            let matrices: Vec<_> = matrices
                .iter()
                .map(|(name, class, inputs)| Matrix { name, class: *class, inputs: *inputs })
                .collect();
            let skipped = |name: &str| gguf.find(name).is_some() && is_skipped(&hparams, name);
            rotation.check(&matrices, hparams.hidden, output.is_some(), skipped)?;
        }
        for (tensor, used) in gguf.tensors().iter().zip(&mut binder.used) {
            *used |= is_skipped(&hparams, tensor.name());
        }
        notes.extend(binder.unused()?);
        let tokenizer = TokenizerMeta::read(&gguf)?;
        tokenizer.require_len(hparams.vocab)?;
        notes.splice(0..0, gguf.notes().iter().cloned());
        notes.extend(tokenizer.notes().iter().cloned());
        let forms = vec![OnceLock::new(); gguf.tensors().len()];
        let options = *options;
        Ok(Self {
            gguf,
            hparams,
            tokenizer,
            token_embd,
            output_norm,
            output,
            layers,
            scales,
            floats,
            transposed,
            rotation,
            options,
            forms,
            notes,
        })
    }

    /// The container.
    pub fn gguf(&self) -> &Gguf<'a> {
        &self.gguf
    }

    /// What the user has said about the file.
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// The hyper-parameters.
    pub fn hparams(&self) -> &HyperParams {
        &self.hparams
    }

    /// The tokenizer's tables.
    pub fn tokenizer(&self) -> &TokenizerMeta<'a> {
        &self.tokenizer
    }

    /// How the weights are rotated, if they are.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// Defaults used and oddities let pass, of container, model and tokenizer.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The embedding table, `[vocab, hidden]`.
    pub fn token_embd(&self) -> &TensorInfo<'a> {
        self.gguf.tensor(self.token_embd)
    }

    /// The norm before the head.
    pub fn output_norm(&self) -> &TensorInfo<'a> {
        self.gguf.tensor(self.output_norm)
    }

    /// The head's own table, `[vocab, hidden]`; `None` if the head is the embedding table.
    pub fn output(&self) -> Option<&TensorInfo<'a>> {
        self.output.map(|id| self.gguf.tensor(id))
    }

    /// A tensor of a layer; `None` if the layer or the role does not exist.
    pub fn layer(&self, layer: usize, role: LayerRole) -> Option<&TensorInfo<'a>> {
        let index = self.hparams.layer_tensors(layer).position(|t| t.role == role)?;
        self.layers.get(layer)?.get(index).map(|&id| self.gguf.tensor(id))
    }

    /// All tensors that the model uses, each once: embedding, layers in order, output norm, head, scales of matrices.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo<'a>> {
        let head = [Some(self.output_norm), self.output];
        let ids = std::iter::once(self.token_embd).chain(self.layers.iter().flatten().copied());
        let ids = ids.chain(head.into_iter().flatten()).chain(self.scales.values().copied());
        ids.map(|id| self.gguf.tensor(id))
    }

    /// The decoder of a tensor that the model uses.
    pub fn weights(&self, tensor: &TensorInfo<'_>) -> Option<Weights<'a>> {
        let cols = usize::try_from(tensor.dims().row()).ok()?;
        let rows = usize::try_from(tensor.dims().rows()).ok()?;
        let data = self.gguf.data(tensor);
        match (tensor.ty(), FloatFormat::of(tensor.ty())) {
            (TensorType::I2S, _) => {
                I2s::with_layout(rows, cols, data, self.options.i2s_layout).map(Weights::Ternary)
            }
            (_, Some(format)) => Floats::new(format, rows, cols, data).map(Weights::Floats),
            (ty, _) => Quantised::new(ty, rows, cols, data).map(Weights::Quantised),
        }
    }

    /// Whether the parameter is the transposed tensor: the weights of a convolution.
    pub(crate) fn is_transposed(&self, tensor: &TensorInfo<'_>) -> bool {
        self.gguf.find(tensor.name()).is_some_and(|id| self.transposed.contains(&id))
    }

    /// The factor of the results of a matrix that the file keeps in a tensor of its own; 1 for others. NaN in an
    /// unchecked file.
    pub fn separate_scale(&self, tensor: &TensorInfo<'_>) -> f32 {
        let scale = self.gguf.find(tensor.name()).and_then(|id| self.scales.get(&id));
        let Some(&scale) = scale else { return 1.0 };
        match self.weights(self.gguf.tensor(scale)) {
            Some(Weights::Floats(x)) => x.decode().first().copied().unwrap_or(f32::NAN),
            _ => f32::NAN,
        }
    }

    /// What a matrix of the model becomes in the IR. Reads it, the first time, unless it is I2_S as published.
    pub fn form(&self, tensor: &TensorInfo<'_>) -> Option<Form> {
        let id = self.gguf.find(tensor.name())?;
        let weights = self.weights(tensor)?;
        let table = id == self.token_embd || Some(id) == self.output;
        let table = (table && !self.hparams.family.ternary_tables) || self.floats.contains(&id);
        let form = self.forms.get(id.index())?.get_or_init(|| match table {
            true => weights.table_form(),
            // A dense matrix takes its factor in, which its format need not hold.
            false => match weights.linear_form() {
                Form::Dense(_) if self.scales.contains_key(&id) => Form::Dense(FloatFormat::F32),
                form => form,
            },
        });
        Some(*form)
    }

    /// Remarks that come from the values of the weights. Reads all matrices, unless they have been read before.
    pub fn weight_notes(&self) -> Vec<Note> {
        let dense: Vec<_> = (0..self.hparams.layers)
            .flat_map(|layer| self.hparams.layer_tensors(layer).map(move |t| (layer, t)))
            .filter(|(_, t)| t.class == TensorClass::Linear)
            .filter_map(|(layer, t)| self.layer(layer, t.role))
            .filter(|tensor| matches!(self.form(tensor), Some(Form::Dense(_))))
            .collect();
        let Some(first) = dense.first() else { return Vec::new() };
        let text = format!(
            "of {} of the layers are not ternary (the first is \"{}\", {}) and are multiplied as floats, which is slow",
            if dense.len() == 1 { "1 matrix".to_owned() } else { format!("{} matrices", dense.len()) },
            printable(first.name()),
            first.ty().name()
        );
        vec![Note::warning("weights", text)]
    }
}

/// Name of a layer's tensor in the file.
pub fn layer_tensor_name(layer: usize, tensor: &LayerTensor) -> String {
    format!("blk.{layer}.{}{}", tensor.stem, tensor.suffix)
}

/// The rotation that a file declares, which models of this family can have.
fn read_rotation(gguf: &Gguf<'_>, hparams: &HyperParams) -> Result<Option<Rotation>, GgufError> {
    let rotation = Rotation::read(gguf)?;
    match (&rotation, hparams.family.rotations) {
        (Some(_), false) => Err(GgufError::BadHyperparam {
            key: "prism.hadamard.version".to_owned(),
            value: "given".to_owned(),
            why: format!("models of the architecture \"{}\" are not rotated", hparams.architecture),
        }),
        _ => Ok(rotation),
    }
}

/// Whether the tensor is of a block that predicts further tokens, after the layers.
fn is_skipped(hparams: &HyperParams, name: &str) -> bool {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let blocks = hparams.layers..hparams.layers + hparams.skipped_blocks;
    block.is_some_and(|block| blocks.contains(&block))
}

/// Refuses a file that has no layers, only what predicts further tokens.
fn refuse_lone_predictor(gguf: &Gguf<'_>, hparams: &HyperParams) -> Result<(), GgufError> {
    let layers =
        gguf.tensors().iter().filter(|t| t.name().starts_with("blk.") && !is_skipped(hparams, t.name()));
    match hparams.skipped_blocks > 0 && layers.count() == 0 {
        true => Err(GgufError::BadHyperparam {
            key: format!("{}.nextn_predict_layers", hparams.architecture),
            value: hparams.skipped_blocks.to_string(),
            why: "the file holds only what predicts further tokens (multi-token prediction), and none of the layers: \
                  give the file of the model itself"
                .to_owned(),
        }),
        false => Ok(()),
    }
}

/// Looks tensors up by name, checks them, and keeps track of those nobody asked for.
struct Binder<'g, 'a> {
    gguf: &'g Gguf<'a>,
    used: Vec<bool>,
    i2s_layout: I2sLayout,
}

impl Binder<'_, '_> {
    fn bind(&mut self, name: &str, dims: Dims, class: TensorClass) -> Result<TensorId, GgufError> {
        let missing = || GgufError::MissingTensor { tensor: name.to_owned() };
        let id = self.gguf.find(name).ok_or_else(missing)?;
        let tensor = self.gguf.tensor(id);
        if *tensor.dims() != dims {
            return Err(GgufError::WrongShape {
                offset: tensor.entry_offset(),
                tensor: name.to_owned(),
                found: tensor.dims().to_string(),
                expected: dims.to_string(),
            });
        }
        let ty = tensor.ty();
        let floats = FloatFormat::of(ty).is_some();
        let quantised = Quantised::supports(ty);
        let (accepted, expected, remedy) = match class {
            TensorClass::Norm | TensorClass::Conv => {
                (floats, "F32, F16 or BF16 is needed", "convert the model again with norms kept in F32")
            }
            TensorClass::Linear => (
                floats || quantised || ty == TensorType::I2S,
                "a ternary type, floats, Q4_0 to Q8_0 or Q4_K to Q6_K is needed",
                "convert the model again with its linear layers in I2_S or TQ2_0",
            ),
            TensorClass::Table | TensorClass::Gate => (
                floats || quantised,
                "floats, Q4_0 to Q8_0 or Q4_K to Q6_K is needed",
                "convert the model again with embedding and output in F16",
            ),
        };
        if !accepted {
            return Err(GgufError::WrongTensorType {
                offset: tensor.entry_offset(),
                tensor: name.to_owned(),
                found: ty.name(),
                expected,
                remedy,
            });
        }
        let fours = self.i2s_layout != I2sLayout::Rows4 || dims.rows().is_multiple_of(4);
        if ty == TensorType::I2S && !fours {
            return Err(GgufError::UnsupportedTensor {
                offset: tensor.entry_offset(),
                tensor: name.to_owned(),
                why: "has rows that do not come in fours, so it cannot be in the layout rows-1x4",
            });
        }
        self.mark(id);
        Ok(id)
    }

    /// Notes that the model uses a tensor.
    fn mark(&mut self, id: TensorId) {
        if let Some(used) = self.used.get_mut(id.index()) {
            *used = true;
        }
    }

    /// Notes on tensors that the model does not use; refuses those that would change its results.
    fn unused(&self) -> Result<Vec<Note>, GgufError> {
        /// Unused tensors that are named one by one.
        const NAMED: usize = 16;
        let mut notes = Vec::new();
        let mut more = 0;
        for (tensor, _) in self.gguf.tensors().iter().zip(&self.used).filter(|&(_, used)| !used) {
            if let Some(why) = arch::changes_results(tensor.name()) {
                let tensor_name = printable(tensor.name());
                return Err(GgufError::UnsupportedTensor {
                    offset: tensor.entry_offset(),
                    tensor: tensor_name,
                    why,
                });
            }
            if notes.len() < NAMED {
                let subject = format!("tensor \"{}\"", printable(tensor.name()));
                notes.push(Note::warning(subject, "is not part of this architecture and is ignored"));
            } else {
                more += 1;
            }
        }
        if more > 0 {
            notes
                .push(Note::warning("tensor directory", format!("has {more} more tensors that are ignored")));
        }
        Ok(notes)
    }
}
