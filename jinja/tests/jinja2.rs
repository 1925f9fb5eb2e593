//! What templates give is what Jinja2 gives: vectors of `tests/data`, and a file of more if `BITNETC_TEMPLATE_VECTORS`
//! names one.

#[path = "../../fuzz/checks/template.rs"]
mod template;

use std::path::PathBuf;

use bitnetc_jinja::{Limits, Origin, Template, Variables};
use serde_json::Value;

fn data(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The time at which the vectors were made.
fn time(format: &str) -> Result<String, String> {
    let fields = [
        ("%Y", "2025"),
        ("%m", "03"),
        ("%d", "09"),
        ("%H", "14"),
        ("%M", "05"),
        ("%S", "07"),
        ("%b", "Mar"),
        ("%A", "Sunday"),
        ("%B", "March"),
        ("%y", "25"),
        ("%j", "068"),
        ("%I", "02"),
        ("%p", "PM"),
    ];
    Ok(fields.iter().fold(format.to_owned(), |text, (field, value)| text.replace(field, value)))
}

/// Why a template differs from its vector, if it does.
fn difference(case: &Value, variables: &Value) -> Option<String> {
    let source = case["template"].as_str().unwrap();
    let mut given = Variables::new();
    for (name, value) in variables.as_object().unwrap() {
        given.insert(name, value.clone(), Origin::User);
    }
    let result =
        Template::new(source).and_then(|template| template.render(&given, &Limits::default(), &time));
    match (result, case["text"].as_str()) {
        (Ok(rendered), Some(text)) if rendered.text == text => None,
        (Err(_), None) => None,
        (Ok(rendered), Some(text)) => {
            Some(format!("{source:?}\n  gives {:?}\n  not   {text:?}", rendered.text))
        }
        (Ok(rendered), None) => Some(format!(
            "{source:?}\n  gives {:?}\n  not {}: {}",
            rendered.text, case["error"], case["message"]
        )),
        (Err(error), Some(text)) => Some(format!("{source:?}\n  fails: {error}\n  not   {text:?}")),
    }
}

#[test]
fn documented_expressions() {
    let vectors = data("documented.json");
    let cases = vectors["cases"].as_array().unwrap();
    let different: Vec<String> =
        cases.iter().filter_map(|case| difference(case, &vectors["variables"])).collect();
    assert!(different.is_empty(), "{} of {}:\n{}", different.len(), cases.len(), different.join("\n"));
    assert!(cases.len() > 700, "{}", cases.len());
}

/// Random templates of the grammar in `fuzz/checks`, with what Jinja2 makes of them. Templates of the two known differences
/// (`docs/adr/0026-an-own-engine-for-templates.md`) are not among them.
#[test]
fn random_templates() {
    let vectors = data("random.json");
    let extra = std::env::var_os("BITNETC_TEMPLATE_VECTORS")
        .map(|path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap());
    let mut cases: Vec<&Value> = vectors.as_array().unwrap().iter().collect();
    cases.extend(extra.as_ref().and_then(Value::as_array).into_iter().flatten());
    let variables = template::variables();
    let different: Vec<String> = cases.iter().filter_map(|case| difference(case, &variables)).collect();
    let ended = cases.iter().filter(|case| case["text"].is_string()).count();
    println!("{} templates, {ended} with a text, {} different", cases.len(), different.len());
    assert!(different.is_empty(), "{} of {}:\n{}", different.len(), cases.len(), different.join("\n"));
    assert!(cases.len() >= 300 && ended > 60, "{} {ended}", cases.len());
}

/// Writes templates for `tests/data/jinja2.py`: as many as `BITNETC_TEMPLATES` says, into the file of `BITNETC_TEMPLATES_OUT`.
#[test]
#[ignore = "makes input for another program"]
fn write_random_templates() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = number("BITNETC_TEMPLATES").unwrap_or(1000);
    let first = number("BITNETC_TEMPLATES_FIRST").unwrap_or(0);
    let cases = (first..first + count).map(|seed| {
        let bytes = random_bytes(seed, 4 + (seed % 30) as usize);
        serde_json::json!({ "template": template::template(&bytes), "variables": template::variables() })
    });
    let text = serde_json::to_string(&cases.collect::<Vec<_>>()).unwrap();
    std::fs::write(
        std::env::var_os("BITNETC_TEMPLATES_OUT").expect("BITNETC_TEMPLATES_OUT names a file"),
        text,
    )
    .unwrap();
}

fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(next).collect()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]

    /// Random templates end within their limits, and keep origins.
    #[test]
    fn templates_end(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = template::check(&bytes);
    }
}
