//! Metadata as converters write it, through the whole product: ends of a text by their names, ids that stand for none, keys
//! that would change what is computed, and contexts that a file alone must not decide.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Command, Output};

use bitnetc::load::{DEFAULT_CONTEXT_BYTES, LoadOptions, load};
use bitnetc_frontend_gguf::TokenType;
use bitnetc_frontend_gguf::testing::{GgufWriter, MetaValue, TinyModel};
use common::*;
use serde_json::Value;

/// Tokens of the models here; the last is the end of a turn.
const TOKENS: usize = 288;

fn run(path: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bitnetc")).arg("run").arg(path).args(args).output().unwrap()
}

fn written(w: &GgufWriter) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), w.build()).unwrap();
    file
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a run that is biased to the last token says.
fn with_last_token(path: &Path, token: usize) -> (String, String) {
    let bias = format!("{token}+1000");
    let output = run(path, &["-p", "a", "-n", "4", "--temp", "0", "-l", &bias, "--json"]);
    assert!(output.status.success(), "{}", message(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    (text("stop"), text("text"))
}

#[test]
fn a_token_ends_a_text_by_its_name() {
    for (name, ty, stop) in [
        ("<|im_end|>", TokenType::UserDefined, "end_token"),
        ("<|im_end|>", TokenType::Normal, "end_token"),
        ("</s>", TokenType::Control, "end_token"),
        ("<|other|>", TokenType::Control, "limit"),
    ] {
        let mut w = TinyModel { vocab: TOKENS, ..TinyModel::default() }.writer();
        for (key, value) in &mut w.entries {
            match value {
                MetaValue::Strings(tokens) if key == b"tokenizer.ggml.tokens" => {
                    tokens[TOKENS - 1] = name.into();
                }
                MetaValue::I32s(types) if key == b"tokenizer.ggml.token_type" => {
                    types[TOKENS - 1] = ty as i32
                }
                _ => {}
            }
        }
        let file = written(&w);
        let (found, text) = with_last_token(file.path(), TOKENS - 1);
        assert_eq!(found, stop, "{name} {ty:?}");
        assert!(text.is_empty(), "{name} {ty:?}: {text}");
    }
}

#[test]
fn ids_that_stand_for_none_are_let_pass() {
    let mut w = TinyModel::default().writer();
    w.set("tokenizer.ggml.seperator_token_id", MetaValue::U32(u32::MAX));
    w.set("tokenizer.ggml.padding_token_id", MetaValue::I32(-1));
    let file = written(&w);
    let output = run(file.path(), &["-p", "a", "-n", "2", "--temp", "0"]);
    assert!(output.status.success(), "{}", message(&output));
    let changed = open(file.path(), &LoadOptions::default());
    assert!(changed.notes.iter().any(|note| note.contains("seperator_token_id is 4294967295")));
    assert!(changed.notes.iter().any(|note| note.contains("padding_token_id is -1")));
    let good = write_model(&TinyModel::default());
    let tokens = random_tokens(3, 12, TOKENS as u32);
    let good = open(good.path(), &LoadOptions::default());
    assert_same("the same model", &score(&good, &tokens, 1), &score(&changed, &tokens, 1));
}

#[test]
fn keys_that_change_results_refuse_the_file() {
    for (key, value) in [
        ("prism.hadamard.version", MetaValue::U32(1)),
        ("prism.hadamard.weight_names", MetaValue::Strings(vec!["blk.0.attn_q.weight".into()])),
        ("bitnet-b1.58.logit_scale", MetaValue::F32(0.5)),
    ] {
        let mut w = TinyModel::default().writer();
        w.set(key, value);
        let output = run(written(&w).path(), &["-p", "a", "-n", "1"]);
        assert_eq!(output.status.code(), Some(3), "{}", message(&output));
        // Where a declaration is incomplete, the first key that is missing is named.
        let named = if key.starts_with("prism.hadamard.") { "prism.hadamard." } else { key };
        assert!(output.stdout.is_empty() && message(&output).contains(named), "{}", message(&output));
    }
    let mut w = TinyModel::default().writer();
    w.set("vendor.new_key", MetaValue::U32(1));
    let loaded = open(written(&w).path(), &LoadOptions::default());
    assert!(loaded.notes.iter().any(|note| note.contains("vendor.new_key")), "{:?}", loaded.notes);
}

/// 4096 key/value heads of two elements and a context of a million: 32 GiB of cache from a file of one megabyte.
#[test]
fn the_default_context_is_bounded_by_memory() {
    let heads = TinyModel::many_heads();
    let loaded = load(Some(write_model(&heads).path()), &LoadOptions::default()).unwrap();
    let default = loaded.default_context();
    assert_eq!(loaded.context, 1 << 20);
    assert!(loaded.context_bytes(loaded.context) > 16 * DEFAULT_CONTEXT_BYTES);
    assert!(loaded.context_bytes(default) <= DEFAULT_CONTEXT_BYTES, "{default}");
    // No block of keys more would fit.
    assert!(loaded.context_bytes(default + 64) > DEFAULT_CONTEXT_BYTES, "{default}");
    let note = loaded.notes.iter().find(|note| note.contains("larger context"));
    assert!(note.is_some_and(|note| note.contains(&default.to_string())), "{:?}", loaded.notes);

    let small = open(write_model(&TinyModel::default()).path(), &LoadOptions::default());
    assert_eq!(small.default_context(), small.context);
    assert!(small.notes.iter().all(|note| !note.contains("larger context")), "{:?}", small.notes);
}

/// The files of public reports, where they are at hand; the tests above make the same kinds.
#[test]
fn files_of_public_reports() {
    let cases = match std::env::var_os("BITNETC_TEST_DATA") {
        Some(data) => Path::new(&data).join("../cases"),
        None => root().join("../shared/cases"),
    };
    let end = cases.join("end-token-not-control/im_end-user-defined.gguf");
    let none = cases.join("special-id-none/m.gguf");
    let heads = cases.join("gguf-many-kv-heads/heads.gguf");
    if ![&end, &none, &heads].iter().all(|file| file.is_file()) {
        println!("skipped: no files of reports (set BITNETC_TEST_DATA)");
        return;
    }
    assert_eq!(with_last_token(&end, 299), ("end_token".to_owned(), String::new()));
    let output = run(&none, &["-p", "a", "-n", "2", "--temp", "0"]);
    assert!(output.status.success(), "{}", message(&output));
    let heads = open(&heads, &LoadOptions::default());
    assert!(heads.context_bytes(heads.default_context()) <= DEFAULT_CONTEXT_BYTES);
}
