//! `bitnetc bench kernels`: every distinct kernel of a model, beside what the machine could do.

use bitnetc_tools::bench::kernels::{KernelsOptions, json, measure, tables};
use bitnetc_tools::bench::limits_of_machine;
use bitnetc_tools::bench::machine::{Build, Machine};
use bitnetc_tools::bench::report::{self, ThreadLimits};
use clap::Args;
use serde_json::json;

use super::args::EngineArgs;
use super::build::host;
use super::failure::Failure;
use super::model_arg::ModelArg;
use super::run::announce;
use super::{Outcome, interrupt, models, output, progress};
use crate::exit;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc bench kernels                             the built-in model\n  bitnetc bench kernels model.gguf -d 2048 -t 2     after 2,048 tokens, with two threads\n  bitnetc bench kernels model.plan -p 0 --kernel bitlinear"
)]
pub(crate) struct BenchKernelsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Tokens of a prompt chunk (0: none; at most what one call handles)
    #[arg(short = 'p', long = "n-prompt", value_name = "N", allow_negative_numbers = true, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) prompt: u32,
    /// Decode steps per repetition (0: none)
    #[arg(short = 'n', long = "n-gen", value_name = "N", allow_negative_numbers = true, default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) generate: u32,
    /// Tokens in the context before each call
    #[arg(short = 'd', long = "n-depth", value_name = "N", allow_negative_numbers = true, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) depth: u32,
    /// Repetitions, with the machine's limits measured between them
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repetitions: u32,
    /// Show only kernels whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) kernel: Option<String>,
    /// Memory that the read bandwidth is measured over (default: 4 times the last-level cache, at least 1024)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) limits_buffer: Option<u64>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Runs the command.
pub(crate) fn run(args: &BenchKernelsArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    if args.prompt < 2 && args.generate == 0 {
        return Err(Failure::new(exit::USAGE, "nothing to measure: give -n above 0, or -p above 1"));
    }
    let path = models::resolve(args.model.name()?, quiet)?;
    let loaded = models::load_file(path.as_deref(), &args.engine.load_options()?, quiet)?;
    announce(&loaded, path.is_some(), quiet);
    let machine = Machine::describe(&host()?);
    let build = Build::this();
    if build.profile == "debug" {
        output::say(quiet, "warning: this is a debug build; build with --release for meaningful figures");
    }
    let limits = || limits_of_machine(args.limits_buffer.map(|mib| mib << 20));
    let mut roofline = progress::working("measuring", quiet, limits)?;
    let options = KernelsOptions {
        prompt: args.prompt,
        generate: args.generate,
        depth: args.depth,
        threads: args.engine.build.threads(),
        repetitions: args.repetitions,
        keep_going: (|| !interrupt::requested()).into(),
    };
    let bar = progress::bar("kernels", u64::from(args.repetitions), quiet);
    let mut outcome =
        match measure(&loaded, &mut roofline, &options, &mut |done| bar.set_position(u64::from(done))) {
            Err(_) if interrupt::requested() => return Ok(exit::INTERRUPTED),
            outcome => outcome?,
        };
    bar.finish_and_clear();
    if let Some(text) = &args.kernel {
        let known: Vec<String> = outcome.kernels.iter().map(|k| k.kernel.clone()).collect();
        outcome.kernels.retain(|k| k.kernel.contains(text.as_str()));
        if outcome.kernels.is_empty() {
            let message = format!("no kernel has `{text}` in its name; there are: {}", known.join(", "));
            return Err(Failure::new(exit::USAGE, message));
        }
        outcome.entries.retain(|e| outcome.kernels.iter().any(|k| k.entry == e.entry));
    }
    let limits = outcome.rounds.iter().map(|r| ThreadLimits {
        threads: options.threads,
        bandwidth: r.limits.bandwidth,
        int8: r.limits.int8,
        fma: r.fma,
    });
    let limits: Vec<ThreadLimits> = limits.collect();
    if args.json {
        let (machine, build) = report::json_head(&machine, &build);
        let (kernels, entries) = json(&outcome);
        output::print_json(&json!({
            "schema": "bitnetc.bench-kernels/2",
            "machine": machine,
            "build": build,
            "model": loaded.name,
            "threads": options.threads,
            "depth": options.depth,
            "buffer_bytes": roofline.buffer_bytes(),
            "limits": report::json_limits(&limits),
            "entries": entries,
            "kernels": kernels,
        }))?;
    } else {
        let middle = |of: fn(&ThreadLimits) -> f64| {
            let mut sorted: Vec<f64> = limits.iter().map(of).collect();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        };
        let seen = ThreadLimits {
            threads: options.threads,
            bandwidth: middle(|l| l.bandwidth),
            int8: middle(|l| l.int8),
            fma: middle(|l| l.fma),
        };
        let style = output::table_style();
        let text = report::machine_line(&machine, &build)
            + &tables(style, &outcome)
            + &report::limits_table(style, &[seen], roofline.buffer_bytes());
        output::print(&text)?;
    }
    Ok(if outcome.interrupted { exit::INTERRUPTED } else { exit::OK })
}
