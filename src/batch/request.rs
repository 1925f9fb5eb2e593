//! One request: what a line of the input asks for.
//!
//! A line of text is a prompt, or what the user says in a chat, with the settings of the command line. A line of JSONL is a
//! request of OpenAI's batch files, for `/v1/completions` or `/v1/chat/completions`. Either becomes a body that [`crate::api`]
//! reads.
//!
//! Invariants: nothing here panics or allocates by a number from the line; a refusal names the field.

use serde_json::{Value, json};

use super::Format;
use super::input::MAX_LINE;
use crate::api::{self, Refusal, Route};

/// How lines of text become prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lines {
    /// As they are.
    #[default]
    Prompts,
    /// Each is what the user says in a chat of its own.
    Chat {
        /// The system message.
        system: Option<String>,
    },
}

impl Lines {
    /// The request that a line stands for.
    fn request(&self, line: &str) -> Request {
        let Self::Chat { system } = self else {
            return Request { route: Route::Completions, body: json!({ "prompt": line }) };
        };
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let system = system.iter().map(|text| message("system", text));
        let messages: Vec<Value> = system.chain([message("user", line)]).collect();
        Request { route: Route::ChatCompletions, body: json!({ "messages": messages }) }
    }
}

/// A request: the body for a route.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) route: Route,
    pub(super) body: Value,
}

/// The routes that requests may be for.
const ROUTES: [Route; 2] = [Route::Completions, Route::ChatCompletions];

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(bytes: &[u8], format: Format, lines: &Lines) -> Result<Self, Refusal> {
        match format {
            Format::Text => {
                let text = std::str::from_utf8(bytes).map_err(|e| {
                    let at = e.valid_up_to();
                    Refusal::request("invalid_utf8", format!("the line is not UTF-8 at byte {at}"))
                })?;
                Ok(lines.request(text))
            }
            Format::Jsonl => Self::of_line(api::parse(bytes)?),
        }
    }

    /// The refusal of a line that is longer than any request.
    pub(super) fn too_long() -> Refusal {
        let message = format!("the line has more than {} MiB: split the request", MAX_LINE >> 20);
        Refusal::new(413, "request_too_large", message)
    }

    fn of_line(mut line: Value) -> Result<Self, Refusal> {
        if !line.is_object() {
            return Err(Refusal::request("invalid_json", "the line is not a JSON object"));
        }
        match line.get("custom_id") {
            None | Some(Value::String(_)) => {}
            Some(_) => return Err(Refusal::field("custom_id", "custom_id must be a string")),
        }
        match line.get("method").map(Value::as_str) {
            None | Some(Some("POST")) => {}
            Some(_) => return Err(Refusal::field("method", "method must be \"POST\"")),
        }
        let url = line.get("url").and_then(Value::as_str);
        let route = ROUTES.into_iter().find(|route| url == Some(route.path())).ok_or_else(|| {
            let message = "url must be \"/v1/completions\" or \"/v1/chat/completions\"";
            Refusal::field("url", message)
        })?;
        let body = line.get_mut("body").filter(|body| body.is_object());
        let body = body.ok_or_else(|| Refusal::field("body", "body must be an object"))?.take();
        if body.get("stream") == Some(&Value::Bool(true)) {
            let message = "stream is not supported in batches: leave it out";
            return Err(Refusal::unsupported("stream", message));
        }
        Ok(Self { route, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &Value) -> Result<Request, Refusal> {
        Request::parse(line.to_string().as_bytes(), Format::Jsonl, &Lines::Prompts)
    }

    #[test]
    fn lines_of_text_are_requests() {
        let text = |lines: &Lines| Request::parse(b"Hello", Format::Text, lines).unwrap();
        let plain = text(&Lines::Prompts);
        assert_eq!((plain.route, plain.body), (Route::Completions, json!({ "prompt": "Hello" })));
        let chat = text(&Lines::Chat { system: Some("S".to_owned()) });
        let messages = json!([{ "role": "system", "content": "S" }, { "role": "user", "content": "Hello" }]);
        assert_eq!((chat.route, chat.body), (Route::ChatCompletions, json!({ "messages": messages })));
        let broken = Request::parse(b"\xff", Format::Text, &Lines::Prompts).unwrap_err();
        assert_eq!(broken.code, "invalid_utf8");
    }

    #[test]
    fn refusals_name_the_field() {
        for (field, line) in [
            ("url", json!({ "url": "/v1/embeddings", "body": {} })),
            ("url", json!({ "url": "/v1/responses", "body": {} })),
            ("url", json!({ "body": {} })),
            ("method", json!({ "url": "/v1/completions", "method": "GET", "body": {} })),
            ("body", json!({ "url": "/v1/completions" })),
            ("custom_id", json!({ "custom_id": 1, "url": "/v1/completions", "body": {} })),
            ("stream", json!({ "url": "/v1/completions", "body": { "stream": true } })),
        ] {
            let refusal = parse(&line).unwrap_err();
            assert_eq!((refusal.param.as_deref(), refusal.status), (Some(field), 400), "{line}");
            assert!(refusal.message.contains(field), "{}", refusal.message);
        }
        let refused = |bytes: &[u8]| Request::parse(bytes, Format::Jsonl, &Lines::Prompts).unwrap_err().code;
        assert_eq!(
            (refused(b"{"), refused(b"[1]"), refused(b"\xff")),
            ("invalid_json", "invalid_json", "invalid_utf8")
        );
        let half = br#"{"url":"/v1/completions","body":{"prompt":"a\ud800"}}"#;
        let request = Request::parse(half, Format::Jsonl, &Lines::Prompts).unwrap();
        assert_eq!(request.body["prompt"], "a\u{fffd}");
    }
}
