//! `bitnetc batch`: the texts of single runs, and an output that survives being killed at any time.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bitnetc::Model;
use bitnetc::engine::{Completion, EngineOptions, GenerateOptions, Request, Stop};
use bitnetc_runtime::sampling::SamplingParams;
use common::tokens_by_hand;
use serde_json::{Value, json};

fn builtin() -> Model {
    Model::builtin().unwrap()
}

/// Prompts of many lengths.
fn prompts(count: usize) -> Vec<String> {
    let words =
        "ROMEO: what light through yonder window breaks, it is the east and JULIET is the sun arise fair";
    let words: Vec<&str> = words.split(' ').collect();
    (0..count)
        .map(|i| words.iter().cycle().skip(i * 3).take(1 + i * 7 % 29).copied().collect::<Vec<_>>().join(" "))
        .collect()
}

fn params() -> SamplingParams {
    SamplingParams { seed: 7, ..SamplingParams::default() }
}

/// The text of a prompt by a session of its own, as `bitnetc run` makes it, which is that of a session fed by hand.
fn alone(model: &Model, prompt: &str, params: SamplingParams, limit: u64) -> (String, Vec<u32>, Stop) {
    let ids = model.prompt(prompt).unwrap();
    let expected = tokens_by_hand(model.loaded(), &ids, params.clone(), limit as usize, false);
    let mut session = model.session_with(EngineOptions::single(model.context(), 1)).unwrap();
    let options = GenerateOptions { limit: Some(limit), ..GenerateOptions::default() };
    let end = session.follow(Request::new(ids, params, options).unwrap(), || true, |_| true).unwrap();
    assert_eq!(end.tokens, expected, "{prompt}");
    (end.text, end.tokens, end.finish)
}

fn bitnetc(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
    command.args(args).env("BITNETC_CONFIG", "").stdin(Stdio::null());
    command
}

fn start(input: &Path, output: &Path, more: &[&str]) -> Child {
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let args = [&["-q", "batch", input, "-o", output, "-s", "7"], more].concat();
    bitnetc(&args).stdout(Stdio::null()).spawn().unwrap()
}

fn finish(input: &Path, output: &Path, more: &[&str]) {
    assert!(start(input, output, more).wait().unwrap().success());
}

/// The results of a file by their ids; each is there once.
fn results(output: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(output).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
    let mut results = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        let id = value["custom_id"].as_str().unwrap().to_owned();
        assert!(results.insert(id.clone(), value).is_none(), "{id} is there twice");
    }
    results
}

fn text_of(result: &Value) -> &str {
    result["response"]["body"]["choices"][0]["text"].as_str().unwrap()
}

#[test]
fn texts_are_those_of_single_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    let prompts = prompts(64);
    std::fs::write(&input, prompts.join("\n")).unwrap();
    finish(&input, &output, &["-n", "20", "-t", "2"]);
    let results = results(&output);
    assert_eq!(results.len(), 64);
    let loaded = builtin();
    let mut ended = 0;
    for (i, prompt) in prompts.iter().enumerate() {
        let (text, tokens, stop) = alone(&loaded, prompt, params(), 20);
        let result = &results[&format!("line-{}", i + 1)];
        assert_eq!(text_of(result), text, "{prompt}");
        let body = &result["response"]["body"];
        assert_eq!(body["usage"]["completion_tokens"], tokens.len(), "{prompt}");
        let reason = if matches!(stop, Stop::EndToken(_)) { "stop" } else { "length" };
        assert_eq!(body["choices"][0]["finish_reason"], reason, "{prompt}");
        ended += usize::from(reason == "stop");
    }
    assert!(ended < 64);
}

#[test]
fn generations_of_all_kinds_run_side_by_side() {
    let loaded = builtin();
    let prompts = prompts(23);
    let settings = |i: usize| {
        let greedy = SamplingParams { seed: i as u64, ..SamplingParams::greedy() };
        let warm = SamplingParams { seed: i as u64, repeat_penalty: 1.3, ..SamplingParams::default() };
        (if i.is_multiple_of(3) { greedy } else { warm }, 1 + (i as u64 * 5) % 31)
    };
    let requests = prompts.iter().enumerate().map(|(i, prompt)| {
        let (params, limit) = settings(i);
        let options = GenerateOptions { limit: Some(limit), ..GenerateOptions::default() };
        (i, Request::new(loaded.prompt(prompt).unwrap(), params, options).unwrap())
    });
    let mut scheduler = loaded.scheduler(EngineOptions::of(128, 3, 5)).unwrap();
    let mut seen = vec![false; prompts.len()];
    let mut made = 0;
    let result = scheduler.complete_all(
        requests,
        || true,
        |i, result: Result<Completion, _>| {
            let completion = result.unwrap();
            let (params, limit) = settings(i);
            let (text, tokens, _) = alone(&loaded, &prompts[i], params, limit);
            assert_eq!((&completion.text, &completion.tokens), (&text, &tokens), "{i}");
            assert!(!std::mem::replace(&mut seen[i], true));
            made += tokens.len() as u64;
            Ok::<(), bitnetc::Error>(())
        },
    );
    result.unwrap();
    assert!(seen.iter().all(|&s| s));
    // Far fewer steps than tokens: they were taken together.
    assert!(scheduler.stats().steps * 2 < made, "{:?}", scheduler.stats());
}

#[test]
fn stop_strings_the_context_and_no_tokens_end_texts() {
    let model = builtin();
    let prompt = model.prompt("ROMEO:").unwrap();
    let (whole, tokens, _) = alone(&model, "ROMEO:", params(), 30);
    // A stop string that lies across tokens: the last characters of one and the first of the next.
    let first = model.tokenizer().decode_lossy(&tokens[..4], false);
    let at = first.len();
    let stop = whole[at.saturating_sub(1)..at + 1].to_owned();
    let expected = &whole[..whole.find(&stop).unwrap()];
    let of = |limit, stop: Vec<String>| {
        let options = GenerateOptions { limit, stop: stop.into(), ..GenerateOptions::default() };
        Request::new(prompt.clone(), params(), options).unwrap()
    };
    let requests = vec![
        (0, of(Some(30), vec!["\u{1f642}".to_owned(), stop, String::new()])),
        (1, of(Some(0), Vec::new())),
        (2, of(None, Vec::new())),
    ];
    let mut scheduler = model.scheduler(EngineOptions::of(64, 1, 2)).unwrap();
    let mut completions = BTreeMap::new();
    let done = |key, result: Result<Completion, _>| {
        completions.insert(key, result.unwrap());
        Ok::<(), bitnetc::Error>(())
    };
    scheduler.complete_all(requests, || true, done).unwrap();
    assert_eq!((completions[&0].text.as_str(), completions[&0].finish), (expected, Stop::StopString(1)));
    assert_eq!((completions[&1].text.as_str(), completions[&1].finish), ("", Stop::Limit));
    let full = &completions[&2];
    match full.finish {
        Stop::ContextFull => assert_eq!(full.prompt_tokens + full.tokens.len(), 65),
        finish => assert!(matches!(finish, Stop::EndToken(_))),
    }
}

#[test]
fn an_interruption_ends_the_work_and_says_so() {
    let model = builtin();
    let mut scheduler = model.scheduler(EngineOptions::of(64, 1, 2)).unwrap();
    let requests = (0..4).map(|key| {
        let options = GenerateOptions { limit: Some(30), ..GenerateOptions::default() };
        (key, Request::new(model.prompt("ROMEO:").unwrap(), params(), options).unwrap())
    });
    let mut steps = 0;
    let keep_going = || {
        steps += 1;
        steps < 5
    };
    let result = scheduler.complete_all(requests, keep_going, |_, _| Ok::<(), bitnetc::Error>(()));
    assert!(matches!(result, Err(bitnetc::Error::Interrupted)), "{result:?}");
    scheduler.step();
    assert_eq!(scheduler.running(), 0);
}

#[test]
fn errors_are_lines_too_and_do_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let line = |id: &str, url: &str, body: Value| {
        json!({ "custom_id": id, "method": "POST", "url": url, "body": body }).to_string()
    };
    let lines = [
        line(
            "good",
            "/v1/completions",
            json!({ "prompt": "ROMEO:", "max_tokens": 5, "seed": 7, "model": "x" }),
        ),
        line("role", "/v1/chat/completions", json!({ "messages": [{ "role": "User!", "content": "Hi" }] })),
        "this is no JSON".to_owned(),
        line("many", "/v1/completions", json!({ "prompt": "a", "n": 9 })),
        line("long", "/v1/completions", json!({ "prompt": "word ".repeat(3000) })),
        line("ids", "/v1/completions", json!({ "prompt": [1, 9_999_999] })),
        line("other", "/v1/completions", json!({ "prompt": "JULIET:", "max_tokens": 4, "temperature": 0 })),
    ];
    std::fs::write(&input, lines.join("\n")).unwrap();
    finish(&input, &output, &["--parallel", "3"]);
    let results = results(&output);
    assert_eq!(results.len(), lines.len());
    let loaded = builtin();
    assert_eq!(text_of(&results["good"]), alone(&loaded, "ROMEO:", params(), 5).0);
    let greedy = SamplingParams { temperature: 0.0, ..params() };
    assert_eq!(text_of(&results["other"]), alone(&loaded, "JULIET:", greedy, 4).0);
    for (id, param, code) in [
        ("role", json!("messages"), "invalid_value"),
        ("line-3", Value::Null, "invalid_json"),
        ("many", json!("n"), "invalid_value"),
        ("long", json!("prompt"), "context_length_exceeded"),
        ("ids", json!("prompt"), "invalid_value"),
    ] {
        let error = &results[id]["response"]["body"]["error"];
        assert_eq!(results[id]["response"]["status_code"], 400, "{id}");
        assert_eq!((&error["param"], &error["code"]), (&param, &json!(code)), "{id}");
        assert!(error["message"].as_str().unwrap().starts_with("line "), "{id}");
    }
    // A second run has nothing to do.
    let before = std::fs::read(&output).unwrap();
    finish(&input, &output, &[]);
    assert_eq!(std::fs::read(&output).unwrap(), before);
}

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

/// A line that asks for an answer to messages.
fn chat_line(id: &str, body: Value) -> String {
    json!({ "custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body }).to_string()
}

fn answer_of(result: &Value) -> &str {
    let choice = &result["response"]["body"]["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant", "{result}");
    choice["message"]["content"].as_str().unwrap()
}

/// What `bitnetc run --chat` answers.
fn run_chat(args: &[&str]) -> String {
    let out = bitnetc(&[&["-q", "run", "--chat", "-s", "7", "-n", "10"], args].concat()).output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().trim_end_matches('\n').to_owned()
}

#[test]
fn messages_are_answered_as_by_a_chat() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let user = |text: &str| json!({ "role": "user", "content": text });
    let system = json!({ "role": "system", "content": "Speak in verse." });
    let lines = [
        chat_line("one", json!({ "messages": [user("Who art thou?")] })),
        chat_line("two", json!({ "messages": [system, user("Who art thou?")] })),
        chat_line(
            "parts",
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Who art thou?" }] }] }),
        ),
        chat_line(
            "turns",
            json!({ "messages": [
                user("Who art thou?"), { "role": "assistant", "content": "Romeo" }, user("Nay"),
            ]}),
        ),
        chat_line("image", json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] })),
        chat_line("kwargs", json!({ "messages": [user("Hi")], "chat_template_kwargs": 1 })),
    ];
    std::fs::write(&input, lines.join("\n")).unwrap();
    finish(&input, &output, &["-n", "10", "--parallel", "2"]);
    let results = results(&output);
    assert_eq!(results.len(), lines.len());
    let one = run_chat(&["-p", "Who art thou?"]);
    assert!(!one.is_empty());
    assert_eq!(answer_of(&results["one"]), one);
    assert_eq!(answer_of(&results["parts"]), one);
    let two = run_chat(&["-p", "Who art thou?", "--sys", "Speak in verse."]);
    assert_eq!(answer_of(&results["two"]), two);
    let body = |id: &str| results[id]["response"]["body"].clone();
    assert!(
        body("turns")["usage"]["prompt_tokens"].as_u64() > body("one")["usage"]["prompt_tokens"].as_u64()
    );
    assert_eq!(body("one")["object"], "chat.completion");
    for (id, param) in [("image", "messages"), ("kwargs", "chat_template_kwargs")] {
        assert_eq!(body(id)["error"]["param"], param, "{id}");
    }

    // With another template: what that gives, and no control token comes of what users write.
    let other = folder.path().join("other.jsonl");
    finish(&input, &other, &["-n", "10", "--chat-template", "chatml"]);
    let others = self::results(&other);
    assert_eq!(
        answer_of(&others["two"]),
        run_chat(&["-p", "Who art thou?", "--sys", "Speak in verse.", "--chat-template", "chatml"])
    );
}

#[test]
fn answers_have_the_form_and_the_probabilities_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let schema = json!({ "type": "object", "properties": { "name": { "enum": ["Romeo", "Juliet"] } },
        "required": ["name"], "additionalProperties": false });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "who", "schema": schema } });
    let who = json!([{ "role": "user", "content": "Who?" }]);
    let greedy = SamplingParams { temperature: 0.0, ..params() };
    let (_, tokens, _) = alone(&builtin(), "ROMEO:", greedy, 4);
    let banned = json!({ tokens[0].to_string(): -100 });
    let text = |id: &str, body: Value| {
        json!({ "custom_id": id, "url": "/v1/completions", "body": body }).to_string()
    };
    let lines = [
        chat_line("form", json!({ "messages": who, "response_format": format, "max_tokens": 120 })),
        chat_line(
            "wrong",
            json!({ "messages": who, "response_format": { "type": "json_schema",
            "json_schema": { "schema": { "type": "nonsense" } } } }),
        ),
        chat_line("top", json!({ "messages": who, "logprobs": true, "top_logprobs": 2, "max_tokens": 3 })),
        text("list", json!({ "prompt": "ROMEO:", "logprobs": 1, "max_tokens": 3, "temperature": 0 })),
        text("free", json!({ "prompt": "ROMEO:", "max_tokens": 4, "temperature": 0 })),
        text("bias", json!({ "prompt": "ROMEO:", "max_tokens": 4, "temperature": 0, "logit_bias": banned })),
        text("far", json!({ "prompt": "ROMEO:", "logit_bias": { "99999": 1 } })),
    ];
    std::fs::write(&input, lines.join("\n")).unwrap();
    finish(&input, &output, &["--parallel", "3"]);
    let results = results(&output);
    let form: Value = serde_json::from_str(answer_of(&results["form"])).unwrap();
    assert!(["Romeo", "Juliet"].contains(&form["name"].as_str().unwrap()), "{form}");
    let choice = |id: &str| results[id]["response"]["body"]["choices"][0].clone();
    assert_eq!(choice("form")["finish_reason"], "stop");
    let content = choice("top")["logprobs"]["content"].clone();
    assert_eq!(content.as_array().unwrap().len(), 3);
    for token in content.as_array().unwrap() {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
        assert!(token["logprob"].as_f64().unwrap() <= 0.0 && token["bytes"].is_array());
    }
    let list = choice("list");
    let tokens: String =
        list["logprobs"]["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens, list["text"]);
    assert_eq!(list["logprobs"]["text_offset"][0], 0);
    assert_eq!(choice("free")["logprobs"], Value::Null);
    assert_ne!(choice("bias")["text"], choice("free")["text"]);
    for (id, param) in [("wrong", "response_format"), ("far", "logit_bias")] {
        assert_eq!(results[id]["response"]["body"]["error"]["param"], param, "{id}");
    }

    // A form for all requests.
    let (prompts, forms) = (folder.path().join("in.txt"), folder.path().join("forms.jsonl"));
    std::fs::write(&prompts, "ROMEO:\nJULIET:\n").unwrap();
    finish(&prompts, &forms, &["--regex", "[a-z]{3} [0-9]"]);
    for result in self::results(&forms).values() {
        let text = text_of(result);
        assert!(text.len() == 5 && text.as_bytes()[4].is_ascii_digit(), "{text}");
    }
}

#[test]
fn a_bad_template_refuses_messages_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let prompt =
        json!({ "custom_id": "text", "url": "/v1/completions", "body": { "prompt": "he", "max_tokens": 2 } });
    let chat = chat_line("chat", json!({ "messages": [{ "role": "user", "content": "Hi" }] }));
    std::fs::write(&input, format!("{chat}\n{prompt}\n")).unwrap();
    let model = folder.path().join("model.gguf");
    let bytes = {
        use bitnetc_frontend_gguf::testing::{MetaValue, TinyModel};
        let mut writer = TinyModel::default().writer();
        writer.set("tokenizer.chat_template", MetaValue::String("{% if %}".into()));
        writer.build()
    };
    std::fs::write(&model, bytes).unwrap();
    let model = model.to_str().unwrap();
    finish(&input, &output, &["-m", model]);
    let results = results(&output);
    assert_eq!(results["text"]["response"]["status_code"], 200);
    let error = &results["chat"]["response"]["body"]["error"];
    assert!(error["message"].as_str().unwrap().contains("template"), "{error}");
    // A template that was asked for is another matter.
    let output = folder.path().join("other.jsonl");
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let out = bitnetc(&["batch", input, "-o", output, "--chat-template", "nonsense"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn shards_together_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.txt");
    std::fs::write(&input, prompts(7).join("\n")).unwrap();
    let whole = folder.path().join("whole.jsonl");
    finish(&input, &whole, &["-n", "4"]);
    let mut parts = BTreeMap::new();
    for index in 1..=3 {
        let part = folder.path().join(format!("part-{index}.jsonl"));
        finish(&input, &part, &["-n", "4", "--shard", &format!("{index}/3")]);
        for (id, result) in results(&part) {
            assert!(parts.insert(id, text_of(&result).to_owned()).is_none());
        }
    }
    let whole: BTreeMap<_, _> =
        results(&whole).into_iter().map(|(id, r)| (id, text_of(&r).to_owned())).collect();
    assert_eq!(parts, whole);
}

#[test]
fn files_that_do_not_go_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    std::fs::write(&input, "ROMEO:\nJULIET:\n").unwrap();
    let run = |args: &[&str]| {
        let out = bitnetc(&[&["batch"], args].concat()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).replace(['\n', '│'], " "))
    };
    let (i, o) = (input.to_str().unwrap(), output.to_str().unwrap());
    assert_eq!(run(&[i, "-o", i]).0, Some(2));
    assert_eq!(run(&["absent.txt", "-o", o]).0, Some(1));
    assert!(!output.exists());
    assert_eq!(run(&[i, "-o", o, "-n", "2"]).0, Some(0));
    std::fs::write(&input, "ROMEO:\nMERCUTIO:\n").unwrap();
    let (code, message) = run(&[i, "-o", o, "-n", "2"]);
    assert!(code == Some(1) && message.contains("line-2"), "{message}");
    assert_eq!(run(&[i, "-o", o, "-n", "2", "--overwrite"]).0, Some(0));
    assert_eq!(results(&output).len(), 2);
}

#[test]
fn results_of_other_settings_are_not_taken_for_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    std::fs::write(&input, "ROMEO:\nJULIET:\n").unwrap();
    std::fs::write(folder.path().join("t.jinja"), "{{ messages[0].content }}").unwrap();
    let tiny = bitnetc_frontend_gguf::testing::TinyModel::default().to_gguf();
    std::fs::write(folder.path().join("tiny.gguf"), tiny).unwrap();
    let run = |more: &[&str]| {
        let (i, o) = (input.to_str().unwrap(), output.to_str().unwrap());
        let args = [&["batch", i, "-o", o, "-n", "2", "-s", "7", "--temp", "0.5"], more].concat();
        let out = bitnetc(&args).current_dir(folder.path()).output().unwrap();
        let message = String::from_utf8_lossy(&out.stderr).replace('│', " ");
        (out.status.code(), message.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(run(&[]).0, Some(0));
    let bytes = std::fs::read(&output).unwrap();
    assert_eq!(results(&output)["line-1"]["settings"]["temperature"], 0.5);
    for (change, setting) in [
        (&["-n", "3"][..], "n_predict (2; this run has 3)"),
        (&["-s", "8"], "seed (7; this run has 8)"),
        (&["-s", "-1"], "seed (7; this run has the default)"),
        (&["--temp", "0"], "temperature (0.5; this run has 0.0)"),
        (&["--top-k", "3"], "top_k"),
        (&["--regex", "a+"], "regex"),
        (&["--head", "q4"], "head"),
        (&["--kv-type", "f32"], "kv_type"),
        (&["--chat"], "chat (the default; this run has true)"),
        (&["--chat-template-file", "t.jinja"], "chat_template"),
        (&["--ignore-eos"], "ignore_eos"),
        (&["-r", "x"], "reverse_prompt"),
        (&["-c", "40"], "ctx_size"),
        (&["-m", "tiny.gguf"], "model"),
    ] {
        let (code, message) = run(change);
        assert!(code == Some(1) && message.contains(setting), "{change:?}: {message}");
        assert!(message.contains("--overwrite"), "{message}");
        assert_eq!(std::fs::read(&output).unwrap(), bytes, "nothing is lost");
    }
    // What does not change an answer is no reason, and new lines are gone on with.
    std::fs::write(&input, "ROMEO:\nJULIET:\nFirst Witch:\n").unwrap();
    assert_eq!(run(&["-t", "1", "--parallel", "1", "--codegen", "cranelift"]).0, Some(0));
    assert_eq!(results(&output).len(), 3);
    assert_eq!(run(&["-n", "3", "--overwrite"]).0, Some(0));
    assert_eq!(results(&output)["line-1"]["settings"]["n_predict"], 3);
}

#[test]
fn a_plan_goes_on_with_what_its_model_began() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let compiled = bitnetc(&["compile", "-o", &at("m.plan"), "--weights", "1.6bit"]).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::write(at("in.txt"), "ROMEO:\n").unwrap();
    let (input, results) = (at("in.txt"), at("out.jsonl"));
    let run = |more: &[&str]| {
        let args = [&["batch", &input, "-o", &results, "-n", "2", "-s", "7"], more].concat();
        let out = bitnetc(&args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(run(&[]).0, Some(0));
    let (code, message) = run(&["-m", &at("m.plan")]);
    assert!(code == Some(0) && message.contains("1 result is in"), "{message}");
}

#[test]
fn lines_of_text_go_through_the_template() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    // A line that looks like a request is what the user says all the same.
    let lines = ["Who art thou?", r#"{"body":{"chat_template_kwargs":1}}"#];
    std::fs::write(&input, lines.join("\n")).unwrap();
    let more = ["-n", "10", "--chat-template", "chatml", "--system-prompt", "Be brief."];
    finish(&input, &output, &[&more[..], &["--chat"]].concat());
    let results = results(&output);
    for (number, line) in lines.iter().enumerate() {
        let result = &results[&format!("line-{}", number + 1)];
        assert_eq!(result["response"]["body"]["object"], "chat.completion");
        let alone = run_chat(&[&more[..], &["-p", line]].concat());
        assert_eq!(answer_of(result).trim_end_matches('\n'), alone, "{line}");
    }
    let requests = folder.path().join("in.jsonl");
    std::fs::write(&requests, "{}\n").unwrap();
    let args = ["batch", requests.to_str().unwrap(), "-o", "-", "--chat"];
    assert_eq!(bitnetc(&args).output().unwrap().status.code(), Some(2));
}

#[test]
fn pipes_are_read_and_written() {
    let mut command = bitnetc(&["-q", "batch", "-", "-o", "-", "-s", "7", "-n", "4", "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, "\u{feff}ROMEO:\r\nJULIET:\r\n".as_bytes()).unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let summary: Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(summary["answered"], 2);
    let folder = tempfile::tempdir().unwrap();
    let piped = folder.path().join("piped.jsonl");
    std::fs::write(&piped, &out.stdout).unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    std::fs::write(&input, "ROMEO:\nJULIET:\n").unwrap();
    finish(&input, &output, &["-n", "4"]);
    let texts = |path: &Path| results(path).values().map(|r| text_of(r).to_owned()).collect::<Vec<_>>();
    assert_eq!(texts(&piped), texts(&output));
}

/// Kills runs at random times until `kills` have been killed, and looks at the output after each.
fn kill_and_resume(kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.txt");
    let prompts = prompts(40);
    std::fs::write(&input, prompts.join("\n")).unwrap();
    // Long enough that most kills find results in the output.
    let args = ["-n", "60", "--ignore-eos", "--parallel", "4"];
    let whole = folder.path().join("whole.jsonl");
    let clock = Instant::now();
    finish(&input, &whole, &args);
    // The quickest run so far: were it longer, most would end before they are killed.
    let mut time = clock.elapsed();
    let texts = |output: &Path| -> BTreeMap<String, String> {
        results(output).into_iter().map(|(id, result)| (id, text_of(&result).to_owned())).collect()
    };
    let expected = texts(&whole);
    assert_eq!(expected.len(), prompts.len());

    let mut random = common::random_tokens(99, 1000, 1000).into_iter().cycle();
    let (mut killed, mut torn, mut resumed, mut round) = (0, 0, 0, 0);
    while killed < kills {
        round += 1;
        let output: PathBuf = folder.path().join(format!("out-{round}.jsonl"));
        let mut had = 0;
        loop {
            let clock = Instant::now();
            resumed += usize::from(had > 0);
            let mut child = start(&input, &output, &args);
            // What matters comes after loading.
            let share = 0.3 + 0.7 * f64::from(random.next().unwrap()) / 1000.0;
            let end = Instant::now() + time.mul_f64(share);
            let done = loop {
                if child.try_wait().unwrap().is_some() {
                    break true;
                }
                if Instant::now() >= end {
                    break false;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            if done {
                assert!(child.wait().unwrap().success());
                if had == 0 {
                    time = time.min(clock.elapsed());
                }
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            // What is there is right, but for the end of a line.
            let text = std::fs::read_to_string(&output).unwrap_or_default();
            torn += usize::from(!text.is_empty() && !text.ends_with('\n'));
            let complete = text.rfind('\n').map_or("", |at| &text[..=at]);
            let lines: Vec<&str> = complete.lines().collect();
            assert!(lines.len() >= had, "results were lost");
            had = lines.len();
            if killed >= kills {
                finish(&input, &output, &args);
                break;
            }
        }
        assert_eq!(texts(&output), expected, "round {round}");
    }
    eprintln!("{killed} kills in {round} rounds, {torn} torn lines, {resumed} runs that went on");
    assert!(resumed > 0 || kills < 5);
}

#[test]
fn a_killed_batch_goes_on_without_loss() {
    kill_and_resume(6);
}

#[test]
#[ignore = "two minutes: .ci/soak has it"]
fn a_hundred_kills_lose_nothing() {
    kill_and_resume(100);
}
