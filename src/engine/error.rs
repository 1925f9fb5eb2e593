//! Errors of the engine itself.

use std::sync::Arc;

use bitnetc_runtime::error::SessionError;

/// Why a request failed for a reason other than its own parameters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine was dropped while the request was waiting or under way.
    #[error("the engine was stopped before the text had ended")]
    Stopped,
    /// The constraint or the tokenizer of the text panicked, or a step of the engine's thread, which ends all of its texts.
    #[error("the text was ended by a panic: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// A step failed as a whole, for all requests that had a part in it.
    #[error("the step failed for all texts in it: {0}")]
    Step(Arc<SessionError>),
    /// The caller waited for a handle whose [`Scheduler`](super::Scheduler) computes only when the caller steps it.
    #[error(
        "the text belongs to a scheduler, which computes only when it is stepped: follow it by the scheduler, or read its \
         events without waiting"
    )]
    NotStepped,
    /// A scheduler was asked to follow the text of another one.
    #[error(
        "the text has not ended, and the scheduler has nothing to compute: the text belongs to another one"
    )]
    Elsewhere,
    /// The engine's thread could not be started.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Runs code that belongs to a single request; a panic in it becomes an error of this request.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, EngineError> {
    // What the code leaves half done is dropped with its request, and never looked at again.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        EngineError::Panicked { message: text.unwrap_or_else(|| "no message".to_owned()) }
    })
}
