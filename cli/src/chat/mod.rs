//! `bitnetc chat`: a conversation in a terminal, or through pipes.

mod args;
mod commands;
mod input;

use std::path::Path;
use std::time::Duration;

use bitnetc::chat::{Conversation, ConversationOptions, Message, Overflow, Reply, Role, Transcript};
use bitnetc::engine::{EngineOptions, Stop};
use bitnetc::{GrammarSource, Model};
use bitnetc_runtime::sampling::Sampler;

pub(crate) use args::{ChatArgs, PromptArgs, SystemArgs, TemplateArgs};
use commands::{Command, HELP, Settings};
use input::{Input, Line};

use super::failure::Failure;
use super::generate::{LengthArgs, Opened};
use super::interrupt::Patience;
use super::sampling::constraint;
use super::timings::Timings;
use super::{Outcome, interrupt, output};
use crate::exit;

/// Runs the command.
pub(crate) fn run(args: &ChatArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    converse(args.generate.open(args.model.name()?, quiet)?, args, quiet)
}

/// Talks with an opened model.
pub(crate) fn converse(opened: Opened, args: &ChatArgs, quiet: bool) -> Outcome {
    let asked = &args.generate;
    let first = asked.escapes.optional("--prompt", args.prompt.as_deref())?;
    let system = asked.chat.system.text(asked.escapes)?;
    let encoder = asked.chat.template.encoder(opened.model.loaded(), quiet)?;
    let form = asked.grammar.checked(&opened.model)?;
    let context = opened.context(asked.length.ctx_size);
    let options = EngineOptions::single(context, asked.engine.build.threads());
    let session = opened.model.session_with(options)?;
    let load_time = opened.begun.elapsed();
    opened.announce_seed(quiet);
    let conversation_options = ConversationOptions {
        overflow: if args.context_shift { Overflow::DropOldest } else { Overflow::Refuse },
        ..ConversationOptions::default()
    };
    let mut conversation = Conversation::new(session, encoder, conversation_options);
    conversation.set_keep_going(|| !interrupt::requested());
    conversation.reset(system.as_deref());
    let settings = Settings { params: opened.params, n_predict: asked.length.n_predict };
    let mut chat = Chat {
        args,
        model: opened.model,
        form,
        sampler: Sampler::new(settings.params.clone())?,
        settings,
        load_time,
        conversation,
        quiet,
    };
    if let Some(path) = &args.load {
        chat.load(path)?;
    }
    let mut input = Input::open(!args.no_history)?;
    let outcome = chat.talk(first, &mut input);
    input.close();
    outcome
}

/// `1 message`, `2 messages`.
fn messages(n: usize) -> String {
    output::count(n as u64, "message")
}

/// A running chat.
struct Chat<'a> {
    args: &'a ChatArgs,
    model: Model,
    /// What answers have to follow.
    form: Option<GrammarSource>,
    settings: Settings,
    sampler: Sampler,
    load_time: Duration,
    conversation: Conversation,
    quiet: bool,
}

impl Chat<'_> {
    fn talk(&mut self, first: Option<String>, input: &mut Input) -> Outcome {
        if let Some(first) = first {
            self.ask(first)?;
            if self.args.single_turn {
                return Ok(exit::OK);
            }
        }
        let at_terminal = input.is_terminal();
        if at_terminal {
            output::say(self.quiet, "Type a message, or /help for the commands.");
        }
        let mut interrupted = false;
        loop {
            match input.read()? {
                Line::End => return Ok(exit::OK),
                Line::Interrupt if interrupted => return Ok(exit::INTERRUPTED),
                Line::Interrupt => {
                    interrupted = true;
                    output::say(false, "(Ctrl-C again, or /exit, leaves)");
                    continue;
                }
                Line::Text(line) if line.trim().is_empty() => {}
                Line::Text(line) => match commands::parse(&line) {
                    None => {
                        let text =
                            line.strip_prefix('/').filter(|rest| rest.starts_with('/')).unwrap_or(&line);
                        self.checked(at_terminal, |chat| chat.ask(text.to_owned()))?;
                    }
                    Some(Ok(Command::Exit)) => return Ok(exit::OK),
                    Some(Ok(command)) => self.checked(at_terminal, |chat| chat.obey(command))?,
                    Some(Err(why)) => {
                        self.checked(at_terminal, |_| Err(Failure::new(exit::FAILURE, why)))?;
                    }
                },
            }
            interrupted = false;
        }
    }

    /// At a terminal a failure is shown and the chat goes on; in a script it ends.
    fn checked(
        &mut self,
        at_terminal: bool,
        work: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match work(self) {
            Err(failure) if at_terminal && !failure.is_quiet() => {
                failure.show();
                Ok(())
            }
            result => result,
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Help => output::say(false, HELP.trim_end()),
            Command::Reset => self.conversation.reset(None),
            Command::System(None) => {
                let messages = self.conversation.messages();
                let system = messages.first().filter(|message| message.role == Role::system());
                let text = system.and_then(|message| message.content.as_deref());
                output::say(false, text.unwrap_or("(there is no system message)"));
            }
            Command::System(Some(text)) => {
                self.conversation.reset(Some(if text == "none" { "" } else { &text }));
            }
            Command::Save(path) => {
                let transcript = Transcript::new(&self.model.loaded().name, self.conversation.messages());
                transcript.save(&path).map_err(bitnetc::Error::from)?;
                output::say(self.quiet, format!("saved {}", messages(transcript.messages.len())));
            }
            Command::Load(path) => self.load(&path)?,
            Command::Retry => match self.conversation.take_back_answer() {
                true => self.answer()?,
                false => return Err(Failure::new(exit::FAILURE, "there is no question yet")),
            },
            Command::Undo => match self.conversation.undo() {
                Some(text) => output::say(self.quiet, format!("took back: {text}")),
                None => return Err(Failure::new(exit::FAILURE, "there is no question yet")),
            },
            Command::Set(None) => output::say(false, self.settings.show().trim_end()),
            Command::Set(Some((name, value))) => {
                let wrong = |why| Failure::new(exit::USAGE, format!("/set: {why}"));
                self.settings = self.settings.with(&name, &value).map_err(wrong)?;
                self.sampler = Sampler::new(self.settings.params.clone())?;
            }
            Command::Stats => output::say(false, self.stats()),
            Command::Exit => {}
        }
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<(), Failure> {
        let transcript = Transcript::load(path).map_err(bitnetc::Error::from)?;
        output::say(self.quiet, format!("loaded {}", messages(transcript.messages.len())));
        self.conversation.set_messages(transcript.messages);
        Ok(())
    }

    fn ask(&mut self, text: String) -> Result<(), Failure> {
        self.conversation.push(Message::new(Role::user(), text));
        let result = self.answer();
        if result.is_err() {
            // The question that cannot be answered is not part of the conversation.
            self.conversation.undo();
        }
        result
    }

    /// Answers the last question.
    fn answer(&mut self) -> Result<(), Failure> {
        interrupt::clear();
        // The conversation is worth a moment's wait for the end of a step.
        let _patience = Patience::new();
        let asked = &self.args.generate;
        if asked.chat.show_prompt {
            let prompt = self.conversation.prompt().map_err(bitnetc::Error::from)?;
            self.args.generate.text.say(&prompt.text);
        }
        let length = LengthArgs { n_predict: self.settings.n_predict, ..asked.length };
        let options = asked.sampling.options(&length, asked.escapes)?;
        let constraint = constraint(&self.model, self.form.as_ref())?;
        let streaming = !asked.json;
        let mut broken = None;
        let reply = self.conversation.answer(&mut self.sampler, &options, constraint, |piece| {
            if streaming && let Err(failure) = self.args.generate.text.print(piece) {
                broken = Some(failure);
                return false;
            }
            !interrupt::requested()
        })?;
        if let Some(failure) = broken {
            return Err(failure);
        }
        if streaming {
            output::print("\n")?;
        } else {
            output::print(&format!("{}\n", self.json(&reply)))?;
        }
        if self.args.generate.perf {
            output::say(false, self.timings(&reply).text());
        }
        if reply.generated.finish == Stop::Interrupted && reply.text.is_empty() {
            self.conversation.undo();
        }
        if reply.stats.dropped_messages > 0 {
            let n = reply.stats.dropped_messages;
            output::say(false, format!("the context is full: dropped the oldest {}", messages(n)));
        }
        if reply.generated.finish == Stop::ContextFull {
            let context = self.conversation.session().context();
            let remedy = match self.args.context_shift {
                true => "-c enlarges it",
                false => "--context-shift continues",
            };
            output::say(
                false,
                format!(
                    "the context of {} is full: /reset starts a new conversation, {remedy}",
                    output::count(u64::from(context), "token")
                ),
            );
        }
        interrupt::clear();
        Ok(())
    }

    fn timings<'r>(&'r self, reply: &'r Reply) -> Timings<'r> {
        Timings { load: self.load_time, result: &reply.generated, session: self.conversation.session() }
    }

    fn json(&self, reply: &Reply) -> serde_json::Value {
        let stats = &reply.stats;
        let timings = self.timings(reply);
        serde_json::json!({
            "schema": "bitnetc.chat-turn/1",
            "text": reply.text,
            "stop": reply.generated.finish.name(),
            "prompt_tokens": stats.prompt_tokens,
            "reused_tokens": stats.reused_tokens,
            "answer_tokens": stats.answer_tokens,
            "dropped_messages": stats.dropped_messages,
            "timings": timings.json(),
            "memory": timings.memory_json(),
        })
    }

    fn stats(&self) -> String {
        let stats = self.conversation.last_turn();
        let rate = |tokens: usize, time: Duration| {
            if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
        };
        let new = stats.prompt_tokens - stats.reused_tokens;
        let session = self.conversation.session();
        format!(
            "context: {} of {}, {}\n\
             last prompt: {}, {} of them from the cache, {new} computed ({:.1} tokens per second)\n\
             last answer: {} ({:.1} tokens per second)\n\
             memory: {} planned{}",
            session.position(),
            output::count(u64::from(session.context()), "token"),
            messages(self.conversation.messages().len()),
            output::count(stats.prompt_tokens as u64, "token"),
            stats.reused_tokens,
            rate(new, stats.prompt_time),
            output::count(stats.answer_tokens as u64, "token"),
            rate(stats.answer_tokens, stats.answer_time),
            output::bytes(session.memory().total()),
            output::peak_rss().map_or(String::new(), |rss| format!(", peak RSS {}", output::bytes(rss))),
        )
    }
}
