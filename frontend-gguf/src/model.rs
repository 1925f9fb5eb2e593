//! A model: hyper-parameters, the tensor of every place, and the tokenizer, all checked against each other.

use crate::arch::{self, LayerRole, TensorClass};
use crate::decode::{FloatFormat, Floats, I2s};
use crate::error::{GgufError, printable};
use crate::hparams::HyperParams;
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
    notes: Vec<Note>,
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
        Self::from_gguf(Gguf::parse(bytes)?)
    }

    /// Checks that a parsed container holds a model.
    ///
    /// # Errors
    /// Every [`GgufError`] from `UnsupportedArch` to `BadTokenizer`.
    pub fn from_gguf(gguf: Gguf<'a>) -> Result<Self, GgufError> {
        let (hparams, mut notes) = HyperParams::read(&gguf)?;
        let mut binder = Binder { gguf: &gguf, used: vec![false; gguf.tensors().len()] };
        let table = Dims::matrix(hparams.hidden as u64, hparams.vocab as u64);
        let vector = Dims::vector(hparams.hidden as u64);
        let token_embd = binder.bind(TOKEN_EMBD, table, TensorClass::Table)?;
        let output_norm = binder.bind(OUTPUT_NORM, vector, TensorClass::Norm)?;
        let output = match gguf.find(OUTPUT) {
            Some(_) => Some(binder.bind(OUTPUT, table, TensorClass::Table)?),
            None => None,
        };
        // Grows with tensors that exist: a layer that lacks one ends the loop.
        let mut layers = Vec::new();
        for layer in 0..hparams.layers {
            let mut tensors = Vec::with_capacity(hparams.family.layer_tensors.len());
            for t in hparams.family.layer_tensors {
                let name = layer_tensor_name(layer, t.stem);
                tensors.push(binder.bind(&name, (t.dims)(&hparams), t.class)?);
            }
            layers.push(tensors);
        }
        notes.extend(binder.unused()?);
        let tokenizer = TokenizerMeta::read(&gguf)?;
        tokenizer.require_len(hparams.vocab)?;
        notes.splice(0..0, gguf.notes().iter().cloned());
        notes.extend(tokenizer.notes().iter().cloned());
        Ok(Self { gguf, hparams, tokenizer, token_embd, output_norm, output, layers, notes })
    }

    /// The container.
    pub fn gguf(&self) -> &Gguf<'a> {
        &self.gguf
    }

    /// The hyper-parameters.
    pub fn hparams(&self) -> &HyperParams {
        &self.hparams
    }

    /// The tokenizer's tables.
    pub fn tokenizer(&self) -> &TokenizerMeta<'a> {
        &self.tokenizer
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
        let index = self.hparams.family.layer_tensors.iter().position(|t| t.role == role)?;
        self.layers.get(layer)?.get(index).map(|&id| self.gguf.tensor(id))
    }

    /// All tensors that the model uses, each once: embedding, layers in order, output norm, head.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo<'a>> {
        let head = [Some(self.output_norm), self.output];
        let ids = std::iter::once(self.token_embd).chain(self.layers.iter().flatten().copied());
        ids.chain(head.into_iter().flatten()).map(|id| self.gguf.tensor(id))
    }

    /// The decoder of a tensor that the model uses.
    pub fn weights(&self, tensor: &TensorInfo<'_>) -> Option<Weights<'a>> {
        Weights::of(tensor, self.gguf.data(tensor))
    }
}

/// Name of a layer's tensor in the file.
pub fn layer_tensor_name(layer: usize, stem: &str) -> String {
    format!("blk.{layer}.{stem}.weight")
}

/// A tensor with its decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weights<'a> {
    /// Floats: embedding, head, norms (one row).
    Floats(Floats<'a>),
    /// A ternary matrix.
    Ternary(I2s<'a>),
}

impl<'a> Weights<'a> {
    /// The decoder for a tensor's data; `None` for a storage type that models do not use.
    pub(crate) fn of(tensor: &TensorInfo<'_>, data: &'a [u8]) -> Option<Self> {
        let cols = usize::try_from(tensor.dims().row()).ok()?;
        let rows = usize::try_from(tensor.dims().rows()).ok()?;
        match (tensor.ty(), FloatFormat::of(tensor.ty())) {
            (TensorType::I2S, _) => I2s::new(rows, cols, data).map(Self::Ternary),
            (_, Some(format)) => Floats::new(format, rows, cols, data).map(Self::Floats),
            _ => None,
        }
    }
}

/// Looks tensors up by name, checks them, and keeps track of those nobody asked for.
struct Binder<'g, 'a> {
    gguf: &'g Gguf<'a>,
    used: Vec<bool>,
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
        const FLOATS: &[TensorType] = &[TensorType::F16, TensorType::Bf16, TensorType::F32];
        let (accepted, expected, remedy): (&[TensorType], _, _) = match class {
            TensorClass::Norm => {
                (FLOATS, "F32, F16 or BF16 is needed", "convert the model again with norms kept in F32")
            }
            TensorClass::Linear => (
                &[TensorType::I2S],
                "I2_S is needed",
                "convert the model again with its linear layers in I2_S",
            ),
            TensorClass::Table => (
                FLOATS,
                "F16, BF16 or F32 is needed",
                "convert the model again with embedding and output in F16",
            ),
        };
        if !accepted.contains(&tensor.ty()) {
            return Err(GgufError::WrongTensorType {
                offset: tensor.entry_offset(),
                tensor: name.to_owned(),
                found: tensor.ty().name(),
                expected,
                remedy,
            });
        }
        if let Some(used) = self.used.get_mut(id.index()) {
            *used = true;
        }
        Ok(id)
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
