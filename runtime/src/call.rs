//! Binding a program to addresses, and the one place where generated code is called.
//!
//! A [`BoundProgram`] is a program whose words are addresses. Words that change per call (position, tokens, units, rows)
//! are patched into a copy that each thread owns; everything else stays as it was bound, also the units of steps that
//! always have as many.
//!
//! Invariants: an address word points to a buffer that lives as long as the [`Engine`] (it owns them through its
//! `keep` handle) and that is large enough for every call with `position + tokens ≤ capacity` and `tokens ≤ max`; the
//! session checks these two before it runs a job. The word list of a step has exactly the words of its kernel's spec.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitnetc_codegen::image::{KernelEntry, KernelFn};
use bitnetc_codegen::program::{Program, Word};
use bitnetc_ir::partition::Per;
use bitnetc_ir::{Entity, Extent, TokenCount, Units};

use crate::profile::{Probe, Recorder, Silent};
use crate::shares::{MOST_UNITS, Shares};
use crate::team::{Barrier, Job, Work};

/// Addresses of the buffers of a session, for binding.
pub(crate) trait Addresses {
    /// Address for a word that is a place in a buffer; `None` for words that change per call.
    fn address(&self, program: usize, word: Word) -> Option<u64>;
    /// Bytes between the rows of the input that the word lies in, if calls may start at another row.
    fn row_stride(&self, program: usize, word: Word) -> u64;
    /// Address of the scratch memory of a thread.
    fn scratch(&self, thread: u32) -> u64;
    /// Address of the private memory of a thread.
    fn private(&self, thread: u32) -> u64;
}

#[derive(Clone, Copy, Debug)]
enum Patch {
    Position,
    Tokens,
    UnitBegin,
    UnitEnd,
    Row { base: u64, stride: u64 },
}

#[derive(Clone, Copy, Debug)]
struct BoundStep {
    function: KernelFn,
    first_word: u32,
    patches: (u32, u32),
    units: Units,
    replicated: bool,
    /// Whether the share of a thread is the same in every call; then it is bound, and what is left to know is whether
    /// there is any: see [`BoundProgram::idle`].
    fixed: bool,
    /// Whether threads that are done help others, see [`crate::shares`], and of how many units the pieces are multiples.
    divided: Option<u32>,
    barrier: bool,
}

impl BoundStep {
    /// What a thread does of the step.
    fn share(&self, call: Extent, thread: u32, threads: u32) -> std::ops::Range<u64> {
        match self.replicated {
            true => 0..self.units.total(call),
            false => self.units.share(call, thread, threads),
        }
    }
}

#[derive(Debug)]
struct BoundProgram {
    steps: Vec<BoundStep>,
    patches: Vec<(u32, Patch)>,
    /// One copy of the words for each thread.
    words: Vec<Vec<AtomicU64>>,
    /// For each thread and fixed step, whether the thread has nothing to do.
    idle: Vec<Vec<bool>>,
}

impl BoundProgram {
    /// Runs the units `range` of a step (of a fixed step, those that are bound) with the words of a thread.
    fn call(&self, step: &BoundStep, words: &[AtomicU64], job: Job, range: std::ops::Range<u64>) {
        for (at, patch) in &self.patches[step.patches.0 as usize..step.patches.1 as usize] {
            let value = match *patch {
                Patch::Position => u64::from(job.position),
                Patch::Tokens => u64::from(job.tokens),
                Patch::UnitBegin => range.start,
                Patch::UnitEnd => range.end,
                Patch::Row { base, stride } => base + u64::from(job.row) * stride,
            };
            words[*at as usize].store(value, Ordering::Relaxed);
        }
        let args = words[step.first_word as usize..].as_ptr().cast::<u64>();
        // SAFETY: the code was generated from a verified kernel whose parameters are exactly these words (the program
        // lists one word for each parameter of the spec). Its addresses lie in buffers that `_keep` and the session own
        // for the life of the engine and that are large enough for the job, which the session has checked; ranges that
        // two threads touch between barriers do not overlap, which the plan checker has proved, and no unit of a step is
        // handed out twice. `AtomicU64` has the layout of `u64`, and one thread alone writes its copy.
        unsafe { (step.function)(args) };
    }
}

/// The least piece of a step that threads which are done take from others, `None` if its shares must be whole: a share of
/// attention of one token is merged as it goes.
fn grain(units: Units) -> Option<u32> {
    match units.per {
        // Kernels take row tiles by twos, fours or eights, and a matrix is no piece of work below that.
        Per::Call => (units.count > 1).then_some(8),
        Per::Token => Some(4),
        Per::QueryTile => Some(1),
        Per::KeyBlock => None,
    }
}

/// All programs of a model, bound to one session's buffers.
#[derive(Debug)]
pub(crate) struct Engine<K> {
    programs: Vec<BoundProgram>,
    threads: u32,
    shares: Shares,
    recorder: Option<Arc<Recorder>>,
    /// Keeps code and weights alive as long as their addresses are in use.
    _keep: K,
}

impl<K> Engine<K> {
    /// Binds `programs`; `entries` gives the code of each kernel, `recorder` gets the times, if there is one.
    pub(crate) fn bind(
        programs: &[Program],
        entries: &[KernelEntry],
        addresses: &dyn Addresses,
        capacity: u32,
        threads: u32,
        recorder: Option<Arc<Recorder>>,
        keep: K,
    ) -> Self {
        let mut bound = Vec::with_capacity(programs.len());
        for (index, program) in programs.iter().enumerate() {
            let mut steps = Vec::with_capacity(program.steps.len());
            let mut patches = Vec::new();
            let mut template = Vec::new();
            // Words that differ from thread to thread.
            let mut own: Vec<(u32, Own)> = Vec::new();
            for (number, step) in program.steps.iter().enumerate() {
                let closes_phase = step.barrier || number + 1 == program.steps.len();
                let divided = match closes_phase && !step.replicated && threads > 1 {
                    true => grain(step.units),
                    false => None,
                };
                let (first_word, first_patch) = (template.len() as u32, patches.len() as u32);
                let fixed = match step.units.per {
                    _ if divided.is_some() => false,
                    Per::Call => true,
                    Per::Token => program.tokens == TokenCount::One,
                    Per::KeyBlock | Per::QueryTile => false,
                };
                for &word in &step.words {
                    let at = template.len() as u32;
                    let mut value = 0;
                    match word {
                        Word::Position => patches.push((at, Patch::Position)),
                        Word::Tokens => patches.push((at, Patch::Tokens)),
                        Word::UnitBegin if fixed => own.push((at, Own::UnitBegin(steps.len()))),
                        Word::UnitEnd if fixed => own.push((at, Own::UnitEnd(steps.len()))),
                        Word::UnitBegin => patches.push((at, Patch::UnitBegin)),
                        Word::UnitEnd => patches.push((at, Patch::UnitEnd)),
                        Word::Capacity => value = u64::from(capacity),
                        Word::Scratch => own.push((at, Own::Scratch)),
                        Word::Private(offset) => own.push((at, Own::Private(offset))),
                        place => {
                            value = addresses.address(index, place).unwrap_or(0);
                            let stride = addresses.row_stride(index, place);
                            if stride > 0 {
                                patches.push((at, Patch::Row { base: value, stride }));
                            }
                        }
                    }
                    template.push(value);
                }
                steps.push(BoundStep {
                    function: entries[step.kernel.index()].function(),
                    first_word,
                    patches: (first_patch, patches.len() as u32),
                    units: step.units,
                    replicated: step.replicated,
                    fixed,
                    divided,
                    barrier: step.barrier,
                });
            }
            // Fixed shares are those of any call.
            let any = Extent { position: 0, tokens: 1 };
            let share = |step: usize, thread: u32| {
                let step: &BoundStep = &steps[step];
                step.share(any, thread, threads)
            };
            let words_of = |thread: u32| {
                let words: Vec<AtomicU64> = template.iter().map(|&w| AtomicU64::new(w)).collect();
                for &(at, what) in &own {
                    let value = match what {
                        Own::Scratch => addresses.scratch(thread),
                        Own::Private(offset) => addresses.private(thread) + offset,
                        Own::UnitBegin(step) => share(step, thread).start,
                        Own::UnitEnd(step) => share(step, thread).end,
                    };
                    words[at as usize].store(value, Ordering::Relaxed);
                }
                words
            };
            let words = (0..threads).map(words_of).collect();
            let is_idle = |step: usize, thread: u32| steps[step].fixed && share(step, thread).is_empty();
            let idle = (0..threads).map(|t| (0..steps.len()).map(|s| is_idle(s, t)).collect()).collect();
            bound.push(BoundProgram { steps, patches, words, idle });
        }
        Self { programs: bound, threads, shares: Shares::new(threads), recorder, _keep: keep }
    }

    /// Runs the steps of a job as one of the threads.
    fn walk<P: Probe>(&self, job: Job, thread: u32, barrier: &Barrier, probe: P) {
        let index = job.program as usize;
        let program = &self.programs[index];
        let words = &program.words[thread as usize];
        let idle = &program.idle[thread as usize];
        let call = Extent { position: job.position, tokens: job.tokens };
        let last = program.steps.len().wrapping_sub(1);
        for (number, step) in program.steps.iter().enumerate() {
            let started = probe.now();
            let mut worked = false;
            if let Some(grain) = step.divided
                && step.units.total(call) <= MOST_UNITS
            {
                let division = self.shares.begin(thread, u64::from(grain));
                let share = |owner| step.share(call, owner, self.threads);
                while let Some(range) = self.shares.next(division, share) {
                    program.call(step, words, job, range);
                    worked = true;
                }
            } else {
                let share = if step.fixed { 0..0 } else { step.share(call, thread, self.threads) };
                let nothing = if step.fixed { idle[number] } else { share.is_empty() };
                if !nothing {
                    program.call(step, words, job, share);
                    worked = true;
                }
            }
            if worked {
                probe.busy(index, number, thread, started);
            }
            let end = P::END && number == last;
            if step.barrier || end {
                let waiting = probe.now();
                barrier.wait();
                probe.waited(index, number, thread, waiting);
            }
        }
    }
}

/// A word that differs from thread to thread, and stays as it is bound.
#[derive(Clone, Copy, Debug)]
enum Own {
    Scratch,
    Private(u64),
    /// Of the step with this number.
    UnitBegin(usize),
    UnitEnd(usize),
}

impl<K: Send + Sync + 'static> Work for Engine<K> {
    fn run(&self, job: Job, thread: u32, barrier: &Barrier) {
        match &self.recorder {
            None => self.walk(job, thread, barrier, Silent),
            Some(recorder) => self.walk(job, thread, barrier, &**recorder),
        }
    }
}
