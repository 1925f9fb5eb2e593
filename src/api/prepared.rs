//! A choice that is ready for the engine but for its form.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::Refusal;
use crate::constraint::{Compiling, Constraint};
use crate::engine;

/// What to generate, with its form perhaps still being compiled.
#[derive(Debug)]
pub struct Prepared {
    request: engine::Request,
    form: Option<(&'static str, SharedForm)>,
}

/// A form that all choices of a request follow, compiled once.
#[derive(Clone, Debug)]
pub(super) struct SharedForm(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    /// `None` while somebody waits for it.
    Compiling(Option<Compiling>),
    /// The start of a text that follows it.
    Made(Box<dyn Constraint>),
    Refused(Refusal),
}

impl SharedForm {
    pub(super) fn new(compiling: Compiling) -> Self {
        Self(Arc::new(Mutex::new(State::Compiling(Some(compiling)))))
    }

    /// Whether [`SharedForm::wait`] returns at once.
    fn is_ready(&self) -> bool {
        let mut state = match self.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        match &mut *state {
            State::Compiling(compiling) => compiling.as_mut().is_none_or(Compiling::is_done),
            State::Made(_) | State::Refused(_) => true,
        }
    }

    /// A constraint at its start, once there is one; `field` asked for it.
    fn wait(&self, field: &'static str) -> Result<Box<dyn Constraint>, Refusal> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Compiling(compiling) = &mut *state {
            let made = compiling.take().map(Compiling::wait);
            *state = match made {
                Some(Ok(constraint)) => State::Made(constraint),
                Some(Err(why)) => State::Refused(Refusal::of_form(&why, Some(field))),
                None => State::Refused(Refusal::new(500, "generation_failed", "the form was lost")),
            };
        }
        match &*state {
            State::Made(constraint) => Ok(constraint.duplicate()),
            State::Refused(refusal) => Err(refusal.clone()),
            State::Compiling(_) => Err(Refusal::new(500, "generation_failed", "the form was lost")),
        }
    }
}

impl Prepared {
    pub(super) fn new(request: engine::Request, form: Option<(&'static str, SharedForm)>) -> Self {
        Self { request, form }
    }

    /// Whether [`Prepared::finish`] returns at once.
    pub fn is_ready(&self) -> bool {
        self.form.as_ref().is_none_or(|(_, form)| form.is_ready())
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.request.prompt.len()
    }

    /// Tokens that it makes at most, if there is a limit.
    pub fn limit(&self) -> Option<u64> {
        self.request.options().limit
    }

    /// The request, once its form is compiled. Waits for it: not for threads that serve others.
    ///
    /// # Errors
    /// A form that cannot be followed.
    pub fn finish(self) -> Result<engine::Request, Refusal> {
        let Some((field, form)) = self.form else { return Ok(self.request) };
        Ok(self.request.with_constraint(form.wait(field)?))
    }
}
