//! Why a request is not answered, and how each API says so.

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::SampleError;
use serde_json::{Value, json};

use super::Route;
use crate::constraint::ConstraintError;
use crate::error::Error;

/// Why a request is not answered: in the form of OpenAI's errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status that a server gives.
    pub status: u16,
    /// What is wrong and what to do.
    pub message: String,
    /// The field.
    pub param: Option<String>,
    /// A word for programs.
    pub code: &'static str,
    /// The lengths, where a prompt is too long.
    pub context: Option<ContextLength>,
}

/// A prompt, and the context that has no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLength {
    /// Tokens of the prompt; the least number that it can have, where they were not counted.
    pub prompt: u64,
    /// Tokens of the context.
    pub context: u32,
}

impl Refusal {
    /// A refusal with a status.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code, context: None }
    }

    /// A refusal of the request as a whole.
    pub fn request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// A refusal of the value of a field.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::request("invalid_value", message) }
    }

    /// A refusal of a field that is not supported.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self { code: "unsupported", ..Self::field(param, message) }
    }

    /// The refusal of a prompt that the context has no room for.
    pub fn context_length(prompt: u64, context: u32) -> Self {
        Self::too_long(&format!("{prompt} tokens"), prompt, context)
    }

    /// The refusal of a text of so many bytes that it has at least `least` tokens, which the context has no room for.
    pub(super) fn text_length(bytes: u64, least: u64, context: u32) -> Self {
        Self::too_long(&format!("more than {context} tokens ({bytes} bytes)"), least, context)
    }

    fn too_long(has: &str, prompt: u64, context: u32) -> Self {
        let message = format!(
            "the prompt has {has}, but this model's maximum context length is {context} tokens: the request \
             exceeds the available context size, so shorten the prompt or use a larger context"
        );
        let code = "context_length_exceeded";
        Self { code, context: Some(ContextLength { prompt, context }), ..Self::field("prompt", message) }
    }

    /// The refusal of a request that was begun and could not be completed; `form` is the field that asked for a form.
    pub fn of_error(error: &Error, form: Option<&'static str>) -> Self {
        let message = error.to_string();
        if let Some(why) = error.session() {
            return Self::of_session(why);
        }
        match error {
            Error::Constraint(why) => Self::of_form(why, form),
            // No token is left where all are forbidden, which only the request itself can do.
            Error::Param(_) | Error::Sample(SampleError::NothingToSample { .. }) => {
                Self::request("invalid_value", message)
            }
            _ => Self::new(500, "generation_failed", message),
        }
    }

    /// The refusal of a prompt that cannot be fed, or of logits that are no numbers.
    pub(super) fn of_session(why: &SessionError) -> Self {
        match why {
            SessionError::Empty => Self::field("prompt", "the prompt has no tokens"),
            SessionError::Token { id, vocab, .. } => {
                Self::field("prompt", format!("token id {id} is not in the vocabulary of {vocab} tokens"))
            }
            SessionError::ContextFull { tokens, context, .. } => Self::context_length(*tokens, *context),
            SessionError::NotANumber { .. } => Self::new(500, "nan_logits", why.to_string()),
            _ => Self::new(500, "generation_failed", why.to_string()),
        }
    }

    /// The refusal of a form that cannot be followed.
    pub(super) fn of_form(why: &ConstraintError, field: Option<&'static str>) -> Self {
        let code = match why {
            ConstraintError::Limit { .. } => "grammar_limit",
            ConstraintError::Late { .. } => "grammar_timeout",
            _ => "invalid_value",
        };
        // What another attempt may succeed with: it depends on the machine and not on the request.
        let is_busy = matches!(why, ConstraintError::Thread(_) | ConstraintError::Late { .. });
        let status = if is_busy { 503 } else { 400 };
        let message = field.map_or_else(|| why.to_string(), |field| format!("{field}: {why}"));
        Self { param: field.map(str::to_owned), ..Self::new(status, code, message) }
    }

    /// What kind of error it is, in OpenAI's words.
    pub fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "overloaded",
            503 => "unavailable_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The error in Anthropic's form.
    pub(super) fn to_anthropic(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.message } })
    }

    /// The error in OpenAI's form.
    pub fn to_openai(&self) -> Value {
        let mut error =
            json!({ "message": self.message, "type": self.kind(), "param": self.param, "code": self.code });
        if let Some(ContextLength { prompt, context }) = self.context {
            error["n_prompt_tokens"] = json!(prompt);
            error["n_ctx"] = json!(context);
        }
        json!({ "error": error })
    }
}

/// The body of an answer that says why there is no other, in the form of the route's API.
pub fn error_body(route: Route, refusal: &Refusal) -> Value {
    match route {
        Route::Messages | Route::CountTokens => refusal.to_anthropic(),
        Route::OllamaChat | Route::OllamaGenerate => json!({ "error": refusal.message }),
        _ => refusal.to_openai(),
    }
}
