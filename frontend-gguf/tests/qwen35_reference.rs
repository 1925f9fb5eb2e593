//! A model of the architecture `qwen35` in the exact format of the published files, against the logits and intermediates of an
//! implementation in numpy. The data are not part of the repository: they are looked for under `BITNETC_TEST_DATA`, by default
//! `../shared/data` beside it, and the tests say so when they are skipped.
//!
//! With float activations every logit is compared. With int8 activations one rounding that falls otherwise moves all that follows,
//! so there the form is told by statistics: the declared one has to be near its own reference, and nearest to it.

use std::path::{Path, PathBuf};

use bitnetc_frontend_gguf::{ActivationFormat, GgufWeights, LowerOptions, Model};
use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::{CacheType, HEAD_ROWS, KEY_BLOCK, Module};
use serde_json::Value;

/// Largest difference of a logit; their standard deviation is 3.6.
const TOLERANCE: f32 = 1e-3;
/// Largest difference of an intermediate, as a share of the greatest magnitude.
const SHARE: f32 = 1e-5;

struct Data {
    model: Vec<u8>,
    record: Value,
    logits: Vec<f32>,
    activations: Vec<f32>,
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn data() -> Option<Data> {
    let outside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("BITNETC_TEST_DATA").map_or(outside, PathBuf::from).join("qwen35");
    let Ok(model) = std::fs::read(folder.join("model_D_ptq1_0.gguf")) else {
        println!("skipped: {} is not there (set BITNETC_TEST_DATA)", folder.display());
        return None;
    };
    let record = std::fs::read(folder.join("logits_D.json")).unwrap();
    Some(Data {
        model,
        record: serde_json::from_slice(&record).unwrap(),
        logits: floats(&folder.join("logits_D.bin")),
        activations: floats(&folder.join("acts_D_prompt0.bin")),
    })
}

fn ids(prompt: &Value) -> Vec<u32> {
    prompt["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The stored array that `place` describes, of rows.
fn stored<'d>(all: &'d [f32], place: &Value) -> (&'d [f32], usize) {
    let start = place["offset"].as_u64().unwrap() as usize / 4;
    let shape: Vec<usize> =
        place["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    (&all[start..start + shape[0] * shape[1]], shape[1])
}

fn lowered(model: &Model<'_>, activations: Option<ActivationFormat>) -> Module {
    model.lower(&LowerOptions { cache: CacheType::F32, chunk: 300, activations }).unwrap()
}

/// Logits after all tokens, and the values of the chunk.
fn run(module: &Module, model: &Model<'_>, ids: &[u32]) -> (Vec<f32>, Vec<Tensor>) {
    let weights = GgufWeights::new(model);
    let interpreter = Interpreter::new(module, &weights);
    let (prefill, head) = (module.func_named("prefill").unwrap(), module.func_named("head").unwrap());
    let func = &module.funcs()[prefill];
    let capacity = (ids.len() as u32).next_multiple_of(KEY_BLOCK);
    let kept = func.inputs()[2..].iter().map(|&v| Tensor::empty_cache(func.ty(v), capacity).unwrap());
    let inputs = [Tensor::Tokens(ids.to_vec()), Tensor::Position(0)].into_iter().chain(kept).collect();
    let mut values = Vec::new();
    let results =
        interpreter.run_observed(prefill, inputs, &mut |_, value| values.push(value.clone())).unwrap();
    let Tensor::F32 { width, data, .. } = &results[0] else { panic!("no residual stream") };
    let mut logits = Vec::new();
    for part in data.chunks(HEAD_ROWS as usize * width) {
        let part = vec![Tensor::f32(*width, part.to_vec())];
        let found = interpreter.run_observed(head, part, &mut |_, value| values.push(value.clone())).unwrap();
        logits.extend_from_slice(found[0].as_f32().unwrap());
    }
    (logits, values)
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn float_activations_give_every_logit() {
    let Some(data) = data() else { return };
    let model = Model::open(&data.model).unwrap();
    model.check_weights().unwrap();
    let module = lowered(&model, Some(ActivationFormat::F32));
    for prompt in data.record["prompts"].as_array().unwrap() {
        let ids = ids(prompt);
        let (logits, _) = run(&module, &model, &ids);
        let (expected, vocab) = stored(&data.logits, &prompt["logits"]);
        let rows = prompt["rows"].as_array().unwrap().iter().map(|row| row.as_u64().unwrap() as usize);
        for (row, expected) in rows.zip(expected.chunks(vocab)) {
            let found = worst(&logits[row * vocab..][..vocab], expected);
            assert!(found <= TOLERANCE, "prompt {}, token {row}: {found}", prompt["index"]);
        }
        let argmax = prompt["argmax"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as usize);
        for (position, (row, expected)) in logits.chunks(vocab).zip(argmax).enumerate() {
            let found = (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            assert_eq!(found, expected, "prompt {}, token {position}", prompt["index"]);
        }
    }
}

#[test]
fn every_intermediate_is_a_value_of_the_chunk() {
    let Some(data) = data() else { return };
    let model = Model::open(&data.model).unwrap();
    let module = lowered(&model, Some(ActivationFormat::F32));
    let (_, values) = run(&module, &model, &ids(&data.record["prompts"][0]));
    let arrays = data.record["acts_prompt0"]["arrays"].as_object().unwrap();
    for (name, place) in arrays {
        let (expected, width) = stored(&data.activations, place);
        let greatest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let alike = values.iter().filter_map(|value| match value {
            Tensor::F32 { width: w, data, .. } if *w == width && data.len() == expected.len() => Some(data),
            _ => None,
        });
        let nearest = alike.map(|data| worst(data, expected)).fold(f32::INFINITY, f32::min);
        assert!(nearest <= SHARE * greatest, "{name}: {nearest} of {greatest}");
    }
    assert!(arrays.len() >= 40);
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - greatest).exp()).sum();
    row.iter().map(|&x| f64::from(x - greatest) - sum.ln()).collect()
}

/// Root of the mean square of the differences, and mean divergence from `reference`.
fn distance(found: &[f32], reference: &[f32], vocab: usize) -> (f64, f64) {
    let squares: f64 = found.iter().zip(reference).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let rows = reference.chunks(vocab).zip(found.chunks(vocab));
    let divergence = |(reference, found): (&[f32], &[f32])| -> f64 {
        let (p, q) = (log_softmax(reference), log_softmax(found));
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    let count = found.len() / vocab;
    ((squares / found.len() as f64).sqrt(), rows.map(divergence).sum::<f64>() / count as f64)
}

#[test]
fn int8_activations_are_of_the_declared_form() {
    let Some(data) = data() else { return };
    let model = Model::open(&data.model).unwrap();
    let module = lowered(&model, None);
    for prompt in &data.record["prompts"].as_array().unwrap()[..2] {
        let (logits, _) = run(&module, &model, &ids(prompt));
        let std = prompt["logit_std"].as_f64().unwrap();
        let to = |form: &str| {
            let (expected, vocab) = stored(&data.logits, &prompt["int8"][form]["logits"]);
            distance(&logits, expected, vocab)
        };
        let (rms, divergence) = to("128");
        println!("prompt {}: {} std, {divergence}", prompt["index"], rms / std);
        assert!(rms <= 0.035 * std && divergence <= 5e-3, "prompt {}: {rms} {divergence}", prompt["index"]);
        for other in ["token", "32"] {
            assert!(to(other).0 > rms, "prompt {} is nearer to {other}", prompt["index"]);
        }
    }
}
