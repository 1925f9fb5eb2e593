//! What `--perf` and `--json` say of a generation: times, speeds, how long single tokens took, and the memory that was
//! planned beside the memory that was used.

use std::time::Duration;

use bitnetc::TextSession;
use bitnetc::engine::{Completion, Latency};
use bitnetc_ir::work::Accounts;
use bitnetc_runtime::cpus::Cpus;
use bitnetc_runtime::memory::in_units;

use super::output;

/// See the module.
pub(crate) struct Timings<'a> {
    /// Opening the model and making the session.
    pub(crate) load: Duration,
    /// The generation.
    pub(crate) result: &'a Completion,
    /// The session, with its model.
    pub(crate) session: &'a TextSession,
}

impl Timings<'_> {
    fn rate(tokens: usize, time: Duration) -> f64 {
        if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
    }

    /// Bytes read by the median decode step of the run.
    fn bytes_per_token(&self) -> u64 {
        let middle = self.result.prompt_tokens + self.result.timings.decode_steps / 2;
        Accounts::of(&self.session.model().loaded().module).step(middle as u32).bytes()
    }

    fn bytes_per_second(&self) -> f64 {
        Self::rate(self.result.timings.decode_steps, self.result.timings.decode)
            * self.bytes_per_token() as f64
    }

    /// Lines for people.
    pub(crate) fn text(&self) -> String {
        let r = self.result;
        let line = |name: &str, time: Duration, tokens: usize| {
            format!(
                "{name:>12} time = {:10.2} ms / {tokens:5} tokens ({:8.2} ms per token, {:8.2} tokens per second)\n",
                output::ms(time),
                output::ms(time) / tokens.max(1) as f64,
                Self::rate(tokens, time)
            )
        };
        let m = self.session.memory();
        let mut text = format!("\n{:>12} time = {:10.2} ms\n", "load", output::ms(self.load));
        text += &line("prompt eval", r.timings.prompt, r.computed_tokens());
        text += &line("eval", r.timings.decode, r.timings.decode_steps);
        text += &line("sampling", r.timings.sample, r.tokens.len());
        if let Some(latency) = Latency::of(&r.timings.tokens) {
            text += &format!(
                "{:>12}      = p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms\n",
                "per token",
                output::ms(latency.p50),
                output::ms(latency.p90),
                output::ms(latency.p99),
                output::ms(latency.max)
            );
        }
        text += &format!(
            "{:>12}      = {} threads ({}), {} read per token, {:.2} GB/s\n",
            "decode",
            self.session.machine().threads(),
            Cpus::probe(),
            in_units(self.bytes_per_token()),
            self.bytes_per_second() / 1e9
        );
        text += &format!(
            "{:>12}      = {} planned: weights {}, KV cache {}, activations {}, other buffers {}",
            "memory",
            in_units(m.total()),
            in_units(m.weights),
            in_units(m.kv_cache),
            in_units(m.arena),
            in_units(m.io)
        );
        if let Some(rss) = output::peak_rss() {
            text += &format!("; peak RSS {}", in_units(rss));
        }
        text
    }

    /// The same as JSON, without the memory.
    pub(crate) fn json(&self) -> serde_json::Value {
        let r = self.result;
        serde_json::json!({
            "load_ms": output::ms(self.load),
            "prompt_ms": output::ms(r.timings.prompt),
            "prompt_tokens_per_second": Self::rate(r.computed_tokens(), r.timings.prompt),
            "decode_ms": output::ms(r.timings.decode),
            "decode_steps": r.timings.decode_steps,
            "decode_tokens_per_second": Self::rate(r.timings.decode_steps, r.timings.decode),
            "decode_bytes_per_second": self.bytes_per_second(),
            "sampling_ms": output::ms(r.timings.sample),
            "token_latency_ms": Latency::of(&r.timings.tokens).map(|latency| serde_json::json!({
                "p50": output::ms(latency.p50),
                "p90": output::ms(latency.p90),
                "p99": output::ms(latency.p99),
                "max": output::ms(latency.max),
            })),
        })
    }

    /// Bytes that were planned, and the most that were used.
    pub(crate) fn memory_json(&self) -> serde_json::Value {
        let memory = self.session.memory();
        serde_json::json!({
            "planned_bytes": memory.total(),
            "weights_bytes": memory.weights,
            "kv_cache_bytes": memory.kv_cache,
            "activation_bytes": memory.arena,
            "other_bytes": memory.io,
            "peak_rss_bytes": output::peak_rss(),
        })
    }
}
