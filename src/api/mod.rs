//! Requests of the APIs that programs speak, and their answers: one reading and one shaping for the server, for files of
//! requests and for other languages.
//!
//! [`accept`] reads the body of a request for a [`Route`] and makes a [`Call`] of it: what the engine is to make, one
//! [`Prepared`] for each choice, and a [`Reply`] that turns the engine's events into the answer, in one piece or as a stream of
//! [`Frame`]s. Nothing here knows HTTP, waits for the engine or needs an executor.
//!
//! | module | what for |
//! |---|---|
//! | `fields` | the table of all fields |
//! | `body` | a body that was checked against it |
//! | `asked` | what all APIs ask of the engine |
//! | `chat`, `answer` | what all chats have in common: tools and thoughts, asked for and told apart |
//! | `openai`, `responses`, `anthropic`, `llama`, `ollama` | the dialects |
//! | `reply` | answers and streams |
//! | `settings` | settings as answers name them |
//! | `utilities`, `openapi` | what is answered without the engine |
//!
//! Invariants: no body panics, takes memory by a number that stands in it, or is answered without one of its fields that
//! would change the answer: such a field is read or refused by its name; the pieces of a stream joined are the answer in one
//! piece.

mod answer;
mod anthropic;
mod asked;
mod body;
mod chat;
mod fields;
mod form;
mod llama;
mod messages;
mod ollama;
mod openai;
mod openapi;
mod prepared;
mod prompt;
mod reference;
mod refusal;
mod reply;
mod responses;
mod route;
mod service;
mod settings;
mod utilities;

use serde_json::Value;

pub use asked::random_seed;
pub use body::reading_bytes;
pub use fields::{FIELDS, Field, Kind, Routes, Treatment};
pub use form::{Form, FormError, Reader};
pub use ollama::{Listed, Unload, ollama_ps, ollama_show, ollama_tags, ollama_version, rfc3339};
pub use openai::is_name_of;
pub use openapi::openapi;
pub use prepared::Prepared;
pub use reference::{fields_table, forms_table};
pub use refusal::{ContextLength, Refusal, error_body};
pub use reply::frame::{Frame, Framing};
pub use reply::{ChoiceIndex, Reply, Usage};
pub use route::Route;
pub use service::{Defaults, Limits, Service};
pub use utilities::{
    Tokenized, apply_template, count_tokens, detokenize, model_card, model_of, props, props_of_unloaded,
    tokenize, tokenizer_info,
};

/// A request that was read: what is to be made, and the shape of its answer.
#[derive(Debug)]
pub struct Call {
    /// The choices, in the order of their indices; none where no text is asked for, and the answer is complete at once.
    pub choices: Vec<Prepared>,
    /// The answer.
    pub reply: Reply,
}

/// Takes places for so many texts, which may come to so many tokens together, before any of them is made.
///
/// # Errors
/// There is no room for them.
pub type Reserve<'r> = &'r dyn Fn(usize, u64) -> Result<(), Refusal>;

/// How a request is read by who asks for it.
#[derive(Clone)]
pub(crate) struct Reading<'r> {
    /// The seed of a request that names none; `None`: a random one.
    pub(crate) seed: Option<u64>,
    /// Whether forms begin to be compiled; without them texts follow none.
    pub(crate) forms: bool,
    /// Whether the answer has what differs from run to run: times, and what was reused.
    pub(crate) measured: bool,
    /// The end of the answer's id; `None`: a random one.
    pub(crate) id: Option<String>,
    /// Whether a prompt that the context has no room for is refused.
    pub(crate) fits: bool,
    /// What takes places for the texts; `None`: there is always room.
    pub(crate) reserve: Option<Reserve<'r>>,
}

impl<'r> Reading<'r> {
    /// As a server reads requests.
    fn of(service: &Service, reserve: Option<Reserve<'r>>) -> Self {
        Self { seed: service.defaults.seed, forms: true, measured: true, id: None, fits: true, reserve }
    }
}

/// Reads the body of a request for `route`: everything that is done before it waits for the engine, but for the compiling of
/// forms, which has begun.
///
/// # Errors
/// What is wrong with the request.
pub fn accept(service: &Service, route: Route, body: &[u8]) -> Result<Call, Refusal> {
    read(service, route, &body::parse(body)?, &Reading::of(service, None))
}

/// As [`accept`]; `reserve` takes places for the texts once their number is known, before they are made and before their form begins
/// to be compiled.
///
/// # Errors
/// What is wrong with the request; what `reserve` says.
pub fn accept_within(
    service: &Service,
    route: Route,
    body: &[u8],
    reserve: Reserve<'_>,
) -> Result<Call, Refusal> {
    read(service, route, &body::parse(body)?, &Reading::of(service, Some(reserve)))
}

/// As [`accept`], for a body that is JSON already.
///
/// # Errors
/// What is wrong with the request.
pub(crate) fn read(
    service: &Service,
    route: Route,
    body: &Value,
    how: &Reading<'_>,
) -> Result<Call, Refusal> {
    match route {
        Route::ChatCompletions | Route::ChatTokens | Route::Completions => {
            openai::accept(service, route, body, how)
        }
        Route::Responses | Route::ResponseTokens => responses::accept(service, route, body, how),
        Route::Messages | Route::CountTokens => anthropic::accept(service, route, body, how),
        Route::LlamaCompletion => llama::accept(service, body, how),
        Route::OllamaChat | Route::OllamaGenerate => ollama::accept(service, route, body, how),
    }
}

/// Reads JSON that others wrote: a byte order mark and halves of surrogate pairs are no errors.
///
/// # Errors
/// What is no JSON, or is nested too deeply.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    body::parse(bytes)
}

#[cfg(test)]
mod tests;
