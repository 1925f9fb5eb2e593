//! Lowering: from a checked model to an IR module in stage `imported`.
//!
//! Three entry points come from the same builder of a layer: `@decode` (one token, to logits), `@prefill` (a chunk of
//! tokens, to the residual stream) and `@head` (residual stream to logits). Ops stand as the model defines them, one by
//! one; that one quantised or rotated activation feeds several projections is expressed by sharing the value. What a layer keeps
//! of a sequence are inputs and outputs: the KV caches of attention, or the two states of a recurrent layer. Fusing and choosing
//! layouts is left to the passes. Of which form the activation of a ternary product is says [`LowerOptions::activations`]:
//! the result of `quant_absmax` or of `quant_blocks`, or the activation itself.

use std::collections::BTreeMap;

use bitnetc_ir::rope::Theta;
use bitnetc_ir::storage::MAX_TOKENS;
use bitnetc_ir::{
    BuildError, CacheDims, CacheType, DType, Dim, Direction, EntryPoint, Func, FuncBuilder, HEAD_ROWS,
    Module, Operand, ParamId, QuantBlock, Rows, Sizes, StateDims, TokenCount, Type, ValueId,
};
use thiserror::Error;

use crate::activations::ActivationFormat;
use crate::arch::{Activation, LayerKind, LayerRole};
use crate::error::printable;
use crate::hadamard::Rotation;
use crate::hparams::{DeltaNet, HyperParams};
use crate::model::Model;
use crate::source::{self, layer_param};

/// What can be chosen when a model is lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowerOptions {
    /// Element type of the KV cache.
    pub cache: CacheType,
    /// Most tokens of one `@prefill` call, 1 to [`MAX_TOKENS`]. `@head` takes as many, but no more than [`HEAD_ROWS`].
    pub chunk: u32,
    /// The activations of ternary products; if there is nothing, those of the family.
    pub activations: Option<ActivationFormat>,
}

impl Default for LowerOptions {
    fn default() -> Self {
        Self { cache: CacheType::F16, chunk: 256, activations: None }
    }
}

/// Why a model could not be lowered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LowerError {
    /// The chunk is out of range.
    #[error("a prefill chunk of {chunk} tokens cannot be compiled; choose 1 to {MAX_TOKENS}")]
    Chunk {
        /// As given.
        chunk: u32,
    },
    /// A tensor cannot be a parameter. A checked model has none of these, so this is a bug.
    #[error("tensor \"{tensor}\" cannot be a parameter; this is a bug in bitnetc, please report it")]
    Param {
        /// Its name in the file.
        tensor: String,
    },
    /// The IR refused an op. A checked model gives only legal ops, so this is a bug.
    #[error("@{func}: {source}; this is a bug in bitnetc, please report it")]
    Build {
        /// The entry point.
        func: EntryPoint,
        /// What the IR says.
        source: BuildError,
    },
}

impl Model<'_> {
    /// Lowers the model. Reads all weights once, for their content hashes; does not check them.
    ///
    /// A separate head that holds the same bytes as the embedding is treated as tied to it.
    ///
    /// # Errors
    /// A chunk out of range; anything else would be a bug.
    pub fn lower(&self, options: &LowerOptions) -> Result<Module, LowerError> {
        if !(1..=MAX_TOKENS).contains(&options.chunk) {
            return Err(LowerError::Chunk { chunk: options.chunk });
        }
        let mut module = Module::new();
        let params = declare_params(self, &mut module)?;
        let chunk = TokenCount::UpTo(options.chunk);
        use EntryPoint::{Decode, Head, Prefill};
        let lowering = |module, entry: EntryPoint, tokens| Lowering {
            module,
            params: &params,
            hparams: self.hparams(),
            rotation: self.rotation(),
            activations: options.activations.unwrap_or(self.hparams().family.quantisation),
            kv: options.cache.dtype(),
            tokens,
            builder: FuncBuilder::new(module, entry.name(), tokens),
        };
        let named = |func| move |source| LowerError::Build { func, source };
        let decode = lowering(&module, Decode, TokenCount::One).decode().map_err(named(Decode))?;
        let prefill = lowering(&module, Prefill, chunk).prefill().map_err(named(Prefill))?;
        let rows = TokenCount::UpTo(options.chunk.min(HEAD_ROWS));
        let head = lowering(&module, Head, rows).head_only().map_err(named(Head))?;
        for func in [decode, prefill, head] {
            module.add_func(func);
        }
        Ok(module)
    }
}

/// The parameters of a model by place.
struct Params {
    token_embd: ParamId,
    output_norm: ParamId,
    output: Matrix,
    layers: Vec<LayerParams>,
    /// Signs of the rotation, by width.
    signs: BTreeMap<usize, ParamId>,
}

/// A matrix to multiply with.
#[derive(Clone, Copy)]
struct Matrix {
    param: ParamId,
    /// Whether it is stored rotated, so that its input has to be rotated too.
    rotated: bool,
}

/// The parameters of a layer; those of optional parts are there if the family has them.
struct LayerParams {
    attn_norm: ParamId,
    mixer: Mixer,
    ffn_norm: ParamId,
    gate: Matrix,
    up: Matrix,
    ffn_sub_norm: Option<ParamId>,
    down: Matrix,
}

/// What mixes tokens in a layer.
enum Mixer {
    Attention(AttentionParams),
    Delta(DeltaParams),
}

/// The parameters of attention.
struct AttentionParams {
    /// Queries; in gated attention each head's queries and then its gate.
    q: Matrix,
    k: Matrix,
    v: Matrix,
    q_bias: Option<ParamId>,
    k_bias: Option<ParamId>,
    v_bias: Option<ParamId>,
    q_norm: Option<ParamId>,
    k_norm: Option<ParamId>,
    sub_norm: Option<ParamId>,
    o: Matrix,
}

/// The parameters of a Gated DeltaNet.
struct DeltaParams {
    qkv: Matrix,
    z: Matrix,
    alpha: Matrix,
    beta: Matrix,
    conv: ParamId,
    rate: ParamId,
    bias: ParamId,
    norm: ParamId,
    out: Matrix,
}

/// Declares the model's parameters in `module`.
fn declare_params(model: &Model<'_>, module: &mut Module) -> Result<Params, LowerError> {
    let mut ids = std::collections::HashMap::new();
    let mut rotated = std::collections::HashSet::new();
    let covers = |tensor: &str| model.rotation().is_some_and(|rotation| rotation.covers(tensor));
    for (name, tensor) in source::params(model) {
        let refused = || LowerError::Param { tensor: printable(tensor.name()) };
        let decl = source::declare(model, name.clone(), tensor).ok_or_else(refused)?;
        let same_as_embedding = name == source::OUTPUT && {
            let embedding = module.params().values().find(|p| p.name == source::TOKEN_EMBD);
            embedding.is_some_and(|e| e.ty == decl.ty && same_content(e, &decl))
        };
        if covers(tensor.name()) {
            rotated.insert(name.clone());
        }
        if !same_as_embedding {
            ids.insert(name, module.add_param(decl));
        }
    }
    let get =
        |name: &str| ids.get(name).copied().ok_or_else(|| LowerError::Param { tensor: printable(name) });
    let matrix = |name: &str| Ok(Matrix { param: get(name)?, rotated: rotated.contains(name) });
    let token_embd = get(source::TOKEN_EMBD)?;
    let layer = |layer: usize| {
        let name = |role| layer_param(layer, role);
        let optional = |role| ids.get(&name(role)).copied();
        let get = |role| get(&name(role));
        let matrix = |role| matrix(&name(role));
        let mixer = match model.hparams().kind(layer) {
            LayerKind::Attention => Mixer::Attention(AttentionParams {
                q: matrix(LayerRole::AttnQ)?,
                k: matrix(LayerRole::AttnK)?,
                v: matrix(LayerRole::AttnV)?,
                q_bias: optional(LayerRole::AttnQBias),
                k_bias: optional(LayerRole::AttnKBias),
                v_bias: optional(LayerRole::AttnVBias),
                q_norm: optional(LayerRole::AttnQNorm),
                k_norm: optional(LayerRole::AttnKNorm),
                sub_norm: optional(LayerRole::AttnSubNorm),
                o: matrix(LayerRole::AttnOutput)?,
            }),
            LayerKind::Recurrent => Mixer::Delta(DeltaParams {
                qkv: matrix(LayerRole::DeltaQkv)?,
                z: matrix(LayerRole::DeltaGate)?,
                alpha: matrix(LayerRole::DeltaAlpha)?,
                beta: matrix(LayerRole::DeltaBeta)?,
                conv: get(LayerRole::DeltaConv)?,
                rate: get(LayerRole::DeltaRate)?,
                bias: get(LayerRole::DeltaBias)?,
                norm: get(LayerRole::DeltaNorm)?,
                out: matrix(LayerRole::DeltaOutput)?,
            }),
        };
        Ok(LayerParams {
            attn_norm: get(LayerRole::AttnNorm)?,
            mixer,
            ffn_norm: get(LayerRole::FfnNorm)?,
            gate: matrix(LayerRole::FfnGate)?,
            up: matrix(LayerRole::FfnUp)?,
            ffn_sub_norm: optional(LayerRole::FfnSubNorm),
            down: matrix(LayerRole::FfnDown)?,
        })
    };
    let tied = Matrix { param: token_embd, rotated: rotated.contains(source::TOKEN_EMBD) };
    let output = match ids.get(source::OUTPUT) {
        Some(_) => matrix(source::OUTPUT)?,
        // A head of the embedding's bytes that the file has on its own may be rotated, or not, by its own name.
        None => Matrix { rotated: tied.rotated || rotated.contains(source::OUTPUT), ..tied },
    };
    let layers = (0..model.hparams().layers).map(layer).collect::<Result<_, LowerError>>()?;
    let output_norm = get(source::OUTPUT_NORM)?;
    let signs = declare_signs(model, module)?;
    Ok(Params { token_embd, output_norm, output, layers, signs })
}

/// Declares the signs of the rotation for the widths that rotated rows have.
fn declare_signs(model: &Model<'_>, module: &mut Module) -> Result<BTreeMap<usize, ParamId>, LowerError> {
    let Some(rotation) = model.rotation() else { return Ok(BTreeMap::new()) };
    let declare = |width: usize| {
        let decl = source::declare_signs(rotation, width);
        let decl = decl.ok_or_else(|| LowerError::Param { tensor: source::signs_param(width) })?;
        Ok((width, module.add_param(decl)))
    };
    rotation.sign_widths().map(declare).collect()
}

fn same_content(a: &bitnetc_ir::ParamDecl, b: &bitnetc_ir::ParamDecl) -> bool {
    use bitnetc_ir::ParamDef::File;
    matches!((&a.def, &b.def), (File { hash: a, .. }, File { hash: b, .. }) if a == b)
}

/// A function in the making.
struct Lowering<'m> {
    module: &'m Module,
    params: &'m Params,
    hparams: &'m HyperParams,
    rotation: Option<&'m Rotation>,
    activations: ActivationFormat,
    kv: DType,
    tokens: TokenCount,
    builder: FuncBuilder<'m>,
}

/// What a layer keeps of a sequence: keys and values, or the states of the convolution and of the delta rule.
type Kept = (ValueId, ValueId);

/// What matrices are multiplied with: an activation, the form of it that ternary matrices multiply once one has asked for it, and
/// the same of the rotated activation once a rotated matrix has.
struct Input {
    x: ValueId,
    multiplicand: Option<ValueId>,
    rotated: Option<Box<Input>>,
}

impl Input {
    fn of(x: ValueId) -> Self {
        Self { x, multiplicand: None, rotated: None }
    }
}

/// Sizes are bounded by [`crate::limits`], far below 2^32.
fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Lowering<'_> {
    /// `(tok, pos, caches) -> (logits, caches)` for one token.
    fn decode(mut self) -> Result<Func, BuildError> {
        let (stream, kept) = self.stack()?;
        let logits = self.head(stream)?;
        Ok(self.finish(logits, kept))
    }

    /// `(tok, pos, caches) -> (residual stream, caches)` for a chunk.
    fn prefill(mut self) -> Result<Func, BuildError> {
        let (stream, kept) = self.stack()?;
        Ok(self.finish(stream, kept))
    }

    /// `(residual stream) -> logits` for a chunk.
    fn head_only(mut self) -> Result<Func, BuildError> {
        let rows = Rows { per_token: true, width: size(self.hparams.hidden) };
        let stream = self.builder.input("x", Type::rows(DType::F32, rows));
        let logits = self.head(stream)?;
        Ok(self.finish(logits, Vec::new()))
    }

    fn finish(self, result: ValueId, kept: Vec<Kept>) -> Func {
        let kept = kept.into_iter().flat_map(|(first, second)| [first, second]);
        self.builder.finish(std::iter::once(result).chain(kept).collect())
    }

    /// Inputs, embedding and all layers; gives the residual stream and what the layers keep.
    fn stack(&mut self) -> Result<(ValueId, Vec<Kept>), BuildError> {
        let tokens = match self.tokens {
            TokenCount::One => Dim::N(1),
            TokenCount::UpTo(_) => Dim::Tokens,
        };
        let tok = self.builder.input("tok", Type::new(DType::Idx, &[tokens]));
        let pos = self.builder.input("pos", Type::scalar(DType::Idx));
        let inputs: Vec<Kept> = (0..self.params.layers.len()).map(|layer| self.kept(layer)).collect();
        let mut stream = self.embedding(tok)?;
        let mut kept = Vec::with_capacity(inputs.len());
        for (layer, input) in self.params.layers.iter().zip(inputs) {
            let mut x = self.norm(stream, Some(layer.attn_norm))?;
            let (mixed, of_layer) = match &layer.mixer {
                Mixer::Attention(p) => self.attention(p, &mut x, input, pos)?,
                Mixer::Delta(p) => self.delta_net(p, &mut x, input, pos)?,
            };
            stream = self.builder.add(stream, mixed)?;
            stream = self.feed_forward(layer, stream)?;
            kept.push(of_layer);
        }
        Ok((stream, kept))
    }

    /// The inputs for what a layer keeps of a sequence.
    fn kept(&mut self, layer: usize) -> Kept {
        let (names, types) = match self.hparams.kind(layer) {
            LayerKind::Attention => {
                let (kv_heads, head_dim) = (size(self.hparams.kv_heads), size(self.hparams.head_dim));
                let cache = Type::cache(self.kv, CacheDims { kv_heads, head_dim });
                (["kc", "vc"], [cache.clone(), cache])
            }
            LayerKind::Recurrent => {
                let DeltaNet { value_heads, head_dim, taps, .. } = *self.hparams.delta();
                let (channels, d) = (size(self.hparams.delta().channels()), size(head_dim));
                let conv = StateDims { heads: 1, rows: size(taps - 1), cols: channels };
                let delta = StateDims { heads: size(value_heads), rows: d, cols: d };
                (["conv", "delta"], [Type::state(conv), Type::state(delta)])
            }
        };
        let [first, second] = types;
        let first = self.builder.input(format!("l{layer}.{}", names[0]), first);
        (first, self.builder.input(format!("l{layer}.{}", names[1]), second))
    }

    /// The rows of the tokens, rotated back if they are stored rotated.
    fn embedding(&mut self, tok: ValueId) -> Result<ValueId, BuildError> {
        let rows = self.builder.embed(tok, self.params.token_embd)?;
        match self.rotation {
            Some(rotation) if rotation.rotates_embedding() => self.rotate(rows, rotation, Direction::Inverse),
            _ => Ok(rows),
        }
    }

    /// The mixer of a layer with attention.
    fn attention(
        &mut self,
        p: &AttentionParams,
        x: &mut Input,
        (kc, vc): Kept,
        pos: ValueId,
    ) -> Result<(ValueId, Kept), BuildError> {
        let h = self.hparams;
        let q = self.linear(x, p.q)?;
        let k = self.linear(x, p.k)?;
        let v = self.linear(x, p.v)?;
        let (q, gate) = match h.family.hybrid {
            Some(_) => {
                let (queries, gate) = self.queries_and_gate(q)?;
                (queries, Some(gate))
            }
            None => (q, None),
        };
        let q = self.bias(q, p.q_bias)?;
        let k = self.bias(k, p.k_bias)?;
        let v = self.bias(v, p.v_bias)?;
        let q = self.head_norm(q, p.q_norm)?;
        let k = self.head_norm(k, p.k_norm)?;
        let q = self.rope(q, pos)?;
        let k = self.rope(k, pos)?;
        let [kc, vc] = self.builder.kv_append(kc, vc, k, v, pos)?;
        let scale = h.rope_magnitude * h.rope_magnitude / (h.head_dim as f32).sqrt();
        let mut heads = self.builder.attention(q, kc, vc, pos, size(h.heads), size(h.kv_heads), scale)?;
        if let Some(gate) = gate {
            let open = self.builder.sigmoid(gate)?;
            heads = self.builder.mul(heads, open)?;
        }
        let mut x = self.norm(heads, p.sub_norm)?;
        let o = self.linear(&mut x, p.o)?;
        Ok((o, (kc, vc)))
    }

    /// Of heads that are queries and then a gate each, all queries and all gates.
    fn queries_and_gate(&mut self, heads: ValueId) -> Result<(ValueId, ValueId), BuildError> {
        let h = self.hparams;
        let all = self.builder.transpose_heads(heads, size(h.head_dim), size(h.heads))?;
        let width = size(h.attention_width());
        let parts = self.builder.split(all, Sizes(vec![width, width]))?;
        Ok((parts[0], parts[1]))
    }

    /// The mixer of a recurrent layer.
    fn delta_net(
        &mut self,
        p: &DeltaParams,
        x: &mut Input,
        (conv, delta): Kept,
        pos: ValueId,
    ) -> Result<(ValueId, Kept), BuildError> {
        let (h, eps) = (self.hparams.delta(), self.hparams.eps);
        let d = size(h.head_dim);
        let qkv = self.linear(x, p.qkv)?;
        let z = self.linear(x, p.z)?;
        let alpha = self.linear(x, p.alpha)?;
        let beta = self.linear(x, p.beta)?;
        let [qkv, conv] = self.builder.causal_conv(qkv, p.conv, conv, pos)?;
        let qkv = self.builder.silu(qkv)?;
        let (keys, values) = (size(h.key_width()), size(h.value_width()));
        let parts = self.builder.split(qkv, Sizes(vec![keys, keys, values]))?;
        let q = self.builder.l2_norm_heads(parts[0], eps, d, 1.0 / (h.head_dim as f32).sqrt())?;
        let k = self.builder.l2_norm_heads(parts[1], eps, d, 1.0)?;
        let decay = self.builder.softplus_decay(alpha, p.bias, p.rate)?;
        let beta = self.builder.sigmoid(beta)?;
        let [read, delta] = self.builder.delta_rule(q, k, parts[2], decay, beta, delta, pos)?;
        let read = self.builder.rms_norm_heads(read, p.norm, eps, d)?;
        let gate = self.builder.silu(z)?;
        let mut y = self.builder.mul(read, gate)?;
        let repeats = h.value_heads / h.key_heads;
        let grouped = self.rotation.is_some_and(Rotation::groups_value_heads);
        if grouped && p.out.rotated && repeats > 1 {
            // Tiled: rows of one head for each key head. The matrix expects the heads of each key head together.
            y = self.builder.transpose_heads(y, d, size(repeats))?;
        }
        let out = self.linear(&mut Input::of(y), p.out)?;
        Ok((out, (conv, delta)))
    }

    /// The feed-forward half of a layer, with its residual sum.
    fn feed_forward(&mut self, p: &LayerParams, stream: ValueId) -> Result<ValueId, BuildError> {
        let mut x = self.norm(stream, Some(p.ffn_norm))?;
        let gate = self.linear(&mut x, p.gate)?;
        let up = self.linear(&mut x, p.up)?;
        let gate = match self.hparams.activation {
            Activation::Relu2 => self.builder.relu2(gate)?,
            Activation::Silu => self.builder.silu(gate)?,
        };
        let product = self.builder.mul(gate, up)?;
        let mut x = self.norm(product, p.ffn_sub_norm)?;
        let down = self.linear(&mut x, p.down)?;
        self.builder.add(stream, down)
    }

    /// The input of products: normalised, if there is a norm in this place.
    fn norm(&mut self, x: ValueId, weight: Option<ParamId>) -> Result<Input, BuildError> {
        let x = match weight {
            Some(weight) => self.builder.rms_norm(x, weight, self.hparams.eps)?,
            None => x,
        };
        Ok(Input::of(x))
    }

    /// Queries, keys or values with a bias, if there is one in this place.
    fn bias(&mut self, x: ValueId, bias: Option<ParamId>) -> Result<ValueId, BuildError> {
        match bias {
            Some(bias) => self.builder.add_bias(x, bias),
            None => Ok(x),
        }
    }

    /// The product with a matrix, of the rotated input if it is stored rotated.
    fn linear(&mut self, input: &mut Input, matrix: Matrix) -> Result<ValueId, BuildError> {
        let rotation = self.rotation.filter(|_| matrix.rotated);
        let Some(rotation) = rotation else { return self.product(input, matrix.param) };
        let rotated = match input.rotated.take() {
            Some(rotated) => rotated,
            None => Box::new(Input::of(self.rotate(input.x, rotation, Direction::Forward)?)),
        };
        self.product(input.rotated.insert(rotated), matrix.param)
    }

    /// Rows through the rotation, with the signs of their width.
    fn rotate(
        &mut self,
        x: ValueId,
        rotation: &Rotation,
        direction: Direction,
    ) -> Result<ValueId, BuildError> {
        let width = self.builder.ty(x).as_rows().map_or(0, |rows| rows.width as usize);
        let signs = self.params.signs.get(&width).map(|&signs| Operand::Param(signs));
        self.builder.hadamard(x, signs, rotation.block(), direction)
    }

    /// Queries or keys, normalised head by head if there is a norm in this place.
    fn head_norm(&mut self, x: ValueId, weight: Option<ParamId>) -> Result<ValueId, BuildError> {
        match weight {
            Some(weight) => {
                self.builder.rms_norm_heads(x, weight, self.hparams.eps, size(self.hparams.head_dim))
            }
            None => Ok(x),
        }
    }

    /// The product with a matrix: of the input in the format of activations with a ternary one, as it is with a dense one.
    fn product(&mut self, input: &mut Input, weight: ParamId) -> Result<ValueId, BuildError> {
        if self.module.params()[weight].ty.dtype != DType::Ter {
            return self.builder.matmul(input.x, weight);
        }
        let multiplicand = match input.multiplicand {
            Some(multiplicand) => multiplicand,
            None => *input.multiplicand.insert(match self.activations {
                ActivationFormat::Int8Token => self.builder.quant_absmax(input.x)?,
                ActivationFormat::Int8Blocks => self.builder.quant_blocks(input.x, QuantBlock::Cols128)?,
                ActivationFormat::F32 => input.x,
            }),
        };
        self.builder.ternary_matmul(multiplicand, weight)
    }

    fn rope(&mut self, x: ValueId, pos: ValueId) -> Result<ValueId, BuildError> {
        let h = self.hparams;
        let theta = Theta { base: h.rope_theta, scaling: h.rope_scaling };
        self.builder.rope(x, pos, theta, size(h.head_dim), size(h.rope_dim), h.family.rope)
    }

    /// Final norm and logits.
    fn head(&mut self, stream: ValueId) -> Result<ValueId, BuildError> {
        let mut x = self.norm(stream, Some(self.params.output_norm))?;
        self.linear(&mut x, self.params.output)
    }
}
