//! The metrics of an engine: counters, gauges and histograms that other threads can read while it runs.
//!
//! Only the thread that steps the scheduler writes them, during the steps, so that gaps between tokens do not depend on when clients
//! read. All values are atomics: reading takes no lock and waits for no step, and writing allocates nothing. Values that are read
//! one after the other may belong to different steps.
//!
//! Names and meanings follow vLLM's metrics (`docs/serving.md` has the table); times are in seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::scheduler::Step;
use super::text::Stop;

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The number as of the latest step.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

/// How often values fell between bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// For each bound the values up to it and above the one before; the last one is for values above all bounds.
    counts: Box<[AtomicU64]>,
    /// The bits of an f64.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0f64.to_bits()) }
    }

    /// The upper bounds of the buckets, rising; one more bucket has none.
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// The number of values in each bucket, in the order of the bounds; the last one is of those above all bounds.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed))
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.counts().sum()
    }

    /// The sum of all values.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }

    pub(super) fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // There is one writer.
        let sum = self.sum() + value;
        self.sum.store(sum.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }
}

const FIRST_TOKEN: [f64; 16] =
    [0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 160.0];
const BETWEEN_TOKENS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST: [f64; 20] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0,
];
const STEP: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0, 2.5];
const TOKENS: [f64; 18] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5];
const ROWS: [f64; 14] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// Requests that have ended, by what ended them.
#[derive(Debug, Default)]
pub struct Finished {
    /// By an end token of the model.
    pub end_token: Counter,
    /// By a stop string.
    pub stop_string: Counter,
    /// By the end of the grammar.
    pub grammar: Counter,
    /// By the number of tokens that was asked for.
    pub limit: Counter,
    /// By the end of the context.
    pub context_full: Counter,
    /// By their clients, who cancelled or left.
    pub cancelled: Counter,
    /// By an error.
    pub failed: Counter,
}

/// Steps of each kind.
#[derive(Debug)]
pub struct StepSeconds {
    /// Those with rows of sequences that decode only.
    pub decode: Histogram,
    /// Those with such rows and rows of prompts.
    pub mixed: Histogram,
    /// Those with rows of prompts only.
    pub prefill: Histogram,
}

/// See the module.
#[derive(Debug)]
pub struct Metrics {
    /// Requests that have a sequence.
    pub running: Gauge,
    /// Requests that wait for a sequence.
    pub waiting: Gauge,
    /// Tokens that the sequences of running requests hold.
    pub kv_tokens: Gauge,
    /// Tokens that all sequences have room for.
    pub kv_capacity: Gauge,
    /// Bytes of prefixes that are kept outside of sequences.
    pub stored_bytes: Gauge,
    /// How many such prefixes there are.
    pub stored_prefixes: Gauge,
    /// Steps that computed something.
    pub steps: Counter,
    /// Rows of prompts that were computed, those of parked texts that are fed again among them.
    pub prompt_tokens: Counter,
    /// Tokens that were made.
    pub generation_tokens: Counter,
    /// Bytes of weights and caches that the steps of [`StepSeconds::decode`] had to read.
    pub decode_read_bytes: Counter,
    /// Tokens of prompts that might have been reused: of all requests that had a sequence and allow reuse.
    pub prefix_queries: Counter,
    /// Of these, tokens that were reused.
    pub prefix_hits: Counter,
    /// Texts that gave up their sequence to others, because their clients did not read.
    pub preemptions: Counter,
    /// Requests that were refused before they were queued.
    pub refused: Counter,
    /// Requests that have ended, and how.
    pub finished: Finished,
    /// From submission to the first token.
    pub first_token_seconds: Histogram,
    /// From one token of a text to the next: every single gap.
    pub inter_token_seconds: Histogram,
    /// From submission to the end, of requests that had a sequence, as are the next three.
    pub request_seconds: Histogram,
    /// From submission until the request had a sequence.
    pub queue_seconds: Histogram,
    /// From then to the first token.
    pub prefill_seconds: Histogram,
    /// From the first token to the end.
    pub decode_seconds: Histogram,
    /// Tokens of the prompt.
    pub request_prompt_tokens: Histogram,
    /// Tokens that were made.
    pub request_generation_tokens: Histogram,
    /// Rows of a step.
    pub step_rows: Histogram,
    /// Time of a step, with sampling.
    pub step_seconds: StepSeconds,
}

impl Default for Metrics {
    fn default() -> Self {
        let request = || Histogram::new(&REQUEST);
        let step = || Histogram::new(&STEP);
        Self {
            running: Gauge::default(),
            waiting: Gauge::default(),
            kv_tokens: Gauge::default(),
            kv_capacity: Gauge::default(),
            stored_bytes: Gauge::default(),
            stored_prefixes: Gauge::default(),
            steps: Counter::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            decode_read_bytes: Counter::default(),
            prefix_queries: Counter::default(),
            prefix_hits: Counter::default(),
            preemptions: Counter::default(),
            refused: Counter::default(),
            finished: Finished::default(),
            first_token_seconds: Histogram::new(&FIRST_TOKEN),
            inter_token_seconds: Histogram::new(&BETWEEN_TOKENS),
            request_seconds: request(),
            queue_seconds: request(),
            prefill_seconds: request(),
            decode_seconds: request(),
            request_prompt_tokens: Histogram::new(&TOKENS),
            request_generation_tokens: Histogram::new(&TOKENS),
            step_rows: Histogram::new(&ROWS),
            step_seconds: StepSeconds { decode: step(), mixed: step(), prefill: step() },
        }
    }
}

impl Finished {
    pub(super) fn count(&self, stop: Option<Stop>) {
        let counter = match stop {
            Some(Stop::EndToken(_) | Stop::StopToken(_)) => &self.end_token,
            Some(Stop::StopString(_)) => &self.stop_string,
            Some(Stop::Grammar) => &self.grammar,
            Some(Stop::Limit) => &self.limit,
            Some(Stop::ContextFull) => &self.context_full,
            Some(Stop::Interrupted) => &self.cancelled,
            None => &self.failed,
        };
        counter.add(1);
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { end_token, stop_string, grammar, limit, context_full, cancelled, failed } = self;
        [end_token, stop_string, grammar, limit, context_full, cancelled, failed]
            .map(Counter::get)
            .iter()
            .sum()
    }
}

impl Metrics {
    /// Takes note of a step that had to read so many bytes.
    pub(super) fn stepped(&self, step: Step, bytes: u64, time: Duration) {
        let Step { decode_rows, prompt_rows } = step;
        self.steps.add(1);
        self.prompt_tokens.add(u64::from(prompt_rows));
        if prompt_rows == 0 {
            self.decode_read_bytes.add(bytes);
        }
        self.step_rows.observe(f64::from(decode_rows + prompt_rows));
        let kind = match (decode_rows, prompt_rows) {
            (_, 0) => &self.step_seconds.decode,
            (0, _) => &self.step_seconds.prefill,
            _ => &self.step_seconds.mixed,
        };
        kind.observe_time(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_of_the_bound_that_holds_them() {
        let histogram = Histogram::new(&BETWEEN_TOKENS);
        for value in [0.0, 0.01, 0.011, 0.5, 80.0, 81.0] {
            histogram.observe(value);
        }
        let counts: Vec<u64> = histogram.counts().collect();
        assert_eq!(counts.len(), histogram.bounds().len() + 1);
        assert_eq!((counts[0], counts[1], counts[9], counts[18], counts[19]), (2, 1, 1, 1, 1));
        assert!(histogram.count() == 6 && (histogram.sum() - 161.521).abs() < 1e-9);
    }

    #[test]
    fn bounds_rise() {
        let of = Metrics::default();
        for histogram in [
            &of.first_token_seconds,
            &of.inter_token_seconds,
            &of.request_seconds,
            &of.request_prompt_tokens,
            &of.step_rows,
            &of.step_seconds.decode,
        ] {
            assert!(histogram.bounds().is_sorted_by(|a, b| a < b));
        }
    }
}
