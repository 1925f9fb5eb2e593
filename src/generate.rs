//! The generation loop: prompt in, tokens out, text as it is made.
//!
//! Invariants: text handed out is whole UTF-8 characters; generation ends at any of the model's end tokens (unless they
//! are ignored), at the token limit, or when the context is full, and says which; a seed gives the same text on every
//! machine and thread count.

use std::time::{Duration, Instant};

use bitnetc_runtime::sampling::Sampler;
use bitnetc_runtime::session::Session;
use bitnetc_runtime::tokenizer::{StreamDecoder, Tokenize};

use crate::error::Error;

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model made one of its end tokens.
    EndToken(u32),
    /// As many tokens as were asked for.
    Limit,
    /// The context has no room for another token.
    ContextFull,
    /// The caller asked.
    Interrupted,
}

impl Stop {
    /// The word in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Stop::EndToken(_) => "end_token",
            Stop::Limit => "limit",
            Stop::ContextFull => "context_full",
            Stop::Interrupted => "interrupted",
        }
    }
}

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Tokens at most; `None`: until the model or the context ends.
    pub limit: Option<u64>,
    /// Never make an end token.
    pub ignore_end: bool,
}

/// What was generated, and how long each part took.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The new tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time for the prompt.
    pub prompt_time: Duration,
    /// Steps after the prompt.
    pub decode_steps: usize,
    /// Time for these steps, without sampling.
    pub decode_time: Duration,
    /// Time for sampling.
    pub sample_time: Duration,
    /// Of each token behind the first: the time of its step and of its sampling.
    pub token_times: Vec<Duration>,
}

/// How long single tokens took: times that so many of a hundred tokens did not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Half of them.
    pub p50: Duration,
    /// 90 of a hundred.
    pub p90: Duration,
    /// 99 of a hundred.
    pub p99: Duration,
    /// All of them.
    pub max: Duration,
}

impl Latency {
    /// Of these times; nothing if there are none. A percentile is one of the times (nearest rank).
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { p50: rank(50)?, p90: rank(90)?, p99: rank(99)?, max: *sorted.last()? })
    }
}

/// Feeds `prompt` and generates. `emit` is given text as it is made and stops the work by returning false.
///
/// # Errors
/// What the session or the sampler refuses.
pub fn generate(
    session: &mut Session,
    tokenizer: &dyn Tokenize,
    sampler: &mut Sampler,
    prompt: &[u32],
    options: &GenerateOptions,
    mut emit: impl FnMut(&str) -> bool,
) -> Result<Generated, Error> {
    let mut out = Generated {
        tokens: Vec::new(),
        stop: Stop::Limit,
        prompt_tokens: prompt.len(),
        prompt_time: Duration::ZERO,
        decode_steps: 0,
        decode_time: Duration::ZERO,
        sample_time: Duration::ZERO,
        token_times: Vec::new(),
    };
    let mut step_time = Duration::ZERO;
    let mut decoder = StreamDecoder::new();
    let mut text = String::new();
    let ends: Vec<u32> = match options.ignore_end {
        true => (0..session.model().vocab()).filter(|&id| tokenizer.is_end(id)).collect(),
        false => Vec::new(),
    };
    let mut masked = Vec::new();
    for &id in prompt {
        sampler.accept(id);
    }

    let clock = Instant::now();
    let mut logits = session.feed(prompt)?;
    out.prompt_time = clock.elapsed();
    loop {
        if options.limit.is_some_and(|n| out.tokens.len() as u64 >= n) {
            out.stop = Stop::Limit;
            break;
        }
        let clock = Instant::now();
        let id = match ends.is_empty() {
            true => sampler.sample(logits)?,
            false => {
                masked.clear();
                masked.extend_from_slice(logits);
                for &end in &ends {
                    masked[end as usize] = f32::NEG_INFINITY;
                }
                sampler.sample(&masked)?
            }
        };
        let sample_time = clock.elapsed();
        out.sample_time += sample_time;
        if out.decode_steps > 0 {
            out.token_times.push(step_time + sample_time);
        }
        if tokenizer.is_end(id) && !options.ignore_end {
            out.stop = Stop::EndToken(id);
            break;
        }
        out.tokens.push(id);
        text.clear();
        decoder.push(tokenizer.piece(id, false), &mut text);
        if !emit(&text) {
            out.stop = Stop::Interrupted;
            break;
        }
        if options.limit.is_some_and(|n| out.tokens.len() as u64 >= n) {
            out.stop = Stop::Limit;
            break;
        }
        if session.position() == session.context() {
            out.stop = Stop::ContextFull;
            break;
        }
        let clock = Instant::now();
        logits = session.feed(&[id])?;
        step_time = clock.elapsed();
        out.decode_time += step_time;
        out.decode_steps += 1;
    }
    text.clear();
    decoder.finish(&mut text);
    if !text.is_empty() {
        emit(&text);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = |ms: &[u64]| ms.iter().map(|&n| Duration::from_millis(n)).collect::<Vec<_>>();
        assert_eq!(Latency::of(&[]), None);
        let of = |all: &[u64]| {
            Latency::of(&times(all)).map(|l| [l.p50, l.p90, l.p99, l.max].map(|d| d.as_millis()))
        };
        assert_eq!(of(&[3]), Some([3, 3, 3, 3]));
        assert_eq!(of(&[4, 1, 3, 2]), Some([2, 4, 4, 4]));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), Some([50, 90, 99, 100]));
    }
}
