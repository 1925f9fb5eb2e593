//! A session: one sequence with a machine for itself.
//!
//! [`Session::feed`] takes tokens and gives the logits after the last of them; [`Session::score`] gives the logits after every
//! token. Several sequences share a [`Machine`] instead.
//!
//! Invariants: those of the machine; after an error the position is what it was before the call.

use std::sync::Arc;

use crate::error::SessionError;
use crate::machine::{Feed, KeepGoing, Machine, MachineOptions, MemoryUse, Record, Row, Wanted};
use crate::model::Model;
use crate::profile::Profile;
use crate::sequence::{Mark, Sequence};

/// What a session is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Tokens that may be fed in all; the KV cache gets room for the next multiple of 64.
    pub context: u32,
    /// Threads, the caller among them.
    pub threads: u32,
}

/// One sequence over a model.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    sequence: Sequence,
}

impl Session {
    /// A session over `model`, at position 0.
    ///
    /// # Errors
    /// Memory or threads that could not be had; a module without the three entry points.
    pub fn new(model: Arc<Model>, options: SessionOptions) -> Result<Self, SessionError> {
        Self::recording(model, options, Record::Nothing)
    }

    /// As [`Session::new`], with the time of every step and barrier recorded. The bits are the same.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn profiled(model: Arc<Model>, options: SessionOptions) -> Result<Self, SessionError> {
        Self::recording(model, options, Record::Totals)
    }

    fn recording(model: Arc<Model>, options: SessionOptions, record: Record) -> Result<Self, SessionError> {
        let SessionOptions { context, threads } = options;
        let machine = Machine::new(model, MachineOptions { context, threads, segments: 1, record })?;
        let sequence = machine.sequence()?;
        Ok(Self { machine, sequence })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.machine.model()
    }
    /// The tokens fed so far.
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }
    /// How many tokens have been fed so far.
    pub fn position(&self) -> u32 {
        self.sequence.position()
    }
    /// Tokens that may be fed in all.
    pub fn context(&self) -> u32 {
        self.machine.context()
    }
    /// Threads.
    pub fn threads(&self) -> u32 {
        self.machine.threads()
    }
    /// Most tokens of one prefill call.
    pub fn chunk(&self) -> u32 {
        self.machine.chunk()
    }

    /// As [`Machine::set_keep_going`].
    pub fn set_keep_going(&mut self, keep_going: impl Into<KeepGoing>) {
        self.machine.set_keep_going(keep_going);
    }

    /// Forgets all tokens from `position` on (0: everything).
    pub fn truncate(&mut self, position: u32) {
        self.sequence.truncate(position);
    }

    /// As [`Sequence::mark`].
    ///
    /// # Errors
    /// Memory could not be allocated.
    pub fn mark(&self) -> Result<Mark, SessionError> {
        self.sequence.mark()
    }

    /// As [`Sequence::rewind`].
    pub fn rewind(&mut self, mark: &Mark) {
        self.sequence.rewind(mark);
    }

    /// What has been recorded since the session was made or [`Session::reset_profile`] was called; `None` unless it was
    /// made by [`Session::profiled`].
    pub fn profile(&self) -> Option<Profile> {
        self.machine.profile()
    }

    /// Forgets what has been recorded.
    pub fn reset_profile(&mut self) {
        self.machine.reset_profile();
    }

    /// What the session takes.
    pub fn memory(&self) -> MemoryUse {
        self.machine.memory()
    }

    /// Appends `tokens` and returns the logits after the last one (`vocab` numbers). One token allocates nothing.
    ///
    /// # Errors
    /// No tokens, an unknown token, a full context, NaN logits, an interruption.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], SessionError> {
        let mut refused = None;
        self.step(tokens, Wanted::Last, |_, logits| refused = logits.err())?;
        match refused {
            Some(error) => Err(error),
            // The row that was handed out is still there.
            None => Ok(self.machine.logits(0)),
        }
    }

    /// Appends `tokens` and gives the logits after each of them to `sink`, with its index in `tokens`. `sink` may stop
    /// early by returning false; the tokens are appended all the same.
    ///
    /// # Errors
    /// As for [`Session::feed`].
    pub fn score(
        &mut self,
        tokens: &[u32],
        mut sink: impl FnMut(usize, &[f32]) -> bool,
    ) -> Result<(), SessionError> {
        self.machine.check(&self.sequence, tokens)?;
        let (start, mut more) = (self.position(), true);
        // Chunk by chunk, so that no head is computed once `sink` has had enough.
        for (number, chunk) in tokens.chunks(self.chunk() as usize).enumerate() {
            let first = number * self.chunk() as usize;
            let wanted = if more { Wanted::All } else { Wanted::None };
            let mut refused = None;
            let fed = self.step(chunk, wanted, |row, logits| match logits {
                Ok(logits) if refused.is_none() => more = more && sink(first + row.token as usize, logits),
                Ok(_) => {}
                Err(error) => drop(refused.get_or_insert(error)),
            });
            if let Err(error) = fed.and_then(|()| refused.map_or(Ok(()), Err)) {
                self.sequence.truncate(start);
                return Err(error);
            }
        }
        Ok(())
    }

    /// A step of the one sequence; what is refused is refused without saying of which.
    fn step(
        &mut self,
        tokens: &[u32],
        logits: Wanted,
        sink: impl FnMut(Row, Result<&[f32], SessionError>),
    ) -> Result<(), SessionError> {
        let feed = Feed { sequence: &mut self.sequence, tokens, logits };
        self.machine.step(&mut [feed], sink).map_err(|error| match error {
            SessionError::Feed { refusal, .. } => *refusal,
            other => other,
        })
    }
}
