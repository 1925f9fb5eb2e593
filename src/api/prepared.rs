//! A choice that is ready for the engine but for its form.

use super::Refusal;
use crate::constraint::Compiling;
use crate::engine;

/// What to generate, with its form still being compiled.
#[derive(Debug)]
pub struct Prepared {
    request: engine::Request,
    form: Option<(&'static str, Compiling)>,
}

impl Prepared {
    /// Whether [`Prepared::finish`] returns at once.
    pub fn is_ready(&mut self) -> bool {
        self.form.as_mut().is_none_or(|(_, compiling)| compiling.is_done())
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.request.prompt.len()
    }

    /// The request, once its form is compiled. Waits for it: not for threads that serve others.
    ///
    /// # Errors
    /// A form that cannot be followed.
    pub fn finish(self) -> Result<engine::Request, Refusal> {
        let Some((field, compiling)) = self.form else { return Ok(self.request) };
        let constraint = compiling.wait().map_err(|why| Refusal::of_form(&why, Some(field)))?;
        Ok(self.request.with_constraint(constraint))
    }
}
