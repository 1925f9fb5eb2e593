//! A request from its submission to its last event. Its rows are computed while it has a sequence.
//!
//! A request can lose its sequence and get a different one later ([`Running::park`]). Its text then continues, and does not depend on
//! the interruption.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::TokenLogprobs;
use bitnetc_runtime::tokenizer::{TokenId, Tokenize};

use super::channel::Outlet;
use super::error::{EngineError, guarded};
use super::event::{Completion, Event, PromptProgress, Token};
use super::mask::MaskTurn;
use super::metrics::Metrics;
use super::request::{CacheUse, Request};
use super::slots::{SeatIndex, ToldTask};
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

/// The rows of a part of a step, as its request sees them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rows {
    /// Position of the first one.
    pub(super) start: usize,
    /// How many.
    pub(super) count: usize,
    /// Whether the last one is followed by a new token.
    pub(super) completes: bool,
    /// Whether they fill the context.
    pub(super) fills_context: bool,
}

/// A prompt whose tokens' probabilities are wanted.
#[derive(Debug)]
struct Scored {
    prompt: Arc<[TokenId]>,
    /// Most likely tokens to report at each position.
    top: usize,
    /// Of the tokens after the first, as far as they are known.
    found: Vec<TokenLogprobs>,
}

impl Scored {
    fn is_whole(&self) -> bool {
        self.found.len() + 1 >= self.prompt.len()
    }

    /// Takes the logits after the token at `position`, if the next probability follows from them.
    fn take(&mut self, position: usize, logits: &[f32]) {
        if position == self.found.len()
            && let Some(&next) = self.prompt.get(position + 1)
        {
            self.found.push(TokenLogprobs::of(logits, next, self.top));
        }
    }
}

/// When a request passed its stations, by the scheduler's clock.
#[derive(Clone, Copy, Debug)]
struct Stations {
    submitted: Duration,
    /// When it first had a sequence.
    begun: Option<Duration>,
    first_token: Option<Duration>,
    latest_token: Duration,
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
    /// Its part of the step under way.
    pub(super) rows: Rows,
    /// What may be reused for its prompt.
    pub(super) cache: CacheUse,
    scored: Option<Scored>,
    stations: Stations,
    /// When it was given the sequence that it has.
    seated: Instant,
    /// The sequence that it had last.
    seat: Option<SeatIndex>,
    /// Length of the text when the step began.
    certain: usize,
    stream: bool,
    /// Whether steps that read the prompt are events.
    progress: bool,
    keep_state: bool,
    prompt_tokens: usize,
    reused_tokens: usize,
    /// Whether a part of the text came from an earlier context or sequence.
    resumed: bool,
    /// Whether it has had a sequence.
    begun: bool,
    /// What the mask of its constraint takes.
    pub(super) mask: MaskTurn,
    /// Time for sampling in the step under way, if there was any.
    sampled: Option<Duration>,
    /// Time for rows of the prompt that are scored.
    scoring: Option<Duration>,
    /// Time of steps since the latest token.
    waited: Duration,
}

impl Running {
    /// A request that has no sequence yet, and the tokens to feed.
    pub(super) fn new(
        request: Request,
        outlet: Outlet,
        arrival: u64,
        submitted: Duration,
    ) -> (Self, Arc<[TokenId]>) {
        let Request { prompt, stream, progress, keep_state, prompt_logprobs, cache, text } = request;
        let scored = |top| Scored { prompt: Arc::clone(&prompt), top, found: Vec::new() };
        let running = Self {
            scored: prompt_logprobs.map(scored),
            cache,
            stations: Stations { submitted, begun: None, first_token: None, latest_token: submitted },
            seated: Instant::now(),
            seat: None,
            certain: text.text().len(),
            resumed: !text.tokens().is_empty(),
            text,
            outlet,
            arrival,
            next: Next::Rows,
            decoding: false,
            rows: Rows::default(),
            stream,
            progress,
            keep_state,
            prompt_tokens: prompt.len(),
            reused_tokens: 0,
            begun: false,
            mask: MaskTurn::default(),
            sampled: None,
            scoring: None,
            waited: Duration::ZERO,
        };
        (running, prompt)
    }

    /// Gives the request the sequence `seat` of `context` tokens, which holds the first `reused` of `tokens`, at the time `now`.
    ///
    /// # Errors
    /// A panic of the tokenizer.
    pub(super) fn begin(
        &mut self,
        tokens: &[TokenId],
        (tokenizer, vocab, context): (&dyn Tokenize, u32, u32),
        (seat, reused): (SeatIndex, usize),
        now: Duration,
        metrics: &Metrics,
    ) -> Result<(), EngineError> {
        self.seated = Instant::now();
        self.seat = Some(seat);
        // The last token of a text that fills the context is made, but not fed.
        let room = (context as usize + 1).saturating_sub(tokens.len());
        let text = &mut self.text;
        guarded(|| text.begin(tokens, tokenizer, vocab, room))?;
        if let Some(scored) = &mut self.scored {
            scored.found.reserve(scored.prompt.len().saturating_sub(scored.found.len()));
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.reused_tokens = reused;
            let queued = now.saturating_sub(self.stations.submitted);
            self.text.timings.queue += queued;
            self.stations.begun = Some(now);
            metrics.queue_seconds.observe_time(queued);
            if self.may_reuse() {
                metrics.prefix_queries.add(tokens.len() as u64);
                metrics.prefix_hits.add(reused as u64);
            }
        }
        Ok(())
    }

    /// Whether beginnings that others have computed are of use: not where logits are wanted that nobody has kept.
    pub(super) fn may_reuse(&self) -> bool {
        self.cache.read && !self.is_scoring()
    }

    /// Whether logits are wanted after every row.
    pub(super) fn is_scoring(&self) -> bool {
        self.scored.as_ref().is_some_and(|scored| !scored.is_whole())
    }

    /// What is told of it to those who ask what the sequences do.
    pub(super) fn told(&self) -> ToldTask {
        ToldTask {
            arrival: self.arrival,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.reused_tokens,
            decoded_tokens: self.text.tokens().len(),
            began: self.seated,
        }
    }

    /// Takes note that the request has no sequence any more. All its tokens are fed again to the next one.
    pub(super) fn park(&mut self) {
        (self.decoding, self.resumed) = (false, true);
    }

    /// Whether nothing is to be computed: the text goes on from another, and has as many tokens as were asked for, or it has no
    /// prompt either. The prompt of a text without tokens is computed, for those that follow.
    pub(super) fn is_complete(&self) -> bool {
        let has_work = self.text.tokens().is_empty() && self.prompt_tokens > 0;
        self.text.is_at_limit() && !has_work && !self.is_scoring()
    }

    /// Takes the logits after a row of its part of the step. After the last row, says whether they became a token.
    pub(super) fn take(
        &mut self,
        row: usize,
        logits: Result<&[f32], SessionError>,
        tokenizer: &dyn Tokenize,
    ) -> Option<bool> {
        if matches!(self.next, Next::End(_)) {
            return None;
        }
        let before = self.text.tokens().len();
        let is_last = self.rows.completes && row + 1 == self.rows.count;
        match (&mut self.scored, &logits) {
            (Some(scored), Ok(logits)) => {
                let was_whole = scored.is_whole();
                scored.take(self.rows.start + row, logits);
                if self.stream && !was_whole && scored.is_whole() {
                    self.outlet.send(Event::Scored(scored.found.clone()));
                }
            }
            (_, Err(_)) | (None, Ok(_)) => {}
        }
        if is_last {
            self.tell_progress();
        }
        match logits {
            Ok(logits) if is_last => self.advance(Ok(logits), tokenizer),
            Ok(_) => {}
            Err(error) => self.advance(Err(error), tokenizer),
        }
        is_last.then(|| self.text.tokens().len() > before)
    }

    /// Takes note of the time at which the logits of the last row had become a token.
    pub(super) fn token_made(&mut self, now: Duration, metrics: &Metrics) {
        let Stations { submitted, begun, first_token, latest_token } = &mut self.stations;
        match first_token {
            Some(_) => metrics.inter_token_seconds.observe_time(now.saturating_sub(*latest_token)),
            None => {
                metrics.first_token_seconds.observe_time(now.saturating_sub(*submitted));
                metrics.prefill_seconds.observe_time(now.saturating_sub(begun.unwrap_or(*submitted)));
                *first_token = Some(now);
            }
        }
        *latest_token = now;
        metrics.generation_tokens.add(1);
    }

    /// Goes on with the logits after the last row that was fed.
    fn advance(&mut self, logits: Result<&[f32], SessionError>, tokenizer: &dyn Tokenize) {
        let before = self.text.tokens().len();
        let text = &mut self.text;
        let progress = logits
            .map_err(Error::from)
            .and_then(|logits| guarded(|| text.advance(logits, tokenizer)).map_err(Error::from)?);
        self.next = match progress {
            Err(error) => Next::End(Err(error)),
            Ok(Progress::Done(stop)) => Next::End(Ok(stop)),
            Ok(Progress::Feed(id)) if !self.rows.fills_context => Next::Token(id),
            // Not ended: it may go on in another context.
            Ok(Progress::Feed(_)) if self.keep_state => Next::End(Ok(Stop::ContextFull)),
            Ok(Progress::Feed(_)) => Next::End(Ok(self.text.end(Stop::ContextFull))),
        };
        if let Some(&id) = self.text.tokens().get(before) {
            self.tell(id);
        }
    }

    /// Makes what the step has read of the prompt an event, if it is wanted.
    fn tell_progress(&mut self) {
        if self.progress && !self.decoding && !self.resumed {
            self.outlet.send(Event::Progress(PromptProgress {
                total: self.prompt_tokens,
                cached: self.reused_tokens,
                processed: self.rows.start + self.rows.count,
                time: self.seated.elapsed(),
            }));
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

    /// Notes the time that the logits of a row took; whether they were those that a token is chosen from.
    pub(super) fn sampled(&mut self, time: Duration, is_last: bool) {
        let before = self.scoring.take().unwrap_or_default();
        match is_last {
            true => self.sampled = Some(before + time),
            false => self.scoring = Some(before + time),
        }
    }

    /// Whether its tokens have to follow something.
    pub(super) fn is_constrained(&self) -> bool {
        self.text.is_constrained()
    }

    /// Notes the time of a step without sampling; `masks` is what the masks of a step may take together.
    pub(super) fn stepped(&mut self, time: Duration, masks: Option<Duration>) {
        if let Some((share, sampled)) = masks.filter(|_| self.is_constrained()).zip(self.sampled) {
            self.mask.took(sampled, share);
        }
        self.waited += time;
        if !self.rows.completes {
            self.tell_progress();
        }
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
    pub(super) fn stop(mut self, stop: Stop, now: Duration, metrics: &Metrics) -> Outlet {
        let stop = self.text.end(stop);
        self.finish(Ok(stop), now, metrics)
    }

    /// Sends the last event.
    pub(super) fn finish(mut self, result: Result<Stop, Error>, now: Duration, metrics: &Metrics) -> Outlet {
        self.count_end(result.as_ref().ok().copied(), now, metrics);
        self.dismiss(result)
    }

    /// Sends the last event of a request that was never queued.
    pub(super) fn refuse(self, result: Result<Stop, Error>) -> Outlet {
        self.dismiss(result)
    }

    fn count_end(&mut self, stop: Option<Stop>, now: Duration, metrics: &Metrics) {
        metrics.finished.count(stop);
        metrics.request_prompt_tokens.observe(self.prompt_tokens as f64);
        metrics.request_generation_tokens.observe(self.text.tokens().len() as f64);
        if self.stations.begun.is_some() {
            metrics.request_seconds.observe_time(now.saturating_sub(self.stations.submitted));
        }
        if let Some(first) = self.stations.first_token {
            metrics.decode_seconds.observe_time(now.saturating_sub(first));
        }
    }

    fn dismiss(mut self, result: Result<Stop, Error>) -> Outlet {
        let scored = self.scored.take().map(|scored| scored.found);
        let Self { text, mut outlet, keep_state, certain, prompt_tokens, reused_tokens, seat, .. } = self;
        let prompt = Prompt { logprobs: scored.unwrap_or_default(), prompt_tokens, reused_tokens, seat };
        outlet.send(ended(text, result, keep_state, certain, prompt));
        outlet
    }
}

/// What the last event says of the prompt.
struct Prompt {
    logprobs: Vec<TokenLogprobs>,
    prompt_tokens: usize,
    reused_tokens: usize,
    seat: Option<SeatIndex>,
}

/// The last event of a text. `certain`: as much of it was sent before.
fn ended(
    mut text: Text,
    result: Result<Stop, Error>,
    keep_state: bool,
    certain: usize,
    prompt: Prompt,
) -> Event {
    let Prompt { logprobs: prompt_logprobs, prompt_tokens, reused_tokens, seat } = prompt;
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
                prompt_logprobs,
                prompt_tokens,
                reused_tokens,
                seat,
                timings,
                state,
            }))
        }
    }
}
