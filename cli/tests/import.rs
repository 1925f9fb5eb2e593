//! Checkpoints of Hugging Face through the whole product: the small models of `tests/data/checkpoints` (with the script
//! that made them) give the bits of the same models as GGUF files, the logits of an implementation in numpy, and the
//! tokens of the package `tokenizers`.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bitnetc::import::{Files, check, write_import};
use bitnetc_frontend_gguf::TensorType;
use bitnetc_import::Options;
use bitnetc_ir::DType;
use bitnetc_runtime::tokenizer::Tokenize;
use common::*;
use serde_json::Value;

const MODELS: [&str; 3] = ["bitnet_packed", "bitnet_master", "llama_packed"];

fn checkpoint(name: &str) -> PathBuf {
    data(&format!("checkpoints/{name}"))
}

/// Imports a checkpoint into a file of a temporary folder.
fn imported(folder: &Path, name: &str, options: &Options) -> PathBuf {
    let directory = checkpoint(name);
    let files = Files::open(&directory).unwrap();
    let import = check(&directory, &files, options).unwrap();
    let path = folder.join(format!("{name}-{}.gguf", options.target.name()));
    let bytes = write_import(&directory, &import, &path, |_| true).unwrap();
    assert_eq!((bytes, bytes), (import.file_bytes(), std::fs::metadata(&path).unwrap().len()));
    path
}

#[test]
fn a_checkpoint_gives_the_bits_of_the_same_model_as_gguf() {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        let record: Value =
            serde_json::from_slice(&std::fs::read(data(&format!("checkpoints/{name}.json"))).unwrap())
                .unwrap();
        let ids: Vec<u32> =
            record["ids"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
        let path = imported(folder.path(), name, &Options::default());
        let options = options_stored_head(DType::F32);
        let found = open(&path, &options);
        let original = open(&data(&format!("checkpoints/{name}.gguf")), &options);
        let logits = score(&found, &ids, 1);
        assert_same(name, &score(&original, &ids, 1), &logits);
        // Which are those of the model's definition.
        let expected = record["logits"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        let worst = expected
            .zip(logits.iter().flatten())
            .map(|(a, b)| (a.as_f64().unwrap() as f32 - b).abs())
            .fold(0.0, f32::max);
        assert!(worst <= 1e-3, "{name}: {worst}");
        let longer = random_tokens(5, 60, 261);
        assert_same(name, &score(&original, &longer, 2), &score(&found, &longer, 2));

        assert_eq!(found.chat_template, original.chat_template, "{name}");
        assert!(found.chat_template.is_some(), "{name}");
        for text in record["texts"].as_array().unwrap() {
            let ids: Vec<u32> =
                text["ids"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
            let text = text["text"].as_str().unwrap();
            assert_eq!(found.tokenizer.encode(text, true, true).unwrap(), ids, "{name}: {text}");
            assert_eq!(original.tokenizer.encode(text, true, true).unwrap(), ids, "{name}: {text}");
        }
    }
}

#[test]
fn every_target_that_fits_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = random_tokens(8, 30, 261);
    for name in ["bitnet_master", "llama_packed"] {
        let logits = |target| {
            let path = imported(folder.path(), name, &Options { target, ..Options::default() });
            score(&open(&path, &options(DType::F16)), &tokens, 2)
        };
        let expected = logits(TensorType::I2S);
        for target in [TensorType::Iq2Bn, TensorType::F16, TensorType::Bf16, TensorType::F32] {
            assert_same(target.name(), &expected, &logits(target));
        }
    }
    let directory = checkpoint("bitnet_packed");
    let files = Files::open(&directory).unwrap();
    let error = check(&directory, &files, &Options { target: TensorType::Tq2_0, ..Options::default() });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("rows of 128 elements, which TQ2_0 cannot store"), "{error}");
}

/// The text files of a checkpoint as other programs write them: older and newer names side by side, a byte order mark and
/// CRLF in front of and in JSON, half a surrogate pair, ids that stand for none, and more ends than GGUF has keys for.
#[test]
fn checkpoints_are_read_as_other_programs_write_them() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("checkpoint");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(checkpoint("llama_packed")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let read = || {
        let files = Files::open(&copy).unwrap();
        let import = check(&copy, &files, &Options::default());
        import.map(|import| {
            let path = folder.path().join("out.gguf");
            write_import(&copy, &import, &path, |_| true).unwrap();
            (std::fs::read(&path).unwrap(), import.notes().to_vec())
        })
    };
    let config: Value = serde_json::from_slice(&std::fs::read(copy.join("config.json")).unwrap()).unwrap();
    let with = |changes: &[(&str, Value)]| {
        let mut config = config.clone();
        for (key, value) in changes {
            config[*key] = value.clone();
        }
        std::fs::write(copy.join("config.json"), config.to_string()).unwrap();
        read()
    };
    let scaling = |kind: &str| serde_json::json!({"type": kind, "factor": 2.0});
    let both = serde_json::json!({
        "type": "linear", "rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 1.0
    });
    let (once, _) = with(&[("rope_scaling", scaling("linear"))]).unwrap();
    let (twice, _) = with(&[("rope_scaling", both)]).unwrap();
    assert!(once == twice);
    let differ = serde_json::json!({"type": "linear", "rope_type": "yarn", "factor": 2.0});
    let error = with(&[("rope_scaling", differ)]).unwrap_err().to_string();
    assert!(error.contains("rope_scaling") && error.contains("yarn"), "{error}");

    let (_, notes) =
        with(&[("pad_token_id", (-1).into()), ("eos_token_id", vec![262, 263, 1, 2, 3].into())]).unwrap();
    assert!(notes.iter().any(|note| note.contains("pad_token_id is -1")), "{notes:?}");
    let many = open(&folder.path().join("out.gguf"), &options(DType::F16));
    for end in [262, 263, 1, 2, 3] {
        assert!(many.tokenizer.end_tokens().contains(&end), "{:?}", many.tokenizer.end_tokens());
    }

    let (plain, _) = with(&[]).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let Ok(text) = std::fs::read_to_string(copy.join(file)) else { continue };
        // A string that nothing is made of.
        let text = text.replacen('{', "{\r\n\"unused\": \"\\ud800\",", 1);
        std::fs::write(copy.join(file), format!("\u{feff}{text}\r\n")).unwrap();
    }
    assert!(read().unwrap().0 == plain);
}

fn run(args: &[&str], cache: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bitnetc"))
        .args(args)
        .env("HF_HUB_CACHE", cache)
        .env_remove("HF_HOME")
        .output()
        .unwrap()
}

/// What was said, without the line breaks and the frame around it.
fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).chars().filter(|c| !c.is_whitespace() && *c != '│').collect()
}

#[test]
fn a_repository_is_taken_from_the_cache_or_refused() {
    let cache = tempfile::tempdir().unwrap();
    let output = cache.path().join("out.gguf");
    let out = output.to_str().unwrap();
    let found = run(&["-q", "import", "hf:some/model", "-o", out], cache.path());
    assert_eq!(found.status.code(), Some(1));
    let message = self::message(&found);
    assert!(message.contains("bitnetcmodelspullhf:some/model") && !output.exists(), "{message}");

    let commit = "89abcdef0123456789abcdef0123456789abcdef";
    let repository = cache.path().join("models--some--model");
    let snapshot = repository.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), commit).unwrap();
    for entry in std::fs::read_dir(checkpoint("llama_packed")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
    }
    let found = run(&["-q", "import", "hf:some/model", "-o", out, "--json"], cache.path());
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!((report["architecture"].as_str(), report["tensors"].as_u64()), (Some("llama"), Some(21)));

    // A shard is missing; a weight is none; nothing is replaced.
    let before = std::fs::read(&output).unwrap();
    let shard = snapshot.join("model-00002-of-00003.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::remove_file(&shard).unwrap();
    let found = run(&["-q", "import", "hf:some/model", "-o", out], cache.path());
    let message = self::message(&found);
    assert_eq!(found.status.code(), Some(3), "{message}");
    assert!(message.contains("model-00002-of-00003.safetensorsismissing"), "{message}");
    let mut bad = bytes.clone();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bad[start..].fill(0xff);
    std::fs::write(&shard, &bad).unwrap();
    let found = run(&["-q", "import", "hf:some/model", "-o", out], cache.path());
    assert_eq!(found.status.code(), Some(3));
    assert_eq!(std::fs::read(&output).unwrap(), before);
    let left = std::fs::read_dir(cache.path()).unwrap().count();
    assert_eq!(left, 2, "a temporary file is left");
}
