//! Requests to the engine: a prompt, and how the text after it is generated.

use std::sync::Arc;

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::{ParamError, Sampler, SamplingParams};
use bitnetc_runtime::tokenizer::TokenId;

use super::slots::SeatIndex;
use super::text::{GenerateOptions, Text};
use crate::constraint::Constraint;

/// Separates the prompts of tenants: what one of them has computed is never reused for another, so that nobody can tell from
/// the time that an answer takes what others have asked. A BLAKE3 hash, so of any text it takes the same room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Salt(pub(super) [u8; 32]);

impl Salt {
    /// The salt that a text stands for.
    pub fn of(text: &str) -> Self {
        Self(*blake3::hash(text.as_bytes()).as_bytes())
    }
}

/// How a request uses what is left of earlier prompts. No bit of its text depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheUse {
    /// Whether beginnings that were computed before are reused; else all of the prompt is computed.
    pub read: bool,
    /// Whose prompts are shared: those with the same salt. `None` is one of them.
    pub salt: Option<Salt>,
    /// The sequence that the request is given if it is free when the request begins; any other one if not.
    pub seat: Option<SeatIndex>,
}

impl Default for CacheUse {
    fn default() -> Self {
        Self { read: true, salt: None, seat: None }
    }
}

/// A text to make.
#[derive(Debug)]
pub struct Request {
    /// The tokens that the text continues: at least one. Texts of one prompt share them.
    pub prompt: Arc<[TokenId]>,
    /// Whether every token is an event, or the end alone. On by default.
    pub stream: bool,
    /// Whether every step that reads a part of the prompt is an event.
    pub progress: bool,
    /// Whether [`Completion::state`](super::Completion::state) is given back. A text whose context is full is then not
    /// ended: what it holds back stays held back until it goes on or [`Text::end`] is called.
    pub keep_state: bool,
    /// Report the probability of each token of the prompt after the first, and of this number of most likely tokens at its
    /// position, in [`Completion::prompt_logprobs`](super::Completion::prompt_logprobs). All of the prompt is computed then. A text of no tokens is a way to score one.
    pub prompt_logprobs: Option<usize>,
    /// What may be reused for the prompt.
    pub cache: CacheUse,
    pub(super) text: Text,
}

impl Request {
    /// A text that continues `prompt`.
    ///
    /// # Errors
    /// Sampling parameters out of range.
    pub fn new(
        prompt: impl Into<Arc<[TokenId]>>,
        params: SamplingParams,
        options: GenerateOptions,
    ) -> Result<Self, ParamError> {
        Ok(Self::resume(prompt, Text::new(Sampler::new(params)?, options, None)))
    }

    /// A text that has begun and goes on after another prompt, which holds its tokens too as far as the model is to see
    /// them. Sampler, constraint, stop strings and limit go on where they are.
    pub fn resume(prompt: impl Into<Arc<[TokenId]>>, text: Text) -> Self {
        let (prompt, cache) = (prompt.into(), CacheUse::default());
        Self { prompt, text, stream: true, progress: false, keep_state: false, prompt_logprobs: None, cache }
    }

    /// The same, with a text that follows `constraint`.
    #[must_use]
    pub fn with_constraint(mut self, constraint: Box<dyn Constraint>) -> Self {
        self.text.set_constraint(constraint);
        self
    }

    /// The same, with its end as the only event.
    #[must_use]
    pub fn without_tokens(mut self) -> Self {
        self.stream = false;
        self
    }

    /// The same, with its state in the completion.
    #[must_use]
    pub fn with_state(mut self) -> Self {
        self.keep_state = true;
        self
    }

    /// When the text ends.
    pub fn options(&self) -> &GenerateOptions {
        self.text.options()
    }

    /// The seed of the text's random numbers.
    pub fn seed(&self) -> u64 {
        self.text.sampler().params().seed
    }

    /// Whether the prompt can be fed to a sequence of `context` tokens of a model with `vocab` logits: what an engine says
    /// in the request's last event, before it is submitted.
    ///
    /// # Errors
    /// [`SessionError::Empty`], [`SessionError::Token`] or [`SessionError::ContextFull`].
    pub fn check(&self, vocab: u32, context: u32) -> Result<(), SessionError> {
        let tokens = self.prompt.len() as u64;
        if tokens == 0 {
            return Err(SessionError::Empty);
        }
        if let Some(at) = self.prompt.iter().position(|&id| id >= vocab) {
            return Err(SessionError::Token { id: self.prompt[at], position: at as u64, vocab });
        }
        if tokens > u64::from(context) {
            return Err(SessionError::ContextFull { tokens, position: 0, context });
        }
        Ok(())
    }
}
