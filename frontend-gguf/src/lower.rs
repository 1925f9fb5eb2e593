//! Lowering: from a checked model to an IR module in stage `imported`.
//!
//! Three entry points come from the same builder of a layer: `@decode` (one token, to logits), `@prefill` (a chunk of
//! tokens, to the residual stream) and `@head` (residual stream to logits). Ops stand as the model defines them, one by
//! one; that one quantised activation feeds several projections is expressed by sharing the value. Fusing and choosing
//! layouts is left to the passes. Of which form the activation of a ternary product is says [`LowerOptions::activations`]:
//! the result of `quant_absmax` or of `quant_blocks`, or the activation itself.

use bitnetc_ir::rope::Theta;
use bitnetc_ir::storage::MAX_TOKENS;
use bitnetc_ir::{
    BuildError, CacheDims, CacheType, DType, Dim, EntryPoint, Func, FuncBuilder, HEAD_ROWS, Module, ParamId,
    QuantBlock, Rows, TokenCount, Type, ValueId,
};
use thiserror::Error;

use crate::activations::ActivationFormat;
use crate::arch::{Activation, LayerRole};
use crate::error::printable;
use crate::hparams::HyperParams;
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
    output: ParamId,
    layers: Vec<LayerParams>,
}

/// The parameters of a layer; those of optional parts are there if the family has them.
struct LayerParams {
    attn_norm: ParamId,
    q: ParamId,
    k: ParamId,
    v: ParamId,
    q_norm: Option<ParamId>,
    k_norm: Option<ParamId>,
    attn_sub_norm: Option<ParamId>,
    o: ParamId,
    ffn_norm: ParamId,
    gate: ParamId,
    up: ParamId,
    ffn_sub_norm: Option<ParamId>,
    down: ParamId,
}

/// Declares the model's parameters in `module`.
fn declare_params(model: &Model<'_>, module: &mut Module) -> Result<Params, LowerError> {
    let mut ids = std::collections::HashMap::new();
    for (name, tensor) in source::params(model) {
        let refused = || LowerError::Param { tensor: printable(tensor.name()) };
        let decl = source::declare(model, name.clone(), tensor).ok_or_else(refused)?;
        let same_as_embedding = name == source::OUTPUT && {
            let embedding = module.params().values().find(|p| p.name == source::TOKEN_EMBD);
            embedding.is_some_and(|e| e.ty == decl.ty && same_content(e, &decl))
        };
        if !same_as_embedding {
            ids.insert(name, module.add_param(decl));
        }
    }
    let get =
        |name: &str| ids.get(name).copied().ok_or_else(|| LowerError::Param { tensor: printable(name) });
    let token_embd = get(source::TOKEN_EMBD)?;
    let layer = |layer: usize| {
        let optional = |role| ids.get(&layer_param(layer, role)).copied();
        let get = |role| get(&layer_param(layer, role));
        Ok(LayerParams {
            attn_norm: get(LayerRole::AttnNorm)?,
            q: get(LayerRole::AttnQ)?,
            k: get(LayerRole::AttnK)?,
            v: get(LayerRole::AttnV)?,
            q_norm: optional(LayerRole::AttnQNorm),
            k_norm: optional(LayerRole::AttnKNorm),
            attn_sub_norm: optional(LayerRole::AttnSubNorm),
            o: get(LayerRole::AttnOutput)?,
            ffn_norm: get(LayerRole::FfnNorm)?,
            gate: get(LayerRole::FfnGate)?,
            up: get(LayerRole::FfnUp)?,
            ffn_sub_norm: optional(LayerRole::FfnSubNorm),
            down: get(LayerRole::FfnDown)?,
        })
    };
    Ok(Params {
        token_embd,
        output_norm: get(source::OUTPUT_NORM)?,
        output: get(source::OUTPUT).unwrap_or(token_embd),
        layers: (0..model.hparams().layers).map(layer).collect::<Result<_, LowerError>>()?,
    })
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
    activations: ActivationFormat,
    kv: DType,
    tokens: TokenCount,
    builder: FuncBuilder<'m>,
}

/// Caches of a layer: keys and values.
type Caches = (ValueId, ValueId);

/// What matrices are multiplied with: an activation, and the form of it that ternary matrices multiply once one has asked
/// for it.
struct Input {
    x: ValueId,
    multiplicand: Option<ValueId>,
}

/// Sizes are bounded by [`crate::limits`], far below 2^32.
fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Lowering<'_> {
    /// `(tok, pos, caches) -> (logits, caches)` for one token.
    fn decode(mut self) -> Result<Func, BuildError> {
        let (stream, caches) = self.stack()?;
        let logits = self.head(stream)?;
        Ok(self.finish(logits, caches))
    }

    /// `(tok, pos, caches) -> (residual stream, caches)` for a chunk.
    fn prefill(mut self) -> Result<Func, BuildError> {
        let (stream, caches) = self.stack()?;
        Ok(self.finish(stream, caches))
    }

    /// `(residual stream) -> logits` for a chunk.
    fn head_only(mut self) -> Result<Func, BuildError> {
        let rows = Rows { per_token: true, width: size(self.hparams.hidden) };
        let stream = self.builder.input("x", Type::rows(DType::F32, rows));
        let logits = self.head(stream)?;
        Ok(self.finish(logits, Vec::new()))
    }

    fn finish(self, result: ValueId, caches: Vec<Caches>) -> Func {
        let caches = caches.into_iter().flat_map(|(kc, vc)| [kc, vc]);
        self.builder.finish(std::iter::once(result).chain(caches).collect())
    }

    /// Inputs, embedding and all layers; gives the residual stream and the new caches.
    fn stack(&mut self) -> Result<(ValueId, Vec<Caches>), BuildError> {
        let tokens = match self.tokens {
            TokenCount::One => Dim::N(1),
            TokenCount::UpTo(_) => Dim::Tokens,
        };
        let tok = self.builder.input("tok", Type::new(DType::Idx, &[tokens]));
        let pos = self.builder.input("pos", Type::scalar(DType::Idx));
        let dims = CacheDims { kv_heads: size(self.hparams.kv_heads), head_dim: size(self.hparams.head_dim) };
        let cache = Type::cache(self.kv, dims);
        let inputs: Vec<Caches> = (0..self.params.layers.len())
            .map(|l| {
                let kc = self.builder.input(format!("l{l}.kc"), cache.clone());
                (kc, self.builder.input(format!("l{l}.vc"), cache.clone()))
            })
            .collect();
        let mut stream = self.builder.embed(tok, self.params.token_embd)?;
        let mut caches = Vec::with_capacity(inputs.len());
        for (layer, input) in self.params.layers.iter().zip(inputs) {
            let (next, cache) = self.attention(layer, stream, input, pos)?;
            stream = self.feed_forward(layer, next)?;
            caches.push(cache);
        }
        Ok((stream, caches))
    }

    /// The attention half of a layer, with its residual sum.
    fn attention(
        &mut self,
        p: &LayerParams,
        stream: ValueId,
        (kc, vc): Caches,
        pos: ValueId,
    ) -> Result<(ValueId, Caches), BuildError> {
        let h = self.hparams;
        let mut x = self.norm(stream, Some(p.attn_norm))?;
        let q = self.product(&mut x, p.q)?;
        let k = self.product(&mut x, p.k)?;
        let v = self.product(&mut x, p.v)?;
        let q = self.head_norm(q, p.q_norm)?;
        let k = self.head_norm(k, p.k_norm)?;
        let q = self.rope(q, pos)?;
        let k = self.rope(k, pos)?;
        let [kc, vc] = self.builder.kv_append(kc, vc, k, v, pos)?;
        let scale = h.rope_magnitude * h.rope_magnitude / (h.head_dim as f32).sqrt();
        let heads = self.builder.attention(q, kc, vc, pos, size(h.heads), size(h.kv_heads), scale)?;
        let mut x = self.norm(heads, p.attn_sub_norm)?;
        let o = self.product(&mut x, p.o)?;
        Ok((self.builder.add(stream, o)?, (kc, vc)))
    }

    /// The feed-forward half of a layer, with its residual sum.
    fn feed_forward(&mut self, p: &LayerParams, stream: ValueId) -> Result<ValueId, BuildError> {
        let mut x = self.norm(stream, Some(p.ffn_norm))?;
        let gate = self.product(&mut x, p.gate)?;
        let up = self.product(&mut x, p.up)?;
        let gate = match self.hparams.activation {
            Activation::Relu2 => self.builder.relu2(gate)?,
            Activation::Silu => self.builder.silu(gate)?,
        };
        let product = self.builder.mul(gate, up)?;
        let mut x = self.norm(product, p.ffn_sub_norm)?;
        let down = self.product(&mut x, p.down)?;
        self.builder.add(stream, down)
    }

    /// The input of products: normalised, if there is a norm in this place.
    fn norm(&mut self, x: ValueId, weight: Option<ParamId>) -> Result<Input, BuildError> {
        let x = match weight {
            Some(weight) => self.builder.rms_norm(x, weight, self.hparams.eps)?,
            None => x,
        };
        Ok(Input { x, multiplicand: None })
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
        self.product(&mut x, self.params.output)
    }
}
