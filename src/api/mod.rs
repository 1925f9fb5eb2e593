//! Requests of the APIs that programs speak, and their answers: one reading and one shaping for the server, for files of
//! requests and for other languages.
//!
//! [`accept`] reads the body of a request for a [`Route`] and makes a [`Call`] of it: what the engine is to make, one
//! [`Prepared`] for each choice, and a [`Reply`] that turns the engine's events into the answer, in one piece or as a stream of
//! [`Frame`]s. Nothing here knows HTTP, waits for the engine or needs an executor.
//!
//! Invariants: no body panics, takes memory by a number that stands in it, or is answered without one of its fields that
//! would change the answer: such a field is read or refused by its name; the pieces of a stream joined are the answer in one
//! piece.

mod prepared;
mod refusal;
mod reply;
mod route;
mod service;

pub use prepared::Prepared;
pub use refusal::{ContextLength, Refusal, error_body};
pub use reply::frame::{Frame, Framing};
pub use reply::{ChoiceIndex, Reply};
pub use route::Route;
pub use service::{Defaults, Limits, Service};

/// A request that was read: what is to be made, and the shape of its answer.
#[derive(Debug)]
pub struct Call {
    /// The choices, in the order of their indices.
    pub choices: Vec<Prepared>,
    /// The answer.
    pub reply: Reply,
}

/// Reads the body of a request for `route`: everything that is done before it waits for the engine, but for the compiling of
/// forms, which has begun.
///
/// # Errors
/// What is wrong with the request.
pub fn accept(_service: &Service, route: Route, _body: &[u8]) -> Result<Call, Refusal> {
    Err(Refusal::unsupported_route(route))
}
