//! `bitnetc ir`: dump, check, transform, compare and run the IR.

mod diff;
mod opt;
mod run;

use std::path::Path;

use bitnetc::load::{Source, dump_module};
use bitnetc_ir::{EntryPoint, Module, Stage, extract, text, verify};
use clap::{Args, Subcommand};
use serde_json::json;

use super::args::{EntryArg, IrCheckArgs, IrDumpArgs, StageArg};
use super::failure::Failure;
use super::{Outcome, input_file, models, output, progress};
use crate::exit;

#[derive(Debug, Args)]
pub(crate) struct IrArgs {
    #[command(subcommand)]
    command: IrCommand,
}

#[derive(Debug, Subcommand)]
enum IrCommand {
    /// Print a model's IR
    Dump(IrDumpArgs),
    /// Parse, verify and print an IR file
    Check(IrCheckArgs),
    /// Run passes over an IR file
    Opt(opt::OptArgs),
    /// Compare two IR files by structure
    Diff(diff::DiffArgs),
    /// Run a function of an IR file
    Run(run::RunIrArgs),
}

/// Runs the command.
pub(crate) fn run(args: &IrArgs) -> Outcome {
    match &args.command {
        IrCommand::Dump(args) => dump(args),
        IrCommand::Check(args) => check(args),
        IrCommand::Opt(args) => opt::run(args),
        IrCommand::Diff(args) => diff::run(args),
        IrCommand::Run(args) => run::run(args),
    }
}

fn dump(args: &IrDumpArgs) -> Outcome {
    let options = args.lowering.options(&args.target)?;
    let stage = match args.stage {
        StageArg::Imported => Stage::Imported,
        StageArg::Fused => Stage::Fused,
        StageArg::LaidOut => Stage::LaidOut,
        StageArg::Planned => Stage::Planned,
    };
    let path = models::resolve(args.model.name()?, false)?;
    let source = Source::open(path.as_deref(), bitnetc_runtime::map::MapMode::Mapped)?
        .with_options(args.options.model_options());
    let lower = || dump_module(&source, stage, &options);
    let mut module = progress::working("compiling", false, lower)?;
    let entry = match (args.entry, args.layer) {
        (Some(EntryArg::Decode), _) | (None, Some(_)) => Some(EntryPoint::Decode),
        (Some(EntryArg::Prefill), _) => Some(EntryPoint::Prefill),
        (Some(EntryArg::Head), _) => Some(EntryPoint::Head),
        (None, None) => None,
    };
    if let Some(entry) = entry {
        let missing = || Failure::new(exit::FAILURE, format!("the module has no entry @{entry}"));
        let func = module.entry_point(entry).ok_or_else(missing)?;
        module = match args.layer {
            Some(layer) => extract::layer(&module, func, layer).ok_or_else(|| {
                Failure::new(
                    exit::FAILURE,
                    format!("@{entry} has no layer {layer}: layers are numbered from 0"),
                )
            })?,
            None => {
                module.retain_funcs(|f| f.name() == entry.name());
                module
            }
        };
    }
    output::print(&text::print(&module))?;
    Ok(exit::OK)
}

fn check(args: &IrCheckArgs) -> Outcome {
    let module = read_module(&args.file)?;
    match args.json {
        true => {
            let functions = module.funcs().values().map(|func| {
                json!({
                    "name": func.name(),
                    "ops": func.order().len(),
                    "arena_bytes": func.plan.as_ref().map(|plan| plan.arena_bytes),
                    "barriers": func.barriers(),
                })
            });
            output::print_json(&json!({
                "schema": "bitnetc.ir-check/1",
                "file": input_file::shown(&args.file),
                "stage": module.stage.name(),
                "target": module.target.as_ref().map(ToString::to_string),
                "functions": functions.collect::<Vec<_>>(),
                "weights": module.params().values().count(),
            }))?;
        }
        false => output::print(&text::print(&module))?,
    }
    Ok(exit::OK)
}

/// The name, for messages, and the text of a file; `-` is standard input.
fn read_text(file: &Path) -> Result<(String, String), Failure> {
    Ok((file.display().to_string(), input_file::text(file)?))
}

/// The module of a file, verified, with its plan proved.
fn read_module(file: &Path) -> Result<Module, Failure> {
    let (name, source) = read_text(file)?;
    parse_module(&name, &source)
}

/// The module of a text, verified, with its plan proved; `name` is for messages.
fn parse_module(name: &str, source: &str) -> Result<Module, Failure> {
    let in_text = |message: String, span: std::ops::Range<usize>| Failure::in_text(message, source, &span);
    let (module, map) = text::parse_mapped(source)
        .map_err(|e| in_text(format!("{name}:{}:{}: {}", e.line, e.column, e.message), e.span.clone()))?;
    if let Err(errors) = verify::verify(&module) {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let span = errors.first().map_or(0..0, |e| map.span(&module, e.anchor));
        let line = source[..span.start.min(source.len())].bytes().filter(|&b| b == b'\n').count() + 1;
        return Err(in_text(format!("{name}:{line}: {}", all.join("\n")), span));
    }
    if module.stage == Stage::Planned {
        for func in module.funcs().values() {
            bitnetc_passes::check_plan(func).map_err(|e| {
                Failure::new(exit::FAILURE, format!("{name}: the plan of @{} is wrong: {e}", func.name()))
            })?;
        }
    }
    Ok(module)
}
