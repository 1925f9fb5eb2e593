//! `bitnetc inspect`: parameters and bits a weight; the metadata of any GGUF, also of one that cannot be run; and nothing of a
//! file that reaches the terminal as it is.

use std::path::Path;
use std::process::{Command, Output};

use bitnetc_frontend_gguf::testing::{GgufWriter, MetaValue, TinyModel};
use serde_json::Value;

fn inspect(path: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bitnetc")).arg("inspect").arg(path).args(args).output().unwrap()
}

fn report(path: &Path, args: &[&str]) -> Value {
    let output = inspect(path, &[&["--json"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(path: &Path, args: &[&str]) -> String {
    String::from_utf8(inspect(path, args).stdout).unwrap()
}

struct Files(tempfile::TempDir);

impl Files {
    fn write(&self, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn files() -> Files {
    Files(tempfile::tempdir().unwrap())
}

/// The model with its tensors changed.
fn with(change: impl FnOnce(&mut GgufWriter)) -> Vec<u8> {
    let mut writer = TinyModel::default().writer();
    change(&mut writer);
    writer.build()
}

#[test]
fn parameters_add_up_and_bits_are_those_of_the_file() {
    let files = files();
    let path = files.write("model.gguf", &TinyModel::default().to_gguf());
    let report = report(&path, &["--tensors"]);
    let p = &report["parameters"];
    let of = |kind: &str| p[kind].as_u64().unwrap();
    let elements = |tensor: &Value| -> u64 {
        let dims: Vec<u64> = serde_json::from_str(tensor["dims"].as_str().unwrap()).unwrap();
        dims.iter().product()
    };
    let list = report["tensors"]["list"].as_array().unwrap();
    assert_eq!(of("total"), list.iter().map(elements).sum::<u64>());
    assert_eq!(of("total"), of("ternary") + of("embedding") + of("other"));
    let ternary = || list.iter().filter(|t| t["type"] == "I2_S");
    assert_eq!(of("ternary"), ternary().map(elements).sum::<u64>());
    let bits = |bytes: u64, of: u64| 8.0 * bytes as f64 / of as f64;
    let bytes = ternary().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(p["bits_per_ternary_weight"], bits(bytes, of("ternary")));
    assert_eq!(p["bits_per_weight"], bits(report["file_bytes"].as_u64().unwrap(), of("total")));
    assert_eq!((&report["would_run"], &report["cannot_run"]), (&Value::Bool(true), &Value::Null));

    // A plan of it has the same parameters.
    let plan = files.0.path().join("model.plan");
    let compiled = Command::new(env!("CARGO_BIN_EXE_bitnetc"))
        .args(["-q", "compile"])
        .arg(&path)
        .arg("-o")
        .arg(&plan)
        .output()
        .unwrap();
    assert!(compiled.status.success());
    let planned = self::report(&plan, &[]);
    for kind in ["total", "ternary", "embedding", "other"] {
        assert_eq!(planned["parameters"][kind], p[kind], "{kind}");
    }
    assert_eq!(inspect(&plan, &["--stats"]).status.code(), Some(2));
}

#[test]
fn metadata_is_whole_in_json_and_short_in_text() {
    let files = files();
    let bytes = with(|w| {
        w.set("test.numbers", MetaValue::I32s((0..1000).collect()));
        w.set("test.text", MetaValue::String("x".repeat(5000)));
        w.set("test.nan", MetaValue::F32(f32::NAN));
    });
    let path = files.write("model.gguf", &bytes);
    let report = report(&path, &[]);
    let entry = |key: &str| {
        report["metadata"].as_array().unwrap().iter().find(|entry| entry["key"] == key).unwrap().clone()
    };
    assert_eq!(entry("test.numbers")["type"], "array of i32");
    assert_eq!(entry("test.numbers")["value"].as_array().unwrap().len(), 1000);
    assert_eq!(entry("test.text")["value"].as_str().unwrap().len(), 5000);
    assert_eq!((&entry("test.nan")["type"], &entry("test.nan")["value"]), (&"f32".into(), &"NaN".into()));
    let text = text(&path, &[]);
    let line = |key: &str| text.lines().find(|line| line.trim_start().starts_with(key)).unwrap().to_owned();
    assert!(line("test.numbers").ends_with("[0, 1, 2, 3, 4, 5, …] (1000 elements)"), "{text}");
    assert!(line("test.text").ends_with("…\" (5000 bytes)") && line("test.text").len() < 200, "{text}");
}

#[test]
fn files_that_cannot_be_run_are_read() {
    let files = files();
    let unknown = with(|w| w.set("general.architecture", MetaValue::String("mamba".to_owned())));
    let missing = with(|w| w.remove_tensor("output_norm.weight"));
    let vocabulary = with(|w| w.tensors.clear());
    let mut other = TinyModel::default().writer();
    other.tensor_mut("blk.0.ffn_up.weight").ty = 9999;
    let one_of_many = with(|w| {
        for (key, value) in [("split.no", 0), ("split.count", 3), ("split.tensors.count", 99)] {
            w.set(key, MetaValue::I32(value));
        }
    });
    for (name, bytes, words) in [
        ("unknown.gguf", unknown, "mamba"),
        ("missing.gguf", missing, "output_norm.weight"),
        ("vocabulary.gguf", vocabulary, "no tensors"),
        ("other.gguf", other.build(), "9999"),
        ("part.gguf", one_of_many, "3 parts"),
    ] {
        let path = files.write(name, &bytes);
        let report = report(&path, &[]);
        assert_eq!(report["would_run"], false, "{name}");
        assert!(report["cannot_run"].as_str().unwrap().contains(words), "{name}: {}", report["cannot_run"]);
        assert!(report["metadata"].as_array().unwrap().len() > 5, "{name}");
        assert!(report["parameters"]["total"].is_u64(), "{name}");
        let text = text(&path, &["--tensors", "--stats"]);
        assert_eq!(text.lines().filter(|line| line.starts_with("cannot run")).count(), 1, "{text}");
        // It would be refused, and --verify says so.
        let verified = inspect(&path, &["--verify"]);
        assert_eq!(verified.status.code(), Some(3), "{name}");
        assert!(String::from_utf8_lossy(&verified.stdout).contains("would run"), "{name}");
    }
}

#[test]
fn text_of_a_file_is_escaped() {
    let files = files();
    let evil = "\u{1b}]0;taken\u{7}\u{9b}2J\r\u{202e}x";
    let bytes = with(|w| {
        for key in ["general.name", "general.architecture"] {
            w.set(key, MetaValue::String(evil.to_owned()));
        }
        w.set("test.\u{202e}key", MetaValue::Strings(vec![evil.into(); 3]));
    });
    let path = files.write("evil.gguf", &bytes);
    for args in [&[][..], &["--tensors"], &["--json"], &["--verify"]] {
        let text = String::from_utf8(inspect(&path, args).stdout).unwrap();
        let raw: Vec<char> = text.chars().filter(|c| c.is_control() && *c != '\n').collect();
        assert!(raw.is_empty() && text.contains("taken"), "{args:?}: {raw:?}");
        assert!(args.contains(&"--json") || !text.contains('\u{202e}'), "{args:?}");
    }
    assert!(!report(&path, &[])["metadata"][0]["value"].is_null());
}
