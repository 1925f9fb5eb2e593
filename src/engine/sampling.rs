//! Sampling: the logits of a step become tokens, those of several texts in parallel on the machine's threads.
//!
//! Invariants: a text is at one thread at a time, and sees nothing of the others; what all of them share (metrics, the time of
//! sampling) is touched between batches only, on the thread that steps.

use std::time::Duration;

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::Takers;
use bitnetc_runtime::tokenizer::Tokenize;

use super::metrics::Metrics;
use super::running::Running;
use super::scheduler::Clock;

/// A request with a part in the step under way.
pub(super) struct Sampled<'s> {
    pub(super) running: &'s mut Running,
    pub(super) tokenizer: &'s dyn Tokenize,
    pub(super) clock: &'s Clock,
    /// When logits of the batch became a token.
    pub(super) token_made: Option<Duration>,
}

/// The requests with a part in the step under way, in the order of the parts.
pub(super) struct Sampling<'s> {
    pub(super) texts: Vec<Sampled<'s>>,
    pub(super) clock: &'s Clock,
    pub(super) metrics: &'s Metrics,
    /// When the batch was opened.
    pub(super) opened: Duration,
    /// Time of all batches so far, by the clock.
    pub(super) time: Duration,
}

impl<'s> Takers for Sampling<'s> {
    type Taker = Sampled<'s>;

    fn open(&mut self) -> &mut [Sampled<'s>] {
        self.opened = (self.clock)();
        &mut self.texts
    }

    fn take(taker: &mut Sampled<'s>, token: u32, logits: Result<&[f32], SessionError>) {
        let before = (taker.clock)();
        let sampled = taker.running.take(token as usize, logits, taker.tokenizer);
        let after = (taker.clock)();
        taker.running.sampled(after.saturating_sub(before), sampled.is_some());
        if sampled == Some(true) {
            taker.token_made = Some(after);
        }
    }

    fn close(&mut self) {
        for text in &mut self.texts {
            if let Some(at) = text.token_made.take() {
                text.running.token_made(at, self.metrics);
            }
        }
        self.time += (self.clock)().saturating_sub(self.opened);
    }
}
