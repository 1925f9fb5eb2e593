//! Whole models in the reference interpreter against logits of an outside reference (transformers' `BitNetForCausalLM` in
//! f32 with exact int8 quantisation of activations): what the interpreter defines is what the models were trained for.
//!
//! A difference of 1e-7 may flip one int8 rounding, which moves that position and all later ones by some percent of the
//! spread of the logits. So prompts without a flip in the reference's own variants must agree closely, and all others in
//! direction, in bounded difference and in every clear argmax.

use std::path::Path;

use bitnetc_frontend_gguf::{GgufWeights, LowerOptions, Model};
use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::{CacheType, FuncId, HEAD_ROWS, Module, Type};
use serde_json::Value;

const CAPACITY: u32 = 192;
/// Greatest difference of logits where no rounding flips.
const CLOSE: f32 = 1e-3;
/// A flip may occur in the interpreter and not in the reference's variants, if a code was this near to a half.
const SURE_MARGIN: f64 = 5e-7;

fn read(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One prompt of the reference.
struct Prompt<'r> {
    fields: &'r Value,
    blob: &'r [u8],
    vocab: usize,
}

impl Prompt<'_> {
    fn ids(&self, key: &str) -> Vec<u32> {
        self.floats(key).into_iter().map(|id| id as u32).collect()
    }
    fn floats(&self, key: &str) -> Vec<f64> {
        let all = self.fields[key].as_array().unwrap_or_else(|| panic!("no list {key}"));
        all.iter().map(|x| x.as_f64().expect("a number")).collect()
    }
    fn float(&self, key: &str) -> f64 {
        self.fields[key].as_f64().unwrap_or_else(|| panic!("no number {key}"))
    }
    fn flip_free(&self) -> bool {
        self.fields["flip_free"].as_bool().expect("flip_free")
    }
    fn logits(&self, prefix: &str) -> Vec<f32> {
        let shape = self.floats(&format!("{prefix}logits_shape"));
        let start = self.float(&format!("{prefix}logits_bin_offset")) as usize;
        let n = shape.iter().product::<f64>() as usize;
        assert_eq!(n % self.vocab, 0);
        let bytes = &self.blob[start..start + 4 * n];
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
    fn name(&self) -> String {
        format!("prompt {}", self.fields["index"])
    }
}

/// A lowered model in the interpreter.
struct Session<'m> {
    interp: Interpreter<'m>,
    decode: FuncId,
    prefill: FuncId,
    head: FuncId,
    caches: Vec<Type>,
}

impl<'m> Session<'m> {
    fn new(module: &'m Module, weights: &'m GgufWeights<'m, 'm>) -> Self {
        let func = |name: &str| module.func_named(name).unwrap_or_else(|| panic!("no @{name}"));
        let decode = &module.funcs()[func("decode")];
        let caches = decode.inputs()[2..].iter().map(|&id| decode.ty(id).clone()).collect();
        let interp = Interpreter::new(module, weights);
        Self { interp, decode: func("decode"), prefill: func("prefill"), head: func("head"), caches }
    }

    /// Logits of all positions, and the caches.
    fn prefill(&self, ids: &[u32]) -> (Vec<f32>, Vec<Tensor>) {
        let empty = |ty: &Type| Tensor::empty_cache(ty, CAPACITY).expect("a cache");
        let inputs = [Tensor::Tokens(ids.to_vec()), Tensor::Position(0)];
        let inputs = inputs.into_iter().chain(self.caches.iter().map(empty)).collect();
        let mut caches = self.interp.run(self.prefill, inputs).expect("prefill runs");
        let residual = caches.remove(0);
        let Tensor::F32 { rows, width, data } = residual else { panic!("{residual:?}") };
        assert_eq!(data.len(), rows * width);
        let logits = data.chunks(HEAD_ROWS as usize * width).flat_map(|part| {
            let part = Tensor::F32 { rows: part.len() / width, width, data: part.to_vec() };
            let logits = self.interp.run(self.head, vec![part]).expect("head runs");
            logits[0].as_f32().expect("logits").to_vec()
        });
        (logits.collect(), caches)
    }

    /// Logits of one more token.
    fn decode(&self, id: u32, pos: usize, caches: &mut Vec<Tensor>) -> Vec<f32> {
        let inputs = [Tensor::Tokens(vec![id]), Tensor::Position(pos as u32)];
        let inputs = inputs.into_iter().chain(std::mem::take(caches)).collect();
        *caches = self.interp.run(self.decode, inputs).expect("decode runs");
        caches.remove(0).as_f32().expect("logits").to_vec()
    }
}

fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &x)| if x > row[best] { i } else { best })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn greatest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

/// Direction, bounded difference and clear argmaxes of every position; returns how many positions are close.
fn check_positions(prompt: &Prompt<'_>, got: &[f32], expected: &[f32]) -> usize {
    let std = prompt.float("logits_std");
    let mut close = 0;
    let rows = got.chunks_exact(prompt.vocab).zip(expected.chunks_exact(prompt.vocab));
    for ((at, (got, expected)), margin) in rows.enumerate().zip(prompt.floats("prompt_margins")) {
        let what = format!("{}, position {at}", prompt.name());
        let difference = greatest_difference(got, expected);
        assert!(cosine(got, expected) >= 0.999, "{what}: cosine {}", cosine(got, expected));
        assert!(f64::from(difference) <= 0.15 * std, "{what}: {difference}");
        if margin > 0.2 * std {
            assert_eq!(argmax(got), argmax(expected), "{what}");
        }
        close += usize::from(difference <= CLOSE);
    }
    close
}

fn check_greedy(session: &Session<'_>, prompt: &Prompt<'_>) {
    let (ids, greedy) = (prompt.ids("ids"), prompt.ids("greedy_64"));
    let (logits, mut caches) = session.prefill(&ids);
    let mut row = logits[logits.len() - prompt.vocab..].to_vec();
    let safe = prompt.float("greedy_safe_prefix") as usize;
    for (step, &id) in greedy[..safe].iter().enumerate() {
        assert_eq!(argmax(&row), id as usize, "{}, step {step}", prompt.name());
        row = session.decode(id, ids.len() + step, &mut caches);
    }
    // On the reference's own continuation every clear step has the same argmax, whatever flipped before.
    let forced = [&ids[..], &greedy[..greedy.len() - 1]].concat();
    let (logits, _) = session.prefill(&forced);
    let expected = prompt.logits("greedy_");
    let rows = logits[(ids.len() - 1) * prompt.vocab..].chunks_exact(prompt.vocab);
    let rows = rows.zip(expected.chunks_exact(prompt.vocab)).zip(prompt.floats("greedy_margins"));
    for (step, ((got, expected), margin)) in rows.enumerate() {
        if margin > 0.2 * prompt.float("logits_std") {
            assert_eq!(argmax(got), argmax(expected), "{}, forced step {step}", prompt.name());
        }
    }
}

fn check_model(name: &str, cache: CacheType) {
    let file = read(&format!("model_{name}_i2_s.gguf"));
    let model = Model::open(&file).expect("the test model opens");
    let module =
        model.lower(&LowerOptions { cache, ..LowerOptions::default() }).expect("the test model lowers");
    let weights = GgufWeights::new(&model);
    let session = Session::new(&module, &weights);

    let index: Value = serde_json::from_slice(&read(&format!("logits_{name}.json"))).expect("json");
    let blob = read(&format!("logits_{name}.bin"));
    let vocab = index["config"]["vocab"].as_u64().expect("vocab") as usize;
    let prompts = index["prompts"].as_array().expect("prompts");
    let (mut close, mut positions, mut flip_free, mut agreeing) = (0, 0, 0, 0);
    for fields in prompts {
        let prompt = Prompt { fields, blob: &blob, vocab };
        let (got, _) = session.prefill(&prompt.ids("ids"));
        let expected = prompt.logits("");
        close += check_positions(&prompt, &got, &expected);
        positions += expected.len() / vocab;
        if cache == CacheType::F32 {
            let difference = greatest_difference(&got, &expected);
            if prompt.flip_free() {
                flip_free += 1;
                agreeing += usize::from(difference <= CLOSE);
                let sure = prompt.float("rounding_margin_rel") >= SURE_MARGIN;
                assert!(!sure || difference <= CLOSE, "{}: {difference}", prompt.name());
            }
            check_greedy(&session, &prompt);
        }
    }
    if cache == CacheType::F32 {
        assert!(
            flip_free > 0 && 5 * agreeing >= 4 * flip_free,
            "{agreeing} of {flip_free} flip-free prompts agree"
        );
        assert!(4 * close >= positions, "{close} of {positions} positions are close");
    }
}

#[test]
fn tied_model_with_f32_caches() {
    check_model("A", CacheType::F32);
}

#[test]
fn tied_model_with_f16_caches() {
    check_model("A", CacheType::F16);
}

#[test]
fn untied_model_with_f32_caches() {
    check_model("C", CacheType::F32);
}

#[test]
fn untied_model_with_f16_caches() {
    check_model("C", CacheType::F16);
}
