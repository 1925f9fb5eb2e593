//! `bitnetc bench`: speed, and its share of what the machine could do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bitnetc::load::LoadOptions;
use bitnetc_frontend_gguf::synth::SyntheticModel;
use bitnetc_passes::OptLevel;
use bitnetc_runtime::roofline::Roofline;
use bitnetc_tools::bench::compare::{self, Comparisons, Series, Verdict};
use bitnetc_tools::bench::machine::{Build, Machine};
use bitnetc_tools::bench::page::page;
use bitnetc_tools::bench::report::{self, Subject, ThreadLimits};
use bitnetc_tools::bench::table::TableStyle;
use bitnetc_tools::bench::{Bench, BenchOptions, Outcome, Progress, Test, limits_of_machine};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::args::{BenchArgs, BenchCommand, EngineArgs, ReportFormat, StartupArgs};
use super::build::{BuildArgs, CodegenArg, SelectorArgs, Weights, host, pipeline, threads};
use super::failure::Failure;
use super::run::announce;
use super::speeds::SpeedsArg;
use super::startup::{self, Startup, is_plan};
use super::synth::shape;
use super::{
    Outcome as CommandOutcome, bench_kernels, bench_passes, bench_serve, input_file, interrupt, models,
    output, progress,
};
use crate::exit;

/// Passes of the f32 peak, which no test needs.
const FMA_PASSES: u32 = 3;

/// Parses `--pg`: a prompt and a generation, as `512,128`.
pub(crate) fn parse_pair(text: &str) -> Result<(u32, u32), String> {
    let pair = text.split_once(',').and_then(|(p, n)| Some((p.trim().parse().ok()?, n.trim().parse().ok()?)));
    pair.filter(|&(p, n)| p > 0 && n > 0).ok_or_else(|| "expected two numbers, such as 512,128".to_owned())
}

/// Parses `--threshold`: per cent, from 0 to 100.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.trim().trim_end_matches('%').trim_end().parse::<f64>().ok();
    percent
        .filter(|p| (0.0..=100.0).contains(p))
        .ok_or_else(|| "expected a percentage from 0 to 100".to_owned())
}

/// What `build` and `codegen` leave open, as `bench` was given it.
fn engine(args: &BenchArgs, build: BuildArgs, codegen: CodegenArg) -> EngineArgs {
    EngineArgs {
        build,
        selector: SelectorArgs { codegen },
        memory: args.memory,
        options: args.options,
        verify: false,
    }
}

/// The options of `--startup`: of lists the first value counts, of threads the most.
fn startup_args(args: &BenchArgs) -> StartupArgs {
    let build = BuildArgs {
        threads: args.threads.iter().copied().max(),
        kv_type: args.kv_type.first().copied(),
        head: args.head.first().copied(),
        activations: args.activations,
        weights: args.weights.first().copied(),
        speeds: SpeedsArg::Assumed,
        cpu_features: args.cpu_features.clone(),
    };
    let engine = engine(args, build, args.codegen.first().copied().unwrap_or(CodegenArg::Auto));
    StartupArgs {
        model: args.model.clone(),
        repetitions: args.repetitions,
        json: false,
        batch_size: args.batch_size.first().copied(),
        disable_pass: args.disable_pass.clone(),
        engine,
    }
}

/// An earlier report, and what is compared of it.
struct Baseline {
    report: Value,
    series: Vec<Series>,
}

/// The baseline of `--compare`.
fn baseline(args: &BenchArgs) -> Result<Option<Baseline>, Failure> {
    let Some(path) = &args.compare else { return Ok(None) };
    let failed =
        |why: &dyn std::fmt::Display| Failure::new(exit::FAILURE, format!("{}: {why}", path.display()));
    let text = input_file::text(path)?;
    let report = compare::report(&text).map_err(|e| failed(&e))?;
    let series = compare::baseline(&report).map_err(|e| failed(&e))?;
    Ok(Some(Baseline { report, series }))
}

/// How results are written.
fn format(args: &BenchArgs) -> ReportFormat {
    match (args.json, args.output) {
        (true, _) => ReportFormat::Json,
        (false, Some(format)) => format,
        (false, None) => match output::table_style() {
            TableStyle::Aligned => ReportFormat::Table,
            TableStyle::Markdown => ReportFormat::Md,
        },
    }
}

/// The style of a table, where results are written as one.
fn style(format: ReportFormat) -> Option<TableStyle> {
    match format {
        ReportFormat::Table => Some(TableStyle::Aligned),
        ReportFormat::Md => Some(TableStyle::Markdown),
        ReportFormat::Csv | ReportFormat::Json | ReportFormat::Jsonl | ReportFormat::Html => None,
    }
}

/// The tests that the lists multiply to: for each thread count, depth and number of sequences the prompts, then the generations, then the pairs.
fn tests(args: &BenchArgs) -> Vec<Test> {
    let threads: Vec<u32> = match &args.threads[..] {
        [] => vec![threads(None)],
        list => list.iter().map(|&n| threads(Some(n))).collect(),
    };
    let mut all = Vec::new();
    for &threads in &threads {
        for &depth in &args.depth {
            for &sequences in &args.parallel {
                let mut add = |prompt, generate| {
                    if prompt + generate > 0 {
                        let shared_prompt = args.prompt_shared;
                        all.push(Test { prompt, generate, depth, sequences, shared_prompt, threads });
                    }
                };
                args.prompt.iter().for_each(|&p| add(p, 0));
                args.generate.iter().for_each(|&n| add(0, n));
                args.pairs.iter().for_each(|&(p, n)| add(p, n));
            }
        }
    }
    all
}

/// The model to measure: a file, the built-in one, or a synthetic one that is removed at the end.
struct Subjects {
    path: Option<PathBuf>,
    name: Option<String>,
    _synthetic: Option<tempfile::TempDir>,
}

fn subject(args: &BenchArgs, quiet: bool) -> Result<Subjects, Failure> {
    let Some(preset) = args.preset else {
        let path = models::resolve(args.model.name()?, quiet)?;
        return Ok(Subjects { path, name: None, _synthetic: None });
    };
    let shape = shape(preset, args.vocab, args.layers);
    let model = SyntheticModel::new(shape, 1).map_err(|e| Failure::new(exit::USAGE, e))?;
    let folder = tempfile::tempdir().map_err(|e| {
        Failure::new(exit::FAILURE, format!("cannot make a temporary folder: {e}; set TMPDIR"))
    })?;
    interrupt::remove_at_end(folder.path());
    let path = folder.path().join("model.gguf");
    let bar = progress::bar("writing", model.data_bytes(), quiet);
    bitnetc_tools::synth::write_synthetic(&path, &model, |done| {
        bar.set_position(done);
        !interrupt::requested()
    })?;
    bar.finish_and_clear();
    Ok(Subjects {
        path: Some(path),
        name: Some(format!("synthetic {}", preset.name)),
        _synthetic: Some(folder),
    })
}

/// Writes results as they come, or all at the end.
struct Report {
    format: ReportFormat,
    machine: Machine,
    build: Build,
    tests: Vec<(Subject, Outcome)>,
}

/// What is known when all tests have been run.
struct End<'a> {
    limits: &'a [ThreadLimits],
    buffer_bytes: u64,
    startup: Option<&'a Startup>,
    comparisons: Option<&'a Comparisons>,
    baseline: Option<&'a Value>,
}

impl Report {
    fn begin(&self) -> Result<(), Failure> {
        match (self.format, style(self.format)) {
            (_, Some(style)) => output::print(&report::head(style, &self.machine, &self.build)),
            (ReportFormat::Csv, _) => output::print(report::CSV_HEAD),
            _ => Ok(()),
        }
    }

    /// The tests of another model, or of the same one with other options, follow.
    fn model(&self, subject: &Subject) -> Result<(), Failure> {
        match style(self.format) {
            Some(style) => output::print(&report::model_head(style, subject)),
            None => Ok(()),
        }
    }

    fn test(&mut self, subject: &Subject, outcome: Outcome) -> Result<(), Failure> {
        match (self.format, style(self.format)) {
            (_, Some(style)) => output::print(&report::row(style, subject, &outcome))?,
            (ReportFormat::Csv, _) => output::print(&report::csv_row(subject, &outcome))?,
            (ReportFormat::Jsonl, _) => {
                let mut line = report::json_test(subject, &outcome);
                line["cpu"] = json!(self.machine.cpu);
                line["version"] = json!(self.build.version);
                line["schema"] = json!("bitnetc.bench-test/1");
                output::print(&format!("{line}\n"))?;
            }
            _ => {}
        }
        self.tests.push((subject.clone(), outcome));
        Ok(())
    }

    /// The tests as series to compare.
    fn series(&self) -> Result<Vec<Series>, Failure> {
        let all = self.tests.iter().map(|(subject, outcome)| report::json_test(subject, outcome));
        all.map(|test| compare::series(&test).map_err(|e| Failure::new(exit::FAILURE, e))).collect()
    }

    /// The whole report, `bitnetc.bench/2`.
    fn document(&self, end: &End<'_>) -> Value {
        let (machine, build) = report::json_head(&self.machine, &self.build);
        let tests = self.tests.iter().map(|(subject, outcome)| report::json_test(subject, outcome));
        let mut document = json!({
            "schema": "bitnetc.bench/2",
            "machine": machine,
            "build": build,
            "buffer_bytes": end.buffer_bytes,
            "limits": report::json_limits(end.limits),
            "tests": tests.collect::<Vec<_>>(),
        });
        if let Some(startup) = end.startup {
            document["startup"] = startup.json();
        }
        if let Some(comparisons) = end.comparisons {
            document["comparison"] = compare::json(comparisons);
            document["not_compared"] = json!(comparisons.not_compared);
        }
        document
    }

    /// What follows the rows of a table.
    fn tables(&self, style: TableStyle, end: &End<'_>) -> String {
        let mut text = report::share_note(&self.tests).to_owned();
        text += &report::limits_table(style, end.limits, end.buffer_bytes);
        text += &report::batch_table(style, &self.tests);
        text += &report::latency_table(style, &self.tests);
        for (subject, outcome) in &self.tests {
            text += &report::profile_tables(style, subject, outcome);
        }
        if let Some(startup) = end.startup {
            text += &startup.table(style);
        }
        if let Some(comparisons) = end.comparisons {
            text += &compare::table(style, comparisons);
        }
        text
    }

    fn end(&self, end: &End<'_>) -> Result<(), Failure> {
        match (self.format, style(self.format)) {
            (_, Some(style)) => output::print(&self.tables(style, end)),
            (ReportFormat::Html, _) => {
                let page = page(&self.document(end), end.baseline);
                output::print(&page.map_err(|e| Failure::new(exit::FAILURE, e))?)
            }
            (ReportFormat::Jsonl, _) => {
                let startup = end
                    .startup
                    .map(|startup| json!({ "schema": "bitnetc.bench-test/1", "startup": startup.json() }));
                let comparison = end
                    .comparisons
                    .map(|c| json!({ "schema": "bitnetc.bench-test/1", "comparison": compare::json(c), "not_compared": c.not_compared }));
                let lines: String =
                    startup.into_iter().chain(comparison).map(|line| format!("{line}\n")).collect();
                output::print(&lines)
            }
            // A table of tests has no place for it.
            (ReportFormat::Csv, _) => {
                if let Some(comparisons) = end.comparisons {
                    output::say(false, compare::table(TableStyle::Aligned, comparisons).trim_start());
                }
                Ok(())
            }
            _ => output::print_json(&self.document(end)),
        }
    }
}

/// The greatest limits that the tests have seen, by thread count.
fn seen_limits(roofline: &mut Roofline, tests: &[(Subject, Outcome)]) -> Result<Vec<ThreadLimits>, Failure> {
    let mut by_threads = BTreeMap::new();
    for (_, outcome) in tests {
        let seen = by_threads.entry(outcome.test.threads).or_insert_with(|| outcome.machine());
        *seen = seen.max(outcome.machine());
    }
    let mut all = Vec::new();
    for (threads, seen) in by_threads {
        let fma = roofline.fma_peak(threads, FMA_PASSES).map_err(bitnetc_tools::Error::from)?.median();
        all.push(ThreadLimits { threads, bandwidth: seen.bandwidth, int8: seen.int8, fma });
    }
    Ok(all)
}

/// A way to compile the model, and the tests that are run with it.
struct Variant {
    engine: EngineArgs,
    batch_size: Option<u32>,
    tests: Vec<Test>,
}

/// The values of a list, or the default.
fn or_default<T: Copy>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
}

/// What the lists of options multiply to. Where the packing of weights is chosen by the number of threads, each number
/// has a variant of its own.
fn variants(args: &BenchArgs, tests: &[Test], plan: bool) -> Vec<Variant> {
    let mut all = Vec::new();
    for &head in &or_default(&args.head) {
        for &weights in &or_default(&args.weights) {
            for &kv_type in &or_default(&args.kv_type) {
                for &batch_size in &or_default(&args.batch_size) {
                    let mut add = |threads: Option<u32>| {
                        for &codegen in &args.codegen {
                            let (speeds, cpu_features) = (SpeedsArg::Assumed, args.cpu_features.clone());
                            let activations = args.activations;
                            let build = BuildArgs {
                                threads,
                                kv_type,
                                head,
                                activations,
                                weights,
                                speeds,
                                cpu_features,
                            };
                            let engine = engine(args, build, codegen);
                            let tests =
                                tests.iter().copied().filter(|t| threads.is_none_or(|n| n == t.threads));
                            all.push(Variant { engine, batch_size, tests: tests.collect() });
                        }
                    };
                    if plan || !matches!(weights, None | Some(Weights::Auto)) {
                        add(None);
                    } else {
                        let threads: BTreeSet<u32> = tests.iter().map(|t| t.threads).collect();
                        threads.into_iter().for_each(|n| add(Some(n)));
                    }
                }
            }
        }
    }
    all
}

impl Variant {
    fn load_options(&self, args: &BenchArgs) -> Result<LoadOptions, Failure> {
        let mut options = self.engine.load_options()?;
        options.build.chunk = self.batch_size.unwrap_or(options.build.chunk);
        options.build.pipeline = pipeline(None, OptLevel::default(), &args.disable_pass)?;
        Ok(options)
    }
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs, quiet: bool) -> CommandOutcome {
    match &args.command {
        Some(BenchCommand::Kernels(args)) => return bench_kernels::run(args, quiet),
        Some(BenchCommand::Passes(args)) => return bench_passes::run(args, quiet),
        Some(BenchCommand::Serve(args)) => return bench_serve::run(args, quiet),
        Some(BenchCommand::Startup(args)) => return startup::run(args, quiet),
        None => {}
    }
    interrupt::listen();
    let baseline = baseline(args)?;
    let tests = tests(args);
    if tests.is_empty() && !args.startup {
        return Err(Failure::new(exit::USAGE, "nothing to measure: set -p, -n or --pg above 0"));
    }
    let subjects = subject(args, quiet)?;
    let plan = subjects.path.as_deref().is_some_and(is_plan);
    if plan && !(args.batch_size.is_empty() && args.disable_pass.is_empty()) {
        let message = "a plan is already compiled: use --batch-size and --disable-pass with the .gguf file";
        return Err(Failure::new(exit::USAGE, message));
    }
    let startup = match args.startup {
        true => Some(startup::startup(&startup_args(args), subjects.path.as_deref(), quiet)?),
        false => None,
    };
    let host = host()?;
    let mut report = Report {
        format: format(args),
        machine: Machine::describe(&host),
        build: Build::this(),
        tests: Vec::new(),
    };
    if report.build.profile == "debug" {
        output::say(quiet, "warning: this is a debug build; build with --release for meaningful figures");
    }
    let limits = || limits_of_machine(args.limits_buffer.map(|mib| mib << 20));
    let mut roofline = progress::working("measuring", quiet, limits)?;
    report.begin()?;
    let mut interrupted = false;
    for (i, variant) in variants(args, &tests, plan).iter().filter(|v| !v.tests.is_empty()).enumerate() {
        interrupted = interrupted || interrupt::requested();
        if interrupted {
            break;
        }
        let loaded = models::load_file(subjects.path.as_deref(), &variant.load_options(args)?, quiet)?;
        if i == 0 {
            announce(&loaded, subjects.path.is_some(), quiet);
        }
        let options = BenchOptions {
            repetitions: args.repetitions,
            warm_up: !args.no_warmup,
            profile: args.profile,
            context: variant.tests.iter().map(Test::context).max().unwrap_or(1),
            sequences: variant.tests.iter().map(|test| test.sequences).max().unwrap_or(1),
            keep_going: (|| !interrupt::requested()).into(),
        };
        let mut bench = Bench::new(&loaded, &mut roofline, options);
        let name = subjects.name.clone().unwrap_or_else(|| loaded.name.clone());
        let subject = Subject::of(&loaded, name, bench.accounts().chunk(), args.batch_size.len() > 1);
        let bar = progress::bar("bench", variant.tests.len() as u64 * u64::from(args.repetitions), quiet);
        bar.suspend(|| report.model(&subject))?;
        for &test in &variant.tests {
            let outcome = bench.run(test, &mut |p| show(&bar, test, p))?;
            if let Some(outcome) = outcome {
                bar.suspend(|| report.test(&subject, outcome))?;
            }
            if bench.interrupted() {
                interrupted = true;
                break;
            }
        }
        bar.finish_and_clear();
    }
    let limits = progress::working("measuring", quiet, || seen_limits(&mut roofline, &report.tests))?;
    let comparisons = match &baseline {
        Some(old) => Some(compare::compare_all(&old.series, &report.series()?, args.threshold / 100.0)),
        None => None,
    };
    report.end(&End {
        limits: &limits,
        buffer_bytes: roofline.buffer_bytes(),
        startup: startup.as_ref(),
        comparisons: comparisons.as_ref(),
        baseline: baseline.as_ref().map(|old| &old.report),
    })?;
    if interrupted {
        return Ok(exit::INTERRUPTED);
    }
    match comparisons {
        Some(found) if found.compared.is_empty() => {
            let message =
                "no test of this run is in the baseline: run the same model, options, tests and threads";
            Err(Failure::new(exit::FAILURE, message))
        }
        Some(found) if found.compared.iter().any(|c| c.verdict == Verdict::Slower) => Ok(exit::REGRESSION),
        _ => Ok(exit::OK),
    }
}

fn show(bar: &ProgressBar, test: Test, progress: Progress) {
    let what = format!("{} t{}", test.name(), test.threads);
    match progress {
        Progress::Filling if test.depth > 0 => bar.set_message(format!("{what}: to depth {}", test.depth)),
        Progress::Filling => bar.set_message(what),
        Progress::Profiling => bar.set_message(format!("{what}: profile")),
        Progress::Sample { rate, .. } => {
            bar.set_message(format!("{what}: {rate:.1}/s"));
            bar.inc(1);
        }
    }
}
