//! Runs `tests/filetests/passes/*/*.bir` and compares with snapshots.
//!
//! The first line says what to run: `; test pass=PIPELINE` (perhaps with ` weights=PACKING` and then
//! ` target=TARGET`), or `; test default pipeline` for one snapshot
//! after every pass that changed something. A second line `; expect unchanged` demands that no patch is made
//! and nothing but the stage changes. A second line `; head: FORMAT` asks for a packed head: then the results may differ
//! by its rounding. Every file is also checked for the properties of passes: same bits,
//! nothing to do the second time.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use bitnetc_ir::{Module, Stage, TargetDesc, text};
use bitnetc_passes::{ALL_PASSES, DumpIr, HeadFormat, PassContext, Pipeline, WeightPacking, run, run_with};
use common::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests/passes")
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../snapshots/passes"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
            match entry.is_dir() {
                true => dirs.push(entry),
                false => found.push(entry),
            }
        }
    }
    found.sort();
    found
}

fn count(patches: u64) -> String {
    format!("{patches} patch{}", if patches == 1 { "" } else { "es" })
}

/// What a file asks for beside its passes.
struct Asked {
    target: TargetDesc,
    packing: WeightPacking,
    head: HeadFormat,
    unchanged: bool,
}

fn check_pass(name: &str, passes: &str, asked: Asked, module: &Module) {
    let Asked { target, packing, head, unchanged } = asked;
    let run_text = |passes: &str, module: &Module| {
        let context = PassContext { weights: packing, head, ..PassContext::new(target.clone()) };
        run(&pipeline(passes), module.clone(), &context)
    };
    let snapshot = match run_text(passes, module) {
        Err(e) => {
            assert!(!unchanged, "{name}: {e}");
            format!("; {passes}: error\n{e}\n")
        }
        Ok((after, report)) => {
            let expected = Expected::of(module, weights_for(module));
            match head {
                HeadFormat::Stored => expected.assert_same_bits(&after, name),
                // Capped logits are far below what they were.
                HeadFormat::Screened { .. } => expected.assert_close(&after, name, 0.6),
                _ => expected.assert_close(&after, name, 0.15),
            }
            let (again, second) = run_text(passes, &after).unwrap_or_else(|e| panic!("{name} again: {e}"));
            assert_eq!(second.patches(), 0, "{name} again");
            assert_eq!(text::print(&again), text::print(&after), "{name} again");
            if unchanged {
                let mut staged = module.clone();
                staged.stage = after.stage;
                assert_eq!(report.patches(), 0, "{name}");
                staged.target = after.target.clone();
                assert_eq!(text::print(&staged), text::print(&after), "{name}");
            }
            format!("; {passes}: {}\n{}", count(report.patches()), text::print(&after))
        }
    };
    settings().bind(|| insta::assert_snapshot!(name, snapshot));
}

fn check_pipeline(name: &str, module: &Module) {
    let expected = Expected::of(module, weights_for(module));
    let mut dumps = Vec::new();
    let mut dump = DumpIr::new(|file: &str, text: &str| dumps.push((file.to_owned(), text.to_owned())));
    let context = PassContext::new(target());
    let (after, report) = run_with(&Pipeline::default(), module.clone(), &context, &mut [&mut dump]).unwrap();
    assert_eq!(after.stage, Stage::Planned);
    let changed: Vec<String> = (1..)
        .zip(&report.passes)
        .filter(|(_, p)| p.changed)
        .map(|(i, p)| format!("{i:02}-{}.bir", p.pass))
        .collect();
    let names: Vec<&str> = dumps.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(names[0], "00-imported.bir");
    assert_eq!(names[1..], changed);
    for (file, text) in &dumps {
        let parsed = text::parse(text).unwrap_or_else(|e| panic!("{file}: {e}"));
        expected.assert_same_bits(&parsed, file);
        let snapshot = format!("{name}_{}", file.trim_end_matches(".bir"));
        settings().bind(|| insta::assert_snapshot!(snapshot, text::print(&parsed)));
    }
}

#[test]
fn files_match_their_snapshots() {
    let mut tested: Vec<String> = Vec::new();
    for path in files() {
        let source = fs::read_to_string(&path).unwrap();
        let relative = path.strip_prefix(root()).unwrap().with_extension("");
        let name = relative.to_str().unwrap().replace('/', "__");
        let module = text::parse(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut lines = source.lines();
        let header = lines.next().unwrap();
        let second = lines.next().unwrap_or_default();
        let unchanged = second == "; expect unchanged";
        let head = second.strip_prefix("; head: ").map_or(HeadFormat::Stored, |head| head.parse().unwrap());
        match header.strip_prefix("; test ") {
            Some("default pipeline") => check_pipeline(&name, &module),
            Some(test) => {
                let passes = test.strip_prefix("pass=").unwrap_or_else(|| panic!("{name}: {header}"));
                let (passes, target) = match passes.split_once(" target=") {
                    Some((passes, target)) => (passes, target.parse().unwrap()),
                    None => (passes, target()),
                };
                let (passes, packing) = match passes.split_once(" weights=") {
                    Some((passes, packing)) => (passes, packing.parse().unwrap()),
                    None => (passes, WeightPacking::TwoBits),
                };
                assert_eq!(name.split("__").next(), Some(passes), "file in the directory of its pass");
                check_pass(&name, passes, Asked { target, packing, head, unchanged }, &module);
                tested.push(passes.to_owned());
            }
            None => panic!("{name}: the first line must be `; test …`, it is {header}"),
        }
    }
    for pass in ALL_PASSES {
        assert!(tested.iter().any(|t| t == pass.name()), "no file tests {}", pass.id);
    }
}
