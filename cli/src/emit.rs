//! `bitnetc compile --emit`: what a compilation goes through, to stdout or to files.

use std::path::PathBuf;

use bitnetc::BuildOptions;
use bitnetc::load::Source;
use bitnetc_tools::emit::{Emit, emit};
use clap::Args;
use clap::builder::PossibleValue;

use super::args::CompileArgs;
use super::failure::Failure;
use super::observe::{make_directory, write_text};
use super::{Outcome, output};
use crate::exit;

/// One word of `--emit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EmitArg(Option<Emit>);

impl clap::ValueEnum for EmitArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: &[EmitArg] = &{
            let mut all = [EmitArg(None); 1 + Emit::ALL.len()];
            let mut i = 0;
            while i < Emit::ALL.len() {
                all[i] = EmitArg(Some(Emit::ALL[i]));
                i += 1;
            }
            all
        };
        ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.map_or("all", Emit::name)))
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Inspecting a compilation")]
pub(crate) struct EmitArgs {
    /// Write these instead of a plan: the module in a stage, kernel IR, CLIF or machine code of every kernel, the graph for
    /// Graphviz, the module as JSON, the page of `bitnetc explain`
    #[arg(
        long,
        value_name = "KINDS",
        value_delimiter = ',',
        conflicts_with_all = [
            "output", "json", "print_ir_before", "print_ir_after", "print_ir_after_all", "print_ir_after_change",
            "dump_ir", "time_passes", "pass_stats", "reproducer"
        ]
    )]
    emit: Vec<EmitArg>,
    /// Write the output of --emit to files in this directory (default: one kind, to stdout)
    #[arg(long, value_name = "DIR", requires = "emit")]
    emit_dir: Option<PathBuf>,
}

impl EmitArgs {
    /// Whether anything is to be shown.
    pub(crate) fn is_given(&self) -> bool {
        !self.emit.is_empty()
    }
}

/// Runs the command.
pub(crate) fn run(args: &CompileArgs, source: &Source, options: &BuildOptions) -> Outcome {
    let asked = &args.emit;
    let mut kinds: Vec<Emit> = match asked.emit.contains(&EmitArg(None)) {
        true => match source {
            Source::Gguf { .. } => Emit::ALL.to_vec(),
            // A plan has no earlier stages.
            Source::Plan { .. } => Emit::ALL[3..].to_vec(),
        },
        false => asked.emit.iter().filter_map(|kind| kind.0).collect(),
    };
    kinds.sort_unstable();
    kinds.dedup();
    let mut failed = None;
    let outcome = match &asked.emit_dir {
        None if kinds.len() > 1 => {
            let why = "several kinds go to files: give --emit-dir, or one kind for stdout";
            return Err(Failure::new(exit::USAGE, why));
        }
        None => emit(source, options, &kinds, |_, text| {
            failed = output::print(text).err();
            Ok(())
        }),
        Some(directory) => {
            make_directory(directory)?;
            emit(source, options, &kinds, |kind, text| {
                if failed.is_none() {
                    failed = write_text(&directory.join(kind.file_name()), text).err();
                }
                Ok(())
            })
        }
    };
    outcome?;
    match failed {
        Some(failure) => Err(failure),
        None => Ok(exit::OK),
    }
}
