//! What templates give is what Jinja2 gives: vectors of `tests/data`, and a file of more if `BITNETC_TEMPLATE_VECTORS`
//! names one.

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
        ("%Y", "2025"), ("%m", "03"), ("%d", "09"), ("%H", "14"), ("%M", "05"), ("%S", "07"), ("%b", "Mar"),
        ("%A", "Sunday"), ("%B", "March"), ("%y", "25"), ("%j", "068"), ("%I", "02"), ("%p", "PM"),
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
    let result = Template::new(source).and_then(|template| template.render(&given, &Limits::default(), &time));
    match (result, case["text"].as_str()) {
        (Ok(rendered), Some(text)) if rendered.text == text => None,
        (Err(_), None) => None,
        (Ok(rendered), Some(text)) => Some(format!("{source:?}\n  gives {:?}\n  not   {text:?}", rendered.text)),
        (Ok(rendered), None) => {
            Some(format!("{source:?}\n  gives {:?}\n  not {}: {}", rendered.text, case["error"], case["message"]))
        }
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
