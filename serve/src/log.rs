//! One line for each request, written when its answer has ended or its client has left.
//!
//! A line has no text of a prompt or of an answer unless that is asked for, and never a key. Control characters are escaped: a
//! terminal would obey those that a client chose.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use bitnetc::api::rfc3339;
use bitnetc::engine::{Completion, Stop};
use http_body::{Frame, SizeHint};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::Note;

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Words and `name=value`.
    Text,
    /// An object.
    Json,
}

/// Characters of a path in a line.
const LONGEST_PATH: usize = 1_000;
/// Characters of a method.
const LONGEST_METHOD: usize = 32;

/// A text of a client in bounds, so that a line or a message about it is short.
pub(crate) fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => text[..end].to_owned() + "…",
        None => text.to_owned(),
    }
}

/// What is known of a request.
#[derive(Debug)]
struct Fields {
    /// When it arrived.
    time: SystemTime,
    /// The address that it came from.
    peer: IpAddr,
    id: String,
    method: String,
    path: String,
    model: Option<String>,
    status: u16,
    prompt_tokens: usize,
    cached_tokens: usize,
    new_tokens: usize,
    queue: Option<Duration>,
    first_token: Option<Duration>,
    finish: Option<&'static str>,
    prompt: Option<String>,
}

/// The record of a request: shared by all that know something of it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    begun: Instant,
    fields: Arc<Mutex<Fields>>,
}

impl Record {
    pub(crate) fn new(peer: IpAddr, id: String, method: String, path: String) -> Self {
        let (method, path) = (cut(&method, LONGEST_METHOD), cut(&path, LONGEST_PATH));
        let fields = Fields::new(peer, id, method, path);
        Self { begun: Instant::now(), fields: Arc::new(Mutex::new(fields)) }
    }

    fn fields(&self) -> std::sync::MutexGuard<'_, Fields> {
        self.fields.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> String {
        self.fields().id.clone()
    }

    pub(crate) fn model(&self, id: &str) {
        self.fields().model = Some(id.to_owned());
    }

    pub(crate) fn status(&self, status: StatusCode) {
        self.fields().status = status.as_u16();
    }

    pub(crate) fn prompt(&self, body: &[u8]) {
        self.fields().prompt = Some(String::from_utf8_lossy(body).into_owned());
    }

    /// Takes note of a token.
    pub(crate) fn token(&self) {
        let mut fields = self.fields();
        fields.first_token.get_or_insert_with(|| self.begun.elapsed());
    }

    /// Takes note of a text that has ended.
    pub(crate) fn completed(&self, completion: &Completion) {
        let mut fields = self.fields();
        fields.prompt_tokens += completion.prompt_tokens;
        fields.cached_tokens += completion.reused_tokens;
        fields.new_tokens += completion.tokens.len();
        fields.queue.get_or_insert(completion.timings.queue);
        let made = completion.timings.queue + completion.timings.prompt;
        fields.first_token.get_or_insert(made);
        fields.finish = Some(finish_name(completion.finish));
    }

    /// Takes note of how it ended, if no text has.
    pub(crate) fn ended(&self, how: &'static str) {
        self.fields().finish = Some(how);
    }
}

fn finish_name(stop: Stop) -> &'static str {
    match stop {
        Stop::EndToken(_) | Stop::StopToken(_) | Stop::StopString(_) | Stop::Grammar => "stop",
        Stop::Limit | Stop::ContextFull => "length",
        Stop::Interrupted => "cancelled",
    }
}

impl Fields {
    fn new(peer: IpAddr, id: String, method: String, path: String) -> Self {
        Self {
            time: SystemTime::now(),
            peer,
            id,
            method,
            path,
            model: None,
            status: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            new_tokens: 0,
            queue: None,
            first_token: None,
            finish: None,
            prompt: None,
        }
    }

    /// The line, without its end.
    fn line(&self, format: LogFormat, total: Duration) -> String {
        let ms = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
        let mut all = Map::new();
        let mut add = |name: &str, value: Value| {
            if !value.is_null() {
                all.insert(name.to_owned(), value);
            }
        };
        add("time", json!(rfc3339(self.time)));
        add("peer", json!(self.peer));
        add("id", json!(self.id));
        add("method", json!(self.method));
        add("path", json!(self.path));
        add("status", json!(self.status));
        add("model", json!(self.model));
        if self.finish.is_some() {
            add("prompt_tokens", json!(self.prompt_tokens));
            add("cached_tokens", json!(self.cached_tokens));
            add("new_tokens", json!(self.new_tokens));
        }
        add("queue_ms", json!(self.queue.map(ms)));
        add("ttft_ms", json!(self.first_token.map(ms)));
        add("total_ms", json!(ms(total)));
        add("finish", json!(self.finish));
        add("body", json!(self.prompt));
        match format {
            LogFormat::Json => escaped(&Value::Object(all).to_string()),
            LogFormat::Text => {
                let word = |(name, value): (&String, &Value)| match value {
                    Value::String(text) if text.contains([' ', '"', '=', '\\']) || text.is_empty() => {
                        format!("{name}={value}")
                    }
                    Value::String(text) => format!("{name}={text}"),
                    value => format!("{name}={value}"),
                };
                escaped(&all.iter().map(word).collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// Whether a terminal or an editor obeys a character, or shows nothing for it: controls, line and paragraph separators, marks of
/// direction, spaces that are none.
fn is_obeyed(c: char) -> bool {
    let marks = [
        '\u{a0}'..='\u{a0}',
        '\u{61c}'..='\u{61c}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{2069}',
        '\u{feff}'..='\u{feff}',
    ];
    c.is_control() || marks.iter().any(|range| range.contains(&c))
}

/// A line in which no such character stands as itself.
fn escaped(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        match is_obeyed(c) {
            // All of them are below U+10000.
            true => out += &format!("\\u{:04x}", u32::from(c)),
            false => out.push(c),
        }
    }
    out
}

/// Number of requests that are being answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Active(Arc<watch::Sender<usize>>);

impl Active {
    pub(crate) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until there is none.
    pub(crate) async fn none_left(&self) {
        drop(self.0.subscribe().wait_for(|&count| count == 0).await);
    }
}

/// A request under way: counted while it is there, and logged when it goes.
pub(crate) struct UnderWay {
    record: Record,
    log: Option<(LogFormat, Note)>,
    active: Active,
}

impl UnderWay {
    pub(crate) fn new(record: Record, log: Option<(LogFormat, Note)>, active: &Active) -> Self {
        active.0.send_modify(|count| *count += 1);
        Self { record, log, active: active.clone() }
    }

    /// The body, with which it ends.
    pub(crate) fn until_the_end_of(self, body: Body) -> Body {
        Body::new(Watched { body, _under_way: self })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some((format, to)) = &self.log {
            let mut fields = self.record.fields();
            if fields.status == 0 {
                // The client left before there was an answer: nginx's number for it.
                fields.status = 499;
            }
            to(&fields.line(*format, self.record.begun.elapsed()));
        }
        self.active.0.send_modify(|count| *count -= 1);
    }
}

/// A body that takes a request under way with it.
struct Watched {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_control_characters_and_no_more_than_is_known() {
        let peer = IpAddr::from([192, 0, 2, 7]);
        let mut fields =
            Fields::new(peer, "a\u{1b}[31m".to_owned(), "POST".to_owned(), "/v1/x y\n".to_owned());
        fields.status = 400;
        fields.time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_120);
        let total = Duration::from_micros(1_234);
        let text = fields.line(LogFormat::Text, total);
        let expected = "time=2023-11-14T22:13:20.120Z peer=192.0.2.7 id=a\\u001b[31m method=POST path=\"/v1/x y\\n\" status=400 total_ms=1.2";
        assert_eq!(text, expected);
        let json = fields.line(LogFormat::Json, total);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["path"], value.get("prompt_tokens")), (&json!("/v1/x y\n"), None));
        assert!(!json.contains(char::is_control));
        fields.path = "a\u{85}\u{a0}\u{200b}\u{202e}\u{2028}\u{2029}\u{2066}\u{feff}ä".to_owned();
        let escaped = "path=a\\u0085\\u00a0\\u200b\\u202e\\u2028\\u2029\\u2066\\ufeffä status";
        let text = fields.line(LogFormat::Text, total);
        assert!(text.contains(escaped), "{text}");
        let json: Value = serde_json::from_str(&fields.line(LogFormat::Json, total)).unwrap();
        assert_eq!(json["path"], json!(fields.path));
        let long = Record::new(peer, String::new(), String::new(), "ä".repeat(5_000));
        assert_eq!(long.fields().path.chars().count(), LONGEST_PATH + 1);
        let long = Record::new(peer, String::new(), "X".repeat(5_000), String::new());
        assert_eq!(long.fields().method.chars().count(), LONGEST_METHOD + 1);
    }
}
