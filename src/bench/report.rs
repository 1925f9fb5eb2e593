//! Outcomes as Markdown, CSV and JSON.
//!
//! Units in CSV and JSON are plain: tokens per second, bytes, multiply-adds, and both of these per second; shares are from
//! 0 to 1 (above 1 where a model fits in the caches). Markdown is for people.

use serde_json::{Value, json};

use super::limits::LimitKind;
use super::machine::{Build, Machine, today};
use super::outcome::Outcome;
use crate::load::Loaded;

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
}

impl Subject {
    /// A loaded model, called `model`.
    pub fn of(loaded: &Loaded, model: String, chunk: u32) -> Self {
        Self { model, options: Vec::new(), weight_bytes: loaded.model.weight_bytes(), chunk }
    }

    /// Name and options in one line.
    fn title(&self) -> String {
        let options = self.options.iter().map(|(name, value)| format!(", {name} {value}"));
        format!("{}{}", self.model, options.collect::<String>())
    }
}

/// Limits of so many threads, over all tests, in bytes and multiply-adds per second.
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

/// Lines before a Markdown table.
pub fn markdown_head(machine: &Machine, build: &Build) -> String {
    format!(
        "{}, {} threads, {}; bitnetc {} ({}), {}\n\n\
         | model | threads | test | tokens/s | MB/token | MMAC/token | limit | of the limit | paired |\n\
         |---|--:|---|--:|--:|--:|---|--:|--:|\n",
        machine.cpu,
        machine.threads,
        machine.os,
        build.version,
        build.profile,
        today()
    )
}

/// A row of a Markdown table.
pub fn markdown_row(subject: &Subject, o: &Outcome) -> String {
    let (kind, rate) = o.limit();
    let limit = match kind {
        LimitKind::Bandwidth => format!("{:.1} GB/s", rate / 1e9),
        LimitKind::Int8 => format!("{:.0} GMAC/s", rate / 1e9),
    };
    let depth = if o.test.depth > 0 { format!(" @ d{}", o.test.depth) } else { String::new() };
    format!(
        "| {} | {} | {}{depth} | {:.2} ± {:.2} | {:.1} | {:.0} | {limit} | {:.0} % | {:.0} % |\n",
        subject.title(),
        o.test.threads,
        o.test.name(),
        o.mean(),
        o.deviation(),
        o.bytes_per_token() as f64 / 1e6,
        o.macs_per_token() as f64 / 1e6,
        100.0 * o.share_of_limit(),
        100.0 * o.share_paired()
    )
}

/// A Markdown table of the limits.
pub fn markdown_limits(limits: &[ThreadLimits], buffer_bytes: u64) -> String {
    let mut text = format!(
        "\n| threads | read bandwidth ({:.1} GB buffer) | int8 peak | f32 peak |\n|--:|--:|--:|--:|\n",
        buffer_bytes as f64 / 1e9
    );
    for l in limits {
        text += &format!(
            "| {} | {:.1} GB/s | {:.0} GMAC/s | {:.0} GMAC/s |\n",
            l.threads,
            l.bandwidth / 1e9,
            l.int8 / 1e9,
            l.fma / 1e9
        );
    }
    text
}

/// The first line of CSV.
pub const CSV_HEAD: &str = "model,options,test,threads,depth,tok_per_s,stddev,bytes_per_token,macs_per_token,limit,\
                            limit_value,share_of_limit,share_paired\n";

/// A line of CSV.
pub fn csv_row(subject: &Subject, o: &Outcome) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let options: Vec<String> =
        subject.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (kind, rate) = o.limit();
    format!(
        "{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
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
        o.share_paired()
    )
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
        "tok_per_s": o.mean(),
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
        "chunk": subject.chunk,
        "weight_bytes": subject.weight_bytes,
        "work": {
            "weight_bytes": o.work.weight_bytes,
            "kv_bytes": o.work.kv_bytes,
            "ternary_macs": o.work.ternary_macs,
            "dense_macs": o.work.dense_macs,
            "attention_macs": o.work.attention_macs,
        },
        "limit_samples": o.limits.iter().map(|l| json!({ "bandwidth": l.bandwidth, "int8": l.int8 })).collect::<Vec<_>>(),
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
        .map(|l| json!({ "threads": l.threads, "bandwidth": l.bandwidth, "int8": l.int8, "fma": l.fma }))
        .collect()
}
