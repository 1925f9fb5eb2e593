//! What answers tell besides text, and what is answered without loading anything.

use std::io::{Read, Write};
use std::time::Duration;

use bitnetc_serve::{LogFormat, ModelSource};
use serde_json::{Value, json};

use crate::http_client::{Answer, ask, connect, eventually, post};
use crate::running::{Running, builtin, long_options, long_text, options, source};

/// The names of the models that are loaded.
fn loaded(server: &Running) -> Vec<String> {
    let list = server.get("/api/ps").json();
    list["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Two models, one of which may be loaded at a time. They take a moment to load.
fn two_models(log: Option<LogFormat>) -> Running {
    let slow = |name: &str| ModelSource {
        open: Box::new(|| {
            std::thread::sleep(Duration::from_millis(20));
            Ok(builtin().clone())
        }),
        ..source(name)
    };
    let mut one = options();
    one.models.most = Some(1);
    one.log = log;
    Running::with(one, vec![slow("a"), slow("b")]).healthy()
}

#[test]
fn looking_at_a_model_loads_none() {
    let server = two_models(None);
    let shown = server.post("/api/show", &json!({ "model": "b" })).json();
    let info = &shown["model_info"];
    let architecture = info["general.architecture"].as_str().unwrap();
    assert!(info["general.parameter_count"].as_u64() > Some(1_000_000), "{info}");
    assert!(info[format!("{architecture}.embedding_length")].as_u64() > Some(64), "{info}");
    for (model, is_loaded) in [("a", true), ("b", false)] {
        let props = server.get(&format!("/props?model={model}")).json();
        assert_eq!(
            (&props["is_loaded"], &props["model_alias"]),
            (&json!(is_loaded), &json!(model)),
            "{props}"
        );
        assert_eq!(
            (&props["total_slots"], &props["default_generation_settings"]["n_ctx"]),
            (&json!(4), &json!(256))
        );
        assert_eq!(props["default_generation_settings"]["params"]["top_p"].to_string(), "0.95");
    }
    assert_eq!(server.get("/props?model=nobody").status, 404);
    for model in server.get("/api/tags").json()["models"].as_array().unwrap() {
        let details = &model["details"];
        assert!(details["parameter_size"].as_str().unwrap().ends_with('M'), "{model}");
        assert!(details["family"] == architecture && details["quantization_level"] != "", "{model}");
        assert!(!model["modified_at"].as_str().unwrap().starts_with("1970"), "{model}");
    }
    assert_eq!(loaded(&server), ["a"]);
}

#[test]
fn a_model_is_unloaded_as_ollamas_clients_ask_for_it() {
    let server = two_models(None);
    let unload = |model: &str| {
        server.post("/api/generate", &json!({ "model": model, "keep_alive": 0, "stream": false })).json()
    };
    for model in ["b", "a", "a"] {
        let answer = unload(model);
        assert_eq!((&answer["done_reason"], &answer["model"]), (&json!("unload"), &json!(model)), "{answer}");
        assert!(!loaded(&server).contains(&model.to_owned()));
    }
    let load = json!({ "model": "b", "messages": [] });
    let line = server.post("/api/chat", &load);
    assert_eq!(line.header("content-type"), Some("application/x-ndjson"));
    let line: Value = serde_json::from_str(line.text().trim()).unwrap();
    assert!(line["done_reason"] == "load" && line["load_duration"].as_u64() > Some(10_000_000), "{line}");
    assert_eq!(loaded(&server), ["b"]);
    // One that is in use stays, and it is not said that it does not.
    let mut running = connect(server.address);
    let stream = json!({ "model": "b", "prompt": "a", "max_tokens": 200, "ignore_eos": true, "stream": true, "logprobs": 20 });
    running.write_all(post("/v1/completions", &stream).as_bytes()).unwrap();
    running.read_exact(&mut [0; 20]).unwrap();
    let is_loaded = unload("b")["done_reason"] == "load";
    // The text may be over by then.
    assert_eq!(is_loaded, !loaded(&server).is_empty());
}

#[test]
fn the_time_of_loading_is_told() {
    let server = two_models(Some(LogFormat::Json));
    let generate = |model: &str| {
        let options = json!({ "num_predict": 2 });
        server
            .post(
                "/api/generate",
                &json!({ "model": model, "prompt": "a", "raw": true, "stream": false, "options": options }),
            )
            .json()
    };
    let (switched, same) = (generate("b"), generate("b"));
    let load = |answer: &Value| answer["load_duration"].as_u64().unwrap();
    assert!(load(&switched) > 10_000_000 && load(&same) < load(&switched), "{switched} {same}");
    assert!(switched["total_duration"].as_u64().unwrap() > load(&switched));
    eventually(|| server.log.lock().unwrap().len() >= 2);
    let lines: Vec<Value> =
        server.log.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["load_ms"].as_f64() > Some(10.0), "{lines:?}");
    assert!(lines[0]["ttft_ms"].as_f64() > lines[0]["load_ms"].as_f64(), "{lines:?}");
}

#[test]
fn every_answer_names_its_seed() {
    let server = Running::new(options()).healthy();
    let user = json!([{ "role": "user", "content": "Hi" }]);
    for (path, body) in [
        ("/v1/completions", json!({ "prompt": "a" })),
        ("/v1/chat/completions", json!({ "messages": user })),
        ("/v1/responses", json!({ "input": "a" })),
        ("/v1/messages", json!({ "messages": user })),
        ("/completion", json!({ "prompt": "a" })),
        ("/completions", json!({ "prompt": "a" })),
        ("/api/chat", json!({ "messages": user })),
        ("/api/generate", json!({ "prompt": "a" })),
    ] {
        let mut body = body;
        body["max_tokens"] = json!(2);
        for stream in [true, false] {
            body["stream"] = json!(stream);
            let answer = server.post(path, &body);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert!(
                answer.header("x-seed").is_some_and(|seed| seed.parse::<u64>().is_ok()),
                "{}",
                answer.head
            );
        }
    }
    let body = json!({ "prompt": "ROMEO:", "n_predict": 8 });
    let first = server.post("/completion", &body);
    let mut again = body.clone();
    again["seed"] = json!(first.header("x-seed").unwrap().parse::<u64>().unwrap());
    assert_eq!(server.post("/completion", &again).json()["content"], first.json()["content"]);
}

#[test]
fn paths_are_those_of_llama_server() {
    let server = Running::new(options()).healthy();
    let native =
        server.post("/completions", &json!({ "prompt": "ROMEO:", "n_predict": 2, "id_slot": 2 })).json();
    assert!(native["content"].is_string() && native.get("choices").is_none(), "{native}");
    assert_eq!(native["id_slot"], 2);
    let user = json!([{ "role": "user", "content": "Hi" }]);
    let (chat, input) = (json!({ "messages": user, "n": 2 }), json!({ "input": "Hi" }));
    let counted = |path: &str, body: &Value| server.post(path, body).json()["input_tokens"].as_u64().unwrap();
    let tokens = server.post("/tokenize", &json!({ "messages": user })).json()["count"].as_u64().unwrap();
    for path in ["/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"] {
        assert_eq!(counted(path, &chat), tokens);
    }
    assert_eq!(counted("/v1/responses/input_tokens", &input), tokens);
    for path in ["/v1/models/", "/health/", "/props/", "/v1/models/tiny/", "/slots/?model=tiny"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for path in ["/rerank", "/v1/rerank", "/v1/audio/speech", "/v1/images/edits"] {
        let refused = server.post(path, &json!({}));
        assert_eq!(
            (refused.status, &refused.json()["error"]["code"]),
            (400, &json!("unsupported")),
            "{path}"
        );
    }
    for (method, path) in [("POST", "/api/pull"), ("POST", "/api/create"), ("DELETE", "/api/delete")] {
        let refused = ask(server.address, &format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        assert_eq!(refused.status, 400, "{path}");
        assert!(refused.json()["error"].as_str().unwrap().contains("bitnetc"), "{}", refused.text());
    }
    let nameless = ask(server.address, "GET /props HTTP/1.1\r\n\r\n");
    assert_eq!((nameless.status, &nameless.json()["error"]["code"]), (400, &json!("missing_host")));
    let refused = server.post("/completion", &json!({ "prompt": "a", "id_slot": 4 }));
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("id_slot")));
}

#[test]
fn every_path_of_the_description_is_answered() {
    let server = Running::new(options()).healthy();
    let all = server.get("/openapi.json").json();
    for (path, methods) in all["paths"].as_object().unwrap() {
        let path = path.replace("{id}", if path.starts_with("/slots") { "0" } else { "tiny" });
        for method in methods.as_object().unwrap().keys() {
            let Answer { status, .. } = match method.as_str() {
                "get" => server.get(&path),
                _ => server.post(&path, &json!({})),
            };
            // What is missing from an empty body is refused.
            assert!(status == 200 || method == "post" && status == 400, "{method} {path}: {status}");
        }
    }
    assert!(all["paths"].get("/v1/models/{id}").is_some() && all["paths"].get("/metrics").is_some());
}

#[test]
fn a_prompt_is_computed_for_those_that_follow() {
    let mut one = options();
    one.models.parallel = 1;
    let server = Running::new(one).healthy();
    let ask = |n: u64| {
        let prompt = "What is the city but the people? True, the people are the city.";
        server.post("/completion", &json!({ "prompt": prompt, "n_predict": n, "seed": 1 })).json()
    };
    let (first, then) = (ask(0), ask(4));
    assert_eq!(
        (&first["content"], &first["tokens_predicted"], &first["stop_type"]),
        (&json!(""), &json!(0), &json!("limit"))
    );
    let times = |answer: &Value, name: &str| answer["timings"][name].as_u64().unwrap();
    assert_eq!((times(&first, "cache_n"), times(&then, "prompt_n")), (0, 1), "{first} {then}");
    assert_eq!(times(&first, "prompt_n"), times(&then, "cache_n") + 1);
}

#[test]
fn the_log_says_why_and_what_was_used() {
    let mut logging = long_options();
    logging.log = Some(LogFormat::Json);
    logging.limits.drain_timeout = Duration::from_millis(1);
    let server = Running::new(logging).healthy();
    server.post("/v1/completions", &json!({ "prompt": "a", "top_p": 7 }));
    server.post("/nowhere", &json!({}));
    server.get("/metrics");
    let found = |name: &str, value: &str| -> Option<Value> {
        let log = server.log.lock().unwrap();
        let mut lines = log.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| line[name] == value)
    };
    eventually(|| found("param", "top_p").is_some() && found("code", "not_found").is_some());
    let refused = found("param", "top_p").unwrap();
    assert_eq!((&refused["code"], &refused["status"]), (&json!("invalid_value"), &json!(400)));
    assert_eq!(refused["message"], "top_p must be a number from 0 to 1");
    let mut running = connect(server.address);
    running.write_all(post("/v1/completions", &long_text(true)).as_bytes()).unwrap();
    let (mut seen, mut buffer) = (String::new(), [0; 1024]);
    while !seen.contains("\"text\"") {
        let count = running.read(&mut buffer).unwrap();
        assert!(count > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..count]);
    }
    server.shutdown.drain();
    eventually(|| found("path", "/v1/completions").is_some() && found("finish", "shutdown").is_some());
    let ended = found("finish", "shutdown").unwrap();
    assert!(ended["prompt_tokens"].as_u64() > Some(0) && ended["new_tokens"].as_u64() > Some(0), "{ended}");
    assert!(found("path", "/metrics").is_none() && found("path", "/health").is_none());
}
