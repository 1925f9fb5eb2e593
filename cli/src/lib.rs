//! The `bitnetc` command: argument types, one file for each command, and how results and failures are shown. [`main`] is all of it; the
//! binary and the Python package call it.
//!
//! Results go to stdout, everything else to stderr; progress only to a terminal; `--json` gives one object, also of an error
//! (docs/json.md). Exit codes:
//! 0 ok, 1 failure, 2 usage, 3 bad or unsupported model file, 4 a check that does not hold, 130 interrupted. A closed pipe on stdout ends the command
//! quietly.
#![forbid(unsafe_code)]

mod args;
mod batch;
mod bench;
mod bench_kernels;
mod bench_passes;
mod bench_serve;
mod build;
mod chat;
mod compile;
mod config;
mod doctor;
mod emit;
mod escapes;
mod exit;
mod explain;
mod failure;
mod generate;
mod given;
mod health;
mod hint;
mod import;
mod input_file;
mod inspect;
mod interrupt;
mod invocation;
mod ir;
mod logits;
mod model_arg;
mod models;
mod observe;
mod output;
mod peers;
mod perplexity;
mod progress;
#[cfg(test)]
mod reference;
mod run;
mod sampling;
#[cfg(feature = "serve")]
mod serve;
mod shell;
mod speeds;
mod startup;
mod style;
mod suggest;
mod synth;
mod terminal;
mod timings;
mod tokenize;
mod usage;
mod verify;

use std::borrow::Cow;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use config::Config;
use failure::{Failure, JsonTo};
use models::ModelsCommand;

pub use invocation::Invocation;

/// Parses the command line, runs the command and gives its exit code. The process belongs to the command: it handles its signals, and
/// some ways to end a command end the process. To be called once.
pub fn main(invocation: Invocation) -> u8 {
    let words = invocation.words.clone();
    invocation.remember();
    interrupt::handle();
    // Without it, a model file that is cut short ends the process.
    let _ = bitnetc_runtime::map::survive_truncation();
    let configured = Config::load().and_then(|config| Ok((config.apply(Cli::command())?, config)));
    let (command, config) = match configured {
        Ok((command, config)) => (command, Ok(config)),
        Err(failure) => (Cli::command(), Err(failure)),
    };
    let typed = match peers::translate(words.clone(), &command) {
        Ok(typed) => typed,
        Err(failure) => {
            if usage::has_json(&words) {
                failure::report_as_json(JsonTo::Stdout);
            }
            return failure.report();
        }
    };
    let mut command = command;
    let parsed = command.try_get_matches_from_mut(typed.args).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((matches, cli))
    });
    let (matches, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let error = usage::explained(error, &mut command, &words, config.as_ref().ok());
            return show(&error, &words);
        }
    };
    if let Some(to) = usage::error_object(&matches) {
        failure::report_as_json(to);
    }
    if let Some(note) = config.as_ref().ok().and_then(Config::note) {
        output::say(cli.quiet, note);
    }
    if config.is_ok() {
        config::misspelled_variables(&command).iter().for_each(|note| output::say(cli.quiet, note));
    }
    typed.notes.iter().for_each(|note| output::say(cli.quiet, note));
    if let Some(warning) = usage::threads_asked(&matches).and_then(build::too_many_threads) {
        output::say(cli.quiet, warning);
    }
    // What helps to mend a configuration works without it.
    let mends = matches!(
        cli.command,
        Command::Config(_)
            | Command::Doctor(_)
            | Command::Version(_)
            | Command::Completions(_)
            | Command::Man(_)
    );
    let config = match config {
        Err(failure) if !mends => return failure.report(),
        config => config,
    };
    let result = match cli.command {
        Command::Run(args) => run::run(*args, cli.quiet),
        Command::Chat(args) => chat::run(&args, cli.quiet),
        Command::Tokenize(args) => tokenize::tokenize(&args, cli.quiet),
        Command::Detokenize(args) => tokenize::detokenize(&args, cli.quiet),
        Command::Batch(args) => batch::run(&args, cli.quiet),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&args, cli.quiet),
        Command::Health(args) => health::run(&args, cli.quiet),
        Command::Bench(args) => bench::run(&args, cli.quiet),
        Command::Compile(args) => compile::run(&args, cli.quiet),
        Command::Import(args) => import::run(&args, cli.quiet),
        Command::Inspect(args) => inspect::run(&args, cli.quiet),
        Command::Explain(args) => explain::run(&args, cli.quiet),
        Command::Ir(args) => ir::run(&args),
        Command::Logits(args) => logits::run(&args, cli.quiet),
        Command::Perplexity(args) => perplexity::run(&args, cli.quiet),
        Command::Verify(args) => verify::run(&args, cli.quiet),
        Command::Synth(args) => synth::run(&args, cli.quiet),
        Command::Pull(args) => models::run(&ModelsCommand::Pull(args), cli.quiet),
        Command::List(args) => models::run(&ModelsCommand::List(args), cli.quiet),
        Command::Rm(args) => models::run(&ModelsCommand::Rm(args), cli.quiet),
        Command::Models(args) => models::run(&args.command, cli.quiet),
        Command::Doctor(args) => doctor::run(&args, &config),
        Command::Config(args) => config::run(&args, config, cli.quiet),
        Command::Version(args) => shell::version(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args, cli.quiet),
    };
    match models::settle(result, cli.quiet) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Shows what clap has to say of these words.
fn show(error: &clap::Error, words: &[std::ffi::OsString]) -> u8 {
    // Help and version are results; everything else is a usage error, which clap sends to stderr.
    let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
    // What was typed is part of the message, and clap has no eye for what a terminal would do with it.
    let plain = error.render().to_string();
    let printed = match terminal::visible(&plain) {
        Cow::Owned(shown) if error.use_stderr() => {
            output::say_as_is(false, shown.trim_end());
            Ok(())
        }
        _ => error.print(),
    };
    if error.use_stderr() {
        failure::report_usage(error, words);
    }
    match printed {
        Ok(()) => code,
        // A reader that has closed stdout needs no help.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => code,
        Err(_) => exit::FAILURE,
    }
}

/// What a command returns: its exit code, or why it failed.
pub(crate) type Outcome = Result<u8, Failure>;
