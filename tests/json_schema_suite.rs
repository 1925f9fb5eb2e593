//! The official test suite of JSON Schema (draft 2020-12): every instance is put through structured output.
//!
//! An instance counts as accepted if its text satisfies the form that is made of the schema: compact, with the keys of its
//! objects in any one order. A schema without any text accepts nothing. A schema that is refused is counted apart.

#[path = "common/bytes.rs"]
mod bytes;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use bitnetc::constraint::schema::SchemaError;
use bitnetc::constraint::{ConstraintError, Grammar, GrammarSource};
use bytes::{Bytes, accepts};
use serde_json::Value;

/// Most orders of an instance's keys that are tried.
const MAX_ORDERS: usize = 1_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/json_schema_test_suite")
}

/// The texts of a value, one for each order of its keys.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => {
            let mut all = vec![String::new()];
            for (at, item) in items.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                let item = texts(item);
                all = all
                    .iter()
                    .flat_map(|before| item.iter().map(move |text| format!("{before}{comma}{text}")))
                    .collect();
                all.truncate(MAX_ORDERS);
            }
            all.into_iter().map(|inner| format!("[{inner}]")).collect()
        }
        Value::Object(map) => {
            let members: Vec<Vec<String>> = map
                .iter()
                .map(|(key, value)| {
                    texts(value)
                        .into_iter()
                        .map(|text| format!("{}:{text}", Value::from(key.as_str())))
                        .collect()
                })
                .collect();
            let mut all = Vec::new();
            orders(&members, &mut vec![false; members.len()], "", &mut all);
            all
        }
        other => vec![other.to_string()],
    }
}

fn orders(members: &[Vec<String>], used: &mut Vec<bool>, before: &str, all: &mut Vec<String>) {
    if all.len() >= MAX_ORDERS {
        return;
    }
    if used.iter().all(|&used| used) {
        all.push(format!("{{{before}}}"));
        return;
    }
    for at in 0..members.len() {
        if !std::mem::replace(&mut used[at], true) {
            for text in &members[at] {
                let comma = if before.is_empty() { "" } else { "," };
                orders(members, used, &format!("{before}{comma}{text}"), all);
            }
            used[at] = false;
        }
    }
}

/// What becomes of a schema.
enum Form {
    Made(Box<Grammar>),
    /// No text satisfies it.
    Empty,
    Refused(String),
}

fn form(bytes: &Bytes, schema: &Value) -> Form {
    match bytes.grammar(&GrammarSource::JsonSchema(schema.to_string())) {
        Ok(grammar) => Form::Made(Box::new(grammar)),
        Err(ConstraintError::Empty { .. } | ConstraintError::Schema(SchemaError::Empty { .. })) => {
            Form::Empty
        }
        Err(error) => Form::Refused(error.to_string()),
    }
}

/// Why an instance is not taken as the suite has it: every disagreement has one of these reasons.
fn reason(file: &str, group: &str, test: &str, accepted: bool) -> Option<&'static str> {
    let number = ["float", "0.0", "1.0", "bignum", "overflow"].iter().any(|word| test.contains(word));
    Some(match (file, accepted) {
        ("format.json", false) => "formats are assertions",
        ("optional/format/idn-hostname.json", true) => "idn-hostname is an annotation",
        ("optional/format/regex.json" | "optional/format/ecmascript-regex.json", true) => {
            "regex is an annotation"
        }
        ("optional/format/hostname.json", false) if group.contains("A-label") => {
            "hostnames in punycode are not made"
        }
        ("optional/format/time.json" | "optional/format/date-time.json", false)
            if test.contains("leap second") =>
        {
            "leap seconds are made in UTC only"
        }
        ("vocabulary.json", false) => "the vocabularies of other metaschemas are not read",
        (_, false) if number => "an integer is written without point and exponent",
        _ => return None,
    })
}

/// How often what happened.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    agree: usize,
    refused: usize,
    /// Valid instances that are not made.
    stricter: usize,
    /// Instances that are made and not valid.
    looser: usize,
}

#[test]
fn every_instance_of_the_suite_is_taken_as_it_should_be() {
    let root = folder().join("draft2020-12");
    let mut files = Vec::new();
    for under in ["", "optional", "optional/format"] {
        for entry in std::fs::read_dir(root.join(under)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path);
            }
        }
    }
    files.sort();
    let bytes = Bytes::new();
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    let mut listed = String::new();
    for path in &files {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        let part = match file.rsplit_once('/') {
            Some((part, _)) => {
                ["optional", "optional/format"].into_iter().find(|name| *name == part).unwrap()
            }
            None => "required",
        };
        let counts = counts.entry(part).or_default();
        let groups: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            let name = group["description"].as_str().unwrap();
            let form = form(&bytes, &group["schema"]);
            let tests = group["tests"].as_array().unwrap();
            if let Form::Refused(message) = &form {
                counts.refused += tests.len();
                writeln!(listed, "refused ({}): {file}: {name}: {message}", tests.len()).unwrap();
                continue;
            }
            for test in tests {
                let accepted = match &form {
                    Form::Made(grammar) => texts(&test["data"]).iter().any(|text| accepts(grammar, text)),
                    _ => false,
                };
                let about = test["description"].as_str().unwrap();
                if accepted == test["valid"].as_bool().unwrap() {
                    counts.agree += 1;
                    continue;
                }
                let why = reason(&file, name, about, accepted);
                let why = why.unwrap_or_else(|| {
                    panic!("{file}: {name}: {about}: accepted {accepted}, {}", group["schema"])
                });
                let kind = if accepted { "looser" } else { "stricter" };
                *(if accepted { &mut counts.looser } else { &mut counts.stricter }) += 1;
                writeln!(listed, "{kind} ({why}): {file}: {name}: {about}").unwrap();
            }
        }
    }
    let list = folder().join("disagreements.txt");
    if std::env::var_os("BITNETC_BLESS").is_some() {
        std::fs::write(&list, &listed).unwrap();
    }
    for (part, agree, refused, stricter, looser) in
        [("required", 980, 292, 27, 0), ("optional", 152, 7, 3, 0), ("optional/format", 683, 0, 20, 61)]
    {
        assert_eq!(counts[part], Counts { agree, refused, stricter, looser }, "{part}");
    }
    assert_eq!(std::fs::read_to_string(list).unwrap(), listed, "BITNETC_BLESS=1 writes it");
}
