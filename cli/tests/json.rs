//! What `--json` prints, compared with the tables of `docs/json.md`: every command is run, and each field must be documented with
//! its type, be there unless it is optional, and have the unit that its name says.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/completions_server.rs"]
#[allow(dead_code, unreachable_pub)]
mod completions_server;
#[path = "../../tests/common/hub_server.rs"]
#[allow(dead_code, unreachable_pub)]
mod hub_server;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bitnetc_frontend_gguf::testing::TinyModel;
use common::root;
use hub_server::Server;
use serde_json::Value;

/// A row of a table.
#[derive(Clone, Debug)]
struct Field {
    /// What a value can be: `string`, `integer`, `number`, `boolean`, `object`, `any`, `null`.
    types: Vec<String>,
    optional: bool,
    unit: String,
}

/// The fields of a schema by path: `a.b`, `a[].b`, and `a.*` for a map.
type Fields = BTreeMap<String, Field>;

/// A type that is a link to a table: `[memory](#memory)`.
fn shared(kind: &str) -> Option<&str> {
    kind.strip_prefix('[')?.split_once("](#").map(|(name, _)| name)
}

/// The tables below the headings, by heading.
fn tables(page: &str) -> BTreeMap<String, Vec<[String; 3]>> {
    let mut tables: BTreeMap<String, Vec<[String; 3]>> = BTreeMap::new();
    let mut heading = String::new();
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            heading = text.trim().to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", field, kind, unit, _, ""] = cells[..]
            && let Some(field) = field.strip_prefix('`').and_then(|field| field.strip_suffix('`'))
        {
            let row = [field, kind, unit].map(str::to_owned);
            tables.entry(heading.clone()).or_default().push(row);
        }
    }
    tables
}

/// The rows of a table with those of the tables that it refers to.
fn expand(tables: &BTreeMap<String, Vec<[String; 3]>>, heading: &str, prefix: &str, fields: &mut Fields) {
    for [name, kind, unit] in &tables[heading] {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let (kind, optional) =
            kind.strip_suffix(", optional").map_or((kind.as_str(), false), |kind| (kind, true));
        let mut types = Vec::new();
        for one in kind.split(" or ") {
            match shared(one) {
                Some(table) => {
                    types.push("object".to_owned());
                    expand(tables, table, &path, fields);
                }
                None => types.push(one.to_owned()),
            }
        }
        let field = Field { types, optional, unit: unit.clone() };
        assert!(fields.insert(path.clone(), field).is_none(), "{heading}: {path} is documented twice");
    }
}

/// All documented schemas.
fn documented() -> BTreeMap<String, Fields> {
    let page = std::fs::read_to_string(root().join("docs/json.md")).unwrap();
    let tables = tables(&page);
    let schemas = tables.keys().filter(|heading| heading.starts_with("bitnetc."));
    schemas
        .map(|schema| {
            let mut fields = Fields::new();
            expand(&tables, schema, "", &mut fields);
            (schema.clone(), fields)
        })
        .collect()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The differences of a value from what is documented of it.
fn differences(fields: &Fields, path: &str, value: &Value, found: &mut BTreeSet<String>) {
    if fields.get(path).is_some_and(|field| field.types.iter().any(|ty| ty == "any")) {
        return;
    }
    if let Value::Array(items) = value {
        let path = format!("{path}[]");
        items.iter().for_each(|item| differences(fields, &path, item, found));
        if items.is_empty() && !fields.keys().any(|known| known.starts_with(&path)) {
            found.insert(format!("{path} is not documented"));
        }
        return;
    }
    if !path.is_empty() {
        let Some(field) = fields.get(path) else {
            // `a: null` of an array is documented as `a`, its elements as `a[]`.
            found.insert(format!("{path} is not documented"));
            return;
        };
        let is = type_of(value);
        let fits = |ty: &String| ty == is || (ty == "number" && is == "integer");
        if !field.types.iter().any(fits) {
            found.insert(format!("{path} is {is}, documented as {}", field.types.join(" or ")));
        }
    }
    let Value::Object(map) = value else { return };
    let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let any = child("*");
    let is_map = fields.keys().any(|key| {
        key.strip_prefix(&any).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    });
    for (name, value) in map {
        let path = if is_map { any.clone() } else { child(name) };
        differences(fields, &path, value, found);
    }
    let required = fields.iter().filter(|(_, field)| !field.optional && !is_map).filter_map(|(key, _)| {
        let name = if path.is_empty() { key.as_str() } else { key.strip_prefix(path)?.strip_prefix('.')? };
        let name = name.trim_end_matches("[]");
        (!name.contains(['.', '['])).then_some(name)
    });
    for name in required.filter(|name| !map.contains_key(*name)) {
        found.insert(format!("{} is missing, and not documented as optional", child(name)));
    }
}

/// The names that say a unit, and the unit.
const UNITS: [(&str, &str); 6] = [
    ("bytes_per_second", "bytes/s"),
    ("macs_per_second", "MAC/s"),
    ("tokens_per_second", "tokens/s"),
    ("bytes", "bytes"),
    ("_ms", "ms"),
    ("_ns", "ns"),
];

/// The unit that the name of a field, or of what it is in, says.
fn unit_of_name(path: &str) -> &'static str {
    let names = path.rsplit('.').map(|name| name.trim_end_matches("[]"));
    let of_name = |name: &str| UNITS.iter().find(|(end, _)| name.ends_with(end)).map(|(_, unit)| *unit);
    names.filter_map(of_name).next().unwrap_or("")
}

#[test]
fn names_say_their_units() {
    for (schema, fields) in documented() {
        for (path, field) in fields {
            let is_number = field.types.iter().any(|ty| ty == "integer" || ty == "number");
            let units: Vec<&str> = UNITS.iter().map(|(_, unit)| *unit).collect();
            let named = unit_of_name(&path);
            if !is_number || path.ends_with("bytes_per_token") {
                continue;
            }
            assert!(named.is_empty() || field.unit == named, "{schema} {path}: {} is documented", field.unit);
            assert!(
                !units.contains(&field.unit.as_str()) || named == field.unit,
                "{schema} {path}: {}",
                field.unit
            );
        }
    }
}

/// Every schema that the sources name is documented.
#[test]
fn all_schemas_are_documented() {
    let page = std::fs::read_to_string(root().join("docs/json.md")).unwrap();
    let mut names = BTreeSet::new();
    for folder in ["cli/src", "tools/src", "src/chat"] {
        schemas_in(&root().join(folder), &mut names);
    }
    assert!(names.len() > 25, "{names:?}");
    let missing: Vec<&String> = names.iter().filter(|name| !page.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/json.md does not name {missing:?}");
}

fn schemas_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            schemas_in(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let strings = text.split('"').filter(|part| part.starts_with("bitnetc.") && part.len() < 40);
            names.extend(strings.filter(|name| name.contains('/')).map(str::to_owned));
        }
    }
}

/// Runs commands in a folder and collects what they print.
struct Runs {
    folder: tempfile::TempDir,
    seen: BTreeMap<String, Vec<Value>>,
    endpoint: String,
}

impl Runs {
    fn output(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
        command.args(args).env_clear().env("HOME", self.folder.path()).env("HF_ENDPOINT", &self.endpoint);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that ends with `code`; its objects must be documented, on stdout all and on stderr those with a schema.
    fn run(&mut self, code: i32, args: &[&str]) {
        let output = self.output(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        let mut objects = Vec::new();
        for value in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>() {
            objects.push(value.unwrap_or_else(|error| panic!("{args:?}: {error}")));
        }
        if let Some(at) = said.find("{\n") {
            objects.extend(serde_json::from_str::<Value>(&said[at..]));
        }
        assert!(!objects.is_empty(), "{args:?} printed no object: {said}");
        for object in objects {
            let schema = object["schema"].as_str().unwrap_or_else(|| panic!("{args:?}: no schema: {object}"));
            self.seen.entry(schema.to_owned()).or_default().push(object.clone());
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }
}

#[test]
fn every_command_prints_what_is_documented() {
    let tiny = TinyModel::default().to_gguf();
    let server = Server::new(&[("tiny.gguf", tiny.clone())]);
    let folder = tempfile::tempdir().unwrap();
    let mut runs = Runs { folder, seen: BTreeMap::new(), endpoint: server.endpoint.clone() };
    let cases = root().join("cli/tests/cli");
    let ir = |name: &str| cases.join("ir-tools.in").join(name).display().to_string();
    let checkpoint = cases.join("import.in/bitnet").display().to_string();
    runs.write("tiny.gguf", &tiny);
    runs.write("prompts.txt", b"he\nhello\n");
    runs.write("text.txt", b"To be, or not to be, that is the question");

    runs.run(0, &["compile", "tiny.gguf", "-o", "tiny.plan", "--json", "--time-passes", "--pass-stats"]);
    runs.run(0, &["run", "tiny.plan", "-p", "he", "-n", "3", "-s", "1", "--json", "--logprobs", "2"]);
    runs.run(0, &["run", "-p", "he", "-n", "3", "-s", "1", "--json"]);
    runs.run(0, &["chat", "-p", "he", "--single-turn", "-n", "3", "-s", "1", "--json"]);
    runs.run(0, &["tokenize", "shakespeare-5m", "hello", "--json"]);
    runs.run(0, &["detokenize", "1,2", "--json"]);
    runs.run(0, &["batch", "prompts.txt", "-o", "answers.jsonl", "-n", "2", "--json", "-t", "1"]);
    runs.run(0, &["import", &checkpoint, "-o", "imported.gguf", "--json"]);
    for options in [&[][..], &["--tensors", "--stats", "--verify"]] {
        runs.run(0, &[&["inspect", "shakespeare-5m", "--json"], options].concat());
    }
    runs.run(0, &["inspect", "tiny.plan", "--json", "--tensors", "--verify"]);
    runs.run(0, &["explain", "shakespeare-5m", "--json", "-t", "1"]);
    let measured =
        ["explain", "tiny.gguf", "--json", "--measure", "-r", "2", "-t", "1", "--limits-buffer", "1"];
    runs.run(0, &measured);
    runs.run(0, &["ir", "check", &ir("small.bir"), "--json"]);
    runs.run(0, &["ir", "diff", &ir("small.bir"), &ir("small.bir"), "--json"]);
    runs.run(1, &["ir", "diff", &ir("small.bir"), &ir("other.bir"), "--json"]);
    runs.run(0, &["ir", "opt", "--list-passes", "--json"]);
    runs.run(0, &["ir", "run", &ir("small.bir"), "--compare", "interp,jit", "--json"]);
    runs.run(0, &["logits", "tiny.gguf", "--tokens", "1,2", "-o", "logits.npy", "--json"]);
    runs.run(0, &["perplexity", "-f", "text.txt", "--json"]);
    runs.run(0, &["verify", "tiny.gguf", "--json"]);
    runs.run(0, &["synth", "--preset", "tiny", "-o", "synth.gguf", "--json"]);
    runs.run(0, &["doctor", "--no-measure", "--json"]);
    runs.run(0, &["doctor", "--json", "-t", "1"]);
    runs.run(0, &["config", "--json"]);
    runs.run(0, &["config", "path", "--json"]);
    runs.run(0, &["config", "init", "--json"]);
    runs.run(0, &["version", "--json"]);

    let bench = ["-p", "4", "-n", "2", "-r", "1", "-t", "1", "--limits-buffer", "1"];
    let options = ["--profile", "--startup", "--json"];
    let output = runs.output(&[&["bench", "tiny.plan"], &bench[..], &options[..]].concat());
    runs.write("before.json", &output.stdout);
    let compared = ["--compare", "before.json", "--threshold", "100"];
    runs.run(0, &[&["bench", "tiny.plan"], &bench[..], &options[..], &compared[..]].concat());
    let lines = ["--startup", "-o", "jsonl"];
    runs.run(0, &[&["bench", "tiny.plan"], &bench[..], &lines[..], &compared[..]].concat());
    runs.run(0, &[&["bench", "kernels", "tiny.plan", "--json"], &bench[..]].concat());
    runs.run(
        0,
        &[
            "bench",
            "passes",
            "tiny.gguf",
            "-p",
            "4",
            "-n",
            "1",
            "-r",
            "1",
            "-t",
            "1",
            "--pass",
            "cse",
            "--json",
        ],
    );
    runs.run(0, &["bench", "startup", "tiny.gguf", "-r", "1", "-t", "1", "--json"]);

    let stall = Some((64, std::time::Duration::from_millis(20)));
    let (url, _) = completions_server::start(completions_server::Behaviour {
        refuse_every: 3,
        cut_every: 4,
        stall,
        ..Default::default()
    });
    let served =
        ["bench", "serve", "--url", &url, "--json", "--prompt-tokens", "4..8", "--output-tokens", "9"];
    runs.run(0, &[&served[..], &["--clients", "1,2", "--requests", "4"]].concat());
    runs.run(0, &[&served[..], &["--rate", "100", "--requests", "3"]].concat());
    let mixed = ["bench", "serve", "--url", &url, "--json", "--mix", "sharegpt", "--clients", "1"];
    runs.run(0, &[&mixed[..], &["--requests", "2"]].concat());
    let (url, _) = completions_server::start(completions_server::Behaviour { stall, ..Default::default() });
    let lengths = ["--mix", "sharegpt", "--shared-prefix", "8"];
    let served = [&["bench", "serve", "--url", &url, "--json"][..], &lengths].concat();
    runs.run(0, &[&served[..], &["--clients", "1", "--requests", "2"]].concat());
    let burst = [
        "bench",
        "serve",
        "--url",
        &url,
        "--json",
        "--output-tokens",
        "20000",
        "--clients",
        "2",
        "--prompt-burst",
        "64",
        "-r",
        "1",
    ];
    runs.run(0, &burst);

    runs.run(0, &["pull", "hf:org/repo", "--json"]);
    runs.run(0, &["run", "hf:org/repo", "-p", "he", "-n", "1", "-s", "1", "--json"]);
    runs.run(0, &["list", "--json"]);
    runs.run(0, &["models", "path", "hf:org/repo", "--json"]);
    runs.run(0, &["rm", "hf:org/repo", "--json"]);
    runs.run(0, &["rm", "--plans", "--json"]);
    runs.run(2, &["run", "--sed", "1", "--json"]);
    runs.run(1, &["run", "absent.gguf", "--json"]);

    let documented = documented();
    let mut found = BTreeSet::new();
    for (schema, values) in &runs.seen {
        match documented.get(schema) {
            None => drop(found.insert(format!("{schema} has no section"))),
            Some(fields) => {
                let mut of_schema = BTreeSet::new();
                values.iter().for_each(|value| differences(fields, "", value, &mut of_schema));
                found.extend(of_schema.into_iter().map(|difference| format!("{schema}: {difference}")));
            }
        }
    }
    let unseen = documented.keys().filter(|schema| !runs.seen.contains_key(*schema));
    found.extend(unseen.map(|schema| format!("{schema} is documented, but no command has printed it")));
    if let Some(path) = std::env::var_os("BITNETC_JSON_SAMPLES") {
        std::fs::write(path, serde_json::to_vec(&runs.seen).unwrap()).unwrap();
    }
    assert!(found.is_empty(), "docs/json.md:\n{}", found.into_iter().collect::<Vec<_>>().join("\n"));
}

/// An error is a message on stderr in one line, and an object on stdout with `--json`.
#[test]
fn errors_are_objects_too() {
    let server = Server::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let runs = Runs { folder, seen: BTreeMap::new(), endpoint: server.endpoint.clone() };
    let long = "x".repeat(300) + ".gguf";
    for (args, code, part) in [
        (&["inspect", &long, "--json"][..], 1, "cannot open"),
        (&["run", "--top-p", "-1", "--json"], 2, "top"),
        (&["explain", "--nonsense", "--json"], 2, "--nonsense"),
        (&["rm", "shakespeare-5m", "--json"], 2, "built in"),
    ] {
        let output = runs.output(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&object["schema"], &object["error"]["exit_code"]),
            (&"bitnetc.error/1".into(), &code.into())
        );
        let message = object["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
        let said = String::from_utf8(output.stderr).unwrap();
        let line = said.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert_eq!(line, format!("error: {}", message.lines().next().unwrap()));
        // Without the option stdout stays empty.
        let without: Vec<&str> = args.iter().copied().filter(|arg| *arg != "--json").collect();
        assert!(runs.output(&without).stdout.is_empty(), "{without:?}");
    }
}

#[test]
fn a_field_that_is_not_documented_is_found() {
    let rows = tables(
        "## s\n| `a` | integer | | |\n| `b[].c` | string, optional | | |\n| `b[]` | object | | |\n| `m.*` | number | | |\n| `m` | object | | |\n",
    );
    let mut fields = Fields::new();
    expand(&rows, "s", "", &mut fields);
    let found = |text: &str| {
        let mut found = BTreeSet::new();
        differences(&fields, "", &serde_json::from_str(text).unwrap(), &mut found);
        found.len()
    };
    assert_eq!(found(r#"{"a":1,"b":[{"c":"x"},{}],"m":{"x":1,"y":2.5}}"#), 0);
    assert_eq!(found(r#"{"a":1,"b":[],"m":{}}"#), 0);
    for wrong in [
        r#"{"b":[],"m":{}}"#,
        r#"{"a":1.5,"b":[],"m":{}}"#,
        r#"{"a":1,"b":[{"d":1}],"m":{}}"#,
        r#"{"a":1,"b":[],"m":{"x":"1"}}"#,
        r#"{"a":1,"b":[],"m":{},"e":null}"#,
    ] {
        assert_eq!(found(wrong), 1, "{wrong}");
    }
}
