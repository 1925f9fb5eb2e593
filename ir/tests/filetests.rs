//! Every `.bir` file under `tests/filetests/{parse,verify}`.
//!
//! A file of `verify` starts with `; error: code…`: it parses, and the verifier names exactly these rules. A file of `parse`
//! starts with `; ok`, and then it verifies and printing is stable, or with `; error at LINE: words`, and then the parser
//! refuses it on this line with these words in the message; a second line `; rule: code` says that the parser thereby keeps
//! a rule of the verifier.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bitnetc_ir::text::{parse, parse_mapped, print};
use bitnetc_ir::verify::{Rule, verify};

fn files(dir: &str) -> Vec<(String, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests").join(dir);
    let mut all: Vec<(String, String)> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "bir"))
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read_to_string(&path).unwrap(),
            )
        })
        .collect();
    all.sort();
    assert!(!all.is_empty(), "no files in {}", root.display());
    all
}

fn header<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().take_while(|l| l.starts_with(';')).find_map(|l| l.strip_prefix(key))
}

#[test]
fn verify_files_break_their_rules() {
    for (name, text) in files("verify") {
        let codes = header(&text, "; error: ").unwrap_or_else(|| panic!("{name}: no `; error: code`"));
        let module = parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let errors = verify(&module).expect_err(&name);
        let found: BTreeSet<&str> = errors.iter().map(|e| e.rule.code()).collect();
        assert_eq!(found, codes.split(' ').collect(), "{name}: {errors:#?}");
        assert_eq!(print(&parse(&print(&module)).unwrap()), print(&module), "{name}");
    }
}

#[test]
fn verify_errors_lead_to_the_text() {
    for (name, text) in files("verify") {
        let (module, spans) = parse_mapped(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        for error in verify(&module).expect_err(&name) {
            let shown = &text[spans.span(&module, error.anchor)];
            let wanted = match error.place.rsplit_once(", ") {
                None if error.place == "the module" => ";",
                None => error.place.as_str(),
                // The files use the names that are printed, so the place of an op is found in its text.
                Some((_, place)) => place.split(' ').next().unwrap_or(place),
            };
            assert!(shown.contains(wanted), "{name}: {} is shown as {shown:?}", error.place);
        }
    }
}

#[test]
fn parse_files() {
    let mut accepted = 0;
    for (name, text) in files("parse") {
        let result = parse(&text);
        match header(&text, "; error at ") {
            Some(expected) => {
                let error = result.expect_err(&name);
                let (line, words) = expected.split_once(": ").unwrap_or_else(|| panic!("{name}: {expected}"));
                assert_eq!(error.line.to_string(), line, "{name}: {error}");
                assert!(error.message.contains(words), "{name}: {error}");
                assert!(text.get(error.span.clone()).is_some(), "{name}: {:?}", error.span);
            }
            None => {
                assert!(text.starts_with("; ok\n"), "{name}: neither `; ok` nor `; error at`");
                accepted += 1;
                let module = result.unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(verify(&module), Ok(()), "{name}");
                let printed = print(&module);
                assert_eq!(print(&parse(&printed).unwrap()), printed, "{name}");
            }
        }
    }
    assert!(accepted >= 2);
}

#[test]
fn every_rule_has_a_test() {
    let mut tested: BTreeSet<String> = BTreeSet::new();
    for (_, text) in files("verify") {
        tested.extend(header(&text, "; error: ").into_iter().flat_map(|c| c.split(' ')).map(str::to_owned));
    }
    for (_, text) in files("parse") {
        tested.extend(header(&text, "; rule: ").map(str::to_owned));
    }
    // Only a module built in memory can break these: ir/tests/verify.rs and the unit tests of the verifier.
    tested.extend(
        ["graph-cycle", "graph-edges", "plan-input", "module-size", "func-size", "split-parts"]
            .map(str::to_owned),
    );
    let rules: BTreeSet<String> = Rule::ALL.iter().map(|r| r.code().to_owned()).collect();
    assert_eq!(tested, rules);
}
