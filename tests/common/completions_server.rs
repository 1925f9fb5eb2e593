//! A server of `/v1/completions` whose times are known, for tests of the load generator: what it measures is what this server does.

#[path = "fake_server.rs"]
mod fake_server;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_server::Asked;
use serde_json::{Value, json};

/// How the server behaves.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// Before the first token.
    pub first: Duration,
    /// Before each further one.
    pub gap: Duration,
    /// Every request with this number (from 1) or a multiple of it is refused with 429; 0: none.
    pub refuse_every: u32,
    /// The same for streams that end in the middle.
    pub cut_every: u32,
    /// While a prompt of at least this length is computed, streams pause this long once.
    pub stall: Option<(usize, Duration)>,
}

impl Default for Behaviour {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { first: ms(5), gap: ms(2), refuse_every: 0, cut_every: 0, stall: None }
    }
}

/// What the server has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Bodies of streamed requests.
    pub bodies: Mutex<Vec<Value>>,
    streams: AtomicU32,
    at_once: AtomicU32,
    /// Most streams at a time.
    pub most_at_once: AtomicU32,
    /// Long prompts that have begun.
    stalls: AtomicU64,
}

/// Starts the server; its address.
pub fn start(behaviour: Behaviour) -> (String, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let shared = seen.clone();
    // A connection for each request.
    let address =
        fake_server::start(move |asked, stream| serve(stream, asked, &shared, behaviour).map(|()| false));
    (address, seen)
}

fn serve(stream: &mut TcpStream, asked: &Asked, seen: &Seen, behaviour: Behaviour) -> std::io::Result<()> {
    let body = asked.json();
    match asked.path.as_str() {
        "/v1/models" => {
            respond(stream, 200, &json!({ "data": [{ "id": "fake", "meta": { "n_vocab": 100 } }] }))
        }
        "/v1/completions" if body["stream"] == true => {
            seen.bodies.lock().unwrap().push(body.clone());
            let number = seen.streams.fetch_add(1, Ordering::SeqCst) + 1;
            if behaviour.refuse_every > 0 && number.is_multiple_of(behaviour.refuse_every) {
                return respond(stream, 429, &json!({ "error": { "message": "full" } }));
            }
            let now = seen.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            seen.most_at_once.fetch_max(now, Ordering::SeqCst);
            let cut = behaviour.cut_every > 0 && number.is_multiple_of(behaviour.cut_every);
            let result = answer(stream, seen, behaviour, &body, cut);
            seen.at_once.fetch_sub(1, Ordering::SeqCst);
            if result? {
                // The client asks again as soon as it has read this.
                send(stream, "data: [DONE]\n\n")?;
                write!(stream, "0\r\n\r\n")?;
            }
            Ok(())
        }
        "/v1/completions" => respond(stream, 200, &json!({ "choices": [{ "text": "a" }] })),
        _ => respond(stream, 404, &json!({})),
    }
}

fn respond(stream: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    fake_server::respond(stream, status, "", &body.to_string())
}

/// A chunk of the transfer coding, split in two packets, with a size that has an extension.
fn send(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    let (first, second) = text.split_at(text.len() / 2);
    write!(stream, "{:x};ext=1\r\n{first}", text.len())?;
    stream.flush()?;
    write!(stream, "{second}\r\n")
}

/// The pieces of an answer; false if the stream should end without its end.
fn answer(
    stream: &mut TcpStream,
    seen: &Seen,
    behaviour: Behaviour,
    body: &Value,
    cut: bool,
) -> std::io::Result<bool> {
    let prompt = body["prompt"].as_array().map_or(0, Vec::len);
    let tokens = body["max_tokens"].as_u64().unwrap_or(1);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
    )?;
    let is_long = behaviour.stall.is_some_and(|(least, _)| prompt >= least);
    let mut stalls = seen.stalls.load(Ordering::SeqCst);
    if is_long {
        stalls = seen.stalls.fetch_add(1, Ordering::SeqCst) + 1;
    }
    let stall = behaviour.stall.map_or(Duration::ZERO, |(_, time)| time);
    // Comments between two pieces are no pieces.
    send(stream, ": ping\n\n")?;
    std::thread::sleep(if is_long { stall } else { behaviour.first });
    for i in 0..tokens {
        if cut && i == tokens / 2 {
            return Ok(false);
        }
        if i > 0 {
            let long = seen.stalls.load(Ordering::SeqCst);
            std::thread::sleep(if long > stalls { stall } else { behaviour.gap });
            stalls = long;
            send(stream, ": ping\n\n")?;
        }
        send(
            stream,
            &format!(
                "data: {}\n\n",
                json!({ "choices": [{ "text": "a", "finish_reason": null }], "usage": null })
            ),
        )?;
    }
    send(
        stream,
        &format!("data: {}\n\n", json!({ "choices": [{ "text": "", "finish_reason": "length" }] })),
    )?;
    let usage = json!({ "prompt_tokens": prompt, "completion_tokens": tokens, "prompt_tokens_details": { "cached_tokens": prompt / 4 } });
    send(stream, &format!("data: {}\n\n", json!({ "choices": [], "usage": usage })))?;
    Ok(true)
}
