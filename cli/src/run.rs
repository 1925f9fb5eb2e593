//! `bitnetc run`: text from a prompt.

use std::io::IsTerminal;
use std::path::Path;

use bitnetc::TextSession;
use bitnetc::chat::{Message, RenderInput, Role};
use bitnetc::engine::{EngineOptions, GenerateOptions, Request, Stop};
use bitnetc::load::Loaded;
use bitnetc_runtime::machine::Record;
use bitnetc_runtime::sampling::{TokenLogprob, TokenLogprobs};
use bitnetc_runtime::tokenizer::Tokenize;
use bitnetc_runtime::whole_file::WholeFile;

use super::args::RunArgs;
use super::chat::{self, ChatArgs};
use super::failure::Failure;
use super::generate::Opened;
use super::timings::Timings;
use super::{Outcome, input_file, interrupt, output};
use crate::exit;

/// Says which model is used where none was named, and what the front-end has to say about it.
pub(crate) fn announce(loaded: &Loaded, named: bool, quiet: bool) {
    if !named {
        output::say(quiet, format!("no model given: using {}", loaded.name));
    }
    for note in &loaded.notes {
        output::say(quiet, note);
    }
}

/// What the command line says of the prompt: the model's name and the text, if there is one.
fn named_and_prompt(args: &RunArgs) -> Result<(Option<&Path>, Option<String>), Failure> {
    args.model.check_once()?;
    let (name, words) = args.model.with_words(&args.words);
    let given = args.generate.escapes.optional("--prompt", args.prompt.as_deref())?;
    let prompt = match (given, words.is_empty(), &args.file) {
        (None, true, None) if std::io::stdin().is_terminal() => None,
        (None, true, None) => Some(input_file::prompt(Path::new(input_file::STANDARD))?),
        (None, true, Some(path)) => Some(input_file::prompt(path)?),
        (given, true, _) => given,
        (None, false, None) => Some(words.join(" ")),
        _ => {
            let message =
                format!("the prompt is given twice: \"{}\" and an option; omit one", words.join(" "));
            return Err(Failure::new(exit::USAGE, message));
        }
    };
    Ok((name, prompt))
}

/// Whether the command opens a chat: where it was asked for, and where somebody sits at a terminal and the model is made for it.
fn opens_chat(args: &RunArgs, prompt: Option<&str>, loaded: &Loaded) -> bool {
    let raw = args.no_conversation || args.chat || args.generate.json || args.profile.is_some();
    let alone = prompt.is_none() && std::io::stdout().is_terminal() && !raw;
    args.conversation || (alone && loaded.chat_template.is_some())
}

/// The prompt as one message in the model's chat template, and the strings that end the answer.
fn chat_prompt(
    args: &RunArgs,
    loaded: &Loaded,
    text: String,
    quiet: bool,
) -> Result<(Vec<u32>, Vec<String>), Failure> {
    let asked = &args.generate.chat;
    let encoder = asked.template.encoder(loaded, quiet)?;
    let system = asked.system.text(args.generate.escapes)?.filter(|text| !text.is_empty());
    let mut messages: Vec<Message> =
        system.into_iter().map(|text| Message::new(Role::system(), text)).collect();
    messages.push(Message::new(Role::user(), text));
    let input = RenderInput {
        messages: &messages,
        add_generation_prompt: true,
        variables: asked.think.variables(),
        ..RenderInput::default()
    };
    let rendered = encoder.render(&input).map_err(bitnetc::Error::from)?;
    if asked.show_prompt {
        args.generate.text.say(&rendered.text);
    }
    Ok((encoder.encode(&rendered)?, encoder.stop().to_vec()))
}

/// Runs the command.
pub(crate) fn run(args: RunArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let (name, prompt) = named_and_prompt(&args)?;
    let opened = args.generate.open(name, quiet)?;
    if opens_chat(&args, prompt.as_deref(), opened.model.loaded()) {
        return chat::converse(opened, &ChatArgs::of_run(args.model, prompt, args.generate), quiet);
    }
    generate(&args, opened, prompt.unwrap_or_default(), quiet)
}

/// Generates one text.
fn generate(args: &RunArgs, opened: Opened, text: String, quiet: bool) -> Outcome {
    let loaded = opened.model.loaded();
    let asked = &args.generate;
    input_file::note_unread_stdin(quiet, "a prompt", "-f");
    if let Some(prompt) = &args.prompt {
        input_file::note_name_of_file(quiet, "--prompt", prompt, "-f reads it");
    }
    let chat = args.chat || asked.chat.asked();
    let (prompt, stop) = if chat {
        chat_prompt(args, loaded, text, quiet)?
    } else {
        if asked.chat.show_prompt {
            asked.text.say(&text);
        }
        (opened.model.prompt(&text)?, Vec::new())
    };
    let grammar = asked.grammar.open(&opened.model)?;
    let context = opened.context(asked.length.ctx_size);
    if context > loaded.context {
        output::say(
            quiet,
            format!(
                "warning: --ctx-size {context} is more than the {} that the model was trained for",
                loaded.context
            ),
        );
    }
    if let Some(profile) = &args.profile {
        input_file::refuse_standard(profile)?;
        input_file::refuse_inputs(profile, [args.model.name()?, args.file.as_deref()])?;
    }
    // Before any work is done: a place that cannot be written is a mistake.
    let trace = args.profile.as_deref().map(WholeFile::create).transpose().map_err(bitnetc::Error::from)?;
    let record = if trace.is_some() { Record::Events } else { Record::Nothing };
    let options = EngineOptions { record, ..EngineOptions::single(context, asked.engine.build.threads()) };
    let mut session = opened.model.session_with(options)?;
    let load_time = opened.begun.elapsed();
    opened.announce_seed(quiet);

    let seed = opened.params.seed;
    let mut options = GenerateOptions {
        logprobs: args.logprobs.map(usize::from),
        ..asked.sampling.options(&asked.length, asked.escapes)?
    };
    options.stop = options.stop.with(stop.iter().map(String::as_str));
    let mut request = Request::new(prompt, opened.params.clone(), options)?;
    request.check(loaded.model.vocab(), context).map_err(bitnetc::Error::from)?;
    let streaming = !asked.json;
    if streaming && !args.no_display_prompt && !chat {
        asked.text.print(&loaded.tokenizer.decode_lossy(&request.prompt, false))?;
    }
    let mut broken = None;
    let emit = |piece: &str| {
        if streaming && let Err(failure) = asked.text.print(piece) {
            broken = Some(failure);
            return false;
        }
        !interrupt::requested()
    };
    if let Some(grammar) = grammar {
        request = request.with_constraint(grammar);
    }
    let result = session.follow(request, || !interrupt::requested(), emit)?;
    if let Some(failure) = broken {
        return Err(failure);
    }
    if streaming {
        output::print("\n")?;
    }
    if result.finish == Stop::ContextFull {
        output::say(
            quiet,
            format!("the context of {} is full", output::count(u64::from(session.context()), "token")),
        );
    }
    let timings = Timings { load: load_time, result: &result, session: &session };
    if asked.json {
        output::print_json(&report(&timings, seed))?;
    }
    if asked.perf {
        output::say(false, timings.text());
    }
    if let Some(file) = trace {
        write_trace(file, &session, quiet)?;
    }
    Ok(if result.finish == Stop::Interrupted { exit::INTERRUPTED } else { exit::OK })
}

/// Writes what the session has recorded.
fn write_trace(file: WholeFile, session: &TextSession, quiet: bool) -> Result<(), Failure> {
    let Some(trace) = session.machine().trace() else { return Ok(()) };
    let place = file.path().to_owned();
    let failed =
        |e: std::io::Error| Failure::new(exit::FAILURE, format!("cannot write {}: {e}", place.display()));
    let mut out = std::io::BufWriter::new(file.file());
    trace.write(&mut out).and_then(|()| std::io::Write::flush(&mut out)).map_err(failed)?;
    drop(out);
    let (events, dropped) = (trace.events(), trace.dropped());
    file.commit().map_err(bitnetc::Error::from)?;
    output::say(quiet, format!("wrote {} to {}", output::count(events, "event"), place.display()));
    if dropped > 0 {
        output::say(
            quiet,
            format!("warning: {dropped} more events did not fit: profile a shorter text (-n)"),
        );
    }
    Ok(())
}

/// What `--json` prints.
fn report(timings: &Timings<'_>, seed: u64) -> serde_json::Value {
    let Timings { result, session, .. } = timings;
    let loaded = session.model().loaded();
    let end = match result.finish {
        Stop::EndToken(id) => Some(id),
        _ => None,
    };
    let mut report = serde_json::json!({
        "schema": "bitnetc.run/2",
        "model": loaded.name,
        "text": result.text,
        "ids": result.tokens,
        "stop": result.finish.name(),
        "end_token": end,
        "seed": seed,
        "threads": session.machine().threads(),
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": result.tokens.len(),
        "timings": timings.json(),
        "memory": timings.memory_json(),
    });
    if !result.logprobs.is_empty() {
        let shown = |token: &TokenLogprob| {
            let text = loaded.tokenizer.decode_lossy(&[token.id], true);
            serde_json::json!({ "id": token.id, "text": text, "logprob": token.logprob })
        };
        let of = |token: &TokenLogprobs| {
            let mut value = shown(&token.token);
            value["top"] = token.top.iter().map(shown).collect();
            value
        };
        report["logprobs"] = result.logprobs.iter().map(of).collect();
    }
    report
}
