//! The guides in `docs/` show code that is in the tree: a block after `<!-- all of FILE -->` is the file, one after
//! `<!-- part of FILE -->` stands in it, line for line. The files that they name exist. What `docs/add-an-op.md` says about
//! the op table and about the places that a new op has to visit is compared with the sources. Every decision in `docs/adr/`
//! says whether it holds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bitnetc_ir::ALL_OPS;

const GUIDES: [(&str, usize); 4] =
    [("write-a-pass.md", 1), ("add-an-op.md", 8), ("write-a-kernel.md", 3), ("add-a-format.md", 3)];

/// Folders with code of the product.
const SOURCES: [&str; 9] = [
    "cli/src",
    "codegen/src",
    "frontend-gguf/src",
    "import/src",
    "ir/src",
    "passes/src",
    "runtime/src",
    "src",
    "tools/src",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust files below a folder, from the root.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false if path.extension().is_some_and(|e| e == "rs") => {
                    found.push(path.strip_prefix(root()).unwrap().to_owned());
                }
                false => {}
            }
        }
    }
    found
}

/// The variants of the enum of ops: `rms_norm` is `RmsNorm`.
fn variants() -> Vec<String> {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    ALL_OPS.iter().map(|info| info.mnemonic.split('_').map(capital).collect()).collect()
}

/// Whether `source` names the variant of the op.
fn names(source: &str, variant: &str) -> bool {
    let pattern = format!("Op::{variant}");
    source.match_indices(&pattern).any(|(at, _)| {
        !source[at + pattern.len()..].starts_with(|c: char| c.is_alphanumeric())
            && !source[..at].ends_with(|c: char| c.is_alphanumeric())
    })
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Blocks of a page: the words of the comment in front, and the lines.
fn blocks(page: &str) -> Vec<(bool, String, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(comment) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) else { continue };
        let (whole, file) = match comment.strip_prefix("all of ") {
            Some(file) => (true, file),
            None => match comment.strip_prefix("part of ") {
                Some(file) => (false, file),
                None => continue,
            },
        };
        assert_eq!(lines.next(), Some("```rust"), "after {line}");
        let code: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push((whole, file.to_owned(), code.join("\n") + "\n"));
    }
    found
}

#[test]
fn guides_show_what_is_there() {
    for (page, least) in GUIDES {
        let text = read(Path::new("docs").join(page));
        let blocks = blocks(&text);
        assert!(blocks.len() >= least, "{page} shows {} blocks", blocks.len());
        for (whole, file, code) in blocks {
            let source = read(&file);
            match whole {
                true => assert_eq!(code, source, "{page}: {file}"),
                false => assert!(source.contains(&code), "{page}: this is not in {file}:\n{code}"),
            }
        }
    }
}

#[test]
fn guides_name_files_that_exist() {
    for (page, _) in GUIDES {
        let text = read(Path::new("docs").join(page));
        let prose: String = text.split("```").step_by(2).collect();
        let is_path = |word: &&str| {
            let file = word.ends_with(".rs") || word.ends_with(".md") || word.ends_with(".js");
            word.contains('/')
                && (file || word.ends_with('/'))
                && !word.contains([' ', '*', '<', '('])
                && !word.contains("NAME")
        };
        for path in quoted(&prose).filter(is_path) {
            assert!(root().join(path).exists(), "{page} names {path}, which does not exist");
        }
    }
}

#[test]
fn the_guide_has_every_column_of_the_op_table() {
    let source = read("ir/src/ops.rs");
    let row = source.split("$method:ident {\n").nth(1).unwrap();
    let row = row.split("\n        }\n").next().unwrap();
    let columns: Vec<&str> =
        row.lines().filter_map(|line| line.trim().split_once(':')).map(|c| c.0).collect();
    let guide = read("docs/add-an-op.md");
    let table = guide.lines().skip_while(|line| !line.starts_with("| column |")).skip(2);
    let shown: Vec<&str> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| quoted(line).next().expect("a column's name"))
        .collect();
    assert_eq!(shown, columns, "the columns in docs/add-an-op.md, and in ir/src/ops.rs");
    assert!(columns.len() >= 10);
}

#[test]
fn the_guide_has_every_place_that_lists_all_ops() {
    let guide = read("docs/add-an-op.md");
    let section = guide.split("## 3. Where the compiler stops").nth(1).unwrap().split("###").next().unwrap();
    let items = section.lines().filter(|line| line.starts_with("- "));
    let shown: BTreeSet<String> = items.filter_map(|line| quoted(line).next()).map(str::to_owned).collect();
    let variants = variants();
    let lists_all = |path: &PathBuf| {
        let source = read(path);
        variants.iter().all(|variant| names(&source, variant))
    };
    let places = SOURCES.iter().flat_map(|folder| rust_files(folder)).filter(lists_all);
    let places: BTreeSet<String> = places.map(|path| path.to_string_lossy().into_owned()).collect();
    assert_eq!(shown, places, "the places in docs/add-an-op.md, and the files that match on every op");
}

#[test]
fn every_op_has_a_trial_and_a_class() {
    let trials: String = rust_files("codegen/tests/kernels").iter().map(read).collect();
    let page = read("tools/src/explain/page/base.js");
    for (info, variant) in ALL_OPS.iter().zip(variants()) {
        let tried = info.is_view() || names(&trials, &variant);
        assert!(tried, "no trial in codegen/tests/kernels runs Op::{variant}");
        let mnemonic = info.mnemonic;
        let class = page.contains(&format!("\"{mnemonic}\""));
        assert!(class, "tools/src/explain/page/base.js has no class for {mnemonic}");
    }
}

/// The numbers of the ADRs that `text` names.
fn adrs_named(text: &str) -> Vec<u32> {
    let after = text.split("ADR ").skip(1);
    after
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
        .collect()
}

/// The paragraph after the title is the status: what became of the decision, and by which other one.
#[test]
fn every_decision_has_a_status() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/adr");
    let mut pages: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    for (number, page) in (1u32..).zip(&pages) {
        let text = fs::read_to_string(page).unwrap();
        let name = page.display();
        let mut paragraphs = text.split("\n\n");
        let title = paragraphs.next().unwrap();
        assert!(title.starts_with(&format!("# {number}. ")), "{name}: its title is {title}");
        let status = paragraphs.next().and_then(|p| p.strip_prefix("Status: "));
        let status = status.unwrap_or_else(|| panic!("{name}: no paragraph `Status: …` after the title"));
        let word = status.split([';', '.', ' ']).next().unwrap();
        assert!(["proposed", "accepted", "superseded"].contains(&word), "{name}: {status}");
        assert!(status.ends_with('.'), "{name}: {status}");
        // What came of it is in a later decision, and one that has been replaced says by which.
        let others = adrs_named(status);
        assert!(others.iter().all(|&n| number < n && n <= pages.len() as u32), "{name}: {status}");
        assert!(word != "superseded" || !others.is_empty(), "{name}: {status}");
    }
}
