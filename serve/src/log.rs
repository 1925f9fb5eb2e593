//! The request log: one line per request, written when its answer is complete or its client has disconnected.
//!
//! Lines contain prompts only on request, and never keys. Control characters are escaped, because a terminal would interpret those
//! that a client chose.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::StatusCode;
use bitnetc::api::{Refusal, Usage, rfc3339};
use bitnetc::engine::{Completion, Stop};
use bitnetc::visible::{escape_json, with_escapes};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::Note;
use crate::app::is_probe;
use crate::body::with_guest;

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
/// Characters of the message of a refusal.
const LONGEST_MESSAGE: usize = 200;
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
    /// How long its model took to load, if it waited for that.
    load: Option<Duration>,
    /// From its arrival until its texts were given to the engine.
    submitted: Duration,
    finish: Option<&'static str>,
    /// Why it was not answered.
    refusal: Option<Refusal>,
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

    /// Takes note of why it is not answered, or not to the end.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.fields().refusal = Some(refusal.clone());
    }

    /// Takes note of how long it waited for its model to be loaded.
    pub(crate) fn loaded_in(&self, time: Duration) {
        self.fields().load = Some(time);
    }

    /// Takes note that its texts are given to the engine.
    pub(crate) fn submitted(&self) {
        self.fields().submitted = self.begun.elapsed();
    }

    /// Takes note of what a request that was not answered to its end has used.
    pub(crate) fn used(&self, usage: Usage) {
        let mut fields = self.fields();
        (fields.prompt_tokens, fields.new_tokens) = (usage.prompt_tokens, usage.completion_tokens);
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
        let made = fields.submitted + completion.timings.queue + completion.timings.prompt;
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
            load: None,
            submitted: Duration::ZERO,
            finish: None,
            refusal: None,
            prompt: None,
        }
    }

    /// Whether it only told about the server, as programs ask every few seconds.
    fn is_probe(&self) -> bool {
        let is_path = is_probe(&self.path) || self.path == "/metrics";
        is_path && [200, 503].contains(&self.status)
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
        add("load_ms", json!(self.load.map(ms)));
        add("queue_ms", json!(self.queue.map(ms)));
        add("ttft_ms", json!(self.first_token.map(ms)));
        add("total_ms", json!(ms(total)));
        add("finish", json!(self.finish));
        if let Some(refusal) = &self.refusal {
            add("code", json!(refusal.code));
            add("param", json!(refusal.param));
            // Templates repeat what they are given.
            let repeats = |param: &str| ["messages", "input"].contains(&param);
            if !refusal.param.as_deref().is_some_and(repeats) || self.prompt.is_some() {
                add("message", json!(cut(&refusal.message, LONGEST_MESSAGE)));
            }
        }
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
    with_escapes(line, is_obeyed, escape_json).into_owned()
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
        with_guest(body, self)
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
            if !fields.is_probe() {
                to(&fields.line(*format, self.record.begun.elapsed()));
            }
        }
        self.active.0.send_modify(|count| *count -= 1);
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
        fields.refusal = Some(Refusal::field("n", "n must be at most 8\n".repeat(100)));
        let refused = fields.line(LogFormat::Text, total);
        assert!(
            refused.contains(" code=invalid_value param=n message=\"n must be at most 8\\n"),
            "{refused}"
        );
        assert!(refused.len() < 600 && !refused.contains(char::is_control), "{refused}");
        fields.refusal = Some(Refusal::field("messages", "the template says: secret"));
        let refused = fields.line(LogFormat::Text, total);
        assert!(refused.contains("param=messages") && !refused.contains("secret"), "{refused}");
        for (path, status, is_probe) in [
            ("/health", 200, true),
            ("/metrics", 200, true),
            ("/ready", 503, true),
            ("/metrics", 401, false),
            ("/props", 200, false),
        ] {
            (fields.path, fields.status) = (path.to_owned(), status);
            assert_eq!(fields.is_probe(), is_probe, "{path} {status}");
        }
        let long = Record::new(peer, String::new(), String::new(), "ä".repeat(5_000));
        assert_eq!(long.fields().path.chars().count(), LONGEST_PATH + 1);
        let long = Record::new(peer, String::new(), "X".repeat(5_000), String::new());
        assert_eq!(long.fields().method.chars().count(), LONGEST_METHOD + 1);
    }
}
