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
#[derive(Clone, Copy, Debug)]
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
    };
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
        out.sample_time += clock.elapsed();
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
        out.decode_time += clock.elapsed();
        out.decode_steps += 1;
    }
    text.clear();
    decoder.finish(&mut text);
    if !text.is_empty() {
        emit(&text);
    }
    Ok(out)
}
