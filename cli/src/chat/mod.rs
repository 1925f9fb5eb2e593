//! `bitnetc chat`: a conversation in a terminal, or through pipes.

mod args;
mod commands;
mod complete;
mod edit;
mod input;
mod report;
mod screen;

use std::path::Path;
use std::time::{Duration, Instant};

use bitnetc::chat::{
    ChatError, Conversation, ConversationOptions, Message, Overflow, Reply, Role, Transcript,
};
use bitnetc::engine::{EngineOptions, Stop};
use bitnetc::{Error, GrammarSource, Model};
use bitnetc_runtime::sampling::Sampler;

pub(crate) use args::{ChatArgs, PromptArgs, SystemArgs, TemplateArgs};
use commands::{Command, Settings};
use input::{Input, Line};
use report::messages;
use screen::Screen;

use super::failure::Failure;
use super::generate::{LengthArgs, Opened};
use super::interrupt::Patience;
use super::sampling::{check_biases, constraint};
use super::style::{self, Style};
use super::terminal::visible;
use super::timings::Timings;
use super::{Outcome, hint, interrupt, models, output, run};
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
    let form = asked.grammar.checked(&opened.model)?;
    let mut conversation = conversation(args, &opened.model, quiet)?;
    let load_time = opened.begun.elapsed();
    opened.announce_seed(quiet);
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
        told_of_shift: false,
        quiet,
    };
    if let Some(path) = &args.load {
        chat.load(path)?;
    }
    let mut input = Input::open(!args.no_history, models::names())?;
    let outcome = chat.talk(first, &mut input);
    input.close();
    outcome
}

/// An empty conversation with a model, as the options want it.
fn conversation(args: &ChatArgs, model: &Model, quiet: bool) -> Result<Conversation, Failure> {
    let asked = &args.generate;
    let encoder = asked.chat.template.encoder(model.loaded(), quiet)?;
    let context = match asked.length.ctx_size {
        0 => model.loaded().default_context(),
        n => n,
    };
    let session = model.session_with(EngineOptions::single(context, asked.engine.build.threads()))?;
    let overflow = if args.shifts() { Overflow::DropOldest } else { Overflow::Refuse };
    let variables = asked.chat.think.variables();
    let options = ConversationOptions { overflow, variables, ..ConversationOptions::default() };
    let mut conversation = Conversation::new(session, encoder, options);
    conversation.set_keep_going(|| !interrupt::requested());
    Ok(conversation)
}

/// A remark on stderr, in the colour of remarks.
fn note(quiet: bool, text: &str) {
    let text = visible(text);
    output::say_as_is(quiet, Style::Note.paint(&text, style::colours(&std::io::stderr())));
}

fn no_question() -> Failure {
    Failure::new(exit::FAILURE, "there is no question yet")
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
    /// Whether it was reported that old turns are dropped.
    told_of_shift: bool,
    quiet: bool,
}

impl Chat<'_> {
    fn talk(&mut self, first: Option<String>, input: &mut Input) -> Outcome {
        let at_terminal = input.is_terminal();
        if at_terminal && !self.args.single_turn {
            note(self.quiet, &report::greeting(&self.model.loaded().name));
        }
        if let Some(first) = first {
            let stop = self.ask(first)?;
            if self.args.single_turn {
                return Ok(if stop == Stop::Interrupted { exit::INTERRUPTED } else { exit::OK });
            }
        }
        let mut interrupted = false;
        loop {
            match input.read()? {
                Line::End => return Ok(exit::OK),
                Line::Interrupt if interrupted => return Ok(exit::INTERRUPTED),
                Line::Interrupt => {
                    interrupted = true;
                    note(false, "(Ctrl-C again, or /exit, leaves)");
                    continue;
                }
                Line::Text(line) if line.trim().is_empty() => {}
                Line::Text(line) => match commands::parse(&line) {
                    None => {
                        let text =
                            line.strip_prefix('/').filter(|rest| rest.starts_with('/')).unwrap_or(&line);
                        self.checked(at_terminal, |chat| chat.ask(text.to_owned()).map(drop))?;
                    }
                    Some(Ok(Command::Exit)) => return Ok(exit::OK),
                    Some(Ok(command)) => self.checked(at_terminal, |chat| chat.obey(command, input))?,
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
                // What Ctrl-C was pressed for has stopped.
                interrupt::clear();
                failure.show();
                Ok(())
            }
            result => result,
        }
    }

    fn obey(&mut self, command: Command, input: &mut Input) -> Result<(), Failure> {
        match command {
            Command::Help => output::say(false, commands::help()),
            Command::Reset => self.reset(None),
            Command::System(None) => {
                let messages = self.conversation.messages();
                let system = messages.first().filter(|message| message.role == Role::system());
                let text = system.and_then(|message| message.content.as_deref());
                output::say(false, text.unwrap_or("(there is no system message)"));
            }
            Command::System(Some(text)) => self.reset(Some(if text == "none" { "" } else { &text })),
            Command::Save(path) => {
                let transcript = Transcript::new(&self.model.loaded().name, self.conversation.messages());
                transcript.save(&path).map_err(Error::from)?;
                note(self.quiet, &format!("saved {}", messages(transcript.messages.len())));
            }
            Command::Load(path) => self.load(&path)?,
            Command::Retry => match self.conversation.take_back_answer() {
                true => drop(self.answer()?),
                false => return Err(no_question()),
            },
            Command::Undo => match self.conversation.undo() {
                Some(text) => note(self.quiet, &format!("took back: {text}")),
                None => return Err(no_question()),
            },
            Command::Edit(text) => self.edit(text, input)?,
            Command::Set(None) => output::say(false, self.settings.show().trim_end()),
            Command::Set(Some((name, value))) => {
                let wrong = |why| Failure::new(exit::USAGE, format!("/set: {why}"));
                self.settings = self.settings.with(&name, &value).map_err(wrong)?;
                self.sampler = Sampler::new(self.settings.params.clone())?;
            }
            Command::Model(None) => output::say(false, &self.model.loaded().name),
            Command::Model(Some(name)) => self.switch(Path::new(&name))?,
            Command::Stats => output::say(false, report::stats(&self.conversation)),
            Command::Exit => {}
        }
        Ok(())
    }

    fn reset(&mut self, system: Option<&str>) {
        self.conversation.reset(system);
        self.told_of_shift = false;
    }

    fn load(&mut self, path: &Path) -> Result<(), Failure> {
        let transcript = Transcript::load(path).map_err(Error::from)?;
        note(self.quiet, &format!("loaded {}", messages(transcript.messages.len())));
        self.conversation.set_messages(transcript.messages);
        Ok(())
    }

    /// Continues the conversation with a different model; settings and messages stay. A model that cannot be opened changes
    /// nothing.
    fn switch(&mut self, name: &Path) -> Result<(), Failure> {
        let asked = &self.args.generate;
        let begun = Instant::now();
        // The conversation would be lost with the process.
        let _patience = Patience::new();
        let model = Model::from(models::open(Some(name), &asked.engine.load_options()?, self.quiet)?);
        run::announce(model.loaded(), true, self.quiet);
        check_biases(&self.settings.params, model.loaded().model.vocab())?;
        let form = asked.grammar.checked(&model)?;
        let mut conversation = conversation(self.args, &model, self.quiet)?;
        conversation.set_messages(self.conversation.messages().to_vec());
        self.sampler = Sampler::new(self.settings.params.clone())?;
        (self.model, self.form, self.conversation) = (model, form, conversation);
        self.load_time = begun.elapsed();
        note(self.quiet, &format!("using {}", self.model.loaded().name));
        Ok(())
    }

    /// Asks the last question again as `text`, or as it is changed in an editor.
    fn edit(&mut self, text: Option<String>, input: &mut Input) -> Result<(), Failure> {
        let before = self.conversation.messages().to_vec();
        let last = before.iter().rfind(|message| message.role == Role::user());
        let last = last.and_then(|message| message.content.as_deref()).ok_or_else(no_question)?;
        let text = match text {
            Some(text) => Some(text),
            None => edit::edited(last, input)?,
        };
        let Some(text) = text else {
            note(self.quiet, "the message is unchanged");
            return Ok(());
        };
        self.conversation.undo();
        let result = self.ask(text);
        if result.is_err() {
            self.conversation.set_messages(before);
        }
        result.map(drop)
    }

    fn ask(&mut self, text: String) -> Result<Stop, Failure> {
        self.conversation.push(Message::new(Role::user(), text));
        let result = self.answer();
        if result.is_err() {
            // The question that cannot be answered is not part of the conversation.
            self.conversation.undo();
        }
        result
    }

    /// Answers the last question; says why the answer ended. Ctrl-C that was pressed before ends it at once.
    fn answer(&mut self) -> Result<Stop, Failure> {
        // The conversation is worth a moment's wait for the end of a step.
        let _patience = Patience::new();
        let asked = &self.args.generate;
        if asked.chat.show_prompt {
            let prompt = self.conversation.prompt().map_err(Error::from)?;
            asked.text.say(&prompt.text);
        }
        let length = LengthArgs { n_predict: self.settings.n_predict, ..asked.length };
        let options = asked.sampling.options(&length, asked.escapes)?;
        let constraint = constraint(&self.model, self.form.as_ref())?;
        let mut screen = (!asked.json).then(|| Screen::new(&asked.text));
        let mut broken = None;
        let reply = self.conversation.answer(&mut self.sampler, &options, constraint, |piece| {
            if let Some(Err(failure)) = screen.as_mut().map(|screen| screen.piece(piece)) {
                broken = Some(failure);
                return false;
            }
            !interrupt::requested()
        });
        let reply = reply.map_err(|error| self.failed(error))?;
        if let Some(failure) = broken {
            return Err(failure);
        }
        match screen {
            Some(screen) => screen.end()?,
            None => {
                let turn = report::turn(&reply, &self.timings(&reply), self.settings.params.seed);
                output::print(&format!("{turn}\n"))?;
            }
        }
        if asked.perf {
            output::say(false, self.timings(&reply).text());
        }
        if reply.generated.finish == Stop::Interrupted && reply.text.is_empty() {
            self.conversation.undo();
        }
        self.tell_of_context(&reply);
        interrupt::clear();
        Ok(reply.generated.finish)
    }

    /// The failure of an answer, with what helps against a full context.
    fn failed(&self, error: Error) -> Failure {
        let full = matches!(error, Error::Chat(ChatError::ContextFull { .. }));
        match hint::of(&error).filter(|_| full && !self.args.shifts()) {
            Some(hint) => {
                let hint = format!("{hint}; without --no-context-shift the oldest turns are dropped");
                Failure::with_hint(exit::code(&error), &error, Some(hint))
            }
            None => error.into(),
        }
    }

    /// Tells that old turns were dropped, once in a conversation, or that the answer has filled the context.
    fn tell_of_context(&mut self, reply: &Reply) {
        let context = output::count(u64::from(self.conversation.session().context()), "token");
        if reply.stats.dropped_messages > 0 && !std::mem::replace(&mut self.told_of_shift, true) {
            let n = messages(reply.stats.dropped_messages);
            let text = format!(
                "the context of {context} is full: dropped the oldest {n}, and so on from here; -c enlarges the context"
            );
            note(false, &text);
        }
        if reply.generated.finish == Stop::ContextFull {
            let remedy = match self.args.shifts() {
                true => "-c enlarges it",
                false => "without --no-context-shift the oldest turns are dropped",
            };
            note(
                false,
                &format!("the context of {context} is full: /clear starts a new conversation, {remedy}"),
            );
        }
    }

    fn timings<'r>(&'r self, reply: &'r Reply) -> Timings<'r> {
        Timings { load: self.load_time, result: &reply.generated, session: self.conversation.session() }
    }
}
