//! Generations that run together: every sequence of a batch has one, and gets the next when it ends.
//!
//! Invariants: a completion depends on nothing but its generation and the model; completions are given out as they end, each
//! once; a generation that is refused (a prompt that does not fit) does not disturb the others.

use std::time::{Duration, Instant};

use bitnetc_runtime::batch::{Batch, Feed};
use bitnetc_runtime::sampling::SamplingParams;
use bitnetc_runtime::tokenizer::Tokenize;

use super::sequence::Sequence;
use crate::error::Error;
use crate::generate::GenerateOptions;

/// A text to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub params: SamplingParams,
    /// When to end.
    pub options: GenerateOptions,
    /// The text ends before the first of these.
    pub stops: Vec<String>,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model made one of its end tokens.
    EndToken(u32),
    /// One of the stop strings came up.
    StopString,
    /// As many tokens as were asked for.
    Limit,
    /// The context has no room for another token.
    ContextFull,
}

/// A generated text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The new text, without a stop string.
    pub text: String,
    /// The new tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// What [`generate_many`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManyStats {
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Steps of the batch.
    pub steps: u64,
    /// Time in the steps, without sampling.
    pub step_time: Duration,
    /// Time for sampling and decoding text.
    pub sample_time: Duration,
}

/// A sequence at work.
struct Running<K> {
    key: K,
    sequence: Sequence,
    /// What it is fed next: its prompt, then the token before.
    next: Vec<u32>,
    prompt_tokens: usize,
    finish: Option<Finish>,
}

/// Generates all of `generations`, as many at a time as `batch` has sequences. `done` gets each completion under its key as
/// soon as it is there; an error of `done`, or an interruption ([`Batch::set_keep_going`]), ends the work.
///
/// # Errors
/// What `done` returns; a prompt that is empty, too long, or has unknown tokens; sampling settings out of range; what the
/// sampler refuses.
pub fn generate_many<K, E: From<Error>>(
    batch: &mut Batch,
    tokenizer: &dyn Tokenize,
    generations: impl IntoIterator<Item = (K, Generation)>,
    mut done: impl FnMut(K, Completion) -> Result<(), E>,
) -> Result<ManyStats, E> {
    let mut waiting = generations.into_iter();
    let vocab = batch.model().vocab();
    let ends: Vec<u32> = (0..vocab).filter(|&id| tokenizer.is_end(id)).collect();
    let mut slots: Vec<Option<Running<K>>> = (0..batch.sequences()).map(|_| None).collect();
    let mut masked = Vec::new();
    let mut stats = ManyStats::default();
    loop {
        for (number, slot) in (0..).zip(&mut slots) {
            while slot.is_none() {
                let Some((key, generation)) = waiting.next() else { break };
                batch.truncate(number, 0);
                let (sequence, next) = Sequence::new(generation)?;
                let prompt_tokens = next.len();
                let running = Running { key, sequence, next, prompt_tokens, finish: None };
                match running.sequence.is_empty_by_limit() {
                    true => done(running.key, empty(prompt_tokens))?,
                    false => *slot = Some(running),
                }
            }
        }
        // The sequence numbers of the feeds, in their order, are those of the slots that are taken.
        let active: Vec<usize> = (0..slots.len()).filter(|&i| slots[i].is_some()).collect();
        if active.is_empty() {
            return Ok(stats);
        }
        let clock = Instant::now();
        let mut sampling = Duration::ZERO;
        let tokens: Vec<Vec<u32>> = active
            .iter()
            .map(|&i| slots[i].as_mut().map(|r| std::mem::take(&mut r.next)).unwrap_or_default())
            .collect();
        let feeds: Vec<Feed<'_>> =
            active.iter().zip(&tokens).map(|(&i, tokens)| Feed { sequence: i as u32, tokens }).collect();
        let context = u64::from(batch.context());
        let positions: Vec<u64> = active.iter().map(|&i| u64::from(batch.position(i as u32))).collect();
        let mut refused = None;
        let fed = batch.feed(&feeds, |index, logits| {
            let clock = Instant::now();
            let full = positions[index] + feeds[index].tokens.len() as u64 >= context;
            if let Some(running) = &mut slots[active[index]] {
                match running.sequence.next(logits, tokenizer, &ends, &mut masked, full) {
                    Ok(finish) => running.finish = finish,
                    Err(error) => refused = Some(error),
                }
                running.next.extend(running.sequence.tokens.last());
            }
            sampling += clock.elapsed();
        });
        fed.map_err(Error::from)?;
        if let Some(error) = refused {
            return Err(error.into());
        }
        stats.steps += 1;
        stats.sample_time += sampling;
        stats.step_time += clock.elapsed().saturating_sub(sampling);
        for slot in &mut slots {
            if let Some(Running { key, sequence, prompt_tokens, finish: Some(finish), .. }) =
                slot.take_if(|running| running.finish.is_some())
            {
                stats.prompt_tokens += prompt_tokens as u64;
                stats.generated_tokens += sequence.tokens.len() as u64;
                let Sequence { text, tokens, .. } = sequence;
                done(key, Completion { text, tokens, prompt_tokens, finish })?;
            }
        }
    }
}

/// The completion of no tokens.
fn empty(prompt_tokens: usize) -> Completion {
    Completion { text: String::new(), tokens: Vec::new(), prompt_tokens, finish: Finish::Limit }
}
