//! The shape of the workspace: which crate may depend on which, where `unsafe` may stand, and that the tools' files agree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The `bitnetc-*` crates in the sections of a manifest that matter for the build.
fn edges(manifest: &Path) -> Vec<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let mut section = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim();
        } else if section == "[dependencies]" || section == "[build-dependencies]" {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if let Some(short) = name.strip_prefix("bitnetc-") {
                found.push(short.to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn crates_depend_in_one_direction() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("ir", &[][..]),
        ("frontend-gguf", &["ir"]),
        ("import", &["frontend-gguf", "ir"]),
        ("passes", &["ir"]),
        ("codegen", &["ir"]),
        ("runtime", &["codegen", "ir"]),
    ]);
    for (name, allowed) in allowed {
        assert_eq!(edges(&root().join(name).join("Cargo.toml")), allowed, "edges of {name}");
    }
    let all = ["codegen", "frontend-gguf", "import", "ir", "passes", "runtime"];
    assert_eq!(edges(&root().join("Cargo.toml")), all, "edges of the facade");
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in
        ["src", "ir/src", "frontend-gguf/src", "import/src", "passes/src", "codegen/src", "runtime/src"]
    {
        rust_files(&root().join(dir), &mut files);
    }
    files
}

#[test]
fn unsafe_stands_in_three_files_only() {
    let rooms = ["codegen/src/image.rs", "runtime/src/call.rs", "runtime/src/map.rs"].map(|r| root().join(r));
    for file in sources().into_iter().filter(|f| !rooms.contains(f)) {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let found = ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| code.contains(word));
            assert!(!found, "{}:{}: {line}", file.display(), number + 1);
        }
    }
    for krate in [
        "src/lib.rs",
        "src/main.rs",
        "ir/src/lib.rs",
        "frontend-gguf/src/lib.rs",
        "import/src/lib.rs",
        "passes/src/lib.rs",
    ] {
        let text = fs::read_to_string(root().join(krate)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{krate} must forbid unsafe code");
    }
}

#[test]
fn every_module_says_what_it_is() {
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} has no module documentation", file.display());
        let lines = text.lines().count();
        assert!(lines <= 800, "{} has {lines} lines: split it", file.display());
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let reasons = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    for line in section.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let name = line.split([' ', '=']).next().unwrap();
        if !name.starts_with("bitnetc-") {
            assert!(
                reasons.contains(&format!("`{name}`")),
                "docs/dependencies.md does not say why `{name}` is there"
            );
        }
    }
}
