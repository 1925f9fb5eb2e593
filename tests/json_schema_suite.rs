//! The official test suite of JSON Schema (draft 2020-12): every instance is put through structured output.
//!
//! An instance counts as accepted if its text satisfies the form that is made of the schema: compact, with the keys of its
//! objects in any one order. A schema without any text accepts nothing. A schema that is refused is counted apart.

#[path = "common/bytes.rs"]
mod bytes;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnetc::constraint::schema::SchemaError;
use bitnetc::constraint::{Compiling, ConstraintError, Grammar, GrammarSource};
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

#[test]
fn schemas_as_generators_write_them() {
    let bytes = Bytes::new();
    let large = r###"{"type":"object","properties":{"id":{"type":"integer","minimum":0,"maximum":18446744073709551615},
        "name":{"type":"string","maxLength":3},"tags":{"type":"array","items":{"$ref":"#/$defs/t"}}},"required":["id"],
        "$defs":{"t":{"anyOf":[{"const":9007199254740993},{"type":"null"}]}}}"###;
    let union = r###"{"oneOf":[{"$ref":"#/$defs/Cat"},{"$ref":"#/$defs/Dog"}],"discriminator":{"propertyName":"kind"},"$defs":{
        "Cat":{"type":"object","properties":{"kind":{"const":"cat"},"lives":{"type":"integer"}},"required":["kind","lives"]},
        "Dog":{"type":"object","properties":{"kind":{"const":"dog"}},"required":["kind"]}}}"###;
    let tree = r###"{"$defs":{"a~b%/c":{"type":"object","properties":{"next":{"$ref":"#/$defs/a~0b%25~1c"},
        "v":{"$ref":"#v"}},"additionalProperties":false,"required":["v"]},"v":{"$anchor":"v","type":"boolean"}},
        "$ref":"#/$defs/a~0b%25~1c"}"###;
    let when = r###"{"type":"object","properties":{"kind":{"enum":["card","cash"]},"number":{"type":"string"}},"required":["kind"],
        "if":{"properties":{"kind":{"const":"card"}}},"then":{"required":["number"]},"additionalProperties":false}"###;
    for (schema, good, bad) in [
        (
            r###"{"type":"string","format":"path","maxLength":8}"###,
            &["\"x/y z\""][..],
            &["\"123456789\""][..],
        ),
        (r###"{"type":"integer","format":"int64"}"###, &["7", "-7"], &["7.5"]),
        (r###"{"format":"regex"}"###, &["\"(\"", "1"], &[]),
        (r###"{"format":"uri-reference"}"###, &["\"../a?b#c\"", "\"\""], &["\"a b\""]),
        (
            r###"{"type":"array","uniqueItems":false,"items":{"type":"null"}}"###,
            &["[]", "[null,null]"],
            &["[1]"],
        ),
        (
            r###"{"type":"integer","minimum":9007199254740993,"maximum":9007199254740995}"###,
            &["9007199254740993", "9007199254740995"],
            &["9007199254740992", "9007199254740996", "9007199254740993.0"],
        ),
        (
            r###"{"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807}"###,
            &["-9223372036854775808", "9223372036854775807", "0", "-1"],
            &["-9223372036854775809", "9223372036854775808", "007"],
        ),
        (
            r###"{"enum":[9007199254740993,"x",1]}"###,
            &["9007199254740993", "\"x\"", "1"],
            &["9007199254740992"],
        ),
        (
            large,
            &[
                r###"{"id":18446744073709551615}"###,
                "{\n  \"id\": 1,\n  \"tags\": [9007199254740993, null]\n}",
                r###"{"id":1,"x":[{}],"y":2}"###,
            ],
            &[
                r###"{"id":18446744073709551616}"###,
                r###"{"id":1,"name":"abcd"}"###,
                r###"{"name":"a"}"###,
                r###"{"id":1,"tags":[9007199254740992]}"###,
            ],
        ),
        (
            union,
            &[r###"{"kind":"cat","lives":9}"###, r###"{"kind":"dog","lives":"x"}"###],
            &[r###"{"kind":"cat"}"###, r###"{"kind":"cow"}"###],
        ),
        (
            tree,
            &[r###"{"next":{"v":true},"v":false}"###],
            &[r###"{"next":{},"v":false}"###, r###"{"v":1}"###],
        ),
        (
            when,
            &[r###"{"kind":"cash"}"###, r###"{"kind":"card","number":"1"}"###],
            &[r###"{"kind":"card"}"###, "{}"],
        ),
        // A further property is no second spelling of a named one.
        (
            r###"{"properties":{"foo":{"type":"integer"}}}"###,
            &[r###"{"foo":1,"bar":"x"}"###],
            &[r###"{"\u0066oo":"x"}"###, r###"{"foo":"x"}"###],
        ),
        (r###"{"const":"a\u0001b"}"###, &[r###""a\u0001b""###], &["\"ab\""]),
        ("true", &["1", "[{}]"], &["x"]),
        ("\u{feff}{\"type\":\"null\"}", &["null"], &["1"]),
    ] {
        let grammar = bytes.grammar(&GrammarSource::JsonSchema(schema.to_owned()));
        let grammar = grammar.unwrap_or_else(|e| panic!("{schema}: {e}"));
        for (texts, expected) in [(good, true), (bad, false)] {
            for text in texts {
                assert_eq!(accepts(&grammar, text), expected, "{schema}: {text}");
            }
        }
    }
}

#[test]
fn what_is_not_followed_is_refused_with_its_place() {
    let bytes = Bytes::new();
    for (schema, expected) in [
        (
            r###"{"properties":{"a/b":{"uniqueItems":true}}}"###,
            "at #/properties/a~1b/uniqueItems: uniqueItems is not supported",
        ),
        (r###"{"items":{"contains":{}}}"###, "at #/items/contains: contains is not supported"),
        (
            r###"{"properties":{"x":{"type":"string","pattern":"(?=a)b"}}}"###,
            "at #/properties/x: a pattern in it is not supported: look-around",
        ),
        (r###"{"anyOf":[{"type":"string","pattern":"\\bword"}]}"###, "at #/anyOf/0: look-around"),
        (
            r###"{"items":{"patternProperties":{"a":{},"b":{}}}}"###,
            "at #/items: several of its patternProperties",
        ),
        (r###"{"$ref":"other.json"}"###, "at #/$ref: there is no schema \"other.json\" in this document"),
        (r###"{"$ref":"#"}"###, "its references lead back to itself"),
        (
            r###"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"###,
            "no text satisfies the JSON schema",
        ),
        ("false", "no text satisfies the JSON schema"),
        (r###"{"type":"string","minLength":3,"maxLength":2}"###, "no text satisfies the JSON schema"),
        (r###"{"type":"nonsense"}"###, "wrong at #/type: there is no type \"nonsense\""),
        (
            r###"{"oneOf":[{"type":"string"},{"maxLength":3,"pattern":"a"}]}"###,
            "at #/oneOf: its alternatives may hold at once",
        ),
        (r###"{"not":{"pattern":"a"}}"###, "at #/not: this cannot be negated"),
        (
            r###"{"type":"number","maximum":9007199254740993}"###,
            "at #/maximum: the bound 9007199254740993 is too large",
        ),
        (r###"{"x-guidance":{"lenient":true}}"###, "x-guidance"),
        (r###"{"allOf":[{"const":9007199254740993},{"type":"integer"}]}"###, "integers beyond 2^53"),
        ("{", "the JSON schema is not JSON"),
        ("[]", "a schema must be an object, true or false"),
    ] {
        let error = match bytes.grammar(&GrammarSource::JsonSchema(schema.to_owned())) {
            Ok(_) => panic!("{schema} is followed"),
            Err(error) => error.to_string(),
        };
        assert!(
            error.contains(expected) && error.len() < 400 && error.lines().count() == 1,
            "{schema}: {error}"
        );
    }
}

/// Grammars that would explode are refused or followed in a time that does not grow with them.
#[test]
fn work_is_bounded() {
    let bytes = Arc::new(Bytes::new());
    let pairs = |n: usize, f: &dyn Fn(usize) -> String| (0..n).map(f).collect::<Vec<_>>().join(",");
    let chain = |n: usize| {
        let links = pairs(n, &|i| format!(r###""p{i}":{{"type":"object","$ref":"#/$defs/p{}"}}"###, i + 1));
        format!(r###"{{"$ref":"#/$defs/p0","$defs":{{{links},"p{n}":{{}}}}}}"###)
    };
    let any =
        r###"{"anyOf":[{"type":"string"},{"type":"integer"},{"properties":{"a":{"type":"string"}}}]}"###;
    let rules = (0..20_000).map(|i| format!("a{i}: a{}\n", i + 1)).collect::<String>();
    let start = std::time::Instant::now();
    for source in [
        GrammarSource::Regex(".*".repeat(200)),
        GrammarSource::Regex(".*".repeat(20_000)),
        GrammarSource::Regex("((a{1,1000}){1,1000}){1,1000}".to_owned()),
        GrammarSource::Regex(format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000))),
        GrammarSource::Lark(format!("start: {}", "\"ab\" ".repeat(150_000))),
        GrammarSource::Lark(format!("start: a0\n{rules}a20000: \"x\"\n")),
        GrammarSource::Gbnf(format!("root ::= {}", "\"ab\" ".repeat(150_000))),
        GrammarSource::JsonSchema(chain(3_000)),
        GrammarSource::JsonSchema(format!(r###"{{"allOf":[{}]}}"###, [any; 12].join(","))),
        GrammarSource::JsonSchema(format!(
            r###"{{"properties":{{{}}}}}"###,
            pairs(9_000, &|i| format!(r###""p{i}":{{"pattern":"^a{{{i}}}$"}}"###))
        )),
        GrammarSource::JsonSchema(format!("{}true{}", r###"{"not":"###.repeat(120), "}".repeat(120))),
        GrammarSource::JsonSchema(format!("{}true{}", r###"{"not":"###.repeat(12_000), "}".repeat(12_000))),
    ] {
        // Deep ones need the stack of the thread that grammars are compiled on.
        let bytes = Arc::clone(&bytes);
        let made = Compiling::start(move || Ok(Box::new(bytes.grammar(&source)?))).wait();
        let message = made.map_or_else(|error| error.to_string(), |_| String::new());
        assert!(message.len() < 600 && !message.contains("panic"), "{message}");
    }
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
}
