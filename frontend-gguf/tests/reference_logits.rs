//! The imported module, run by the IR interpreter, against the logits that an independent implementation recorded
//! (`tests/data`): names, layouts, rotary pairs, places of the norms and the head are right, or these differ.
//!
//! Only prompts are used in which no activation is close enough to a rounding boundary for a difference of 1e-7 to flip
//! it (`flip_free`); where the record says that the distance is at least 5e-7 (relative), every logit must agree, and
//! of the others four in five prompts.

use std::path::Path;

use bitnetc_frontend_gguf::{GgufWeights, LowerOptions, Model};
use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::{CacheType, FuncId, HEAD_ROWS, KEY_BLOCK, Module};
use serde_json::Value;

const TOLERANCE: f32 = 1e-3;
/// Longest prompt compared; the caches have room for two key blocks.
const LONGEST: usize = 100;

fn data(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn empty_caches(module: &Module, func: FuncId) -> Vec<Tensor> {
    let func = &module.funcs()[func];
    func.inputs()[2..].iter().map(|&v| Tensor::empty_cache(func.ty(v), 2 * KEY_BLOCK).unwrap()).collect()
}

/// Logits of every position: token by token, and as one chunk; both must be the same bits.
fn logits(module: &Module, interpreter: &Interpreter<'_>, ids: &[u32]) -> Vec<f32> {
    let func = |name: &str| module.func_named(name).unwrap();
    let mut caches = empty_caches(module, func("decode"));
    let mut decoded = Vec::new();
    for (pos, &id) in (0..).zip(ids) {
        let mut inputs = vec![Tensor::Tokens(vec![id]), Tensor::Position(pos)];
        inputs.append(&mut caches);
        let mut results = interpreter.run(func("decode"), inputs).unwrap();
        caches = results.split_off(1);
        decoded.extend_from_slice(results[0].as_f32().unwrap());
    }
    let mut inputs = vec![Tensor::Tokens(ids.to_vec()), Tensor::Position(0)];
    inputs.append(&mut empty_caches(module, func("prefill")));
    let mut results = interpreter.run(func("prefill"), inputs).unwrap();
    results.truncate(1);
    let Some(Tensor::F32 { width, data, .. }) = results.pop() else { panic!("no residual stream") };
    let chunk: Vec<f32> = data
        .chunks(HEAD_ROWS as usize * width)
        .flat_map(|part| {
            let part = Tensor::F32 { rows: part.len() / width, width, data: part.to_vec() };
            let logits = interpreter.run(func("head"), vec![part]).unwrap();
            logits[0].as_f32().unwrap().to_vec()
        })
        .collect();
    let same = chunk.iter().map(|x| x.to_bits()).eq(decoded.iter().map(|x| x.to_bits()));
    assert!(same, "prefill and decode differ");
    decoded
}

fn worst_difference(prompt: &Value, recorded: &[u8], found: &[f32]) -> f32 {
    let start = prompt["logits_bin_offset"].as_u64().unwrap() as usize;
    let expected = recorded[start..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn check(name: &str) {
    let bytes = data(&format!("model_{name}_i2_s.gguf"));
    let record: Value = serde_json::from_slice(&data(&format!("logits_{name}.json"))).unwrap();
    let recorded = data(&format!("logits_{name}.bin"));
    let model = Model::open(&bytes).unwrap();
    let module = model
        .lower(&LowerOptions { cache: CacheType::F32, chunk: LONGEST as u32, ..LowerOptions::default() })
        .unwrap();
    let weights = GgufWeights::new(&model);
    let interpreter = Interpreter::new(&module, &weights);
    let (mut close, mut compared) = (0, 0);
    for prompt in record["prompts"].as_array().unwrap() {
        let ids: Vec<u32> =
            prompt["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        if prompt["flip_free"] != true || ids.len() > LONGEST {
            continue;
        }
        let found = logits(&module, &interpreter, &ids);
        assert_eq!(found.len(), ids.len() * model.hparams().vocab);
        let worst = worst_difference(prompt, &recorded, &found);
        println!("{name} {}: {} tokens, {worst:e}", prompt["index"], ids.len());
        let must = prompt["rounding_margin_rel"].as_f64().unwrap() >= 5e-7;
        assert!(worst <= TOLERANCE || !must, "{name}, prompt {}: {worst}", prompt["index"]);
        compared += 1;
        close += u32::from(worst <= TOLERANCE);
    }
    assert!(compared >= 4 && close * 5 >= compared * 4, "{name}: {close} of {compared} prompts agree");
}

#[test]
fn tied_head() {
    check("A");
}

#[test]
fn separate_head() {
    check("C");
}
