//! `bitnetc run`: text from a prompt.

use std::time::Instant;

use bitnetc::batch::prompt_tokens;
use bitnetc::compile::CompileOptions;
use bitnetc::error::exit;
use bitnetc::generate::{GenerateOptions, Generated, Latency, Stop, generate};
use bitnetc::load::{LoadOptions, Loaded};
use bitnetc_ir::work::Accounts;
use bitnetc_runtime::cpus::Cpus;
use bitnetc_runtime::sampling::{Sampler, SamplingParams};
use bitnetc_runtime::session::{MemoryUse, Session, SessionOptions};
use bitnetc_runtime::tokenizer::Tokenize;

use super::args::{EngineArgs, KvType, RunArgs, SamplingArgs};
use super::compile::target;
use super::failure::Failure;
use super::{Outcome, interrupt, models, output, speeds};

/// Threads when none are asked for: the cores that this process may use.
pub(crate) fn threads(asked: Option<u32>) -> u32 {
    asked.unwrap_or_else(|| Cpus::probe().threads())
}

/// The facade's options for these arguments.
pub(crate) fn load_options(args: &EngineArgs) -> Result<LoadOptions, Failure> {
    let mut target = target(&args.cpu_features)?;
    target.threads = threads(args.threads);
    speeds::apply(args.speeds, &mut target)?;
    let compile = CompileOptions { target, codegen: args.codegen.into(), ..CompileOptions::for_host()? };
    Ok(LoadOptions {
        kv_type: args.kv_type.map(|kv_type| match kv_type {
            KvType::F16 => bitnetc_ir::DType::F16,
            KvType::F32 => bitnetc_ir::DType::F32,
        }),
        head: args.head,
        weights: args.weights.map(Into::into),
        threads: Some(threads(args.threads)),
        map_mode: args.memory.map_mode(),
        verify: args.verify,
        model: args.options.model_options(),
        compile: Some(compile),
    })
}

/// Says which model is used where none was named, and what the front-end has to say about it.
pub(crate) fn announce(loaded: &Loaded, named: bool, quiet: bool) {
    if !named {
        output::say(quiet, format!("no model given: using {}", loaded.name));
    }
    for note in &loaded.notes {
        output::say(quiet, note);
    }
}

/// The sampler's settings, and whether the seed is a random one.
pub(crate) fn sampling(args: &SamplingArgs) -> Result<(SamplingParams, bool), Failure> {
    let random = args.seed < 0;
    let seed = match u64::try_from(args.seed) {
        Ok(seed) => seed,
        // The hasher of a new map is keyed by the system's random source.
        Err(_) => {
            use std::hash::{BuildHasher, Hasher};
            u64::from(std::collections::hash_map::RandomState::new().build_hasher().finish() as u32)
        }
    };
    let params = SamplingParams {
        temperature: args.temp,
        top_k: usize::try_from(args.top_k).unwrap_or(0),
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        seed,
        ..SamplingParams::default()
    };
    params.validate()?;
    Ok((params, random))
}

/// A text file.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String, Failure> {
    let unreadable =
        |why: String| Failure::new(exit::FAILURE, format!("cannot read {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| {
        unreadable(format!("it is not UTF-8 at byte {}; convert it to UTF-8", e.utf8_error().valid_up_to()))
    })
}

fn prompt_text(args: &RunArgs) -> Result<String, Failure> {
    match (&args.prompt, &args.file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => {
            let mut text = read_text(path)?;
            if text.ends_with('\n') {
                text.pop();
            }
            Ok(text)
        }
        (None, None) => Ok(String::new()),
    }
}

/// Runs the command.
pub(crate) fn run(args: &RunArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let (params, random_seed) = sampling(&args.sampling)?;
    let text = prompt_text(args)?;
    let path = args.model.as_deref().or(args.model_option.as_deref());
    let clock = Instant::now();
    let loaded = models::open(path, &load_options(&args.engine)?, quiet)?;
    announce(&loaded, path.is_some(), quiet);

    let prompt = prompt_tokens(&loaded.tokenizer, &text)?;
    let context = if args.ctx_size == 0 { loaded.context } else { args.ctx_size };
    if prompt.len() as u64 > u64::from(context) {
        let message = format!(
            "the prompt has {} tokens but the context holds {context}: shorten it or give a larger --ctx-size",
            prompt.len()
        );
        return Err(Failure::new(exit::FAILURE, message));
    }
    if context > loaded.context {
        output::say(
            quiet,
            format!(
                "warning: --ctx-size {context} is more than the {} that the model was trained for",
                loaded.context
            ),
        );
    }
    let options = SessionOptions { context, threads: threads(args.engine.threads) };
    let mut session = Session::new(loaded.model.clone(), options)?;
    let load_time = clock.elapsed();
    if random_seed && params.temperature > 0.0 {
        output::say(quiet, format!("seed: {}", params.seed));
    }

    let seed = params.seed;
    let mut sampler = Sampler::new(params)?;
    let options = GenerateOptions { limit: u64::try_from(args.n_predict).ok(), ignore_end: args.ignore_eos };
    let streaming = !args.json;
    if streaming && !args.no_display_prompt {
        output::print(&loaded.tokenizer.decode_lossy(&prompt, false))?;
    }
    let mut text_out = String::new();
    let mut broken = None;
    session.set_keep_going(|| !interrupt::requested());
    let result = generate(&mut session, &loaded.tokenizer, &mut sampler, &prompt, &options, |piece| {
        text_out.push_str(piece);
        if streaming && let Err(failure) = output::print(piece) {
            broken = Some(failure);
            return false;
        }
        !interrupt::requested()
    })?;
    if let Some(failure) = broken {
        return Err(failure);
    }
    if streaming {
        output::print("\n")?;
    }
    if result.stop == Stop::ContextFull {
        output::say(quiet, format!("the context of {} tokens is full", session.context()));
    }
    let timings = Timings {
        load: load_time,
        result: &result,
        memory: session.memory(),
        loaded: &loaded,
        session: &session,
    };
    if args.json {
        output::print_json(&timings.json(&text_out, &loaded, seed))?;
    }
    if args.perf {
        output::say(false, timings.text());
    }
    Ok(if result.stop == Stop::Interrupted { exit::INTERRUPTED } else { exit::OK })
}

/// What `--perf` and `--json` report.
struct Timings<'a> {
    load: std::time::Duration,
    result: &'a Generated,
    memory: MemoryUse,
    loaded: &'a Loaded,
    session: &'a Session,
}

impl Timings<'_> {
    fn rate(tokens: usize, time: std::time::Duration) -> f64 {
        if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
    }

    /// Bytes that one decode step at the middle of the run has read.
    fn bytes_per_token(&self) -> u64 {
        let middle = self.result.prompt_tokens + self.result.decode_steps / 2;
        Accounts::of(&self.loaded.module).step(middle as u32).bytes()
    }

    fn gigabytes_per_second(&self) -> f64 {
        Self::rate(self.result.decode_steps, self.result.decode_time) * self.bytes_per_token() as f64 / 1e9
    }

    fn text(&self) -> String {
        let r = self.result;
        let line = |name: &str, time: std::time::Duration, tokens: usize| {
            format!(
                "{name:>12} time = {:10.2} ms / {tokens:5} tokens ({:8.2} ms per token, {:8.2} tokens per second)\n",
                output::ms(time),
                output::ms(time) / tokens.max(1) as f64,
                Self::rate(tokens, time)
            )
        };
        let m = &self.memory;
        let mut text = format!("\n{:>12} time = {:10.2} ms\n", "load", output::ms(self.load));
        text += &line("prompt eval", r.prompt_time, r.prompt_tokens);
        text += &line("eval", r.decode_time, r.decode_steps);
        text += &line("sampling", r.sample_time, r.tokens.len());
        if let Some(latency) = Latency::of(&r.token_times) {
            text += &format!(
                "{:>12}      = {:.2} ms in the middle, 90 % within {:.2} ms, 99 % within {:.2} ms, {:.2} ms at most\n",
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
            self.session.threads(),
            Cpus::probe(),
            output::bytes(self.bytes_per_token()),
            self.gigabytes_per_second()
        );
        text += &format!(
            "{:>12}      = {} planned: weights {}, KV cache {}, activations {}, other buffers {}",
            "memory",
            output::bytes(m.total()),
            output::bytes(m.weights),
            output::bytes(m.kv_cache),
            output::bytes(m.arena),
            output::bytes(m.io)
        );
        if let Some(rss) = output::peak_rss() {
            text += &format!("; peak RSS {}", output::bytes(rss));
        }
        text
    }

    fn json(&self, text: &str, loaded: &Loaded, seed: u64) -> serde_json::Value {
        let r = self.result;
        let end = match r.stop {
            Stop::EndToken(id) => Some(id),
            _ => None,
        };
        serde_json::json!({
            "schema": "bitnetc.run/1",
            "model": loaded.name,
            "text": text,
            "tokens": r.tokens,
            "stop": r.stop.name(),
            "end_token": end,
            "seed": seed,
            "threads": self.session.threads(),
            "prompt_tokens": r.prompt_tokens,
            "timings": {
                "load_ms": output::ms(self.load),
                "prompt_ms": output::ms(r.prompt_time),
                "prompt_tokens_per_second": Self::rate(r.prompt_tokens, r.prompt_time),
                "decode_ms": output::ms(r.decode_time),
                "decode_steps": r.decode_steps,
                "decode_tokens_per_second": Self::rate(r.decode_steps, r.decode_time),
                "decode_gigabytes_per_second": self.gigabytes_per_second(),
                "sampling_ms": output::ms(r.sample_time),
                "token_latency_ms": Latency::of(&r.token_times).map(|latency| serde_json::json!({
                    "p50": output::ms(latency.p50),
                    "p90": output::ms(latency.p90),
                    "p99": output::ms(latency.p99),
                    "max": output::ms(latency.max),
                })),
            },
            "memory": {
                "planned_bytes": self.memory.total(),
                "weights_bytes": self.memory.weights,
                "kv_cache_bytes": self.memory.kv_cache,
                "activation_bytes": self.memory.arena,
                "other_bytes": self.memory.io,
                "peak_rss_bytes": output::peak_rss(),
            },
        })
    }
}
