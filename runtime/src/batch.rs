//! Several sequences over one model, run together: each step reads the weights once for all of them.
//!
//! [`Batch::feed`] takes tokens of some of the sequences, one or many of each, and gives the logits behind the last token of
//! each. They pass `@prefill` as rows of one chunk (rows know their sequence and position, see `docs/adr/0016-batches.md`) and
//! `@head` in parts. A sequence's logits are the same bits as those of a [`Session`] that it had for itself, whatever the
//! others do.
//!
//! Invariants: as for a session, a call is refused before anything is computed, and after an error all positions are what they
//! were before; a step allocates nothing.

use std::sync::Arc;

use crate::call::Segment;
use crate::model::Model;
use crate::session::{MemoryUse, Record, Session, SessionError, SessionOptions};

/// What a batch is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Tokens that may be fed to each sequence in all.
    pub context: u32,
    /// Threads, the caller among them.
    pub threads: u32,
    /// Sequences, at least 1. Each has a KV cache of its own; memory that is not used is not taken.
    pub sequences: u32,
}

/// Tokens for one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed<'a> {
    /// Index of the sequence.
    pub sequence: u32,
    /// At least one token.
    pub tokens: &'a [u32],
}

/// Several sequences over a model.
#[derive(Debug)]
pub struct Batch {
    session: Session,
    /// Tokens that each sequence has.
    positions: Vec<u32>,
    /// The segments of the chunk in the making.
    segments: Vec<Segment>,
    /// Of the chunk: which feeds end in it, and in which row.
    ends: Vec<End>,
    /// Marks the sequences of a call.
    seen: Vec<bool>,
}

/// The last row of a feed.
#[derive(Clone, Copy, Debug)]
struct End {
    feed: usize,
    row: u32,
    position: u32,
}

impl Batch {
    /// Sequences without tokens over `model`.
    ///
    /// # Errors
    /// Memory or threads that could not be had; a module without the three entry points.
    pub fn new(model: Arc<Model>, options: BatchOptions) -> Result<Self, SessionError> {
        let sequences = options.sequences.max(1);
        let one = SessionOptions { context: options.context, threads: options.threads };
        let session = Session::make(model, one, sequences, Record::Nothing)?;
        let chunk = session.chunk() as usize;
        Ok(Self {
            session,
            positions: vec![0; sequences as usize],
            segments: Vec::with_capacity(chunk),
            ends: Vec::with_capacity(chunk),
            seen: vec![false; sequences as usize],
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.session.model()
    }
    /// Sequences.
    pub fn sequences(&self) -> u32 {
        self.positions.len() as u32
    }
    /// Tokens that a sequence has; 0 for one that is not there.
    pub fn position(&self, sequence: u32) -> u32 {
        self.positions.get(sequence as usize).copied().unwrap_or(0)
    }
    /// Tokens that a sequence may have in all.
    pub fn context(&self) -> u32 {
        self.session.context()
    }
    /// Threads.
    pub fn threads(&self) -> u32 {
        self.session.threads()
    }
    /// Most tokens, of all sequences together, that read the weights once.
    pub fn chunk(&self) -> u32 {
        self.session.chunk()
    }
    /// What the batch takes.
    pub fn memory(&self) -> MemoryUse {
        self.session.memory()
    }

    /// Has `keep_going` asked before every chunk; when it says no, the call ends with [`SessionError::Interrupted`] and no
    /// tokens are appended.
    pub fn set_keep_going(&mut self, keep_going: fn() -> bool) {
        self.session.set_keep_going(keep_going);
    }

    /// Forgets all tokens of a sequence from `position` on (0: everything).
    pub fn truncate(&mut self, sequence: u32, position: u32) {
        if let Some(at) = self.positions.get_mut(sequence as usize) {
            *at = position.min(*at);
        }
    }

    fn check(&mut self, feeds: &[Feed<'_>]) -> Result<(), SessionError> {
        if feeds.is_empty() {
            return Err(SessionError::Empty);
        }
        self.seen.fill(false);
        for &Feed { sequence, tokens } in feeds {
            let sequences = self.positions.len() as u32;
            let seen = self.seen.get_mut(sequence as usize);
            let seen = seen.ok_or(SessionError::Sequence { sequence, sequences })?;
            if std::mem::replace(seen, true) {
                return Err(SessionError::SequenceTwice(sequence));
            }
            self.session.check_at(self.positions[sequence as usize], tokens)?;
        }
        Ok(())
    }

    /// Appends the tokens to their sequences. `sink` gets the index of each feed and the logits behind its last token
    /// (`vocab` numbers), as soon as they are there: in rising order of the index.
    ///
    /// # Errors
    /// No tokens, an unknown token or sequence, a sequence that is given twice, a full context, NaN logits, an interruption.
    /// What `sink` got before the error is then void.
    pub fn feed(
        &mut self,
        feeds: &[Feed<'_>],
        mut sink: impl FnMut(usize, &[f32]),
    ) -> Result<(), SessionError> {
        self.check(feeds)?;
        if let &[Feed { sequence, tokens: &[token] }] = feeds {
            self.session.ask()?;
            let position = self.positions[sequence as usize];
            self.session.run_decode(sequence, position, token);
            sink(0, self.session.checked_logits(0, position)?);
        } else {
            self.feed_rows(feeds, &mut sink)?;
        }
        for feed in feeds {
            self.positions[feed.sequence as usize] += feed.tokens.len() as u32;
        }
        Ok(())
    }

    fn feed_rows(
        &mut self,
        feeds: &[Feed<'_>],
        sink: &mut impl FnMut(usize, &[f32]),
    ) -> Result<(), SessionError> {
        let chunk = self.session.chunk();
        let mut rows = 0;
        for (index, feed) in feeds.iter().enumerate() {
            let mut done = 0;
            while done < feed.tokens.len() {
                let part = &feed.tokens[done..feed.tokens.len().min(done + (chunk - rows) as usize)];
                self.session.set_tokens(rows, part);
                let position = self.positions[feed.sequence as usize] + done as u32;
                let tokens = part.len() as u32;
                self.segments.push(Segment { sequence: feed.sequence, position, tokens });
                (rows, done) = (rows + tokens, done + part.len());
                if done == feed.tokens.len() {
                    let end = End { feed: index, row: rows - 1, position: position + tokens - 1 };
                    self.ends.push(end);
                }
                if rows == chunk {
                    self.run_chunk(sink)?;
                    rows = 0;
                }
            }
        }
        self.run_chunk(sink)
    }

    /// Runs the rows that have been put together, and the head for those that end a feed.
    fn run_chunk(&mut self, sink: &mut impl FnMut(usize, &[f32])) -> Result<(), SessionError> {
        let result = match self.segments.is_empty() {
            true => Ok(()),
            false => self.session.ask().and_then(|()| self.run_rows(sink)),
        };
        self.segments.clear();
        self.ends.clear();
        result
    }

    fn run_rows(&mut self, sink: &mut impl FnMut(usize, &[f32])) -> Result<(), SessionError> {
        self.session.run_segments(&self.segments);
        // Rows that end a feed go to the front: number i of them is row i or a later one.
        for (to, end) in (0..).zip(&self.ends) {
            if end.row != to {
                self.session.move_hidden(end.row, to);
            }
        }
        let at_once = self.session.head_rows();
        for (first, ends) in (0..).step_by(at_once as usize).zip(self.ends.chunks(at_once as usize)) {
            self.session.head(first, ends.len() as u32);
            for (row, end) in (0..).zip(ends) {
                sink(end.feed, self.session.checked_logits(row, end.position)?);
            }
        }
        Ok(())
    }
}
