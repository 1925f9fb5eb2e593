//! Running a test: limits and repetitions in turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnetc_codegen::compile::CompileError;
use bitnetc_codegen::host;
use bitnetc_ir::work::Accounts;
use bitnetc_runtime::machine::{Feed, KeepGoing, Machine, MachineOptions, Record, Wanted};
use bitnetc_runtime::model::Model;
use bitnetc_runtime::profile::Profile;
use bitnetc_runtime::roofline::{Roofline, default_buffer_bytes};
use bitnetc_runtime::sequence::{Mark, Sequence};

use super::limits::Limits;
use super::outcome::Outcome;
use crate::error::Error;
use bitnetc::load::Loaded;

/// Passes over the buffer in one round of limits; its median is the round's figure.
pub(crate) const PASSES: u32 = 3;

/// Decode steps of a warm-up.
pub(crate) const WARM_UP_STEPS: u32 = 4;

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt, fed at once; 0: none.
    pub prompt: u32,
    /// Tokens fed one by one after it; 0: none.
    pub generate: u32,
    /// Tokens in the context before it starts.
    pub depth: u32,
    /// Sequences that are fed together, each with prompt and generation of its own, at least 1.
    pub sequences: u32,
    /// Whether the prompt is computed for the first sequence only and copied to the others.
    pub shared_prompt: bool,
    /// Threads.
    pub threads: u32,
}

impl Test {
    /// Its name, without depth and threads: `pp512`, `tg128`, `pp512+tg128`, `tg128x16` for 16 sequences, `pps512+tg128x16` where
    /// these share the prompt.
    pub fn name(&self) -> String {
        let shared = if self.shared_prompt && self.sequences > 1 { "s" } else { "" };
        let name = match (self.prompt, self.generate) {
            (p, 0) => format!("pp{shared}{p}"),
            (0, n) => format!("tg{n}"),
            (p, n) => format!("pp{shared}{p}+tg{n}"),
        };
        if self.sequences > 1 { format!("{name}x{}", self.sequences) } else { name }
    }

    /// Tokens of all prompts that are computed.
    pub fn prompt_tokens(&self) -> u64 {
        u64::from(self.prompt) * u64::from(if self.shared_prompt { 1 } else { self.sequences })
    }

    /// Tokens that all sequences generate.
    pub fn generated_tokens(&self) -> u64 {
        u64::from(self.generate) * u64::from(self.sequences)
    }

    /// Tokens that the context must hold.
    pub fn context(&self) -> u32 {
        self.depth.saturating_add(self.prompt).saturating_add(self.generate)
    }
}

/// How tests are run.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Samples of each test, at least 1.
    pub repetitions: u32,
    /// Whether each test is run once (generation: a few steps) before it is timed.
    pub warm_up: bool,
    /// Tokens that the context of each sequence holds: the most that any test needs.
    pub context: u32,
    /// Sequences that a machine is made for: the most that any test needs.
    pub sequences: u32,
    /// Whether each test is run once more after its samples, with a clock at every step and barrier.
    pub profile: bool,
    /// Asked between steps; false ends the test.
    pub keep_going: KeepGoing,
}

/// What [`Bench::run`] tells while it works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// The context is being filled up to the test's depth.
    Filling,
    /// The repetitions are done, the recorded run begins.
    Profiling,
    /// So many of the repetitions are done, the last one at this speed.
    Sample {
        /// Repetitions done.
        done: u32,
        /// Tokens per second.
        rate: f64,
    },
}

/// What limits are measured with: this machine's widest code, and a buffer of `buffer_bytes` or, if there is nothing,
/// [`default_buffer_bytes`].
///
/// # Errors
/// Memory that cannot be had, code that cannot be generated.
pub fn limits_of_machine(buffer_bytes: Option<u64>) -> Result<Roofline, Error> {
    // The machine's limit is what all of it can do, whatever a model's code is made for.
    let host = host::probe().map_err(CompileError::from)?;
    Ok(Roofline::new(&host, buffer_bytes.unwrap_or_else(default_buffer_bytes))?)
}

/// A machine with its sequences, and what of them is filled.
pub(crate) struct Runner {
    machine: Machine,
    sequences: Vec<Sequence>,
    /// Tokens of the first sequence that are those of [`token`].
    filled: u32,
    /// Where the first sequence stands then.
    start: Option<Mark>,
    keep_going: KeepGoing,
    times: Times,
}

/// How long the parts of a sample took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    /// The prompts, if there are any.
    pub(crate) prompts: Option<Duration>,
    /// Each step of the generation.
    pub(crate) steps: Vec<Duration>,
}

impl Runner {
    /// A machine for so many sequences at a time.
    pub(crate) fn new(
        model: Arc<Model>,
        options: MachineOptions,
        keep_going: KeepGoing,
    ) -> Result<Self, Error> {
        let mut machine = Machine::new(model, options)?;
        machine.set_keep_going(keep_going.clone());
        let sequences = (0..options.segments).map(|_| machine.sequence()).collect::<Result<_, _>>()?;
        Ok(Self { machine, sequences, filled: 0, start: None, keep_going, times: Times::default() })
    }

    /// Whether it has so many threads, and sequences enough.
    fn fits(&self, threads: u32, sequences: u32) -> bool {
        self.machine.threads() == threads && self.sequences.len() >= sequences as usize
    }

    /// Brings the context of the first `sequences` sequences to `depth` tokens, which are computed once.
    pub(crate) fn fill(&mut self, depth: u32, sequences: u32) -> Result<(), Error> {
        let vocab = self.machine.model().vocab();
        let [first, others @ ..] = &mut self.sequences[..] else { return Ok(()) };
        match &self.start {
            Some(start) if self.filled == depth => first.rewind(start),
            _ => {
                first.truncate(self.filled.min(depth));
                first.forget_unheld();
            }
        }
        // An interruption leaves the sequence as it was, a chunk at a time keeps it answering.
        while first.position() < depth {
            let start = first.position();
            let end = depth.min(start + self.machine.chunk().max(1));
            let tokens: Vec<u32> = (start..end).map(|i| token(i, vocab)).collect();
            feed(&mut self.machine, &mut [Feed { sequence: first, tokens: &tokens, logits: Wanted::None }])?;
        }
        let needed = sequences.saturating_sub(1) as usize;
        for other in others.iter_mut().take(needed) {
            other.copy_prefix(first, depth)?;
        }
        self.filled = depth;
        self.start = Some(first.mark()?);
        Ok(())
    }

    /// Runs the test once, from its depth on; seconds.
    pub(crate) fn sample(&mut self, test: Test) -> Result<f64, Error> {
        let vocab = self.machine.model().vocab();
        let sequences = &mut self.sequences[..test.sequences as usize];
        for sequence in sequences.iter_mut() {
            match &self.start {
                Some(start) => sequence.rewind(start),
                None => sequence.truncate(test.depth),
            }
        }
        // Sequences have different tokens, as texts have.
        let tokens = |first: u32, count: u32| -> Vec<Vec<u32>> {
            let of = |sequence: u32| {
                (0..count).map(|i| token((first + i).wrapping_add(sequence << 20), vocab)).collect()
            };
            (0..test.sequences).map(of).collect()
        };
        let prompts = tokens(test.depth, test.prompt);
        let generated = tokens(test.depth + test.prompt, test.generate);
        self.times.prompts = None;
        self.times.steps.clear();
        self.times.steps.reserve(test.generate as usize);
        let clock = Instant::now();
        if test.prompt > 0 {
            let computed = if test.shared_prompt { 1 } else { sequences.len() };
            let (now, later) = sequences.split_at_mut(computed);
            let mut feeds: Vec<Feed<'_>> = now
                .iter_mut()
                .zip(&prompts)
                .map(|(sequence, tokens)| Feed { sequence, tokens, logits: Wanted::Last })
                .collect();
            feed(&mut self.machine, &mut feeds)?;
            for sequence in later {
                sequence.copy_prefix(&now[0], test.depth + test.prompt)?;
            }
            self.times.prompts = Some(clock.elapsed());
        }
        let mut before = clock.elapsed();
        for i in 0..test.generate as usize {
            if !self.keep_going.ask() {
                return Err(Error::INTERRUPTED);
            }
            let mut feeds: Vec<Feed<'_>> = sequences
                .iter_mut()
                .zip(&generated)
                .map(|(sequence, tokens)| Feed { sequence, tokens: &tokens[i..=i], logits: Wanted::Last })
                .collect();
            feed(&mut self.machine, &mut feeds)?;
            let now = clock.elapsed();
            self.times.steps.push(now - before);
            before = now;
        }
        Ok(clock.elapsed().as_secs_f64())
    }

    /// The test with as few steps as a warm-up needs.
    pub(crate) fn warm_up(&mut self, test: Test) -> Result<(), Error> {
        self.sample(Test { generate: test.generate.min(WARM_UP_STEPS), ..test }).map(drop)
    }
}

/// A step whose logits are not looked at.
fn feed(machine: &mut Machine, feeds: &mut [Feed<'_>]) -> Result<(), Error> {
    let mut refused = None;
    machine.step(feeds, |_, logits| {
        if let Err(error) = logits {
            refused.get_or_insert(error);
        }
    })?;
    refused.map_or(Ok(()), |error| Err(error.into()))
}

/// A model, the machine that runs it, and the limits of the computer.
pub struct Bench<'a> {
    loaded: &'a Loaded,
    options: BenchOptions,
    roofline: &'a mut Roofline,
    accounts: Accounts,
    runner: Option<Runner>,
    interrupted: bool,
}

impl<'a> Bench<'a> {
    /// Gets ready to measure `loaded`.
    pub fn new(loaded: &'a Loaded, roofline: &'a mut Roofline, options: BenchOptions) -> Self {
        let accounts = Accounts::of(&loaded.module);
        Self { loaded, options, roofline, accounts, runner: None, interrupted: false }
    }

    /// What is counted.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Whether a test has been ended by [`BenchOptions::keep_going`].
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// Measures a test. `None` if it was interrupted before its first repetition was done; later interruptions keep the
    /// repetitions that were.
    ///
    /// # Errors
    /// What the session refuses; memory or threads that cannot be had.
    pub fn run(&mut self, test: Test, progress: &mut dyn FnMut(Progress)) -> Result<Option<Outcome>, Error> {
        match self.measure(test, progress) {
            Ok(outcome) => Ok(Some(outcome).filter(|o| !o.samples.is_empty())),
            Err(error) if error.is_interruption() => {
                self.interrupted = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn measure(&mut self, test: Test, progress: &mut dyn FnMut(Progress)) -> Result<Outcome, Error> {
        let mut runner = self.open(test.threads, test.sequences)?;
        let outcome = self.measure_with(&mut runner, test, progress);
        self.runner = Some(runner);
        let mut outcome = outcome?;
        if self.options.profile && !self.interrupted {
            progress(Progress::Profiling);
            match self.profile(test) {
                Err(error) if error.is_interruption() => self.interrupted = true,
                profile => outcome.profile = profile?,
            }
        }
        Ok(outcome)
    }

    fn measure_with(
        &mut self,
        runner: &mut Runner,
        test: Test,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Outcome, Error> {
        progress(Progress::Filling);
        runner.fill(test.depth, test.sequences)?;
        let computed = if test.shared_prompt { 1 } else { test.sequences };
        let mut work = self.accounts.batch(test.depth, test.prompt, computed);
        work += self.accounts.batched_generation(test.depth + test.prompt, test.generate, test.sequences);
        let mut outcome = Outcome {
            test,
            samples: Vec::new(),
            limits: Vec::new(),
            work,
            token_times: Vec::new(),
            prompt_times: Vec::new(),
            profile: None,
        };
        if self.options.warm_up {
            runner.warm_up(test)?;
        }
        outcome.limits.push(self.limits(test.threads)?);
        for done in 1..=self.options.repetitions.max(1) {
            let seconds = match runner.sample(test) {
                Err(error) if error.is_interruption() && !outcome.samples.is_empty() => {
                    self.interrupted = true;
                    break;
                }
                seconds => seconds?,
            };
            let rate = outcome.tokens() as f64 / seconds;
            outcome.samples.push(rate);
            outcome.token_times.extend(&runner.times.steps);
            outcome.prompt_times.extend(runner.times.prompts);
            outcome.limits.push(self.limits(test.threads)?);
            progress(Progress::Sample { done, rate });
        }
        Ok(outcome)
    }

    /// Runs the test twice in a machine that records; what the second run took.
    fn profile(&mut self, test: Test) -> Result<Option<Profile>, Error> {
        let mut recording = self.runner_of(test.threads, test.sequences, Record::Totals)?;
        recording.fill(test.depth, test.sequences)?;
        recording.warm_up(test)?;
        recording.machine.reset_profile();
        recording.sample(test)?;
        Ok(recording.machine.profile())
    }

    fn runner_of(&self, threads: u32, segments: u32, record: Record) -> Result<Runner, Error> {
        let options = MachineOptions { context: self.options.context, threads, segments, record };
        Runner::new(self.loaded.model.clone(), options, self.options.keep_going.clone())
    }

    /// One round: the median of a few passes each.
    fn limits(&mut self, threads: u32) -> Result<Limits, Error> {
        Ok(Limits {
            bandwidth: self.roofline.bandwidth(threads, PASSES)?.median(),
            int8: self.roofline.int8_peak(threads, PASSES)?.median(),
        })
    }

    /// The machine with this number of threads and for this number of sequences: the last one, or a new one.
    fn open(&mut self, threads: u32, sequences: u32) -> Result<Runner, Error> {
        match self.runner.take() {
            Some(runner) if runner.fits(threads, sequences) => Ok(runner),
            other => {
                // Its memory is free before the next one takes its own.
                drop(other);
                self.runner_of(threads, sequences.max(self.options.sequences), Record::Nothing)
            }
        }
    }
}

/// The token at a position: any, but the same one each time.
pub(crate) fn token(position: u32, vocab: u32) -> u32 {
    let mixed = u64::from(position).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (mixed % u64::from(vocab.max(1))) as u32
}
