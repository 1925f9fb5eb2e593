//! The dialects: what they translate, and that the pieces of a stream are the answer in one piece.

use serde_json::{Value, json};

use super::*;
use crate::chat::{ChatEncoder, ChatTemplate};
use crate::engine::{Completion, EngineOptions, Event, GenerateOptions, Stop, Timings, Token};
use crate::model::Model;
use bitnetc_runtime::sampling::SamplingParams;

/// A template with tools, calls and thoughts.
const TEMPLATE: &str = "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}\
    {{ m.role }}: {{ m.content or '' }}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}\
    {% for c in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>\
    {% endfor %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% if enable_thinking %}<think>\n{% endif %}{% endif %}";

fn service(template: &str) -> Service {
    let model = Model::builtin().unwrap();
    let tokenizer = std::sync::Arc::clone(&model.loaded().tokenizer);
    let encoder = ChatEncoder::new(tokenizer, ChatTemplate::new("a test", template).unwrap(), Vec::new());
    let options = GenerateOptions { limit: Some(200), ..GenerateOptions::default() };
    Service {
        model,
        chat: Ok(encoder),
        id: "m".to_owned(),
        created: 7,
        context: 512,
        defaults: Defaults { params: SamplingParams::greedy(), seed: Some(3), options, form: None },
        limits: Limits::default(),
        strict_model: false,
    }
}

fn call_of(route: Route, body: &Value) -> Result<Call, Refusal> {
    accept(&service(TEMPLATE), route, body.to_string().as_bytes())
}

fn ended(text: &str, finish: Stop) -> Event {
    Event::Done(Box::new(Completion {
        text: text.to_owned(),
        tail: String::new(),
        tokens: vec![1, 2, 3],
        finish,
        logprobs: Vec::new(),
        prompt_logprobs: Vec::new(),
        prompt_tokens: 5,
        reused_tokens: 2,
        seat: Some(crate::engine::SeatIndex(3)),
        timings: Timings::default(),
        state: None,
    }))
}

/// The frames of a stream whose text comes by single characters.
fn streamed(route: Route, body: &Value, text: &str, finish: Stop) -> Vec<Frame> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let mut reply = call_of(route, &body).unwrap().reply;
    let mut frames = reply.begin();
    for piece in text.split_inclusive(|_: char| true) {
        let token = Token { id: 1, text: piece.to_owned(), logprobs: None };
        frames.extend(reply.event(ChoiceIndex::new(0), Event::Token(token)));
    }
    frames.extend(reply.event(ChoiceIndex::new(0), ended(text, finish)));
    frames.extend(reply.end());
    assert!(reply.is_complete());
    frames
}

/// The answer in one piece.
fn whole(route: Route, body: &Value, text: &str, finish: Stop) -> Value {
    let mut body = body.clone();
    body["stream"] = json!(false);
    let mut reply = call_of(route, &body).unwrap().reply;
    assert!(!reply.is_stream() && reply.begin().is_empty());
    assert!(reply.event(ChoiceIndex::new(0), ended(text, finish)).is_empty());
    reply.into_body().unwrap()
}

fn values(frames: &[Frame]) -> Vec<Value> {
    let value = |frame: &Frame| match frame {
        Frame::Data(value) | Frame::Event(_, value) | Frame::Line(value) => Some(value.clone()),
        Frame::Done | Frame::Ping => None,
    };
    frames.iter().filter_map(value).collect()
}

fn append(to: &mut Value, more: &Value) {
    *to = json!(to.as_str().unwrap_or_default().to_owned() + more.as_str().unwrap_or_default());
}

const TEXT: &str = "Why?\n</think>\n\nSo:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";

const END: Stop = Stop::EndToken(0);

fn functions() -> Value {
    let schema =
        json!({ "type": "object", "properties": { "a": { "enum": ["b", "c"] } }, "required": ["a"] });
    json!([
        { "type": "function", "function": { "name": "f", "parameters": schema } },
        { "type": "function", "function": { "name": "g" } },
    ])
}

fn chat_body() -> Value {
    json!({ "messages": [{ "role": "user", "content": "Hi" }], "tools": functions(), "enable_thinking": true })
}

#[test]
fn chats_stream_thoughts_and_calls() {
    for (body, text) in [
        (chat_body(), TEXT),
        (json!({ "messages": chat_body()["messages"], "enable_thinking": true }), "Why?</think>So"),
        (json!({ "messages": chat_body()["messages"] }), "So <tool_call>"),
        (json!({ "messages": chat_body()["messages"], "reasoning_format": "none" }), "<think>So</think> x"),
    ] {
        let frames = streamed(Route::ChatCompletions, &body, text, END);
        assert_eq!(frames.last(), Some(&Frame::Done));
        let mut message = json!({ "content": "" });
        let mut finish = Value::Null;
        for chunk in values(&frames) {
            let choice = &chunk["choices"][0];
            let delta = choice["delta"].as_object().unwrap();
            for name in ["content", "reasoning_content"] {
                if let Some(text) = delta.get(name) {
                    append(&mut message[name], text);
                }
            }
            for call in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
                let at = call["index"].as_u64().unwrap() as usize;
                if let Some(id) = call.get("id") {
                    let list =
                        message.as_object_mut().unwrap().entry("tool_calls").or_insert_with(|| json!([]));
                    assert_eq!(list.as_array().unwrap().len(), at);
                    assert_eq!(call["function"]["arguments"], "");
                    list.as_array_mut()
                        .unwrap()
                        .push(json!({ "id": id, "type": call["type"], "function": call["function"] }));
                } else {
                    append(
                        &mut message["tool_calls"][at]["function"]["arguments"],
                        &call["function"]["arguments"],
                    );
                }
            }
            if !choice["finish_reason"].is_null() {
                finish = choice["finish_reason"].clone();
            }
        }
        let answer = whole(Route::ChatCompletions, &body, text, END);
        let choice = &answer["choices"][0];
        assert_eq!(finish, choice["finish_reason"]);
        for name in ["content", "reasoning_content"] {
            let said = choice["message"].get(name).filter(|text| !text.is_null());
            assert_eq!(
                message.get(name).filter(|text| *text != ""),
                said.filter(|text| *text != ""),
                "{name} of {text}"
            );
        }
        assert_eq!(message.get("tool_calls"), choice["message"].get("tool_calls"));
    }
    let answer = whole(Route::ChatCompletions, &chat_body(), TEXT, END);
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("So:"), &json!("Why?")));
    assert_eq!(message["tool_calls"][0]["function"], json!({ "name": "f", "arguments": "{\"a\": \"b\"}" }));
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert!(message["tool_calls"][1]["id"].as_str().unwrap().starts_with("call_"));
    let cut = whole(Route::ChatCompletions, &chat_body(), TEXT, Stop::Limit);
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    let call =
        whole(Route::ChatCompletions, &chat_body(), "</think><tool_call>{\"name\": \"g\"}</tool_call>", END);
    assert!(call["choices"][0]["message"]["content"].is_null());
}

/// In a conversation whose requests have one seed, no two calls have the same id; what is asked again is answered to the letter.
#[test]
fn ids_of_calls_depend_on_the_conversation() {
    let id = |messages: Value| {
        let body = json!({ "messages": messages, "tools": functions(), "seed": 7 });
        let call = "<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>";
        whole(Route::ChatCompletions, &body, call, END)["choices"][0]["message"]["tool_calls"][0]["id"]
            .clone()
    };
    let turn = |text: &str| json!({ "role": "user", "content": text });
    assert_eq!(id(json!([turn("Hi")])), id(json!([turn("Hi")])));
    assert_ne!(id(json!([turn("Hi")])), id(json!([turn("Hi"), turn("And?")])));
}

/// A limit that ends an answer inside of a call leaves no beginning of it in the text, in any API.
#[test]
fn calls_that_are_cut_off_are_no_text() {
    let bare = json!({ "messages": chat_body()["messages"], "tools": functions() });
    let whole_text = "So:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b\"}}\n</tool_call>";
    for at in 3..whole_text.len() {
        let cut = &whole_text[..at];
        let answer = whole(Route::ChatCompletions, &bare, cut, Stop::Limit);
        let choice = &answer["choices"][0];
        assert!(
            ["So:", "So:\n"].contains(&choice["message"]["content"].as_str().unwrap()),
            "{cut:?}: {choice}"
        );
        assert_eq!(choice["finish_reason"], "length");
        let frames = values(&streamed(Route::ChatCompletions, &bare, cut, Stop::Limit));
        let text: String =
            frames.iter().filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, choice["message"]["content"].as_str().unwrap());
        let ollama = whole(Route::OllamaChat, &bare, cut, Stop::ContextFull);
        assert_eq!(ollama["message"]["content"], choice["message"]["content"]);
        let message = whole(Route::Messages, &anthropic_tools(), cut, Stop::Limit);
        assert_eq!(
            (&message["content"][0]["text"], &message["stop_reason"]),
            (&choice["message"]["content"], &json!("max_tokens"))
        );
    }
    // What the model itself ended there is what it said.
    let ended = whole(Route::ChatCompletions, &bare, "So: <tool_c", END);
    assert_eq!(ended["choices"][0]["message"]["content"], "So: <tool_c");
    // So it is with the mark that ends thoughts.
    let thoughts = whole(Route::ChatCompletions, &chat_body(), "Why?\n</thi", Stop::Limit);
    assert_eq!(thoughts["choices"][0]["message"]["reasoning_content"], "Why?");
}

/// A request of Anthropic's API with the tool `f`, without thoughts.
fn anthropic_tools() -> Value {
    json!({ "max_tokens": 50, "messages": [{ "role": "user", "content": "Hi" }],
        "tools": [{ "name": "f", "input_schema": { "type": "object" } }] })
}

fn anthropic_body() -> Value {
    json!({ "max_tokens": 50, "system": [{ "type": "text", "text": "S" }], "stop_sequences": ["X"],
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hi" }] }], "thinking": { "type": "enabled", "budget_tokens": 9 },
        "tools": [{ "name": "f", "input_schema": { "type": "object" } }, { "name": "g", "input_schema": { "type": "object" } }] })
}

#[test]
fn messages_stream_blocks() {
    let events = values(&streamed(Route::Messages, &anthropic_body(), TEXT, END));
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let mut order = kinds.clone();
    order.dedup();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let mut expected =
        vec!["message_start", "content_block_start", "ping", "content_block_delta", "content_block_stop"];
    expected.extend([block, block, block].concat());
    expected.extend(["message_delta", "message_stop"]);
    assert_eq!(order, expected);
    let mut blocks: Vec<Value> = Vec::new();
    let mut inputs = Vec::new();
    for event in &events {
        let delta = &event["delta"];
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(event["index"], blocks.len());
                blocks.push(event["content_block"].clone());
                inputs.push(json!(""));
            }
            "content_block_delta" => {
                let last = blocks.last_mut().unwrap();
                match delta["type"].as_str().unwrap() {
                    "text_delta" => append(&mut last["text"], &delta["text"]),
                    "thinking_delta" => append(&mut last["thinking"], &delta["thinking"]),
                    "input_json_delta" => append(inputs.last_mut().unwrap(), &delta["partial_json"]),
                    "signature_delta" => {}
                    other => panic!("{other}"),
                }
            }
            _ => {}
        }
    }
    for (block, input) in blocks.iter_mut().zip(&inputs).filter(|(block, _)| block["type"] == "tool_use") {
        block["input"] = serde_json::from_str(input.as_str().unwrap()).unwrap();
    }
    let answer = whole(Route::Messages, &anthropic_body(), TEXT, END);
    assert_eq!(json!(blocks), answer["content"]);
    assert_eq!(answer["content"].as_array().unwrap().len(), 4);
    assert_eq!((&answer["stop_reason"], &answer["role"]), (&json!("tool_use"), &json!("assistant")));
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
    let stopped = whole(Route::Messages, &anthropic_body(), "</think>a", Stop::StopString(0));
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!("X")));
    assert_eq!(whole(Route::Messages, &anthropic_body(), "a", Stop::Limit)["stop_reason"], "max_tokens");
}

#[test]
fn histories_of_messages_and_responses_are_chats() {
    let prompt = |route, body: &Value| {
        let service = service(TEMPLATE);
        let call = accept(&service, route, body.to_string().as_bytes()).unwrap();
        service
            .model
            .tokenizer()
            .decode_lossy(&call.choices.into_iter().next().unwrap().finish().unwrap().prompt, true)
    };
    let messages = json!({ "max_tokens": 5, "system": "S", "messages": [
        { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": [
            { "type": "thinking", "thinking": "T", "signature": "" }, { "type": "tool_use", "id": "t1", "name": "f", "input": { "a": 1 } },
        ]},
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t1", "content": "R" }, { "type": "text", "text": "And?" }] },
    ]});
    let expected = "system: S\nuser: Hi\nassistant: <think>T</think><tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\ntool: R\nuser: And?\nassistant:";
    assert!(prompt(Route::Messages, &messages).contains(expected), "{}", prompt(Route::Messages, &messages));
    let input = json!({ "instructions": "S", "input": [
        { "role": "user", "content": [{ "type": "input_text", "text": "Hi" }] },
        { "type": "reasoning", "summary": [], "content": [{ "type": "reasoning_text", "text": "T" }] },
        { "type": "function_call", "call_id": "t1", "name": "f", "arguments": "{\"a\": 1}" },
        { "type": "function_call_output", "call_id": "t1", "output": "R" },
        { "type": "message", "role": "user", "content": "And?" },
    ]});
    assert!(prompt(Route::Responses, &input).contains(expected), "{}", prompt(Route::Responses, &input));
    let ollama = json!({ "messages": [
        { "role": "system", "content": "S" }, { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": "", "thinking": "T", "tool_calls": [{ "function": { "name": "f", "arguments": { "a": 1 } } }] },
        { "role": "tool", "content": "R", "tool_name": "f" }, { "role": "user", "content": "And?" },
    ]});
    assert!(prompt(Route::OllamaChat, &ollama).contains(expected), "{}", prompt(Route::OllamaChat, &ollama));
    let begun = json!({ "max_tokens": 5, "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "I" }] });
    assert!(
        prompt(Route::Messages, &begun).ends_with("user: Hi\nassistant:I"),
        "{}",
        prompt(Route::Messages, &begun)
    );
    let raw = json!({ "prompt": "Hi", "raw": true });
    assert!(
        prompt(Route::OllamaGenerate, &raw).ends_with("Hi")
            && !prompt(Route::OllamaGenerate, &raw).contains("user")
    );
    let asked = json!({ "prompt": "Hi", "system": "S" });
    assert!(prompt(Route::OllamaGenerate, &asked).ends_with("system: S\nuser: Hi\nassistant:"));
}

#[test]
fn responses_stream_items() {
    let flat = |tool: &Value| json!({ "type": "function", "name": tool["function"]["name"], "parameters": tool["function"]["parameters"] });
    let tools: Vec<Value> = functions().as_array().unwrap().iter().map(flat).collect();
    let body =
        json!({ "input": "Hi", "tools": tools, "reasoning": { "effort": "low" }, "max_output_tokens": 9 });
    let frames = streamed(Route::Responses, &body, TEXT, END);
    let events = values(&frames);
    for (number, (event, frame)) in events.iter().zip(&frames).enumerate() {
        assert_eq!(event["sequence_number"], number);
        assert!(matches!(frame, Frame::Event(name, _) if event["type"] == *name));
    }
    let mut order: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    order.dedup();
    let item = |delta: &'static str, done: &'static str| {
        [
            "response.output_item.added",
            "response.content_part.added",
            delta,
            done,
            "response.content_part.done",
            "response.output_item.done",
        ]
    };
    let call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ];
    let mut expected = vec!["response.created", "response.in_progress"];
    expected.extend(item("response.reasoning_text.delta", "response.reasoning_text.done"));
    expected.extend(item("response.output_text.delta", "response.output_text.done"));
    expected.extend([call, call].concat());
    expected.push("response.completed");
    assert_eq!(order, expected);
    let answer = whole(Route::Responses, &body, TEXT, END);
    let last = &events.last().unwrap()["response"];
    let without_ids = |value: &Value| {
        let mut items = value["output"].clone();
        items.as_array_mut().unwrap().iter_mut().for_each(|item| item["id"] = Value::Null);
        items
    };
    assert_eq!(without_ids(last), without_ids(&answer));
    assert_eq!(answer["output"].as_array().unwrap().len(), 4);
    assert_eq!(
        (&answer["status"], &answer["usage"]["input_tokens_details"]["cached_tokens"]),
        (&json!("completed"), &json!(2))
    );
    let deltas = |name: &str| {
        let of = events.iter().filter(|event| event["type"] == name);
        of.map(|event| event["delta"].as_str().unwrap()).collect::<String>()
    };
    assert_eq!(deltas("response.output_text.delta"), "So:");
    assert_eq!(deltas("response.function_call_arguments.delta"), "{\"a\": \"b\"}{}");
    let cut = whole(Route::Responses, &body, "a", Stop::Limit);
    assert_eq!(
        (&cut["status"], &cut["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    // The tokens of this text are its characters, as far as these thoughts go.
    let mut reply = call_of(Route::Responses, &body).unwrap().reply;
    let service = service(TEMPLATE);
    let tokens = |text: &str| service.model.tokenizer().encode(text, false, false).unwrap();
    let (thoughts, said) = (tokens("Why? Oh.</think>"), tokens("\nSo it is."));
    let mut done = ended("<think>Why? Oh.</think>\nSo it is.", END);
    if let Event::Done(end) = &mut done {
        end.tokens = [tokens("<think>"), thoughts.clone(), said].concat();
    }
    reply.event(ChoiceIndex::new(0), done);
    let counted = reply.into_body().unwrap()["usage"]["output_tokens_details"]["reasoning_tokens"].clone();
    assert_eq!(counted, json!(tokens("<think>").len() + thoughts.len()));
    let mut failed = call_of(Route::Responses, &json!({ "input": "Hi", "stream": true })).unwrap().reply;
    failed.begin();
    let end = values(&failed.fail(&Refusal::new(500, "generation_failed", "no")));
    assert_eq!((&end[0]["type"], &end[1]["type"]), (&json!("error"), &json!("response.failed")));
}

#[test]
fn llama_completions_have_their_shape() {
    let body = json!({ "prompt": "Hi", "n_predict": 4, "return_tokens": true, "logit_bias": [[1, false]], "stop": ["X"] });
    let lines = values(&streamed(Route::LlamaCompletion, &body, "so\nit", Stop::StopString(0)));
    let answer = whole(Route::LlamaCompletion, &body, "so\nit", Stop::StopString(0));
    let text: String = lines.iter().map(|line| line["content"].as_str().unwrap()).collect();
    assert_eq!(json!(text), answer["content"]);
    let last = lines.last().unwrap();
    for name in [
        "stop",
        "stop_type",
        "stopping_word",
        "tokens_predicted",
        "tokens_evaluated",
        "prompt",
        "has_new_line",
    ] {
        assert_eq!(last[name], answer[name], "{name}");
    }
    assert_eq!((&answer["stop_type"], &answer["stopping_word"]), (&json!("word"), &json!("X")));
    assert_eq!(answer["generation_settings"]["n_predict"], 4);
    assert_eq!(answer["generation_settings"]["logit_bias"].as_array().unwrap().len(), 1);
    assert_eq!(answer["tokens"], json!([1, 2, 3]));
    assert_eq!((&answer["id_slot"], &last["id_slot"]), (&json!(3), &json!(3)));
    let settings = whole(Route::LlamaCompletion, &json!({ "prompt": "Hi", "temperature": 0.7 }), "", END);
    assert_eq!(settings["generation_settings"]["temperature"].to_string(), "0.7");
    assert_eq!(whole(Route::LlamaCompletion, &body, "", Stop::Limit)["stop_type"], "limit");
    assert!(whole(Route::LlamaCompletion, &json!({ "prompt": ["Hi"] }), "", END).is_array());
}

#[test]
fn ollama_speaks_in_lines() {
    let body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "think": true, "tools": functions(),
        "options": { "num_predict": 4, "temperature": 0.5, "num_ctx": 64 }, "keep_alive": "5m" });
    // A stream is what is asked for where nothing is said.
    assert!(call_of(Route::OllamaChat, &body).unwrap().reply.is_stream());
    let frames = streamed(Route::OllamaChat, &body, TEXT, END);
    assert!(frames.iter().all(|frame| matches!(frame, Frame::Line(_))));
    let (mut text, mut thoughts, mut calls) = (json!(""), json!(""), Vec::new());
    let lines = values(&frames);
    for line in &lines {
        append(&mut text, &line["message"]["content"]);
        append(&mut thoughts, &line["message"]["thinking"]);
        calls.extend(line["message"]["tool_calls"].as_array().into_iter().flatten().cloned());
    }
    let answer = whole(Route::OllamaChat, &body, TEXT, END);
    let message = &answer["message"];
    assert_eq!(
        (&text, &thoughts, &json!(calls)),
        (&message["content"], &message["thinking"], &message["tool_calls"])
    );
    assert_eq!(message["tool_calls"][0]["function"], json!({ "name": "f", "arguments": { "a": "b" } }));
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("stop"), &json!(3))
    );
    assert!(lines.iter().rev().skip(1).all(|line| line["done"] == false));
    let generated =
        whole(Route::OllamaGenerate, &json!({ "prompt": "Hi", "format": "json" }), "{}", Stop::Limit);
    assert_eq!((&generated["response"], &generated["done_reason"]), (&json!("{}"), &json!("length")));
    assert!(generated.get("context").is_none(), "it would be refused");
    let refusal = call_of(Route::OllamaChat, &json!({ "messages": [], "options": { "num_ctx": 100_000 } }))
        .unwrap_err();
    assert_eq!(error_body(Route::OllamaChat, &refusal), json!({ "error": refusal.message }));
    let service = service(TEMPLATE);
    let listed = Listed { name: "m", bytes: 9, modified: 0, hash: Some([1; 32]), about: None };
    assert_eq!(ollama_tags(&[listed])["models"][0]["name"], "m");
    let shown = ollama_show(listed, Some(&service));
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "thinking"]));
    assert_eq!(ollama_ps(&[(listed, &service)])["models"][0]["context_length"], 512);
}

/// ollama's clients load and unload models with requests that ask for no text.
#[test]
fn ollama_loads_and_unloads_without_text() {
    for (route, body, reason) in [
        (Route::OllamaGenerate, json!({}), "load"),
        (Route::OllamaGenerate, json!({ "prompt": "", "keep_alive": "5m" }), "load"),
        (Route::OllamaGenerate, json!({ "prompt": "", "raw": true, "keep_alive": -1 }), "load"),
        (Route::OllamaGenerate, json!({ "keep_alive": 0 }), "unload"),
        (Route::OllamaGenerate, json!({ "keep_alive": "0s" }), "unload"),
        (Route::OllamaChat, json!({ "messages": [] }), "load"),
        (Route::OllamaChat, json!({ "messages": null, "keep_alive": "10s" }), "load"),
        (Route::OllamaChat, json!({ "messages": [], "keep_alive": 0 }), "unload"),
    ] {
        let Call { choices, mut reply } = call_of(route, &body).unwrap();
        assert!(choices.is_empty() && reply.is_complete() && reply.is_stream(), "{body}");
        let frames = [reply.begin(), reply.end()].concat();
        let [Frame::Line(line)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!((&line["done"], &line["done_reason"]), (&json!(true), &json!(reason)), "{body}");
        let said = if route == Route::OllamaChat { &line["message"]["content"] } else { &line["response"] };
        assert_eq!(said, "", "{body}");
        assert_eq!(reply.usage(), Usage::default());
        let mut body = body;
        body["stream"] = json!(false);
        let answer = call_of(route, &body).unwrap().reply.into_body().unwrap();
        assert_eq!((&answer["done_reason"], &answer["model"]), (&json!(reason), &json!("m")));
    }
    let asked = call_of(Route::OllamaGenerate, &json!({ "prompt": "Hi", "keep_alive": 0 })).unwrap();
    assert_eq!(asked.choices.len(), 1, "a model may be unloaded after an answer");
}

/// What a message shows besides text would change the answer: it is refused in every dialect.
#[test]
fn messages_with_more_than_text_are_refused() {
    for (name, value) in [
        ("images", json!(["aGk="])),
        ("audio", json!({ "id": "a" })),
        ("function_call", json!({ "name": "f", "arguments": "{}" })),
    ] {
        let message = json!({ "role": "user", "content": "What is this?", name: value });
        for route in [Route::ChatCompletions, Route::Messages, Route::OllamaChat] {
            let refusal = call_of(route, &json!({ "messages": [message], "max_tokens": 5 })).unwrap_err();
            assert_eq!((refusal.param.as_deref(), refusal.status), (Some("messages"), 400), "{name}");
            assert!(refusal.message.contains(name) && refusal.message.contains("message 1"), "{refusal:?}");
        }
        let refusal = call_of(Route::Responses, &json!({ "input": [message] })).unwrap_err();
        assert_eq!((refusal.param.as_deref(), refusal.status), (Some("input"), 400), "{name}");
        assert!(refusal.message.contains(name), "{refusal:?}");
    }
    let nothing = json!({ "messages": [{ "role": "user", "content": "Hi", "images": [] }] });
    call_of(Route::OllamaChat, &nothing).unwrap();
}

/// Results of tools that failed are told from others, for templates that show the difference.
#[test]
fn failures_of_tools_are_for_the_template() {
    let service = service(
        "{% for m in messages %}{{ m.content or '' }}{% if m.is_error %} FAILED{% endif %}{% endfor %}",
    );
    let text = |is_error: bool| {
        let result =
            json!({ "type": "tool_result", "tool_use_id": "t", "content": "R", "is_error": is_error });
        let body = json!({ "max_tokens": 5, "messages": [{ "role": "user", "content": [result] }] });
        let mut choices = accept(&service, Route::Messages, body.to_string().as_bytes()).unwrap().choices;
        let request = choices.remove(0).finish().unwrap();
        service.model.tokenizer().decode_lossy(&request.prompt, true)
    };
    assert!(text(true).ends_with("R FAILED") && text(false).ends_with('R'), "{}", text(true));
}

/// The built-in template with tools: declared functions are shown, and calls in its form are read.
#[test]
fn tools_work_with_the_built_in_template() {
    let model = Model::builtin().unwrap();
    let wish = crate::chat::Wish::NameOrText("hermes".to_owned());
    let (encoder, note) = ChatEncoder::for_model(model.loaded(), &wish).unwrap();
    assert!(note.is_none());
    let service = Service { chat: Ok(encoder), model, context: 2048, ..service(TEMPLATE) };
    let body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "tools": functions() }).to_string();
    let prompt = apply_template(&service, body.as_bytes()).unwrap()["prompt"].as_str().unwrap().to_owned();
    assert!(prompt.contains("<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\""), "{prompt}");
    assert!(prompt.ends_with("<|im_end|>\n<|im_start|>assistant\n"), "{prompt}");
    let mut reply = accept(&service, Route::ChatCompletions, body.as_bytes()).unwrap().reply;
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b\"}}\n</tool_call>";
    reply.event(ChoiceIndex::new(0), ended(call, END));
    let answer = reply.into_body().unwrap();
    let function = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(*function, json!({ "name": "f", "arguments": "{\"a\": \"b\"}" }));
}

/// One token is made with its prompt: there is no time that it could have a rate of.
#[test]
fn one_token_has_no_rate() {
    let rate = |tokens: usize| {
        let mut done = ended("a", Stop::Limit);
        if let Event::Done(end) = &mut done {
            end.tokens = vec![1; tokens];
            end.timings.decode = std::time::Duration::from_millis(100) * (tokens as u32 - 1);
            end.timings.sample = std::time::Duration::from_nanos(1);
        }
        let mut reply = call_of(Route::LlamaCompletion, &json!({ "prompt": "Hi" })).unwrap().reply;
        reply.event(ChoiceIndex::new(0), done);
        reply.into_body().unwrap()["timings"]["predicted_per_second"].as_f64()
    };
    assert_eq!(rate(1), None);
    assert!((rate(11).unwrap() - 10.0).abs() < 1e-3, "{:?}", rate(11));
}

#[test]
fn bodies_and_names_are_told_apart() {
    for empty in ["", " \n", "\u{feff}"] {
        let refusal = accept(&service(TEMPLATE), Route::Completions, empty.as_bytes()).unwrap_err();
        assert!(refusal.message.contains("the body is empty"), "{refusal:?}");
    }
    for name in ["tiny", "tiny:latest", "tiny.gguf", "tiny.plan"] {
        assert!(is_name_of(name, "tiny"), "{name}");
    }
    for name in ["", "tin", "tiny.bin", "tiny:q4", "tiny.gguf.gguf"] {
        assert!(!is_name_of(name, "tiny"), "{name}");
    }
    assert!(is_name_of("tiny.gguf", "tiny.gguf"), "its own name");
}

#[test]
fn refusals_name_what_is_wrong() {
    let hi = json!([{ "role": "user", "content": "Hi" }]);
    for (route, field, body) in [
        (Route::Responses, "input", json!({})),
        (Route::Responses, "input", json!({ "input": [{ "type": "item_reference", "id": "x" }] })),
        (Route::Responses, "previous_response_id", json!({ "input": "Hi", "previous_response_id": "r" })),
        (Route::Responses, "conversation", json!({ "input": "Hi", "conversation": "r" })),
        (Route::Responses, "background", json!({ "input": "Hi", "background": true })),
        (Route::Responses, "tools", json!({ "input": "Hi", "tools": [{ "type": "web_search" }] })),
        (Route::Messages, "messages", json!({ "messages": [] })),
        (
            Route::Messages,
            "messages",
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image" }] }] }),
        ),
        (
            Route::Messages,
            "tools",
            json!({ "messages": hi, "tools": [{ "type": "bash_20250124", "name": "bash" }] }),
        ),
        (Route::Messages, "tool_choice", json!({ "messages": hi, "tool_choice": { "type": "any" } })),
        (Route::ChatCompletions, "functions", json!({ "messages": hi, "functions": [{ "name": "f" }] })),
        (Route::ChatCompletions, "reasoning_format", json!({ "messages": hi, "reasoning_format": "x" })),
        (
            Route::ChatCompletions,
            "tool_choice",
            json!({ "messages": hi, "tools": functions(), "tool_choice": "required", "guided_regex": "a" }),
        ),
        (Route::OllamaChat, "template", json!({ "messages": hi, "template": "x" })),
        (Route::OllamaGenerate, "context", json!({ "prompt": "Hi", "context": [1] })),
        (Route::LlamaCompletion, "tools", json!({ "prompt": "Hi", "tools": functions() })),
        (Route::LlamaCompletion, "prompt", json!({})),
        (Route::LlamaCompletion, "samplers", json!({ "prompt": "Hi", "samplers": ["top_k"] })),
        (Route::LlamaCompletion, "image_data", json!({ "prompt": "Hi", "image_data": [{ "id": 1 }] })),
        (Route::Responses, "n", json!({ "input": "Hi", "n": 2 })),
        (Route::Responses, "include", json!({ "input": "Hi", "include": ["message.output_text.logprobs"] })),
        (Route::Messages, "n", json!({ "messages": hi, "n": 2 })),
        (Route::OllamaChat, "logprobs", json!({ "messages": hi, "logprobs": true })),
        (Route::OllamaChat, "tfs_z", json!({ "messages": hi, "options": { "tfs_z": 0.5 } })),
        (Route::ChatCompletions, "top_logprobs", json!({ "messages": hi, "top_logprobs": 2 })),
        (Route::ChatCompletions, "messages", json!({ "messages": [{ "role": "bad", "content": "" }] })),
        (Route::ChatCompletions, "extra_body", json!({ "messages": hi, "extra_body": { "top_k": 1 } })),
    ] {
        let refusal = call_of(route, &body).unwrap_err();
        assert_eq!((refusal.param.as_deref(), refusal.status), (Some(field), 400), "{body}: {refusal:?}");
    }
    let plain = service("{% for m in messages %}{{ m.content }}{% endfor %}");
    let body = json!({ "messages": hi, "tools": functions() }).to_string();
    let refusal = accept(&plain, Route::ChatCompletions, body.as_bytes()).unwrap_err();
    assert_eq!((refusal.param.as_deref(), refusal.code), (Some("tools"), "unsupported"));
    assert!(refusal.message.contains("built-in `hermes`"), "{refusal:?}");
    let body = json!({ "messages": hi, "tools": functions(), "tool_choice": "none" }).to_string();
    accept(&plain, Route::ChatCompletions, body.as_bytes()).unwrap();
    let refusal = Refusal::field("messages", "no");
    assert_eq!(error_body(Route::Messages, &refusal)["error"]["type"], "invalid_request_error");
}

/// A model that was never trained on tools makes a call where it has to.
#[test]
fn a_required_call_is_made_by_any_model() {
    for (choice, think) in [
        (json!("required"), false),
        (json!({ "type": "function", "function": { "name": "f" } }), false),
        (json!("required"), true),
    ] {
        let service = service(TEMPLATE);
        let body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "tools": functions(), "tool_choice": choice,
            "parallel_tool_calls": false, "enable_thinking": think, "max_tokens": 200,
            // Thoughts of a model that has none to end would not end.
            "logit_bias": if think { json!([["a", -50], ["e", -50], ["o", -50]]) } else { json!([]) } });
        let call = accept(&service, Route::ChatCompletions, body.to_string().as_bytes()).unwrap();
        let mut reply = call.reply;
        let engine = service.model.engine(EngineOptions::of(512, 1, 1)).unwrap();
        for (number, choice) in call.choices.into_iter().enumerate() {
            let mut handle = engine.submit(choice.finish().unwrap());
            while let Some(event) = handle.recv() {
                reply.event(ChoiceIndex::new(number), event);
            }
        }
        let answer = reply.into_body().unwrap();
        let choice = &answer["choices"][0];
        if think && choice["finish_reason"] == "length" {
            assert!(choice["message"]["reasoning_content"].is_string(), "{choice}");
            continue;
        }
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let function = &choice["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        match function["name"].as_str().unwrap() {
            "f" => assert!(["b", "c"].contains(&arguments["a"].as_str().unwrap()), "{answer}"),
            "g" => assert_eq!(arguments, json!({})),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn tokens_of_messages_are_counted() {
    let body = anthropic_body().to_string();
    let counted = count_tokens(&service(TEMPLATE), Route::CountTokens, body.as_bytes()).unwrap();
    assert!(counted["input_tokens"].as_u64().unwrap() > 3);
}

#[test]
fn texts_that_cannot_fit_are_refused_untokenized() {
    let long = "a ".repeat(1 << 20);
    let message = json!([{ "role": "user", "content": long }]);
    for (route, body, field) in [
        (Route::Completions, json!({ "prompt": long }), "prompt"),
        (Route::Completions, json!({ "prompt": ["a", long] }), "prompt"),
        (Route::ChatCompletions, json!({ "messages": message }), "messages"),
    ] {
        let refusal = call_of(route, &body).unwrap_err();
        assert_eq!((refusal.code, refusal.param.as_deref()), ("context_length_exceeded", Some(field)));
        assert!(refusal.message.contains("more than 512 tokens"), "{}", refusal.message);
        let ContextLength { prompt, context } = refusal.context.unwrap();
        assert!(prompt > 512 && prompt <= long.len() as u64 && context == 512);
    }
    // What is counted need not fit, but is bounded too.
    let count = |text: &str| {
        let message = json!([{ "role": "user", "content": text }]);
        let body = json!({ "messages": message, "max_tokens": 1 }).to_string();
        count_tokens(&service(TEMPLATE), Route::ChatTokens, body.as_bytes())
    };
    assert!(count(&long[..1 << 18]).unwrap()["input_tokens"].as_u64() > Some(512));
    assert_eq!(count(&long).unwrap_err().param.as_deref(), Some("messages"));
    let service = service(TEMPLATE);
    let wants =
        |name: &str| tokenize(&service, json!({ "content": long, name: true }).to_string().as_bytes());
    assert_eq!(wants("with_pieces").unwrap_err().param.as_deref(), Some("with_pieces"));
    assert_eq!(wants("add_special").unwrap_err().param.as_deref(), Some("content"));
}

#[test]
fn answers_in_one_piece_have_a_bound() {
    let body = |n: u64, logprobs: u64, stream: bool| {
        let prompts = vec!["a"; 64];
        json!({ "prompt": prompts, "n": n, "max_tokens": 400, "logprobs": logprobs, "stream": stream })
    };
    let refusal = call_of(Route::Completions, &body(8, 20, false)).unwrap_err();
    assert_eq!((refusal.status, refusal.param.as_deref()), (400, Some("logprobs")), "{}", refusal.message);
    assert!(call_of(Route::Completions, &body(8, 20, true)).is_ok());
    assert!(call_of(Route::Completions, &body(1, 5, false)).is_ok());
    let mut scored = body(8, 0, false);
    scored["prompt"] = json!(vec![vec![1; 400]; 64]);
    scored["prompt_logprobs"] = json!(20);
    scored["max_tokens"] = json!(0);
    assert_eq!(call_of(Route::Completions, &scored).unwrap_err().status, 400);
}
