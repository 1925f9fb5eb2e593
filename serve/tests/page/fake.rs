//! A server of two routes and as many behaviours as a page may meet: it answers what the last message asks for.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitnetc_serve::page::document;
use serde_json::{Value, json};

use crate::fake_server;

/// A text that would break out of the page if it were taken for markup.
pub(crate) const EVIL: &str = "</script><script>window.taken=1</script><img src=x onerror=\"window.taken=2\"><h1>{{script}}&amp;\u{2028}";

/// An answer with every construct that is drawn.
pub(crate) const RICH: &str = "# One\n\nA **strong**, *slanted*, ~~gone~~ and `code` word, [a link](https://example.com/a?b=c) and \
    https://example.org/bare.\nA second line.\n\n1. first\n2. second\n   - inner\n     - innermost\n\n- [x] done\n\n> quoted\n\n\
    | name | n |\n|:--|--:|\n| a\\|b | `x|y` |\n\n```rust\nfn main() { let x = \"<b>\"; } // no\n```\n\n---\n\nlast";

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) body: Value,
    pub(crate) key: Option<String>,
}

/// What the server has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) asked: Mutex<Vec<Asked>>,
    /// Streams whose client left.
    pub(crate) left: AtomicUsize,
    /// The key that requests must have.
    pub(crate) key: Mutex<Option<String>>,
}

impl Seen {
    /// The last request for an answer.
    pub(crate) fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().expect("a request").clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// Starts the server; its address.
pub(crate) fn start() -> (String, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let shared = seen.clone();
    (fake_server::start(move |asked, stream| serve(stream, asked, &shared)), seen)
}

/// Answers a request; whether the connection is kept.
fn serve(stream: &mut TcpStream, asked: &fake_server::Asked, seen: &Seen) -> std::io::Result<bool> {
    let key = asked.header("authorization");
    let wanted = seen.key.lock().unwrap().clone();
    let allowed = wanted.is_none_or(|wanted| key == Some(&format!("Bearer {wanted}")));
    let json = |stream: &mut TcpStream, status: u16, body: &Value| {
        respond(stream, status, "application/json", &body.to_string())
    };
    match asked.path.as_str() {
        "/" => respond(stream, 200, "text/html; charset=utf-8", &document().html)?,
        _ if !allowed => {
            json(stream, 401, &json!({ "error": { "message": "no key", "type": "authentication_error" } }))?;
        }
        "/v1/models" => {
            json(stream, 200, &json!({ "object": "list", "data": [{ "id": "first" }, { "id": EVIL }] }))?;
        }
        "/props" => {
            let settings = json!({ "params": { "temperature": 0.8 } });
            json(stream, 200, &json!({ "default_generation_settings": settings, "build_info": EVIL }))?;
        }
        "/v1/chat/completions" => {
            let body = asked.json();
            seen.asked.lock().unwrap().push(Asked { body: body.clone(), key: key.map(str::to_owned) });
            return answer(stream, seen, &body).map(|()| false);
        }
        _ => respond(stream, 404, "application/json", "{}")?,
    }
    Ok(true)
}

fn respond(stream: &mut TcpStream, status: u16, kind: &str, body: &str) -> std::io::Result<()> {
    let policy = &document().policy;
    let headers = format!("content-type: {kind}\r\ncontent-security-policy: {policy}\r\nretry-after: 7\r\n");
    fake_server::respond(stream, status, &headers, body)
}

/// Writes an event, or a `[DONE]`.
fn event(stream: &mut TcpStream, data: &Value) -> std::io::Result<()> {
    match data.as_str() {
        Some(text) => write!(stream, "data: {text}\n\n"),
        None => write!(stream, "data: {data}\n\n"),
    }
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({ "object": "chat.completion.chunk", "model": "first", "usage": null,
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
}

fn answer(stream: &mut TcpStream, seen: &Seen, body: &Value) -> std::io::Result<()> {
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    let last = messages.last().and_then(|m| m["content"].as_str()).unwrap_or_default().to_owned();
    if last == "busy" {
        return respond(stream, 429, "application/json", r#"{"error":{"message":"full"}}"#);
    }
    if last == "evil error" {
        let body = json!({ "error": { "message": EVIL, "code": "x" } });
        return respond(stream, 400, "application/json", &body.to_string());
    }
    if last.starts_with("small context") && messages.len() > 3 {
        let body = json!({ "error": { "message": "too long", "code": "context_length_exceeded" } });
        return respond(stream, 400, "application/json", &body.to_string());
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: ping\n\n";
    stream.write_all(head.as_bytes())?;
    event(stream, &chunk(&json!({ "role": "assistant", "content": "" }), None))?;
    let text = match last.as_str() {
        "rich" => RICH.to_owned(),
        "evil" => format!(
            "{EVIL}\n\n# {EVIL}\n\n- {EVIL}\n\n> {EVIL}\n\n|{EVIL}|b|\n|-|-|\n|{EVIL}|d|\n\n[a](javascript:window.taken=3) \
             [b](data:text/html,<script>window.taken=4</script>) ![c](https://example.com/pixel.png) [d](\u{1}javascript:alert(1)) \
             [e](//example.com) <javascript:alert(1)> [f](HTTPS://example.com\"onclick=\"window.taken=5)\n\n```\"><img src=x>\n{EVIL}\n"
        ),
        "hard" => hard(),
        "slow" => return slow(stream, seen),
        "cut" => {
            event(stream, &chunk(&json!({ "content": "half an" }), None))?;
            return stream.shutdown(std::net::Shutdown::Both);
        }
        "fails" => {
            event(stream, &chunk(&json!({ "content": "half an" }), None))?;
            event(stream, &json!({ "error": { "message": "the logits are not numbers", "code": null } }))?;
            return event(stream, &json!("[DONE]"));
        }
        "think" => {
            for piece in ["I *consider* ", "it."] {
                event(stream, &chunk(&json!({ "reasoning_content": piece }), None))?;
            }
            "Considered.".to_owned()
        }
        _ => format!("answer to {last}"),
    };
    let characters: Vec<char> = text.chars().collect();
    for piece in characters.chunks(if last == "hard" { 60_000 } else { 7 }) {
        // A character in two packets is one character.
        let data =
            format!("data: {}\n\n", chunk(&json!({ "content": piece.iter().collect::<String>() }), None));
        let (first, second) = data.as_bytes().split_at(data.len() / 2);
        stream.write_all(first)?;
        stream.flush()?;
        stream.write_all(second)?;
    }
    event(stream, &chunk(&json!({}), Some("stop")))?;
    let usage = json!({ "prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52, "prompt_tokens_details": { "cached_tokens": 30 } });
    event(
        stream,
        &json!({ "choices": [], "model": "first", "usage": usage, "timings": { "predicted_per_second": 23.5 } }),
    )?;
    event(stream, &json!("[DONE]"))
}

/// A word each 20 ms until the client leaves.
fn slow(stream: &mut TcpStream, seen: &Seen) -> std::io::Result<()> {
    for i in 0..1500 {
        if let Err(error) = event(stream, &chunk(&json!({ "content": format!("word{i} ") }), None)) {
            seen.left.fetch_add(1, Ordering::SeqCst);
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What a parser that searches again and again would not finish.
fn hard() -> String {
    let n = 12_000;
    let parts = [
        "*a ".repeat(n),
        "[".repeat(n),
        "[a](".repeat(n),
        "`".repeat(n) + " " + &"`` ` ".repeat(n),
        "> ".repeat(2000) + "deep",
        (0..2000).map(|i| format!("{}- x\n", " ".repeat(i % 300))).collect(),
        format!("# {}x{}y", " ".repeat(n), " ".repeat(n)),
        format!("``` {}`", " ".repeat(n)),
        "http://".to_owned() + &"...".repeat(n) + "x",
        "|".repeat(n) + "\n" + &"|-".repeat(n) + "\n" + &"|".repeat(n),
        "**__~~".repeat(n),
        "```js\n".to_owned() + &"\"'`/*".repeat(n) + "\n```",
    ];
    parts.join("\n\n") + "\n\nthe end"
}
