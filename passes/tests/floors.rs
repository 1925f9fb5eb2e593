//! The floors of the crate: a file imports files on lower floors only. So a pass knows what a pass is, and neither another pass
//! nor what lists and runs the passes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files and folders, the lowest floor first. Those of one floor do not import each other; files of a folder may, unless the
/// folder is one of [`PASSES`].
const FLOORS: &[&[&str]] = &[
    &["choices", "names", "pass_id"],
    &["check_plan", "context", "patch"],
    &["error"],
    &["pass"],
    &["cost"],
    PASSES,
    &["list"],
    &["pipeline"],
    &["level", "report", "reproducer"],
    &["instruments"],
    &["manager"],
    &["bisect"],
];

/// Folders of passes, in which every file is on its own.
const PASSES: &[&str] = &["rewrites", "transforms"];

/// Imports that go up or sideways all the same: who places values in memory, lays out caches or predicts times asks the
/// schedule what runs when.
const EXCEPTIONS: &[(&str, &str)] =
    &[("cost", "transforms::schedule"), ("transforms::plan_memory", "transforms::schedule")];

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, found),
            false => found.push(path),
        }
    }
}

/// The room of a path of modules: a file or folder of [`FLOORS`], in [`PASSES`] a file.
fn room(path: &str) -> String {
    let mut segments = path.split("::");
    let first = segments.next().unwrap_or_default();
    match segments.next().filter(|_| PASSES.contains(&first)) {
        Some(file) => format!("{first}::{file}"),
        None => first.to_owned(),
    }
}

fn floor(room: &str) -> Option<usize> {
    let top = room.split("::").next()?;
    FLOORS.iter().position(|rooms| rooms.contains(&top))
}

/// What the code of a file (without its tests and comments) names of its crate, from the crate's root on. `parent`: the module
/// that `super` is.
fn imports(code: &str, parent: &str) -> BTreeSet<String> {
    let code = code.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code.lines().filter_map(|line| line.split("//").next()).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (root, prefix) in [("crate::", String::new()), ("super::", format!("{parent}::"))] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            let end = rest.find(|c| !is_path(c)).unwrap_or(rest.len());
            let (path, group) = (format!("{prefix}{}", &rest[..end]), rest[end..].strip_prefix('{'));
            match group.and_then(|group| group.split_once('}')) {
                Some((items, _)) => {
                    let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
                    found.extend(items.map(|item| format!("{path}{item}")));
                }
                None => {
                    found.insert(path);
                }
            }
        }
    }
    found
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let code = "//! [`crate::doc`]\nuse crate::a::b;\nuse crate::rewrites::{\n    c, d::E,\n};\nuse super::f::G;\n\
                fn f() { crate::h::i(); } // crate::j\n#[cfg(test)]\nmod tests { use crate::k; }";
    let found = imports(code, "rewrites");
    let expected = ["a::b", "h::i", "rewrites::c", "rewrites::d::E", "rewrites::f::G"];
    assert!(found.iter().map(String::as_str).eq(expected), "{found:?}");
    assert_eq!(room("rewrites::d::E"), "rewrites::d");
    assert_eq!(room("instruments::dump_ir::DumpIr"), "instruments");
}

#[test]
fn files_import_downwards_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut upwards = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for file in files.iter().filter(|file| !file.ends_with("lib.rs")) {
        let name = file.strip_prefix(&source).unwrap().with_extension("");
        let name = name.to_str().unwrap().replace('/', "::");
        let own = name.strip_suffix("::mod").unwrap_or(&name);
        let parent = name.rsplit_once("::").map_or("", |(parent, _)| parent);
        let from = room(own);
        let from_floor = floor(&from).unwrap_or_else(|| panic!("`{own}` has no floor in `FLOORS`"));
        seen.insert(from.clone());
        for import in imports(&fs::read_to_string(file).unwrap(), parent) {
            let to = room(&import);
            let to_floor =
                floor(&to).unwrap_or_else(|| panic!("{own}: name the file that `crate::{import}` stands in"));
            if to != from && to_floor >= from_floor {
                upwards.insert((from.clone(), to));
            }
        }
    }
    assert!(seen.len() > 25, "{seen:?}");
    let allowed: BTreeSet<(String, String)> =
        EXCEPTIONS.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
    assert!(allowed.len() <= 3, "import from a lower floor instead of adding an exception");
    let new: Vec<_> = upwards.difference(&allowed).collect();
    assert!(new.is_empty(), "these import a file that is not below them: {new:?}");
    let unused: Vec<_> = allowed.difference(&upwards).collect();
    assert!(unused.is_empty(), "these are exceptions without need: {unused:?}");
}
