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

use crate::client::{
    Running, ask, builtin, connect, eventually, long_options, long_text, options, post, read, source,
};

const PLAY: &str = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\nROMEO:\nBut, soft! what \
                    light through yonder window breaks? It is the east, and Juliet is the sun.";

/// A request of the mix.
struct Case {
    body: Value,
    prompt: &'static str,
    params: SamplingParams,
    options: GenerateOptions,
    form: Option<GrammarSource>,
}

/// The request with this number.
fn case(number: usize) -> Case {
    let prompt = &PLAY[..1 + (number * 37) % (PLAY.len() - 1)];
    let limit = 1 + (number * 7) % 24;
    let temperature = if number.is_multiple_of(3) { 0.0 } else { 0.8 };
    let params = SamplingParams { seed: number as u64, temperature, ..SamplingParams::default() };
    let stop = if number.is_multiple_of(4) { vec!["e".to_owned()] } else { Vec::new() };
    let form = number.is_multiple_of(5).then(|| GrammarSource::Regex("[a-z ]{1,40}".to_owned()));
    let mut body = json!({
        "model": "tiny", "prompt": prompt, "max_tokens": limit, "seed": number, "temperature": temperature, "stop": stop,
        "stream": number.is_multiple_of(2),
    });
    if form.is_some() {
        body["regex"] = json!("[a-z ]{1,40}");
    }
    let options = GenerateOptions { limit: Some(limit as u64), stop, ..GenerateOptions::default() };
    Case { body, prompt, params, options, form }
}

impl Case {
    /// The text that `bitnetc run` prints.
    fn expected(&self, session: &mut TextSession) -> String {
        let model = builtin();
        let ids = model.prompt(self.prompt).unwrap();
        let mut request =
            Request::new(ids, self.params.clone(), self.options.clone()).unwrap().without_tokens();
        if let Some(form) = &self.form {
            request = request.with_constraint(model.constraint(form).unwrap());
        }
        session.follow(request, || true, |_| true).unwrap().text
    }

    /// The text of an answer.
    fn text(&self, answer: &crate::client::Answer) -> String {
        assert_eq!(answer.status, 200, "{}", answer.text());
        if self.body["stream"] == true {
            let (events, done) = answer.events();
            assert!(done, "{}", answer.text());
            let texts = events.iter().filter_map(|event| event["choices"][0]["text"].as_str());
            return texts.collect();
        }
        answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    }
}

/// Sends `count` requests with `clients` at a time; some leave before they are answered.
fn same_under_load(count: usize, clients: usize) {
    let mut many = options();
    many.limits.queue = 1000;
    let server = Running::new(many).healthy();
    let mut session = builtin().session_with(EngineOptions::single(256, 1)).unwrap();
    let expected: Vec<String> = (0..count).map(|number| case(number).expected(&mut session)).collect();
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
                    let case = case(number);
                    if number % 11 == 10 {
                        let mut stream = connect(server.address);
                        stream.write_all(post("/v1/completions", &case.body).as_bytes()).unwrap();
                        std::thread::sleep(Duration::from_millis((number % 7) as u64 * 5));
                        left.fetch_add(1, Ordering::SeqCst);
                    }
                    let answer = server.post("/v1/completions", &case.body);
                    assert_eq!(case.text(&answer), expected[number], "request {number}: {}", case.body);
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

/// Memory that this process is resident with.
fn resident(server: &Running) -> f64 {
    server.metric("process_resident_memory_bytes")
}

#[test]
#[ignore = "minutes: .ci/soak runs it"]
fn ten_thousand_requests_leave_nothing() {
    let mut many = options();
    many.limits.queue = 1000;
    let server = Running::new(many).healthy();
    let run = |from: usize, to: usize| {
        let next = AtomicUsize::new(from);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= to {
                            return;
                        }
                        let body = case(number % 300).body;
                        if number.is_multiple_of(50) {
                            assert!((400..500).contains(&ask(server.address, "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n{").status));
                        } else if number % 5 == 1 {
                            let mut stream = connect(server.address);
                            stream.write_all(post("/v1/completions", &body).as_bytes()).unwrap();
                        } else {
                            assert_eq!(server.post("/v1/completions", &body).status, 200);
                        }
                    }
                });
            }
        });
        settled(&server);
    };
    run(0, 2_000);
    let before = resident(&server);
    run(2_000, 10_000);
    let after = resident(&server);
    assert!(after <= 1.02 * before, "{before} bytes have become {after}");
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
    short.limits.drain_timeout = Duration::from_millis(300);
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
    let answer = read(&mut running);
    let (events, done) = answer.events();
    assert!(done, "{}", answer.text());
    let last = events.last().unwrap();
    let whole = last["choices"][0]["finish_reason"] == "length";
    assert!(whole || last["error"]["code"] == "shutting_down", "{last}");
    let begun = Instant::now();
    server.ended().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
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
    for name in ["../a.slot", "", "b.slot"] {
        let refused = server.post("/slots/0?action=restore", &json!({ "filename": name }));
        assert_eq!(refused.status, 400, "{name}: {}", refused.text());
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
