//! The library's front door: a model, sessions over it, and texts as they are made.
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
//! A [`Model`] is cheap to clone and can be shared by threads; each text that is made at the same time needs a
//! [`TextSession`] of its own, or a place in a batch ([`crate::batch`]). What is below stays open: [`Model::loaded`] gives the parts, and the crates
//! `bitnetc_runtime` and `bitnetc_ir` are usable without this module.
//!
//! Invariants: the same settings and seed give the same text on every machine and with any number of threads; the texts of an
//! iterator joined are the text of the generation, and never hold a part of a stop string.

use std::path::Path;
use std::sync::Arc;

use bitnetc_runtime::cpus::Cpus;
use bitnetc_runtime::sampling::{Sampler, SamplingParams};
use bitnetc_runtime::session::{Session, SessionOptions};
use bitnetc_runtime::tokenizer::Tokenize;

use crate::batch::{Completion, prompt_tokens};
use crate::chat::{ChatEncoder, Conversation, ConversationOptions, Wish};
use crate::error::Error;
use crate::generate::{GenerateOptions, Progress, Sequence, Stop};
use crate::load::{LoadOptions, Loaded, load};

/// A model that is ready to run.
#[derive(Clone, Debug)]
pub struct Model {
    loaded: Arc<Loaded>,
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
    /// Never end by an end token.
    pub ignore_end: bool,
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
            stop: self.stops.clone(),
            logprobs: None,
        }
    }
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
        Ok(Self { loaded: Arc::new(load(Some(path.as_ref()), options)?) })
    }

    /// The model that comes with the library: 5 million parameters, trained on Shakespeare.
    ///
    /// # Errors
    /// A machine that code cannot be generated for.
    pub fn builtin() -> Result<Self, Error> {
        Ok(Self { loaded: Arc::new(load(None, &LoadOptions::default())?) })
    }

    /// The parts: code and weights, planned module, tokenizer, remarks.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The context that the model was trained for.
    pub fn context(&self) -> u32 {
        self.loaded.context
    }

    /// The context of a session unless another is asked for: the model's own, as far as its memory is bounded
    /// ([`crate::load::DEFAULT_CONTEXT_BYTES`]).
    pub fn default_context(&self) -> u32 {
        self.loaded.default_context()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &dyn Tokenize {
        &self.loaded.tokenizer
    }

    /// A session with room for `context` tokens, on the cores that this process may use.
    ///
    /// # Errors
    /// Memory or threads that cannot be had.
    pub fn session(&self, context: u32) -> Result<TextSession, Error> {
        self.session_with(SessionOptions { context, threads: Cpus::probe().threads() })
    }

    /// As [`Model::session`], with options.
    ///
    /// # Errors
    /// As [`Model::session`].
    pub fn session_with(&self, options: SessionOptions) -> Result<TextSession, Error> {
        let session = Session::new(Arc::clone(&self.loaded.model), options)?;
        Ok(TextSession { model: self.clone(), session })
    }

    /// A conversation with room for `context` tokens, in the model's own form or the one that its tokens suggest.
    ///
    /// # Errors
    /// A chat template that is not valid; memory or threads that cannot be had.
    pub fn chat(&self, context: u32) -> Result<Conversation<'_>, Error> {
        let options = SessionOptions { context, threads: Cpus::probe().threads() };
        self.chat_with(options, &Wish::Model, ConversationOptions::default())
    }

    /// As [`Model::chat`], with options and another template.
    ///
    /// # Errors
    /// As [`Model::chat`]; a template that there is not.
    pub fn chat_with(
        &self,
        session: SessionOptions,
        template: &Wish,
        options: ConversationOptions,
    ) -> Result<Conversation<'_>, Error> {
        let (encoder, _) = ChatEncoder::for_model(&self.loaded, template)?;
        let session = Session::new(Arc::clone(&self.loaded.model), session)?;
        Ok(Conversation::new(session, encoder, options))
    }
}

/// One text at a time over a model.
#[derive(Debug)]
pub struct TextSession {
    model: Model,
    session: Session,
}

/// A token that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that is complete with it: perhaps none, where a character or a stop string may go on.
    pub text: String,
}

impl TextSession {
    /// The session below, with its position and memory.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Starts a new text that goes on from `prompt`. Nothing of an earlier text is kept.
    ///
    /// # Errors
    /// Text that the tokenizer refuses, settings out of range.
    pub fn generate(&mut self, prompt: &str, settings: &Settings) -> Result<Tokens<'_>, Error> {
        let ids = prompt_tokens(&self.model.loaded.tokenizer, prompt)?;
        self.generate_from(ids, settings)
    }

    /// As [`TextSession::generate`], from tokens.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn generate_from(&mut self, prompt: Vec<u32>, settings: &Settings) -> Result<Tokens<'_>, Error> {
        self.session.truncate(0);
        let mut sampler = Sampler::new(settings.sampling.clone())?;
        prompt.iter().for_each(|&id| sampler.accept(id));
        let loaded = &self.model.loaded;
        let sequence = Sequence::new(settings.options(), &loaded.tokenizer, loaded.model.vocab());
        Ok(Tokens {
            session: self,
            sequence,
            sampler,
            prompt_tokens: prompt.len(),
            next: prompt,
            text: String::new(),
            finish: (settings.limit == Some(0)).then_some(Stop::Limit),
            failed: false,
        })
    }

    /// The whole text that goes on from `prompt`.
    ///
    /// # Errors
    /// As [`TextSession::generate`], and what the session and the sampler refuse.
    pub fn complete(&mut self, prompt: &str, settings: &Settings) -> Result<Completion, Error> {
        let mut tokens = self.generate(prompt, settings)?;
        for token in tokens.by_ref() {
            token?;
        }
        Ok(tokens.into_completion())
    }
}

/// The tokens of a text, made as they are asked for.
#[derive(Debug)]
pub struct Tokens<'s> {
    session: &'s mut TextSession,
    sequence: Sequence,
    sampler: Sampler,
    /// What is fed next.
    next: Vec<u32>,
    prompt_tokens: usize,
    /// The text that has been given out.
    text: String,
    finish: Option<Stop>,
    failed: bool,
}

impl Tokens<'_> {
    /// Why the text ended, once it has.
    pub fn finish(&self) -> Option<Stop> {
        self.finish
    }

    /// What has been made so far. A text that was left early is one that was interrupted.
    pub fn into_completion(self) -> Completion {
        let (tokens, logprobs) = self.sequence.into_parts();
        let finish = self.finish.unwrap_or(Stop::Interrupted);
        Completion { text: self.text, tokens, prompt_tokens: self.prompt_tokens, finish, logprobs }
    }

    fn step(&mut self) -> Result<Option<Token>, Error> {
        let before = self.sequence.tokens().len();
        let TextSession { model, session } = &mut *self.session;
        let full = session.position() + self.next.len() as u32 >= session.context();
        let logits = session.feed(&self.next)?;
        let tokenizer = &model.loaded.tokenizer;
        let mut text = String::new();
        self.next.clear();
        match self.sequence.advance(logits, tokenizer, &mut self.sampler, None, &mut text)? {
            Progress::Done(stop) => self.finish = Some(stop),
            Progress::Feed(_) if full => {
                self.finish = Some(self.sequence.end(Stop::ContextFull, &mut text));
            }
            Progress::Feed(id) => self.next.push(id),
        }
        self.text.push_str(&text);
        let tokens = self.sequence.tokens();
        match tokens.get(before) {
            Some(&id) => Ok(Some(Token { id, text })),
            // An end token, which has no text of its own but may complete what was held back.
            None if text.is_empty() => Ok(None),
            None => Ok(tokens.last().map(|&id| Token { id, text })),
        }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<Token, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() || self.failed {
            return None;
        }
        let token = self.step().transpose();
        self.failed = matches!(token, Some(Err(_)));
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_shared_and_sessions_are_sent() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<Model>();
        shared::<Error>();
        sent::<TextSession>();
        let model = Model::builtin().unwrap();
        let settings = Settings { limit: Some(6), ..Settings::greedy() };
        let texts: Vec<String> = std::thread::scope(|scope| {
            let one = || {
                let mut session = model.session_with(SessionOptions { context: 64, threads: 1 }).unwrap();
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
        let mut session = model.session_with(SessionOptions { context: 128, threads: 1 }).unwrap();
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
            assert_eq!(tokens.into_completion().text, expected);
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
        let mut session = model.session_with(SessionOptions { context: 4, threads: 1 }).unwrap();
        let mut tokens = session.generate_from(vec![1; 9], &Settings::greedy()).unwrap();
        assert!(matches!(tokens.next(), Some(Err(Error::Session(_)))));
        assert!(tokens.next().is_none());
    }
}
