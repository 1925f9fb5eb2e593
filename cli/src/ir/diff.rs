//! `bitnetc ir diff`: two modules compared by structure. Exit code 0 where they are equal, 1 where they are not, as `diff`
//! does it.

use std::path::PathBuf;

use bitnetc_ir::diff::{DiffOptions, Difference, diff};
use clap::Args;
use serde_json::json;

use super::{Outcome, read_module};
use crate::exit;
use crate::output;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 if the modules are equal, 1 if they differ, 2 for a wrong command line.\n\nExamples:\n  bitnetc ir diff before.bir after.bir\n  bitnetc ir diff stages/00-imported.bir stages/05-fuse-rope-kv.bir --ignore-plan"
)]
pub(crate) struct DiffArgs {
    /// A .bir file (`-`: standard input)
    #[arg(value_name = "A")]
    left: PathBuf,
    /// The .bir file to compare it with
    #[arg(value_name = "B")]
    right: PathBuf,
    /// Compare only what is computed: ignore the order of ops, the memory plan and barriers
    #[arg(long)]
    ignore_plan: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &DiffArgs) -> Outcome {
    let (left, right) = (read_module(&args.left)?, read_module(&args.right)?);
    let found = diff(&left, &right, DiffOptions { plan: !args.ignore_plan });
    let equal = found.is_empty();
    match args.json {
        true => output::print_json(&json!({
            "schema": "bitnetc.ir-diff/1",
            "equal": equal,
            "differences": found.iter().map(one).collect::<Vec<_>>(),
        }))?,
        false if equal => {}
        false => output::print(&listing(args, &found))?,
    }
    Ok(if equal { exit::OK } else { exit::FAILURE })
}

fn one(difference: &Difference) -> serde_json::Value {
    json!({
        "function": difference.func,
        "kind": difference.kind.name(),
        "what": difference.what,
        "left": difference.left,
        "right": difference.right,
    })
}

fn listing(args: &DiffArgs, found: &[Difference]) -> String {
    let mut text = format!("--- {}\n+++ {}\n", args.left.display(), args.right.display());
    let mut place = None;
    for difference in found {
        if place != Some(&difference.func) {
            text += &match &difference.func {
                Some(func) => format!("@@ @{func} @@\n"),
                None => "@@ module @@\n".to_owned(),
            };
            place = Some(&difference.func);
        }
        text += &format!("{difference}\n");
    }
    text
}
