//! Right against an outside oracle: models and logits made with an independent implementation (transformers'
//! `BitNetForCausalLM` in f32 with exact int8 activations), and the reference of the built-in model.
//!
//! One int8 rounding that flips moves all later positions, so whole-model logits are compared in three grades: prompts
//! without a flip closely, all others by cosine, greatest difference and top token. The files say which prompt is which.
//!
//! The references have the head as the files do, so these tests ask for it; packed heads are held against the references by
//! the deviation of their logits.

mod common;

use bitnetc::load::Loaded;
use bitnetc::perplexity::perplexity;
use bitnetc_ir::DType;
use bitnetc_passes::HeadFormat;
use bitnetc_runtime::tokenizer::Tokenize;
use common::{data, open, options, options_stored_head, options_with, root, score, session};
use serde_json::Value;

fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn matrix(bytes: &[u8], offset: &Value, shape: &Value) -> Vec<Vec<f32>> {
    let (offset, shape) = (offset.as_u64().unwrap() as usize, ids(shape));
    let (rows, cols) = (shape[0] as usize, shape[1] as usize);
    let numbers = bytes[offset..offset + rows * cols * 4].as_chunks::<4>().0;
    numbers.chunks(cols).map(|row| row.iter().map(|&b| f32::from_le_bytes(b)).collect()).collect()
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

fn max_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The third grade: cosine, greatest difference, and the top token where it leads clearly.
fn assert_close(what: &str, ours: &[f32], theirs: &[f32], std: f64, margin: f64) {
    let (cos, diff) = (cosine(ours, theirs), max_difference(ours, theirs));
    assert!(cos >= 0.999, "{what}: cosine {cos}");
    assert!(diff <= 0.15 * std, "{what}: differs by {diff}, {} of the deviation", diff / std);
    if margin > 0.2 * std {
        assert_eq!(argmax(ours), argmax(theirs), "{what}: top token");
    }
}

fn check_model(name: &str) {
    let reference = json(&data(&format!("logits_{name}.json")));
    let bytes = std::fs::read(data(&format!("logits_{name}.bin"))).unwrap();
    for kv_type in [DType::F32, DType::F16] {
        let loaded = open(&data(&format!("model_{name}_i2_s.gguf")), &options_stored_head(kv_type));
        let exact = kv_type == DType::F32;
        let (mut free, mut free_good, mut rows, mut rows_good) = (0, 0, 0, 0);
        for prompt in reference["prompts"].as_array().unwrap() {
            let what = format!("{name} {} prompt {}", kv_type.name(), prompt["index"]);
            let tokens = ids(&prompt["ids"]);
            let theirs = matrix(&bytes, &prompt["logits_bin_offset"], &prompt["logits_shape"]);
            let ours = score(&loaded, &tokens, 2);
            let std = prompt["logits_std"].as_f64().unwrap();
            let margins = floats(&prompt["prompt_margins"]);
            let worst = ours.iter().zip(&theirs).map(|(a, b)| max_difference(a, b)).fold(0.0, f64::max);
            rows += ours.len();
            rows_good += ours.iter().zip(&theirs).filter(|(a, b)| max_difference(a, b) <= 1e-3).count();
            if exact && prompt["flip_free"].as_bool().unwrap() {
                free += 1;
                free_good += usize::from(worst <= 1e-3);
                if prompt["rounding_margin_rel"].as_f64().unwrap() >= 5e-7 {
                    assert!(worst <= 1e-3, "{what}: differs by {worst} although no rounding is near a tie");
                }
            }
            for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                assert_close(&format!("{what} position {i}"), a, b, std, margins[i]);
            }
            if exact {
                let greedy = ids(&prompt["greedy_64"]);
                let safe = prompt["greedy_safe_prefix"].as_u64().unwrap() as usize;
                assert_eq!(
                    continue_greedily(&loaded, &tokens, safe),
                    greedy[..safe],
                    "{what}: greedy prefix"
                );
                let forced: Vec<u32> = tokens.iter().chain(&greedy).copied().collect();
                let rows = score(&loaded, &forced, 2);
                for (step, margin) in floats(&prompt["greedy_margins"]).into_iter().enumerate() {
                    if margin > 0.2 * std {
                        let top = argmax(&rows[tokens.len() - 1 + step]) as u32;
                        assert_eq!(top, greedy[step], "{what}: greedy step {step}");
                    }
                }
            }
        }
        println!(
            "{name} {}: flip-free {free_good}/{free}, rows within 1e-3 {rows_good}/{rows}",
            kv_type.name()
        );
        if exact {
            assert!(free_good * 5 >= free * 4, "{name}: only {free_good} of {free} flip-free prompts agree");
            assert!(rows_good * 4 >= rows, "{name}: only {rows_good} of {rows} positions agree");
        }
    }
}

fn continue_greedily(loaded: &Loaded, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut session = session(loaded, (prompt.len() + count) as u32, 2);
    let mut next = argmax(session.feed(prompt).unwrap()) as u32;
    let mut out = Vec::new();
    while out.len() < count {
        out.push(next);
        next = argmax(session.feed(&[next]).unwrap()) as u32;
    }
    out
}

#[test]
fn model_a_agrees() {
    check_model("A");
}

#[test]
fn model_c_agrees() {
    check_model("C");
}

/// The root mean squared difference that each packed head may add, as a share of the deviation of the logits.
const PACKED: [(HeadFormat, f64); 4] = [
    (HeadFormat::Q8, 0.012),
    (HeadFormat::Q6, 0.025),
    (HeadFormat::Q4, 0.10),
    (HeadFormat::Screened { rows: 64 }, 0.15),
];

#[test]
fn packed_heads_stay_near_the_references() {
    let mut compared = 0;
    for name in ["A", "C"] {
        let reference = json(&data(&format!("logits_{name}.json")));
        let bytes = std::fs::read(data(&format!("logits_{name}.bin"))).unwrap();
        for (head, share) in PACKED {
            let packed = options_with(DType::F32, |c| c.head = Some(head));
            let loaded = open(&data(&format!("model_{name}_i2_s.gguf")), &packed);
            let (mut wrong, mut all) = (0.0, 0.0);
            for prompt in reference["prompts"].as_array().unwrap() {
                // Flipped roundings would be counted as errors of the head.
                if !prompt["flip_free"].as_bool().unwrap()
                    || prompt["rounding_margin_rel"].as_f64() < Some(5e-7)
                {
                    continue;
                }
                let theirs = matrix(&bytes, &prompt["logits_bin_offset"], &prompt["logits_shape"]);
                let std = prompt["logits_std"].as_f64().unwrap();
                for (a, b) in score(&loaded, &ids(&prompt["ids"]), 2).iter().zip(&theirs) {
                    let squares = |(x, y): (&f32, &f32)| f64::from(x - y).powi(2);
                    wrong += a.iter().zip(b).map(squares).sum::<f64>();
                    all += std * std * a.len() as f64;
                }
            }
            if all > 0.0 {
                let found = (wrong / all).sqrt();
                println!("{name} {head}: {found:.5} of the deviation");
                assert!(found <= share, "{name} {head}: {found}");
                compared += 1;
            }
        }
    }
    assert!(compared >= PACKED.len(), "no prompt without a rounding near a tie");
}

#[test]
fn tokenizers_agree() {
    for name in ["A", "C"] {
        let loaded = open(&data(&format!("model_{name}_i2_s.gguf")), &options(DType::F16));
        let cases = json(&data(&format!("tokenizer_{name}.json")));
        let cases = cases.as_array().cloned().unwrap_or_else(|| cases["cases"].as_array().unwrap().clone());
        assert!(!cases.is_empty());
        for case in cases {
            let text = case["text"].as_str().unwrap();
            assert_eq!(
                loaded.tokenizer.encode(text, false, false).unwrap(),
                ids(&case["ids"]),
                "{name}: {text:?}"
            );
        }
    }
}

#[test]
fn the_built_in_model_agrees_with_its_recipe() {
    let folder = root().join("models/shakespeare");
    let reference = json(&folder.join("reference.json"));
    let bytes = std::fs::read(folder.join("logits.bin")).unwrap();
    let loaded = open(&folder.join("shakespeare-5m-i2_s.gguf"), &options_stored_head(DType::F32));
    let (mut rows, mut good) = (0, 0);
    for prompt in reference["prompts"].as_array().unwrap() {
        let text = prompt["text"].as_str().unwrap();
        let tokens = ids(&prompt["ids"]);
        assert_eq!(loaded.tokenizer.encode(text, true, false).unwrap(), tokens, "{text:?}");
        let theirs = matrix(&bytes, &prompt["logits_offset"], &prompt["logits_shape"]);
        for (i, (a, b)) in score(&loaded, &tokens, 2).iter().zip(&theirs).enumerate() {
            // The deviation of this model's logits is about 4; margins at prompt positions are not on record.
            assert_close(&format!("{text:?} position {i}"), a, b, 4.0, 0.0);
            rows += 1;
            good += usize::from(max_difference(a, b) <= 1e-3);
        }
        let greedy = ids(&prompt["greedy"]);
        let ours = continue_greedily(&loaded, &tokens, greedy.len());
        let margins = floats(&prompt["greedy_margins"]);
        if let Some(step) = ours.iter().zip(&greedy).position(|(a, b)| a != b) {
            assert!(
                margins[step] <= 0.2 * 4.0,
                "{text:?}: step {step} differs although it leads by {}",
                margins[step]
            );
        }
    }
    println!("built-in model: {good} of {rows} positions within 1e-3");
    assert!(good * 4 >= rows);
}

#[test]
fn the_built_in_models_perplexity_is_its_recipes() {
    let folder = root().join("models/shakespeare");
    let expected = json(&folder.join("reference.json"))["val_ppl_ctx512"].as_f64().unwrap();
    let all = ids(&json(&folder.join("validation_ids.json")));
    let loaded = open(&folder.join("shakespeare-5m-i2_s.gguf"), &options_stored_head(DType::F16));
    let result = perplexity(&mut session(&loaded, 512, 2), &all, 512, |_| true).unwrap();
    println!("perplexity {:.4} over {} tokens, recipe {expected:.4}", result.perplexity(), result.tokens);
    assert!((result.perplexity() / expected - 1.0).abs() <= 0.005, "{}", result.perplexity());
    assert_eq!(result.tokens, 85_848);
}
