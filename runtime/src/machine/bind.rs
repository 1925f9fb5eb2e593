//! From a program's words to addresses: what can be known before a call is put into the words once, the rest becomes patches.
//!
//! Invariants: a bound step has exactly the words of its kernel's spec, in order; a word that differs between calls has one
//! patch, which lies in the range of its step.

use std::sync::atomic::{AtomicU64, Ordering};

use bitnetc_codegen::image::{KernelEntry, KernelFn};
use bitnetc_codegen::program::{Program, Step, Word};
use bitnetc_ir::partition::Per;
use bitnetc_ir::{Entity, Extent, TokenCount, Units};

use super::binding::{Binding, Target};

/// A word that each call writes anew.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patch {
    Position,
    Tokens,
    UnitBegin,
    UnitEnd,
    Row {
        base: u64,
        stride: u64,
    },
    /// A byte of a cache of the segment's sequence.
    Cache {
        cache: u32,
        offset: u64,
    },
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

/// A step whose words are addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoundStep {
    pub(super) function: KernelFn,
    pub(super) first_word: u32,
    pub(super) patches: (u32, u32),
    pub(super) units: Units,
    pub(super) replicated: bool,
    /// Whether segments are calls of their own.
    pub(super) positional: bool,
    /// Whether the share of a thread is the same in every call; then it is bound, and what is left to know is whether
    /// there is any: see [`BoundProgram::idle`].
    pub(super) fixed: bool,
    /// Whether threads that are done help others, see [`super::shares`], and of how many units the pieces are multiples.
    pub(super) divided: Option<u32>,
    pub(super) barrier: bool,
}

impl BoundStep {
    /// What a thread does of the step.
    pub(super) fn share(&self, call: Extent, thread: u32, threads: u32) -> std::ops::Range<u64> {
        match self.replicated {
            true => 0..self.units.total(call),
            false => self.units.share(call, thread, threads),
        }
    }
}

/// A program whose words are addresses.
#[derive(Debug)]
pub(super) struct BoundProgram {
    pub(super) steps: Vec<BoundStep>,
    /// Indices of words, and what they get.
    pub(super) patches: Vec<(u32, Patch)>,
    /// One copy of the words for each thread.
    pub(super) words: Vec<Vec<AtomicU64>>,
    /// For each thread and fixed step, whether the thread has nothing to do.
    pub(super) idle: Vec<Vec<bool>>,
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

/// A program in the making.
struct Binder<'b, 'm> {
    binding: &'b Binding<'m>,
    /// The program's index.
    number: usize,
    threads: u32,
    steps: Vec<BoundStep>,
    patches: Vec<(u32, Patch)>,
    template: Vec<u64>,
    own: Vec<(u32, Own)>,
}

/// Binds program number `number` for `threads` threads; `entries` gives the code of each kernel.
pub(super) fn bind(
    binding: &Binding<'_>,
    number: usize,
    program: &Program,
    entries: &[KernelEntry],
    threads: u32,
) -> BoundProgram {
    let mut binder = Binder {
        binding,
        number,
        threads,
        steps: Vec::with_capacity(program.steps.len()),
        patches: Vec::new(),
        template: Vec::new(),
        own: Vec::new(),
    };
    for (at, step) in program.steps.iter().enumerate() {
        let closes_phase = step.barrier || at + 1 == program.steps.len();
        binder.step(step, program.tokens, closes_phase, entries[step.kernel.index()].function());
    }
    binder.finish()
}

impl Binder<'_, '_> {
    fn step(&mut self, step: &Step, tokens: TokenCount, closes_phase: bool, function: KernelFn) {
        let divided = match closes_phase && !step.replicated && self.threads > 1 {
            true => grain(step.units),
            false => None,
        };
        let fixed = match step.units.per {
            _ if divided.is_some() => false,
            // Segments are calls of their own, each with a part of the share.
            _ if step.positional && tokens != TokenCount::One => false,
            Per::Call => true,
            Per::Token => tokens == TokenCount::One,
            Per::KeyBlock | Per::QueryTile => false,
        };
        let positional = step.positional;
        let (first_word, first_patch) = (self.template.len() as u32, self.patches.len() as u32);
        for (at, &word) in step.words.iter().enumerate() {
            let stride = step.row_strides.get(at).copied().filter(|_| positional).unwrap_or(0);
            let value = self.word(word, stride, fixed);
            self.template.push(value);
        }
        self.steps.push(BoundStep {
            function,
            first_word,
            patches: (first_patch, self.patches.len() as u32),
            units: step.units,
            replicated: step.replicated,
            positional,
            fixed,
            divided,
            barrier: step.barrier,
        });
    }

    /// What a word is as far as it is known, with a note of what is not. `stride`: of the rows of an activation in a step that
    /// segments call at different rows.
    fn word(&mut self, word: Word, stride: u64, fixed: bool) -> u64 {
        let (at, step) = (self.template.len() as u32, self.steps.len());
        match word {
            Word::Position => self.patches.push((at, Patch::Position)),
            Word::Tokens => self.patches.push((at, Patch::Tokens)),
            Word::UnitBegin if fixed => self.own.push((at, Own::UnitBegin(step))),
            Word::UnitEnd if fixed => self.own.push((at, Own::UnitEnd(step))),
            Word::UnitBegin => self.patches.push((at, Patch::UnitBegin)),
            Word::UnitEnd => self.patches.push((at, Patch::UnitEnd)),
            Word::Scratch => self.own.push((at, Own::Scratch)),
            // Only functions of one token have private memory: there are no other rows.
            Word::Private(offset) => self.own.push((at, Own::Private(offset))),
            Word::Capacity => return u64::from(self.binding.capacity),
            Word::Arena(_)
            | Word::Input { .. }
            | Word::Output { .. }
            | Word::Weight(_)
            | Word::Scales(_)
            | Word::Rope(_)
            | Word::Workspace => match self.binding.target(self.number, word) {
                Target::Fixed(base) if stride == 0 => return base,
                Target::Fixed(base) => self.patches.push((at, Patch::Row { base, stride })),
                Target::Row { base, stride } => self.patches.push((at, Patch::Row { base, stride })),
                Target::Cache { cache, offset } => self.patches.push((at, Patch::Cache { cache, offset })),
            },
        }
        0
    }

    fn finish(self) -> BoundProgram {
        let Self { binding, threads, steps, patches, template, own, .. } = self;
        // Fixed shares are those of any call.
        let any = Extent { position: 0, tokens: 1 };
        let share = |step: usize, thread: u32| steps[step].share(any, thread, threads);
        let words_of = |thread: u32| {
            let words: Vec<AtomicU64> = template.iter().map(|&w| AtomicU64::new(w)).collect();
            for &(at, what) in &own {
                let value = match what {
                    Own::Scratch => binding.memory.scratch.address(thread),
                    Own::Private(offset) => binding.memory.private.address(thread) + offset,
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
        BoundProgram { steps, patches, words, idle }
    }
}
