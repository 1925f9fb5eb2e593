//! A request on its way, from its submission to its last event. While it has a sequence, rows of it are computed.
//!
//! It may lose its sequence and be given another one later ([`Running::park`]): its text goes on where it was, and nothing of it
//! depends on that.

use std::time::Duration;

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::tokenizer::{TokenId, Tokenize};

use super::channel::Outlet;
use super::error::{EngineError, guarded};
use super::event::{Completion, Event, Token};
use super::request::Request;
use super::text::{Progress, Stop, Text};
use crate::error::Error;

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// Rows of the prompt, or of the latest token.
    Rows,
    /// This token is fed.
    Token(TokenId),
    /// The end.
    End(Result<Stop, Error>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Running {
    text: Text,
    pub(super) outlet: Outlet,
    /// The order in which requests came.
    pub(super) arrival: u64,
    pub(super) next: Next,
    /// Whether the prompt has been fed.
    pub(super) decoding: bool,
    /// Whether the step under way fills the context.
    pub(super) fills_context: bool,
    /// Length of the text when the step began.
    certain: usize,
    stream: bool,
    keep_state: bool,
    prompt_tokens: usize,
    reused_tokens: usize,
    /// Whether a part of the text came from an earlier context or sequence.
    resumed: bool,
    /// Whether it has had a sequence.
    begun: bool,
    /// Time for sampling in the step under way, if there was any.
    sampled: Option<Duration>,
    /// Time of steps since the latest token.
    waited: Duration,
}

impl Running {
    /// A request that has no sequence yet, and the tokens to feed.
    pub(super) fn new(request: Request, outlet: Outlet, arrival: u64) -> (Self, Vec<TokenId>) {
        let Request { prompt, stream, keep_state, text } = request;
        let running = Self {
            certain: text.text().len(),
            resumed: !text.tokens().is_empty(),
            text,
            outlet,
            arrival,
            next: Next::Rows,
            decoding: false,
            fills_context: false,
            stream,
            keep_state,
            prompt_tokens: prompt.len(),
            reused_tokens: 0,
            begun: false,
            sampled: None,
            waited: Duration::ZERO,
        };
        (running, prompt)
    }

    /// Gives the request a sequence of `context` tokens, which holds the first `reused` of `tokens`, as long after its submission
    /// as `queued` says.
    ///
    /// # Errors
    /// A panic of the tokenizer.
    pub(super) fn begin(
        &mut self,
        tokens: &[TokenId],
        (tokenizer, vocab, context): (&dyn Tokenize, u32, u32),
        reused: usize,
        queued: Duration,
    ) -> Result<(), EngineError> {
        // The last token of a text that fills the context is made, but not fed.
        let room = (context as usize + 1).saturating_sub(tokens.len());
        let text = &mut self.text;
        guarded(|| text.begin(tokens, tokenizer, vocab, room))?;
        if !std::mem::replace(&mut self.begun, true) {
            self.reused_tokens = reused;
            self.text.timings.queue += queued;
        }
        Ok(())
    }

    /// Takes note that the request has no sequence any more. All its tokens are fed again to the next one.
    pub(super) fn park(&mut self) {
        (self.decoding, self.resumed) = (false, true);
    }

    /// Whether the text has as many tokens as were asked for before any was made.
    pub(super) fn is_at_limit(&self) -> bool {
        self.text.is_at_limit()
    }

    /// Goes on with the logits after the last row that was fed.
    pub(super) fn take(&mut self, logits: Result<&[f32], SessionError>, tokenizer: &dyn Tokenize) {
        let before = self.text.tokens().len();
        let text = &mut self.text;
        let progress = logits
            .map_err(Error::from)
            .and_then(|logits| guarded(|| text.advance(logits, tokenizer)).map_err(Error::from)?);
        self.next = match progress {
            Err(error) => Next::End(Err(error)),
            Ok(Progress::Done(stop)) => Next::End(Ok(stop)),
            Ok(Progress::Feed(id)) if !self.fills_context => Next::Token(id),
            // Not ended: it may go on in another context.
            Ok(Progress::Feed(_)) if self.keep_state => Next::End(Ok(Stop::ContextFull)),
            Ok(Progress::Feed(_)) => Next::End(Ok(self.text.end(Stop::ContextFull))),
        };
        if let Some(&id) = self.text.tokens().get(before) {
            self.tell(id);
        }
    }

    /// Makes the new token an event, with the text that is certain with it.
    fn tell(&mut self, id: TokenId) {
        if !self.stream {
            self.certain = self.text.text().len();
            return;
        }
        let text = self.text.text()[self.certain..].to_owned();
        self.certain = self.text.text().len();
        let logprobs = self.text.options().logprobs.and_then(|_| self.text.logprobs().last().cloned());
        self.outlet.send(Event::Token(Token { id, text, logprobs }));
    }

    /// Notes the time that sampling took in the step under way.
    pub(super) fn sampled(&mut self, time: Duration) {
        self.sampled = Some(time);
    }

    /// Notes the time of a step without sampling.
    pub(super) fn stepped(&mut self, time: Duration) {
        self.waited += time;
        let timings = &mut self.text.timings;
        if self.decoding || self.resumed {
            timings.decode += time;
            timings.decode_steps += usize::from(self.decoding);
        } else {
            timings.prompt += time;
        }
        if let Some(sampled) = self.sampled.take() {
            timings.sample += sampled;
            if self.decoding || self.resumed {
                timings.tokens.push(self.waited + sampled);
            }
            self.waited = Duration::ZERO;
            self.decoding = true;
        }
    }

    /// Ends the request where the client asked for it, or where nothing is to be made.
    pub(super) fn stop(mut self, stop: Stop) -> Outlet {
        let stop = self.text.end(stop);
        self.finish(Ok(stop))
    }

    /// Sends the last event.
    pub(super) fn finish(self, result: Result<Stop, Error>) -> Outlet {
        let Self { text, mut outlet, keep_state, certain, prompt_tokens, reused_tokens, .. } = self;
        outlet.send(ended(text, result, keep_state, certain, prompt_tokens, reused_tokens));
        outlet
    }
}

/// The last event of a text. `certain`: as much of it was sent before.
fn ended(
    mut text: Text,
    result: Result<Stop, Error>,
    keep_state: bool,
    certain: usize,
    prompt_tokens: usize,
    reused_tokens: usize,
) -> Event {
    match result {
        Err(error) => {
            // What a constraint does when it is dropped is its request's business too.
            let dropped = guarded(|| drop(text));
            Event::Failed(dropped.err().map_or(error, Error::from))
        }
        Ok(finish) => {
            let tail = text.text().get(certain..).unwrap_or_default().to_owned();
            let (whole, tokens, logprobs, timings) = text.parts(keep_state);
            let state = match keep_state {
                true => Some(Box::new(text)),
                false => {
                    let _ = guarded(|| drop(text));
                    None
                }
            };
            Event::Done(Box::new(Completion {
                text: whole,
                tail,
                tokens,
                finish,
                logprobs,
                prompt_tokens,
                reused_tokens,
                timings,
                state,
            }))
        }
    }
}
