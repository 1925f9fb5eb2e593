//! `bitnetc ir opt`: passes over IR text, text in and text out.

use std::path::PathBuf;

use bitnetc_codegen::features::target_named;
use bitnetc_ir::{Stage, text};
use bitnetc_passes::{ALL_PASSES, HeadFormat, OptLevel, PassContext, PassId, Pipeline, Reproducer, run_with};
use clap::Args;
use serde_json::json;

use super::{Outcome, parse_module, read_text};
use crate::build::{Weights, head_parser, host, pass_parser, pipeline, target_parser};
use crate::exit;
use crate::failure::Failure;
use crate::observe::{ObserveArgs, write_text};
use crate::output;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc ir dump --stage imported --layer 0 > layer.bir\n  bitnetc ir opt layer.bir --passes canonicalise,cse,dce,fuse-norm-quant\n  bitnetc ir opt layer.bir -O2 --print-ir-after-change -o planned.bir\n  bitnetc ir opt layer.bir -O2 --dump-ir stages --verify-each interp\n  bitnetc ir opt --run-reproducer failed/fuse-bitlinear.bir"
)]
pub(crate) struct OptArgs {
    /// A .bir file (`-`: standard input)
    #[arg(value_name = "FILE", required_unless_present = "list_passes")]
    file: Option<PathBuf>,
    /// The passes to run, in order, each optionally with settings: `fuse-norm-quant,pack-head{head=q8}` (default: none)
    #[arg(long, value_name = "PIPELINE", conflicts_with = "level")]
    passes: Option<String>,
    /// Run the passes of this level: 0 (only what is needed to run), 1 (clean-ups), 2 (every pass once), 3 (clean-ups repeated)
    #[arg(short = 'O', long = "opt-level", value_name = "LEVEL")]
    level: Option<OptLevel>,
    /// Disable a pass (may be repeated)
    #[arg(long, value_name = "PASS", hide_possible_values = true, value_parser = pass_parser())]
    disable_pass: Vec<PassId>,
    /// The target to compile for: native, x86-64, x86-64-v2, x86-64-v3, x86-64-v4 or aarch64, optionally with +FEATURES
    #[arg(long, value_name = "TARGET", default_value = "native", hide_possible_values = true, value_parser = target_parser())]
    target: String,
    /// The head that `pack-head` creates: f16 (unchanged), q8, q6, q4, screened or screened:N
    #[arg(long, value_name = "HEAD", default_value_t = HeadFormat::Stored, hide_possible_values = true, value_parser = head_parser())]
    head: HeadFormat,
    /// Packing of the ternary weights
    #[arg(long, value_name = "PACKING", default_value = "2bit")]
    weights: Weights,
    /// Threads that `--weights auto` assumes (default: the cores of this machine)
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Write the module to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Run the passes listed in the comments at the start of the file, which is a reproducer or a file of --dump-ir
    #[arg(
        long,
        conflicts_with_all = ["passes", "level", "disable_pass", "target", "head", "weights", "threads", "stop_after", "verify_each"]
    )]
    run_reproducer: bool,
    /// List the passes with descriptions, and exit
    #[arg(long)]
    list_passes: bool,
    #[command(flatten)]
    observe: ObserveArgs,
    /// Print lists, times and statistics as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &OptArgs) -> Outcome {
    let Some(file) = args.file.as_deref().filter(|_| !args.list_passes) else {
        output::print(&list(args.json))?;
        return Ok(exit::OK);
    };
    let (name, source) = read_text(file)?;
    let (reproducer, stage) = match args.run_reproducer {
        true => {
            let not_one = |e| Failure::new(exit::FAILURE, format!("{name}: no reproducer: {e}"));
            let reproducer: Reproducer = source.parse().map_err(not_one)?;
            let stage = reproducer.module.stage;
            (reproducer, stage)
        }
        false => {
            let module = parse_module(&name, &source)?;
            let (pipeline, stage) = (asked(args)?, module.stage);
            (Reproducer { pipeline, context: context(args)?, command: None, module }, stage)
        }
    };
    let Reproducer { pipeline, context, module, .. } = reproducer;
    let (module, _) = args
        .observe
        .watch(args.json, |instruments| Ok(run_with(&pipeline, module, &context, instruments)?))?;
    debug_assert!(module.stage >= stage, "no pass takes a module back");
    let text = text::print(&module);
    match &args.output {
        Some(path) => write_text(path, &text)?,
        None => output::print(&text)?,
    }
    Ok(exit::OK)
}

fn asked(args: &OptArgs) -> Result<Pipeline, Failure> {
    match (&args.passes, args.level) {
        (None, None) => pipeline(Some(""), OptLevel::default(), &args.disable_pass),
        (passes, level) => pipeline(passes.as_deref(), level.unwrap_or_default(), &args.disable_pass),
    }
}

fn context(args: &OptArgs) -> Result<PassContext, Failure> {
    let usage = |e| Failure::new(exit::USAGE, format!("--target: {e}"));
    let mut target = target_named(&host()?, &args.target).map_err(usage)?;
    target.threads = args.threads.unwrap_or(target.threads);
    Ok(PassContext {
        head: args.head,
        weights: args.weights.into(),
        verify_each: args.observe.verify_each,
        stop_after: args.observe.stop_after,
        ..PassContext::new(target)
    })
}

/// The passes, one a line or as JSON.
fn list(json: bool) -> String {
    let stages = |first: Stage, last: Stage| format!("{first} to {last}");
    if json {
        let passes = ALL_PASSES.iter().map(|pass| {
            json!({
                "name": pass.name(),
                "description": pass.description,
                "required": pass.required,
                "first_stage": pass.stages.0.name(),
                "last_stage": pass.stages.1.name(),
                "raises_to": pass.raises_to.map(Stage::name),
                "options": pass.options.iter().map(|option| option.name()).collect::<Vec<_>>(),
                "levels": levels_of(pass.id),
            })
        });
        let all = json!({ "schema": "bitnetc.pass-list/1", "passes": passes.collect::<Vec<_>>() });
        return format!("{all:#}\n");
    }
    let mut text = String::new();
    for pass in ALL_PASSES {
        let options: Vec<&str> = pass.options.iter().map(|option| option.name()).collect();
        let options = match &options[..] {
            [] => String::new(),
            options => format!("; takes {}", options.join(", ")),
        };
        let raises = pass.raises_to.map_or_else(String::new, |stage| format!(", makes it {stage}"));
        let levels: Vec<String> = levels_of(pass.id).iter().map(|level| format!("-O{level}")).collect();
        text += &format!(
            "{}\n    {}\n    in stages {}{raises}; in {}{options}\n",
            pass.id,
            pass.description,
            stages(pass.stages.0, pass.stages.1),
            levels.join(" "),
        );
    }
    text
}

/// The levels in which a pass runs.
fn levels_of(id: PassId) -> Vec<u8> {
    let runs = |level: &&OptLevel| level.pipeline().passes().iter().any(|pass| pass.id == id);
    OptLevel::ALL.iter().filter(runs).map(|level| *level as u8).collect()
}
