//! What comes before the first token: compiling, loading, and the memory that both take.
//!
//! Measured in processes of their own (this program, called as a user would), so that neither the benchmark's buffers nor
//! what it has loaded already count: compiling once, then loading the plan and making one token as often as there are
//! repetitions. The plan has just been written, so its pages are in the system's cache: these are warm loads.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bitnetc_runtime::map::MapMode;
use bitnetc_runtime::memory::in_units;
use bitnetc_tools::bench::table::{Column, Table, TableStyle};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::args::StartupArgs;
use super::failure::Failure;
use super::{Outcome, interrupt, invocation, models, output};
use crate::exit;

/// Tokens of the context of these runs: small, so that planned memory is memory that is used.
const CONTEXT: u32 = 256;

/// Compiling and loading, as they were measured.
#[derive(Clone, Debug)]
pub(crate) struct Startup {
    /// Seconds of compiling, and bytes of the plan; nothing where a plan was given.
    compile: Option<(f64, u64)>,
    /// Milliseconds from opening the plan to the first token, by repetition.
    first_token_ms: Vec<f64>,
    /// Bytes that a session was planned to take.
    planned_bytes: u64,
    /// Most memory that a process was resident with, where the system says so.
    peak_rss_bytes: Option<u64>,
}

impl Startup {
    fn best_ms(&self) -> f64 {
        self.first_token_ms.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn median_ms(&self) -> f64 {
        let mut sorted = self.first_token_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }

    /// Resident over planned memory, less 1.
    fn over_plan(&self) -> Option<f64> {
        self.peak_rss_bytes.map(|rss| rss as f64 / self.planned_bytes.max(1) as f64 - 1.0)
    }

    /// A table.
    pub(crate) fn table(&self, style: TableStyle) -> String {
        let mut table = Table::new(vec![Column::left("startup"), Column::right("")]);
        if let Some((seconds, bytes)) = self.compile {
            table.push(vec![
                "compile".to_owned(),
                format!(
                    "{seconds:.2} s for {}, {:.2} s/GB",
                    in_units(bytes),
                    seconds / (bytes.max(1) as f64 / 1e9)
                ),
            ]);
        }
        table.push(vec![
            "load plan to first token (warm)".to_owned(),
            format!("{:.0} ms (best {:.0})", self.median_ms(), self.best_ms()),
        ]);
        if let (Some(rss), Some(over)) = (self.peak_rss_bytes, self.over_plan()) {
            table.push(vec![
                format!("peak memory at a context of {CONTEXT}"),
                format!(
                    "{} resident, {} planned ({:+.1} %)",
                    in_units(rss),
                    in_units(self.planned_bytes),
                    100.0 * over
                ),
            ]);
        }
        format!("\n{}", table.render(style))
    }

    /// The same as JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "compile_ms": self.compile.map(|(seconds, _)| 1e3 * seconds),
            "plan_bytes": self.compile.map(|(_, bytes)| bytes),
            "compile_bytes_per_second": self.compile.map(|(s, bytes)| bytes as f64 / s.max(1e-9)),
            "first_token_ms": self.median_ms(),
            "first_token_samples_ms": self.first_token_ms,
            "context": CONTEXT,
            "planned_bytes": self.planned_bytes,
            "peak_rss_bytes": self.peak_rss_bytes,
            "rss_over_plan": self.over_plan(),
        })
    }
}

/// Runs `bitnetc bench startup`.
pub(crate) fn run(args: &StartupArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let path = models::resolve(args.model.name()?, quiet)?;
    let startup = startup(args, path.as_deref(), quiet)?;
    match args.json {
        true => {
            let model = path.as_deref().map_or(bitnetc::builtin::NAME.into(), Path::to_string_lossy);
            output::print_json(&json!({
                "schema": "bitnetc.bench-startup/2",
                "model": model,
                "threads": args.engine.build.threads(),
                "startup": startup.json(),
            }))?
        }
        false => output::print(startup.table(output::table_style()).trim_start())?,
    }
    Ok(exit::OK)
}

/// Runs this program; its JSON output.
fn call(args: Vec<OsString>) -> Result<Value, Failure> {
    let failed = |why: String| Failure::new(exit::FAILURE, format!("cannot measure the startup: {why}"));
    let mut command = invocation::again().map_err(|e| failed(e.to_string()))?;
    let result = command.arg("-q").args(args).stdin(Stdio::null()).output();
    let result = result.map_err(|e| failed(e.to_string()))?;
    if interrupt::requested() {
        return Err(bitnetc::Error::Interrupted.into());
    }
    if !result.status.success() {
        let text = String::from_utf8_lossy(&result.stderr);
        return Err(failed(text.trim().trim_start_matches("error: ").to_owned()));
    }
    serde_json::from_slice(&result.stdout).map_err(|e| failed(e.to_string()))
}

/// A value as the command line has it.
fn named(value: &impl ValueEnum) -> Option<OsString> {
    Some(value.to_possible_value()?.get_name().into())
}

/// Whether the file begins as a plan does.
pub(crate) fn is_plan(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut start));
    read.is_ok() && bitnetc_runtime::plan::MAGIC.starts_with(&start)
}

/// Measures with the options of `args`; the model at `path`, or the built-in one.
pub(crate) fn startup(args: &StartupArgs, path: Option<&Path>, quiet: bool) -> Result<Startup, Failure> {
    let text = OsString::from;
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let folder = tempfile::tempdir().map_err(|e| {
        Failure::new(exit::FAILURE, format!("cannot make a temporary folder: {e}; set TMPDIR"))
    })?;
    let plan = match path {
        Some(path) if is_plan(path) => None,
        _ => Some(folder.path().join("model.plan")),
    };
    let mut compile = None;
    if let Some(plan) = &plan {
        output::say(quiet, "startup: compiling");
        let model = match path {
            Some(path) => path.to_owned(),
            None => {
                let path = folder.path().join("model.gguf");
                std::fs::write(&path, bitnetc::builtin::GGUF)?;
                path
            }
        };
        let mut call_args = vec![text("compile"), model.into(), text("-o"), plan.into(), text("--json")];
        let mut option = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                call_args.extend([OsString::from(name), value]);
            }
        };
        let engine = &args.engine.build;
        option("--kv-type", engine.kv_type.as_ref().and_then(named));
        option("--head", engine.head.map(|head| head.to_string().into()));
        option("--activations", engine.activations.map(|format| format.name().into()));
        option("--weights", engine.weights.as_ref().and_then(named));
        option("--speeds", named(&engine.speeds));
        option("--batch-size", args.batch_size.map(|n| n.to_string().into()));
        option("--cpu-features", Some((&engine.cpu_features).into()));
        option("--threads", engine.threads.map(|n| n.to_string().into()));
        for pass in &args.disable_pass {
            option("--disable-pass", Some(pass.name().into()));
        }
        let summary = call(call_args)?;
        compile = Some((number(&summary["total_ms"]) / 1e3, summary["plan_bytes"].as_u64().unwrap_or(0)));
    }
    let plan: PathBuf = plan.or_else(|| path.map(Path::to_owned)).unwrap_or_default();
    let mut result = Startup { compile, first_token_ms: Vec::new(), planned_bytes: 0, peak_rss_bytes: None };
    for round in 0..args.repetitions {
        output::say(quiet, format!("startup: load {} of {}", round + 1, args.repetitions));
        let mut call_args = vec![text("run"), plan.clone().into(), text("--json"), text("--ignore-eos")];
        call_args.extend(["-n", "1", "--temp", "0", "-s", "1", "-c"].map(text));
        call_args.push(CONTEXT.to_string().into());
        if let Some(threads) = args.engine.build.threads {
            call_args.extend([text("-t"), threads.to_string().into()]);
        }
        call_args.extend([text("--cpu-features"), (&args.engine.build.cpu_features).into()]);
        if let Some(codegen) = named(&args.engine.selector.codegen) {
            call_args.extend([text("--codegen"), codegen]);
        }
        if args.engine.memory.map_mode() == MapMode::Copied {
            call_args.push(text("--no-mmap"));
        }
        let run = call(call_args)?;
        let timings = &run["timings"];
        let parts = ["load_ms", "prompt_ms", "sampling_ms"].map(|part| number(&timings[part]));
        result.first_token_ms.push(parts.iter().sum());
        result.planned_bytes = run["memory"]["planned_bytes"].as_u64().unwrap_or(0);
        result.peak_rss_bytes = result.peak_rss_bytes.max(run["memory"]["peak_rss_bytes"].as_u64());
    }
    Ok(result)
}
