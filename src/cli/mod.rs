//! The command line: argument types, one file for each command, and how results and failures are shown.
//!
//! Results go to stdout, everything else to stderr; progress only to a terminal; `--json` gives one object. Exit codes:
//! 0 ok, 1 failure, 2 usage, 3 bad or unsupported model file, 130 interrupted. A closed pipe on stdout ends the command
//! quietly.

mod args;
mod bench;
mod chat;
mod compile;
mod failure;
mod import;
mod inspect;
mod interrupt;
mod ir;
mod logits;
mod output;
mod perplexity;
mod progress;
mod run;
mod sampling;
mod startup;
mod synth;
mod tokenize;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Failure;

/// Parses the command line, runs the command and gives its exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results; everything else is a usage error, which clap sends to stderr.
            let code =
                if error.use_stderr() { bitnetc::error::exit::USAGE } else { bitnetc::error::exit::OK };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(bitnetc::error::exit::FAILURE),
            };
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args, cli.quiet),
        Command::Chat(args) => chat::run(&args, cli.quiet),
        Command::Tokenize(args) => tokenize::tokenize(&args, cli.quiet),
        Command::Detokenize(args) => tokenize::detokenize(&args, cli.quiet),
        Command::Bench(args) => bench::run(&args, cli.quiet),
        Command::Compile(args) => compile::run(&args, cli.quiet),
        Command::Import(args) => import::run(&args, cli.quiet),
        Command::Inspect(args) => inspect::run(&args),
        Command::Ir(args) => ir::run(&args),
        Command::Logits(args) => logits::run(&args, cli.quiet),
        Command::Perplexity(args) => perplexity::run(&args, cli.quiet),
        Command::Synth(args) => synth::run(&args, cli.quiet),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

/// What a command returns: its exit code, or why it failed.
pub(crate) type Outcome = Result<u8, Failure>;
