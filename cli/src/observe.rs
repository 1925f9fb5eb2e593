//! Watching the passes: the options of every command that runs them, and the instruments that these ask for.
//!
//! What is printed goes to stderr, so that results stay alone on stdout; dumps and reproducers are files, each whole or not
//! there.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};

use bitnetc_passes::{
    DumpIr, Instrument, PassError, PassFailure, PassId, PrintChoice, PrintIr, Reproducer, RunReport,
    Statistics, VerifyEach, bisect,
};
use bitnetc_runtime::whole_file::{WholeFile, WholeFileError};
use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::{input_file, invocation, output};
use crate::exit;

#[derive(Debug, Args)]
#[command(next_help_heading = "Observing the passes")]
pub(crate) struct ObserveArgs {
    /// Print the module to stderr before this pass (may be repeated)
    #[arg(long, value_name = "PASS")]
    print_ir_before: Vec<PassId>,
    /// Print the module to stderr after this pass (may be repeated)
    #[arg(long, value_name = "PASS")]
    print_ir_after: Vec<PassId>,
    /// Print the module to stderr after every pass
    #[arg(long)]
    print_ir_after_all: bool,
    /// Print the module to stderr after every pass that changed it
    #[arg(long)]
    print_ir_after_change: bool,
    /// Write the initial module and the module after each pass that changed it, as numbered files
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Print the time of each pass to stderr (with --json as JSON)
    #[arg(long)]
    time_passes: bool,
    /// Print what each pass did to ops, weights, barriers and memory to stderr (with --json as JSON)
    #[arg(long)]
    pass_stats: bool,
    /// Apply only the first N patches of the run, to find the one that breaks something
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) stop_after: Option<u64>,
    /// Check after every pass: off, rules (those of the IR), or interp (also that the interpreter gives the same bits, on
    /// weights and inputs generated from a seed; interp:N selects the seed)
    #[arg(long, value_name = "CHECK", default_value_t = VerifyEach::Rules)]
    pub(crate) verify_each: VerifyEach,
    /// If a pass fails, write the module and the remaining passes, for `ir opt --run-reproducer`
    #[arg(long, value_name = "DIR")]
    reproducer: Option<PathBuf>,
}

/// Files that are written from a callback, which cannot fail: the first error is kept.
struct Dumps<'a> {
    directory: &'a Path,
    failed: Option<Failure>,
}

impl Dumps<'_> {
    fn write(&mut self, name: &str, text: &str) {
        if self.failed.is_none() {
            self.failed = write_text(&self.directory.join(name), text).err();
        }
    }
}

/// Writes a text file, whole or not at all; `-` is standard output.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), Failure> {
    if input_file::is_standard(path) {
        return output::print(text);
    }
    let write = || -> Result<(), WholeFileError> {
        let file = WholeFile::create(path)?;
        let io = |source| WholeFileError::Io { operation: "write", path: path.to_owned(), source };
        file.file().write_all(text.as_bytes()).map_err(io)?;
        file.commit()?;
        Ok(())
    };
    write().map_err(|e| Failure::new(exit::FAILURE, e))
}

/// Makes a directory and those above it.
pub(crate) fn make_directory(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|e| {
        Failure::new(exit::FAILURE, format!("cannot make the directory {}: {e}", path.display()))
    })
}

impl ObserveArgs {
    /// Runs `work` with the instruments asked for, then shows what they have gathered; `json` says how. Where a pass fails,
    /// writes its reproducer, if one was asked for.
    pub(crate) fn watch<T>(
        &self,
        json: bool,
        work: impl FnOnce(&mut [&mut dyn Instrument]) -> Result<(T, RunReport), bitnetc::Error>,
    ) -> Result<(T, RunReport), Failure> {
        let choice = PrintChoice {
            before: self.print_ir_before.clone(),
            after: self.print_ir_after.clone(),
            after_all: self.print_ir_after_all,
            after_change: self.print_ir_after_change,
        };
        if let Some(directory) = &self.dump_ir {
            make_directory(directory)?;
        }
        let dumps = self.dump_ir.as_deref().map(|directory| RefCell::new(Dumps { directory, failed: None }));
        let mut dump = dumps
            .as_ref()
            .map(|dumps| DumpIr::new(|name: &str, text: &str| dumps.borrow_mut().write(name, text)));
        let mut print = (!choice.is_empty())
            .then(|| PrintIr::new(choice, |text: &str| output::say(false, text.trim_end())));
        let mut statistics = self.pass_stats.then(Statistics::default);

        let mut instruments: Vec<&mut dyn Instrument> = Vec::new();
        instruments.extend(dump.as_mut().map(|i| i as &mut dyn Instrument));
        instruments.extend(print.as_mut().map(|i| i as &mut dyn Instrument));
        instruments.extend(statistics.as_mut().map(|i| i as &mut dyn Instrument));
        let outcome = work(&mut instruments);
        drop(instruments);
        if let Some(failed) = dumps.and_then(|dumps| dumps.into_inner().failed) {
            return Err(failed);
        }
        // What was gathered until a failure is shown too.
        if let (Some(statistics), false) = (&statistics, json) {
            output::say(false, statistics.table().trim_end());
        }
        let (result, report) = outcome.map_err(|error| self.failed(error))?;
        if self.time_passes && !json {
            output::say(false, report.timing_table().trim_end());
        }
        if json && (self.time_passes || self.pass_stats) {
            let time = self.time_passes.then(|| timing_json(&report));
            let stats = statistics.as_ref().map(statistics_json);
            let all = json!({ "schema": "bitnetc.passes/2", "time_passes": time, "pass_stats": stats });
            output::say(false, format!("{all:#}"));
        }
        Ok((result, report))
    }

    fn failed(&self, error: bitnetc::Error) -> Failure {
        let bitnetc::Error::Pass(pass) = &error else { return error.into() };
        let (code, mut message) = (exit::code(&error), error.to_string());
        match &self.reproducer {
            None => {
                message += "\n--reproducer DIR writes the module before the pass to a file that reproduces the failure"
            }
            Some(directory) => match write_reproducer(directory, pass) {
                Ok(note) => message += &note,
                Err(failure) => return failure,
            },
        }
        Failure::new(code, message)
    }
}

/// Writes the reproducer of a failed pass, of a miscompilation with as few patches as still fail; says what to do with it.
fn write_reproducer(directory: &Path, error: &PassError) -> Result<String, Failure> {
    let unreadable = |e: bitnetc_passes::ReproducerError| Failure::new(exit::FAILURE, e);
    let mut reproducer: Reproducer = error.reproducer.parse().map_err(unreadable)?;
    let mut note = String::new();
    if matches!(*error.failure, PassFailure::Miscompile { .. })
        && let Some(culprit) = bisect(&reproducer)
    {
        note = format!(
            "\nthe first patch that causes it is number {} of the pass: {} at `{}` in @{}",
            culprit.patch, culprit.pass, culprit.op, culprit.func
        );
        reproducer.context.stop_after = Some(culprit.patch);
    }
    reproducer.command = Some(invocation::typed());
    make_directory(directory)?;
    let path = directory.join(format!("{}.bir", error.place()));
    write_text(&path, &reproducer.to_string())?;
    Ok(format!("{note}\nto reproduce: bitnetc ir opt --run-reproducer {}", path.display()))
}

fn timing_json(report: &RunReport) -> Value {
    let passes = report.passes.iter().map(
        |pass| json!({ "pass": pass.pass.name(), "time_ms": pass.seconds * 1e3, "verify_ms": pass.verify_seconds * 1e3 }),
    );
    json!({ "total_ms": report.seconds() * 1e3, "passes": passes.collect::<Vec<_>>() })
}

fn statistics_json(statistics: &Statistics) -> Value {
    let passes = statistics.passes.iter().map(|pass| {
        let changes = pass.op_changes().into_iter().map(|(name, n)| (name.to_owned(), Value::from(n)));
        json!({
            "pass": pass.pass.to_string(),
            "patches": pass.patches,
            "ops_before": pass.before.op_count(),
            "ops_after": pass.after.op_count(),
            "op_changes": Value::Object(changes.collect()),
            "weights_before": pass.before.params,
            "weights_after": pass.after.params,
            "barriers": pass.after.barriers,
            "arena_bytes": pass.after.arena_bytes,
            "private_bytes": pass.after.private_bytes,
        })
    });
    Value::Array(passes.collect())
}
