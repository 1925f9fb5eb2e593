//! A conversation over a session: only what is new is computed.
//!
//! For the next turn the messages are rendered again; as far as the text is what it was, the tokens are kept, those that the
//! model made among them, and the rest is encoded. Where the text differs (a message taken back, a template that shortens
//! earlier answers), the whole text is encoded. Which of the tokens need not be computed again is the engine's business.
//!
//! When the context is full, [`Overflow`] decides: an error, or the oldest turns are left out and the text goes on after
//! the rest, which the reply says. Nothing is ever left out silently.
//!
//! A conversation owns its session and its encoder: it can stand in a struct beside its model, and be sent to other threads.

use std::time::Duration;

use bitnetc_runtime::machine::KeepGoing;
use bitnetc_runtime::sampling::Sampler;
use serde_json::{Map, Value};

use super::{ChatEncoder, ChatError, Message, RenderInput, Rendered, Role};
use crate::constraint::Constraint;
use crate::engine::{Completion, EngineError, GenerateOptions, Request, Stop, Text};
use crate::error::Error;
use crate::model::{Settings, TextSession};

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
pub struct Conversation {
    session: TextSession,
    encoder: ChatEncoder,
    options: ConversationOptions,
    messages: Vec<Message>,
    known: KnownTokens,
    last: TurnStats,
    keep_going: KeepGoing,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation")
            .field("messages", &self.messages.len())
            .field("tokens", &self.known.tokens.len())
            .finish_non_exhaustive()
    }
}

/// The tokens of the latest turn, its answer included, and which texts they stand for.
#[derive(Debug, Default)]
struct KnownTokens {
    tokens: Vec<u32>,
    /// The turns whose texts are known, which they are not if an answer was cut off; the last one last.
    turns: Vec<Known>,
}

/// A turn, and what was before it.
#[derive(Debug)]
struct Known {
    prompt: Rendered,
    answer: String,
    /// This many of the tokens stand for it.
    tokens: usize,
}

impl Known {
    /// Where `rendered` goes on after this text, if it begins with it. White space at the ends of the answer may differ:
    /// templates take it off, and the tokens that the model made are kept nevertheless.
    fn end_in(&self, rendered: &Rendered) -> Option<usize> {
        let rest = rendered.text.strip_prefix(self.prompt.text.as_str())?;
        let after = rest.strip_prefix(self.answer.as_str()).or_else(|| {
            let answer = Some(self.answer.trim()).filter(|answer| !answer.is_empty())?;
            rest.trim_start().strip_prefix(answer)
        })?;
        let end = rendered.text.len() - after.len();
        let breaks = rendered.breaks.iter().take_while(|&&at| at <= end);
        (!after.is_empty() && breaks.eq(&self.prompt.breaks)).then_some(end)
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
#[derive(Debug)]
pub struct Reply {
    /// The text, also appended to the messages.
    pub text: String,
    /// Tokens, reasons and times.
    pub generated: Completion,
    /// Figures of the turn.
    pub stats: TurnStats,
}

/// A turn in the making.
#[derive(Debug)]
struct Turn {
    /// The messages that the model sees.
    messages: Vec<Message>,
    /// Messages that were left out.
    dropped: usize,
    rendered: Rendered,
    /// The tokens of `rendered`.
    prompt: Vec<u32>,
    /// Of these, tokens that are those of the latest turn.
    same: usize,
}

impl Conversation {
    /// An empty conversation.
    pub fn new(session: TextSession, encoder: ChatEncoder, options: ConversationOptions) -> Self {
        Self {
            session,
            encoder,
            options,
            messages: Vec::new(),
            known: KnownTokens::default(),
            last: TurnStats::default(),
            keep_going: KeepGoing::default(),
        }
    }

    /// What was said so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Replaces what was said. What the new messages begin with, as the old ones did, is not computed again.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// Appends a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Takes back the last question with everything after it; returns its text.
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
    pub fn session(&self) -> &TextSession {
        &self.session
    }

    /// Has `keep_going` asked between the steps of a turn, during its prompt too; when it says no, the answer ends with
    /// what there is of it.
    pub fn set_keep_going(&mut self, keep_going: impl Into<KeepGoing>) {
        self.keep_going = keep_going.into();
    }

    /// The tokens of the conversation as of the last turn, its prompt first.
    pub fn tokens(&self) -> &[u32] {
        &self.known.tokens
    }

    /// What makes prompts of the messages.
    pub fn encoder(&self) -> &ChatEncoder {
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
    /// What the template, the tokenizer, the session or the sampler refuses. Messages and sampler are then what they were.
    pub fn answer(
        &mut self,
        sampler: &mut Sampler,
        options: &GenerateOptions,
        constraint: Option<Box<dyn Constraint>>,
        mut emit: impl FnMut(&str) -> bool,
    ) -> Result<Reply, Error> {
        // A user who has said no is not asked again.
        let mut wanted = true;
        let mut emit = |piece: &str| {
            wanted = wanted && emit(piece);
            wanted
        };
        let mut turn = self.fit()?;
        // Should this turn fail, nothing is known of the tokens.
        let mut turns = std::mem::take(&mut self.known).turns;
        turns.retain(|known| known.tokens <= turn.same);
        let mut options = options.clone();
        options.stop = options.stop.with(self.encoder.stop().iter().map(String::as_str));
        let text = Text::new(sampler.clone(), options, constraint);

        let prompt_tokens = turn.prompt.len();
        let mut part = self.generate(turn.prompt.clone(), text, &mut emit)?;
        let reused_tokens = part.0.reused_tokens;
        while part.0.finish == Stop::ContextFull {
            let Some((shorter, prompt)) = self.make_room(&turn, part.1.tokens())? else { break };
            turn = shorter;
            turns.clear();
            part = self.generate(prompt, part.1, &mut emit)?;
        }
        let (mut generated, mut text) = part;
        // A text that filled the context has not been ended yet.
        if matches!(generated.finish, Stop::ContextFull | Stop::Interrupted) {
            let certain = text.text().len();
            generated.finish = text.end(generated.finish);
            if let Some(tail) = text.text().get(certain..).filter(|tail| !tail.is_empty()) {
                emit(tail);
                generated.tail.push_str(tail);
                generated.text.push_str(tail);
            }
        }
        (generated.prompt_tokens, generated.reused_tokens) = (prompt_tokens, reused_tokens);
        *sampler = text.into_sampler();
        Ok(self.close(turn, turns, generated))
    }

    /// Has a text go on after `prompt`; gives back its state too.
    fn generate(
        &mut self,
        prompt: Vec<u32>,
        text: Text,
        emit: &mut impl FnMut(&str) -> bool,
    ) -> Result<(Completion, Text), Error> {
        let request = Request::resume(prompt, text).with_state();
        let keep_going = &self.keep_going;
        let mut completion = self.session.follow(request, || keep_going.ask(), emit)?;
        let state = completion.state.take().ok_or(EngineError::Stopped)?;
        Ok((completion, *state))
    }

    /// The next turn, with as many of the messages as fit.
    fn fit(&self) -> Result<Turn, Error> {
        let mut messages = self.messages.clone();
        loop {
            let rendered = render(&self.encoder, &self.options, &messages)?;
            let prompt = self.known.encode(&self.encoder, &rendered)?;
            let (tokens, context) = (prompt.len(), self.session.context());
            // There has to be room for the answer's first token to be fed.
            if tokens < context as usize {
                let same = self.known.same(&prompt);
                let dropped = self.messages.len() - messages.len();
                return Ok(Turn { messages, dropped, rendered, prompt, same });
            }
            let shorter = match self.options.overflow {
                Overflow::DropOldest => drop_oldest(&messages),
                Overflow::Refuse => None,
            };
            messages = shorter.ok_or(ChatError::ContextFull { tokens, context })?;
        }
    }

    /// A turn whose answer has filled the context, without as many of its oldest messages as leave half of it free, and the
    /// tokens that the answer goes on after: those of the messages, and `made`, those of the answer. `None` if nothing helps,
    /// or is to be left out.
    fn make_room(&self, turn: &Turn, made: &[u32]) -> Result<Option<(Turn, Vec<u32>)>, Error> {
        if self.options.overflow == Overflow::Refuse {
            return Ok(None);
        }
        let context = self.session.context() as usize;
        let mut fitting = None;
        let mut shorter = drop_oldest(&turn.messages);
        while let Some(messages) = shorter {
            shorter = drop_oldest(&messages);
            let rendered = render(&self.encoder, &self.options, &messages)?;
            let prompt = self.encoder.encode(&rendered)?;
            let tokens = [&prompt, made].concat();
            let length = tokens.len();
            if length < context {
                let dropped = turn.dropped + turn.messages.len() - messages.len();
                fitting = Some((Turn { messages, dropped, rendered, prompt, same: 0 }, tokens));
            }
            if length <= context / 2 {
                break;
            }
        }
        Ok(fitting)
    }

    /// Takes note of an answer.
    fn close(&mut self, turn: Turn, mut turns: Vec<Known>, generated: Completion) -> Reply {
        let Turn { messages, dropped, rendered, prompt, .. } = turn;
        let tokenizer = self.encoder.tokenizer();
        let tokens = [prompt, generated.tokens.clone()].concat();
        let pieces = generated.tokens.iter().flat_map(|&id| tokenizer.piece(id, false));
        // Not if a stop string or a broken character was left out.
        if pieces.eq(generated.text.as_bytes()) {
            turns.push(Known { prompt: rendered, answer: generated.text.clone(), tokens: tokens.len() });
        }
        self.known = KnownTokens { tokens, turns };
        let stats = TurnStats {
            prompt_tokens: generated.prompt_tokens,
            reused_tokens: generated.reused_tokens,
            answer_tokens: generated.tokens.len(),
            dropped_messages: dropped,
            prompt_time: generated.timings.prompt,
            answer_time: generated.timings.decode + generated.timings.sample,
        };
        self.last = stats;
        if dropped > 0 {
            self.messages = messages;
        }
        let text = generated.text.clone();
        if !(text.is_empty() && generated.finish == Stop::Interrupted) {
            self.messages.push(Message::new(Role::assistant(), text.as_str()));
        }
        Reply { text, generated, stats }
    }
}

fn render(
    encoder: &ChatEncoder,
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

impl KnownTokens {
    /// The tokens of a text. Cutting the text at the end of a turn may give other tokens than encoding it whole; the
    /// model's own are kept.
    fn encode(&self, encoder: &ChatEncoder, rendered: &Rendered) -> Result<Vec<u32>, Error> {
        let known = self.turns.iter().rev().find_map(|turn| Some((turn.end_in(rendered)?, turn.tokens)));
        let Some((at, known)) = known else { return encoder.encode(rendered) };
        let breaks: Vec<usize> =
            rendered.breaks.iter().filter(|&&place| place >= at).map(|place| place - at).collect();
        let mut tokens = self.tokens[..known.min(self.tokens.len())].to_vec();
        tokens.extend(encoder.tokenizer().encode_template(&rendered.text[at..], &breaks, false)?);
        Ok(tokens)
    }

    /// How many tokens of a prompt are these.
    fn same(&self, prompt: &[u32]) -> usize {
        prompt.iter().zip(&self.tokens).take_while(|(a, b)| a == b).count()
    }
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
    fn a_text_goes_on_after_the_answer_whatever_white_space_it_has() {
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
