//! `bitnetc run`: text from a prompt.

use std::time::Instant;

use bitnetc::chat::{Message, RenderInput, Role};
use bitnetc::engine::{EngineOptions, GenerateOptions, Request, Stop};
use bitnetc::load::Loaded;
use bitnetc::{Model, TextSession};
use bitnetc_runtime::machine::Record;
use bitnetc_runtime::sampling::{TokenLogprob, TokenLogprobs};
use bitnetc_runtime::tokenizer::Tokenize;
use bitnetc_runtime::whole_file::WholeFile;

use super::args::RunArgs;
use super::failure::Failure;
use super::sampling::check_biases;
use super::timings::Timings;
use super::{Outcome, interrupt, models, output};
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

/// A text file.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String, Failure> {
    let unreadable =
        |why: String| Failure::new(exit::FAILURE, format!("cannot read {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| {
        unreadable(format!("it is not UTF-8 at byte {}; convert it to UTF-8", e.utf8_error().valid_up_to()))
    })
}

fn prompt_text(args: &RunArgs) -> Result<String, Failure> {
    match (&args.prompt, &args.file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => {
            let mut text = read_text(path)?;
            if text.ends_with('\n') {
                text.pop();
            }
            Ok(text)
        }
        (None, None) => Ok(String::new()),
    }
}

/// The prompt as one message in the model's chat template, and the strings that end the answer.
fn chat_prompt(
    args: &RunArgs,
    loaded: &Loaded,
    text: String,
    quiet: bool,
) -> Result<(Vec<u32>, Vec<String>), Failure> {
    let encoder = args.chat_prompt.template.encoder(loaded, quiet)?;
    let system = args.chat_prompt.system_prompt.iter().filter(|text| !text.is_empty());
    let mut messages: Vec<Message> = system.map(|text| Message::new(Role::system(), text.as_str())).collect();
    messages.push(Message::new(Role::user(), text));
    let input = RenderInput { messages: &messages, add_generation_prompt: true, ..RenderInput::default() };
    let rendered = encoder.render(&input).map_err(bitnetc::Error::from)?;
    if args.chat_prompt.show_prompt {
        args.text.say(&rendered.text);
    }
    Ok((encoder.encode(&rendered)?, encoder.stop().to_vec()))
}

/// Runs the command.
pub(crate) fn run(args: &RunArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let (params, random_seed) = args.sampling.params()?;
    let text = prompt_text(args)?;
    let path = args.model.as_deref().or(args.model_option.as_deref());
    let clock = Instant::now();
    let model = Model::from(models::open(path, &args.engine.load_options()?, quiet)?);
    let loaded = model.loaded();
    announce(loaded, path.is_some(), quiet);

    check_biases(&params, loaded.model.vocab())?;
    let chat = args.chat || args.chat_prompt.asked();
    let (prompt, stop) = if chat {
        chat_prompt(args, loaded, text, quiet)?
    } else {
        if args.chat_prompt.show_prompt {
            args.text.say(&text);
        }
        (model.prompt(&text)?, Vec::new())
    };
    let grammar = args.grammar.open(&model)?;
    let context = if args.ctx_size == 0 { loaded.default_context() } else { args.ctx_size };
    if prompt.len() as u64 > u64::from(context) {
        let message = format!(
            "the prompt has {} tokens but the context holds {context}: shorten it or give a larger --ctx-size",
            prompt.len()
        );
        return Err(Failure::new(exit::FAILURE, message));
    }
    if context > loaded.context {
        output::say(
            quiet,
            format!(
                "warning: --ctx-size {context} is more than the {} that the model was trained for",
                loaded.context
            ),
        );
    }
    // Before any work is done: a place that cannot be written is a mistake.
    let trace = args.profile.as_deref().map(WholeFile::create).transpose().map_err(bitnetc::Error::from)?;
    let record = if trace.is_some() { Record::Events } else { Record::Nothing };
    let options = EngineOptions { record, ..EngineOptions::single(context, args.engine.build.threads()) };
    let mut session = model.session_with(options)?;
    let load_time = clock.elapsed();
    if random_seed && params.temperature > 0.0 {
        output::say(quiet, format!("seed: {}", params.seed));
    }

    let seed = params.seed;
    let mut options = GenerateOptions {
        logprobs: args.logprobs.map(usize::from),
        ..args.sampling.options(args.n_predict, args.ignore_eos)
    };
    options.stop.extend(stop);
    let streaming = !args.json;
    if streaming && !args.no_display_prompt && !chat {
        args.text.print(&loaded.tokenizer.decode_lossy(&prompt, false))?;
    }
    let mut broken = None;
    let emit = |piece: &str| {
        if streaming && let Err(failure) = args.text.print(piece) {
            broken = Some(failure);
            return false;
        }
        !interrupt::requested()
    };
    let mut request = Request::new(prompt, params, options)?;
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
        output::say(quiet, format!("the context of {} tokens is full", session.context()));
    }
    let timings = Timings { load: load_time, result: &result, session: &session };
    if args.json {
        output::print_json(&report(&timings, seed))?;
    }
    if args.perf {
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
    output::say(quiet, format!("wrote {events} events to {}", place.display()));
    if dropped > 0 {
        output::say(quiet, format!("warning: {dropped} more had no room: profile a shorter text (-n)"));
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
        "schema": "bitnetc.run/1",
        "model": loaded.name,
        "text": result.text,
        "tokens": result.tokens,
        "stop": result.finish.name(),
        "end_token": end,
        "seed": seed,
        "threads": session.machine().threads(),
        "prompt_tokens": result.prompt_tokens,
        "timings": timings.json(),
        "memory": timings.memory_json(),
    });
    if !result.logprobs.is_empty() {
        let shown = |token: &TokenLogprob| {
            let text = loaded.tokenizer.decode_lossy(&[token.id], true);
            serde_json::json!({ "id": token.id, "token": text, "logprob": token.logprob })
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
