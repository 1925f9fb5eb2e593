//! Refusals: the body in the dialect of the path, and the headers of the status.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bitnetc::api::{Refusal, Route, error_body};
use serde_json::Value;

use crate::log::cut;

/// The API that a path belongs to, which determines the form of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Dialect {
    /// The dialect of a path, which need not exist.
    pub(crate) fn of_path(path: &str) -> Self {
        let is_in = |folder: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if is_in("/v1/messages") {
            Self::Anthropic
        } else if is_in("/api") {
            Self::Ollama
        } else {
            Self::OpenAi
        }
    }

    fn route(self) -> Route {
        match self {
            Self::OpenAi => Route::ChatCompletions,
            Self::Anthropic => Route::Messages,
            Self::Ollama => Route::OllamaChat,
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) refusal: Refusal,
    retry_after: Option<u64>,
    /// Whether the connection is closed after the answer: what the client still sends is not read.
    closes: bool,
    /// Whether another attempt cannot succeed, whatever the status.
    is_final: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        // What helps after a while says so.
        let retry_after = (refusal.status == 503).then_some(1);
        Self { refusal, retry_after, closes: false, is_final: false }
    }
}

impl Failure {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(status.as_u16(), code, message).into()
    }

    /// Adds the number of seconds after which another attempt may succeed.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Closes the connection after the answer.
    pub(crate) fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Tells OpenAI's clients not to repeat the request.
    pub(crate) fn for_good(mut self) -> Self {
        self.is_final = true;
        self
    }

    /// A fault of the server.
    pub(crate) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    pub(crate) fn not_found(path: &str) -> Self {
        let message = format!("no such path: {}", cut(path, 1_000).escape_debug());
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn draining() -> Self {
        let message = "the server is shutting down: use another server, or try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message).retry_after(5).closing()
    }

    /// The answer, in the form of the API.
    pub(crate) fn respond(&self, dialect: Dialect) -> Response {
        let status = StatusCode::from_u16(self.refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &error_body(dialect.route(), &self.refusal));
        // For the log.
        response.extensions_mut().insert(self.refusal.clone());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.is_final {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// An answer in one piece.
pub(crate) fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], Body::from(body.to_string())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_form_of_their_api() {
        for (path, dialect) in [
            ("/v1/chat/completions", Dialect::OpenAi),
            ("/v1/messages", Dialect::Anthropic),
            ("/v1/messages/count_tokens", Dialect::Anthropic),
            ("/v1/messages2", Dialect::OpenAi),
            ("/api/nothing", Dialect::Ollama),
            ("/apis", Dialect::OpenAi),
            ("/", Dialect::OpenAi),
        ] {
            assert_eq!(Dialect::of_path(path), dialect, "{path}");
        }
    }

    #[test]
    fn headers_belong_to_the_status() {
        let response = Failure::draining().respond(Dialect::OpenAi);
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(
            (response.status().as_u16(), header(RETRY_AFTER), header(CONNECTION)),
            (503, Some("5"), Some("close"))
        );
        let response =
            Failure::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "no").respond(Dialect::OpenAi);
        assert_eq!(response.headers().get(WWW_AUTHENTICATE).unwrap(), "Bearer");
    }
}
