//! Generations that run together: every sequence of a batch has one, and gets the next when it ends.
//!
//! Invariants: a completion depends on nothing but its generation and the model; completions are given out as they end, each
//! once; a generation that is refused (a prompt that does not fit) does not disturb the others.

use std::time::{Duration, Instant};

use bitnetc_ir::Entity;
use bitnetc_runtime::machine::{Feed, Machine, Wanted};
use bitnetc_runtime::sampling::{Sampler, SamplingParams, TokenLogprobs};
use bitnetc_runtime::tokenizer::Tokenize;

use crate::constraint::Constraint;
use crate::error::Error;
use crate::generate::{GenerateOptions, Progress, Sequence, Stop};

/// A text to generate.
#[derive(Debug)]
pub struct Generation {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub params: SamplingParams,
    /// When to end.
    pub options: GenerateOptions,
    /// What the text has to follow.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// A generated text.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The new text, without a stop string.
    pub text: String,
    /// The new tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish: Stop,
    /// Probabilities of the tokens, if they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
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
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    text: String,
    /// What it is fed next: its prompt, then the token before.
    next: Vec<u32>,
    prompt_tokens: usize,
    finish: Option<Stop>,
}

impl<K> Running<K> {
    /// A text at its beginning.
    fn new(key: K, generation: Generation, tokenizer: &dyn Tokenize, vocab: u32) -> Result<Self, Error> {
        let Generation { prompt, params, options, constraint } = generation;
        let mut sampler = Sampler::new(params)?;
        prompt.iter().for_each(|&id| sampler.accept(id));
        // A text of no tokens has ended before its prompt is fed.
        let finish = (options.limit == Some(0)).then_some(Stop::Limit);
        Ok(Self {
            key,
            sequence: Sequence::new(options, tokenizer, vocab),
            sampler,
            constraint,
            text: String::new(),
            prompt_tokens: prompt.len(),
            next: prompt,
            finish,
        })
    }

    /// Goes on with the logits behind what was fed; `full` says that the context has no room for another token.
    fn advance(&mut self, logits: &[f32], tokenizer: &dyn Tokenize, full: bool) -> Result<(), Error> {
        let Self { sequence, sampler, constraint, text, .. } = self;
        let constraint = constraint.as_deref_mut();
        self.finish = match sequence.advance(logits, tokenizer, sampler, constraint, text)? {
            Progress::Done(stop) => Some(stop),
            Progress::Feed(_) if full => Some(sequence.end(Stop::ContextFull, text)),
            Progress::Feed(id) => {
                self.next.push(id);
                None
            }
        };
        Ok(())
    }

    fn into_completion(self, finish: Stop) -> (K, Completion) {
        let (tokens, logprobs) = self.sequence.into_parts();
        let Self { key, text, prompt_tokens, .. } = self;
        (key, Completion { text, tokens, prompt_tokens, finish, logprobs })
    }
}

/// Generates all of `generations`, as many at a time as `machine` takes in a step. `done` gets each completion under its key as
/// soon as it is there; an error of `done`, or an interruption ([`Machine::set_keep_going`]), ends the work.
///
/// # Errors
/// What `done` returns; a prompt that is empty, too long, or has unknown tokens; sampling settings out of range; what the
/// sampler refuses.
pub fn generate_many<K, E: From<Error>>(
    machine: &mut Machine,
    tokenizer: &dyn Tokenize,
    generations: impl IntoIterator<Item = (K, Generation)>,
    mut done: impl FnMut(K, Completion) -> Result<(), E>,
) -> Result<ManyStats, E> {
    let mut waiting = generations.into_iter();
    let vocab = machine.model().vocab();
    let mut slots: Vec<Option<Running<K>>> = (0..machine.segments()).map(|_| None).collect();
    let sequences = slots.iter().map(|_| machine.sequence()).collect::<Result<Vec<_>, _>>();
    let mut sequences = sequences.map_err(Error::from)?;
    let mut stats = ManyStats::default();
    loop {
        for (sequence, slot) in sequences.iter_mut().zip(&mut slots) {
            while slot.is_none() {
                let Some((key, generation)) = waiting.next() else { break };
                sequence.truncate(0);
                let running = Running::new(key, generation, tokenizer, vocab)?;
                match running.finish {
                    Some(stop) => {
                        let (key, completion) = running.into_completion(stop);
                        done(key, completion)?;
                    }
                    None => *slot = Some(running),
                }
            }
        }
        // The feeds, in their order, are those of the slots that are taken.
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
        let room = |(&i, tokens): (&usize, &Vec<u32>)| {
            u64::from(sequences[i].position()) + (tokens.len() as u64) < u64::from(machine.context())
        };
        let room: Vec<bool> = active.iter().zip(&tokens).map(room).collect();
        let taken = sequences.iter_mut().zip(&slots).filter(|(_, slot)| slot.is_some());
        let mut feeds: Vec<Feed<'_>> = taken
            .zip(&tokens)
            .map(|((sequence, _), tokens)| Feed { sequence, tokens, logits: Wanted::Last })
            .collect();
        let mut refused = None;
        let fed = machine.step(&mut feeds, |row, logits| {
            let clock = Instant::now();
            let index = row.feed.index();
            if let Some(running) = &mut slots[active[index]]
                && let Err(error) = logits
                    .map_err(Error::from)
                    .and_then(|logits| running.advance(logits, tokenizer, !room[index]))
            {
                refused = Some(error);
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
            let Some(stop) = slot.as_ref().and_then(|running| running.finish) else { continue };
            let Some(running) = slot.take() else { continue };
            let (key, completion) = running.into_completion(stop);
            stats.prompt_tokens += completion.prompt_tokens as u64;
            stats.generated_tokens += completion.tokens.len() as u64;
            done(key, completion)?;
        }
    }
}
