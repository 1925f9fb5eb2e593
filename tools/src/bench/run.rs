//! Running a test: limits and repetitions in turns.

use std::time::{Duration, Instant};

use bitnetc_codegen::compile::CompileError;
use bitnetc_codegen::host;
use bitnetc_ir::work::Accounts;
use bitnetc_runtime::machine::KeepGoing;
use bitnetc_runtime::profile::Profile;
use bitnetc_runtime::roofline::{Roofline, default_buffer_bytes};
use bitnetc_runtime::session::{Session, SessionOptions};

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
    /// Threads.
    pub threads: u32,
}

impl Test {
    /// Its name, without depth and threads: `pp512`, `tg128`, `pp512+tg128`.
    pub fn name(&self) -> String {
        match (self.prompt, self.generate) {
            (p, 0) => format!("pp{p}"),
            (0, n) => format!("tg{n}"),
            (p, n) => format!("pp{p}+tg{n}"),
        }
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
    /// Tokens that the sessions' context holds: the most that any test needs.
    pub context: u32,
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

/// A session, and what of its context is filled.
pub(crate) struct Runner {
    session: Session,
    /// Tokens of the session's context that are those of [`token`].
    filled: u32,
    keep_going: KeepGoing,
    /// How long each token took that the last sample generated.
    token_times: Vec<Duration>,
}

impl Runner {
    pub(crate) fn new(mut session: Session, keep_going: KeepGoing) -> Self {
        session.set_keep_going(keep_going.clone());
        Self { session, filled: 0, keep_going, token_times: Vec::new() }
    }

    /// Brings the context to `depth` tokens.
    pub(crate) fn fill(&mut self, depth: u32) -> Result<(), Error> {
        let vocab = self.session.model().vocab();
        self.session.truncate(self.filled.min(depth));
        // An interruption leaves the session as it was, a chunk at a time keeps it answering.
        while self.session.position() < depth {
            let start = self.session.position();
            let end = depth.min(start + self.session.chunk().max(1));
            let tokens: Vec<u32> = (start..end).map(|i| token(i, vocab)).collect();
            self.session.feed(&tokens)?;
        }
        self.filled = depth;
        Ok(())
    }

    /// Runs the test once, from its depth on; seconds.
    pub(crate) fn sample(&mut self, test: Test) -> Result<f64, Error> {
        let vocab = self.session.model().vocab();
        self.session.truncate(test.depth);
        let prompt: Vec<u32> = (0..test.prompt).map(|i| token(test.depth + i, vocab)).collect();
        self.token_times.clear();
        self.token_times.reserve(test.generate as usize);
        let clock = Instant::now();
        if !prompt.is_empty() {
            self.session.feed(&prompt)?;
        }
        let mut before = clock.elapsed();
        for i in 0..test.generate {
            if !self.keep_going.ask() {
                return Err(Error::INTERRUPTED);
            }
            self.session.feed(&[token(test.depth + test.prompt + i, vocab)])?;
            let now = clock.elapsed();
            self.token_times.push(now - before);
            before = now;
        }
        Ok(clock.elapsed().as_secs_f64())
    }

    /// The test with as few steps as a warm-up needs.
    pub(crate) fn warm_up(&mut self, test: Test) -> Result<(), Error> {
        self.sample(Test { generate: test.generate.min(WARM_UP_STEPS), ..test }).map(drop)
    }
}

/// A model, its sessions, and the machine's limits.
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
        let mut runner = self.open(test.threads)?;
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
        runner.fill(test.depth)?;
        let mut work = self.accounts.prompt(test.depth, test.prompt);
        work += self.accounts.generation(test.depth + test.prompt, test.generate);
        let mut outcome = Outcome {
            test,
            samples: Vec::new(),
            limits: Vec::new(),
            work,
            token_times: Vec::new(),
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
            let rate = f64::from(outcome.tokens()) / seconds;
            outcome.samples.push(rate);
            outcome.token_times.extend(&runner.token_times);
            outcome.limits.push(self.limits(test.threads)?);
            progress(Progress::Sample { done, rate });
        }
        Ok(outcome)
    }

    /// Runs the test twice in a session that records; what the second run took.
    fn profile(&mut self, test: Test) -> Result<Option<Profile>, Error> {
        let options = SessionOptions { context: self.options.context, threads: test.threads };
        let session = Session::profiled(self.loaded.model.clone(), options)?;
        let mut recording = Runner::new(session, self.options.keep_going.clone());
        recording.fill(test.depth)?;
        recording.warm_up(test)?;
        recording.session.reset_profile();
        recording.sample(test)?;
        Ok(recording.session.profile())
    }

    /// One round: the median of a few passes each.
    fn limits(&mut self, threads: u32) -> Result<Limits, Error> {
        Ok(Limits {
            bandwidth: self.roofline.bandwidth(threads, PASSES)?.median(),
            int8: self.roofline.int8_peak(threads, PASSES)?.median(),
        })
    }

    /// The session with this number of threads: the last one, or a new one.
    fn open(&mut self, threads: u32) -> Result<Runner, Error> {
        match self.runner.take() {
            Some(runner) if runner.session.threads() == threads => Ok(runner),
            other => {
                // Its memory is free before the next one takes its own.
                drop(other);
                let options = SessionOptions { context: self.options.context, threads };
                let session = Session::new(self.loaded.model.clone(), options)?;
                Ok(Runner::new(session, self.options.keep_going.clone()))
            }
        }
    }
}

/// The token at a position: any, but the same one each time.
pub(crate) fn token(position: u32, vocab: u32) -> u32 {
    let mixed = u64::from(position).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (mixed % u64::from(vocab.max(1))) as u32
}
