//! `bitnetc run`: text from a prompt.

use std::time::Instant;

use bitnetc::batch::prompt_tokens;
use bitnetc::chat::{Message, RenderInput, Role, Selected, SpecialTexts};
use bitnetc::compile::CompileOptions;
use bitnetc::constraint::Constraint;
use bitnetc::error::exit;
use bitnetc::generate::{Extras, GenerateOptions, Generated, Latency, Stop, generate_with};
use bitnetc::load::{LoadOptions, Loaded};
use bitnetc_ir::work::Accounts;
use bitnetc_runtime::cpus::Cpus;
use bitnetc_runtime::sampling::{Sampler, TokenLogprob};
use bitnetc_runtime::session::{MemoryUse, Session, SessionOptions};
use bitnetc_runtime::tokenizer::Tokenize;

use super::args::{EngineArgs, KvType, RunArgs};
use super::compile::target;
use super::failure::Failure;
use super::sampling::check_biases;
use super::{Outcome, interrupt, models, output};

/// Threads when none are asked for: the cores that this process may use.
pub(crate) fn threads(asked: Option<u32>) -> u32 {
    asked.unwrap_or_else(|| Cpus::probe().threads())
}

/// The facade's options for these arguments.
pub(crate) fn load_options(args: &EngineArgs) -> Result<LoadOptions, Failure> {
    let target = target(&args.cpu_features)?;
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

/// The prompt as one message in the model's chat template, and the strings that end the answer.
fn chat_prompt(
    args: &RunArgs,
    loaded: &Loaded,
    text: String,
    quiet: bool,
) -> Result<(Vec<u32>, Vec<String>), Failure> {
    let Selected { template, stop, .. } = args.template.select(loaded, quiet)?;
    let system = args.template.system_prompt.iter().filter(|text| !text.is_empty());
    let mut messages: Vec<Message> = system.map(|text| Message::new(Role::system(), text.as_str())).collect();
    messages.push(Message::new(Role::user(), text));
    let input = RenderInput { messages: &messages, add_generation_prompt: true, ..RenderInput::default() };
    let special = SpecialTexts::of(&loaded.tokenizer);
    let rendered = template.render(&input, &special).map_err(bitnetc::Error::from)?;
    if args.template.show_prompt {
        output::say(false, &rendered.text);
    }
    Ok((loaded.tokenizer.encode_template(&rendered.text, &rendered.breaks, true)?, stop))
}

/// Runs the command.
pub(crate) fn run(args: &RunArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let (params, random_seed) = args.sampling.params()?;
    let text = prompt_text(args)?;
    let path = args.model.as_deref().or(args.model_option.as_deref());
    let clock = Instant::now();
    let loaded = models::open(path, &load_options(&args.engine)?, quiet)?;
    announce(&loaded, path.is_some(), quiet);

    check_biases(&params, loaded.model.vocab())?;
    let chat = args.chat || args.template.asked();
    let (prompt, stop) = if chat {
        chat_prompt(args, &loaded, text, quiet)?
    } else {
        if args.template.show_prompt {
            output::say(false, &text);
        }
        (prompt_tokens(&loaded.tokenizer, &text)?, Vec::new())
    };
    let mut grammar = args.grammar.open(&loaded.tokenizer, loaded.model.vocab())?;
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
    let mut options = GenerateOptions {
        logprobs: args.logprobs.map(usize::from),
        ..args.sampling.options(args.n_predict, args.ignore_eos)
    };
    options.stop.extend(stop);
    let streaming = !args.json;
    if streaming && !args.no_display_prompt && !chat {
        output::print(&loaded.tokenizer.decode_lossy(&prompt, false))?;
    }
    let mut text_out = String::new();
    let mut broken = None;
    session.set_keep_going(|| !interrupt::requested());
    let constraint = grammar.as_mut().map(|grammar| grammar as &mut dyn Constraint);
    let extras = Extras { constraint, make_room: None };
    let emit = |piece: &str| {
        text_out.push_str(piece);
        if streaming && let Err(failure) = output::print(piece) {
            broken = Some(failure);
            return false;
        }
        !interrupt::requested()
    };
    let result =
        generate_with(&mut session, &loaded.tokenizer, &mut sampler, &prompt, &options, extras, emit)?;
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
        let mut report = serde_json::json!({
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
        });
        if !r.logprobs.is_empty() {
            let shown = |token: &TokenLogprob| {
                let text = loaded.tokenizer.decode_lossy(&[token.id], true);
                serde_json::json!({ "id": token.id, "token": text, "logprob": token.logprob })
            };
            let of = |token: &bitnetc_runtime::sampling::TokenLogprobs| {
                let mut value = shown(&token.token);
                value["top"] = token.top.iter().map(shown).collect();
                value
            };
            report["logprobs"] = r.logprobs.iter().map(of).collect();
        }
        report
    }
}
