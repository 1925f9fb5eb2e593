//! Metrics in the text format of Prometheus.
//!
//! Each metric has our name and those of the servers of llama.cpp and vLLM, so that their dashboards work; [`TABLE`] lists them. The
//! engine's metrics are atomics, so reading them never waits for a step.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use bitnetc::engine::{Histogram, Metrics};
use bitnetc::runtime::memory;

use crate::admission::Admission;
use crate::registry::{Entry, Registry};

/// Statuses of refusals that are counted each.
const STATUSES: [u16; 13] = [400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 503];

/// What the server counts itself.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    refused: [AtomicU64; STATUSES.len()],
    requests: AtomicU64,
}

impl Counters {
    /// Takes note of an answer. A probe that says no refuses nothing.
    pub(crate) fn answered(&self, status: StatusCode, is_probe: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if is_probe && status == StatusCode::SERVICE_UNAVAILABLE {
            return;
        }
        if let Some(at) = STATUSES.iter().position(|&counted| counted == status.as_u16())
            && let Some(counter) = self.refused.get(at)
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is known of a model that is or was loaded.
struct Measured {
    name: String,
    metrics: Arc<Metrics>,
    /// Its queue, while it is loaded.
    admission: Option<Arc<Admission>>,
    /// Bytes per second that its threads read from memory, where that was measured.
    bandwidth: Option<f64>,
}

impl Measured {
    /// `None`: it has not been loaded.
    fn of(entry: &Entry, bandwidth: Option<f64>) -> Option<Self> {
        let admission = entry.running().map(|lease| Arc::clone(&lease.admission));
        let was_loaded = entry.metrics.kv_capacity.get() > 0;
        was_loaded.then(|| Self {
            name: entry.source.name.clone(),
            metrics: Arc::clone(&entry.metrics),
            admission,
            bandwidth,
        })
    }
}

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Where a number comes from.
#[derive(Clone, Copy)]
enum Value {
    /// A number of a model.
    Number(fn(&Measured) -> f64),
    /// A number of a model that may not be known.
    Known(fn(&Measured) -> Option<f64>),
    /// Numbers of a model with another label.
    Labelled(&'static str, fn(&Measured) -> Vec<(&'static str, f64)>),
    Histogram(fn(&Metrics) -> &Histogram),
    /// Histograms of a model with another label.
    Histograms(&'static str, fn(&Metrics) -> Vec<(&'static str, &Histogram)>),
}

/// A number, and its names.
struct Row {
    /// After `bitnetc:`.
    name: &'static str,
    /// Its whole names elsewhere.
    twins: &'static [&'static str],
    kind: Kind,
    help: &'static str,
    value: Value,
}

const fn row(
    name: &'static str,
    twins: &'static [&'static str],
    kind: Kind,
    help: &'static str,
    value: Value,
) -> Row {
    Row { name, twins, kind, help, value }
}

/// A share of a whole that may be nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn step_seconds(metrics: &Metrics) -> Vec<(&'static str, &Histogram)> {
    let steps = &metrics.step_seconds;
    vec![("decode", &steps.decode), ("mixed", &steps.mixed), ("prefill", &steps.prefill)]
}

fn finished(model: &Measured) -> Vec<(&'static str, f64)> {
    let finished = &model.metrics.finished;
    let stop = finished.end_token.get() + finished.stop_string.get() + finished.grammar.get();
    let length = finished.limit.get() + finished.context_full.get();
    let all = [
        ("stop", stop),
        ("length", length),
        ("abort", finished.cancelled.get()),
        ("error", finished.failed.get()),
    ];
    all.map(|(reason, count)| (reason, count as f64)).into()
}

/// Rows that are computed at a time, on average.
fn rows_per_step(model: &Measured) -> f64 {
    let metrics = &model.metrics;
    if metrics.steps.get() == 0 { 0.0 } else { metrics.step_rows.sum() / metrics.steps.get() as f64 }
}

/// Tokens or bytes per second of the steps of these kinds.
fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// All numbers of a model.
const TABLE: &[Row] = &[
    row(
        "num_requests_running",
        &["vllm:num_requests_running", "llamacpp:requests_processing"],
        Kind::Gauge,
        "Texts that have a sequence.",
        Value::Number(|model| model.metrics.running.get() as f64),
    ),
    row(
        "num_requests_waiting",
        &["vllm:num_requests_waiting", "llamacpp:requests_deferred"],
        Kind::Gauge,
        "Texts that wait for a sequence.",
        Value::Number(|model| {
            let of_engine = model.metrics.waiting.get();
            let of_queue = model.admission.as_ref().map_or(0, |admission| admission.waiting() as u64);
            of_queue.max(of_engine) as f64
        }),
    ),
    row(
        "kv_cache_usage_perc",
        &["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "llamacpp:kv_cache_usage_ratio"],
        Kind::Gauge,
        "Share of the KV cache that running texts hold, 0 to 1.",
        Value::Number(|model| {
            let metrics = &model.metrics;
            share(metrics.kv_tokens.get(), metrics.kv_capacity.get())
        }),
    ),
    row(
        "kv_cache_tokens",
        &["llamacpp:kv_cache_tokens"],
        Kind::Gauge,
        "Tokens of running texts that the KV cache holds.",
        Value::Number(|model| model.metrics.kv_tokens.get() as f64),
    ),
    row(
        "stored_prefix_bytes",
        &[],
        Kind::Gauge,
        "Bytes of prefixes that are stored outside of the sequences.",
        Value::Number(|model| model.metrics.stored_bytes.get() as f64),
    ),
    row(
        "prompt_tokens_total",
        &["vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total"],
        Kind::Counter,
        "Tokens of prompts that were computed.",
        Value::Number(|model| model.metrics.prompt_tokens.get() as f64),
    ),
    row(
        "generation_tokens_total",
        &["vllm:generation_tokens_total", "llamacpp:tokens_predicted_total"],
        Kind::Counter,
        "Tokens that were generated.",
        Value::Number(|model| model.metrics.generation_tokens.get() as f64),
    ),
    row(
        "decode_steps_total",
        &["llamacpp:n_decode_total"],
        Kind::Counter,
        "Steps that were computed.",
        Value::Number(|model| model.metrics.steps.get() as f64),
    ),
    row(
        "rows_per_step",
        &["llamacpp:n_busy_slots_per_decode"],
        Kind::Gauge,
        "Rows that a step computes, on average.",
        Value::Number(rows_per_step),
    ),
    row(
        "prompt_tokens_seconds",
        &["llamacpp:prompt_tokens_seconds"],
        Kind::Gauge,
        "Tokens of prompts computed per second of the steps with prompts, on average.",
        Value::Number(|model| {
            let metrics = &model.metrics;
            let steps = &metrics.step_seconds;
            rate(metrics.prompt_tokens.get(), steps.prefill.sum() + steps.mixed.sum())
        }),
    ),
    row(
        "generation_tokens_seconds",
        &["llamacpp:predicted_tokens_seconds"],
        Kind::Gauge,
        "Tokens generated per second of the steps with decoding, on average.",
        Value::Number(|model| {
            let metrics = &model.metrics;
            let steps = &metrics.step_seconds;
            rate(metrics.generation_tokens.get(), steps.decode.sum() + steps.mixed.sum())
        }),
    ),
    row(
        "decode_read_bytes_total",
        &[],
        Kind::Counter,
        "Bytes of weights and KV caches that the steps without rows of prompts had to read.",
        Value::Number(|model| model.metrics.decode_read_bytes.get() as f64),
    ),
    row(
        "share_of_bandwidth",
        &[],
        Kind::Gauge,
        "These bytes per second of those steps, on average, as a share of the measured read bandwidth.",
        Value::Known(|model| {
            let bytes = rate(model.metrics.decode_read_bytes.get(), model.metrics.step_seconds.decode.sum());
            Some(bytes / model.bandwidth?)
        }),
    ),
    row(
        "prefix_cache_queries_total",
        &["vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"],
        Kind::Counter,
        "Tokens of prompts that were looked for among those computed before.",
        Value::Number(|model| model.metrics.prefix_queries.get() as f64),
    ),
    row(
        "prefix_cache_hits_total",
        &["vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"],
        Kind::Counter,
        "Of these, tokens that were found.",
        Value::Number(|model| model.metrics.prefix_hits.get() as f64),
    ),
    row(
        "num_preemptions_total",
        &["vllm:num_preemptions_total"],
        Kind::Counter,
        "Texts that lost their sequence because their clients did not read.",
        Value::Number(|model| model.metrics.preemptions.get() as f64),
    ),
    row(
        "requests_cancelled_total",
        &[],
        Kind::Counter,
        "Texts whose clients disconnected or cancelled them.",
        Value::Number(|model| model.metrics.finished.cancelled.get() as f64),
    ),
    row(
        "request_success_total",
        &["vllm:request_success_total"],
        Kind::Counter,
        "Texts that have ended, by reason.",
        Value::Labelled("finished_reason", finished),
    ),
    row(
        "time_to_first_token_seconds",
        &["vllm:time_to_first_token_seconds"],
        Kind::Histogram,
        "From submission to the first token.",
        Value::Histogram(|metrics| &metrics.first_token_seconds),
    ),
    row(
        "inter_token_latency_seconds",
        &["vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"],
        Kind::Histogram,
        "From one token to the next, every gap.",
        Value::Histogram(|metrics| &metrics.inter_token_seconds),
    ),
    row(
        "e2e_request_latency_seconds",
        &["vllm:e2e_request_latency_seconds"],
        Kind::Histogram,
        "From submission to the end.",
        Value::Histogram(|metrics| &metrics.request_seconds),
    ),
    row(
        "request_queue_time_seconds",
        &["vllm:request_queue_time_seconds"],
        Kind::Histogram,
        "From submission until there was a sequence.",
        Value::Histogram(|metrics| &metrics.queue_seconds),
    ),
    row(
        "request_prefill_time_seconds",
        &["vllm:request_prefill_time_seconds"],
        Kind::Histogram,
        "From then to the first token.",
        Value::Histogram(|metrics| &metrics.prefill_seconds),
    ),
    row(
        "request_decode_time_seconds",
        &["vllm:request_decode_time_seconds"],
        Kind::Histogram,
        "From the first token to the end.",
        Value::Histogram(|metrics| &metrics.decode_seconds),
    ),
    row(
        "request_prompt_tokens",
        &["vllm:request_prompt_tokens"],
        Kind::Histogram,
        "Tokens of the prompt.",
        Value::Histogram(|metrics| &metrics.request_prompt_tokens),
    ),
    row(
        "request_generation_tokens",
        &["vllm:request_generation_tokens"],
        Kind::Histogram,
        "Tokens that were generated.",
        Value::Histogram(|metrics| &metrics.request_generation_tokens),
    ),
    row(
        "iteration_tokens_total",
        &["vllm:iteration_tokens_total"],
        Kind::Histogram,
        "Rows of a step.",
        Value::Histogram(|metrics| &metrics.step_rows),
    ),
    row(
        "step_seconds",
        &[],
        Kind::Histogram,
        "Time of a step with sampling, by what it computed.",
        Value::Histograms("kind", step_seconds),
    ),
];

/// A label's value, as the format has it.
fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Writes the head of a number.
fn head(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let mut count = 0;
    let bounds = histogram.bounds().iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
    for (bound, more) in bounds.zip(histogram.counts()) {
        count += more;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
    }
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {count}", histogram.sum());
}

impl Row {
    /// Writes the number of each model. A model that is not loaded keeps its counters, and has nothing that rises and falls.
    fn write(&self, out: &mut String, name: &str, models: &[Measured]) {
        head(out, name, self.kind, self.help);
        for model in models.iter().filter(|model| model.admission.is_some() || self.kind != Kind::Gauge) {
            let labels = format!("model_name=\"{}\"", quoted(&model.name));
            let metrics = &model.metrics;
            match self.value {
                Value::Number(number) => drop(writeln!(out, "{name}{{{labels}}} {}", number(model))),
                Value::Known(number) => {
                    if let Some(number) = number(model) {
                        let _ = writeln!(out, "{name}{{{labels}}} {number}");
                    }
                }
                Value::Labelled(label, numbers) => {
                    for (value, number) in numbers(model) {
                        let _ = writeln!(out, "{name}{{{labels},{label}=\"{value}\"}} {number}");
                    }
                }
                Value::Histogram(of) => histogram(out, name, &labels, of(metrics)),
                Value::Histograms(label, all) => {
                    for (value, each) in all(metrics) {
                        histogram(out, name, &format!("{labels},{label}=\"{value}\""), each);
                    }
                }
            }
        }
    }
}

/// All numbers, as text.
pub(crate) fn render(registry: &Registry, counters: &Counters) -> String {
    let bandwidth = registry.bandwidth();
    let models: Vec<Measured> =
        registry.entries.iter().filter_map(|entry| Measured::of(entry, bandwidth)).collect();
    let mut out = String::with_capacity(32 << 10);
    for row in TABLE {
        row.write(&mut out, &format!("bitnetc:{}", row.name), &models);
        row.twins.iter().for_each(|name| row.write(&mut out, name, &models));
    }
    let name = "bitnetc:http_requests_total";
    head(&mut out, name, Kind::Counter, "Requests that were answered, refused ones among them.");
    let _ = writeln!(out, "{name} {}", counters.requests.load(Ordering::Relaxed));
    let name = "bitnetc:requests_refused_total";
    head(&mut out, name, Kind::Counter, "Requests that were refused, by status.");
    for (status, count) in STATUSES.iter().zip(&counters.refused) {
        let _ = writeln!(out, "{name}{{status=\"{status}\"}} {}", count.load(Ordering::Relaxed));
    }
    if let Some(resident) = memory::resident() {
        let name = "process_resident_memory_bytes";
        head(&mut out, name, Kind::Gauge, "Resident memory in bytes.");
        let _ = writeln!(out, "{name} {resident}");
    }
    let name = "bitnetc:build_info";
    head(&mut out, name, Kind::Gauge, "The version, always 1.");
    let _ = writeln!(out, "{name}{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    out
}

/// Returns our name, the names in other servers and the description of each metric.
pub fn metric_names() -> Vec<(String, &'static [&'static str], &'static str)> {
    TABLE.iter().map(|row| (format!("bitnetc:{}", row.name), row.twins, row.help)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_of_one_number_and_say_what_it_is() {
        let mut seen = BTreeSet::new();
        for row in TABLE {
            for name in [row.name].iter().chain(row.twins) {
                assert!(seen.insert(*name), "{name}");
                assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':'), "{name}");
            }
            assert!(row.help.ends_with('.'), "{}", row.name);
            assert_eq!(
                row.kind == Kind::Histogram,
                matches!(row.value, Value::Histogram(_) | Value::Histograms(..))
            );
        }
    }

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        let mut out = String::new();
        histogram(&mut out, "x", "a=\"b\"", &metrics.step_rows);
        assert!(out.starts_with("x_bucket{a=\"b\",le=\"1\"} 0\n"), "{out}");
        assert!(
            out.ends_with("x_bucket{a=\"b\",le=\"+Inf\"} 0\nx_sum{a=\"b\"} 0\nx_count{a=\"b\"} 0\n"),
            "{out}"
        );
        assert_eq!(quoted("a\"\\\n"), "a\\\"\\\\\\n");
    }
}
