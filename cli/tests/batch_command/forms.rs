//! Structured output in batches, and generations that fail.

use std::path::Path;

use serde_json::{Value, json};

use crate::common;
use crate::process::{alone, builtin, finish, params, results, text_of};

/// Runs a batch of five requests of which `bad` cannot be answered, twice: five lines, four texts, and the second run has
/// nothing to do. The error.
fn four_of_five(folder: &Path, lines: &[String], more: &[&str]) -> Value {
    let (input, output) = (folder.join("in.jsonl"), folder.join("out.jsonl"));
    std::fs::write(&input, lines.join("\n")).unwrap();
    finish(&input, &output, more);
    let found = results(&output);
    assert_eq!(found.len(), 5);
    for (id, result) in found.iter().filter(|(id, _)| *id != "bad") {
        assert_eq!(result["response"]["status_code"], 200, "{id}");
    }
    let before = std::fs::read(&output).unwrap();
    finish(&input, &output, more);
    assert_eq!(std::fs::read(&output).unwrap(), before);
    // A run that was killed before the bad one: the same again.
    let cut: String =
        found.iter().filter(|(id, _)| *id != "bad").map(|(_, line)| format!("{line}\n")).collect();
    std::fs::write(&output, cut).unwrap();
    finish(&input, &output, more);
    let again = results(&output)["bad"]["response"].clone();
    let first = found["bad"]["response"].clone();
    assert_eq!(first, again);
    first
}

#[test]
fn a_form_in_any_spelling_is_followed_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let boolean = json!({ "type": "boolean" });
    let login = json!({
        "type": "object",
        "properties": {
            "home": { "type": "string", "format": "path", "maxLength": 8 },
            "key": { "type": "string", "format": "password", "writeOnly": true, "maxLength": 8 },
        },
        "required": ["home", "key"],
        "additionalProperties": false,
    });
    let gbnf = "root ::= \"yes\"";
    let is_boolean = |text: &str| ["true", "false"].contains(&text);
    let has_login = |text: &str| {
        serde_json::from_str::<Value>(text)
            .is_ok_and(|value| value["home"].is_string() && value["key"].is_string())
    };
    type Holds<'h> = &'h dyn Fn(&str) -> bool;
    let followed: [(&str, Value, Holds<'_>); 10] = [
        ("object", json!({ "response_format": { "type": "json_object", "schema": boolean } }), &is_boolean),
        ("schema", json!({ "response_format": { "type": "json_schema", "schema": boolean } }), &is_boolean),
        (
            "formats",
            json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": login } } }),
            &has_login,
        ),
        ("grammar", json!({ "grammar": gbnf }), &|text| text == "yes"),
        ("lark", json!({ "grammar": "start: \"no\"" }), &|text| text == "no"),
        ("json_schema", json!({ "json_schema": boolean }), &is_boolean),
        ("guided_json", json!({ "guided_json": boolean }), &is_boolean),
        ("guided_regex", json!({ "guided_regex": "[0-9]{3}" }), &|text| {
            text.len() == 3 && text.parse::<u32>().is_ok()
        }),
        ("guided_choice", json!({ "guided_choice": ["left.", "right?"] }), &|text| {
            ["left.", "right?"].contains(&text)
        }),
        ("structured", json!({ "structured_outputs": { "grammar": gbnf } }), &|text| text == "yes"),
    ];
    let refused = [
        ("two", json!({ "grammar": gbnf, "guided_json": boolean }), "guided_json"),
        ("lazy", json!({ "grammar": gbnf, "grammar_lazy": true }), "grammar_lazy"),
        ("circle", json!({ "json_schema": { "$ref": "#" } }), "json_schema"),
        ("empty", json!({ "guided_regex": "[^\\s\\S]" }), "guided_regex"),
        ("wrong", json!({ "guided_grammar": "root ::= (" }), "guided_grammar"),
        ("unique", json!({ "guided_json": { "type": "array", "uniqueItems": true } }), "guided_json"),
    ];
    let line = |id: &str, more: &Value| {
        let mut body = json!({ "prompt": "ROMEO:", "max_tokens": 200, "temperature": 0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "custom_id": id, "url": "/v1/completions", "body": body }).to_string()
    };
    let mut lines: Vec<String> = followed.iter().map(|(id, more, _)| line(id, more)).collect();
    lines.extend(refused.iter().map(|(id, more, _)| line(id, more)));
    std::fs::write(&input, lines.join("\n")).unwrap();
    finish(&input, &output, &["--parallel", "4"]);
    let found = results(&output);
    assert_eq!(found.len(), followed.len() + refused.len());
    for (id, _, holds) in followed {
        let response = &found[id]["response"];
        assert_eq!(response["status_code"], 200, "{response}");
        let text = response["body"]["choices"][0]["text"].as_str().unwrap();
        assert!(holds(text), "{id}: {text:?}");
    }
    for (id, _, field) in refused {
        let response = &found[id]["response"];
        assert_eq!(
            (&response["status_code"], &response["body"]["error"]["param"]),
            (&json!(400), &json!(field)),
            "{id}"
        );
        let message = response["body"]["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(field) && !message.contains("NoExtension") && message.len() < 300,
            "{message}"
        );
    }
}

#[test]
fn a_grammar_that_explodes_is_a_line_with_its_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = builtin();
    for pattern in ["^(([a-z]{1,200}){1,200}x){1,200}$".to_owned(), ".*".repeat(200)] {
        let schema = json!({ "type": "string", "pattern": pattern });
        let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
        let line = |id: &str, more: Value| {
            let mut body = json!({ "prompt": "ROMEO:", "max_tokens": 12, "seed": 7 });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "custom_id": id, "url": "/v1/completions", "body": body }).to_string()
        };
        let lines = [
            line("a", json!({})),
            line("b", json!({})),
            // The limit is met on the way.
            line("bad", json!({ "response_format": format, "max_tokens": 300 })),
            line("c", json!({})),
            line("d", json!({})),
        ];
        let response = four_of_five(folder.path(), &lines, &["-t", "1", "--parallel", "2"]);
        assert_eq!(response["status_code"], 400, "{response}");
        let error = &response["body"]["error"];
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("response_format"), &json!("grammar_limit")),
            "{error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("line 3: response_format: ") && message.contains("limit of "),
            "{message}"
        );
        assert!(message.len() < 300 && !message.contains("lexer") && !message.contains('<'), "{message}");
        let texts = results(&folder.path().join("out.jsonl"));
        let expected = alone(&model, "ROMEO:", params(), 12).0;
        for id in ["a", "b", "c", "d"] {
            assert_eq!(text_of(&texts[id]), expected, "{id}");
        }
        std::fs::remove_file(folder.path().join("out.jsonl")).unwrap();
    }
}

#[test]
fn a_model_that_gives_nan_is_a_line_with_its_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("nan.gguf");
    std::fs::write(&model, common::poisoned::model_with_nan_after(5)).unwrap();
    let line = |id: &str, prompt: &[u32]| {
        let body = json!({ "prompt": prompt, "max_tokens": 1, "temperature": 0 });
        json!({ "custom_id": id, "url": "/v1/completions", "body": body }).to_string()
    };
    let lines = [
        line("a", &[256, 90]),
        line("b", &[256, 91]),
        line("bad", &[256, 5]),
        line("c", &[256, 92]),
        line("d", &[256, 90]),
    ];
    let args = ["-t", "1", "--parallel", "2", "-m", model.to_str().unwrap()];
    let response = four_of_five(folder.path(), &lines, &args);
    assert_eq!(response["status_code"], 500, "{response}");
    let error = &response["body"]["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("nan_logits")));
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("line 3: ") && message.contains("NaN"), "{message}");
    let texts = results(&folder.path().join("out.jsonl"));
    assert_eq!(text_of(&texts["a"]), text_of(&texts["d"]));
}
