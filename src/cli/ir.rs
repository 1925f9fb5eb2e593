//! `bitnetc ir`: dump and check the IR.

use std::io::Read;

use bitnetc::error::exit;
use bitnetc::load::{Source, dump_module};
use bitnetc_ir::{Stage, extract, text, verify};

use super::args::{EntryArg, IrArgs, IrCheckArgs, IrCommand, IrDumpArgs, StageArg};
use super::compile::compile_options;
use super::failure::Failure;
use super::{Outcome, models, output};

/// Runs the command.
pub(crate) fn run(args: &IrArgs) -> Outcome {
    match &args.command {
        IrCommand::Dump(args) => dump(args),
        IrCommand::Check(args) => check(args),
    }
}

fn dump(args: &IrDumpArgs) -> Outcome {
    let options = compile_options(&args.lowering, args.threads)?;
    let stage = match args.stage {
        StageArg::Imported => Stage::Imported,
        StageArg::Fused => Stage::Fused,
        StageArg::LaidOut => Stage::LaidOut,
        StageArg::Planned => Stage::Planned,
    };
    let path = models::resolve(args.model.as_deref(), false)?;
    let source = Source::open(path.as_deref(), bitnetc_runtime::map::MapMode::Mapped)?
        .with_options(args.options.model_options());
    let mut module = dump_module(&source, stage, &options)?;
    let entry = match (args.entry, args.layer) {
        (Some(EntryArg::Decode), _) | (None, Some(_)) => Some("decode"),
        (Some(EntryArg::Prefill), _) => Some("prefill"),
        (Some(EntryArg::Head), _) => Some("head"),
        (None, None) => None,
    };
    if let Some(entry) = entry {
        let missing = || Failure::new(exit::FAILURE, format!("the module has no entry @{entry}"));
        let func = module.func_named(entry).ok_or_else(missing)?;
        module = match args.layer {
            Some(layer) => extract::layer(&module, func, layer).ok_or_else(|| {
                Failure::new(exit::FAILURE, format!("@{entry} has no layer {layer}; layers count from 0"))
            })?,
            None => {
                module.retain_funcs(|f| f.name() == entry);
                module
            }
        };
    }
    output::print(&text::print(&module))?;
    Ok(exit::OK)
}

fn check(args: &IrCheckArgs) -> Outcome {
    let name = args.file.display().to_string();
    let unreadable = |e: std::io::Error| Failure::new(exit::FAILURE, format!("cannot read {name}: {e}"));
    let bytes = if name == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map_err(unreadable)?;
        bytes
    } else {
        std::fs::read(&args.file).map_err(unreadable)?
    };
    let source = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::new(exit::FAILURE, format!("{name}: not UTF-8 at byte {at}: IR files are text"))
    })?;
    let (module, map) = text::parse_mapped(&source).map_err(|e| {
        let (message, span) = (format!("{name}:{}:{}: {}", e.line, e.column, e.message), e.span.clone());
        Failure::in_text(message, None, &name, source.clone(), span, "here".to_owned())
    })?;
    if let Err(errors) = verify::verify(&module) {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let span = errors.first().map_or(0..0, |e| map.span(&module, e.anchor));
        let line = source[..span.start.min(source.len())].bytes().filter(|&b| b == b'\n').count() + 1;
        let message = format!("{name}:{line}: {}", all.join("\n"));
        return Err(Failure::in_text(message, None, &name, source, span, "here".to_owned()));
    }
    if module.stage == Stage::Planned {
        for func in module.funcs().values() {
            bitnetc_passes::check_plan(func).map_err(|e| {
                Failure::new(exit::FAILURE, format!("{name}: the plan of @{} is wrong: {e}", func.name()))
            })?;
        }
    }
    output::print(&text::print(&module))?;
    Ok(exit::OK)
}
