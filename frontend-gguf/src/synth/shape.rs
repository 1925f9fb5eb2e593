//! The sizes of a model, and what follows from them: hyper-parameters in the metadata, and the list of tensors.

use thiserror::Error;

use bitnetc_ir::rope::RopeScaling;

use crate::arch::{self, LayerKind, TensorClass};
use crate::decode::FloatFormat;
use crate::hparams::{DeltaNet, HyperParams};
use crate::limits;
use crate::tensor_type::TensorType;
use crate::write::MetaValue;

/// The sizes and constants of a model to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelShape {
    /// `general.name`.
    pub name: String,
    /// `general.architecture`.
    pub arch: &'static str,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head; `key_length` is written if `heads · head_dim` is not `hidden`.
    pub head_dim: usize,
    /// Elements of the feed-forward activation.
    pub ffn: usize,
    /// Tokens.
    pub vocab: usize,
    /// Whether the head is the embedding; if not, there is an `output.weight`.
    pub tied: bool,
    /// Context length.
    pub context: usize,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Storage of embedding and head, unless they are stored as the layers are: hybrid models with layers in blocks.
    pub table: FloatFormat,
    /// Storage of the ternary matrices: one of [`LINEAR_TYPES`].
    pub linear: TensorType,
    /// What a model of attention and recurrent layers has beside this.
    pub hybrid: Option<HybridShape>,
}

/// The sizes of recurrent layers, and the rotation of all matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HybridShape {
    /// Every layer whose number, counted from 1, is a multiple of this has attention.
    pub interval: usize,
    /// Heads of queries and keys in recurrent layers.
    pub key_heads: usize,
    /// Heads of values, a multiple of these.
    pub value_heads: usize,
    /// Elements of each of these heads.
    pub head_dim: usize,
    /// Elements of an attention head that are rotated by position.
    pub rope_dim: usize,
    /// Columns that the rotation of the weights mixes: a power of two that divides all widths.
    pub block: u32,
}

/// The types that the ternary matrices of a made-up model can have.
pub const LINEAR_TYPES: &[TensorType] = &[TensorType::I2S, TensorType::Ptq1_0, TensorType::Pq2_0];

impl Default for ModelShape {
    fn default() -> Self {
        Self {
            name: "synthetic".into(),
            arch: "bitnet-b1.58",
            hidden: 128,
            layers: 1,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            ffn: 256,
            vocab: 288,
            tied: true,
            context: 256,
            rope_theta: 10_000.0,
            eps: 1e-5,
            table: FloatFormat::F16,
            hybrid: None,
            linear: TensorType::I2S,
        }
    }
}

/// Tokens that the short convolutions look at.
const TAPS: usize = 4;

/// A shape that no file can have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} is {value}: {rule}")]
pub struct ShapeError {
    /// Which size.
    pub what: String,
    /// As given.
    pub value: String,
    /// What it must be.
    pub rule: String,
}

/// A tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// What it is used as.
    pub class: TensorClass,
    /// Elements of a row, the contiguous dimension.
    pub row: usize,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// How it is stored.
    pub ty: TensorType,
    /// Bytes of its data.
    pub bytes: u64,
}

impl TensorSpec {
    /// Its dimensions as the directory has them.
    pub fn dims(&self) -> Vec<u64> {
        match self.class {
            TensorClass::Norm => vec![self.row as u64],
            TensorClass::Linear | TensorClass::Table | TensorClass::Gate | TensorClass::Conv => {
                vec![self.row as u64, self.rows as u64]
            }
        }
    }
}

impl ModelShape {
    /// The hyper-parameters, which the tables of [`crate::arch`] take shapes from.
    fn hparams(&self) -> Result<HyperParams, ShapeError> {
        let (family, architecture) =
            arch::find(self.arch).ok_or_else(|| wrong("the architecture", self.arch, "it is not known"))?;
        let activation = family.activations.first().copied();
        let activation =
            activation.ok_or_else(|| wrong("the architecture", self.arch, "it has no activation"))?;
        Ok(HyperParams {
            activation,
            family,
            architecture,
            vocab: self.vocab,
            context: self.context,
            hidden: self.hidden,
            layers: self.layers,
            ffn: self.ffn,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rope_dim: self.hybrid.map_or(self.head_dim, |hybrid| hybrid.rope_dim),
            rope_theta: self.rope_theta,
            rope_scaling: RopeScaling::None,
            rope_magnitude: 1.0,
            eps: self.eps,
            delta: self.hybrid.map(|hybrid| hybrid.delta(self.layers)),
            skipped_blocks: 0,
        })
    }

    fn check(&self) -> Result<(), ShapeError> {
        if !LINEAR_TYPES.contains(&self.linear) {
            let rule = "made-up matrices are stored in I2_S, PTQ1_0 or PQ2_0";
            return Err(wrong("the type of the matrices", self.linear.name(), rule));
        }
        let limits = [
            ("the hidden size", self.hidden, limits::MAX_WIDTH),
            ("the number of layers", self.layers, limits::MAX_LAYERS),
            ("the number of heads", self.heads, limits::MAX_HEADS),
            ("the number of key/value heads", self.kv_heads, limits::MAX_HEADS),
            ("the size of a head", self.head_dim, limits::MAX_WIDTH),
            ("the feed-forward size", self.ffn, limits::MAX_WIDTH),
            ("the vocabulary", self.vocab, limits::MAX_VOCAB),
            ("the context", self.context, limits::MAX_CONTEXT),
        ];
        for (what, value, max) in limits {
            if value < 1 || value as u64 > max {
                return Err(wrong(what, value, &format!("it must be from 1 to {max}")));
            }
        }
        if self.vocab <= super::vocabulary::CONTROL.len() {
            let least = super::vocabulary::CONTROL.len() + 1;
            return Err(wrong("the vocabulary", self.vocab, &format!("at least {least} tokens are needed")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(wrong("the number of heads", self.heads, "key/value heads must divide it"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(wrong("the size of a head", self.head_dim, "it must be even"));
        }
        Ok(())
    }

    /// The tensors, in the order in which they stand in the file.
    ///
    /// # Errors
    /// A size that the front-end refuses, or that the type of the matrices cannot hold.
    pub fn tensors(&self) -> Result<Vec<TensorSpec>, ShapeError> {
        self.check()?;
        let hparams = self.hparams()?;
        let spec = |name: String, class: TensorClass, row: usize, rows: usize| {
            let ty = match class {
                TensorClass::Norm => TensorType::F32,
                TensorClass::Linear => self.linear,
                TensorClass::Table if self.has_ternary_tables() => self.linear,
                TensorClass::Table => self.table.tensor_type(),
                TensorClass::Gate => TensorType::Bf16,
                TensorClass::Conv => TensorType::F32,
            };
            if class == TensorClass::Linear && !(row as u64).is_multiple_of(ty.block_elements()) {
                let rule = format!("{} needs a multiple of {}", ty.name(), ty.block_elements());
                return Err(wrong(&format!("the row length of {name}"), row, &rule));
            }
            let bytes = ty.tensor_bytes(row as u64, rows as u64);
            let bytes = bytes.ok_or_else(|| wrong(&name, row, "the tensor is too large"))?;
            Ok(TensorSpec { name, class, row, rows, ty, bytes })
        };
        let table = |name: &str| spec(name.to_owned(), TensorClass::Table, self.hidden, self.vocab);
        let mut all = vec![table(crate::model::TOKEN_EMBD)?];
        for layer in 0..self.layers {
            for tensor in hparams.layer_tensors(layer) {
                let dims = (tensor.dims)(&hparams);
                let name = crate::model::layer_tensor_name(layer, tensor);
                all.push(spec(name, tensor.class, dims.row() as usize, dims.rows() as usize)?);
            }
        }
        all.push(spec(crate::model::OUTPUT_NORM.to_owned(), TensorClass::Norm, self.hidden, 1)?);
        if !self.tied {
            all.push(table(crate::model::OUTPUT)?);
        }
        Ok(all)
    }

    /// The keys and values that hold the sizes.
    pub fn metadata(&self) -> Vec<(String, MetaValue)> {
        let key = |suffix: &str| format!("{}.{suffix}", self.arch);
        let mut all = vec![
            ("general.architecture".to_owned(), MetaValue::String(self.arch.into())),
            ("general.name".to_owned(), MetaValue::String(self.name.clone())),
        ];
        let counts = [
            ("vocab_size", self.vocab),
            ("context_length", self.context),
            ("embedding_length", self.hidden),
            ("block_count", self.layers),
            ("feed_forward_length", self.ffn),
            ("rope.dimension_count", self.hybrid.map_or(self.head_dim, |hybrid| hybrid.rope_dim)),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
        ];
        all.extend(counts.map(|(suffix, n)| (key(suffix), MetaValue::U32(n as u32))));
        if self.heads * self.head_dim != self.hidden || self.hybrid.is_some() {
            all.push((key("attention.key_length"), MetaValue::U32(self.head_dim as u32)));
            all.push((key("attention.value_length"), MetaValue::U32(self.head_dim as u32)));
        }
        all.push((key("attention.layer_norm_rms_epsilon"), MetaValue::F32(self.eps)));
        all.push((key("rope.freq_base"), MetaValue::F32(self.rope_theta)));
        // MOSTLY_I2_S, as bitnet.cpp numbers it; the others as PrismML does.
        let file_type = match self.linear {
            TensorType::Ptq1_0 => 143,
            TensorType::Pq2_0 => 141,
            _ => 40,
        };
        all.push(("general.file_type".to_owned(), MetaValue::U32(file_type)));
        all.push(("general.quantization_version".to_owned(), MetaValue::U32(2)));
        if let Some(hybrid) = &self.hybrid {
            let counts = hybrid.counts();
            all.extend(counts.map(|(suffix, n)| (key(suffix), MetaValue::U32(n as u32))));
            all.extend(self.rotation(hybrid));
        }
        all
    }

    /// Whether embedding and head are stored as the layers are: in hybrid models whose type is one of blocks.
    fn has_ternary_tables(&self) -> bool {
        self.hybrid.is_some() && self.linear != TensorType::I2S
    }

    /// The keys that declare the rotation of all matrices.
    fn rotation(&self, hybrid: &HybridShape) -> Vec<(String, MetaValue)> {
        let key = |suffix: &str| format!("prism.hadamard.{suffix}");
        let text = |text: &str| MetaValue::String(text.into());
        let tensors = self.tensors().unwrap_or_default();
        let rotated =
            tensors.iter().filter(|t| t.class == TensorClass::Linear || t.name == crate::model::OUTPUT);
        let mut widths: Vec<usize> = rotated.clone().map(|t| t.row).chain([self.hidden]).collect();
        widths.sort_unstable();
        widths.dedup();
        let mut rng = bitnetc_ir::random::SplitMix::new(0x7369_676e);
        let signs =
            (0..widths.iter().sum::<usize>()).map(|_| if rng.below(2) == 0 { 1 } else { -1 }).collect();
        let names = rotated.map(|t| t.name.clone()).collect();
        let mut all = vec![
            (key("version"), MetaValue::U32(if self.tied { 2 } else { 1 })),
            (key("block_size"), MetaValue::U32(hybrid.block)),
            (key("transform"), text("normalized-sylvester-walsh-hadamard")),
            (key("axis"), text("input-last-dimension")),
            (key("sign_mode"), text("explicit")),
            (key("sign_widths"), MetaValue::I32s(widths.iter().map(|&width| width as i32).collect())),
            (key("sign_values"), MetaValue::I32s(signs)),
            (key("weight_names"), MetaValue::Strings(names)),
            (key("inverse_weight_names"), MetaValue::Strings(vec![crate::model::TOKEN_EMBD.into()])),
            (key("gdn_v_grouped"), MetaValue::Bool(true)),
        ];
        if self.tied {
            all.push((key("tied_output"), MetaValue::Bool(true)));
        }
        all
    }
}

impl HybridShape {
    fn delta(&self, layers: usize) -> DeltaNet {
        let kind = |n: usize| match n.is_multiple_of(self.interval.max(1)) {
            true => LayerKind::Attention,
            false => LayerKind::Recurrent,
        };
        DeltaNet {
            key_heads: self.key_heads,
            value_heads: self.value_heads,
            head_dim: self.head_dim,
            taps: TAPS,
            kinds: (1..=layers).map(kind).collect(),
        }
    }

    /// The keys and values of the sizes.
    fn counts(&self) -> [(&'static str, usize); 6] {
        [
            ("full_attention_interval", self.interval),
            ("ssm.conv_kernel", TAPS),
            ("ssm.state_size", self.head_dim),
            ("ssm.group_count", self.key_heads),
            ("ssm.time_step_rank", self.value_heads),
            ("ssm.inner_size", self.value_heads * self.head_dim),
        ]
    }
}

fn wrong(what: &str, value: impl ToString, rule: &str) -> ShapeError {
    ShapeError { what: what.to_owned(), value: value.to_string(), rule: rule.to_owned() }
}
