//! One text in the making: logits in, the token to feed next and certain text out.
//!
//! A [`Text`] holds everything of a text but its place in a model: sampler, constraint, stop strings, decoder, tokens and
//! probabilities. So a text that filled one context can go on in another.
//!
//! Invariants: text handed out is whole UTF-8 characters and never part of a stop string, unless that is to be part of the
//! text; a text ends at any of the model's end tokens (unless they are ignored), at a stop token, at a stop string, when the grammar is complete, at the token limit, or when the
//! context is full, and says which; a seed gives the same text on every machine and thread count.

use bitnetc_runtime::sampling::{Sampler, StopList, StopStrings, TokenLogprobs, TokenMask};
use bitnetc_runtime::tokenizer::{StreamDecoder, TokenId, Tokenize};

use super::event::Timings;
use crate::constraint::Constraint;
use crate::error::Error;

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model made one of its end tokens.
    EndToken(TokenId),
    /// The model made this token, one of those that the request ends at.
    StopToken(TokenId),
    /// The text reached the stop string with this index.
    StopString(usize),
    /// The grammar allows nothing more.
    Grammar,
    /// As many tokens as were asked for.
    Limit,
    /// The context has no room for another token.
    ContextFull,
    /// The client asked.
    Interrupted,
}

impl Stop {
    /// The word in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Stop::EndToken(_) => "end_token",
            Stop::StopToken(_) => "stop_token",
            Stop::StopString(_) => "stop_string",
            Stop::Grammar => "grammar",
            Stop::Limit => "limit",
            Stop::ContextFull => "context_full",
            Stop::Interrupted => "interrupted",
        }
    }
}

/// When a text ends, and what is told of it. The default: when the model or the context ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Tokens at most; `None`: until the model or the context ends.
    pub limit: Option<u64>,
    /// Never make an end token.
    pub ignore_end: bool,
    /// Tokens before which neither an end token nor a stop token is made, and no stop string is looked for.
    pub min_tokens: u64,
    /// Strings that end the text and are no part of it.
    pub stop: StopList,
    /// Tokens that end the text and are no part of it.
    pub stop_tokens: Vec<TokenId>,
    /// Makes the string or the token that ends the text a part of it.
    pub include_stop: bool,
    /// Control tokens that count as text.
    pub visible: Vec<TokenId>,
    /// Report the probability of every token and of this number of most likely tokens at its position.
    pub logprobs: Option<usize>,
}

/// What to do after [`Text::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Feed this token and come back with the logits after it.
    Feed(TokenId),
    /// The text has ended.
    Done(Stop),
}

/// Bytes that memory is reserved for, of a token's text.
const RESERVED_PIECE: usize = 256;

/// Bytes that memory is reserved for, of all tokens' text, for each of them.
const RESERVED_PER_TOKEN: usize = 8;

/// One text in the making.
#[derive(Debug)]
pub struct Text {
    options: GenerateOptions,
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    stops: StopStrings,
    decoder: StreamDecoder,
    /// Tokens that may be sampled; `None`: all.
    mask: Option<TokenMask>,
    /// End tokens that are never made.
    forbidden: Vec<TokenId>,
    /// End tokens that are not made before `min_tokens` tokens, where there is such a number.
    early: Vec<TokenId>,
    piece: String,
    pub(super) text: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<TokenLogprobs>,
    pub(super) timings: Timings,
    begun: bool,
}

impl Text {
    /// A text with no tokens.
    pub fn new(sampler: Sampler, options: GenerateOptions, constraint: Option<Box<dyn Constraint>>) -> Self {
        Self {
            stops: StopStrings::new(options.stop.clone()),
            options,
            sampler,
            constraint,
            decoder: StreamDecoder::new(),
            mask: None,
            forbidden: Vec::new(),
            early: Vec::new(),
            piece: String::new(),
            text: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            timings: Timings::default(),
            begun: false,
        }
    }

    /// The tokens so far, without the end token.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The text that is certain so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When the text ends.
    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// The sampler.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Makes the text follow `constraint` from here on.
    pub(super) fn set_constraint(&mut self, constraint: Box<dyn Constraint>) {
        self.constraint = Some(constraint);
    }

    /// The sampler, with its random numbers where they are.
    pub fn into_sampler(self) -> Sampler {
        self.sampler
    }

    /// Whether its tokens have to follow something.
    pub(super) fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    /// The probabilities so far.
    pub(super) fn logprobs(&self) -> &[TokenLogprobs] {
        &self.logprobs
    }

    /// Makes the text follow `prompt`, with a tokenizer and a model of `vocab` logits; so many tokens have room in the
    /// context. A text that goes on in another context keeps what it has.
    pub(super) fn begin(&mut self, prompt: &[TokenId], tokenizer: &dyn Tokenize, vocab: u32, room: usize) {
        self.reserve(room);
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let ends = || (0..vocab).filter(|&id| tokenizer.is_end(id));
        if self.options.ignore_end {
            self.forbidden = ends().collect();
        }
        if self.options.min_tokens > 0 {
            let stops = self.options.stop_tokens.iter().copied().filter(|&id| id < vocab);
            self.early = ends().chain(stops).collect();
        }
        if !self.forbidden.is_empty() || !self.early.is_empty() {
            let mut mask = TokenMask::all(vocab as usize);
            self.forbidden.iter().for_each(|&id| mask.forbid(id));
            self.mask = Some(mask);
        }
        self.sampler.forget_recent();
        prompt.iter().for_each(|&id| self.sampler.accept(id));
    }

    /// Reserves memory for what the next `room` tokens bring, so that making them allocates nothing. Pages that are not used
    /// are not taken.
    fn reserve(&mut self, room: usize) {
        let left = self.options.limit.map(|limit| limit.saturating_sub(self.tokens.len() as u64));
        let tokens = left.and_then(|left| usize::try_from(left).ok()).map_or(room, |left| left.min(room));
        self.piece.reserve(RESERVED_PIECE);
        // Memory that cannot be reserved now is requested as the text grows.
        let _ = self.tokens.try_reserve(tokens);
        let _ = self.timings.tokens.try_reserve(tokens);
        let _ = self.text.try_reserve(tokens.saturating_mul(RESERVED_PER_TOKEN));
    }

    /// Chooses a token from `logits` and appends to the text what is certain with it.
    ///
    /// # Errors
    /// What the sampler or the constraint refuses.
    pub(super) fn advance(&mut self, logits: &[f32], tokenizer: &dyn Tokenize) -> Result<Progress, Error> {
        if self.is_at_limit() {
            return Ok(Progress::Done(self.end(Stop::Limit)));
        }
        let Some(id) = self.sample(logits, tokenizer)? else {
            return Ok(Progress::Done(self.end(Stop::Grammar)));
        };
        if tokenizer.is_end(id) && !self.options.ignore_end {
            return Ok(Progress::Done(self.end(Stop::EndToken(id))));
        }
        let is_stop = self.options.stop_tokens.contains(&id);
        if is_stop && !self.options.include_stop {
            return Ok(Progress::Done(self.end(Stop::StopToken(id))));
        }
        if let Some(n) = self.options.logprobs {
            self.logprobs.push(TokenLogprobs::of(logits, id, n));
        }
        self.tokens.push(id);
        self.piece.clear();
        let is_visible = self.options.visible.contains(&id);
        self.decoder.push(tokenizer.piece(id, is_visible), &mut self.piece);
        if self.tokens.len() as u64 <= self.options.min_tokens {
            self.text.push_str(&self.piece);
        } else if let Some(stop) = self.take_piece() {
            return Ok(Progress::Done(stop));
        }
        if is_stop {
            return Ok(Progress::Done(self.end(Stop::StopToken(id))));
        }
        if self.is_at_limit() {
            return Ok(Progress::Done(self.end(Stop::Limit)));
        }
        Ok(Progress::Feed(id))
    }

    /// Appends the piece as far as it is certain; the stop string that it completes, if there is one.
    fn take_piece(&mut self) -> Option<Stop> {
        let index = self.stops.push(&self.piece, &mut self.text)?;
        if self.options.include_stop {
            self.text.push_str(self.options.stop.get(index).unwrap_or_default());
        }
        Some(Stop::StopString(index))
    }

    /// Whether the text has fewer tokens than it must have before it may end by itself.
    fn is_early(&self) -> bool {
        (self.tokens.len() as u64) < self.options.min_tokens
    }

    /// The next token; `None` where the constraint is complete.
    fn sample(&mut self, logits: &[f32], tokenizer: &dyn Tokenize) -> Result<Option<TokenId>, Error> {
        let is_early = self.is_early();
        let Some(constraint) = &mut self.constraint else {
            if self.early.is_empty() {
                return Ok(Some(self.sampler.sample_allowed(logits, self.mask.as_ref())?));
            }
            // The tokens that are forbidden at first are allowed from here on.
            let mask = self.mask.get_or_insert_with(|| TokenMask::all(logits.len()));
            self.early.iter().for_each(|&id| if is_early { mask.forbid(id) } else { mask.allow(id) });
            self.forbidden.iter().for_each(|&id| mask.forbid(id));
            return Ok(Some(self.sampler.sample_allowed(logits, Some(mask))?));
        };
        if constraint.is_complete() {
            return Ok(None);
        }
        let mask = self.mask.get_or_insert_with(|| TokenMask::all(logits.len()));
        constraint.allowed(mask)?;
        self.forbidden.iter().for_each(|&id| mask.forbid(id));
        if is_early {
            self.early.iter().for_each(|&id| mask.forbid(id));
        }
        let id = self.sampler.sample_allowed(logits, Some(mask))?;
        if !tokenizer.is_end(id) {
            constraint.accept(id)?;
        }
        Ok(Some(id))
    }

    /// Whether the text has as many tokens as were asked for.
    pub(super) fn is_at_limit(&self) -> bool {
        self.options.limit.is_some_and(|n| self.tokens.len() as u64 >= n)
    }

    /// Ends the text for this reason: appends what was held back. If that completes a stop string, this is the reason.
    pub fn end(&mut self, stop: Stop) -> Stop {
        self.piece.clear();
        self.decoder.finish(&mut self.piece);
        if let Some(stop) = self.take_piece() {
            return stop;
        }
        self.stops.finish(&mut self.text);
        stop
    }

    /// Takes text, tokens, probabilities and times out of the state, or copies them.
    pub(super) fn parts(&mut self, copy: bool) -> (String, Vec<TokenId>, Vec<TokenLogprobs>, Timings) {
        if copy {
            return (self.text.clone(), self.tokens.clone(), self.logprobs.clone(), self.timings.clone());
        }
        let Self { text, tokens, logprobs, timings, .. } = self;
        (std::mem::take(text), std::mem::take(tokens), std::mem::take(logprobs), std::mem::take(timings))
    }
}
