//! The APIs over the built-in model: what requests ask for is what is made, streams are the answers in one piece, and nothing that
//! a client can send does more than be refused.

mod common;
#[path = "api/service.rs"]
mod service;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bitnetc::TokenLogprobs;
use bitnetc::api::{self, Call, ChoiceIndex, FIELDS, Frame, Refusal, Route, Service, Treatment};
use bitnetc::engine::{Engine, EngineOptions, Request};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Tokens that texts have room for.
const CONTEXT: u32 = 256;

fn service() -> &'static Service {
    static SERVICE: OnceLock<Service> = OnceLock::new();
    SERVICE.get_or_init(|| service::builtin(CONTEXT))
}

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| service().model.engine(EngineOptions::of(CONTEXT, 1, 4)).unwrap())
}

fn accept(route: Route, body: &Value) -> Result<Call, Refusal> {
    api::accept(service(), route, body.to_string().as_bytes())
}

/// The requests of a call, in the order of its choices.
fn requests(route: Route, body: &Value) -> Vec<Request> {
    let call = accept(route, body).unwrap_or_else(|refusal| panic!("{body}: {refusal:?}"));
    call.choices.into_iter().map(|choice| choice.finish().unwrap()).collect()
}

/// Answers a request: the frames of a stream, and the answer in one piece of one that is none.
fn answer(route: Route, body: &Value) -> (Vec<Frame>, Result<Value, Refusal>) {
    let Call { choices, mut reply } =
        accept(route, body).unwrap_or_else(|refusal| panic!("{body}: {refusal:?}"));
    let mut handles: Vec<_> =
        choices.into_iter().map(|choice| engine().submit(choice.finish().unwrap())).collect();
    let mut frames = reply.begin();
    while !reply.is_complete() {
        // One event of each in turn.
        for (index, handle) in handles.iter_mut().enumerate() {
            if let Some(event) = handle.recv() {
                frames.extend(reply.event(ChoiceIndex::new(index), event));
            }
        }
    }
    frames.extend(reply.end());
    assert!(reply.end().is_empty(), "a stream ends once");
    (frames, reply.into_body())
}

fn whole(route: Route, body: &Value) -> Value {
    let (frames, answer) = answer(route, body);
    assert!(frames.is_empty());
    answer.unwrap()
}

fn with(body: &Value, more: Value) -> Value {
    let mut body = body.clone();
    let Value::Object(more) = more else { panic!("no object") };
    body.as_object_mut().unwrap().extend(more);
    body
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// The choices of a stream put together, in the form of a whole answer; the order of its chunks is checked.
fn joined(route: Route, frames: &[Frame]) -> (Vec<Value>, Value) {
    let (last, frames) = frames.split_last().unwrap();
    assert_eq!(*last, Frame::Done);
    let chunks: Vec<&Value> = frames
        .iter()
        .map(|frame| match frame {
            Frame::Data(value) => value,
            other => panic!("{other:?}"),
        })
        .collect();
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    let mut choices: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    for chunk in chunks {
        for name in ["id", "created", "model", "object", "system_fingerprint"] {
            assert_eq!(chunk[name], usage[name], "{name}");
        }
        assert!(chunk["usage"].is_null() && chunk.get("usage").is_some());
        let [piece] = &list(&chunk["choices"])[..] else { panic!("{chunk}") };
        let index = piece["index"].as_u64().unwrap();
        let new = !choices.contains_key(&index);
        let choice = choices.entry(index).or_default();
        assert!(!choice.contains_key("finish_reason"), "nothing follows the end: {chunk}");
        let text = match route {
            Route::Completions => &piece["text"],
            _ => {
                assert_eq!(new, piece["delta"].get("role").is_some(), "{chunk}");
                &piece["delta"]["content"]
            }
        };
        let before = choice.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
        choice.insert("text".to_owned(), json!(before + text.as_str().unwrap_or_default()));
        for names in [
            &["logprobs", "content"][..],
            &["logprobs", "tokens"],
            &["logprobs", "token_logprobs"],
            &["logprobs", "top_logprobs"],
            &["logprobs", "text_offset"],
            &["token_ids"],
            &["prompt_token_ids"],
        ] {
            let value = names.iter().fold(piece, |value, name| &value[*name]);
            let name = names.join(".");
            let all = [list(choice.get(&name).unwrap_or(&Value::Null)), list(value)].concat();
            choice.insert(name, json!(all));
        }
        if !piece["finish_reason"].is_null() {
            choice.insert("finish_reason".to_owned(), piece["finish_reason"].clone());
            choice.insert("stop_reason".to_owned(), piece["stop_reason"].clone());
        }
    }
    (choices.into_values().map(Value::Object).collect(), usage["usage"].clone())
}

/// A choice of a whole answer, in the form of [`joined`].
fn flat(route: Route, choice: &Value) -> Value {
    let text = if route == Route::Completions { &choice["text"] } else { &choice["message"]["content"] };
    let logprobs = &choice["logprobs"];
    json!({
        "text": text,
        "logprobs.content": list(&logprobs["content"]),
        "logprobs.tokens": list(&logprobs["tokens"]),
        "logprobs.token_logprobs": list(&logprobs["token_logprobs"]),
        "logprobs.top_logprobs": list(&logprobs["top_logprobs"]),
        "logprobs.text_offset": list(&logprobs["text_offset"]),
        "token_ids": list(&choice["token_ids"]),
        "prompt_token_ids": list(&choice["prompt_token_ids"]),
        "finish_reason": choice["finish_reason"],
        "stop_reason": choice["stop_reason"],
    })
}

/// Requests that can be answered, of one of both routes.
fn bodies() -> impl Strategy<Value = (Route, Value)> {
    let prompts = prop_oneof![
        Just(json!("ROMEO:")),
        Just(json!(["JULIET: O", "First Citizen:"])),
        Just(json!([5, 77, 301])),
        Just(json!([[1, 2, 3], [400]])),
    ];
    let stops = prop_oneof![
        Just(Value::Null),
        Just(json!("e")),
        Just(json!([" the", "\n", "th"])),
        Just(json!(["never in it", "ou"])),
    ];
    let numbers = (any::<bool>(), 1_u64..3, 0_u64..14, any::<u16>(), any::<bool>(), 0_u64..5);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), proptest::option::of(0_u64..3));
    (prompts, stops, numbers, flags).prop_map(|(prompt, stop, numbers, flags)| {
        let (is_chat, n, max_tokens, seed, greedy, min_tokens) = numbers;
        let (include_stop, ids, ignore_eos, echo, logprobs) = flags;
        let mut body = json!({
            "n": n, "max_tokens": max_tokens, "seed": seed, "temperature": if greedy { 0.0 } else { 0.9 }, "stop": stop,
            "min_tokens": min_tokens.min(max_tokens), "include_stop_str_in_output": include_stop,
            "return_token_ids": ids, "ignore_eos": ignore_eos, "stop_token_ids": [seed % 400],
        });
        match is_chat {
            true => {
                body["messages"] = json!([{ "role": "user", "content": "Who art thou?" }]);
                body["logprobs"] = json!(logprobs.is_some());
                body["top_logprobs"] = json!(logprobs);
                (Route::ChatCompletions, body)
            }
            false => {
                body["prompt"] = prompt;
                body["echo"] = json!(echo);
                body["logprobs"] = json!(logprobs);
                (Route::Completions, body)
            }
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_is_the_answer_in_one_piece((route, body) in bodies()) {
        let expected = whole(route, &body);
        let streamed = with(&body, json!({ "stream": true, "stream_options": { "include_usage": true } }));
        let (frames, _) = answer(route, &streamed);
        let (choices, usage) = joined(route, &frames);
        let all: Vec<Value> = list(&expected["choices"]).iter().map(|choice| flat(route, choice)).collect();
        let names = |choice: &Value| -> BTreeMap<String, Value> {
            choice.as_object().unwrap().clone().into_iter().collect()
        };
        prop_assert_eq!(choices.iter().map(names).collect::<Vec<_>>(), all.iter().map(names).collect::<Vec<_>>());
        for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            prop_assert_eq!(&usage[name], &expected["usage"][name]);
        }
    }
}

#[test]
fn choices_are_those_of_requests_of_their_own() {
    let prompts = json!(["ROMEO:", "JULIET:"]);
    let body = json!({ "prompt": prompts, "n": 2, "seed": 9, "max_tokens": 12 });
    let all = whole(Route::Completions, &body);
    assert_eq!(all["seed"], 9);
    let choices = list(&all["choices"]);
    assert_eq!(choices.len(), 4);
    for (index, choice) in choices.iter().enumerate() {
        let alone = json!({ "prompt": prompts[index / 2], "seed": 9 + index % 2, "max_tokens": 12 });
        let alone = whole(Route::Completions, &alone);
        assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &alone["choices"][0]["text"]));
    }
    assert_ne!(choices[0]["text"], choices[1]["text"]);
    // A prompt counts once, however many choices it has.
    let tokens = |prompt: &str| service().model.prompt(prompt).unwrap().len();
    assert_eq!(all["usage"]["prompt_tokens"], tokens("ROMEO:") + tokens("JULIET:"));
    assert_eq!(all["usage"]["completion_tokens"], 48);
}

#[test]
fn an_echo_scores_the_prompt_as_the_model_does() {
    let ids: Vec<u32> = service().model.prompt("ROMEO: But soft").unwrap();
    let body = json!({ "prompt": [ids], "echo": true, "logprobs": 1, "max_tokens": 0 });
    let choice = whole(Route::Completions, &body)["choices"][0].clone();
    let rows = common::score(service().model.loaded(), &ids, 1);
    let expected: Vec<Value> = rows
        .iter()
        .zip(&ids[1..])
        .map(|(row, &id)| json!(TokenLogprobs::of(row, id, 1).token.logprob))
        .collect();
    let listed = list(&choice["logprobs"]["token_logprobs"]);
    assert_eq!(listed[0], Value::Null);
    assert_eq!(listed[1..], expected[..]);
    let tokens: String =
        list(&choice["logprobs"]["tokens"]).iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(choice["text"], tokens);
    for (at, top) in list(&choice["logprobs"]["top_logprobs"]).iter().enumerate().skip(1) {
        let token = choice["logprobs"]["tokens"][at].as_str().unwrap();
        assert_eq!(top[token], listed[at], "the token itself is among them");
    }
    // As vLLM has it.
    let body = json!({ "prompt": [ids], "prompt_logprobs": 0, "max_tokens": 0 });
    let choice = whole(Route::Completions, &body)["choices"][0].clone();
    let all = list(&choice["prompt_logprobs"]);
    assert_eq!((choice["text"].as_str(), all.len()), (Some(""), ids.len()));
    assert_eq!(all[3][ids[3].to_string()]["logprob"], expected[2]);
}

#[test]
fn offsets_of_tokens_point_into_the_text() {
    for (prompt, echo) in [("ROMEO:", true), ("ROMEO:", false), ("Caf\u{e9} \u{1f600}:", true), ("", true)] {
        for max_tokens in [0, 8] {
            let body =
                json!({ "prompt": prompt, "echo": echo, "logprobs": 0, "max_tokens": max_tokens, "seed": 5 });
            let choice = whole(Route::Completions, &body)["choices"][0].clone();
            let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
            let (tokens, offsets) =
                (list(&choice["logprobs"]["tokens"]), list(&choice["logprobs"]["text_offset"]));
            assert_eq!(tokens.len(), offsets.len());
            let mut spelled = 0;
            // The first token of the prompt is that of the beginning, which the text does not have.
            for (token, offset) in tokens.iter().zip(&offsets).skip(usize::from(echo)) {
                let (token, offset) = (token.as_str().unwrap(), offset.as_u64().unwrap() as usize);
                assert!(offset <= text.len(), "{choice}");
                if !token.contains('\u{fffd}') {
                    let there: String = text[offset..].iter().take(token.chars().count()).collect();
                    assert_eq!(there, token, "{offset} of {choice}");
                    spelled += token.chars().count();
                }
            }
            assert!(!echo || offsets[0] == 0);
            assert!(prompt.is_empty() || !echo || spelled > 3, "{choice}");
            let streamed =
                with(&body, json!({ "stream": true, "stream_options": { "include_usage": true } }));
            let (choices, _) = joined(Route::Completions, &answer(Route::Completions, &streamed).0);
            assert_eq!(choices[0]["logprobs.text_offset"], choice["logprobs"]["text_offset"]);
        }
    }
}

#[test]
fn streams_tell_of_their_prompts() {
    let user = json!([{ "role": "user", "content": "Speak." }]);
    let plain = json!({ "prompt": "ROMEO: But soft", "prompt_logprobs": 2, "max_tokens": 3 });
    let chat = json!({ "messages": user, "prompt_logprobs": 0, "max_tokens": 3 });
    let none = json!({ "prompt": "ROMEO:", "prompt_logprobs": 0, "max_tokens": 0 });
    for (route, body) in
        [(Route::Completions, plain), (Route::ChatCompletions, chat), (Route::Completions, none)]
    {
        let expected = whole(route, &body)["choices"][0]["prompt_logprobs"].clone();
        assert!(list(&expected).len() > 1, "{expected}");
        let (frames, _) = answer(route, &with(&body, json!({ "stream": true })));
        let told: Vec<Value> = frames
            .iter()
            .filter_map(|frame| match frame {
                Frame::Data(value) => value["choices"][0].get("prompt_logprobs").cloned(),
                _ => None,
            })
            .collect();
        assert_eq!(told, [expected]);
    }
    let long = json!({ "prompt": "ROMEO: But soft, what light ".repeat(12), "max_tokens": 1, "stream": true,
        "return_progress": true, "cache_prompt": false });
    for route in [Route::Completions, Route::LlamaCompletion] {
        let (frames, _) = answer(route, &long);
        let values: Vec<&Value> = frames
            .iter()
            .filter_map(|frame| if let Frame::Data(value) = frame { Some(value) } else { None })
            .collect();
        let told: Vec<&Value> = values.iter().filter_map(|value| value.get("prompt_progress")).collect();
        let total = told[0]["total"].as_u64().unwrap();
        let processed: Vec<u64> = told.iter().map(|told| told["processed"].as_u64().unwrap()).collect();
        assert!(processed.is_sorted() && processed.last() == Some(&total), "{processed:?} of {total}");
        assert!(values[told.len()].get("prompt_progress").is_none(), "all of it comes before the text");
        assert!(told.iter().all(|told| told["cache"] == 0 && told["time_ms"].is_number()));
    }
    let quiet = with(&long, json!({ "return_progress": false }));
    let (frames, _) = answer(Route::Completions, &quiet);
    let told = |frame: &Frame| matches!(frame, Frame::Data(value) if value.get("prompt_progress").is_some());
    assert!(!frames.iter().any(told));
}

#[test]
fn what_a_request_says_counts() {
    let one = |more: Value| {
        let body = with(&json!({ "prompt": "a" }), more);
        requests(Route::Completions, &body).remove(0)
    };
    let limit = |more: Value| one(more).options().limit;
    assert_eq!(limit(json!({})), Some(100), "the default of the service");
    assert_eq!(limit(json!({ "max_tokens": 7, "max_completion_tokens": 5 })), Some(5));
    assert_eq!(limit(json!({ "max_tokens": -1 })), Some(100));
    assert_eq!(limit(json!({ "max_tokens": -2, "max_completion_tokens": 8 })), Some(8));
    assert_eq!(limit(json!({ "max_tokens": 0 })), Some(0));
    assert_eq!(one(json!({ "seed": u64::MAX })).seed(), u64::MAX);
    let random = (one(json!({ "seed": -1 })).seed(), one(json!({})).seed());
    assert!(random.0 != random.1 && random.0 <= u64::from(u32::MAX));
    let options = one(json!({
        "stop": "x", "stop_token_ids": [4], "include_stop_str_in_output": true, "min_tokens": 3, "ignore_eos": true,
        "logprobs": 2, "cache_prompt": false, "cache_salt": "tenant", "id_slot": 1, "temperature": 100,
    }));
    let cache = options.cache;
    assert!(!cache.read && cache.salt.is_some() && cache.seat.is_some());
    let options = options.options();
    assert_eq!((options.stop.get(0), options.stop.len(), &options.stop_tokens[..]), (Some("x"), 1, &[4][..]));
    assert!(options.include_stop && options.ignore_end);
    assert_eq!((options.min_tokens, options.logprobs), (3, Some(2)));
    // Null is absent, in every field that is read.
    let nulls = |route: Route| -> Map<String, Value> {
        let fields = FIELDS.iter().filter(|field| field.routes.has(route));
        fields.flat_map(|field| field.names()).map(|name| (name.to_owned(), Value::Null)).collect()
    };
    let nulls = with(&nulls(Route::Completions).into(), json!({ "prompt": "" }));
    assert_eq!(requests(Route::Completions, &nulls).len(), 1);
    // A whole number may be written with a fraction of 0.
    assert_eq!(limit(json!({ "max_tokens": 2.0 })), Some(2));
    assert_eq!(limit(json!({ "max_tokens": -1.0 })), Some(100));
    // What asks for nothing, and what nobody knows.
    one(json!({ "n": 1, "best_of": 1, "stream": false, "tools": [], "logit_bias": {}, "dry_multiplier": 0.0,
        "response_format": { "type": "text" }, "user": "u", "never_heard_of": [1], "tool_choice": "auto" }));
    // In llama.cpp's form too.
    let banned = json!({ "temperature": 0, "max_tokens": 1, "return_token_ids": true });
    let first = whole(Route::Completions, &with(&json!({ "prompt": "ROMEO:" }), banned.clone()));
    let id = first["choices"][0]["token_ids"][0].clone();
    for bias in [json!([[id, false]]), json!({ id.to_string(): -100 })] {
        let body = with(&json!({ "prompt": "ROMEO:", "logit_bias": bias }), banned.clone());
        assert_ne!(whole(Route::Completions, &body)["choices"][0]["token_ids"][0], id);
    }
}

#[test]
fn texts_end_where_they_are_asked_to() {
    let one = |more: Value| {
        let body = json!({ "prompt": "ROMEO:", "temperature": 0, "max_tokens": 16, "ignore_eos": true, "return_token_ids": true });
        whole(Route::Completions, &with(&body, more))["choices"][0].clone()
    };
    let ids = |choice: &Value| -> Vec<u64> {
        list(&choice["token_ids"]).iter().filter_map(Value::as_u64).collect()
    };
    let free = one(json!({}));
    let (all, text) = (ids(&free), free["text"].as_str().unwrap());
    assert_eq!(
        (all.len(), &free["finish_reason"], &free["stop_reason"]),
        (16, &json!("length"), &Value::Null)
    );
    // A token that comes for the first time somewhere in the middle.
    let at = (4..12).find(|&at| !all[..at].contains(&all[at])).unwrap();
    let stopped = one(json!({ "stop_token_ids": [all[at]] }));
    assert_eq!((ids(&stopped), &stopped["stop_reason"]), (all[..at].to_vec(), &json!(all[at])));
    assert!(text.starts_with(stopped["text"].as_str().unwrap()) && stopped["finish_reason"] == "stop");
    let included = one(json!({ "stop_token_ids": [all[at]], "include_stop_str_in_output": true }));
    assert_eq!(ids(&included), all[..=at]);
    // Before the minimum another token takes its place.
    let later = ids(&one(json!({ "stop_token_ids": [all[at]], "min_tokens": at + 2 })));
    assert!(
        later.len() >= at + 2 && later[..at] == all[..at] && !later[..at + 2].contains(&all[at]),
        "{later:?}"
    );
    // The same with strings, which may stand anywhere in the text.
    let stop: String = text.chars().skip(6).take(3).collect();
    let before = &text[..text.find(&stop).unwrap()];
    let stopped = one(json!({ "stop": [stop] }));
    assert_eq!((stopped["text"].as_str(), &stopped["stop_reason"]), (Some(before), &json!(stop)));
    let included = one(json!({ "stop": [stop], "include_stop_str_in_output": true }));
    assert_eq!(included["text"], format!("{before}{stop}"));
    assert_eq!(one(json!({ "stop": [stop], "min_tokens": 16 }))["text"], free["text"]);
    // An end token is none before the minimum either.
    let body = json!({ "prompt": "ROMEO:", "max_tokens": 40, "min_tokens": 40, "seed": 3, "logit_bias": {} });
    assert_eq!(whole(Route::Completions, &body)["usage"]["completion_tokens"], 40);
}

#[test]
fn refusals_name_the_field() {
    let user = json!([{ "role": "user", "content": "Hi" }]);
    let assistant = json!({ "role": "assistant", "content": "a" });
    let big: Map<String, Value> = (0..70_000).map(|id| (id.to_string(), json!(1))).collect();
    for (route, field, body) in [
        (Route::Completions, "prompt", json!({ "prompt": [] })),
        (Route::Completions, "prompt", json!({ "prompt": [-1] })),
        (Route::Completions, "prompt", json!({ "prompt": {} })),
        (Route::Completions, "prompt", json!({ "prompt": ["a", 1] })),
        (Route::Completions, "prompt", json!({ "prompt": [[]] })),
        (Route::Completions, "prompt", json!({ "prompt": [4_294_967_296_u64] })),
        (Route::Completions, "prompt", json!({ "prompt": [9_999_999] })),
        (Route::Completions, "prompt", json!({ "prompt": vec!["a"; 65] })),
        (Route::Completions, "max_tokens", json!({ "max_tokens": -3 })),
        (Route::Completions, "max_tokens", json!({ "max_tokens": 1.5 })),
        (Route::Completions, "max_tokens", json!({ "max_tokens": "5" })),
        (Route::Completions, "min_tokens", json!({ "min_tokens": 6, "max_tokens": 5 })),
        (Route::Completions, "temperature", json!({ "temperature": "hot" })),
        (Route::Completions, "temperature", json!({ "temperature": 1e-9 })),
        (Route::Completions, "top_p", json!({ "top_p": -0.1 })),
        (Route::Completions, "top_p", json!({ "top_p": 7 })),
        (Route::Completions, "min_p", json!({ "min_p": 2 })),
        (Route::Completions, "temperature", json!({ "temperature": 1e99 })),
        (Route::Completions, "presence_penalty", json!({ "presence_penalty": 50 })),
        (Route::Completions, "prompt", json!({ "prompt": null })),
        (Route::Completions, "top_k", json!({ "top_k": -2 })),
        (Route::Completions, "repetition_penalty", json!({ "repetition_penalty": -1e308 })),
        (Route::Completions, "mirostat", json!({ "mirostat": 1 })),
        (Route::Completions, "seed", json!({ "seed": -2 })),
        (Route::Completions, "seed", json!({ "seed": 1.5 })),
        (Route::Completions, "n", json!({ "n": 0 })),
        (Route::Completions, "n", json!({ "n": 9 })),
        (Route::Completions, "n", json!({ "n": u64::MAX })),
        (Route::Completions, "best_of", json!({ "best_of": 2 })),
        (Route::Completions, "logprobs", json!({ "logprobs": 21 })),
        (Route::Completions, "logprobs", json!({ "logprobs": true })),
        (Route::ChatCompletions, "logprobs", json!({ "messages": user, "logprobs": 3 })),
        (Route::ChatCompletions, "top_logprobs", json!({ "messages": user, "top_logprobs": 21 })),
        (Route::Completions, "logit_bias", json!({ "logit_bias": { "x": 1 } })),
        (Route::Completions, "logit_bias", json!({ "logit_bias": { "1": 101 } })),
        (Route::Completions, "logit_bias", json!({ "logit_bias": { "99999": 1 } })),
        (Route::Completions, "logit_bias", json!({ "logit_bias": [1] })),
        (Route::Completions, "logit_bias", json!({ "logit_bias": [[1, true]] })),
        (Route::Completions, "logit_bias", json!({ "logit_bias": big })),
        (Route::Completions, "stop", json!({ "stop": [1] })),
        (Route::Completions, "stop", json!({ "stop": vec!["x"; 65] })),
        (Route::Completions, "stop", json!({ "stop": "x".repeat(4097) })),
        (Route::Completions, "stop_token_ids", json!({ "stop_token_ids": [99_999] })),
        (Route::Completions, "stop_token_ids", json!({ "stop_token_ids": vec![1; 65] })),
        (Route::Completions, "cache_salt", json!({ "cache_salt": "" })),
        (Route::Completions, "stream", json!({ "stream": "false" })),
        (Route::Completions, "suffix", json!({ "suffix": "x" })),
        (Route::Completions, "tools", json!({ "tools": [{}] })),
        (Route::Completions, "response_format", json!({ "response_format": { "type": 123 } })),
        (Route::ChatCompletions, "messages", json!({})),
        (Route::ChatCompletions, "messages", json!({ "messages": [] })),
        (Route::ChatCompletions, "messages", json!({ "messages": ["Hi"] })),
        (Route::ChatCompletions, "messages", json!({ "messages": [{ "role": 1, "content": "" }] })),
        (Route::ChatCompletions, "messages", json!({ "messages": [assistant, assistant] })),
        (Route::ChatCompletions, "messages", json!({ "messages": vec![user[0].clone(); 4097] })),
        (Route::ChatCompletions, "echo", json!({ "messages": user, "echo": true })),
        (Route::ChatCompletions, "modalities", json!({ "messages": user, "modalities": ["text", "audio"] })),
        (Route::ChatCompletions, "audio", json!({ "messages": user, "audio": { "voice": "alloy" } })),
        (
            Route::ChatCompletions,
            "continue_final_message",
            json!({ "messages": user, "continue_final_message": true }),
        ),
    ] {
        let body = match route {
            Route::Completions => with(&json!({ "prompt": "a" }), body),
            _ => body,
        };
        let refusal = accept(route, &body).err().unwrap_or_else(|| panic!("{body}"));
        let name = refusal.param.as_deref().unwrap_or_default();
        assert!(name == field || refusal.message.contains(field), "{field}: {refusal:?}");
        assert_eq!(refusal.status, 400, "{body}");
        assert!(refusal.message.len() < 400, "{}", refusal.message);
        let error = &api::error_body(route, &refusal)["error"];
        assert_eq!(
            (&error["type"], &error["message"]),
            (&json!("invalid_request_error"), &json!(refusal.message))
        );
    }
    let code =
        |bytes: &[u8]| api::accept(service(), Route::Completions, bytes).err().map(|refusal| refusal.code);
    assert_eq!(code(b"{"), Some("invalid_json"));
    assert_eq!(code(b"[1]"), Some("invalid_json"));
    assert_eq!(code(b"{\"prompt\":\"\xff\"}"), Some("invalid_utf8"));
    let deep = format!("{{\"user\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(code(deep.as_bytes()), Some("invalid_json"));
    assert_eq!(code("\u{feff}{\"prompt\":\"a\\ud800\"}".as_bytes()), None);
}

/// A body that a route answers.
fn least(route: Route) -> Value {
    let user = json!([{ "role": "user", "content": "Hi" }]);
    match route {
        Route::Completions | Route::LlamaCompletion | Route::OllamaGenerate => json!({ "prompt": "a" }),
        Route::Responses | Route::ResponseTokens => json!({ "input": "a" }),
        _ => json!({ "messages": user }),
    }
}

/// On every route, a field that would change the answer is read or refused by its name, whatever the route it belongs to.
#[test]
fn no_field_is_silently_ignored() {
    for route in Route::ALL {
        accept(route, &least(route)).unwrap_or_else(|refusal| panic!("{route:?}: {refusal:?}"));
        let reads = |name: &str| {
            let mut here = FIELDS.iter().filter(|field| field.routes.has(route));
            here.any(|field| field.names().any(|own| own == name) && field.treatment == Treatment::Read)
        };
        let ignores = |name: &str| {
            let mut here = FIELDS.iter().filter(|field| field.routes.has(route));
            here.any(|field| field.names().any(|own| own == name) && field.treatment == Treatment::Ignored)
        };
        for field in FIELDS.iter().filter(|field| field.treatment != Treatment::Ignored) {
            for name in field.names().filter(|name| !reads(name) && !ignores(name)) {
                let asking = json!({ "x": 1 });
                assert!(field.asks(name, &asking), "{name}");
                let body = with(&least(route), json!({ name: asking }));
                let refusal = accept(route, &body).err().unwrap_or_else(|| panic!("{name} on {route:?}"));
                assert_eq!(
                    (refusal.param.as_deref(), refusal.code),
                    (Some(name), "unsupported"),
                    "{route:?}"
                );
                assert!(
                    refusal.message.starts_with(&format!("`{name}` is not supported")),
                    "{}",
                    refusal.message
                );
                // What it is where it is absent changes nothing.
                if let Ok(default) = serde_json::from_str::<Value>(field.default) {
                    let body = with(&least(route), json!({ name: default }));
                    assert!(accept(route, &body).is_ok(), "{name} on {route:?}");
                }
            }
        }
        // What is read has its kind checked.
        let body = with(&least(route), json!({ "top_k": "many" }));
        assert_eq!(accept(route, &body).unwrap_err().param.as_deref(), Some("top_k"), "{route:?}");
    }
}

#[test]
fn a_prompt_that_is_too_long_is_refused_with_its_length() {
    let ids = |count: usize| vec![5; count];
    let context = CONTEXT as usize;
    let body = json!({ "prompt": ids(context) });
    let refusal = accept(Route::Completions, &body).unwrap_err();
    let error = &api::error_body(Route::Completions, &refusal)["error"];
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("prompt")));
    assert_eq!((&error["n_prompt_tokens"], &error["n_ctx"]), (&json!(context), &json!(context)));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("maximum context length is 256 tokens"), "{message}");
    assert!(message.contains("exceeds the available context size"), "{message}");
    // Nothing is made after these.
    assert_eq!(requests(Route::Completions, &json!({ "prompt": ids(context), "max_tokens": 0 })).len(), 1);
    assert_eq!(requests(Route::Completions, &json!({ "prompt": ids(context - 1) })).len(), 1);
}

#[test]
fn a_last_message_of_the_assistant_is_continued() {
    let user = json!({ "role": "user", "content": "Who art thou?" });
    let begun = json!({ "role": "assistant", "content": "I am <|end|> Ro" });
    let tokens = |body: Value| requests(Route::ChatCompletions, &body).remove(0).prompt;
    let open = tokens(json!({ "messages": [user] }));
    let continued = tokens(json!({ "messages": [user, begun] }));
    assert!(continued.len() > open.len());
    let text = |body: Value| {
        let answer = api::apply_template(service(), body.to_string().as_bytes()).unwrap();
        answer["prompt"].as_str().unwrap().to_owned()
    };
    let expected = text(json!({ "messages": [user] })) + "I am <|end|> Ro";
    assert_eq!(text(json!({ "messages": [user, begun] })), expected);
    for (name, on) in [("continue_final_message", false), ("add_generation_prompt", true)] {
        let turn = text(json!({ "messages": [user, begun], name: on }));
        assert!(turn.contains("I am") && !turn.ends_with("Ro"), "{turn}");
    }
    let closed = text(json!({ "messages": [user], "add_generation_prompt": false }));
    assert!(closed.len() < expected.len());
    // What was written for the model holds no control token.
    let is_control = |id: &u32| service().model.tokenizer().piece(*id, false).is_empty();
    assert_eq!(
        continued.iter().filter(|id| is_control(id)).count(),
        open.iter().filter(|id| is_control(id)).count()
    );
}

#[test]
fn failures_end_a_stream_with_their_error() {
    let body = json!({ "prompt": "a", "stream": true });
    let Call { mut reply, .. } = accept(Route::Completions, &body).unwrap();
    reply.begin();
    let frames = reply.fail(&Refusal::new(503, "draining", "the server ends"));
    let [Frame::Data(error), Frame::Done] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(
        (&error["error"]["type"], &error["error"]["code"]),
        (&json!("unavailable_error"), &json!("draining"))
    );
    assert!(reply.is_complete() && reply.end().is_empty());
    assert_eq!(reply.into_body().unwrap_err().status, 503);
    // A form that cannot be followed, and all choices have the same one.
    let body = json!({ "prompt": "a", "n": 3, "guided_regex": "(" });
    let call = accept(Route::Completions, &body).unwrap();
    for choice in call.choices {
        let refusal = choice.finish().unwrap_err();
        assert_eq!(refusal.param.as_deref(), Some("guided_regex"));
    }
    let body = json!({ "prompt": "a", "n": 3, "guided_choice": ["left", "right"], "seed": 1 });
    for choice in list(&whole(Route::Completions, &body)["choices"]) {
        assert!(["left", "right"].contains(&choice["text"].as_str().unwrap()), "{choice}");
    }
}

#[test]
fn strict_services_answer_for_their_model_only() {
    let strict = Service { strict_model: true, ..service::builtin(64) };
    let named = |name: &str| {
        let body = json!({ "model": name, "prompt": "a" }).to_string();
        api::accept(&strict, Route::Completions, body.as_bytes()).err()
    };
    assert!(named(&strict.id).is_none());
    let refusal = named("gpt-4").unwrap();
    assert_eq!((refusal.status, refusal.code), (404, "model_not_found"));
    assert!(accept(Route::Completions, &json!({ "model": "gpt-4", "prompt": "a" })).is_ok());
    let named = |body: &str| api::model_of(body.as_bytes()).map_err(|refusal| refusal.code);
    assert_eq!(named(r#"{"x":[{}],"model":"m"}"#), Ok(Some("m".to_owned())));
    assert_eq!(named(r#"{"model":"a","model":"b"}"#), Ok(Some("b".to_owned())), "the last one counts");
    assert_eq!(named(r#"{"model":"a","model":null}"#), Ok(None));
    assert_eq!(named("{}"), Ok(None));
    assert_eq!(named(r#"{"model":1}"#), Err("invalid_value"));
    for broken in ["{", r#"{"model":"m","prompt":}"#, "[]", "\"m\"", ""] {
        assert_eq!(named(broken), Err("invalid_json"), "{broken}");
    }
}

#[test]
fn texts_and_tokens_are_told_in_both_dialects() {
    let post = |call: fn(&Service, &[u8]) -> Result<Value, Refusal>, body: Value| {
        call(service(), body.to_string().as_bytes())
    };
    let tokenize = |service: &Service, body: &[u8]| api::tokenize(service, body).map(|tokens| json!(tokens));
    let ids = service().model.tokenizer().encode("ROMEO: é", false, true).unwrap();
    let llama = post(tokenize, json!({ "content": "ROMEO: é" })).unwrap();
    assert_eq!(llama, json!({ "tokens": ids }));
    let mixed = post(tokenize, json!({ "content": ["ROMEO: é", 5] })).unwrap();
    assert_eq!(mixed["tokens"].as_array().unwrap().len(), ids.len() + 1);
    let pieces = post(tokenize, json!({ "content": "ROMEO: é", "with_pieces": true })).unwrap();
    assert_eq!(pieces["tokens"][0]["id"], ids[0]);
    let vllm = post(tokenize, json!({ "prompt": "ROMEO: é", "return_token_strs": true })).unwrap();
    assert_eq!(vllm["count"], service().model.prompt("ROMEO: é").unwrap().len());
    assert_eq!(
        (&vllm["max_model_len"], vllm["token_strs"].as_array().unwrap().len()),
        (&json!(CONTEXT), vllm["tokens"].as_array().unwrap().len())
    );
    let chat = post(tokenize, json!({ "messages": [{ "role": "user", "content": "Hi" }] })).unwrap();
    let request =
        requests(Route::ChatCompletions, &json!({ "messages": [{ "role": "user", "content": "Hi" }] }));
    assert_eq!(chat["tokens"], json!(request[0].prompt.to_vec()));
    let text = post(api::detokenize, json!({ "tokens": ids })).unwrap();
    assert_eq!(text, json!({ "content": "ROMEO: é", "prompt": "ROMEO: é" }));
    for wrong in [
        json!({}),
        json!({ "content": 1 }),
        json!({ "prompt": [] }),
        json!({ "prompt": "a", "messages": [] }),
        json!({ "messages": [1] }),
        json!({ "content": "a", "add_special": 1 }),
        json!([]),
    ] {
        assert!(post(tokenize, wrong.clone()).is_err(), "{wrong}");
    }
    for wrong in [json!({}), json!({ "tokens": [999_999] }), json!({ "tokens": "a" })] {
        assert!(post(api::detokenize, wrong.clone()).is_err(), "{wrong}");
    }
    let info = api::tokenizer_info(service());
    assert!(info["eos_token"].is_string() && info["chat_template"].is_string(), "{info}");
    let card = api::model_card(service());
    assert_eq!((&card["id"], &card["meta"]["n_ctx"]), (&json!(service().id), &json!(CONTEXT)));
    let props = api::props(service());
    assert_eq!(props["default_generation_settings"]["params"]["max_tokens"], 100);
    assert!(!props["model_path"].as_str().unwrap().contains('/'));
}

/// Strings that mean something somewhere.
const WORDS: [&str; 8] = ["user", "assistant", "text", "json_object", "json_schema", "<|end|>", "{%", "("];

/// JSON of any shape, with the names of fields in it.
fn hostile() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-4_i64..70).prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        "\\PC{0,12}".prop_map(Value::from),
        proptest::sample::select(WORDS.to_vec()).prop_map(Value::from),
    ];
    let mut names: Vec<&str> = FIELDS.iter().flat_map(|field| field.names()).collect();
    names.extend(["role", "content", "type", "schema", "include_usage", "tool_calls"]);
    let name = proptest::sample::select(names);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let pairs = proptest::collection::vec((name.clone(), inner.clone()), 0..6);
        prop_oneof![
            proptest::collection::vec(inner, 0..5).prop_map(Value::from),
            pairs.prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bodies_are_refused_or_answered(
        route in proptest::sample::select(Route::ALL.to_vec()),
        value in hostile(),
        more in proptest::collection::vec((proptest::sample::select(FIELDS.to_vec()), hostile()), 0..3),
    ) {
        let mut body = json!({ "prompt": "a", "messages": [{ "role": "user", "content": "Hi" }] });
        match value {
            Value::Object(fields) => body.as_object_mut().unwrap().extend(fields),
            other => body = other,
        }
        if let Some(body) = body.as_object_mut() {
            body.extend(more.into_iter().map(|(field, value)| (field.name.to_owned(), value)));
        }
        service::check(service(), route, body.to_string().as_bytes());
    }
}
