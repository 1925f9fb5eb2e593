//! `bitnetc explain`: what a compiled model does, op by op, as text, JSON or an HTML page.

mod text;

use std::path::PathBuf;

use bitnetc::BuildOptions;
use bitnetc::load::{LoadOptions, Source, load_source};
use bitnetc_runtime::map::MapMode;
use bitnetc_runtime::memory::in_units;
use bitnetc_tools::explain::{ExplainOptions, MeasureOptions, context, explain, measure, page};
use bitnetc_tools::speeds;
use clap::Args;

use super::args::ModelArgs;
use super::build::{LoweringArgs, SelectorArgs};
use super::failure::Failure;
use super::given::Given;
use super::model_arg::ModelArg;
use super::observe::write_text;
use super::{Outcome, input_file, interrupt, models, output, progress};
use crate::exit;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc explain model.gguf\n  bitnetc explain model.plan --measure -d 512\n  bitnetc explain model.gguf --html report.html"
)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) given: Given,
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Write a page for a browser: graph, memory, schedule, kernels with their machine code, passes
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure this machine's limits and run the model: show measured times next to predictions from its own speeds
    #[arg(long)]
    pub(crate) measure: bool,
    /// Tokens in the context before the call that is explained
    #[arg(short = 'd', long = "n-depth", value_name = "N", allow_negative_numbers = true, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) depth: u32,
    /// Decode steps that `--measure` times
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, default_value_t = 32, requires = "measure", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) repetitions: u32,
    /// Buffer size with which `--measure` measures the bandwidth (default: 4 times the last-level cache, at least 1024)
    #[arg(long, value_name = "MIB", requires = "measure", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) limits_buffer: Option<u64>,
    #[command(flatten)]
    pub(crate) selector: SelectorArgs,
    #[command(flatten)]
    pub(crate) lowering: LoweringArgs,
    #[command(flatten)]
    pub(crate) options: ModelArgs,
}

/// Options that say how a GGUF is lowered, by field; a plan has been lowered.
const OF_LOWERING: [(&str, &str); 10] = [
    ("kv_type", "--kv-type"),
    ("activations", "--activations"),
    ("head", "--head"),
    ("weights", "--weights"),
    ("batch_size", "--batch-size"),
    ("passes", "--passes"),
    ("level", "-O"),
    ("disable_pass", "--disable-pass"),
    ("i2s_layout", "--i2s-layout"),
    ("hidden_activation", "--hidden-activation"),
];

/// Refuses options that would change nothing in what is shown.
fn refuse_idle(args: &ExplainArgs, source: &Source) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(exit::USAGE, message));
    let context = context(source)?;
    if args.depth >= context {
        let (depth, most) = (args.depth, context.saturating_sub(1));
        return refuse(format!(
            "-d {depth}: the model's context has room for {context} tokens; give at most {most}"
        ));
    }
    let Source::Plan { .. } = source else { return Ok(()) };
    if let Some((_, option)) = OF_LOWERING.iter().find(|(id, _)| args.given.has(id)) {
        return refuse(format!(
            "{option} does nothing here: {} is a plan, which has been lowered already; give the .gguf file it was \
             compiled from, or leave the option out",
            source.name()
        ));
    }
    if args.measure && args.given.has("speeds") {
        return refuse(
            "--speeds does nothing here: --measure measures this machine, and a plan's packing is chosen already; \
             leave one of them out"
                .to_owned(),
        );
    }
    Ok(())
}

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let threads = args.lowering.build.threads();
    let build = BuildOptions { codegen: args.selector.codegen.into(), ..args.lowering.options("native")? };
    let target = build.target()?;
    let path = models::resolve(args.model.name()?, quiet)?;
    let open = || {
        let source = Source::open(path.as_deref(), MapMode::Mapped)?;
        Ok::<_, bitnetc::Error>(source.with_options(args.options.model_options()))
    };
    let source = open()?;
    refuse_idle(args, &source)?;
    if path.is_none() {
        output::say(quiet, format!("no model given: using {}", source.name()));
    }
    let (mut timings, mut machine) = (None, target.clone());
    if args.measure {
        output::say(quiet, "measuring this machine's limits");
        let limits = || speeds::measure(&target, args.limits_buffer.map(|mib| mib << 20));
        machine.measured = Some(progress::working("measuring", quiet, limits)?);
        output::say(quiet, format!("running {}", output::count(u64::from(args.repetitions), "decode step")));
        // As it is explained: a plan keeps the cache that it was made with.
        let own = matches!(source, Source::Gguf { .. });
        let cache = build.cache.filter(|_| own);
        let load = BuildOptions { cache, ..build.clone() };
        let load = LoadOptions { build: load, ..LoadOptions::default() };
        let loaded = progress::working("loading", quiet, || load_source(open()?, &load))?;
        let options = MeasureOptions {
            threads,
            position: args.depth,
            steps: args.repetitions,
            keep_going: (|| !interrupt::requested()).into(),
        };
        timings = Some(progress::working("running", quiet, || measure(&loaded, &options))?);
    }
    if let Some(html) = &args.html {
        input_file::refuse_inputs(html, [path.as_deref()])?;
    }
    let options =
        ExplainOptions { position: args.depth, texts: args.html.is_some(), timings: timings.as_ref() };
    let document = progress::working("explaining", quiet, || explain(&source, &build, &machine, &options))?;
    if let Some(html) = &args.html {
        let text = page::page(&document).map_err(|e| Failure::new(exit::FAILURE, e))?;
        write_text(html, &text)?;
        output::say(quiet, format!("wrote {} ({})", html.display(), in_units(text.len() as u64)));
    }
    if args.json {
        output::print_json(&document.to_json().map_err(|e| Failure::new(exit::FAILURE, e))?)?;
    } else if args.html.is_none() {
        output::print(&text::report(&document))?;
    }
    Ok(exit::OK)
}
