//! Texts of a batch are those of single runs; what is wrong with a line is its own result.

use std::collections::BTreeMap;

use bitnetc::engine::{Completion, EngineOptions, GenerateOptions, Request, Stop};
use bitnetc_runtime::sampling::SamplingParams;
use serde_json::{Value, json};

use crate::process::{alone, builtin, finish, params, prompts, results, text_of};

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
