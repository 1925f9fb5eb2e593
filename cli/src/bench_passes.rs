//! `bitnetc bench passes`: the model with each optional pass left out in turn.

use bitnetc::BuildOptions;
use bitnetc::load::{LoadOptions, load};
use bitnetc_passes::{OptLevel, PassId};
use bitnetc_tools::bench::machine::{Build, Machine};
use bitnetc_tools::bench::passes::{PassOutcome, PassesOptions, head, json, measure, optional_passes, row};
use bitnetc_tools::bench::report;
use clap::Args;
use serde_json::json;

use super::args::EngineArgs;
use super::build::{host, pass_parser, pipeline};
use super::failure::Failure;
use super::model_arg::ModelArg;
use super::run::announce;
use super::startup::is_plan;
use super::{Outcome, interrupt, models, output, progress};
use crate::exit;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc bench passes                            the built-in model, with each pass disabled in turn\n  bitnetc bench passes model.gguf --pass schedule  the effect of one pass"
)]
pub(crate) struct BenchPassesArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Measure only these passes (default: all optional passes)
    #[arg(long = "pass", value_name = "PASS", value_delimiter = ',', hide_possible_values = true, value_parser = pass_parser())]
    pub(crate) passes: Vec<PassId>,
    /// Prompt tokens for measuring prefill (0: none)
    #[arg(short = 'p', long = "n-prompt", value_name = "N", allow_negative_numbers = true, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) prompt: u32,
    /// Decode steps of a sample (0: none)
    #[arg(short = 'n', long = "n-gen", value_name = "N", allow_negative_numbers = true, default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) generate: u32,
    /// Pairs of samples for each pass
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repetitions: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// The options with passes left out.
fn without(args: &BenchPassesArgs, passes: &[PassId]) -> Result<LoadOptions, Failure> {
    let options = args.engine.load_options()?;
    let build = BuildOptions { pipeline: pipeline(None, OptLevel::default(), passes)?, ..options.build };
    Ok(LoadOptions { build, ..options })
}

/// Runs the command.
pub(crate) fn run(args: &BenchPassesArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    if args.prompt + args.generate == 0 {
        return Err(Failure::new(exit::USAGE, "nothing to measure: set -p or -n above 0"));
    }
    let mut passes: Vec<PassId> = optional_passes().collect();
    if !args.passes.is_empty() {
        // Refuses passes that cannot be left out.
        pipeline(None, OptLevel::default(), &args.passes)?;
        passes.retain(|pass| args.passes.contains(pass));
    }
    let path = models::resolve(args.model.name()?, quiet)?;
    if path.as_deref().is_some_and(is_plan) {
        return Err(Failure::new(exit::USAGE, "a plan is already compiled: use the .gguf file"));
    }
    let options = PassesOptions {
        prompt: args.prompt,
        generate: args.generate,
        threads: args.engine.build.threads(),
        repetitions: args.repetitions,
        keep_going: (|| !interrupt::requested()).into(),
    };
    let whole = models::load_file(path.as_deref(), &without(args, &[])?, quiet)?;
    announce(&whole, path.is_some(), quiet);
    let machine = Machine::describe(&host()?);
    let build = Build::this();
    let style = output::table_style();
    if !args.json {
        output::print(&(report::machine_line(&machine, &build) + &head(style, &options)))?;
    }
    let bar = progress::bar("passes", passes.len() as u64 + 1, quiet);
    let mut outcomes: Vec<PassOutcome> = Vec::new();
    let mut interrupted = false;
    for pass in std::iter::once(None).chain(passes.into_iter().map(Some)) {
        bar.set_message(pass.map_or("all", PassId::name));
        let left_out: Vec<PassId> = pass.into_iter().collect();
        let outcome = load(path.as_deref(), &without(args, &left_out)?)
            .map_err(bitnetc_tools::Error::from)
            .and_then(|variant| measure(&whole, &variant, pass, &options));
        match outcome {
            Ok(outcome) => {
                if !args.json {
                    bar.suspend(|| output::print(&row(style, &options, &outcome)))?;
                }
                outcomes.push(outcome);
            }
            Err(_) if interrupt::requested() => {
                interrupted = true;
                break;
            }
            Err(error) => return Err(error.into()),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        let (machine, build) = report::json_head(&machine, &build);
        output::print_json(&json!({
            "schema": "bitnetc.bench-passes/2",
            "machine": machine,
            "build": build,
            "model": whole.name,
            "threads": options.threads,
            "prompt_tokens": options.prompt,
            "generated_tokens": options.generate,
            "passes": outcomes.iter().map(json).collect::<Vec<_>>(),
        }))?;
    }
    Ok(if interrupted { exit::INTERRUPTED } else { exit::OK })
}
