//! What goes wrong while a request is under way, or stands in its way: each is the affair of its own request.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitnetc::Model;
use bitnetc_serve::{LogFormat, ModelSource};
use serde_json::{Value, json};

use crate::http_client::{Answer, ask, connect, eventually, post, read};
use crate::poisoned::model_with_nan_after;
use crate::running::{Running, long_options, long_text, options, source};

/// The code of the error that a stream ends with.
fn code_of_stream(answer: &Answer) -> String {
    let (events, done) = answer.events();
    assert!(answer.status == 200 && done, "{}", answer.text());
    events.last().unwrap()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn logits_that_are_nan_end_one_request_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("poisoned.gguf");
    std::fs::write(&path, model_with_nan_after(7)).unwrap();
    let model = Model::load(&path).unwrap();
    let poisoned = ModelSource { open: Box::new(move || Ok(model.clone())), ..source("poisoned") };
    let mut small = options();
    small.models.context = Some(64);
    let server = Running::with(small, vec![poisoned]).healthy();
    let body = |last: u32, stream: bool| {
        let bias = json!({ "7": false });
        json!({ "prompt": [1, 2, last], "max_tokens": 4, "seed": 1, "stream": stream, "logit_bias": bias })
    };
    let before = server.post("/v1/completions", &body(3, false)).json()["choices"][0]["text"].clone();
    let failed = server.post("/v1/completions", &body(7, false));
    assert_eq!((failed.status, &failed.json()["error"]["code"]), (500, &json!("nan_logits")));
    assert_eq!(code_of_stream(&server.post("/v1/completions", &body(7, true))), "nan_logits");
    assert_eq!(server.post("/v1/completions", &body(3, false)).json()["choices"][0]["text"], before);
    assert!(server.get("/metrics").text().contains("finished_reason=\"error\"} 2\n"));
    eventually(|| server.metric("bitnetc:num_requests_running") == 0.0);
}

#[test]
fn a_request_that_forbids_every_token_is_told_so() {
    let server = Running::new(options()).healthy();
    let vocab = server.get("/v1/models").json()["data"][0]["meta"]["n_vocab"].as_u64().unwrap();
    let bias: serde_json::Map<String, Value> = (0..vocab).map(|id| (id.to_string(), json!(false))).collect();
    let body = |stream: bool| json!({ "prompt": "a", "max_tokens": 2, "stream": stream, "logit_bias": bias });
    let refused = server.post("/v1/completions", &body(false));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("invalid_value")));
    assert_eq!(code_of_stream(&server.post("/v1/completions", &body(true))), "invalid_value");
    // In the words of the other APIs.
    let mut message =
        json!({ "messages": [{ "role": "user", "content": "a" }], "max_tokens": 2, "stream": true });
    message["logit_bias"] = json!(bias);
    let text = server.post("/v1/messages", &message).text();
    assert!(text.contains("event: error\ndata: ") || text.contains("invalid_request_error"), "{text}");
}

#[test]
fn a_form_that_explodes_is_the_fault_of_its_request() {
    let server = Running::new(options()).healthy();
    for stream in [false, true] {
        let schema = json!({ "type": "string", "pattern": ".*".repeat(200) });
        let format = json!({ "type": "json_schema", "json_schema": { "name": "a", "schema": schema } });
        let body = json!({ "prompt": "a", "max_tokens": 20, "stream": stream, "response_format": format });
        let answer = server.post("/v1/completions", &body);
        let code = match answer.status {
            // Refused when it was read, or ended when it was followed.
            200 => code_of_stream(&answer),
            status => {
                assert_eq!(status, 400, "{}", answer.text());
                answer.json()["error"]["code"].as_str().unwrap().to_owned()
            }
        };
        assert_eq!(code, "grammar_limit", "{}", answer.text());
    }
    let sound = server.post("/v1/completions", &json!({ "prompt": "a", "max_tokens": 2 }));
    assert_eq!(sound.status, 200);
}

#[test]
fn a_client_that_does_not_read_loses_its_text_and_no_other_waits_for_it() {
    let mut impatient = long_options();
    impatient.limits.write_timeout = Duration::from_millis(500);
    let server = Running::new(impatient).healthy();
    let mut body = long_text(true);
    // Large pieces fill the buffers of the system soon.
    body["logprobs"] = json!(20);
    body["seed"] = json!(1);
    let mut slow = connect(server.address);
    slow.write_all(post("/v1/completions", &body).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
    // The sequence is somebody else's while the text is paused, or once it is cancelled.
    let other = server.post("/v1/completions", &json!({ "prompt": "b", "max_tokens": 4, "seed": 2 }));
    assert_eq!(other.status, 200);
    eventually(|| server.metric("bitnetc:requests_cancelled_total") == 1.0);
    eventually(|| {
        server.metric("bitnetc:num_requests_running") + server.metric("bitnetc:num_requests_waiting") == 0.0
    });
    // What it finds when it reads at last is no whole stream.
    let mut text = Vec::new();
    drop(slow.read_to_end(&mut text));
    assert!(!String::from_utf8_lossy(&text).contains("[DONE]"));
}

#[test]
fn refusals_are_quick_and_leave_streams_alone() {
    let mut narrow = long_options();
    narrow.limits.queue = 0;
    let server = Running::new(narrow).healthy();
    let body =
        json!({ "prompt": "ROMEO:", "max_tokens": 1500, "ignore_eos": true, "stream": true, "seed": 3 });
    let text = |answer: &Answer| -> String {
        let (events, done) = answer.events();
        assert!(done, "{}", answer.text());
        events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect()
    };
    let alone = text(&server.post("/v1/completions", &body));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let answer = server.post("/v1/completions", &body);
            ended.store(true, Ordering::SeqCst);
            text(&answer)
        });
        eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
        let mut refusals = 0;
        while !ended.load(Ordering::SeqCst) && refusals < 200 {
            let refused = server.post("/v1/completions", &json!({ "prompt": "a", "max_tokens": 1 }));
            // The stream may be over by now.
            if refused.status == 429 {
                assert!(refused.header("retry-after").is_some());
                refusals += 1;
            }
        }
        // Not after the stream, for whose sequence they would have waited.
        assert!(refusals > 2, "{refusals}");
        assert_eq!(stream.join().unwrap(), alone);
    });
}

#[test]
fn a_text_that_is_left_makes_way_for_the_one_that_waits() {
    let server = Running::new(long_options()).healthy();
    let mut first = connect(server.address);
    first.write_all(post("/v1/completions", &long_text(false)).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
    let body = json!({ "prompt": "b", "max_tokens": 2, "seed": 1 });
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| server.post("/v1/completions", &body));
        eventually(|| server.metric("bitnetc:num_requests_waiting") == 1.0);
        drop(first);
        assert_eq!(waits.join().unwrap().status, 200);
    });
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("finished_reason=\"abort\"} 1\n"), "{metrics}");
    assert!(server.metric("bitnetc:generation_tokens_total") < 8000.0);
}

/// A model whose opening takes until `goes_on` says otherwise, and then fails as if it had been interrupted.
pub(crate) fn interrupted(goes_on: impl Fn() -> bool + Send + Sync + 'static) -> ModelSource {
    let mut slow = source("slow");
    slow.open = Box::new(move || {
        while goes_on() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("interrupted".to_owned())
    });
    slow
}

#[test]
fn who_waits_for_a_model_while_the_server_ends_may_ask_another_one() {
    // It stops with the server, or not within its time.
    for stops in [true, false] {
        let mut short = options();
        short.limits.drain_timeout = Duration::from_millis(if stops { 20_000 } else { 200 });
        let asked = Arc::new(AtomicBool::new(false));
        let ends = Arc::new(AtomicBool::new(false));
        let (seen, over) = (Arc::clone(&asked), Arc::clone(&ends));
        let slow = interrupted(move || {
            seen.store(true, Ordering::SeqCst);
            !over.load(Ordering::SeqCst)
        });
        let server = Running::with(short, vec![source("sound"), slow]).healthy();
        let mut waits = connect(server.address);
        let body = json!({ "model": "slow", "prompt": "a", "max_tokens": 1 });
        waits.write_all(post("/v1/completions", &body).as_bytes()).unwrap();
        eventually(|| asked.load(Ordering::SeqCst));
        server.shutdown.drain();
        if stops {
            ends.store(true, Ordering::SeqCst);
        }
        let refused = read(&mut waits);
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("shutting_down")));
        assert!(refused.header("retry-after").is_some() && refused.header("x-should-retry").is_none());
        ends.store(true, Ordering::SeqCst);
        server.ended().unwrap();
    }
}

#[test]
fn a_server_that_ends_while_its_only_model_is_loaded_has_not_failed() {
    let asked = Arc::new(AtomicBool::new(false));
    let ends = Arc::new(AtomicBool::new(false));
    let (seen, over) = (Arc::clone(&asked), Arc::clone(&ends));
    let server = Running::with(
        options(),
        vec![interrupted(move || {
            seen.store(true, Ordering::SeqCst);
            !over.load(Ordering::SeqCst)
        })],
    );
    eventually(|| asked.load(Ordering::SeqCst));
    let loading = server.get("/health");
    assert_eq!((loading.status, &loading.json()["error"]["message"]), (503, &json!("Loading model")));
    server.shutdown.drain();
    ends.store(true, Ordering::SeqCst);
    server.ended().unwrap();
}

#[test]
fn who_waits_in_the_servers_queue_is_told_of_its_end() {
    let mut short = long_options();
    short.limits.queue_timeout = Some(Duration::from_secs(60));
    short.limits.drain_timeout = Duration::from_millis(200);
    let server = Running::new(short).healthy();
    let mut running = connect(server.address);
    running.write_all(post("/v1/completions", &long_text(true)).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
    let mut waits = connect(server.address);
    waits.write_all(post("/v1/completions", &long_text(true)).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_waiting") == 1.0);
    server.shutdown.drain();
    let refused = read(&mut waits);
    assert_eq!((refused.status, refused.header("connection")), (503, Some("close")), "{}", refused.text());
    server.ended().unwrap();
}

#[test]
fn no_more_models_are_loaded_than_may_be() {
    let mut one = long_options();
    one.models.most = Some(1);
    one.limits.load_timeout = Duration::from_millis(300);
    let server = Running::with(one, vec![source("a"), source("b")]).healthy();
    let mut busy = connect(server.address);
    busy.write_all(post("/v1/completions", &long_text(true)).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
    let of_b = || server.post("/v1/completions", &json!({ "model": "b", "prompt": "a", "max_tokens": 1 }));
    let waits = of_b();
    assert_eq!((waits.status, &waits.json()["error"]["code"]), (503, &json!("model_loading")));
    let loaded = server.get("/api/ps").json();
    assert_eq!(loaded["models"].as_array().unwrap().len(), 1, "{loaded}");
    drop(busy);
    eventually(|| of_b().status == 200);
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let mut logging = options();
    logging.log = Some(LogFormat::Text);
    let server = Running::new(logging).healthy();
    let log = Arc::clone(&server.log);
    let unread = log.lock().unwrap();
    let count = unread.len();
    for _ in 0..8 {
        assert_eq!(server.get("/v1/models").status, 200);
    }
    drop(unread);
    eventually(|| log.lock().unwrap().len() >= count + 8);
}

#[test]
fn work_of_a_client_that_left_counts_until_it_is_done() {
    let mut narrow = options();
    narrow.models.parallel = 1;
    narrow.limits.queue = 0;
    narrow.log = Some(LogFormat::Text);
    let server = Running::new(narrow).healthy();
    // A form that takes its time to be compiled.
    let part = |number: usize| {
        let fields = (0..20).map(|field| (format!("k{number}_{field}"), json!({ "enum": [field] })));
        let fields: serde_json::Map<String, Value> = fields.collect();
        json!({ "type": "object", "properties": fields, "required": [format!("k{number}_0")] })
    };
    let schema = json!({ "anyOf": (0..300).map(part).collect::<Vec<_>>() });
    let body = json!({ "prompt": "a", "max_tokens": 1, "json_schema": schema }).to_string();
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut client = connect(server.address);
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(body.as_bytes()).unwrap();
    eventually(|| server.get("/ready").status == 503);
    drop(client);
    let has_left = || server.log.lock().unwrap().iter().any(|line| line.contains("status=499"));
    eventually(has_left);
    assert_eq!(server.get("/ready").status, 503);
    eventually(|| server.get("/ready").status == 200);
}

#[test]
fn limits_hold_for_every_way_to_send_a_request() {
    let mut small = options();
    small.limits.body = 4096;
    let server = Running::new(small).healthy();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = ask(server.address, &format!("{head}{chunk}{chunk}0\r\n\r\n"));
    assert_eq!((chunked.status, chunked.header("connection")), (413, Some("close")));
    let many: String = (0..200).map(|n| format!("x-{n}: a\r\n")).collect();
    let headers = ask(server.address, &format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"));
    assert_eq!(headers.status, 431);
    let names = format!("{{\"filename\":\"{}\"}}", "a".repeat(100_000));
    let mut large = options();
    large.slot_save_path = Some(std::env::temp_dir());
    let server = Running::new(large).healthy();
    let head = format!(
        "POST /slots/0?action=save HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        names.len()
    );
    assert_eq!(ask(server.address, &(head + &names)).status, 413);
    // A long body, of which the name of the model is found anyway.
    let models = Running::with(options(), vec![source("a"), source("b")]).healthy();
    let body = json!({ "user": "u".repeat(200_000), "model": "b", "prompt": "a", "max_tokens": 1 });
    let answer = models.post("/v1/completions", &body);
    assert_eq!((answer.status, &answer.json()["model"]), (200, &json!("b")), "{}", answer.text());
}

#[test]
fn a_model_is_named_in_the_body_of_an_action_too_and_looking_loads_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut saving = options();
    saving.slot_save_path = Some(folder.path().to_owned());
    let server = Running::with(saving, vec![source("a"), source("b")]).healthy();
    let loaded = || server.get("/api/ps").json()["models"].as_array().unwrap().len();
    assert_eq!(server.get("/slots?model=b").json(), json!([]));
    assert_eq!(server.get("/slots?model=b&fail_on_no_slot=1").status, 503);
    assert_eq!((server.get("/slots?model=c").status, loaded()), (404, 1));
    let body = json!({ "model": "a", "prompt": "ROMEO:", "max_tokens": 4, "id_slot": 0 });
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    let erased = server.post("/slots/0?action=erase", &json!({ "model": "b" }));
    assert_eq!((&erased.json()["n_erased"], loaded()), (&json!(0), 2));
    let saved = server.post("/slots/0?action=save", &json!({ "model": "a", "filename": "state" }));
    assert!(saved.json()["n_saved"].as_u64().is_some_and(|tokens| tokens > 0), "{}", saved.text());
    #[cfg(unix)]
    {
        let metadata = std::fs::metadata(folder.path().join("state")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o600);
    }
}

#[test]
fn counters_of_a_model_outlive_its_time_in_memory() {
    let mut one = options();
    one.models.most = Some(1);
    let server = Running::with(one, vec![source("a"), source("b")]).healthy();
    let generated = |model: &str| {
        let name = format!("bitnetc:generation_tokens_total{{model_name=\"{model}\"}} ");
        let text = server.get("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(&name).and_then(|count| count.parse::<u64>().ok()))
    };
    let ask_for = |model: &str| {
        let body = json!({ "model": model, "prompt": "a", "max_tokens": 3, "ignore_eos": true });
        eventually(|| server.post("/v1/completions", &body).status == 200);
    };
    ask_for("a");
    assert_eq!((generated("a"), generated("b")), (Some(3), None));
    ask_for("b");
    assert_eq!((generated("a"), generated("b")), (Some(3), Some(3)));
    let text = server.get("/metrics").text();
    assert!(!text.contains("bitnetc:num_requests_running{model_name=\"a\"}"), "{text}");
    ask_for("a");
    assert_eq!(generated("a"), Some(6));
}

#[test]
fn names_of_files_and_tags_are_names_of_models() {
    let server = Running::with(options(), vec![source("a"), source("b")]).healthy();
    for name in ["b", "b.gguf", "b.plan", "b:latest"] {
        let body = json!({ "model": name, "prompt": "a", "max_tokens": 1 });
        assert_eq!(server.post("/v1/completions", &body).json()["model"], "b", "{name}");
        assert_eq!(server.get(&format!("/v1/models/{name}")).json()["id"], "b", "{name}");
    }
    let unloaded = Running::with(options(), vec![source("a"), source("b")]).healthy();
    assert!(unloaded.get("/v1/models/b").json()["created"].as_u64().is_some_and(|time| time > 1_600_000_000));
}

#[test]
fn the_end_is_announced() {
    let server = Running::new(long_options()).healthy();
    let mut running = connect(server.address);
    running.write_all(post("/v1/completions", &long_text(true)).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
    let said = |words: &str| server.notes.lock().unwrap().iter().any(|note| note.contains(words));
    server.shutdown.drain();
    eventually(|| said("for 30 s more; a second signal ends"));
    server.shutdown.end();
    eventually(|| said("shut down"));
    eventually(|| server.is_over());
}

#[test]
fn a_preloaded_model_that_cannot_be_loaded_ends_the_server() {
    let mut all = options();
    all.models.preload = true;
    let server = Running::with(all, vec![source("sound"), interrupted(|| false)]);
    let notes = Arc::clone(&server.notes);
    let error = server.ended().unwrap_err();
    assert!(error.to_string().contains("cannot load slow: interrupted"), "{error}");
    assert!(!notes.lock().unwrap().iter().any(|note| note.contains("cannot load")), "{notes:?}");
}
