//! Binding a program to addresses, and the one place where generated code is called.
//!
//! A [`BoundProgram`] is a program whose words are addresses. Words that change per call (position, tokens, units, rows)
//! are patched into a copy that each thread owns; everything else stays as it was bound, also the units of steps that
//! always have as many.
//!
//! The tokens of a chunk may belong to several sequences, each with caches of its own: they are *segments*, runs of
//! neighbouring rows of one sequence. A step that depends on positions is then one kernel call for each segment, with the
//! segment's position, rows and caches; to all other steps rows are rows.
//!
//! Invariants: an address word points to a buffer that lives as long as the [`Engine`] (it owns them through its
//! `keep` handle) and that is large enough for every call with `position + tokens ≤ capacity` and `tokens ≤ max`, for each
//! segment too; sequences are below the number that the engine was bound for, and those of the segments of a call differ;
//! the session checks this before it runs a job. The word list of a step has exactly the words of its kernel's spec.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
    /// Address of the cache that the word lies in, for the sequence; `None` for all other words.
    fn cache(&self, program: usize, word: Word, sequence: u32) -> Option<u64>;
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
    Row {
        base: u64,
        stride: u64,
    },
    /// Index of the first of the cache's addresses, of which there is one for each sequence.
    Cache(u32),
}

/// The numbers that are patched into the words of a call.
struct Numbers {
    call: Extent,
    share: Range<u64>,
    row: u32,
    sequence: u32,
}

/// What the buffers have room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Positions of each sequence.
    pub(crate) capacity: u32,
    /// Threads.
    pub(crate) threads: u32,
    /// Sequences.
    pub(crate) sequences: u32,
}

/// Some neighbouring rows of a chunk: tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Whose tokens.
    pub(crate) sequence: u32,
    /// Where the first of them stands in the sequence.
    pub(crate) position: u32,
    /// How many.
    pub(crate) tokens: u32,
}

/// A segment that the leader writes and all threads read.
#[derive(Debug, Default)]
struct SharedSegment {
    sequence: AtomicU32,
    position: AtomicU32,
    tokens: AtomicU32,
}

impl SharedSegment {
    fn get(&self) -> Segment {
        Segment {
            sequence: self.sequence.load(Ordering::Relaxed),
            position: self.position.load(Ordering::Relaxed),
            tokens: self.tokens.load(Ordering::Relaxed),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct BoundStep {
    function: KernelFn,
    first_word: u32,
    patches: (u32, u32),
    units: Units,
    replicated: bool,
    /// Whether segments are calls of their own.
    positional: bool,
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
    sequences: u32,
    /// Of each cache for each sequence, where there is more than one sequence.
    caches: Vec<u64>,
    /// As many as a chunk has tokens, where there is more than one sequence.
    segments: Vec<SharedSegment>,
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
        room: Room,
        recorder: Option<Arc<Recorder>>,
        keep: K,
    ) -> Self {
        let Room { capacity, threads, sequences } = room;
        let several = sequences > 1;
        let mut caches = Vec::new();
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
                let positional = several && step.positional;
                for (number, &word) in step.words.iter().enumerate() {
                    let at = template.len() as u32;
                    let mut value = 0;
                    let of_sequence = |sequence| addresses.cache(index, word, sequence);
                    match word {
                        _ if several && of_sequence(0).is_some() => {
                            patches.push((at, Patch::Cache(caches.len() as u32)));
                            caches.extend((0..sequences).map(|s| of_sequence(s).unwrap_or(0)));
                        }
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
                            let of_segment = step.row_strides.get(number).copied().filter(|_| positional);
                            let stride = of_segment.unwrap_or(0).max(addresses.row_stride(index, place));
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
                    positional,
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
        let most = programs.iter().map(|p| p.tokens.max()).max().unwrap_or(0);
        let most = if several { most } else { 0 };
        let segments = (0..most).map(|_| SharedSegment::default()).collect();
        let shares = Shares::new(threads);
        Self { programs: bound, threads, shares, sequences, caches, segments, recorder, _keep: keep }
    }

    /// Says what segment `number` of the next job is. Only where the engine was bound for more than one sequence, and only
    /// while no job runs.
    pub(crate) fn set_segment(&self, number: usize, segment: Segment) {
        if let Some(shared) = self.segments.get(number) {
            shared.sequence.store(segment.sequence.min(self.sequences - 1), Ordering::Relaxed);
            shared.position.store(segment.position, Ordering::Relaxed);
            shared.tokens.store(segment.tokens, Ordering::Relaxed);
        }
    }

    /// Runs the steps of a job as one of the threads.
    fn walk<P: Probe>(&self, job: Job, thread: u32, barrier: &Barrier, probe: P) {
        let index = job.program as usize;
        let program = &self.programs[index];
        let idle = &program.idle[thread as usize];
        let call = Extent { position: job.position, tokens: job.tokens };
        let last = program.steps.len().wrapping_sub(1);
        for (number, step) in program.steps.iter().enumerate() {
            let started = probe.now();
            let numbers = |share| Numbers { call, share, row: job.row, sequence: job.sequence };
            let mut worked = false;
            if step.positional && job.segments > 0 {
                worked = self.call_segments(program, step, job, thread);
            } else if let Some(grain) = step.divided
                && step.units.total(call) <= MOST_UNITS
            {
                let division = self.shares.begin(thread, u64::from(grain));
                let share = |owner| step.share(call, owner, self.threads);
                while let Some(range) = self.shares.next(division, share) {
                    self.call(program, step, thread, &numbers(range));
                    worked = true;
                }
            } else {
                let share = if step.fixed { 0..0 } else { step.share(call, thread, self.threads) };
                let nothing = if step.fixed { idle[number] } else { share.is_empty() };
                if !nothing {
                    self.call(program, step, thread, &numbers(share));
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

    /// Runs a thread's share of a step for each segment; returns whether there was any.
    fn call_segments(&self, program: &BoundProgram, step: &BoundStep, job: Job, thread: u32) -> bool {
        let segments = &self.segments[..(job.segments as usize).min(self.segments.len())];
        let extent = |shared: &SharedSegment| {
            let Segment { position, tokens, .. } = shared.get();
            Extent { position, tokens }
        };
        let (mut row, mut next, mut any) = (0, 0, false);
        step.units.share_of_calls(segments.iter().map(extent), thread, self.threads, |number, share| {
            row += segments[next..number].iter().map(|s| s.get().tokens).sum::<u32>();
            next = number;
            let sequence = segments[number].get().sequence;
            let numbers = Numbers { call: extent(&segments[number]), share, row, sequence };
            self.call(program, step, thread, &numbers);
            any = true;
        });
        any
    }

    /// Calls the kernel of a step.
    fn call(&self, program: &BoundProgram, step: &BoundStep, thread: u32, numbers: &Numbers) {
        let words = &program.words[thread as usize];
        for (at, patch) in &program.patches[step.patches.0 as usize..step.patches.1 as usize] {
            let value = match *patch {
                Patch::Position => u64::from(numbers.call.position),
                Patch::Tokens => u64::from(numbers.call.tokens),
                Patch::UnitBegin => numbers.share.start,
                Patch::UnitEnd => numbers.share.end,
                Patch::Row { base, stride } => base + u64::from(numbers.row) * stride,
                Patch::Cache(first) => self.caches[first as usize + numbers.sequence as usize],
            };
            words[*at as usize].store(value, Ordering::Relaxed);
        }
        let args = words[step.first_word as usize..].as_ptr().cast::<u64>();
        // SAFETY: the code was generated from a verified kernel whose parameters are exactly these words (the
        // program lists one word for each parameter of the spec). Its addresses lie in buffers that `_keep` and
        // the session own for the life of the engine and that are large enough for the job, which the session
        // has checked; ranges that two threads touch between barriers do not overlap, which the plan checker
        // has proved for the rows of a call, segments are different rows and caches, and no unit of a step is handed
        // out twice. `AtomicU64` has the
        // layout of `u64`, and this thread alone writes its copy.
        unsafe { (step.function)(args) };
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
