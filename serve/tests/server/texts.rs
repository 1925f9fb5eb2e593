//! Texts over HTTP are those of the library, by bits, whatever else runs; clients that leave take theirs with them.

use std::io::{Read, Write};
use std::net::Shutdown as Half;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitnetc::TextSession;
use bitnetc::chat::Wish;
use bitnetc::constraint::GrammarSource;
use bitnetc::engine::{EngineOptions, GenerateOptions, Request};
use bitnetc::runtime::sampling::SamplingParams;
use bitnetc_serve::ModelSource;
use serde_json::{Value, json};

use crate::http_client::{Answer, connect, eventually, post, read};
use crate::mixed_requests::{Mixed, PLAY};
use crate::running::{Running, builtin, long_options, long_text, options, source};

/// The text that `bitnetc run` prints for a request.
fn expected(of: &Mixed, session: &mut TextSession) -> String {
    let model = builtin();
    let ids = model.prompt(of.prompt).unwrap();
    let params = SamplingParams { seed: of.seed, temperature: of.temperature, ..SamplingParams::default() };
    let options =
        GenerateOptions { limit: Some(of.limit), stop: of.stop.clone().into(), ..GenerateOptions::default() };
    let mut request = Request::new(ids, params, options).unwrap().without_tokens();
    if let Some(regex) = of.regex {
        let form = GrammarSource::Regex(regex.to_owned());
        request = request.with_constraint(model.constraint(&form).unwrap());
    }
    session.follow(request, || true, |_| true).unwrap().text
}

/// The text of an answer.
fn text(of: &Mixed, answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    if of.stream {
        let (events, done) = answer.events();
        assert!(done, "{}", answer.text());
        let texts = events.iter().filter_map(|event| event["choices"][0]["text"].as_str());
        return texts.collect();
    }
    answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// Sends `count` requests with `clients` at a time; some leave before they are answered.
fn same_under_load(count: usize, clients: usize) {
    let mut many = options();
    many.limits.queue = 1000;
    let server = Running::new(many).healthy();
    let mut session = builtin().session_with(EngineOptions::single(256, 1)).unwrap();
    let expected: Vec<String> =
        (0..count).map(|number| expected(&Mixed::new(number), &mut session)).collect();
    let next = AtomicUsize::new(0);
    let left = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count {
                        return;
                    }
                    let mixed = Mixed::new(number);
                    let body = mixed.body();
                    if number % 11 == 10 {
                        let mut stream = connect(server.address);
                        stream.write_all(post("/v1/completions", &body).as_bytes()).unwrap();
                        std::thread::sleep(Duration::from_millis((number % 7) as u64 * 5));
                        left.fetch_add(1, Ordering::SeqCst);
                    }
                    let answer = server.post("/v1/completions", &body);
                    assert_eq!(text(&mixed, &answer), expected[number], "request {number}: {body}");
                }
            });
        }
    });
    assert!(left.load(Ordering::SeqCst) > 0);
    settled(&server);
}

/// Nothing is left of anything.
fn settled(server: &Running) {
    eventually(|| {
        server.metric("bitnetc:num_requests_running") == 0.0
            && server.metric("bitnetc:num_requests_waiting") == 0.0
    });
    let slots = server.get("/slots").json();
    assert!(slots.as_array().unwrap().iter().all(|slot| slot["is_processing"] == false), "{slots}");
}

#[test]
fn texts_under_load_are_those_of_one_at_a_time() {
    same_under_load(300, 16);
}

#[test]
fn sixty_four_clients_at_a_time() {
    same_under_load(128, 64);
}

#[test]
fn a_client_that_leaves_frees_its_sequence() {
    let narrow = long_options();
    let server = Running::new(narrow).healthy();
    for stream in [true, false] {
        let long = long_text(stream);
        let mut running = connect(server.address);
        running.write_all(post("/v1/completions", &long).as_bytes()).unwrap();
        eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
        let mut waiting = connect(server.address);
        waiting.write_all(post("/v1/completions", &long).as_bytes()).unwrap();
        eventually(|| server.metric("bitnetc:num_requests_waiting") >= 1.0);
        let cancelled = server.metric("bitnetc:requests_cancelled_total");
        waiting.shutdown(Half::Both).unwrap();
        eventually(|| server.metric("bitnetc:num_requests_waiting") == 0.0);
        running.shutdown(Half::Both).unwrap();
        settled(&server);
        // One that left before its request was read never reached the engine.
        assert!(server.metric("bitnetc:requests_cancelled_total") > cancelled, "stream: {stream}");
    }
}

#[test]
fn a_client_that_closes_its_sending_side_has_left() {
    let server = Running::new(long_options()).healthy();
    for stream in [true, false] {
        let mut client = connect(server.address);
        client.write_all(post("/v1/completions", &long_text(stream)).as_bytes()).unwrap();
        eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
        client.shutdown(Half::Write).unwrap();
        settled(&server);
        let mut rest = Vec::new();
        // The connection may be reset.
        drop(client.read_to_end(&mut rest));
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("[DONE]") && !rest.contains("finish_reason\":\""), "stream: {stream}: {rest}");
    }
}

#[test]
fn a_client_that_leaves_after_bytes_that_nobody_reads_frees_its_sequence_too() {
    let server = Running::new(long_options()).healthy();
    for extra in ["G", "\r\n", "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        let mut running = connect(server.address);
        let request = post("/v1/completions", &long_text(false)) + extra;
        running.write_all(request.as_bytes()).unwrap();
        eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
        let cancelled = server.metric("bitnetc:requests_cancelled_total");
        drop(running);
        eventually(|| server.metric("bitnetc:requests_cancelled_total") > cancelled);
        settled(&server);
    }
}

#[test]
fn streams_say_that_they_live() {
    let mut narrow = long_options();
    narrow.limits.ping = Duration::from_millis(20);
    let server = Running::new(narrow).healthy();
    let long = long_text(true);
    let mut running = connect(server.address);
    running.write_all(post("/v1/completions", &long).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
    let mut waiting = connect(server.address);
    waiting.write_all(post("/v1/completions", &long).as_bytes()).unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 1024];
    while !seen.contains(": ping\n\n") {
        let count = waiting.read(&mut buffer).unwrap();
        assert!(count > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..count]);
    }
    for header in ["content-type: text/event-stream", "cache-control: no-cache", "x-accel-buffering: no"] {
        assert!(seen.contains(header), "{seen}");
    }
}

#[test]
fn the_end_is_in_order() {
    let mut short = long_options();
    short.limits.drain_timeout = Duration::from_secs(600);
    let server = Running::new(short).healthy();
    let mut kept = connect(server.address);
    let long = long_text(true);
    let mut running = connect(server.address);
    running.write_all(post("/v1/completions", &long).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
    server.shutdown.drain();
    let ready = server.get("/ready");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("draining")));
    assert_eq!(server.get("/health").status, 200);
    kept.write_all(post("/v1/completions", &long).as_bytes()).unwrap();
    let refused = read(&mut kept);
    assert_eq!((refused.status, refused.header("connection")), (503, Some("close")));
    assert!(refused.header("retry-after").is_some());
    server.shutdown.end();
    let answer = read(&mut running);
    let (events, done) = answer.events();
    assert!(done, "{}", answer.text());
    let last = events.last().unwrap();
    let whole = last["choices"][0]["finish_reason"] == "length";
    assert!(whole || last["error"]["code"] == "shutting_down", "{last}");
    server.ended().unwrap();
}

#[test]
fn a_drain_without_work_ends_at_once() {
    let server = Running::new(options()).healthy();
    let idle = connect(server.address);
    let begun = Instant::now();
    server.shutdown.drain();
    eventually(|| server.is_over());
    server.ended().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(idle);
}

#[test]
fn models_are_loaded_when_asked_for_and_put_away() {
    let mut one = options();
    one.models.most = Some(1);
    let server = Running::with(one, vec![source("a"), source("b")]).healthy();
    let ids = |path: &str, list: &str| -> Vec<String> {
        let body = server.get(path).json();
        body[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["id"].as_str().or(m["name"].as_str()).unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids("/v1/models", "data"), ["a", "b"]);
    assert_eq!(ids("/api/ps", "models"), ["a"]);
    let of = |model: &str| {
        server.post("/v1/completions", &json!({ "model": model, "prompt": "a", "max_tokens": 2, "seed": 1 }))
    };
    let (a, b) = (of("a"), of("b"));
    assert_eq!((a.status, b.status), (200, 200), "{}", b.text());
    assert_eq!((a.json()["model"].as_str(), b.json()["model"].as_str()), (Some("a"), Some("b")));
    assert_eq!(a.json()["choices"][0]["text"], b.json()["choices"][0]["text"]);
    assert_eq!(ids("/api/ps", "models"), ["b"]);
    assert_eq!(of("a").status, 200);
    assert_eq!(server.get("/v1/models/b").json()["id"], "b");
}

#[test]
fn states_are_saved_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let mut saving = options();
    saving.models.parallel = 1;
    saving.slot_save_path = Some(folder.path().to_owned());
    let server = Running::new(saving).healthy();
    let ask = json!({ "prompt": PLAY, "max_tokens": 2, "seed": 1 });
    let first = server.post("/v1/completions", &ask).json();
    settled(&server);
    let file = json!({ "filename": "a.slot" });
    let saved = server.post("/slots/0?action=save", &file);
    assert_eq!(saved.status, 200, "{}", saved.text());
    assert!(saved.json()["n_saved"].as_u64().unwrap() > 10);
    assert!(server.post("/slots/0?action=erase", &json!({})).json()["n_erased"].as_u64().unwrap() > 10);
    let restored = server.post("/slots/0?action=restore", &file);
    assert_eq!(restored.json()["n_restored"], saved.json()["n_saved"], "{}", restored.text());
    let again = server.post("/v1/completions", &ask).json();
    assert_eq!(again["choices"][0]["text"], first["choices"][0]["text"]);
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 10, "{again}");
    for (name, status) in [("../a.slot", 400), ("", 400), ("b.slot", 404)] {
        let refused = server.post("/slots/0?action=restore", &json!({ "filename": name }));
        assert_eq!(refused.status, status, "{name}: {}", refused.text());
        assert_eq!(refused.json()["error"]["param"], "filename");
    }
    std::fs::write(folder.path().join("c.slot"), b"something else").unwrap();
    assert_eq!(server.post("/slots/0?action=restore", &json!({ "filename": "c.slot" })).status, 400);
}

/// What a client said before is not computed again: a prompt that is sent twice, and the next turn of a chat.
#[test]
fn turns_go_on_where_the_last_ones_ended() {
    let plain = ModelSource { template: Wish::NameOrText("plain".to_owned()), ..source("tiny") };
    let server = Running::with(options(), vec![plain]).healthy();
    let cached = |answer: &Value| {
        let usage = &answer["usage"];
        (usage["prompt_tokens"].clone(), usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
    };
    let short = json!({ "prompt": "ROMEO:", "max_tokens": 5 });
    server.post("/v1/completions", &short);
    let (tokens, again) = cached(&server.post("/v1/completions", &short).json());
    assert_eq!(json!(again + 1), tokens);
    let mut messages =
        vec![json!({ "role": "user", "content": "Speak, good friend, of the king and his daughters." })];
    let ask = |messages: &[Value]| {
        server.post("/v1/chat/completions", &json!({ "messages": messages, "temperature": 0, "max_tokens": 24, "return_token_ids": true })).json()
    };
    let first = ask(&messages);
    let said = first["choices"][0]["message"]["content"].clone();
    messages.push(json!({ "role": "assistant", "content": said }));
    messages.push(json!({ "role": "user", "content": "And then?" }));
    let second = ask(&messages);
    let ids = |answer: &Value, name: &str| answer["choices"][0][name].as_array().unwrap().clone();
    let held = [ids(&first, "prompt_token_ids"), ids(&first, "token_ids")].concat();
    let same = held.iter().zip(&ids(&second, "prompt_token_ids")).take_while(|(a, b)| a == b).count();
    // All that is the same tokens is reused, though not the last token made, which was never computed.
    let (_, reused) = cached(&second);
    assert!(reused as usize >= same.min(held.len() - 1), "{reused} of {same}");
    assert!(same > ids(&first, "prompt_token_ids").len(), "the answer begins with the same tokens: {said}");
}

#[test]
fn what_is_answered_without_the_engine() {
    let server = Running::new(options()).healthy();
    let tokens = server.post("/tokenize", &json!({ "content": "Hello there" })).json()["tokens"].clone();
    assert!(tokens.as_array().unwrap().len() > 1);
    assert_eq!(server.post("/detokenize", &json!({ "tokens": tokens })).json()["content"], "Hello there");
    let prompt =
        server.post("/apply-template", &json!({ "messages": [{ "role": "user", "content": "Hi" }] }));
    assert!(prompt.json()["prompt"].as_str().unwrap().contains("Hi"), "{}", prompt.text());
    for path in [
        "/props",
        "/tokenizer_info",
        "/openapi.json",
        "/api/tags",
        "/api/version",
        "/v1/health",
        "/models",
        "/slots",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        answer.json();
    }
    assert_eq!(server.get("/props").json()["total_slots"], 4);
    for (name, status) in [("tiny", 200), ("tiny:latest", 200), ("nobody", 404)] {
        assert_eq!(server.post("/api/show", &json!({ "model": name })).status, status, "{name}");
    }
    let meta = server.get("/v1/models").json()["data"][0]["meta"].clone();
    assert!(meta["n_params"].as_u64() > Some(1_000_000) && meta["n_embd"].as_u64() > Some(64), "{meta}");
    let metrics = server.get("/metrics").text();
    for (name, twins, _) in bitnetc_serve::metric_names() {
        for name in [name.as_str()].iter().chain(twins) {
            assert!(metrics.contains(&format!("# TYPE {name} ")), "{name}");
        }
    }
    assert!(
        metrics.contains("bitnetc:build_info{version=") && metrics.contains("process_resident_memory_bytes ")
    );
}

#[test]
fn the_guide_has_the_table_of_metrics() {
    const BEGIN: &str = "<!-- the metrics, made from their table by a test: begin -->\n";
    let mut table = "| name | also | what |\n|---|---|---|\n".to_owned();
    for (name, twins, help) in bitnetc_serve::metric_names() {
        let twins: Vec<String> = twins.iter().map(|name| format!("`{name}`")).collect();
        table += &format!("| `{name}` | {} | {help} |\n", twins.join(" "));
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/serving.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once("<!-- end -->").unwrap();
    if std::env::var_os("BITNETC_RECORD_REFERENCE").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}<!-- end -->{after}")).unwrap();
        return;
    }
    assert!(table == found, "docs/serving.md differs: record it with BITNETC_RECORD_REFERENCE=1");
}
