//! Outcomes as tables, CSV and JSON.
//!
//! Units in CSV and JSON are plain: tokens per second, bytes, multiply-adds, and both of these per second; shares are from
//! 0 to 1 (above 1 where a model fits in the caches). Tables are for people.

use std::collections::BTreeSet;

use bitnetc::ActivationFormat;
use bitnetc::compile::{activations_of, has_ternary_head};
use bitnetc_codegen::compile::Selector;
use bitnetc_ir::{DType, EntryPoint, Layout, Module, Operand, ParamId};
use bitnetc_passes::HeadFormat;
use bitnetc_runtime::profile::{Profile, ProgramProfile};
use serde_json::{Value, json};

use super::limits::LimitKind;
use super::machine::{Build, Machine, today};
use super::outcome::Outcome;
use super::run::Test;
use super::table::{Column, Table, TableStyle};
use bitnetc::engine::Latency;
use bitnetc::load::Loaded;

/// What all tests of a report have in common.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Name of the model.
    pub model: String,
    /// What distinguishes this model from others in the same report, as pairs of option and value.
    pub options: Vec<(&'static str, String)>,
    /// Bytes of its packed weights.
    pub weight_bytes: u64,
    /// Tokens that one prefill call handles at most.
    pub chunk: u32,
    /// Whether the chunk distinguishes this model from others in the same report.
    pub chunk_varies: bool,
}

impl Subject {
    /// A loaded model, called `model`; its options are read off the planned module.
    pub fn of(loaded: &Loaded, model: String, chunk: u32, chunk_varies: bool) -> Self {
        let mut options = options_of(&loaded.module);
        options.push(("codegen", selectors_of(&loaded.model.compiled().selectors)));
        Self { model, options, weight_bytes: loaded.model.weight_bytes(), chunk, chunk_varies }
    }

    /// Name and options in one line.
    fn title(&self) -> String {
        let options = self.options.iter().map(|(name, value)| format!(", {name} {value}"));
        let chunk = if self.chunk_varies { format!(", batch size {}", self.chunk) } else { String::new() };
        format!("{}{}{chunk}", self.model, options.collect::<String>())
    }
}

/// What a screened head is called, however many rows it computes exactly.
const SCREENED: &str = "screened";

/// How a planned module stores what a step reads: head, ternary weights and KV cache.
fn options_of(module: &Module) -> Vec<(&'static str, String)> {
    let Some(decode) = module.entry_point(EntryPoint::Decode).map(|id| &module.funcs()[id]) else {
        return Vec::new();
    };
    let param_type = |p: ParamId| module.params()[p].ty.clone();
    let (mut heads, mut packings, mut caches) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for &id in decode.order() {
        let node = decode.node(id);
        for &operand in &node.operands {
            let ty = decode.operand_type(operand, &param_type);
            let param = matches!(operand, Operand::Param(_));
            match (HeadFormat::of_op(&node.op, ty.dtype), ty.dtype, ty.layout) {
                (Some(HeadFormat::Stored), dtype, _) if param => drop(heads.insert(dtype.name().to_owned())),
                (Some(HeadFormat::Screened { .. }), ..) => drop(heads.insert(SCREENED.to_owned())),
                (Some(format), ..) if param => drop(heads.insert(format.to_string())),
                (_, DType::Ter, Layout::Tile16) => drop(packings.insert("2bit")),
                (_, DType::Ter, Layout::Trits16 | Layout::Lut16) => drop(packings.insert("1.6bit")),
                (_, dtype, _) if ty.as_cache().is_some() => drop(caches.insert(dtype.name())),
                _ => {}
            }
        }
    }
    if has_ternary_head(module) {
        heads.insert(HeadFormat::Ternary.to_string());
    }
    if heads.contains(SCREENED) {
        heads.retain(|head| head == SCREENED);
    }
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join("+");
    let heads = list(heads.iter().map(String::as_str).collect());
    let mut all = vec![("head", heads), ("weights", list(packings)), ("kv", list(caches))];
    // The first format, which most models have, is not worth a word.
    let activations = activations_of(module).filter(|&format| format != ActivationFormat::Int8Token);
    all.extend(activations.map(|format| ("activations", format.to_string())));
    all
}

/// The instruction selectors that made a model's kernels, the most frequent first; with how many, where there are two.
fn selectors_of(selectors: &[Selector]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for name in selectors.iter().map(|s| s.name()) {
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let shown: Vec<String> = match &counts[..] {
        [(name, _)] => vec![(*name).to_owned()],
        several => several.iter().map(|(name, count)| format!("{name} ({count})")).collect(),
    };
    shown.join("+")
}

/// Limits of a number of threads, over all tests, in bytes and multiply-adds per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThreadLimits {
    /// Threads.
    pub threads: u32,
    /// Greatest median of reading.
    pub bandwidth: f64,
    /// Greatest median of int8 multiply-adds.
    pub int8: f64,
    /// Median of f32 fused multiply-adds.
    pub fma: f64,
}

/// The table of tests. Rows come as tests end, so columns have room for what usually stands in them. In a Markdown table the
/// model has a column; on a terminal it stands over its rows.
fn tests_table(style: TableStyle) -> Table {
    let mut columns = match style {
        TableStyle::Markdown => vec![Column::left("model")],
        TableStyle::Aligned => Vec::new(),
    };
    columns.extend([
        Column::right("threads"),
        Column::left("test").at_least(16),
        Column::right("tokens/s").at_least(19),
        Column::right("MB/token").at_least(8),
        Column::right("MMAC/token").at_least(10),
        Column::left("limit").at_least(11),
        Column::right("of the limit"),
        Column::right("paired"),
    ]);
    Table::new(columns)
}

/// What stands before the first test: machine and build and, of a Markdown table, its head.
pub fn head(style: TableStyle, machine: &Machine, build: &Build) -> String {
    let table = match style {
        TableStyle::Markdown => tests_table(style).head(style),
        TableStyle::Aligned => String::new(),
    };
    format!("{}\n{table}", machine_line(machine, build))
}

/// What stands before the tests of a model: on a terminal its name and the titles of the columns.
pub fn model_head(style: TableStyle, subject: &Subject) -> String {
    match style {
        TableStyle::Markdown => String::new(),
        TableStyle::Aligned => format!("{}\n{}", subject.title(), tests_table(style).head(style)),
    }
}

/// Machine, build and date in one line.
pub fn machine_line(machine: &Machine, build: &Build) -> String {
    format!(
        "{}, {} threads, {}; bitnetc {} ({}), {}\n",
        machine.cpu,
        machine.threads,
        machine.os,
        build.version,
        build.profile,
        today()
    )
}

/// The row of a test.
pub fn row(style: TableStyle, subject: &Subject, o: &Outcome) -> String {
    let (kind, rate) = o.limit();
    let limit = match kind {
        LimitKind::Bandwidth => format!("{:.1} GB/s", rate / 1e9),
        LimitKind::Int8 => format!("{:.0} GMAC/s", rate / 1e9),
    };
    let depth = if o.test.depth > 0 { format!(" @ d{}", o.test.depth) } else { String::new() };
    let mut cells = match style {
        TableStyle::Markdown => vec![subject.title()],
        TableStyle::Aligned => Vec::new(),
    };
    cells.extend([
        o.test.threads.to_string(),
        format!("{}{depth}", o.test.name()),
        format!("{:.2} ± {:.2}", o.mean(), o.deviation()),
        format!("{:.1}", o.bytes_per_token() as f64 / 1e6),
        format!("{:.0}", o.macs_per_token() as f64 / 1e6),
        limit,
        format!("{:.0} %", 100.0 * o.share_of_limit()),
        format!("{:.0} %", 100.0 * o.share_paired()),
    ]);
    tests_table(style).row(style, &cells)
}

/// A table of the limits.
pub fn limits_table(style: TableStyle, limits: &[ThreadLimits], buffer_bytes: u64) -> String {
    let mut table = Table::new(vec![
        Column::right("threads"),
        Column::right(format!("read bandwidth ({:.1} GB buffer)", buffer_bytes as f64 / 1e9)),
        Column::right("int8 peak"),
        Column::right("f32 peak"),
    ]);
    for l in limits {
        table.push(vec![
            l.threads.to_string(),
            format!("{:.1} GB/s", l.bandwidth / 1e9),
            format!("{:.0} GMAC/s", l.int8 / 1e9),
            format!("{:.0} GMAC/s", l.fma / 1e9),
        ]);
    }
    format!("\n{}", table.render(style))
}

/// What a share above 100 % means, if a test has one.
pub fn share_note(tests: &[(Subject, Outcome)]) -> &'static str {
    // What is printed as 100 % is none above it.
    match tests.iter().any(|(_, o)| o.share_of_limit().max(o.share_paired()) >= 1.005) {
        true => {
            "\nMore than 100 % of a limit: the weights stay in caches that are faster than memory, or the machine was faster \
             during the test than while its limits were measured.\n"
        }
        false => "",
    }
}

/// A table of how long single tokens took, for the tests that generate; empty if there are none.
pub fn latency_table(style: TableStyle, tests: &[(Subject, Outcome)]) -> String {
    let mut table = Table::new(
        [Column::left("model"), Column::right("threads"), Column::left("test")]
            .into_iter()
            .chain(["p50 ms", "p90 ms", "p99 ms", "max ms"].map(Column::right))
            .collect(),
    );
    let mut any = false;
    for (subject, o) in tests {
        let Some(latency) = Latency::of(&o.token_times) else { continue };
        let mut row = vec![
            subject.title(),
            o.test.threads.to_string(),
            match o.test.depth {
                0 => o.test.name(),
                depth => format!("{} @ d{depth}", o.test.name()),
            },
        ];
        let times = [latency.p50, latency.p90, latency.p99, latency.max];
        row.extend(times.map(|time| format!("{:.3}", 1e3 * time.as_secs_f64())));
        table.push(row);
        any = true;
    }
    if any {
        format!("\nTime of a generated token, percentiles:\n\n{}", table.render(style))
    } else {
        String::new()
    }
}

/// A table of prompts and generation apart, as llama-batched-bench has it, for the tests with several sequences and those that
/// they are compared with; empty where every test has one.
pub fn batch_table(style: TableStyle, tests: &[(Subject, Outcome)]) -> String {
    if tests.iter().all(|(_, o)| o.test.sequences == 1) {
        return String::new();
    }
    let rates = ["prompts/s", "generated/s", "together/s"];
    let mut table = Table::new(
        [Column::left("model")]
            .into_iter()
            .chain(["threads", "depth", "pp", "tg", "npl"].map(Column::right))
            .chain(rates.map(Column::right))
            .collect(),
    );
    let cell = |rate: Option<f64>| rate.map_or_else(String::new, |rate| format!("{rate:.2}"));
    for (subject, o) in tests {
        let Test { prompt, generate, depth, sequences, threads, .. } = o.test;
        let shared = if o.test.shared_prompt { " shared" } else { "" };
        table.push(vec![
            subject.title(),
            threads.to_string(),
            depth.to_string(),
            format!("{prompt}{shared}"),
            generate.to_string(),
            sequences.to_string(),
            cell(o.prompt_rate()),
            cell(o.generation_rate()),
            format!("{:.2}", o.mean()),
        ]);
    }
    format!("\nTokens per second of all sequences together:\n\n{}", table.render(style))
}

/// Entry points that have run, in a profile.
fn used(profile: &Profile) -> impl Iterator<Item = &ProgramProfile> {
    profile.programs.iter().filter(|p| p.calls > 0)
}

/// Tables of where the time of a test went; empty if it was not recorded. The rows add up to the time.
pub fn profile_tables(style: TableStyle, subject: &Subject, o: &Outcome) -> String {
    let mut text = String::new();
    let Some(profile) = &o.profile else { return text };
    for program in used(profile) {
        let wall = program.wall_ns.max(1) as f64;
        let percent = |ns: f64| format!("{:.1} %", 100.0 * ns / wall);
        let ms = |ns: f64| format!("{:.4}", ns / program.calls as f64 / 1e6);
        text += &format!(
            "\n{}, {} threads, {} @ d{}: {} calls of @{}, {:.3} ms each\n\n",
            subject.title(),
            o.test.threads,
            o.test.name(),
            o.test.depth,
            program.calls,
            program.name,
            wall / program.calls as f64 / 1e6
        );
        let mut table = Table::new(vec![
            Column::left("op"),
            Column::right("steps"),
            Column::right("ms per call"),
            Column::right("of the time"),
            Column::right("waiting after it"),
        ]);
        for op in program.by_op() {
            let cells = [op.op.to_owned(), op.steps.to_string(), ms(op.busy_ns)];
            table.push(cells.into_iter().chain([percent(op.busy_ns), percent(op.wait_ns)]).collect());
        }
        if let Some(overhead) = program.overhead() {
            for (name, share) in [("barriers", overhead.barrier), ("dispatch", overhead.dispatch)] {
                let ns = share * wall;
                table.push(vec![name.to_owned(), String::new(), ms(ns), percent(ns), String::new()]);
            }
        }
        text += &table.render(style);
    }
    text
}

/// A profile as JSON: one entry for each entry point that ran.
fn json_profile(profile: &Profile) -> Value {
    let program = |p: &ProgramProfile| {
        let ops = p.by_op().into_iter().map(
            |op| json!({ "op": op.op, "steps": op.steps, "busy_ns": op.busy_ns, "wait_ns": op.wait_ns }),
        );
        let overhead = p.overhead();
        json!({
            "entry": p.name,
            "calls": p.calls,
            "wall_ns": p.wall_ns,
            "barrier_share": overhead.map(|o| o.barrier),
            "dispatch_share": overhead.map(|o| o.dispatch),
            "ops": ops.collect::<Vec<_>>(),
        })
    };
    used(profile).map(program).collect()
}

/// The first line of CSV.
pub const CSV_HEAD: &str = "model,options,test,threads,depth,tokens_per_second,stddev,bytes_per_token,macs_per_token,limit,\
                            limit_value,share_of_limit,share_paired,p50_ms,p90_ms,p99_ms,max_ms,sequences,shared_prompt,\
                            prompt_tokens_per_second,generated_tokens_per_second,chunk\n";

/// A line of CSV.
pub fn csv_row(subject: &Subject, o: &Outcome) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let options: Vec<String> =
        subject.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (kind, rate) = o.limit();
    let latency = match Latency::of(&o.token_times) {
        Some(l) => [l.p50, l.p90, l.p99, l.max].map(|time| ms(time).to_string()).join(","),
        None => ",,,".to_owned(),
    };
    format!(
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{latency},{},{},{},{},{}\n",
        quoted(&subject.model),
        quoted(&options.join(" ")),
        o.test.name(),
        o.test.threads,
        o.test.depth,
        o.mean(),
        o.deviation(),
        o.bytes_per_token(),
        o.macs_per_token(),
        kind.name(),
        rate,
        o.share_of_limit(),
        o.share_paired(),
        o.test.sequences,
        o.test.shared_prompt,
        o.prompt_rate().map_or_else(String::new, |rate| rate.to_string()),
        o.generation_rate().map_or_else(String::new, |rate| rate.to_string()),
        subject.chunk
    )
}

fn ms(time: std::time::Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// A test as JSON.
pub fn json_test(subject: &Subject, o: &Outcome) -> Value {
    let (kind, rate) = o.limit();
    let options: serde_json::Map<String, Value> =
        subject.options.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({
        "test": o.test.name(),
        "threads": o.test.threads,
        "depth": o.test.depth,
        "tokens_per_second": o.mean(),
        "stddev": o.deviation(),
        "samples": o.samples,
        "bytes_per_token": o.bytes_per_token(),
        "macs_per_token": o.macs_per_token(),
        "limit": kind.name(),
        "limit_value": rate,
        "share_of_limit": o.share_of_limit(),
        "share_paired": o.share_paired(),
        "model": subject.model,
        "options": options,
        "prompt_tokens": o.test.prompt,
        "generated_tokens": o.test.generate,
        "sequences": o.test.sequences,
        "shared_prompt": o.test.shared_prompt,
        "prompt_tokens_per_second": o.prompt_rate(),
        "generated_tokens_per_second": o.generation_rate(),
        "chunk": subject.chunk,
        "weight_bytes": subject.weight_bytes,
        "work": {
            "weight_bytes": o.work.weight_bytes,
            "kv_bytes": o.work.kv_bytes + o.work.state_bytes,
            "ternary_macs": o.work.ternary_macs,
            "dense_macs": o.work.dense_macs,
            "attention_macs": o.work.attention_macs,
        },
        "token_latency_ms": Latency::of(&o.token_times).map(|l| json!({
            "p50": ms(l.p50), "p90": ms(l.p90), "p99": ms(l.p99), "max": ms(l.max),
        })),
        "profile": o.profile.as_ref().map(json_profile),
        "limit_samples": o.limits.iter().map(|l| json!({ "read_bytes_per_second": l.bandwidth, "int8_macs_per_second": l.int8 })).collect::<Vec<_>>(),
    })
}

/// Machine and build as JSON: what stands before the tests.
pub fn json_head(machine: &Machine, build: &Build) -> (Value, Value) {
    let machine = json!({
        "cpu": machine.cpu,
        "target": machine.target,
        "threads": machine.threads,
        "l1d_bytes": machine.l1d_bytes,
        "l2_bytes": machine.l2_bytes,
        "last_cache_bytes": machine.last_cache_bytes,
        "memory_bytes": machine.memory_bytes,
        "os": machine.os,
    });
    let build = json!({ "version": build.version, "profile": build.profile, "date": today() });
    (machine, build)
}

/// Limits as JSON.
pub fn json_limits(limits: &[ThreadLimits]) -> Value {
    limits
        .iter()
        .map(|l| {
            json!({
                "threads": l.threads,
                "read_bytes_per_second": l.bandwidth,
                "int8_macs_per_second": l.int8,
                "f32_macs_per_second": l.fma,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bitnetc_ir::work::Work;

    use super::super::limits::Limits;
    use super::*;

    #[test]
    fn selectors_are_counted_where_they_differ() {
        use Selector::{Cranelift, X64};
        assert_eq!(selectors_of(&[X64, X64]), "x64");
        assert_eq!(selectors_of(&[Cranelift, X64, X64]), "x64 (2)+cranelift (1)");
        assert_eq!(selectors_of(&[]), "");
    }

    /// A generation of one token per second that reads `bytes`, on a machine that reads a gigabyte per second.
    fn measured(bytes: u64) -> (Subject, Outcome) {
        let limits = Limits { bandwidth: 1e9, int8: 1e12 };
        let subject = Subject {
            model: "tiny".to_owned(),
            options: Vec::new(),
            weight_bytes: bytes,
            chunk: 16,
            chunk_varies: false,
        };
        let outcome = Outcome {
            test: Test { prompt: 0, generate: 1, depth: 0, sequences: 1, shared_prompt: false, threads: 1 },
            samples: vec![1.0],
            limits: vec![limits; 2],
            work: Work { weight_bytes: bytes, ..Work::default() },
            token_times: Vec::new(),
            prompt_times: Vec::new(),
            profile: None,
        };
        (subject, outcome)
    }

    #[test]
    fn shares_above_the_limit_are_explained() {
        let note = |all: &[u64]| share_note(&all.iter().map(|&bytes| measured(bytes)).collect::<Vec<_>>());
        assert_eq!(note(&[]), "");
        // 100.4 % is printed as 100 %.
        assert_eq!(note(&[900_000_000, 1_004_000_000]), "");
        for all in [&[1_006_000_000][..], &[500_000_000, 3_000_000_000]] {
            assert!(note(all).starts_with("\nMore than 100 % of a limit: "), "{}", note(all));
        }
        let (subject, outcome) = measured(1_006_000_000);
        assert!(row(TableStyle::Markdown, &subject, &outcome).contains("| 101 %"));
        // The limits around a sample count as well as the greatest of all rounds.
        let (subject, mut outcome) = measured(900_000_000);
        outcome.limits.push(Limits { bandwidth: 2e9, int8: 1e12 });
        outcome.limits[0].bandwidth = 8e8;
        outcome.limits[1].bandwidth = 8e8;
        assert!(outcome.share_of_limit() < 0.5 && !share_note(&[(subject, outcome)]).is_empty());
    }
}
