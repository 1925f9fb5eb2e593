//! Chat requests in batches, and prompts that go through a template.

use bitnetc_runtime::sampling::SamplingParams;
use serde_json::{Value, json};

use crate::process::{alone, bitnetc, builtin, finish, params, results, text_of};

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
