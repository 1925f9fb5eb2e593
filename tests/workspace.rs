//! The shape of the workspace: which crate may depend on which, where `unsafe` may stand, and that the tools' files agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
            if name == "bitnetc" || name.starts_with("bitnetc-") {
                found.push(name.strip_prefix("bitnetc-").unwrap_or(name).to_owned());
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
        ("threads", &[]),
        ("frontend-gguf", &["ir", "threads"]),
        ("import", &["frontend-gguf", "ir", "threads"]),
        ("passes", &["ir"]),
        ("jinja", &[]),
        ("page", &[]),
        ("codegen", &["ir", "threads"]),
        ("runtime", &["codegen", "ir", "threads"]),
        // The library.
        (".", &["codegen", "frontend-gguf", "import", "ir", "jinja", "passes", "runtime", "threads"]),
        ("serve", &["bitnetc", "page"]),
        ("tools", &["bitnetc", "codegen", "frontend-gguf", "ir", "page", "passes", "runtime", "threads"]),
        (
            "cli",
            &["bitnetc", "codegen", "frontend-gguf", "import", "ir", "passes", "runtime", "serve", "tools"],
        ),
        ("python", &["bitnetc", "cli", "tools"]),
    ]);
    for (name, allowed) in allowed {
        assert_eq!(edges(&root().join(name).join("Cargo.toml")), allowed, "edges of {name}");
    }
}

/// The packages that a package is built from, by what `cargo metadata` resolves, tests and build scripts left out.
fn closure(package: &str, features: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--offline", "--locked", "-p", package, "-e", "normal", "--prefix", "none"]);
    command.args(["--format", "{p}", "--no-default-features"]);
    let output = command.args(["--features", &features.join(",")]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Crates of a terminal, which a program that links the library has no use for.
const OF_A_TERMINAL: [&str; 8] = [
    "clap",
    "clap_complete",
    "clap_mangen",
    "indicatif",
    "rustyline",
    "signal-hook",
    "terminal_size",
    "toml",
];
/// Crates that reach the network, and their checks of what it brings.
const OF_THE_NETWORK: [&str; 6] = ["ureq", "rustls", "rustls-graviola", "graviola", "sha1", "sha2"];
/// Crates of the server, which the engine knows nothing of.
const OF_THE_SERVER: [&str; 4] = ["axum", "hyper", "tokio", "bitnetc-serve"];
const OF_GRAMMARS: [&str; 2] = ["llguidance", "toktrie"];

#[test]
fn a_program_links_what_it_uses() {
    let has = |closure: &BTreeSet<String>, names: &[&str]| -> Vec<String> {
        names.iter().filter(|name| closure.contains(**name)).map(|&name| name.to_owned()).collect()
    };
    let bare = closure("bitnetc", &[]);
    assert!(bare.contains("bitnetc-runtime") && bare.len() > 50, "{bare:?}");
    for features in [&[][..], &["grammar"], &["hub"], &["grammar", "hub"]] {
        let linked = closure("bitnetc", features);
        assert_eq!(has(&linked, &OF_A_TERMINAL), [""; 0], "{features:?}");
        assert_eq!(has(&linked, &OF_THE_SERVER), [""; 0], "{features:?}");
        let tools = has(&linked, &["bitnetc-tools", "bitnetc-cli"]);
        assert_eq!(tools, [""; 0], "{features:?}");
        let network = has(&linked, &OF_THE_NETWORK);
        let all: &[&str] = if features.contains(&"hub") { &OF_THE_NETWORK } else { &[] };
        assert_eq!(network, all, "{features:?}");
        let grammars: &[&str] = if features.contains(&"grammar") { &OF_GRAMMARS } else { &[] };
        assert_eq!(has(&linked, &OF_GRAMMARS), grammars, "{features:?}");
    }
    assert_eq!(has(&closure("bitnetc-cli", &["grammar"]), &OF_A_TERMINAL), OF_A_TERMINAL);
    assert_eq!(has(&closure("bitnetc-cli", &["grammar"]), &OF_THE_SERVER), [""; 0]);
    assert_eq!(has(&closure("bitnetc-cli", &["serve"]), &OF_THE_SERVER), OF_THE_SERVER);
}

#[test]
fn a_program_needs_the_library_alone() {
    for example in ["choose", "conversation", "json", "stream", "inspect_ir"] {
        let text = fs::read_to_string(root().join(format!("examples/{example}.rs"))).unwrap();
        assert!(text.contains("use bitnetc::") && !text.contains("bitnetc_"), "{example}");
    }
}

/// Lines of code outside of tests and comments.
fn code(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    lines.filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect()
}

#[test]
fn libraries_do_not_know_the_command_line() {
    let of_tests = |file: &Path| {
        file.components().any(|part| part.as_os_str() == "testing")
            || file.file_stem().is_some_and(|s| s == "tests")
    };
    for dir in LIBRARIES {
        let mut files = Vec::new();
        rust_files(&root().join(dir), &mut files);
        for file in files.into_iter().filter(|file| !of_tests(file)) {
            for line in code(&file) {
                let strings = line.contains('"') || !line.contains(';');
                let words: Vec<&str> = match strings {
                    true => options_in(&line).into_iter().collect(),
                    false => Vec::new(),
                };
                let command = line.contains("`bitnetc ") || line.contains("exit code");
                assert!(words.is_empty() && !command, "{}: {line}", file.display());
            }
        }
    }
    // Comments that become texts.
    let of_passes = bitnetc::passes::ALL_PASSES.iter().map(|pass| pass.description);
    let of_ops = bitnetc::ir::ALL_OPS.iter().map(|op| op.doc);
    for text in of_passes.chain(of_ops) {
        assert_eq!(options_in(text), BTreeSet::new(), "{text}");
    }
}

/// The crates of which a public function, field or variant of the library names something.
fn crates_in_signatures() -> BTreeSet<String> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let mut named = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let lines = lines_outside_of_tests(&text);
        let code: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        // What a `use` brings in, by name.
        let mut imported: Vec<(String, String)> = Vec::new();
        for item in code.split("\nuse ").skip(1).filter_map(|rest| rest.split(';').next()) {
            let krate = item.split("::").next().unwrap_or_default().trim();
            let names =
                item.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty());
            imported.extend(names.map(|name| (name.to_owned(), krate.to_owned())));
        }
        for item in code.split("pub ").skip(1) {
            let signature = item.split(['{', '}', ';', '=', '#']).next().unwrap_or_default();
            for word in signature.split(|c: char| !c.is_alphanumeric() && c != '_') {
                let of = imported.iter().filter(|(name, _)| name == word).map(|(_, krate)| krate);
                named.extend(
                    of.filter(|krate| !["std", "crate", "super", "self"].contains(&krate.as_str())).cloned(),
                );
            }
        }
    }
    named
}

#[test]
fn the_library_exports_what_its_signatures_name() {
    let named = crates_in_signatures();
    assert!(named.contains("bitnetc_runtime") && named.contains("serde_json"), "{named:?}");
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let exports: String = lib.split("\npub use ").skip(1).filter_map(|rest| rest.split(';').next()).collect();
    for krate in named {
        let whole = [format!("{krate} as "), format!("{krate},")].iter().any(|text| exports.contains(text));
        assert!(whole || exports.ends_with(&krate), "src/lib.rs does not export {krate}");
    }
}

/// Sections of a manifest in which a line enables the feature `testing` of some crate.
fn sections_that_enable_testing(manifest: &str) -> Vec<&str> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        let code = line.split('#').next().unwrap_or_default().trim();
        if code.starts_with('[') {
            section = code;
        } else if code.contains("testing\"") && !(section == "[features]" && code == "testing = []") {
            found.push(section);
        }
    }
    found
}

#[test]
fn no_product_contains_what_makes_test_data() {
    let wrong = "[features]\ntesting = []\ndefault = [\"testing\"]\nx = [\"bitnetc-ir/testing\"]\n\
                 [dependencies]\na = { features = [\"testing\"] }\n[dev-dependencies]\nb = { features = [\"testing\"] }";
    let sections = ["[features]", "[features]", "[dependencies]", "[dev-dependencies]"];
    assert_eq!(sections_that_enable_testing(wrong), sections);
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("resolver = \"3\""), "older resolvers give features of tests to products");
    let members = workspace.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    let mut enabled = 0;
    for member in members.split(',').map(|m| m.trim().trim_matches('"')).chain([""]) {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        for section in sections_that_enable_testing(&manifest) {
            assert_eq!(section, "[dev-dependencies]", "Cargo.toml of `{member}`");
            enabled += 1;
        }
    }
    assert!(enabled >= 4, "{enabled}");
    for (krate, module) in [("ir", "generate"), ("frontend-gguf", "testing")] {
        let lib = fs::read_to_string(root().join(krate).join("src/lib.rs")).unwrap();
        let gated = format!("#[cfg(feature = \"testing\")]\npub mod {module};");
        assert!(lib.contains(&gated), "{krate}: `{module}` is for tests only");
    }
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

/// The sources that a program which makes texts is built from.
const LIBRARIES: [&str; 9] = [
    "src",
    "ir/src",
    "threads/src",
    "frontend-gguf/src",
    "import/src",
    "passes/src",
    "codegen/src",
    "runtime/src",
    "jinja/src",
];

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in LIBRARIES.into_iter().chain(["page/src", "serve/src", "tools/src", "cli/src", "python/src"]) {
        rust_files(&root().join(dir), &mut files);
    }
    files
}

#[test]
fn unsafe_stands_in_three_files_only() {
    let rooms =
        ["codegen/src/image.rs", "runtime/src/machine/call.rs", "runtime/src/map.rs"].map(|r| root().join(r));
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
        "page/src/lib.rs",
        "serve/src/lib.rs",
        "tools/src/lib.rs",
        "cli/src/lib.rs",
        "cli/src/main.rs",
        "python/src/lib.rs",
        "ir/src/lib.rs",
        "threads/src/lib.rs",
        "frontend-gguf/src/lib.rs",
        "import/src/lib.rs",
        "passes/src/lib.rs",
        "jinja/src/lib.rs",
    ] {
        let text = fs::read_to_string(root().join(krate)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{krate} must forbid unsafe code");
    }
}

/// Where logits may be asked for: the engine, which makes texts; what scores texts that there are; what measures or explains the
/// machine; and where sequences are fed by definition.
const FEEDERS: [&str; 11] = [
    "src/engine/stepper.rs",
    "src/perplexity.rs",
    "src/likelihood.rs",
    "python/src/session.rs",
    "cli/src/logits.rs",
    "tools/src/bench/run.rs",
    "tools/src/bench/kernels.rs",
    "tools/src/explain/measure.rs",
    "tools/benches/",
    "runtime/src/machine/step.rs",
    "runtime/src/session.rs",
];

/// Where a line looks like a feed and makes no logits: an error of a feed.
const NO_FEEDERS: [&str; 1] = ["runtime/src/error.rs"];

/// The lines of a file with their numbers, without comments and without its modules of tests.
fn lines_outside_of_tests(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if line == "#[cfg(test)]" {
            let item = lines.next().map_or("", |(line, _)| line);
            if item.starts_with("mod ") && item.ends_with('{') {
                lines.by_ref().take_while(|(line, _)| *line != "}").for_each(drop);
            }
            continue;
        }
        kept.push((number, line.split("//").next().unwrap_or_default()));
    }
    kept
}

#[test]
fn texts_are_made_in_the_engine_alone() {
    let text =
        "a.feed(1);\n#[cfg(test)]\nmod tests {\n    b.feed(2);\n}\nc.feed(3); // d\n#[cfg(test)]\nuse e;\nf";
    assert_eq!(lines_outside_of_tests(text), [(1, "a.feed(1);"), (6, "c.feed(3); "), (9, "f")]);
    let mut files = Vec::new();
    // What can name a machine.
    for dir in ["src", "runtime/src", "tools/src", "cli/src", "python/src", "tools/benches", "examples"] {
        rust_files(&root().join(dir), &mut files);
    }
    let mut fed = BTreeSet::new();
    for file in files.into_iter().filter(|file| file.file_stem().is_none_or(|name| name != "tests")) {
        let path = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in lines_outside_of_tests(&text) {
            // Whatever it is called: only a feed or a score makes logits.
            let feeds = line.contains("Feed {") && !line.contains("SessionError::Feed");
            if feeds || line.contains(".feed(") || line.contains(".score(") {
                let place = FEEDERS.iter().chain(&NO_FEEDERS).find(|place| path.starts_with(**place));
                let place =
                    place.unwrap_or_else(|| panic!("{path}:{number}: {line}: texts are made in src/engine"));
                fed.insert(*place);
            }
        }
    }
    let allowed = BTreeSet::from_iter(FEEDERS.into_iter().chain(NO_FEEDERS));
    assert_eq!(fed, allowed, "a place without such a line need not be allowed");
}

/// The modules of the library that a line names.
fn modules_in(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""))
}

#[test]
fn texts_and_requests_are_free_of_connections() {
    const OF_CONNECTIONS: [&str; 7] =
        ["axum", "hyper", "tokio", "std::net", "async fn", "async move", ".await"];
    /// A folder, and the modules of the library that it may build on; `None`: any but those above it.
    const LAYERS: [(&str, Option<&[&str]>); 5] = [
        ("src/engine", Some(&["engine", "error", "constraint", "Error"])),
        ("src/constraint", Some(&["constraint", "percent"])),
        ("src/api", None),
        ("src/tools", None),
        ("src/chat", None),
    ];
    assert_eq!(Vec::from_iter(modules_in("use crate::engine::{a, crate::api};")), ["engine", "api"]);
    let mut seen = BTreeSet::new();
    for (folder, below) in LAYERS {
        let mut files = Vec::new();
        rust_files(&root().join(folder), &mut files);
        assert!(files.len() > 3, "{folder}");
        for file in files.into_iter().filter(|file| file.file_stem().is_none_or(|name| name != "tests")) {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in lines_outside_of_tests(&text) {
                let place = format!("{}:{number}: {line}", file.display());
                assert!(!OF_CONNECTIONS.iter().any(|word| line.contains(word)), "{place}");
                for module in modules_in(line) {
                    seen.insert(module.to_owned());
                    let allowed = match below {
                        Some(below) => below.contains(&module),
                        None => {
                            module != "batch" && module != "store" && (folder == "src/api" || module != "api")
                        }
                    };
                    assert!(allowed, "{place}");
                }
            }
        }
    }
    assert!(seen.contains("engine") && seen.contains("constraint"), "{seen:?}");
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
        if name != "bitnetc" && !name.starts_with("bitnetc-") {
            assert!(
                reasons.contains(&format!("`{name}`")),
                "docs/dependencies.md does not say why `{name}` is there"
            );
        }
    }
}

/// Options in a text: `--` and a name.
fn options_in(text: &str) -> BTreeSet<&str> {
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
    let mut folders = vec![root().join("tests"), root().join("cli/tests"), root().join("tools/tests")];
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
    // The reference is made from the arguments themselves; `deploy/tests` and `python/tests` try what their guides say.
    const OTHERS: [&str; 3] = ["cli.md", "scaling.md", "python.md"];
    for path in guides.filter(|path| path.is_file() && !OTHERS.iter().any(|other| path.ends_with(other))) {
        let text = fs::read_to_string(&path).unwrap();
        // Tables of the options of other programs are made from a table too, each entry of which a test of its own tries.
        let (before, rest) = text.split_once("by a test: begin -->").unwrap_or((&text, ""));
        let text = format!("{before}{}", rest.split_once("<!-- end -->").map_or("", |(_, after)| after));
        let own: String = text
            .lines()
            .filter(|line| {
                !["cargo ", "systemctl ", "maturin ", "lm_eval "].iter().any(|other| line.contains(other))
            })
            .collect::<Vec<_>>()
            .join("\n");
        for option in options_in(&own) {
            assert!(tried.contains(option), "{}: no test uses {option}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}
