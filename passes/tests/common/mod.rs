//! What the tests of passes share: weights and inputs for any module, comparison by bits, and random decoder
//! layers with deviations that passes must notice.
#![allow(dead_code, reason = "each test uses a part")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use bitnetc_ir::generate::MIN_VOCAB;
use bitnetc_ir::interp::{Cache, CacheData, Interpreter, State, Tensor, scalar};
use bitnetc_ir::random::SplitMix;
use bitnetc_ir::weights::ternary_bytes;
use bitnetc_ir::{
    Arch, CacheDims, ContentHash, DType, Dim, Epilogue, Func, FuncBuilder, FuncId, Layout, Module, Op,
    Operand, Pairs, ParamDecl, ParamDef, Rows, Sizes, Stage, TargetDesc, TokenCount, Type, ValueId,
    WeightBytes, text,
};
use bitnetc_passes::{ALL_PASSES, PassContext, PassError, Pipeline, RunReport, run};

pub(crate) type Weights = BTreeMap<String, WeightBytes<'static>>;

/// Positions in caches.
const CAPACITY: u32 = 64;

pub(crate) fn target() -> TargetDesc {
    TargetDesc::baseline(Arch::X86_64)
}

pub(crate) fn pipeline(text: &str) -> Pipeline {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn run_text(passes: &str, module: &Module) -> Result<(Module, RunReport), PassError> {
    run(&pipeline(passes), module.clone(), &PassContext::new(target()))
}

/// Bytes for every parameter from a file.
pub(crate) fn weights_for(module: &Module) -> Weights {
    let mut rng = SplitMix::new(7);
    let mut all = BTreeMap::new();
    for decl in module.params().values() {
        if !matches!(decl.def, ParamDef::File { .. }) {
            continue;
        }
        let n = decl.ty.elements().unwrap();
        let mut scales = Vec::new();
        let bytes: Vec<u8> = match (decl.ty.dtype, decl.ty.as_matrix()) {
            (DType::Ter, Some((rows, cols))) => {
                let size = ternary_bytes(decl.ty.layout, rows, cols).unwrap();
                let scale_count = if decl.ty.layout == Layout::I2s128 { 1 } else { rows };
                scales = (0..scale_count).map(|_| 0.5 + rng.number().abs().min(1.0)).collect();
                (0..size).map(|_| (0..4).fold(0, |byte, f| byte | (rng.below(3) as u8) << (2 * f))).collect()
            }
            (DType::F16, _) => (0..n).flat_map(|_| scalar::f16_bits(rng.number()).to_le_bytes()).collect(),
            (DType::Bf16, _) => (0..n).flat_map(|_| [0, 0x3f - rng.below(4) as u8]).collect(),
            _ => (0..n).flat_map(|_| rng.number().to_le_bytes()).collect(),
        };
        all.insert(decl.name.clone(), WeightBytes { bytes: Cow::Owned(bytes), scales: Cow::Owned(scales) });
    }
    all
}

/// Arguments for a call of `func` with `tokens` tokens.
pub(crate) fn inputs_for(func: &Func, tokens: u32, seed: u64) -> Vec<Tensor> {
    let mut rng = SplitMix::new(seed);
    let mut tensors = Vec::new();
    for &input in func.inputs() {
        let ty = func.ty(input);
        if let Some(dims) = ty.as_state() {
            let data = (0..dims.elements().unwrap()).map(|_| rng.number()).collect();
            tensors.push(Tensor::State(State { dims, data }));
            continue;
        }
        tensors.push(match (ty.dtype, ty.as_rows(), ty.as_cache()) {
            (DType::Idx, _, _) => match ty.shape.0[..] {
                [] => Tensor::Position(5),
                [Dim::Tokens] => {
                    Tensor::Tokens((0..tokens).map(|_| rng.below(MIN_VOCAB as usize) as u32).collect())
                }
                _ => Tensor::Tokens(vec![rng.below(MIN_VOCAB as usize) as u32]),
            },
            (dtype, _, Some(CacheDims { kv_heads, head_dim })) => {
                let n = kv_heads * CAPACITY * head_dim;
                let data = match dtype {
                    DType::F16 => CacheData::F16((0..n).map(|_| scalar::f16_bits(rng.number())).collect()),
                    _ => CacheData::F32((0..n).map(|_| rng.number()).collect()),
                };
                let dims = CacheDims { kv_heads, head_dim };
                Tensor::Cache(Cache { dims, capacity: CAPACITY, data })
            }
            (dtype, Some(Rows { per_token, width }), None) => {
                let (rows, width) = (if per_token { tokens as usize } else { 1 }, width as usize);
                match dtype {
                    DType::Q8 => {
                        let codes: Vec<i8> = (0..rows * width).map(|_| rng.below(256) as u8 as i8).collect();
                        let sums =
                            codes.chunks(width).map(|row| row.iter().map(|&c| i32::from(c)).sum()).collect();
                        let a = (0..rows).map(|_| 1.0 + rng.number().abs()).collect();
                        Tensor::Q8 { rows, width, codes, a, sums }
                    }
                    _ => Tensor::f32(width, (0..rows * width).map(|_| rng.number()).collect()),
                }
            }
            other => panic!("no input of type {other:?}"),
        });
    }
    tensors
}

/// What the functions of a module compute for some inputs.
pub(crate) struct Expected {
    weights: Weights,
    module: Module,
    calls: Vec<(FuncId, Vec<Tensor>, Vec<Tensor>)>,
}

impl Expected {
    pub(crate) fn of(module: &Module, weights: Weights) -> Self {
        let mut calls = Vec::new();
        let interpreter = Interpreter::new(module, &weights);
        for (id, func) in module.funcs().iter() {
            let most = func.tokens().max();
            for tokens in if most == 1 { vec![1] } else { vec![1, most] } {
                let inputs = inputs_for(func, tokens, 11 + u64::from(tokens));
                let outputs = interpreter.run(id, inputs.clone()).unwrap_or_else(|e| panic!("{e}"));
                calls.push((id, inputs, outputs));
            }
        }
        drop(interpreter);
        Self { weights, module: module.clone(), calls }
    }

    /// Asserts that `after` computes the same bits.
    pub(crate) fn assert_same_bits(&self, after: &Module, what: &str) {
        let interpreter = Interpreter::new(after, &self.weights);
        for (id, inputs, expected) in &self.calls {
            let got = interpreter
                .run(*id, inputs.clone())
                .unwrap_or_else(|e| panic!("{what}: {e}\n{}", text::print(after)));
            assert_eq!(expected.len(), got.len(), "{what}");
            for (i, (x, y)) in expected.iter().zip(&got).enumerate() {
                if let Some(difference) = x.first_difference(y) {
                    let (before, after) = (text::print(&self.module), text::print(after));
                    panic!("{what}: {id:?} output {i}: {difference}\n{before}\n{after}");
                }
            }
        }
    }
}

impl Expected {
    /// Asserts that `after` computes f32 outputs whose root mean squared difference is below `share` of their root mean
    /// square.
    pub(crate) fn assert_close(&self, after: &Module, what: &str, share: f64) {
        let interpreter = Interpreter::new(after, &self.weights);
        for (id, inputs, expected) in &self.calls {
            let got = interpreter.run(*id, inputs.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
            for (x, y) in expected.iter().zip(&got) {
                let (x, y) = (x.as_f32().unwrap(), y.as_f32().unwrap());
                assert_eq!(x.len(), y.len(), "{what}");
                let squares = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>();
                let (wrong, all) =
                    (squares(&mut x.iter().zip(y).map(|(x, y)| x - y)), squares(&mut x.iter().copied()));
                assert!(wrong > 0.0 && wrong.sqrt() < share * all.sqrt(), "{what}: {wrong} of {all}");
            }
        }
    }
}

/// The optional passes that may run in `stage`, before layouts are chosen.
pub(crate) fn rewrites(stage: Stage) -> Vec<&'static str> {
    let runs = |p: &&bitnetc_passes::PassInfo| !p.required && p.stages.0 <= stage && stage <= p.stages.1;
    ALL_PASSES.iter().filter(runs).map(|p| p.name()).collect()
}

/// How often, in percent, a random decoder strays from the layer that front-ends make.
#[derive(Clone, Copy)]
pub(crate) struct Straying(pub(crate) usize);

const HIDDEN: u32 = 128;
const FFN: u32 = 256;
const HEAD: u32 = 32;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;

/// A decoder of `layers` layers with functions `@decode` and `@prefill` over the same weights.
pub(crate) fn random_decoder(seed: u64, layers: u32, straying: Straying) -> Module {
    let mut module = Module::new();
    let mut add = |name: String, ty: Type| {
        let def = ParamDef::File { tensor: name.clone(), hash: ContentHash([seed as u8; 16]) };
        module.add_param(ParamDecl { name, ty, def });
    };
    let ter = |rows, cols| Type::matrix(DType::Ter, rows, cols).with_layout(Layout::I2s128);
    add("token_embd".to_owned(), Type::matrix(DType::F16, 16, HIDDEN));
    add("output_norm".to_owned(), Type::vector(DType::F32, HIDDEN));
    for l in 0..layers {
        for (name, n) in
            [("attn_norm", HIDDEN), ("attn_sub_norm", HIDDEN), ("ffn_norm", HIDDEN), ("ffn_sub_norm", FFN)]
        {
            add(format!("l{l}.{name}"), Type::vector(DType::F32, n));
        }
        let kv = KV_HEADS * HEAD;
        for (name, rows, cols) in [
            ("q", HIDDEN, HIDDEN),
            ("k", kv, HIDDEN),
            ("v", kv, HIDDEN),
            ("o", HIDDEN, HIDDEN),
            ("gate", FFN, HIDDEN),
            ("up", FFN, HIDDEN),
            ("down", HIDDEN, FFN),
        ] {
            add(format!("l{l}.{name}"), ter(rows, cols));
        }
    }
    for (name, tokens) in [("decode", TokenCount::One), ("prefill", TokenCount::UpTo(6))] {
        let func = Decoder { rng: SplitMix::new(seed), straying, module: &module }.func(name, tokens, layers);
        module.add_func(func);
    }
    module
}

struct Decoder<'m> {
    rng: SplitMix,
    straying: Straying,
    module: &'m Module,
}

impl Decoder<'_> {
    fn strays(&mut self) -> bool {
        self.rng.chance(self.straying.0)
    }

    fn param(&self, name: &str) -> Operand {
        self.module.param_named(name).unwrap().into()
    }

    fn func(mut self, name: &str, tokens: TokenCount, layers: u32) -> Func {
        let mut b = FuncBuilder::new(self.module, name, tokens);
        let per_token = tokens != TokenCount::One;
        let count = if per_token { Dim::Tokens } else { Dim::N(1) };
        let tok = b.input("tok", Type::new(DType::Idx, &[count]));
        let pos = b.input("pos", Type::scalar(DType::Idx));
        let dims = CacheDims { kv_heads: KV_HEADS, head_dim: HEAD };
        let caches: Vec<(ValueId, ValueId)> = (0..layers)
            .map(|l| {
                let ty = Type::cache(DType::F16, dims);
                (b.input(format!("l{l}.kc"), ty.clone()), b.input(format!("l{l}.vc"), ty))
            })
            .collect();
        let mut h = b.embed(tok, self.param("token_embd")).unwrap();
        let mut outputs = Vec::new();
        for (l, cache) in (0..layers).zip(caches) {
            h = self.layer(&mut b, l, h, pos, cache, &mut outputs);
        }
        let h = b.rms_norm(h, self.param("output_norm"), 1e-5).unwrap();
        outputs.insert(0, b.matmul(h, self.param("token_embd")).unwrap());
        b.finish(outputs)
    }

    fn layer(
        &mut self,
        b: &mut FuncBuilder<'_>,
        l: u32,
        h: ValueId,
        pos: ValueId,
        (kc, vc): (ValueId, ValueId),
        outputs: &mut Vec<ValueId>,
    ) -> ValueId {
        let weights: Vec<Operand> = [
            "attn_norm",
            "q",
            "k",
            "v",
            "attn_sub_norm",
            "o",
            "ffn_norm",
            "gate",
            "up",
            "ffn_sub_norm",
            "down",
        ]
        .iter()
        .map(|name| self.param(&format!("l{l}.{name}")))
        .collect();
        let [attn_norm, wq, wk, wv, attn_sub_norm, wo, ffn_norm, wgate, wup, ffn_sub_norm, wdown] =
            weights[..]
        else {
            unreachable!("eleven names")
        };
        let x = self.norm_quant(b, h, attn_norm, outputs);
        let x2 = if self.strays() { self.norm_quant(b, h, attn_norm, outputs) } else { x };
        let (q, k, v);
        let mut ropes = RopeParams { theta: 10000.0, rot: HEAD, pairs: Pairs::Halves };
        if self.strays() {
            ropes = RopeParams { rot: HEAD / 2, pairs: Pairs::Interleaved, ..ropes };
        }
        let mut k_ropes = ropes;
        if self.strays() {
            k_ropes.theta = 500.0;
        }
        if self.strays() {
            // Rotations between the products.
            let plain = self.product(b, x2, wk);
            k = ropes_of(b, plain, pos, k_ropes);
            let plain = self.product(b, x, wq);
            q = ropes_of(b, plain, pos, ropes);
            v = self.product(b, x, wv);
        } else {
            let plain_q = self.product(b, x, wq);
            let plain_k = self.product(b, x, wk);
            v = self.product(b, x2, wv);
            q = ropes_of(b, plain_q, pos, ropes);
            k = ropes_of(b, plain_k, pos, k_ropes);
        }
        if self.strays() {
            outputs.push(b.relu2(k).unwrap());
        }
        if self.strays() {
            outputs.push(b.relu2(q).unwrap());
        }
        let [kc, vc] = b.kv_append(kc, vc, k, v, pos).unwrap();
        outputs.extend([kc, vc]);
        let scale = 0.17677669;
        let att = b.attention(q, kc, vc, pos, HEADS, KV_HEADS, scale).unwrap();
        let x = self.norm_quant(b, att, attn_sub_norm, outputs);
        let o = self.product(b, x, wo);
        let h = self.residual(b, h, o, outputs);

        let x = self.norm_quant(b, h, ffn_norm, outputs);
        let (first, second) = if self.strays() { (wup, wgate) } else { (wgate, wup) };
        let gate = self.product(b, x, first);
        let up = self.product(b, x, second);
        let act = b.relu2(gate).unwrap();
        if self.strays() {
            outputs.push(b.relu2(gate).unwrap());
        }
        let up = if self.strays() { b.relu2(up).unwrap() } else { up };
        let gated = if self.strays() { b.mul(up, act).unwrap() } else { b.mul(act, up).unwrap() };
        let x = self.norm_quant(b, gated, ffn_sub_norm, outputs);
        let down = self.product(b, x, wdown);
        self.residual(b, h, down, outputs)
    }

    fn norm_quant(
        &mut self,
        b: &mut FuncBuilder<'_>,
        x: ValueId,
        w: Operand,
        outputs: &mut Vec<ValueId>,
    ) -> ValueId {
        let normed = b.rms_norm(x, w, 1e-5).unwrap();
        if self.strays() {
            b.relu2(normed).unwrap();
        }
        if self.strays() {
            outputs.push(normed);
        }
        if self.strays() {
            b.quant_absmax(normed).unwrap();
        }
        b.quant_absmax(normed).unwrap()
    }

    fn product(&mut self, b: &mut FuncBuilder<'_>, x: ValueId, w: Operand) -> ValueId {
        b.ternary_matmul(x, w).unwrap()
    }

    fn residual(
        &mut self,
        b: &mut FuncBuilder<'_>,
        h: ValueId,
        y: ValueId,
        outputs: &mut Vec<ValueId>,
    ) -> ValueId {
        if self.strays() {
            outputs.push(y);
        }
        match self.strays() {
            true => b.add(y, h).unwrap(),
            false => b.add(h, y).unwrap(),
        }
    }
}

#[derive(Clone, Copy)]
struct RopeParams {
    theta: f32,
    rot: u32,
    pairs: Pairs,
}

fn ropes_of(b: &mut FuncBuilder<'_>, x: ValueId, pos: ValueId, r: RopeParams) -> ValueId {
    b.rope(x, pos, r.theta.into(), HEAD, r.rot, r.pairs).unwrap()
}

/// A function in stage `fused` with splits of splits and single parts over a product, for `canonicalise`.
pub(crate) fn nested_splits(seed: u64) -> Module {
    let mut rng = SplitMix::new(seed);
    let mut module = Module::new();
    module.stage = Stage::Fused;
    let def = ParamDef::File { tensor: "w".to_owned(), hash: ContentHash([1; 16]) };
    let ty = Type::matrix(DType::Ter, 96, 128).with_layout(Layout::I2s128);
    let w = module.add_param(ParamDecl { name: "w".to_owned(), ty, def });
    let mut b = FuncBuilder::new(&module, "f", TokenCount::UpTo(3));
    let x = b.input("x", Type::rows(DType::Q8, Rows { per_token: true, width: 128 }));
    let mut parts = vec![b.bitlinear(x, w, None, Epilogue::None).unwrap()];
    for _ in 0..4 {
        let at = rng.below(parts.len());
        let part = if rng.chance(80) { parts.swap_remove(at) } else { parts[at] };
        let width = b.ty(part).as_rows().unwrap().width;
        let sizes = match rng.below(3) {
            0 => vec![width],
            _ if width < 3 => vec![width],
            1 => vec![width / 2, width - width / 2],
            _ => vec![1, width - 2, 1],
        };
        parts.extend(b.split(part, Sizes(sizes)).unwrap());
    }
    let outputs = parts.iter().map(|&p| b.relu2(p).unwrap()).collect();
    let func = b.finish(outputs);
    module.add_func(func);
    module
}

/// All functions of a module.
pub(crate) fn func_ids(module: &Module) -> Vec<FuncId> {
    module.funcs().keys().collect()
}

/// Whether an op of this mnemonic stands anywhere.
pub(crate) fn has_op(module: &Module, mnemonic: &str) -> bool {
    module.funcs().values().any(|f| f.order().iter().any(|&n| f.node(n).op.info().mnemonic == mnemonic))
}

/// Every op of a function, in order.
pub(crate) fn ops(func: &Func) -> Vec<&Op> {
    func.order().iter().map(|&n| &func.node(n).op).collect()
}
