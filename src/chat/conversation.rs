//! A conversation over a session: only what is new is fed.
//!
//! The session's cache holds the tokens of the conversation so far. For the next turn the messages are rendered again;
//! as far as the text is what it was, the tokens stay, those that the model made among them, and the rest is fed. Where
//! the text differs (a message taken back, a template that shortens earlier answers), tokens are compared instead.
//!
//! When the context is full, [`Overflow`] decides: an error, or the oldest turns are left out and the rest is fed anew,
//! which the reply says. Nothing is ever left out silently.

use std::time::Duration;

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::Sampler;
use bitnetc_runtime::session::Session;
use serde_json::{Map, Value};

use super::{ChatEncoder, ChatError, Message, RenderInput, Rendered, Role};
use crate::constraint::Constraint;
use crate::error::Error;
use crate::generate::{Extras, GenerateOptions, Generated, Stop, generate_with};
use crate::model::Settings;

/// What to do when the conversation does not fit the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Refuse the turn, or end the answer.
    #[default]
    Refuse,
    /// Leave out the oldest turns; the system message and the last question stay.
    DropOldest,
}

/// What does not change from turn to turn.
#[derive(Debug, Clone, Default)]
pub struct ConversationOptions {
    /// What to do when the context is full.
    pub overflow: Overflow,
    /// Tools that the model may call.
    pub tools: Option<Vec<Value>>,
    /// Further variables for the template.
    pub variables: Map<String, Value>,
}

/// Messages, and the session that holds their tokens.
pub struct Conversation<'t> {
    session: Session,
    encoder: ChatEncoder<'t>,
    options: ConversationOptions,
    messages: Vec<Message>,
    cached: Cached,
    last: TurnStats,
}

impl std::fmt::Debug for Conversation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation")
            .field("messages", &self.messages.len())
            .field("cached", &self.cached.tokens.len())
            .finish_non_exhaustive()
    }
}

/// What was fed to the session and made by it. The session has these tokens but for the last ones, which need not have
/// been fed yet.
#[derive(Debug, Default)]
struct Cached {
    tokens: Vec<u32>,
    /// The turns whose texts are known, which they are not if an answer was cut off; the last one last.
    turns: Vec<Known>,
}

/// A turn, and what was before it.
#[derive(Debug)]
struct Known {
    prompt: Rendered,
    answer: String,
    /// The first so many tokens of the cache stand for it.
    tokens: usize,
}

impl Known {
    /// Where `rendered` goes on behind this text, if it begins with it. White space at the ends of the answer may differ:
    /// templates take it off, and the tokens that the model made are kept nevertheless.
    fn end_in(&self, rendered: &Rendered) -> Option<usize> {
        let rest = rendered.text.strip_prefix(self.prompt.text.as_str())?;
        let behind = rest.strip_prefix(self.answer.as_str()).or_else(|| {
            let answer = Some(self.answer.trim()).filter(|answer| !answer.is_empty())?;
            rest.trim_start().strip_prefix(answer)
        })?;
        let end = rendered.text.len() - behind.len();
        let breaks = rendered.breaks.iter().take_while(|&&at| at <= end);
        (!behind.is_empty() && breaks.eq(&self.prompt.breaks)).then_some(end)
    }
}

/// Figures of the last turn.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TurnStats {
    /// Tokens of the prompt, the conversation so far included.
    pub prompt_tokens: usize,
    /// Of these, tokens that were in the cache and were not computed again.
    pub reused_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// Messages that were left out to make room.
    pub dropped_messages: usize,
    /// Time for the new tokens of the prompt.
    pub prompt_time: Duration,
    /// Time for the answer.
    pub answer_time: Duration,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The text, also appended to the messages.
    pub text: String,
    /// Tokens, reasons and times.
    pub generated: Generated,
    /// Figures of the turn.
    pub stats: TurnStats,
}

/// Tokens to feed behind those that stay.
struct Plan {
    keep: usize,
    tokens: Vec<u32>,
    rendered: Rendered,
    /// So many tokens are those of the cache; one more than are kept where the last one was not fed yet.
    same: usize,
}

impl<'t> Conversation<'t> {
    /// An empty conversation; whatever is in the session is forgotten.
    pub fn new(mut session: Session, encoder: ChatEncoder<'t>, options: ConversationOptions) -> Self {
        session.truncate(0);
        Self {
            session,
            encoder,
            options,
            messages: Vec::new(),
            cached: Cached::default(),
            last: TurnStats::default(),
        }
    }

    /// What was said so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Replaces what was said. What the new messages begin like stays in the cache.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// Appends a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Takes back the last question with everything behind it; returns its text.
    pub fn undo(&mut self) -> Option<String> {
        let at = self.messages.iter().rposition(|message| message.role == Role::user())?;
        let question = self.messages.split_off(at).into_iter().next()?;
        question.content
    }

    /// Takes back what follows the last question; says whether there is a question.
    pub fn take_back_answer(&mut self) -> bool {
        match self.messages.iter().rposition(|message| message.role == Role::user()) {
            Some(at) => {
                self.messages.truncate(at + 1);
                true
            }
            None => false,
        }
    }

    /// Forgets everything but the system message; with an argument, that is replaced by it (or, if empty, removed).
    pub fn reset(&mut self, system: Option<&str>) {
        let is_system = |message: &Message| message.role == Role::system();
        let old = self.messages.first().filter(|message| is_system(message)).cloned();
        self.messages.clear();
        match system {
            None => self.messages.extend(old),
            Some("") => {}
            Some(text) => self.messages.push(Message::new(Role::system(), text)),
        }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to set what it asks during a prompt.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The tokens of the conversation as of the last turn, its prompt first.
    pub fn tokens(&self) -> &[u32] {
        &self.cached.tokens
    }

    /// What makes prompts of the messages.
    pub fn encoder(&self) -> &ChatEncoder<'t> {
        &self.encoder
    }

    /// Figures of the last turn.
    pub fn last_turn(&self) -> &TurnStats {
        &self.last
    }

    /// The text that the model is given for the next answer.
    ///
    /// # Errors
    /// What the template refuses.
    pub fn prompt(&self) -> Result<Rendered, ChatError> {
        render(&self.encoder, &self.options, &self.messages)
    }

    /// Asks a question: appends it, and the answer. The text is handed out as it is made, and the answer is stopped where
    /// `emit` returns false. A question that cannot be answered is taken back.
    ///
    /// # Errors
    /// As [`Conversation::answer`], and settings out of range.
    pub fn ask(
        &mut self,
        question: &str,
        settings: &Settings,
        emit: impl FnMut(&str) -> bool,
    ) -> Result<Reply, Error> {
        let mut sampler = Sampler::new(settings.sampling.clone())?;
        self.push(Message::new(Role::user(), question));
        let reply = self.answer(&mut sampler, &settings.options(), None, emit);
        if reply.is_err() {
            self.undo();
        }
        reply
    }

    /// Answers the messages so far and appends the answer to them, unless there is no text at all and it was interrupted.
    /// `emit` is given text as it is made and stops the answer by returning false. The answer also ends at the strings of
    /// [`ChatEncoder::stop`].
    ///
    /// # Errors
    /// What the template, the tokenizer, the session or the sampler refuses. The messages are then what they were.
    pub fn answer(
        &mut self,
        sampler: &mut Sampler,
        options: &GenerateOptions,
        constraint: Option<&mut (dyn Constraint + '_)>,
        mut emit: impl FnMut(&str) -> bool,
    ) -> Result<Reply, Error> {
        let mut dropped = 0;
        let mut messages = self.messages.clone();
        let plan = loop {
            let rendered = render(&self.encoder, &self.options, &messages)?;
            let plan = plan(&self.encoder, &self.cached, self.session.position() as usize, rendered, &[])?;
            let tokens = plan.keep + plan.tokens.len();
            // There has to be room for the answer's first token to be fed.
            if tokens < self.session.context() as usize {
                break plan;
            }
            let shorter = match self.options.overflow {
                Overflow::DropOldest => drop_oldest(&messages),
                Overflow::Refuse => None,
            };
            let context = self.session.context();
            let shorter = shorter.ok_or(ChatError::ContextFull { tokens, context })?;
            dropped += messages.len() - shorter.len();
            messages = shorter;
        };
        self.session.truncate(plan.keep as u32);
        self.cached.tokens.truncate(plan.keep);
        sampler.forget_recent();
        let remembered = self.cached.tokens.len().saturating_sub(sampler.params().repeat_last_n);
        self.cached.tokens[remembered..].iter().for_each(|&token| sampler.accept(token));

        let mut stats = TurnStats {
            prompt_tokens: plan.keep + plan.tokens.len(),
            reused_tokens: plan.keep,
            ..TurnStats::default()
        };
        let mut fed = self.cached.tokens.clone();
        fed.extend_from_slice(&plan.tokens);
        // Should this turn fail, nothing is known of the cache.
        let mut turns = std::mem::take(&mut self.cached).turns;
        turns.retain(|turn| turn.tokens <= plan.same);
        let mut base = plan.rendered;
        let mut text = String::new();
        let (encoder, conversation) = (&self.encoder, &self.options);
        let mut options = options.clone();
        options.stop.extend_from_slice(encoder.stop());
        let mut make_room = |session: &mut Session, made: &[u32]| -> Result<Option<Vec<u32>>, Error> {
            // The messages are shortened until half of the context is free.
            let mut plan = None;
            while let Some(shorter) = drop_oldest(&messages) {
                dropped += messages.len() - shorter.len();
                messages = shorter;
                let rendered = render(encoder, conversation, &messages)?;
                let next = self::plan(encoder, &Cached::default(), 0, rendered, made)?;
                let fits = next.tokens.len() < session.context() as usize;
                let roomy = next.tokens.len() <= session.context() as usize / 2;
                plan = Some(next).filter(|_| fits);
                if roomy {
                    break;
                }
            }
            let Some(plan) = plan else { return Ok(None) };
            let same = fed.iter().zip(&plan.tokens).take_while(|(a, b)| a == b).count();
            let keep = same.min(session.position() as usize).min(plan.tokens.len() - 1);
            session.truncate(keep as u32);
            // What was made stands behind the prompt; `fed` is the prompt alone.
            fed.clone_from(&plan.tokens);
            fed.truncate(plan.tokens.len() - made.len());
            turns.clear();
            base = plan.rendered;
            Ok(Some(plan.tokens[keep..].to_vec()))
        };
        let extras = Extras {
            constraint,
            make_room: match self.options.overflow {
                Overflow::DropOldest => Some(&mut make_room),
                Overflow::Refuse => None,
            },
        };
        let tokenizer = encoder.tokenizer();
        let result =
            generate_with(&mut self.session, tokenizer, sampler, &plan.tokens, &options, extras, |piece| {
                text.push_str(piece);
                emit(piece)
            });
        let generated = match result {
            Ok(generated) => generated,
            Err(Error::Session(SessionError::Interrupted)) => {
                fed.truncate(self.session.position() as usize);
                turns.retain(|turn| turn.tokens <= fed.len());
                self.cached = Cached { tokens: fed, turns };
                let generated = Generated::nothing(stats.prompt_tokens, Stop::Interrupted);
                return Ok(Reply { text, generated, stats });
            }
            Err(error) => {
                // The session may hold anything; start over at the next turn.
                self.session.truncate(0);
                return Err(error);
            }
        };
        fed.extend_from_slice(&generated.tokens);
        let pieces: Vec<u8> =
            generated.tokens.iter().flat_map(|&id| tokenizer.piece(id, false)).copied().collect();
        // Not if a stop string or a broken character was left out.
        let complete = pieces == text.as_bytes();
        if complete {
            turns.push(Known { prompt: base, answer: text.clone(), tokens: fed.len() });
        }
        self.cached = Cached { tokens: fed, turns };
        stats.answer_tokens = generated.tokens.len();
        stats.dropped_messages = dropped;
        stats.prompt_time = generated.prompt_time;
        stats.answer_time = generated.decode_time + generated.sample_time;
        self.last = stats;
        if dropped > 0 {
            self.messages = messages;
        }
        if !(text.is_empty() && generated.stop == Stop::Interrupted) {
            self.messages.push(Message::new(Role::assistant(), text.as_str()));
        }
        Ok(Reply { text, generated, stats })
    }
}

fn render(
    encoder: &ChatEncoder<'_>,
    options: &ConversationOptions,
    messages: &[Message],
) -> Result<Rendered, ChatError> {
    let input = RenderInput {
        messages,
        tools: options.tools.as_deref(),
        add_generation_prompt: true,
        variables: options.variables.clone(),
    };
    encoder.render(&input)
}

/// The tokens of a text, with `made` behind them: how many of the `position` tokens of the session stay, and which to
/// feed, which is at least one.
fn plan(
    encoder: &ChatEncoder<'_>,
    cached: &Cached,
    position: usize,
    rendered: Rendered,
    made: &[u32],
) -> Result<Plan, Error> {
    let known = cached.turns.iter().rev().find_map(|turn| Some((turn.end_in(&rendered)?, turn.tokens)));
    let mut tokens = match known {
        // Cutting the text here may give other tokens than encoding it whole; the model's own are kept.
        Some((at, known)) => {
            let behind: Vec<usize> =
                rendered.breaks.iter().filter(|&&place| place > at).map(|place| place - at).collect();
            let mut tokens = cached.tokens[..known.min(cached.tokens.len())].to_vec();
            tokens.extend(encoder.tokenizer().encode_template(&rendered.text[at..], &behind, false)?);
            tokens
        }
        None => encoder.encode(&rendered)?,
    };
    tokens.extend_from_slice(made);
    let same = tokens.iter().zip(&cached.tokens).take_while(|(a, b)| a == b).count();
    let keep = same.min(position).min(tokens.len().saturating_sub(1));
    Ok(Plan { keep, tokens: tokens.split_off(keep), rendered, same })
}

/// The messages without the oldest question and what follows it; `None` if only one question is left.
fn drop_oldest(messages: &[Message]) -> Option<Vec<Message>> {
    let mut questions = messages.iter().enumerate().filter(|(_, m)| m.role == Role::user()).map(|(at, _)| at);
    let (first, second) = (questions.next()?, questions.next()?);
    let kept = messages[..first].iter().chain(&messages[second..]);
    Some(kept.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_on_behind_the_answer_whatever_white_space_it_has() {
        let rendered =
            |text: &str, breaks: &[usize]| Rendered { text: text.to_owned(), breaks: breaks.to_vec() };
        let known =
            |answer: &str| Known { prompt: rendered("U: x\nA:", &[2]), answer: answer.to_owned(), tokens: 0 };
        for (answer, text, expected) in [
            ("yes", "U: x\nA:yes\nU:", Some(10)),
            ("  yes\n", "U: x\nA: yes\nU:", Some(11)),
            ("  yes\n", "U: x\nA:  yes\n\nU:", Some(13)),
            ("yes", "U: x\nA: no\nU:", None),
            ("yes", "U: y\nA: yes\nU:", None),
            // Nothing follows: the same question once more.
            ("yes", "U: x\nA:yes", None),
            (" ", "U: x\nA:\nU:", None),
            ("", "U: x\nA:\nU:", Some(7)),
        ] {
            assert_eq!(known(answer).end_in(&rendered(text, &[2, 90])), expected, "{answer:?} {text:?}");
            assert_eq!(known(answer).end_in(&rendered(text, &[3])), None);
        }
    }
}
