//! A step: what is fed is checked, put together in chunks and run, and the wanted logits are handed out.
//!
//! Invariants: those of the machine. Rows of a chunk are the feeds' tokens in order; a segment of a chunk is what it holds of one
//! feed.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bitnetc_ir::{Entity, EntryPoint, Extent, HEAD_ROWS};

use super::Machine;
use super::feeds::{Chunk, Feed, FeedIndex, Row, Wanted};
use super::takers::{AtOnce, Batch, HandOut, InOrder, Takers};
use super::team::Job;
use crate::error::SessionError;
use crate::sequence::Sequence;

/// Tokens of a feed, or tokens of its sequence that are computed again.
struct Part<'a> {
    index: FeedIndex,
    sequence: &'a Sequence,
    tokens: &'a [u32],
    logits: Wanted,
}

impl Machine {
    /// Whether `tokens` can be fed to `sequence`: what [`Machine::step`] refuses before it computes anything.
    ///
    /// # Errors
    /// No tokens, an unknown token, a full context, a sequence of another model or context.
    pub fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<(), SessionError> {
        if !sequence.fits(&self.model, self.capacity()) {
            return Err(SessionError::ForeignSequence);
        }
        if tokens.is_empty() {
            return Err(SessionError::Empty);
        }
        let (position, context) = (sequence.position(), sequence.context());
        if tokens.len() as u64 > u64::from(context.saturating_sub(position)) {
            return Err(SessionError::ContextFull { tokens: tokens.len() as u64, position, context });
        }
        let vocab = self.model.vocab();
        match tokens.iter().position(|&id| id >= vocab) {
            Some(i) => {
                Err(SessionError::Token { id: tokens[i], position: u64::from(position) + i as u64, vocab })
            }
            None => Ok(()),
        }
    }

    /// Appends the tokens of all feeds to their sequences, which must be different ones (as exclusive borrows are), and gives
    /// `sink` the logits that are wanted, `vocab` numbers each: in rising order of feed and token.
    ///
    /// Where logits are NaN, `sink` gets [`SessionError::NotANumber`] in their place and that feed's sequence does not grow; the
    /// others are fed as if it were not there. So it is with [`SessionError::NotFinite`] where a token of the feed, or of its
    /// sequence, has an embedding that is not finite, of which the logits would be NaN if kernels converted it exactly.
    ///
    /// # Errors
    /// No feeds, or more of them than the machine was made for; [`SessionError::Feed`] with what [`Machine::check`] says of one
    /// of them; an interruption; weights that were lost or found to be damaged meanwhile. Then no sequence has grown, and what `sink` got is void.
    pub fn step(
        &mut self,
        feeds: &mut [Feed<'_>],
        sink: impl FnMut(Row, Result<&[f32], SessionError>),
    ) -> Result<(), SessionError> {
        self.step_into(feeds, &mut InOrder(sink))
    }

    /// As [`Machine::step`], where each feed has something of its own that takes its logits, at the same time as others take
    /// theirs.
    ///
    /// # Errors
    /// As [`Machine::step`].
    pub fn step_shared(
        &mut self,
        feeds: &mut [Feed<'_>],
        takers: &mut impl Takers,
    ) -> Result<(), SessionError> {
        self.step_into(feeds, &mut AtOnce(takers))
    }

    fn step_into(&mut self, feeds: &mut [Feed<'_>], out: &mut impl HandOut) -> Result<(), SessionError> {
        self.check_feeds(feeds)?;
        self.chunk.clear();
        self.failed.clear();
        self.failed.resize_with(feeds.len(), AtomicBool::default);
        self.spoiled.clear();
        self.spoiled.extend(feeds.iter().map(|feed| self.model.first_spoiled(feed.sequence, feed.tokens)));
        match feeds {
            [Feed { sequence, tokens: [token], logits: Wanted::Last }] if sequence.unheld().is_empty() => {
                sequence.release_states();
                self.decode(sequence, *token, out)?;
            }
            _ => self.prefill(feeds, out)?,
        }
        for ((feed, failed), &spoiled) in feeds.iter_mut().zip(&mut self.failed).zip(&self.spoiled) {
            if !*failed.get_mut() {
                feed.sequence.append(feed.tokens, spoiled);
            }
        }
        Ok(())
    }

    fn check_feeds(&self, feeds: &[Feed<'_>]) -> Result<(), SessionError> {
        let segments = self.options.segments;
        if feeds.is_empty() {
            return Err(SessionError::Empty);
        }
        if feeds.len() > segments as usize {
            return Err(SessionError::TooManyFeeds { feeds: feeds.len(), segments });
        }
        for (index, feed) in feeds.iter().enumerate() {
            self.check(feed.sequence, feed.tokens).map_err(|refusal| SessionError::Feed {
                feed: FeedIndex::from_index(index),
                refusal: Box::new(refusal),
            })?;
        }
        Ok(())
    }

    fn ask(&self) -> Result<(), SessionError> {
        if self.keep_going.ask() { Ok(()) } else { Err(SessionError::Interrupted) }
    }

    /// One token of one sequence.
    fn decode(
        &mut self,
        sequence: &Sequence,
        token: u32,
        out: &mut impl HandOut,
    ) -> Result<(), SessionError> {
        self.ask()?;
        let position = sequence.position();
        self.set_tokens(0, &[token]);
        self.team.work().set_segment(0, Extent { position, tokens: 1 }, sequence.caches());
        self.fill_ropes(position + 1);
        self.dispatch(EntryPoint::Decode, Job { position, tokens: 1, ..Job::default() });
        self.model.check_weights()?;
        self.chunk.add(FeedIndex::from_index(0), Wanted::Last, 0, 1, 1, position);
        self.hand_out(0..1, out);
        Ok(())
    }

    /// Tokens of any number of sequences, chunk by chunk.
    fn prefill(&mut self, feeds: &mut [Feed<'_>], out: &mut impl HandOut) -> Result<(), SessionError> {
        for (index, feed) in feeds.iter_mut().enumerate() {
            let index = FeedIndex::from_index(index);
            let position = feed.sequence.position();
            let again = feed.sequence.unheld().len();
            if again > 0 {
                // In chunks of their own: what follows begins in the states that they leave.
                feed.sequence.release_states();
                let tokens = &feed.sequence.tokens()[position as usize - again..];
                let before = Part { index, sequence: &*feed.sequence, tokens, logits: Wanted::None };
                self.add(before, position - again as u32, out)?;
                self.run_rest(out)?;
            }
            feed.sequence.release_states();
            let part = Part { index, sequence: &*feed.sequence, tokens: feed.tokens, logits: feed.logits };
            self.add(part, position, out)?;
        }
        self.run_rest(out)
    }

    /// Puts tokens into chunks, the first of them at `start`, and runs those that are full.
    fn add(&mut self, part: Part<'_>, start: u32, out: &mut impl HandOut) -> Result<(), SessionError> {
        let most = self.entries.chunk;
        let Part { index, sequence, tokens, logits } = part;
        let mut done = 0;
        while done < tokens.len() {
            let room = (most - self.chunk.rows) as usize;
            let part = &tokens[done..tokens.len().min(done + room)];
            let (count, of) = (part.len() as u32, tokens.len() as u32);
            let position = start + done as u32;
            self.set_tokens(self.chunk.rows, part);
            let extent = Extent { position, tokens: count };
            self.team.work().set_segment(self.chunk.segments, extent, sequence.caches());
            self.chunk.add(index, logits, done as u32, count, of, position);
            done += part.len();
            if self.chunk.rows == most {
                self.run_chunk(out)?;
            }
        }
        Ok(())
    }

    /// Runs the rows that are in no full chunk.
    fn run_rest(&mut self, out: &mut impl HandOut) -> Result<(), SessionError> {
        if self.chunk.rows > 0 { self.run_chunk(out) } else { Ok(()) }
    }

    /// Runs the rows that have been put together, and the head for those whose logits are wanted.
    fn run_chunk(&mut self, out: &mut impl HandOut) -> Result<(), SessionError> {
        self.ask()?;
        self.fill_ropes(self.chunk.end);
        let Chunk { rows, segments, first, .. } = self.chunk;
        let position = if segments > 1 { 0 } else { first };
        self.dispatch(EntryPoint::Prefill, Job { position, tokens: rows, segments, ..Job::default() });
        self.model.check_weights()?;
        // Rows whose logits are wanted go to the front: number i of them is row i or a later one.
        for to in 0..self.chunk.wanted.len() {
            self.move_hidden(self.chunk.wanted[to].at as usize, to);
        }
        let at_once = self.entries.head_rows as usize;
        let all = self.chunk.wanted.len();
        for first in (0..all).step_by(at_once) {
            let count = at_once.min(all - first);
            let job = Job { tokens: count as u32, row: first as u32, ..Job::default() };
            self.dispatch(EntryPoint::Head, job);
            self.model.check_weights()?;
            self.hand_out(first..first + count, out);
        }
        self.chunk.clear();
        Ok(())
    }

    /// Hands out these of the chunk's wanted rows, which are the first rows of what `@head` or `@decode` gave last.
    fn hand_out(&mut self, rows: Range<usize>, out: &mut impl HandOut) {
        let Self { team, chunk, buffers, entries, model, spoiled, failed, .. } = self;
        let batch = Batch {
            rows: &chunk.wanted[rows],
            logits: buffers.logits.as_f32(),
            stride: entries.logits_stride as usize / 4,
            model,
            spoiled,
            failed,
        };
        out.hand_out(team, &batch);
    }

    /// Row `row` of what `@head` or `@decode` gave last.
    pub(crate) fn logits(&self, row: u32) -> &[f32] {
        let start = row as usize * (self.entries.logits_stride as usize / 4);
        &self.buffers.logits.as_f32()[start..start + self.model.vocab() as usize]
    }

    /// Puts the ids in the places from `first` on of the chunk to be run.
    fn set_tokens(&mut self, first: u32, tokens: &[u32]) {
        let slots = self.buffers.tokens.as_mut_slice().chunks_exact_mut(4).skip(first as usize);
        for (slot, id) in slots.zip(tokens) {
            slot.copy_from_slice(&id.to_le_bytes());
        }
    }

    /// Fills the RoPE tables for the positions below `end`.
    fn fill_ropes(&mut self, end: u32) {
        // @head runs at position 0 with up to so many rows.
        self.memory.fill_ropes(end.max(HEAD_ROWS));
    }

    /// Copies the hidden state in row `from` of the last chunk to row `to`.
    fn move_hidden(&mut self, from: usize, to: usize) {
        if from != to {
            let stride = self.entries.hidden_stride as usize;
            let hidden = self.buffers.hidden.as_mut_slice();
            hidden.copy_within(from * stride..(from + 1) * stride, to * stride);
        }
    }

    /// Runs an entry point on all threads.
    fn dispatch(&mut self, entry: EntryPoint, job: Job) {
        let job = Job { program: self.entries.index(entry), ..job };
        let started = self.recorder.is_some().then(Instant::now);
        self.team.run(job);
        if let (Some(recorder), Some(started)) = (&self.recorder, started) {
            recorder.called(job, started);
        }
    }
}
