//! The generation loop: prompt in, tokens out, text as it is made.
//!
//! [`Sequence`] is one text in the making, without a session: logits go in, the token to feed next comes out. [`generate`]
//! drives a [`Session`] with it; whoever decodes several texts at once ([`crate::batch`]) drives several sequences.
//!
//! Invariants: text handed out is whole UTF-8 characters and never part of a stop string; generation ends at any of the
//! model's end tokens (unless they are ignored), at a stop string, when the grammar is complete, at the token limit, or
//! when the context is full, and says which; a seed gives the same text on every machine and thread count.

use std::time::{Duration, Instant};

use bitnetc_runtime::sampling::{Sampler, StopStrings, TokenLogprobs, TokenMask};
use bitnetc_runtime::session::Session;
use bitnetc_runtime::tokenizer::{StreamDecoder, Tokenize};

use crate::constraint::Constraint;
use crate::error::Error;

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model made one of its end tokens.
    EndToken(u32),
    /// The text reached the stop string with this index.
    StopString(usize),
    /// The grammar allows nothing more.
    Grammar,
    /// As many tokens as were asked for.
    Limit,
    /// The context has no room for another token.
    ContextFull,
    /// The caller asked.
    Interrupted,
}

impl Stop {
    /// The word in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Stop::EndToken(_) => "end_token",
            Stop::StopString(_) => "stop_string",
            Stop::Grammar => "grammar",
            Stop::Limit => "limit",
            Stop::ContextFull => "context_full",
            Stop::Interrupted => "interrupted",
        }
    }
}

/// What to generate. The default: until the model or the context ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Tokens at most; `None`: until the model or the context ends.
    pub limit: Option<u64>,
    /// Never make an end token.
    pub ignore_end: bool,
    /// Strings that end the text and are no part of it.
    pub stop: Vec<String>,
    /// Report the probability of every token and of this many likeliest ones at its place.
    pub logprobs: Option<usize>,
}

/// What to do after [`Sequence::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Feed this token and come back with the logits behind it.
    Feed(u32),
    /// The text has ended.
    Done(Stop),
}

/// One text in the making: its tokens so far, what of its text is certain, and when it ends.
#[derive(Debug)]
pub struct Sequence {
    options: GenerateOptions,
    stops: StopStrings,
    decoder: StreamDecoder,
    /// Tokens that may be sampled; `None`: all.
    mask: Option<TokenMask>,
    /// End tokens that are never made.
    forbidden: Vec<u32>,
    piece: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
}

impl Sequence {
    /// The beginning of a text by a model with this tokenizer and as many logits as `vocab`.
    pub fn new(options: GenerateOptions, tokenizer: &dyn Tokenize, vocab: u32) -> Self {
        let forbidden: Vec<u32> = match options.ignore_end {
            true => (0..vocab).filter(|&id| tokenizer.is_end(id)).collect(),
            false => Vec::new(),
        };
        let mask = (!forbidden.is_empty()).then(|| {
            let mut mask = TokenMask::all(vocab as usize);
            forbidden.iter().for_each(|&id| mask.forbid(id));
            mask
        });
        Self {
            stops: StopStrings::new(options.stop.iter().cloned()),
            options,
            decoder: StreamDecoder::new(),
            mask,
            forbidden,
            piece: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    /// The tokens so far, without the end token.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The tokens, and the probabilities that [`GenerateOptions::logprobs`] asks for.
    pub fn into_parts(self) -> (Vec<u32>, Vec<TokenLogprobs>) {
        (self.tokens, self.logprobs)
    }

    /// Chooses a token from `logits` and appends to `text` what is now certain.
    ///
    /// # Errors
    /// What the sampler or the constraint refuses.
    pub fn advance(
        &mut self,
        logits: &[f32],
        tokenizer: &dyn Tokenize,
        sampler: &mut Sampler,
        constraint: Option<&mut (dyn Constraint + '_)>,
        text: &mut String,
    ) -> Result<Progress, Error> {
        if self.is_at_limit() {
            return Ok(Progress::Done(self.end(Stop::Limit, text)));
        }
        let id = match constraint {
            None => sampler.sample_allowed(logits, self.mask.as_ref())?,
            Some(constraint) => {
                if constraint.is_complete() {
                    return Ok(Progress::Done(self.end(Stop::Grammar, text)));
                }
                let mask = self.mask.get_or_insert_with(|| TokenMask::all(logits.len()));
                constraint.allowed(mask)?;
                self.forbidden.iter().for_each(|&id| mask.forbid(id));
                let id = sampler.sample_allowed(logits, Some(mask))?;
                if !tokenizer.is_end(id) {
                    constraint.accept(id)?;
                }
                id
            }
        };
        if tokenizer.is_end(id) && !self.options.ignore_end {
            return Ok(Progress::Done(self.end(Stop::EndToken(id), text)));
        }
        if let Some(n) = self.options.logprobs {
            self.logprobs.push(TokenLogprobs::of(logits, id, n));
        }
        self.tokens.push(id);
        self.piece.clear();
        self.decoder.push(tokenizer.piece(id, false), &mut self.piece);
        if let Some(index) = self.stops.push(&self.piece, text) {
            return Ok(Progress::Done(Stop::StopString(index)));
        }
        if self.is_at_limit() {
            return Ok(Progress::Done(self.end(Stop::Limit, text)));
        }
        Ok(Progress::Feed(id))
    }

    fn is_at_limit(&self) -> bool {
        self.options.limit.is_some_and(|n| self.tokens.len() as u64 >= n)
    }

    /// Ends the text for this reason: appends what was held back. If that completes a stop string, this is the reason.
    pub fn end(&mut self, stop: Stop, text: &mut String) -> Stop {
        self.piece.clear();
        self.decoder.finish(&mut self.piece);
        if let Some(index) = self.stops.push(&self.piece, text) {
            return Stop::StopString(index);
        }
        self.stops.finish(text);
        stop
    }
}

/// What was generated, and how long each part took.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The new tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
    /// Probabilities of `tokens`, if they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Tokens of the prompt that were fed.
    pub prompt_tokens: usize,
    /// Time for the prompt.
    pub prompt_time: Duration,
    /// Steps after the prompt.
    pub decode_steps: usize,
    /// Time for these steps, without sampling.
    pub decode_time: Duration,
    /// Time for sampling.
    pub sample_time: Duration,
    /// Of each token behind the first: the time of its step and of its sampling.
    pub token_times: Vec<Duration>,
}

impl Generated {
    /// Nothing yet, behind a prompt of so many tokens.
    pub(crate) fn nothing(prompt_tokens: usize, stop: Stop) -> Self {
        Self {
            tokens: Vec::new(),
            stop,
            logprobs: Vec::new(),
            prompt_tokens,
            prompt_time: Duration::ZERO,
            decode_steps: 0,
            decode_time: Duration::ZERO,
            sample_time: Duration::ZERO,
            token_times: Vec::new(),
        }
    }
}

/// How long single tokens took: times that so many of a hundred tokens did not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Half of them.
    pub p50: Duration,
    /// 90 of a hundred.
    pub p90: Duration,
    /// 99 of a hundred.
    pub p99: Duration,
    /// All of them.
    pub max: Duration,
}

impl Latency {
    /// Of these times; nothing if there are none. A percentile is one of the times (nearest rank).
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { p50: rank(50)?, p90: rank(90)?, p99: rank(99)?, max: *sorted.last()? })
    }
}

/// Makes room in a full context: truncates the session and returns the tokens to feed behind what is left, the last of
/// those given (all that were generated so far) included; `None` if there is no room to make.
pub type MakeRoom<'a> = dyn FnMut(&mut Session, &[u32]) -> Result<Option<Vec<u32>>, Error> + 'a;

/// Feeds `prompt` and generates. `emit` is given text as it is made and stops the work by returning false.
///
/// # Errors
/// What the session or the sampler refuses.
pub fn generate(
    session: &mut Session,
    tokenizer: &dyn Tokenize,
    sampler: &mut Sampler,
    prompt: &[u32],
    options: &GenerateOptions,
    emit: impl FnMut(&str) -> bool,
) -> Result<Generated, Error> {
    let extras = Extras::default();
    generate_with(session, tokenizer, sampler, prompt, options, extras, emit)
}

/// What not every generation has.
#[derive(Default)]
pub struct Extras<'a, 'c, 'r> {
    /// A grammar that the text follows.
    pub constraint: Option<&'a mut (dyn Constraint + 'c)>,
    /// What to do when the context is full, instead of ending.
    pub make_room: Option<&'a mut MakeRoom<'r>>,
}

impl std::fmt::Debug for Extras<'_, '_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extras")
            .field("constraint", &self.constraint.is_some())
            .field("make_room", &self.make_room.is_some())
            .finish()
    }
}

/// As [`generate`], with a grammar or a way to go on when the context is full.
///
/// # Errors
/// As [`generate`], and what the grammar or `make_room` refuses.
pub fn generate_with(
    session: &mut Session,
    tokenizer: &dyn Tokenize,
    sampler: &mut Sampler,
    prompt: &[u32],
    options: &GenerateOptions,
    mut extras: Extras<'_, '_, '_>,
    mut emit: impl FnMut(&str) -> bool,
) -> Result<Generated, Error> {
    let mut out = Generated::nothing(prompt.len(), Stop::Limit);
    let mut sequence = Sequence::new(options.clone(), tokenizer, session.model().vocab());
    let mut text = String::new();
    let mut step_time = None;
    for &id in prompt {
        sampler.accept(id);
    }

    let clock = Instant::now();
    let mut logits = session.feed(prompt)?;
    out.prompt_time = clock.elapsed();
    loop {
        let clock = Instant::now();
        text.clear();
        let constraint = extras.constraint.as_deref_mut();
        let progress = sequence.advance(logits, tokenizer, sampler, constraint, &mut text)?;
        let sample_time = clock.elapsed();
        out.sample_time += sample_time;
        out.token_times.extend(step_time.map(|step_time: Duration| step_time + sample_time));
        let go_on = text.is_empty() || emit(&text);
        let id = match progress {
            Progress::Done(stop) => {
                out.stop = if go_on { stop } else { Stop::Interrupted };
                break;
            }
            Progress::Feed(id) => id,
        };
        // Asked at every token, so that one that completes no character can be stopped at too.
        if !go_on || (text.is_empty() && !emit("")) {
            out.stop = finish(&mut sequence, Stop::Interrupted, &mut text, &mut emit);
            break;
        }
        let clock = Instant::now();
        if session.position() < session.context() {
            logits = session.feed(&[id])?;
            out.decode_steps += 1;
        } else {
            let room = match extras.make_room.as_mut() {
                Some(make_room) => make_room(session, sequence.tokens())?,
                None => None,
            };
            let Some(tokens) = room else {
                out.stop = finish(&mut sequence, Stop::ContextFull, &mut text, &mut emit);
                break;
            };
            logits = session.feed(&tokens)?;
        }
        let time = clock.elapsed();
        out.decode_time += time;
        step_time = Some(time);
    }
    (out.tokens, out.logprobs) = sequence.into_parts();
    Ok(out)
}

/// Ends the text and hands out what was held back.
fn finish(
    sequence: &mut Sequence,
    stop: Stop,
    text: &mut String,
    emit: &mut impl FnMut(&str) -> bool,
) -> Stop {
    text.clear();
    let stop = sequence.end(stop, text);
    if !text.is_empty() {
        emit(text);
    }
    stop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = |ms: &[u64]| ms.iter().map(|&n| Duration::from_millis(n)).collect::<Vec<_>>();
        assert_eq!(Latency::of(&[]), None);
        let of = |all: &[u64]| {
            Latency::of(&times(all)).map(|l| [l.p50, l.p90, l.p99, l.max].map(|d| d.as_millis()))
        };
        assert_eq!(of(&[3]), Some([3, 3, 3, 3]));
        assert_eq!(of(&[4, 1, 3, 2]), Some([2, 4, 4, 4]));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), Some([50, 90, 99, 100]));
    }
}
