//! Bounds on what requests may take, over the wire.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::http_client::{ask, connect, eventually, get, post, read};
use crate::running::{Running, builtin, long_options, options, source};

/// Heads that hyper refuses before the server sees them.
#[test]
fn heads_that_cannot_be_read_are_refused_in_json() {
    let server = Running::new(options()).healthy();
    let before = server.metric("bitnetc:requests_refused_total");
    let many: String = (0..200).map(|n| format!("x-{n}: a\r\n")).collect();
    for (request, status, code) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "invalid_head"),
        (
            format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(300_000)),
            431,
            "headers_too_large",
        ),
        (format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"), 431, "headers_too_large"),
    ] {
        // On a connection of its own, and on one that has had an answer.
        for is_kept in [false, true] {
            let mut stream = connect(server.address);
            if is_kept {
                stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
                assert_eq!(read(&mut stream).status, 200);
            }
            stream.write_all(request.as_bytes()).unwrap();
            let answer = read(&mut stream);
            assert_eq!(
                (answer.status, &answer.json()["error"]["code"]),
                (status, &json!(code)),
                "{}",
                answer.head
            );
            assert_eq!(answer.header("connection"), Some("close"), "{}", answer.head);
            assert!(answer.header("x-request-id").is_some(), "{}", answer.head);
        }
    }
    assert_eq!(server.metric("bitnetc:requests_refused_total"), before + 6.0);
    // Which of the two limits it exceeds first depends on how it arrives.
    let long = ask(server.address, &get(&format!("/{}", "y".repeat(65_600))));
    assert!(
        [414, 431].contains(&long.status) && long.json()["error"]["message"].is_string(),
        "{}",
        long.head
    );
}

#[test]
fn a_body_that_takes_too_much_memory_is_refused_and_short_ones_are_not() {
    let mut small = options();
    (small.limits.body, small.limits.bodies) = (1 << 20, 1 << 20);
    let server = Running::new(small).healthy();
    let body = |user: String| json!({ "prompt": "a", "max_tokens": 1, "user": user });
    // Longer than short ones, and with copies of its values more than a quarter of what all may take.
    let refused = server.post("/v1/completions", &body("u".repeat(200_000)));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "body_too_complex");
    assert_eq!(server.post("/v1/completions", &body("u".repeat(60_000))).status, 200);
    assert_eq!(server.post("/v1/completions", &body("u".repeat(100))).status, 200);
}

#[test]
fn an_answer_in_one_piece_has_a_bound() {
    let server = Running::new(options()).healthy();
    let body = |prompts: usize| json!({ "prompt": vec!["a"; prompts], "n": 8, "max_tokens": 250, "logprobs": 20, "seed": 1 });
    let refused = server.post("/v1/completions", &body(64));
    assert_eq!(refused.status, 400, "{}", refused.text());
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("entries") && message.contains("262144"), "{message}");
    let mut small = body(1);
    (small["max_tokens"], small["n"]) = (json!(2), json!(2));
    assert_eq!(server.post("/v1/completions", &small).json()["choices"].as_array().unwrap().len(), 2);
}

#[test]
fn an_erased_sequence_is_forgotten_by_the_store_too() {
    let mut one = options();
    (one.models.parallel, one.models.cache_ram) = (1, Some(64 << 20));
    let server = Running::new(one).healthy();
    let ask = |prompt: &str| {
        let body = json!({ "prompt": prompt, "max_tokens": 1, "seed": 1 });
        let answer = server.post("/v1/completions", &body);
        answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let erase = || {
        eventually(|| server.metric("bitnetc:num_requests_running") == 0.0);
        server.post("/slots/0?action=erase", &json!({})).json()["n_erased"].as_u64().unwrap()
    };
    let (first, second) =
        ("Now is the winter of our discontent ".repeat(4), "Once more unto the breach ".repeat(4));
    assert_eq!(ask(&first), 0);
    // The one sequence is given to another text, and the first one is stored.
    ask(&second);
    assert!(ask(&first) > 16);
    assert!(erase() > 16);
    assert_eq!(ask(&first), 0, "what was erased is not reused");
    assert!(ask(&second) > 16, "other texts are kept");
}

#[test]
fn hosts_are_allowed_by_name_or_by_name_and_port() {
    let mut named = options();
    named.access.allowed_hosts = vec!["any.local".to_owned(), "one.local:8443".to_owned()];
    let server = Running::new(named).healthy();
    for (host, status) in [
        ("any.local", 200),
        ("any.local:1", 200),
        ("one.local:8443", 200),
        ("one.local:1", 403),
        ("one.local", 403),
    ] {
        let request = format!("GET /props HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(ask(server.address, &request).status, status, "{host}");
        let absolute = format!("GET http://{host}/props HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert_eq!(ask(server.address, &absolute).status, status, "{host}");
    }
}

/// A model that is always in use does not keep out another one that waits for its place.
#[test]
fn a_model_in_use_makes_way_for_one_that_waits() {
    let mut one = long_options();
    one.models.most = Some(1);
    one.models.parallel = 2;
    one.limits.load_timeout = Duration::from_secs(600);
    let server = Running::with(one, vec![source("a"), source("b")]).healthy();
    let of_a = |tokens: u32| {
        let body =
            json!({ "model": "a", "prompt": "a", "max_tokens": tokens, "ignore_eos": true, "stream": true });
        post("/v1/completions", &body)
    };
    let mut first = connect(server.address);
    first.write_all(of_a(8000).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") == 1.0);
    let b_is_answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let body = json!({ "model": "b", "prompt": "a", "max_tokens": 1 });
            let answer = server.post("/v1/completions", &body);
            b_is_answered.store(true, Ordering::SeqCst);
            answer
        });
        let is_closed = |note: &String| note.contains("new requests for a wait");
        eventually(|| server.notes.lock().unwrap().iter().any(is_closed));
        let late = scope.spawn(|| {
            let answer = ask(server.address, &of_a(20));
            (answer.status, b_is_answered.load(Ordering::SeqCst))
        });
        drop(first);
        assert_eq!(waits.join().unwrap().status, 200);
        // It comes after the other model, and is answered too.
        assert_eq!(late.join().unwrap(), (200, true));
    });
}

#[test]
fn steps_are_compared_with_the_bandwidth_of_the_memory() {
    let mut measured = options();
    measured.models.bandwidth = Some(1e9);
    let server = Running::new(measured).healthy();
    let body = json!({ "prompt": "ROMEO:", "max_tokens": 20, "ignore_eos": true, "seed": 1 });
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    // The answer may be read before its last step has been counted.
    eventually(|| server.metric("bitnetc:decode_steps_total") == 20.0);
    let read = server.metric("bitnetc:decode_read_bytes_total");
    let seconds = "bitnetc:step_seconds_sum{model_name=\"tiny\",kind=\"decode\"} ";
    let text = server.get("/metrics").text();
    let seconds: f64 = text.lines().find_map(|line| line.strip_prefix(seconds)).unwrap().parse().unwrap();
    let model = &builtin().loaded().model;
    let weights = 19.0 * model.bytes_per_token() as f64;
    let keys = (read - weights) / model.kv_bytes_per_position() as f64;
    // A key for each token before, in 19 steps after a prompt of a few tokens.
    assert!((19.0 * 20.0 / 2.0..19.0 * 40.0).contains(&keys) && keys.fract() == 0.0, "{keys}");
    let share = server.metric("bitnetc:share_of_bandwidth");
    assert!((share - read / seconds / 1e9).abs() < 1e-9, "{share}");
    let unknown = Running::new(options()).healthy();
    assert!(!unknown.get("/metrics").text().contains("share_of_bandwidth{"));
}
