//! Binding a program to addresses, and the one place where generated code is called.
//!
//! A [`BoundProgram`] is a program whose words are addresses. Words that change per call (position, tokens, units, rows)
//! are patched into a copy that each thread owns; everything else stays as it was bound.
//!
//! Invariants: an address word points to a buffer that lives as long as the [`Engine`] (it owns them through its
//! `keep` handle) and that is large enough for every call with `position + tokens ≤ capacity` and `tokens ≤ max`; the
//! session checks these two before it runs a job. The word list of a step has exactly the words of its kernel's spec.

use std::sync::atomic::{AtomicU64, Ordering};

use bitnetc_codegen::image::{KernelEntry, KernelFn};
use bitnetc_codegen::program::{Program, Word};
use bitnetc_ir::{Entity, Units};

use crate::team::{Barrier, Job, Work};

/// Addresses of the buffers of a session, for binding.
pub(crate) trait Addresses {
    /// Address for a word that is a place in a buffer; `None` for words that change per call.
    fn address(&self, program: usize, word: Word) -> Option<u64>;
    /// Bytes between the rows of the input that the word lies in, if calls may start at another row.
    fn row_stride(&self, program: usize, word: Word) -> u64;
    /// Address of the scratch memory of a thread.
    fn scratch(&self, thread: u32) -> u64;
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
    barrier: bool,
}

#[derive(Debug)]
struct BoundProgram {
    steps: Vec<BoundStep>,
    patches: Vec<(u32, Patch)>,
    /// One copy of the words for each thread.
    words: Vec<Vec<AtomicU64>>,
}

/// All programs of a model, bound to one session's buffers.
#[derive(Debug)]
pub(crate) struct Engine<K> {
    programs: Vec<BoundProgram>,
    threads: u32,
    /// Keeps code and weights alive as long as their addresses are in use.
    _keep: K,
}

impl<K> Engine<K> {
    /// Binds `programs`; `entries` gives the code of each kernel.
    pub(crate) fn bind(
        programs: &[Program],
        entries: &[KernelEntry],
        addresses: &dyn Addresses,
        capacity: u32,
        threads: u32,
        keep: K,
    ) -> Self {
        let mut bound = Vec::with_capacity(programs.len());
        for (index, program) in programs.iter().enumerate() {
            let mut steps = Vec::with_capacity(program.steps.len());
            let mut patches = Vec::new();
            let mut template = Vec::new();
            let mut scratch = Vec::new();
            for step in &program.steps {
                let (first_word, first_patch) = (template.len() as u32, patches.len() as u32);
                for &word in &step.words {
                    let at = template.len() as u32;
                    let mut value = 0;
                    match word {
                        Word::Position => patches.push((at, Patch::Position)),
                        Word::Tokens => patches.push((at, Patch::Tokens)),
                        Word::UnitBegin => patches.push((at, Patch::UnitBegin)),
                        Word::UnitEnd => patches.push((at, Patch::UnitEnd)),
                        Word::Capacity => value = u64::from(capacity),
                        Word::Scratch => scratch.push(at),
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
                    barrier: step.barrier,
                });
            }
            let words = (0..threads)
                .map(|thread| {
                    let words: Vec<AtomicU64> = template.iter().map(|&w| AtomicU64::new(w)).collect();
                    for &at in &scratch {
                        words[at as usize].store(addresses.scratch(thread), Ordering::Relaxed);
                    }
                    words
                })
                .collect();
            bound.push(BoundProgram { steps, patches, words });
        }
        Self { programs: bound, threads, _keep: keep }
    }
}

impl<K: Send + Sync + 'static> Work for Engine<K> {
    fn run(&self, job: Job, thread: u32, barrier: &Barrier) {
        let program = &self.programs[job.program as usize];
        let words = &program.words[thread as usize];
        for step in &program.steps {
            let share = Units::share(step.units.total(job.tokens), thread, self.threads);
            if !share.is_empty() {
                for (at, patch) in &program.patches[step.patches.0 as usize..step.patches.1 as usize] {
                    let value = match *patch {
                        Patch::Position => u64::from(job.position),
                        Patch::Tokens => u64::from(job.tokens),
                        Patch::UnitBegin => share.start,
                        Patch::UnitEnd => share.end,
                        Patch::Row { base, stride } => base + u64::from(job.row) * stride,
                    };
                    words[*at as usize].store(value, Ordering::Relaxed);
                }
                let args = words[step.first_word as usize..].as_ptr().cast::<u64>();
                // SAFETY: the code was generated from a verified kernel whose parameters are exactly these words (the
                // program lists one word for each parameter of the spec). Its addresses lie in buffers that `_keep` and
                // the session own for the life of the engine and that are large enough for the job, which the session
                // has checked; ranges that two threads touch between barriers do not overlap, which the plan checker
                // has proved. `AtomicU64` has the layout of `u64`, and this thread alone writes its copy.
                unsafe { (step.function)(args) };
            }
            if step.barrier {
                barrier.wait();
            }
        }
    }
}
