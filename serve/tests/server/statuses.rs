//! Every refusal with its status, its form and its headers.

use std::io::Write;
use std::time::{Duration, Instant};

use bitnetc_serve::{Key, LogFormat};
use serde_json::json;

use crate::http_client::{ask, connect, eventually, post, read};
use crate::running::{Running, long_options, long_text, options, source};

#[test]
fn what_is_refused_has_its_status_and_is_json() {
    let mut small = options();
    small.limits.body = 4096;
    let server = Running::new(small).healthy();
    let completion = |body: &serde_json::Value| server.post("/v1/completions", body);
    for (answer, status, code) in [
        (
            ask(
                server.address,
                "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n{",
            ),
            400,
            "invalid_json",
        ),
        (completion(&json!([1])), 400, "invalid_json"),
        (completion(&json!({ "prompt": "a", "max_tokens": "many" })), 400, "invalid_value"),
        (completion(&json!({ "prompt": vec![1; 400] })), 400, "context_length_exceeded"),
        (completion(&json!({ "prompt": "x".repeat(5000) })), 413, "body_too_large"),
        (server.post("/v1/embeddings", &json!({ "input": "a" })), 400, "unsupported"),
        (
            ask(
                server.address,
                "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n",
            ),
            400,
            "invalid_json",
        ),
        (server.post("/slots/0", &json!({})), 400, "invalid_value"),
        (server.get("/infill"), 404, "not_found"),
        (server.get("/v1/models/nobody"), 404, "model_not_found"),
        (server.get("/v1/completions"), 405, "method_not_allowed"),
        (server.post("/slots/99?action=erase", &json!({})), 404, "slot_not_found"),
        (server.post("/slots/0?action=save", &json!({ "filename": "a" })), 400, "unsupported"),
        (ask(server.address, "GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n"), 403, "host_not_allowed"),
    ] {
        assert_eq!(answer.status, status, "{}{}", answer.head, answer.text());
        let error = &answer.json()["error"];
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        assert!(answer.header("x-request-id").is_some());
    }
    let wrong = server.get("/v1/completions");
    assert!(wrong.header("allow").is_some_and(|methods| methods.contains("POST")), "{}", wrong.head);
    assert_eq!(wrong.json()["error"]["message"], "GET is not supported: use POST");
    let deleted = ask(server.address, "DELETE /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(deleted.json()["error"]["message"], "DELETE is not supported: use GET");
    // The other APIs say it in their own way.
    assert!(server.get("/api/nothing").status == 404);
    assert_eq!(server.get("/v1/messages").status, 405);
    let page = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\ncontent-type: text/plain\r\n\
                content-length: 2\r\n\r\n{}";
    assert_eq!(ask(server.address, page).status, 415);
    let foreign = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(ask(server.address, foreign).status, 403);
    assert!(ask(server.address, "nonsense\r\n\r\n").status == 400);
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert_eq!(ask(server.address, &long).status, 431);
    assert!(server.metric("bitnetc:requests_refused_total") >= 14.0);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn ids_are_echoed_and_heads_and_options_are_answered() {
    let server = Running::new(options()).healthy();
    let with_id = |id: &str| {
        ask(server.address, &format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx-request-id: {id}\r\n\r\n"))
    };
    assert_eq!(with_id("abc-1").header("x-request-id"), Some("abc-1"));
    assert_ne!(with_id("a b").header("x-request-id"), Some("a b"));
    let mut stream = connect(server.address);
    stream.write_all(b"HEAD / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut head = String::new();
    std::io::Read::read_to_string(&mut stream, &mut head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    let options = "OPTIONS /v1/completions HTTP/1.1\r\nhost: localhost\r\norigin: http://a.example\r\n\r\n";
    let answer = ask(server.address, options);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, None));
}

#[test]
fn keys_are_asked_for_and_never_told() {
    let mut with_keys = options();
    with_keys.access.keys = vec![Key::new("first-key"), Key::new("second-key")];
    with_keys.access.metrics_key = Some(Key::new("third-key"));
    with_keys.log = Some(LogFormat::Json);
    let server = Running::new(with_keys).healthy();
    let with = |path: &str, header: &str| {
        ask(server.address, &format!("GET {path} HTTP/1.1\r\nhost: x.example\r\n{header}\r\n\r\n"))
    };
    let missing = with("/v1/models", "a: b");
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(missing.json()["error"]["type"], "authentication_error");
    assert_eq!(with("/v1/models", "authorization: Bearer wrong").status, 401);
    assert_eq!(with("/v1/models", "authorization: Bearer second-key").status, 200);
    assert_eq!(with("/v1/models", "x-api-key: first-key").status, 200);
    assert_eq!(with("/metrics", "x-api-key: first-key").status, 401);
    assert_eq!(with("/metrics", "x-api-key: third-key").status, 200);
    for path in ["/", "/health", "/ready"] {
        assert_eq!(with(path, "a: b").status, 200, "{path}");
    }
    let props = with("/props", "x-api-key: first-key").text();
    // Probes that are answered have no lines.
    eventually(|| server.log.lock().unwrap().len() >= 6);
    let log = server.log.lock().unwrap().join("\n");
    let told = props + &log;
    assert!(!["first-key", "second-key", "third-key"].iter().any(|key| told.contains(key)), "{told}");
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
}

#[test]
fn slow_clients_hold_nobody_up() {
    let mut hasty = options();
    hasty.limits.read_timeout = Duration::from_secs(1);
    hasty.limits.connections = 8;
    let server = Running::new(hasty).healthy();
    let mut slow: Vec<_> = (0..6).map(|_| connect(server.address)).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: loc").unwrap();
    }
    let begun = Instant::now();
    assert_eq!(server.get("/health").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5));
    for mut stream in slow {
        assert_eq!(read(&mut stream).status, 408);
    }
    // The head is there, the body is not.
    let mut stream = connect(server.address);
    stream
        .write_all(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        .unwrap();
    let answer = read(&mut stream);
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    // A client that sends half of a body and leaves.
    let mut stream = connect(server.address);
    stream
        .write_all(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop(stream);
    // Places are free again.
    eventually(|| (0..8).all(|_| server.get("/health").status == 200));
}

#[test]
fn connections_have_a_bound() {
    let mut few = options();
    few.limits.connections = 2;
    let server = Running::new(few).healthy();
    eventually(|| {
        let idle = [connect(server.address), connect(server.address)];
        std::thread::sleep(Duration::from_millis(50));
        let mut third = connect(server.address);
        drop(third.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        let refused = read(&mut third).status == 503;
        // Whoever watches the server is answered meanwhile.
        let mut probe = connect(server.address);
        drop(probe.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        let answer = read(&mut probe);
        drop(idle);
        refused && answer.status == 200 && answer.header("connection") == Some("close")
    });
    eventually(|| {
        let mut stream = connect(server.address);
        drop(stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        read(&mut stream).status == 200
    });
}

#[test]
fn a_full_queue_refuses_with_the_time_to_wait() {
    let mut narrow = long_options();
    narrow.limits.queue = 1;
    let server = Running::new(narrow).healthy();
    let long = long_text(true);
    let mut held: Vec<_> = (0..2).map(|_| connect(server.address)).collect();
    for stream in &mut held {
        stream.write_all(post("/v1/completions", &long).as_bytes()).unwrap();
    }
    eventually(|| server.get("/ready").status == 503);
    let refused = server.post("/v1/completions", &json!({ "prompt": "a", "max_tokens": 1 }));
    assert_eq!(refused.status, 429, "{}", refused.text());
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=120).contains(&seconds));
    assert_eq!(refused.json()["error"]["type"], "overloaded");
    assert_eq!(server.get("/health").status, 200);
    drop(held);
    eventually(|| server.get("/ready").status == 200);
    let taken = server.post("/v1/completions", &json!({ "prompt": "a", "max_tokens": 1 }));
    assert_eq!(taken.status, 200, "{}", taken.text());
}

#[test]
fn a_bounded_wait_ends_with_a_503() {
    let mut narrow = long_options();
    narrow.limits.queue_timeout = Some(Duration::from_millis(50));
    let server = Running::new(narrow).healthy();
    let long = long_text(true);
    let mut held = connect(server.address);
    held.write_all(post("/v1/completions", &long).as_bytes()).unwrap();
    eventually(|| server.metric("bitnetc:num_requests_running") > 0.0);
    let refused = server.post("/v1/completions", &json!({ "prompt": "a", "max_tokens": 1 }));
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("queue_timeout")));
    assert!(refused.header("retry-after").is_some());
}

#[test]
fn a_model_that_cannot_be_loaded_is_its_own_error() {
    let mut broken = source("broken");
    broken.open = Box::new(|| Err("the file is gone".to_owned()));
    let server = Running::with(options(), vec![source("sound"), broken]).healthy();
    let of = |model: &str| {
        server.post("/v1/completions", &json!({ "model": model, "prompt": "a", "max_tokens": 1 }))
    };
    assert_eq!(of("sound").status, 200);
    let failed = of("broken");
    assert_eq!((failed.status, failed.json()["error"]["code"].as_str()), (500, Some("model_load_failed")));
    assert!(failed.text().contains("the file is gone"));
    assert_eq!(failed.header("x-should-retry"), Some("false"));
    assert_eq!((of("other").status, of("sound").status), (404, 200));
    let mut broken = source("broken");
    broken.open = Box::new(|| Err("the file is gone".to_owned()));
    let alone = Running::with(options(), vec![broken]);
    assert!(alone.ended().unwrap_err().to_string().contains("the file is gone"));
}

#[test]
fn metrics_need_a_key_where_everything_does() {
    let mut with_keys = options();
    with_keys.access.keys = vec![Key::new("a-key")];
    let server = Running::new(with_keys).healthy();
    assert_eq!(server.get("/metrics").status, 401);
    let asked = ask(server.address, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nx-api-key: a-key\r\n\r\n");
    assert_eq!(asked.status, 200);
}

#[test]
fn probes_are_no_refused_requests() {
    let mut narrow = long_options();
    narrow.limits.queue = 0;
    let server = Running::new(narrow).healthy();
    let mut held = connect(server.address);
    held.write_all(post("/v1/completions", &long_text(true)).as_bytes()).unwrap();
    eventually(|| server.get("/ready").status == 503);
    let text = server.get("/metrics").text();
    assert!(text.contains("bitnetc:requests_refused_total{status=\"503\"} 0\n"), "{text}");
}

#[test]
fn properties_have_no_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("here.gguf");
    std::fs::write(&path, bitnetc::builtin::GGUF).unwrap();
    let mut named = source("tiny");
    named.open = Box::new(move || bitnetc::Model::load(&path).map_err(|error| error.to_string()));
    let server = Running::with(options(), vec![named]).healthy();
    let props = server.get("/props");
    assert_eq!(props.json()["model_path"], "here.gguf");
    assert!(!props.text().contains(&*folder.path().to_string_lossy()), "{}", props.text());
}

#[test]
fn heads_are_refused_before_their_bodies_are_read() {
    let server = Running::new(options()).healthy();
    let with = |headers: &str| {
        let head = format!("POST /tokenize HTTP/1.1\r\n{headers}\r\n\r\n");
        ask(server.address, &head).status
    };
    // Nothing of the body is sent, nor asked for.
    assert_eq!(with("host: localhost\r\ncontent-length: 17000000"), 413);
    assert_eq!(with("host: localhost\r\ncontent-length: 17000000\r\nexpect: 100-continue"), 413);
    assert_eq!(with("host: localhost\r\ncontent-length: 2\r\nexpect: 200-ok"), 417);
    assert_eq!(with("host: localhost\r\ncontent-length: 2\r\ncontent-encoding: gzip"), 415);
    assert_eq!(with("host: localhost\r\nhost: evil.example\r\ncontent-length: 2"), 400);
    assert_eq!(with("host: localhost\r\nsec-fetch-site: cross-site\r\ncontent-length: 2"), 403);
    assert_eq!(server.post("/tokenize", &json!({ "content": "a" })).status, 200);
}
