//! What computes rows for the scheduler: the machine, or something that looks like it.

use std::sync::Arc;

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::{Feed, Machine, MachineOptions, Record, Takers, Wanted, vec_with_room};
use bitnetc_runtime::model::Model;
use bitnetc_runtime::prefix::{Prefix, PrefixFormat};
use bitnetc_runtime::sequence::Sequence;

/// The rows of one sequence in a step.
#[derive(Debug)]
pub struct Part<'a, Q> {
    /// What they are appended to.
    pub sequence: &'a mut Q,
    /// Their tokens, at least one.
    pub tokens: &'a [u32],
    /// After which of them logits are wanted.
    pub logits: Wanted,
}

/// Appends tokens to sequences and gives logits. A sequence's logits are the same bits whatever is computed beside it and
/// however its tokens are divided into steps.
pub trait Stepper {
    /// The tokens of one text with their caches.
    type Sequence;

    /// An empty sequence.
    ///
    /// # Errors
    /// Memory could not be allocated.
    fn sequence(&self) -> Result<Self::Sequence, SessionError>;

    /// The tokens of a sequence.
    fn tokens(sequence: &Self::Sequence) -> &[u32];

    /// Forgets the tokens of a sequence from `length` on; returns how many it holds then. Fewer are no error: what a model keeps
    /// of a text may be such that it cannot be cut back.
    fn truncate(sequence: &mut Self::Sequence, length: usize) -> usize;

    /// Makes `to` hold the first `length` tokens of `from` and no others, without computing them; returns how many it
    /// holds. Fewer are no error: what is missing is computed, and the bits are the same.
    fn copy_prefix(from: &Self::Sequence, to: &mut Self::Sequence, length: usize) -> usize;

    /// The format of what [`Stepper::save`] gives.
    fn prefix_format(&self) -> PrefixFormat;

    /// Copies the first `length` tokens of a sequence, with what was computed of them; perhaps fewer.
    ///
    /// # Errors
    /// Memory could not be allocated.
    fn save(&self, sequence: &Self::Sequence, length: usize) -> Result<Prefix, SessionError>;

    /// Makes `to` hold the first `length` tokens of `prefix` and no others, without computing them; returns how many it
    /// holds. Fewer are no error, as with [`Stepper::copy_prefix`].
    fn restore(&self, prefix: &Prefix, to: &mut Self::Sequence, length: usize) -> usize;

    /// Tokens that a sequence has room for.
    fn context(&self) -> u32;

    /// Logits after a token.
    fn vocab(&self) -> u32;

    /// Rows that are computed at once.
    fn chunk(&self) -> u32;

    /// Appends the tokens of all parts. The takers, one for each part, are given the logits that are wanted, or why there are
    /// none.
    ///
    /// # Errors
    /// What concerns the step as a whole; no tokens were appended then.
    fn step<'a, T: Takers>(
        &mut self,
        parts: &mut dyn Iterator<Item = Part<'a, Self::Sequence>>,
        takers: &mut T,
    ) -> Result<(), SessionError>
    where
        Self::Sequence: 'a;
}

/// A [`Machine`] as the scheduler wants it.
#[derive(Debug)]
pub struct MachineStepper {
    machine: Machine,
    /// What identifies the model.
    source: [u8; 32],
    /// Memory for the feeds of a step, empty between steps.
    feeds: Vec<Feed<'static>>,
}

impl MachineStepper {
    /// Over `model`, which `source` identifies ([`Loaded::source_hash`](crate::load::Loaded::source_hash)), for at most
    /// `sequences` of `context` tokens in a step.
    ///
    /// # Errors
    /// Memory could not be allocated, threads could not be started, or the model has no such entry points.
    pub fn new(
        model: Arc<Model>,
        source: [u8; 32],
        context: u32,
        threads: u32,
        sequences: u32,
        record: Record,
    ) -> Result<Self, SessionError> {
        let options = MachineOptions { context, threads, segments: sequences.max(1), record };
        let feeds = vec_with_room("feeds of a step", sequences as usize)?;
        Ok(Self { machine: Machine::new(model, options)?, source, feeds })
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}

/// The memory of an empty vector for elements of another lifetime.
pub(super) fn emptied<T, U>(mut elements: Vec<T>) -> Vec<U> {
    elements.clear();
    // Collected in place: source and target have one layout.
    elements.into_iter().map_while(|_| None).collect()
}

impl Stepper for MachineStepper {
    type Sequence = Sequence;

    fn sequence(&self) -> Result<Sequence, SessionError> {
        self.machine.sequence()
    }

    fn tokens(sequence: &Sequence) -> &[u32] {
        sequence.tokens()
    }

    fn truncate(sequence: &mut Sequence, length: usize) -> usize {
        sequence.truncate(u32::try_from(length).unwrap_or(u32::MAX));
        sequence.forget_unheld() as usize
    }

    fn copy_prefix(from: &Sequence, to: &mut Sequence, length: usize) -> usize {
        let copied = to.copy_prefix(from, u32::try_from(length).unwrap_or(u32::MAX));
        if copied.is_err() {
            // Of another machine.
            to.truncate(0);
        }
        to.forget_unheld() as usize
    }

    fn prefix_format(&self) -> PrefixFormat {
        self.machine.prefix_format(&self.source)
    }

    fn save(&self, sequence: &Sequence, length: usize) -> Result<Prefix, SessionError> {
        sequence.save(&self.source, u32::try_from(length).unwrap_or(u32::MAX))
    }

    fn restore(&self, prefix: &Prefix, to: &mut Sequence, length: usize) -> usize {
        if to.restore(&self.source, prefix, u32::try_from(length).unwrap_or(u32::MAX)).is_err() {
            to.truncate(0);
        }
        to.forget_unheld() as usize
    }

    fn context(&self) -> u32 {
        self.machine.context()
    }

    fn vocab(&self) -> u32 {
        self.machine.model().vocab()
    }

    fn chunk(&self) -> u32 {
        self.machine.chunk()
    }

    fn step<'a, T: Takers>(
        &mut self,
        parts: &mut dyn Iterator<Item = Part<'a, Sequence>>,
        takers: &mut T,
    ) -> Result<(), SessionError>
    where
        Sequence: 'a,
    {
        let mut feeds = emptied(std::mem::take(&mut self.feeds));
        feeds.extend(parts.map(|part| Feed {
            sequence: part.sequence,
            tokens: part.tokens,
            logits: part.logits,
        }));
        let result = self.machine.step_shared(&mut feeds, takers);
        self.feeds = emptied(feeds);
        result
    }
}
