//! Hyper-parameters: read from the metadata, checked against each other, with every default on record.
//!
//! Nothing here depends on tensors; [`crate::model`] checks the tensors' shapes against these values before anything
//! is allocated from them.

use bitnetc_ir::rope::{RopeScaling, Theta, frequency};

use crate::arch::{self, Activation, Family, Hybrid, LayerKind, LayerTensor};
use crate::decode::{FloatFormat, Floats};
use crate::error::{GgufError, printable};
use crate::keys;
use crate::limits;
use crate::note::Note;
use crate::reader::Gguf;
use crate::tensors::Dims;
use crate::value::{Array, Value};

/// The tensor with the divisors of rotary frequencies.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

/// The sizes and constants of a decoder model.
///
/// All widths are at least 1 and at most [`limits::MAX_WIDTH`]; `heads` is a multiple of `kv_heads`; `rope_dim` is even
/// and at most `head_dim`.
#[derive(Debug, Clone)]
pub struct HyperParams {
    /// Family of the model.
    pub family: &'static Family,
    /// The value of `general.architecture`, which prefixes the keys.
    pub architecture: &'static str,
    /// Rows of the embedding, and tokens of the vocabulary.
    pub vocab: usize,
    /// Positions that the model was made for, at most [`limits::MAX_CONTEXT`].
    pub context: usize,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Elements of the feed-forward activation.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head. `heads · head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Elements of a head that are rotated.
    pub rope_dim: usize,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Scaling of its frequencies.
    pub rope_scaling: RopeScaling,
    /// Factor of rotated queries and keys: what YaRN asks for, else 1.
    pub rope_magnitude: f32,
    /// Epsilon of every RMSNorm.
    pub eps: f32,
    /// Activation of the feed-forward gate.
    pub activation: Activation,
    /// The recurrent layers, of models that have some.
    pub delta: Option<DeltaNet>,
    /// Blocks after the layers that predict further tokens, and are not computed.
    pub skipped_blocks: usize,
}

/// Sizes of recurrent layers. `value_heads` is a multiple of `key_heads`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaNet {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, each with a state of its own.
    pub value_heads: usize,
    /// Elements of each of these heads.
    pub head_dim: usize,
    /// Tokens that the short convolution looks at.
    pub taps: usize,
    /// Of which kind each layer is.
    pub kinds: Vec<LayerKind>,
}

impl DeltaNet {
    /// Elements of all keys, or of all queries.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.head_dim
    }

    /// Elements of all values.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.head_dim
    }

    /// Channels of the convolution: queries, keys, values.
    pub fn channels(&self) -> usize {
        2 * self.key_width() + self.value_width()
    }
}

/// The sizes of models without recurrent layers, whose tensors ask for none.
static NO_DELTA: DeltaNet =
    DeltaNet { key_heads: 1, value_heads: 1, head_dim: 1, taps: 1, kinds: Vec::new() };

impl HyperParams {
    /// The sizes of recurrent layers; all 1 where there are none.
    pub(crate) fn delta(&self) -> &DeltaNet {
        self.delta.as_ref().unwrap_or(&NO_DELTA)
    }

    /// Of which kind a layer is.
    pub fn kind(&self, layer: usize) -> LayerKind {
        self.delta().kinds.get(layer).copied().unwrap_or(LayerKind::Attention)
    }

    /// The tensors of a layer.
    pub fn layer_tensors(&self, layer: usize) -> impl Iterator<Item = &'static LayerTensor> + use<> {
        let kind = self.kind(layer);
        self.family.layer_tensors.iter().filter(move |t| t.kind.is_none_or(|k| k == kind))
    }

    /// Elements of the concatenated query heads.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of the concatenated key (or value) heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Reads and checks the hyper-parameters; also returns the defaults that were used. An `activation` that the user
    /// asks for stands instead of that of the file.
    ///
    /// # Errors
    /// `MissingKey`, `WrongKeyType`, `UnsupportedArch` or `BadHyperparam`.
    pub fn read(gguf: &Gguf<'_>, activation: Option<Activation>) -> Result<(Self, Vec<Note>), GgufError> {
        let (family, architecture) = read_architecture(gguf)?;
        let notes = keys::check(gguf, family, architecture)?;
        let mut keys = Keys { gguf, architecture, notes };
        let vocab = keys.vocab()?;
        let context = keys.context(family.defaults.context)?;
        let hidden = keys.required("embedding_length", limits::MAX_WIDTH)?;
        let blocks = keys.required("block_count", limits::MAX_LAYERS)?;
        let skipped_blocks = if family.hybrid.is_some() { keys.skipped_blocks(blocks)? } else { 0 };
        let layers = blocks - skipped_blocks;
        let ffn = keys.required("feed_forward_length", limits::MAX_WIDTH)?;
        let heads = keys.required("attention.head_count", limits::MAX_HEADS)?;
        let kv_heads = match keys.count("attention.head_count_kv", limits::MAX_HEADS)? {
            Some(n) => n,
            None => keys.default("attention.head_count_kv", heads, "as many as attention heads"),
        };
        if !heads.is_multiple_of(kv_heads) {
            let why = format!("the {heads} attention heads cannot share {kv_heads} key/value heads evenly");
            return Err(keys.bad("attention.head_count_kv", kv_heads, why));
        }
        let head_dim = keys.head_dim(hidden, heads)?;
        if heads * head_dim > limits::MAX_WIDTH as usize {
            let why =
                format!("{heads} heads of {head_dim} elements are more than {} in all", limits::MAX_WIDTH);
            return Err(keys.bad("attention.head_count", heads, why));
        }
        let rope_dim = match keys.count("rope.dimension_count", limits::MAX_WIDTH)? {
            Some(n) => n,
            None => keys.default("rope.dimension_count", head_dim, "the whole head"),
        };
        if rope_dim > head_dim || !rope_dim.is_multiple_of(2) {
            let why = format!("it must be even and at most the head dimension, {head_dim}");
            return Err(keys.bad("rope.dimension_count", rope_dim, why));
        }
        let rope_theta = match keys.positive("rope.freq_base")? {
            Some(theta) => theta,
            None => {
                let theta = family.defaults.rope_theta;
                keys.default("rope.freq_base", theta, "the default of GGUF readers")
            }
        };
        let (rope_scaling, rope_magnitude) = keys.rope_scaling(context, rope_dim, rope_theta)?;
        let eps = keys.positive("attention.layer_norm_rms_epsilon")?;
        let eps = eps.ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?;
        let activation = keys.activation(family, activation)?;
        let delta = match family.hybrid {
            Some(hybrid) => {
                keys.sections(rope_dim)?;
                Some(keys.delta(hybrid, blocks, layers)?)
            }
            None => None,
        };
        let params = Self {
            delta,
            skipped_blocks,
            activation,
            family,
            architecture,
            vocab,
            context,
            hidden,
            layers,
            ffn,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            rope_theta,
            rope_scaling,
            rope_magnitude,
            eps,
        };
        Ok((params, keys.notes))
    }
}

fn read_architecture(gguf: &Gguf<'_>) -> Result<(&'static Family, &'static str), GgufError> {
    const KEY: &str = "general.architecture";
    let found = gguf.string(KEY)?.ok_or_else(|| GgufError::MissingKey {
        key: KEY.into(),
        remedy: "without it the file is no model: convert the model again",
    })?;
    arch::find(found).ok_or_else(|| unsupported(found))
}

/// The refusal of an architecture.
pub(crate) fn unsupported(found: &str) -> GgufError {
    let supported = arch::FAMILIES.iter().flat_map(|f| f.architectures).copied();
    GgufError::UnsupportedArch {
        found: printable(found),
        supported: supported.collect::<Vec<_>>().join(", "),
        hint: match found {
            "clip" => {
                "; this file (mmproj) holds the part of a model that reads images: give the file of its text model"
            }
            _ => "; use a model of one of these, or another program for this one, such as llama.cpp",
        },
    }
}

/// A bool, or an integer that stands for one.
fn flag(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        value => value.as_integer().filter(|n| (0..=1).contains(n)).map(|n| n == 1),
    }
}

/// Reads keys below `<architecture>.` and records the defaults used.
struct Keys<'g, 'a> {
    gguf: &'g Gguf<'a>,
    architecture: &'static str,
    notes: Vec<Note>,
}

impl Keys<'_, '_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    fn bad(&self, suffix: &str, value: impl ToString, why: impl Into<String>) -> GgufError {
        GgufError::BadHyperparam { key: self.key(suffix), value: value.to_string(), why: why.into() }
    }

    fn missing(&self, suffix: &str) -> GgufError {
        GgufError::MissingKey {
            key: self.key(suffix),
            remedy: "it has no default: convert the model again with a converter that writes it",
        }
    }

    fn default<T: std::fmt::Display + Copy>(&mut self, suffix: &str, value: T, why: &str) -> T {
        self.notes.push(Note::default_used(self.key(suffix), value, why));
        value
    }

    /// The size of the vocabulary: as declared, or as many as there are tokens, as llama.cpp has it.
    fn vocab(&mut self) -> Result<usize, GgufError> {
        if let Some(declared) = self.count("vocab_size", limits::MAX_VOCAB)? {
            return Ok(declared);
        }
        let tokens = crate::tokenizer_meta::string_array(self.gguf, crate::tokenizer_meta::TOKENS)?.len();
        match (1..=limits::MAX_VOCAB).contains(&(tokens as u64)) {
            true => Ok(self.default("vocab_size", tokens, "the number of tokens")),
            false => Err(self.missing("vocab_size")),
        }
    }

    /// The scaling of the rotary frequencies, by keys or by a tensor of divisors, and the factor that goes with it.
    fn rope_scaling(
        &mut self,
        context: usize,
        rope_dim: usize,
        theta: f32,
    ) -> Result<(RopeScaling, f32), GgufError> {
        const TYPE: &str = "rope.scaling.type";
        let factor = self.rope_factor()?;
        let attention = self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let kind = self.gguf.string(&self.key(TYPE))?;
        let keyed = match (kind, factor) {
            (None | Some("none"), _) if factor.is_none_or(|f| f == 1.0) => (RopeScaling::None, attention),
            (Some("none"), Some(_)) => (RopeScaling::None, attention),
            (None | Some("linear"), Some(factor)) if factor != 1.0 => {
                (RopeScaling::Linear { factor }, attention)
            }
            (Some("linear"), _) => (RopeScaling::None, attention),
            (Some("yarn"), Some(factor)) => {
                let original = self.count("rope.scaling.original_context_length", limits::MAX_CONTEXT)?;
                let original = match original {
                    Some(n) => n,
                    None => {
                        let suffix = "rope.scaling.original_context_length";
                        self.default(suffix, context, "the context length, as llama.cpp has it")
                    }
                };
                let yarn = RopeScaling::Yarn {
                    factor,
                    original: original as f32,
                    beta_fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                };
                (yarn, attention * (1.0 + 0.1 * factor.ln()))
            }
            (Some("yarn"), None) => return Err(self.missing("rope.scaling.factor")),
            (kind, _) => {
                let why = "none, linear and yarn are supported";
                return Err(self.bad(TYPE, printable(kind.unwrap_or_default()), why));
            }
        };
        match (self.rope_divisors(rope_dim, theta)?, keyed.0) {
            (None, _) => Ok(keyed),
            (Some(scaling), RopeScaling::None) => Ok((scaling, keyed.1)),
            (Some(_), _) => {
                Err(self.bad(TYPE, printable(kind.unwrap_or_default()), "there is rope_freqs.weight too"))
            }
        }
    }

    /// The factor by either of its names; writers that know both write both.
    fn rope_factor(&self) -> Result<Option<f32>, GgufError> {
        const OLD: &str = "rope.scale_linear";
        let (new, old) = (self.positive("rope.scaling.factor")?, self.positive(OLD)?);
        match (new, old) {
            (Some(new), Some(old)) if new != old => {
                Err(self.bad(OLD, old, format!("rope.scaling.factor means the same and is {new}")))
            }
            _ => Ok(new.or(old)),
        }
    }

    /// The scaling that the divisors in `rope_freqs.weight` come from, if the file has them: none, or that of LLaMA 3.1,
    /// which converters write in this form.
    fn rope_divisors(&self, rope_dim: usize, theta: f32) -> Result<Option<RopeScaling>, GgufError> {
        let Some(id) = self.gguf.find(ROPE_FREQS) else { return Ok(None) };
        let tensor = self.gguf.tensor(id);
        let refused = |why| GgufError::UnsupportedTensor {
            offset: tensor.entry_offset(),
            tensor: ROPE_FREQS.to_owned(),
            why,
        };
        let data = self.gguf.data(tensor);
        let floats =
            FloatFormat::of(tensor.ty()).filter(|_| *tensor.dims() == Dims::vector(rope_dim as u64 / 2));
        let divisors = floats.and_then(|format| Floats::new(format, 1, rope_dim / 2, data));
        let divisors =
            divisors.ok_or_else(|| refused("is not a vector of floats, one for each pair of a head"))?;
        let divisors = divisors.decode();
        if divisors.iter().all(|&d| d == 1.0) {
            return Ok(None);
        }
        let factor = divisors.iter().copied().fold(1.0, f32::max);
        let scaling = RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original: 8192.0 };
        let turned = |scaling, j| frequency(Theta { base: theta, scaling }, rope_dim as u32, j);
        let same = (0..).zip(&divisors).all(|(j, &d)| {
            let expected = turned(RopeScaling::None, j) / turned(scaling, j);
            (f64::from(d) / expected - 1.0).abs() < 1e-4
        });
        match same {
            true => Ok(Some(scaling)),
            false => Err(refused(
                "scales rotary frequencies in another way than LLaMA 3.1, which is not supported",
            )),
        }
    }

    /// The activation of the gate: the one asked for, else that of the file, else the family's first.
    fn activation(&mut self, family: &Family, asked: Option<Activation>) -> Result<Activation, GgufError> {
        const SUFFIX: &str = "hidden_activation";
        let named = self.gguf.string(&self.key(SUFFIX))?;
        let found = match named {
            None => None,
            Some("relu2" | "relu_squared" | "squared_relu") => Some(Activation::Relu2),
            Some("silu" | "swish") => Some(Activation::Silu),
            Some(other) => return Err(self.bad(SUFFIX, printable(other), "relu2 and silu are supported")),
        };
        if let Some(asked) = asked {
            if found != Some(asked) {
                let text =
                    format!("is {}; {} is used, as asked for", named.unwrap_or("absent"), asked.name());
                self.notes.push(Note::warning(self.key(SUFFIX), text));
            }
            return Ok(asked);
        }
        match (found, family.activations) {
            (Some(found), accepted) if accepted.contains(&found) => Ok(found),
            (Some(found), _) => {
                Err(self.bad(SUFFIX, found.name(), "models of this architecture have another activation"))
            }
            (None, &[first, ..]) => {
                if family.activation_varies {
                    let why = "the rule of llama.cpp; BitNet b1.58 2B-4T needs relu2, which then has to be asked for";
                    self.notes.push(Note::default_used(self.key(SUFFIX), first.name(), why));
                }
                Ok(first)
            }
            (None, []) => Err(self.missing(SUFFIX)),
        }
    }

    /// Of all blocks those that predict further tokens.
    fn skipped_blocks(&mut self, blocks: usize) -> Result<usize, GgufError> {
        const SUFFIX: &str = "nextn_predict_layers";
        match self.gguf.integer(&self.key(SUFFIX))? {
            None | Some(0) => Ok(0),
            Some(n) if (1..blocks as i128).contains(&n) => {
                let text = format!("is {n}: the last blocks predict further tokens, and are skipped");
                self.notes.push(Note::warning(self.key(SUFFIX), text));
                Ok(n as usize)
            }
            Some(n) => {
                Err(self.bad(SUFFIX, n, format!("there are {blocks} blocks, and some must be layers")))
            }
        }
    }

    /// The sections of rotated pairs for the positions of images: in text they all have the same one.
    fn sections(&self, rope_dim: usize) -> Result<(), GgufError> {
        const SUFFIX: &str = "rope.dimension_sections";
        let Some(entry) = self.gguf.entry(&self.key(SUFFIX)) else { return Ok(()) };
        let sections = match &entry.value {
            Value::Array(list) => list.integers().map(Iterator::collect::<Vec<_>>),
            _ => None,
        };
        let Some(sections) = sections else {
            return Err(GgufError::WrongKeyType {
                offset: entry.offset,
                key: self.key(SUFFIX),
                found: entry.value.type_name(),
                expected: "an array of integers",
            });
        };
        let pairs = rope_dim as i128 / 2;
        let fits =
            sections.iter().all(|&n| (0..=pairs).contains(&n)) && sections.iter().sum::<i128>() == pairs;
        match fits {
            true => Ok(()),
            false => {
                let shown = format!("an array of {} values", sections.len());
                Err(self.bad(
                    SUFFIX,
                    shown,
                    format!("its values must add up to the {pairs} rotated pairs of a head"),
                ))
            }
        }
    }

    /// The recurrent layers of `layers` layers in a file of `blocks` blocks.
    fn delta(&mut self, hybrid: Hybrid, blocks: usize, layers: usize) -> Result<DeltaNet, GgufError> {
        let taps = self.required("ssm.conv_kernel", limits::MAX_WIDTH)?;
        if taps != 4 {
            return Err(self.bad("ssm.conv_kernel", taps, "convolutions of 4 tokens are supported"));
        }
        let head_dim = self.required("ssm.state_size", limits::MAX_HEADS)?;
        if !head_dim.is_multiple_of(16) {
            return Err(self.bad("ssm.state_size", head_dim, "it must be a multiple of 16"));
        }
        let key_heads = self.required("ssm.group_count", limits::MAX_HEADS)?;
        let value_heads = self.required("ssm.time_step_rank", limits::MAX_HEADS)?;
        if !value_heads.is_multiple_of(key_heads) {
            let why = format!("the {value_heads} value heads cannot share {key_heads} key heads evenly");
            return Err(self.bad("ssm.time_step_rank", value_heads, why));
        }
        let inner = self.required("ssm.inner_size", limits::MAX_WIDTH)?;
        if inner != value_heads * head_dim {
            let why = format!("{value_heads} heads of {head_dim} elements have {}", value_heads * head_dim);
            return Err(self.bad("ssm.inner_size", inner, why));
        }
        let kinds = self.kinds(hybrid, blocks, layers)?;
        let delta = DeltaNet { key_heads, value_heads, head_dim, taps, kinds };
        if delta.channels() as u64 > limits::MAX_WIDTH {
            let why = format!("the convolution would have more than {} channels", limits::MAX_WIDTH);
            return Err(self.bad("ssm.group_count", key_heads, why));
        }
        Ok(delta)
    }

    /// Of which kind each layer is: as listed, else by the interval.
    fn kinds(&mut self, hybrid: Hybrid, blocks: usize, layers: usize) -> Result<Vec<LayerKind>, GgufError> {
        const LIST: &str = "attention.recurrent_layers";
        const INTERVAL: &str = "full_attention_interval";
        let kind = |recurrent| if recurrent { LayerKind::Recurrent } else { LayerKind::Attention };
        let interval = match self.count(INTERVAL, limits::MAX_LAYERS)? {
            Some(interval) => interval,
            None if self.gguf.entry(&self.key(LIST)).is_some() => hybrid.attention_interval,
            None => self.default(INTERVAL, hybrid.attention_interval, "every fourth layer has attention"),
        };
        let kinds: Vec<LayerKind> = match self.gguf.entry(&self.key(LIST)) {
            None => (1..=layers).map(|n| kind(!n.is_multiple_of(interval))).collect(),
            Some(entry) => {
                let flags: Option<Vec<bool>> = match &entry.value {
                    Value::Array(list) if list.len() == blocks => list.values().map(|v| flag(&v)).collect(),
                    _ => None,
                };
                let flags = flags.ok_or_else(|| {
                    let why = format!("it must say for each of the {blocks} blocks whether it is recurrent");
                    self.bad(LIST, entry.value.type_name(), why)
                })?;
                flags.into_iter().take(layers).map(kind).collect()
            }
        };
        match kinds.contains(&LayerKind::Attention) {
            true => Ok(kinds),
            false => Err(self.bad(INTERVAL, interval, "no layer has attention, which is not supported")),
        }
    }

    /// An integer from 1 to `max`. Some writers have a list here, with a number for each layer; these have to
    /// be the same.
    fn count(&self, suffix: &str, max: u64) -> Result<Option<usize>, GgufError> {
        let key = self.key(suffix);
        let n = match self.gguf.entry(&key).map(|entry| entry.value) {
            Some(Value::Array(list)) if list.integers().is_some() => {
                Some(self.same_in_all_layers(suffix, &list)?)
            }
            _ => self.gguf.integer(&key)?,
        };
        let Some(n) = n else { return Ok(None) };
        match usize::try_from(n) {
            Ok(count) if (1..=i128::from(max)).contains(&n) => Ok(Some(count)),
            _ => Err(self.bad(suffix, n, format!("it must be from 1 to {max}"))),
        }
    }

    fn same_in_all_layers(&self, suffix: &str, list: &Array<'_>) -> Result<i128, GgufError> {
        let shown = || format!("a list of {} numbers", list.len());
        let mut all = list.integers().into_iter().flatten();
        match all.next() {
            Some(first) if all.all(|n| n == first) => Ok(first),
            Some(_) => Err(self.bad(suffix, shown(), "layers that differ in it are not supported")),
            None => Err(self.bad(suffix, shown(), "it must hold a number")),
        }
    }

    fn required(&self, suffix: &str, max: u64) -> Result<usize, GgufError> {
        self.count(suffix, max)?.ok_or_else(|| self.missing(suffix))
    }

    /// A finite float above zero.
    fn positive(&self, suffix: &str) -> Result<Option<f32>, GgufError> {
        let Some(x) = self.gguf.float(&self.key(suffix))? else { return Ok(None) };
        if x.is_finite() && x > 0.0 {
            Ok(Some(x))
        } else {
            Err(self.bad(suffix, x, "it must be finite and above zero"))
        }
    }

    /// The context length: absent → default, above the limit → the limit; both on record.
    fn context(&mut self, default: u64) -> Result<usize, GgufError> {
        const SUFFIX: &str = "context_length";
        let Some(n) = self.gguf.integer(&self.key(SUFFIX))? else {
            return Ok(self.default(
                SUFFIX,
                default as usize,
                "the context that the family was trained with",
            ));
        };
        if n < 1 {
            return Err(self.bad(SUFFIX, n, "it must be at least 1"));
        }
        if n > i128::from(limits::MAX_CONTEXT) {
            let text = format!("is {n}; it is taken as {}", limits::MAX_CONTEXT);
            self.notes.push(Note::warning(self.key(SUFFIX), text));
        }
        let capped = n.min(i128::from(limits::MAX_CONTEXT));
        usize::try_from(capped).map_err(|_| self.bad(SUFFIX, n, "it is too large"))
    }

    /// Elements of a head: `key_length` and `value_length` where given (they must agree), else `hidden / heads`.
    fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, GgufError> {
        const KEY: &str = "attention.key_length";
        const VALUE: &str = "attention.value_length";
        let derived = hidden.is_multiple_of(heads).then_some(hidden / heads);
        let key = self.count(KEY, limits::MAX_WIDTH)?;
        let value = self.count(VALUE, limits::MAX_WIDTH)?;
        match (key.or(derived), value.or(key).or(derived)) {
            (Some(key), Some(value)) if key == value => Ok(key),
            (Some(key), Some(value)) => {
                Err(self.bad(VALUE, value, format!("keys have {key} elements a head, and both must agree")))
            }
            _ => {
                let why = format!("it does not divide the embedding length {hidden}, and {KEY} is absent");
                Err(self.bad("attention.head_count", heads, why))
            }
        }
    }
}
