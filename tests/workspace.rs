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
        ("jinja", &[]),
        ("codegen", &["ir"]),
        ("runtime", &["codegen", "ir"]),
    ]);
    for (name, allowed) in allowed {
        assert_eq!(edges(&root().join(name).join("Cargo.toml")), allowed, "edges of {name}");
    }
    let all = ["codegen", "frontend-gguf", "import", "ir", "jinja", "passes", "runtime"];
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
    for dir in [
        "src",
        "ir/src",
        "frontend-gguf/src",
        "import/src",
        "passes/src",
        "codegen/src",
        "runtime/src",
        "jinja/src",
    ] {
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
        "jinja/src/lib.rs",
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

/// Options in a text: `--` and a name.
fn options_in(text: &str) -> std::collections::BTreeSet<&str> {
    let is_name = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let found = text.match_indices("--").filter_map(|(at, _)| {
        let before = text[..at].bytes().next_back();
        let name = &text[at + 2..];
        let name = &name[..name.bytes().take_while(is_name).count()];
        let starts = before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'-');
        (starts && name.starts_with(|c: char| c.is_ascii_lowercase())).then(|| &text[at..at + 2 + name.len()])
    });
    found.collect()
}

#[test]
fn options_in_the_guides_are_tried_by_tests() {
    assert_eq!(Vec::from_iter(options_in("a --b-2 `--c`=1 d--e ---- | --f")), ["--b-2", "--c", "--f"]);
    let mut tests = Vec::new();
    let mut folders = vec![root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|e| e.to_str()) {
                _ if path.is_dir() => folders.push(path),
                Some("rs" | "md") => tests.push(fs::read_to_string(&path).unwrap()),
                _ => {}
            }
        }
    }
    let tests = tests.concat();
    let tried = options_in(&tests);
    let guides = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    // The reference is made from the arguments themselves.
    for path in guides.filter(|path| path.is_file() && !path.ends_with("cli.md")) {
        let text = fs::read_to_string(&path).unwrap();
        let own: String = text.lines().filter(|line| !line.contains("cargo ")).collect::<Vec<_>>().join("\n");
        for option in options_in(&own) {
            assert!(tried.contains(option), "{}: no test uses {option}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}
