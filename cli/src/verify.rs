//! `bitnetc verify`: every kernel of a model against the interpreter.

use bitnetc::load::{LoadOptions, Source, dump_module, load_source};
use bitnetc_frontend_gguf::GgufWeights;
use bitnetc_ir::{Module, Stage, WeightSource};
use bitnetc_runtime::map::MapMode;
use bitnetc_tools::verify::{KernelVerdict, SAMPLED_ROWS, VerifyOptions, as_stored, levels, verify_kernels};
use clap::Args;
use serde_json::{Value, json};

use super::args::ModelArgs;
use super::build::LoweringArgs;
use super::failure::Failure;
use super::model_arg::ModelArg;
use super::{Outcome, interrupt, models, output, progress};
use crate::exit;

#[derive(Debug, Args)]
#[command(
    after_help = "For every distinct kernel, the first and the last op that use it are run with the model's weights and made-up operands, at\nevery feature level of this machine, with one token and with several; large matrices are compared in 256 rows: the first\nand last tiles of 32, and others drawn from --seed. With --full every op is run and every row compared.\n\nExit code: 0 if all bits are the same, 4 if not.\n\nExamples:\n  bitnetc verify model.gguf\n  bitnetc verify model.plan --cross --json\n  bitnetc verify model.gguf --full --cpu-features avx2"
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Run the code of both instruction selectors, cranelift and x64
    #[arg(long)]
    cross: bool,
    /// Run every op and compare every row
    #[arg(long)]
    full: bool,
    /// Seed of the operands and of the sampled rows
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    lowering: LoweringArgs,
    #[command(flatten)]
    options: ModelArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs, quiet: bool) -> Outcome {
    let build = args.lowering.options("native")?;
    let options = VerifyOptions {
        levels: levels(&build.target()?),
        cross: args.cross,
        full: args.full,
        seed: args.seed,
        threads: args.lowering.build.threads(),
    };
    interrupt::listen();
    let path = models::resolve(args.model.name()?, quiet)?;
    let source = Source::open(path.as_deref(), MapMode::Mapped)?.with_options(args.options.model_options());
    let name = source.name();
    let verdicts = match &source {
        Source::Gguf { .. } => {
            let model = source.gguf_model()?;
            let lower = || dump_module(&source, Stage::Planned, &build);
            let module = progress::working("compiling", quiet, lower)?;
            verdicts(&module, &GgufWeights::new(&model), &options, args, quiet)?
        }
        Source::Plan { .. } => {
            let load = LoadOptions { build, ..LoadOptions::default() };
            let loaded = progress::working("loading", quiet, || load_source(source, &load))?;
            verdicts(&as_stored(&loaded.module, &loaded), &loaded, &options, args, quiet)?
        }
    };
    if interrupt::requested() {
        return Ok(exit::INTERRUPTED);
    }
    let equal = verdicts.iter().all(|v| v.difference.is_none());
    match args.json {
        true => output::print_json(&json!({
            "schema": "bitnetc.verify/2",
            "model": name,
            "equal": equal,
            "levels": options.levels.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "threads": options.threads,
            "cross": args.cross,
            "full": args.full,
            "seed": args.seed,
            "sampled_rows": if args.full { Value::Null } else { json!(SAMPLED_ROWS) },
            "kernels": verdicts.iter().map(one).collect::<Vec<_>>(),
        }))?,
        false => output::print(&summary(&name, &verdicts, &options, args))?,
    }
    Ok(if equal { exit::OK } else { exit::VERIFY })
}

fn verdicts(
    module: &Module,
    weights: &dyn WeightSource,
    options: &VerifyOptions,
    args: &VerifyArgs,
    quiet: bool,
) -> Result<Vec<KernelVerdict>, Failure> {
    let bar = progress::bar("verifying", 0, quiet || args.json);
    let mut all = Vec::new();
    verify_kernels(module, weights, weights, options, &mut |verdict, total| {
        bar.set_length(total as u64);
        bar.inc(1);
        all.push(verdict.clone());
        !interrupt::requested()
    })?;
    bar.finish_and_clear();
    Ok(all)
}

fn one(verdict: &KernelVerdict) -> Value {
    json!({
        "kernel": verdict.kernel,
        "function": verdict.func,
        "op": verdict.op,
        "level": verdict.level,
        "selector": verdict.selector,
        "ops": verdict.ops.0,
        "ops_run": verdict.ops.1,
        "elements_compared": verdict.compared,
        "equal": verdict.difference.is_none(),
        "first_difference": verdict.difference.as_ref().map(|d| json!({
            "result": d.result,
            "part": d.part,
            "tokens": verdict.tokens,
            "token": d.token,
            "row": d.row,
            "expected_bits": format!("{:#010x}", d.expected),
            "got_bits": format!("{:#010x}", d.got),
        })),
    })
}

/// A line for each kernel, its differences below it, and what was compared.
fn summary(name: &str, verdicts: &[KernelVerdict], options: &VerifyOptions, args: &VerifyArgs) -> String {
    let mut text = String::new();
    let mut rest = verdicts;
    let mut kernels = 0;
    while let Some(first) = rest.first() {
        let (of_kernel, after) = rest.split_at(rest.iter().take_while(|v| v.kernel == first.kernel).count());
        rest = after;
        kernels += 1;
        let wrong = of_kernel.iter().filter(|v| v.difference.is_some()).count();
        let verdict = match wrong {
            0 => "ok".to_owned(),
            n => format!("WRONG in {n} of {}", of_kernel.len()),
        };
        let compared = of_kernel.iter().map(|v| v.compared).max().unwrap_or(0);
        text += &format!(
            "{:<58} {:>3} of {:<3} ops {compared:>9} elements  {verdict}\n",
            first.kernel, first.ops.1, first.ops.0
        );
        for v in of_kernel {
            let Some(d) = &v.difference else { continue };
            text += &format!(
                "  {} at {}: in @{} `{}`\n    {} of token {} of {}, row {}: the interpreter has {:#010x}{}, the kernel {:#010x}{}\n",
                v.selector,
                v.level,
                v.func,
                v.op,
                d.part,
                d.token,
                v.tokens,
                d.row,
                d.expected,
                as_float(d.part, d.expected),
                d.got,
                as_float(d.part, d.got)
            );
        }
    }
    let wrong = verdicts.iter().filter(|v| v.difference.is_some()).count();
    let rows = match args.full {
        true => "every op, every row".to_owned(),
        false => format!("two ops per kernel, at most {SAMPLED_ROWS} rows per matrix"),
    };
    let selectors = if args.cross { ", both selectors" } else { "" };
    let levels: Vec<String> = options.levels.iter().map(ToString::to_string).collect();
    text += &format!("\n{name}: {kernels} kernels at {} levels{selectors}; {rows}\n", levels.len());
    for level in levels {
        text += &format!("  {level}\n");
    }
    text += &match wrong {
        0 => "all kernels are bit-identical to the interpreter\n".to_owned(),
        n => format!("{n} of {} kernels differ from the interpreter\n", verdicts.len()),
    };
    text
}

fn as_float(part: &str, bits: u32) -> String {
    match part {
        "f32" | "a" | "scale" => format!(" ({:?})", f32::from_bits(bits)),
        _ => String::new(),
    }
}
