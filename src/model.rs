//! The library's front door: a model, texts over it as they are made, conversations, and the engine.
//!
//! ```
//! use bitnetc::{Model, Settings};
//!
//! # fn main() -> Result<(), bitnetc::Error> {
//! let model = Model::builtin()?;
//! let mut session = model.session(256)?;
//! let settings = Settings { limit: Some(16), ..Settings::greedy() };
//! for token in session.generate("ROMEO:", &settings)? {
//!     print!("{}", token?.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Model`] is cheap to clone and can be shared by threads. A [`TextSession`] makes one text at a time on the thread that
//! calls it; an [`Engine`] makes several together on a thread of its own, for clients on any thread.
//!
//! Invariants: the same settings and seed give the same text on every machine and with any number of threads; the texts of an
//! iterator joined are the text of the generation, and never hold a part of a stop string.

use std::path::Path;
use std::sync::Arc;

use bitnetc_runtime::cpus::Cpus;
use bitnetc_runtime::machine::{Machine, MemoryUse};
use bitnetc_runtime::sampling::SamplingParams;
use bitnetc_runtime::tokenizer::{TokenId, Tokenize};

use crate::chat::{ChatEncoder, Conversation, ConversationOptions, Wish};
use crate::constraint::{Compiling, Constraint, ConstraintError, GrammarSource, Grammars, MakeConstraint};
use crate::engine::{
    Completion, Engine, EngineOptions, Event, GenerateOptions, Handle, Metrics, Request, Scheduler, Stop,
    Token,
};
use crate::error::Error;
use crate::load::{LoadOptions, Loaded, load};

/// A model that is ready to run.
#[derive(Clone, Debug)]
pub struct Model {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    loaded: Loaded,
    grammars: Grammars,
}

/// How a text is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Tokens at most; `None`: until the model or the context ends.
    pub limit: Option<u64>,
    /// How tokens are chosen, with the seed.
    pub sampling: SamplingParams,
    /// The text ends before the first of these.
    pub stops: Vec<String>,
    /// Do not stop at end tokens.
    pub ignore_end: bool,
    /// Report the probability of every token and of this number of most likely tokens at its position.
    pub logprobs: Option<usize>,
}

impl Settings {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { sampling: SamplingParams::greedy(), ..Self::default() }
    }

    /// When a text with these settings ends.
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions {
            limit: self.limit,
            ignore_end: self.ignore_end,
            stop: self.stops.iter().cloned().collect(),
            logprobs: self.logprobs,
            ..GenerateOptions::default()
        }
    }
}

impl From<Loaded> for Model {
    fn from(loaded: Loaded) -> Self {
        let grammars = Grammars::new(Arc::clone(&loaded.tokenizer), loaded.model.vocab());
        Self { shared: Arc::new(Shared { loaded, grammars }) }
    }
}

/// The tokens of a prompt: only the model's begin-of-text token if there is no text.
///
/// # Errors
/// Text that the tokenizer refuses; no text, with a model that has no such token.
pub(crate) fn prompt_tokens(tokenizer: &dyn Tokenize, text: &str) -> Result<Vec<TokenId>, Error> {
    let mut ids = tokenizer.encode(text, true, true)?;
    if ids.is_empty() {
        ids.push(tokenizer.bos().or(tokenizer.eos()).ok_or(Error::NoPrompt)?);
    }
    Ok(ids)
}

impl Model {
    /// Opens a `.gguf` file, which is compiled in memory, or a plan.
    ///
    /// # Errors
    /// A file that cannot be read, is malformed or not supported.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with(path, &LoadOptions::default())
    }

    /// As [`Model::load`], with options.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_with(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, Error> {
        Ok(load(Some(path.as_ref()), options)?.into())
    }

    /// The model that comes with the library: 5 million parameters, trained on Shakespeare.
    ///
    /// # Errors
    /// A machine that code cannot be generated for.
    pub fn builtin() -> Result<Self, Error> {
        Self::builtin_with(&LoadOptions::default())
    }

    /// As [`Model::builtin`], with options.
    ///
    /// # Errors
    /// As [`Model::builtin`].
    pub fn builtin_with(options: &LoadOptions) -> Result<Self, Error> {
        Ok(load(None, options)?.into())
    }

    /// The parts: code and weights, planned module, tokenizer, remarks.
    pub fn loaded(&self) -> &Loaded {
        &self.shared.loaded
    }

    /// The context that the model was trained for.
    pub fn context(&self) -> u32 {
        self.shared.loaded.context
    }

    /// The context of a session unless another is asked for: the model's own, as far as its memory is bounded
    /// ([`crate::load::DEFAULT_CONTEXT_BYTES`]).
    pub fn default_context(&self) -> u32 {
        self.shared.loaded.default_context()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &dyn Tokenize {
        &*self.shared.loaded.tokenizer
    }

    /// The tokens of a prompt: only the model's begin-of-text token if there is no text.
    ///
    /// # Errors
    /// Text that the tokenizer refuses; no text, with a model that has no such token.
    pub fn prompt(&self, text: &str) -> Result<Vec<TokenId>, Error> {
        prompt_tokens(self.tokenizer(), text)
    }

    /// What makes a text follow a grammar: see [`Request::with_constraint`].
    ///
    /// # Errors
    /// A grammar that is wrong, or needs what is not supported.
    pub fn constraint(&self, source: &GrammarSource) -> Result<Box<dyn Constraint>, ConstraintError> {
        self.shared.grammars.constraint(source)
    }

    /// A session with room for `context` tokens, on the cores that this process may use.
    ///
    /// # Errors
    /// Memory could not be allocated, or threads could not be started.
    pub fn session(&self, context: u32) -> Result<TextSession, Error> {
        self.session_with(EngineOptions::single(context, Cpus::probe().threads()))
    }

    /// As [`Model::session`], with options. More than one sequence lets it go on from several earlier texts.
    ///
    /// # Errors
    /// As [`Model::session`].
    pub fn session_with(&self, options: EngineOptions) -> Result<TextSession, Error> {
        Ok(TextSession { model: self.clone(), scheduler: self.scheduler(options)? })
    }

    /// A scheduler that its owner steps.
    ///
    /// # Errors
    /// Memory could not be allocated, or threads could not be started.
    pub fn scheduler(&self, options: EngineOptions) -> Result<Scheduler, Error> {
        let Loaded { model, tokenizer, source_hash, .. } = self.loaded();
        let tokenizer = Arc::clone(tokenizer) as Arc<dyn Tokenize>;
        Ok(Scheduler::new(Arc::clone(model), *source_hash, tokenizer, options)?)
    }

    /// An engine: a thread that makes the texts of all who ask.
    ///
    /// # Errors
    /// Memory could not be allocated, or threads could not be started.
    pub fn engine(&self, options: EngineOptions) -> Result<Engine, Error> {
        Ok(Engine::start(self.scheduler(options)?)?)
    }

    /// As [`Model::engine`], whose counters continue those of `metrics`: of an earlier engine of the same model.
    ///
    /// # Errors
    /// As [`Model::engine`].
    pub fn engine_counting(&self, options: EngineOptions, metrics: Arc<Metrics>) -> Result<Engine, Error> {
        Ok(Engine::start(self.scheduler(options)?.counting(metrics))?)
    }

    /// A conversation with room for `context` tokens, in the model's own form or the one that its tokens suggest.
    ///
    /// # Errors
    /// The chat template is not valid, memory could not be allocated, or threads could not be started.
    pub fn chat(&self, context: u32) -> Result<Conversation, Error> {
        let options = EngineOptions::single(context, Cpus::probe().threads());
        self.chat_with(options, &Wish::Model, ConversationOptions::default())
    }

    /// As [`Model::chat`], with options and another template.
    ///
    /// # Errors
    /// As [`Model::chat`]; a template that there is not.
    pub fn chat_with(
        &self,
        session: EngineOptions,
        template: &Wish,
        options: ConversationOptions,
    ) -> Result<Conversation, Error> {
        let (encoder, _) = ChatEncoder::for_model(self.loaded(), template)?;
        Ok(Conversation::new(self.session_with(session)?, encoder, options))
    }
}

impl MakeConstraint for Model {
    fn compile(&self, source: &GrammarSource) -> Compiling {
        self.shared.grammars.compile(source)
    }
}

/// One text at a time over a model, made on the thread that asks. Texts that begin as an earlier one did are not computed
/// again as far as they are the same.
#[derive(Debug)]
pub struct TextSession {
    model: Model,
    scheduler: Scheduler,
}

impl TextSession {
    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The machine below, with its threads, memory and profile.
    pub fn machine(&self) -> &Machine {
        self.scheduler.stepper().machine()
    }

    /// Tokens that a text has room for, prompt included.
    pub fn context(&self) -> u32 {
        self.machine().context()
    }

    /// Tokens that the sequence of the latest text holds: those of the text, but for the last one, which need not have been
    /// fed.
    pub fn position(&self) -> usize {
        self.scheduler.latest_tokens()
    }

    /// What the session takes.
    pub fn memory(&self) -> MemoryUse {
        self.machine().memory()
    }

    /// Starts a new text that continues `prompt`.
    ///
    /// # Errors
    /// Text that the tokenizer refuses, settings out of range.
    pub fn generate(&mut self, prompt: &str, settings: &Settings) -> Result<Tokens<'_>, Error> {
        let ids = self.model.prompt(prompt)?;
        self.generate_from(ids, settings)
    }

    /// As [`TextSession::generate`], from tokens.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn generate_from(&mut self, prompt: Vec<TokenId>, settings: &Settings) -> Result<Tokens<'_>, Error> {
        Ok(self.tokens(Request::new(prompt, settings.sampling.clone(), settings.options())?))
    }

    /// The tokens of a request.
    pub fn tokens(&mut self, request: Request) -> Tokens<'_> {
        let handle = self.scheduler.submit(request);
        Tokens { session: self, handle, last: None, end: None }
    }

    /// Returns the whole text that continues `prompt`.
    ///
    /// # Errors
    /// As [`TextSession::generate`], and what the session and the sampler refuse.
    pub fn complete(&mut self, prompt: &str, settings: &Settings) -> Result<Completion, Error> {
        let ids = self.model.prompt(prompt)?;
        let request = Request::new(ids, settings.sampling.clone(), settings.options())?;
        self.follow(request.without_tokens(), || true, |_| true)
    }

    /// The whole text of a request. `emit` is given its pieces as they become certain, an empty one for a token that
    /// completes none, and ends the text by returning false (it is not called again then); `keep_going` is asked before every step, during the prompt
    /// too, and does the same.
    ///
    /// # Errors
    /// Why the request failed.
    pub fn follow(
        &mut self,
        request: Request,
        keep_going: impl FnMut() -> bool,
        emit: impl FnMut(&str) -> bool,
    ) -> Result<Completion, Error> {
        let handle = self.scheduler.submit(request);
        self.scheduler.follow(handle, keep_going, emit)
    }
}

/// The tokens of a text, made as they are asked for.
#[derive(Debug)]
pub struct Tokens<'s> {
    session: &'s mut TextSession,
    handle: Handle,
    /// The token that came last.
    last: Option<TokenId>,
    /// The text that has ended, or nothing where it failed.
    end: Option<Box<Completion>>,
}

impl Tokens<'_> {
    /// Why the text ended, once it has.
    pub fn finish(&self) -> Option<Stop> {
        self.end.as_ref().map(|end| end.finish)
    }

    /// What has been made so far. A text that was left early is one that was interrupted.
    ///
    /// # Errors
    /// Why the text failed; [`EngineError::Stopped`](crate::engine::EngineError::Stopped) if that was said already.
    pub fn into_completion(self) -> Result<Completion, Error> {
        let Self { session, handle, end, .. } = self;
        if let Some(end) = end {
            return Ok(*end);
        }
        handle.cancel();
        session.scheduler.follow(handle, || true, |_| true)
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<Token, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut next = || loop {
            match self.session.scheduler.next_event(&mut self.handle)? {
                Event::Progress(_) | Event::Scored(_) => {}
                event => return Some(event),
            }
        };
        match next()? {
            Event::Progress(_) | Event::Scored(_) => None,
            Event::Token(token) => {
                self.last = Some(token.id);
                Some(Ok(token))
            }
            Event::Failed(error) => Some(Err(error)),
            Event::Done(completion) => {
                // Text that the end alone made certain goes with the last token.
                let tail = completion.tail.clone();
                self.end = Some(completion);
                let id = self.last.filter(|_| !tail.is_empty())?;
                Some(Ok(Token { id, text: tail, logprobs: None }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_shared_and_sessions_are_sent() {
        fn shared<T: Send + Sync + 'static>() {}
        fn sent<T: Send + 'static>() {}
        shared::<Model>();
        shared::<Error>();
        sent::<TextSession>();
        sent::<Conversation>();
        shared::<Engine>();
        sent::<Handle>();
        let model = Model::builtin().unwrap();
        let settings = Settings { limit: Some(6), ..Settings::greedy() };
        let texts: Vec<String> = std::thread::scope(|scope| {
            let one = || {
                let mut session = model.session_with(EngineOptions::single(64, 1)).unwrap();
                session.complete("ROMEO:", &settings).unwrap().text
            };
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(texts[0] == texts[1] && !texts[0].is_empty());
    }

    #[test]
    fn pieces_are_the_text_and_hold_no_part_of_a_stop_string() {
        let model = Model::builtin().unwrap();
        let mut session = model.session_with(EngineOptions::single(128, 1)).unwrap();
        let settings = Settings { limit: Some(40), ..Settings::default() };
        let whole = session.complete("JULIET:", &settings).unwrap();
        assert_eq!(whole.tokens.len(), 40);
        for (from, length) in [(5, 1), (20, 3), (33, 9)] {
            let start = whole.text.char_indices().map(|(i, _)| i).nth(from).unwrap();
            let stop: String = whole.text[start..].chars().take(length).collect();
            let expected = &whole.text[..whole.text.find(&stop).unwrap()];
            let with_stop = Settings { stops: vec![stop.clone()], ..settings.clone() };
            let mut tokens = session.generate("JULIET:", &with_stop).unwrap();
            let text: String = tokens.by_ref().map(|token| token.unwrap().text).collect();
            assert_eq!((text.as_str(), tokens.finish()), (expected, Some(Stop::StopString(0))), "{stop:?}");
            assert_eq!(tokens.into_completion().unwrap().text, expected);
        }
        // A stop string that never comes up holds nothing back at the end.
        let never = Settings { stops: vec![format!("{}!", whole.text)], ..settings.clone() };
        let text: String = session.generate("JULIET:", &never).unwrap().map(|t| t.unwrap().text).collect();
        assert_eq!(text, whole.text);
        let none = Settings { limit: Some(0), ..settings };
        assert_eq!(session.generate("JULIET:", &none).unwrap().count(), 0);
    }

    #[test]
    fn a_conversation_goes_on_from_its_cache() {
        let model = Model::builtin().unwrap();
        let mut chat = model.chat(256).unwrap();
        let settings = Settings { limit: Some(8), ..Settings::greedy() };
        let mut streamed = String::new();
        let first = chat.ask("Good morrow", &settings, |text| {
            streamed.push_str(text);
            true
        });
        let first = first.unwrap();
        assert_eq!((&streamed, first.stats.reused_tokens), (&first.text, 0));
        let second = chat.ask("What news?", &settings, |_| true).unwrap();
        assert_eq!(second.stats.reused_tokens, first.stats.prompt_tokens + first.stats.answer_tokens - 1);
        let too_long = "news ".repeat(400);
        assert!(matches!(chat.ask(&too_long, &settings, |_| true), Err(Error::Chat(_))));
        assert_eq!(chat.messages().len(), 4);
    }

    #[test]
    fn an_error_ends_the_tokens() {
        let model = Model::builtin().unwrap();
        let mut session = model.session_with(EngineOptions::single(4, 1)).unwrap();
        let mut tokens = session.generate_from(vec![1; 9], &Settings::greedy()).unwrap();
        assert!(matches!(tokens.next(), Some(Err(Error::Session(_)))));
        assert!(tokens.next().is_none());
    }
}
