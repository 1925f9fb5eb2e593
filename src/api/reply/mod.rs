//! The engine's events as the answer of an API.
//!
//! [`Reply`] keeps what all answers have in common: which choices have ended, which tokens wait for their text, what was used.
//! A [`Shape`] says how that looks in one API. A token goes out with the text that is certain with it or after it, so that the
//! tokens of all pieces are those of the answer, and so are their texts.

pub(super) mod anthropic;
pub(super) mod chat;
pub(super) mod completions;
pub(super) mod frame;
pub(super) mod llama;
pub(super) mod logprobs;
pub(super) mod ollama;
pub(super) mod responses;
mod usage;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bitnetc_runtime::sampling::{StopList, TokenLogprobs};
use bitnetc_runtime::tokenizer::{TokenId, Tokenize};
use serde_json::Value;

use self::frame::{Frame, Framing};
pub use self::usage::Usage;
use super::answer::{AnswerForm, Block, End as Ending};
use super::asked::{Asked, random_bits};
use super::prompt::Prompt;
use super::{Reading, Refusal, Service};
use crate::engine::{Completion, Event, PromptProgress, Stop};
use crate::model::Model;

/// Which of the choices of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChoiceIndex(u32);

impl ChoiceIndex {
    /// The choice with this number, from 0 on.
    pub fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Its number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What an answer shows beside text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// The prompt in front of the text.
    pub(super) echo: bool,
    /// The probabilities of tokens, with the likeliest at their places.
    pub(super) logprobs: Option<usize>,
    /// Those of the prompt's tokens.
    pub(super) prompt_logprobs: Option<usize>,
    /// The usage at the end of a stream.
    pub(super) include_usage: bool,
    /// The ids of tokens.
    pub(super) token_ids: bool,
    /// Times in every chunk.
    pub(super) timings_per_token: bool,
    /// What differs from run to run: times, and what was reused.
    pub(super) measured: bool,
}

/// What all parts of an answer have in common.
#[derive(Debug)]
pub(super) struct About {
    /// The end of the answer's id.
    pub(super) id: String,
    /// When the request was read, in seconds since 1970.
    pub(super) created: u64,
    /// The model's name.
    pub(super) model: String,
    pub(super) fingerprint: String,
    /// The seed of the first choice.
    pub(super) seed: u64,
    /// How long the request waited for its model to be loaded.
    pub(super) load: Duration,
    pub(super) shown: Shown,
    pub(super) prompts: Vec<Prompt>,
    /// Control tokens that texts spell out.
    pub(super) visible: Vec<TokenId>,
    of: Model,
}

impl About {
    pub(super) fn tokenizer(&self) -> &dyn Tokenize {
        self.of.tokenizer()
    }
}

/// A choice in the making.
#[derive(Debug)]
pub(super) struct Choice {
    /// Its prompt, as the index among those of the request.
    pub(super) prompt: usize,
    /// The strings that end it.
    stops: StopList,
    /// Tokens whose text is not certain yet.
    waiting: Piece,
    /// Bytes of text and tokens that went out.
    sent: (usize, usize),
    /// When its first token came.
    first_token: Option<Instant>,
    /// Probabilities of the tokens of its prompt after the first, if they were asked for.
    pub(super) scored: Vec<TokenLogprobs>,
    /// How it ended.
    pub(super) end: Option<Box<Completion>>,
}

/// A part of a text, with the tokens that it became certain with.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) tokens: Vec<TokenId>,
    pub(super) logprobs: Vec<TokenLogprobs>,
    /// Whether it is the first of its choice.
    pub(super) first: bool,
}

impl Choice {
    /// Why it ended, in OpenAI's words; `None` while it goes on.
    pub(super) fn finish_reason(&self) -> Option<&'static str> {
        self.end.as_ref().map(|_| match self.ending() {
            Ending::Whole => "stop",
            Ending::Cut => "length",
        })
    }

    /// How its text came to its end.
    pub(super) fn ending(&self) -> Ending {
        match self.end.as_ref().map(|end| end.finish) {
            Some(Stop::Limit | Stop::ContextFull | Stop::Interrupted) => Ending::Cut,
            _ => Ending::Whole,
        }
    }

    /// The string or the token that ended it, if the request asked for it.
    pub(super) fn stop_reason(&self) -> Value {
        match self.end.as_ref().map(|end| end.finish) {
            Some(Stop::StopString(index)) => self.stops.get(index).map_or(Value::Null, Value::from),
            Some(Stop::StopToken(id)) => id.into(),
            _ => Value::Null,
        }
    }

    /// What its text says; nothing before it has ended.
    pub(super) fn blocks(&self, form: &AnswerForm, seed: u64) -> Vec<Block> {
        self.end.as_ref().map(|end| form.read(seed, &end.text, self.ending())).unwrap_or_default()
    }

    /// Tokens that have been made.
    pub(super) fn made(&self) -> usize {
        self.end.as_ref().map_or(self.sent.1 + self.waiting.tokens.len(), |end| end.tokens.len())
    }

    /// When the first token came.
    pub(super) fn first_token(&self) -> Option<Instant> {
        self.first_token
    }

    /// Takes what waits, with the text that has become certain.
    fn take(&mut self, text: String) -> Piece {
        let first = self.sent == (0, 0);
        let piece = Piece { text, first, ..std::mem::take(&mut self.waiting) };
        self.sent = (self.sent.0 + piece.text.len(), self.sent.1 + piece.tokens.len());
        piece
    }

    /// What a finished text has that did not go out.
    fn take_rest(&mut self, end: &Completion) -> Piece {
        let (text, tokens) = self.sent;
        self.waiting = Piece {
            tokens: end.tokens.get(tokens..).unwrap_or_default().to_vec(),
            logprobs: end.logprobs.get(tokens..).unwrap_or_default().to_vec(),
            ..Piece::default()
        };
        self.take(end.text.get(text..).unwrap_or_default().to_owned())
    }
}

/// How answers look in one API. The methods for streams return what is sent; `body` is the answer in one piece.
pub(super) trait Shape: std::fmt::Debug + Send {
    /// How the pieces of a stream are told apart.
    fn framing(&self) -> Framing {
        Framing::Sse
    }

    /// What a stream begins with.
    fn begin(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame>;

    /// How far the prompt of a choice has been read.
    fn progress(&mut self, _: &About, _: ChoiceIndex, _: &Choice, _: PromptProgress) -> Vec<Frame> {
        Vec::new()
    }

    /// A part of the text of a choice.
    fn piece(&mut self, about: &About, index: ChoiceIndex, choice: &Choice, piece: Piece) -> Vec<Frame>;

    /// The end of a choice.
    fn ended(&mut self, about: &About, index: ChoiceIndex, choice: &Choice) -> Vec<Frame>;

    /// The end of a stream whose choices have all ended.
    fn end(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame>;

    /// The end of a stream that cannot go on.
    fn fail(&mut self, about: &About, refusal: &Refusal) -> Vec<Frame>;

    /// The answer in one piece; all choices have ended.
    fn body(&mut self, about: &About, choices: &[Choice]) -> Value;
}

/// The answer of a request in the making.
#[derive(Debug)]
pub struct Reply {
    about: About,
    shape: Box<dyn Shape>,
    choices: Vec<Choice>,
    stream: bool,
    /// Choices that have not ended.
    left: usize,
    /// Whether the stream has its end.
    closed: bool,
    failed: Option<Refusal>,
    /// The field that asked for a form.
    form: Option<&'static str>,
}

impl Reply {
    /// The answer of a request. `stream` says what is sent; whether the engine tells of every token is the request's.
    pub(super) fn new(
        service: &Service,
        shape: Box<dyn Shape>,
        asked: &Asked,
        shown: Shown,
        how: &Reading<'_>,
        stream: bool,
    ) -> Self {
        let stops: Vec<StopList> = asked.prompts.iter().map(|prompt| asked.stops_of(prompt)).collect();
        let choice = |index: usize| {
            let prompt = index / asked.choices.max(1);
            Choice {
                prompt,
                stops: stops.get(prompt).cloned().unwrap_or_default(),
                waiting: Piece::default(),
                sent: (0, 0),
                first_token: None,
                scored: Vec::new(),
                end: None,
            }
        };
        let left = asked.prompts.len() * asked.choices;
        let about = About {
            id: how
                .id
                .clone()
                .unwrap_or_else(|| format!("{:016x}{:08x}", random_bits(), random_bits() as u32)),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
            model: service.id.clone(),
            fingerprint: service.fingerprint(),
            seed: asked.params.seed,
            load: Duration::ZERO,
            shown,
            prompts: asked.prompts.clone(),
            visible: asked.options.visible.clone(),
            of: service.model.clone(),
        };
        let form = asked.form.as_ref().filter(|form| form.source.is_some()).map(|form| form.field);
        let choices = (0..left).map(choice).collect();
        Self { about, shape, choices, stream, left, closed: false, failed: None, form }
    }

    /// Whether the answer is a stream.
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// The seed of the first choice.
    pub fn seed(&self) -> u64 {
        self.about.seed
    }

    /// Takes note of how long the request waited for its model to be loaded.
    pub fn model_loaded_in(&mut self, time: Duration) {
        self.about.load = time;
    }

    /// How the pieces of the stream are told apart.
    pub fn framing(&self) -> Framing {
        self.shape.framing()
    }

    /// How many choices there are.
    pub fn choices(&self) -> usize {
        self.choices.len()
    }

    /// The beginning of the stream.
    pub fn begin(&mut self) -> Vec<Frame> {
        if !self.stream {
            return Vec::new();
        }
        self.shape.begin(&self.about, &self.choices)
    }

    /// What an event of a choice adds to the stream; nothing for an answer in one piece, which collects them. A failure ends
    /// the stream; the events of other choices then count no more.
    pub fn event(&mut self, index: ChoiceIndex, event: Event) -> Vec<Frame> {
        if self.failed.is_some() {
            return Vec::new();
        }
        let Some(choice) = self.choices.get_mut(index.index()) else { return Vec::new() };
        if choice.end.is_some() {
            return Vec::new();
        }
        match event {
            Event::Progress(progress) => self.send(|shape, about, choices| {
                let choice = choices.get(index.index());
                choice.map_or_else(Vec::new, |choice| shape.progress(about, index, choice, progress))
            }),
            Event::Scored(scored) => {
                choice.scored = scored;
                Vec::new()
            }
            Event::Token(token) => {
                choice.first_token.get_or_insert_with(Instant::now);
                choice.waiting.tokens.push(token.id);
                choice.waiting.logprobs.extend(token.logprobs);
                if token.text.is_empty() {
                    return Vec::new();
                }
                let piece = choice.take(token.text);
                self.send(|shape, about, choices| {
                    choices
                        .get(index.index())
                        .map_or_else(Vec::new, |choice| shape.piece(about, index, choice, piece))
                })
            }
            Event::Done(mut end) => {
                let piece = choice.take_rest(&end);
                choice.scored = std::mem::take(&mut end.prompt_logprobs);
                choice.end = Some(end);
                self.left -= 1;
                self.send(|shape, about, choices| {
                    let Some(choice) = choices.get(index.index()) else { return Vec::new() };
                    let shown = &about.shown;
                    let counts = !piece.tokens.is_empty() && (shown.token_ids || shown.logprobs.is_some());
                    let mut frames = match !piece.text.is_empty()
                        || counts
                        || piece.first && (shown.echo || shown.token_ids || shown.prompt_logprobs.is_some())
                    {
                        true => shape.piece(about, index, choice, piece),
                        false => Vec::new(),
                    };
                    frames.extend(shape.ended(about, index, choice));
                    frames
                })
            }
            Event::Failed(error) => {
                let refusal = Refusal::of_error(&error, self.form);
                self.fail(&refusal)
            }
        }
    }

    /// What a stream is sent; nothing where there is none.
    fn send(&mut self, make: impl FnOnce(&mut dyn Shape, &About, &[Choice]) -> Vec<Frame>) -> Vec<Frame> {
        match self.stream && !self.closed {
            true => make(&mut *self.shape, &self.about, &self.choices),
            false => Vec::new(),
        }
    }

    /// Whether all choices have ended, or one has failed.
    pub fn is_complete(&self) -> bool {
        self.left == 0 || self.failed.is_some()
    }

    /// Why the answer failed.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.failed.as_ref()
    }

    /// The end of a stream whose choices have all ended; nothing where it has its end already.
    pub fn end(&mut self) -> Vec<Frame> {
        let frames = self.send(|shape, about, choices| shape.end(about, choices));
        self.closed = true;
        frames
    }

    /// The end of a stream that cannot go on: the error, and what ends the stream. Nothing where it has its end already.
    pub fn fail(&mut self, refusal: &Refusal) -> Vec<Frame> {
        self.failed.get_or_insert_with(|| refusal.clone());
        let frames = self.send(|shape, about, _| shape.fail(about, refusal));
        self.closed = true;
        frames
    }

    /// The answer in one piece.
    ///
    /// # Errors
    /// Why a choice failed; an answer whose choices have not all ended.
    pub fn into_body(mut self) -> Result<Value, Refusal> {
        self.body()
    }

    /// As [`Reply::into_body`], for one who still asks what was used.
    ///
    /// # Errors
    /// As there.
    pub fn body(&mut self) -> Result<Value, Refusal> {
        match &self.failed {
            Some(refusal) => Err(refusal.clone()),
            None if self.left > 0 => {
                Err(Refusal::new(500, "generation_failed", "the answer was not completed"))
            }
            None => Ok(self.shape.body(&self.about, &self.choices)),
        }
    }

    /// What was used so far, for accounts and logs.
    pub fn usage(&self) -> Usage {
        Usage::of(&self.about, &self.choices)
    }

    /// Why the choices ended, as far as they have.
    pub fn finishes(&self) -> impl Iterator<Item = Stop> {
        self.choices.iter().filter_map(|choice| Some(choice.end.as_ref()?.finish))
    }
}
