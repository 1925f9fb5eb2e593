//! A model's machine: its working memory, its threads and its compiled code, which feed tokens to sequences.
//!
//! [`Machine::step`] takes tokens of some sequences, one or many of each, and gives the logits that are wanted. One token of
//! one sequence goes through `@decode`; everything else is rows of chunks of `@prefill` (rows know their sequence and position,
//! see `docs/adr/0016-batches.md`), and `@head` for the rows whose logits are wanted. A sequence's logits are the same bits
//! whatever way they come and whatever the others do.
//!
//! This module is the only owner of buffers, of the addresses of everything that programs name, of threads and of the call of
//! generated code ([`call`]); [`crate::single`] and [`crate::roofline`] run other programs by the same means.
//!
//! Invariants: a step is refused before anything is computed where a token is not in the vocabulary, a context would overflow or
//! a sequence is not of this model and context; after an error every sequence has the tokens that it had before; a step
//! allocates nothing.

mod bind;
pub(crate) mod binding;
#[allow(unsafe_code)]
pub(crate) mod call;
mod entries;
mod feeds;
mod keep_going;
pub(crate) mod memory;
pub(crate) mod rope_table;
mod shares;
mod sleep;
pub(crate) mod team;

use std::sync::Arc;
use std::time::Instant;

use bitnetc_codegen::program::WeightIndex;
use bitnetc_ir::{Entity, EntryPoint, Extent, HEAD_ROWS, storage};

use crate::error::SessionError;
use crate::model::Model;
use crate::profile::{Profile, Recorder};
use crate::sequence::Sequence;
use crate::trace::{MOST_EVENTS, Recorded};
use binding::{Binding, WeightAddress};
use call::{BoundPrograms, Crew};
use entries::{Buffers, Entries};
use feeds::Chunk;
use memory::{Sizes, WorkMemory, capacity_for};
use team::{Job, Team};

pub use feeds::{Feed, FeedIndex, Row, Wanted};
pub use keep_going::KeepGoing;
pub(crate) use memory::buffer;
pub use memory::{MemoryUse, memory_needs};

/// What a machine is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineOptions {
    /// Tokens that each sequence may have in all; KV caches get room for the next multiple of 64.
    pub context: u32,
    /// Threads, the caller among them.
    pub threads: u32,
    /// Most sequences of one step, at least 1.
    pub segments: u32,
    /// What is recorded of the time. The bits are the same.
    pub record: Record,
}

/// What a machine records of its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Record {
    /// Nothing, which costs nothing.
    #[default]
    Nothing,
    /// Totals of every step and barrier: [`Machine::profile`].
    Totals,
    /// Every single event too: [`Machine::trace`].
    Events,
}

/// A model ready to be fed.
pub struct Machine {
    // The first field, so that threads have ended before memory goes.
    team: Team<BoundPrograms<Arc<Model>>>,
    model: Arc<Model>,
    memory: WorkMemory,
    buffers: Buffers,
    entries: Entries,
    options: MachineOptions,
    keep_going: KeepGoing,
    recorder: Option<Arc<Recorder>>,
    chunk: Chunk,
    /// For each feed of the step, whether it had NaN among its logits.
    failed: Vec<bool>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine for `model`.
    ///
    /// # Errors
    /// Memory or threads that could not be had; a module without the three entry points.
    pub fn new(model: Arc<Model>, options: MachineOptions) -> Result<Self, SessionError> {
        let capacity = capacity_for(options.context);
        let options = MachineOptions {
            context: options.context.clamp(1, capacity),
            threads: options.threads.max(1),
            segments: options.segments.max(1),
            ..options
        };
        let programs = model.programs();
        let entries = Entries::of(programs, model.vocab())?;
        let sizes = Sizes::of(&programs.programs, programs.kernels.values(), capacity);
        let memory = WorkMemory::new(sizes, options.threads, programs.ropes.values(), capacity)?;
        let buffers = Buffers {
            tokens: buffer("token ids", u64::from(entries.chunk) * 4)?,
            hidden: buffer("hidden states", entries.hidden_stride * u64::from(entries.chunk))?,
            logits: buffer("logits", entries.logits_stride * u64::from(entries.head_rows))?,
        };
        let recorder = match options.record {
            Record::Nothing => None,
            Record::Totals => Some(Arc::new(Recorder::new(programs, options.threads, 0))),
            Record::Events => Some(Arc::new(Recorder::new(programs, options.threads, MOST_EVENTS))),
        };
        let weight = |index: WeightIndex| WeightAddress {
            elements: model.weight_address(index),
            scales: model.scales_address(index),
        };
        let binding = Binding {
            memory: &memory,
            weights: programs.weights.keys().map(weight).collect(),
            interfaces: entries.interfaces(programs, &buffers),
            caches: entries.caches.len() as u32,
            capacity,
        };
        let crew = Crew {
            threads: options.threads,
            // A row is of one sequence.
            segments: options.segments.min(entries.chunk),
            recorder: recorder.clone(),
        };
        let keep = Arc::clone(&model);
        let bound = BoundPrograms::bind(&programs.programs, model.entries(), &binding, crew, keep);
        let team = Team::new(Arc::new(bound), options.threads)?;
        let chunk = Chunk::with_room(entries.chunk);
        Ok(Self {
            team,
            memory,
            buffers,
            entries,
            keep_going: KeepGoing::default(),
            recorder,
            chunk,
            failed: Vec::with_capacity(options.segments as usize),
            options,
            model,
        })
    }

    /// A sequence without tokens, with KV caches of its own for the whole context. Memory that is not used is not taken.
    ///
    /// # Errors
    /// Memory that could not be had.
    pub fn sequence(&self) -> Result<Sequence, SessionError> {
        Sequence::new(Arc::clone(&self.model), &self.entries.caches, self.capacity(), self.options.context)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }
    /// Tokens that a sequence may have in all.
    pub fn context(&self) -> u32 {
        self.options.context
    }
    /// Threads.
    pub fn threads(&self) -> u32 {
        self.team.threads()
    }
    /// Most sequences of one step.
    pub fn segments(&self) -> u32 {
        self.options.segments
    }
    /// Most rows, of all sequences together, that read the weights once.
    pub fn chunk(&self) -> u32 {
        self.entries.chunk
    }

    /// Bytes of the KV caches of a sequence at full context.
    pub fn sequence_bytes(&self) -> u64 {
        let bytes = |ty| storage::cache_bytes(ty, self.capacity()).unwrap_or(0) + storage::PADDING;
        self.entries.caches.iter().map(bytes).sum()
    }

    fn capacity(&self) -> u32 {
        capacity_for(self.options.context)
    }

    /// Has `keep_going` asked before every chunk of rows; when it says no, the step ends with
    /// [`SessionError::Interrupted`] and no tokens are appended.
    pub fn set_keep_going(&mut self, keep_going: impl Into<KeepGoing>) {
        self.keep_going = keep_going.into();
    }

    /// What the machine takes, with as many sequences as one step has.
    pub fn memory(&self) -> MemoryUse {
        let (arena, rest) = self.memory.bytes();
        let Buffers { tokens, hidden, logits } = &self.buffers;
        MemoryUse {
            weights: self.model.weight_bytes(),
            kv_cache: self.sequence_bytes().saturating_mul(u64::from(self.options.segments)),
            arena,
            io: (tokens.len() + hidden.len() + logits.len()) as u64 + rest,
        }
    }

    /// What has been recorded since the machine was made or [`Machine::reset_profile`] was called; `None` unless it was made
    /// to record.
    pub fn profile(&self) -> Option<Profile> {
        Some(self.recorder.as_ref()?.profile(self.model.programs()))
    }

    /// The events since the machine was made or [`Machine::reset_profile`] was called; `None` unless it was made with
    /// [`Record::Events`].
    pub fn trace(&self) -> Option<Recorded<'_>> {
        Some(self.recorder.as_ref()?.trace()?.recorded(self.model.programs()))
    }

    /// Forgets what has been recorded.
    pub fn reset_profile(&mut self) {
        if let Some(recorder) = &self.recorder {
            recorder.reset();
        }
    }

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
    /// others are fed as if it were not there.
    ///
    /// # Errors
    /// No feeds, or more of them than the machine was made for; [`SessionError::Feed`] with what [`Machine::check`] says of one
    /// of them; an interruption. Then no sequence has grown, and what `sink` got is void.
    pub fn step(
        &mut self,
        feeds: &mut [Feed<'_>],
        mut sink: impl FnMut(Row, Result<&[f32], SessionError>),
    ) -> Result<(), SessionError> {
        self.check_feeds(feeds)?;
        self.failed.clear();
        self.failed.resize(feeds.len(), false);
        match feeds {
            [Feed { sequence, tokens: [token], logits: Wanted::Last }] => {
                self.decode(sequence, *token, &mut sink)?;
            }
            _ => self.prefill(feeds, &mut sink)?,
        }
        for (feed, failed) in feeds.iter_mut().zip(&self.failed) {
            if !failed {
                feed.sequence.append(feed.tokens);
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
        sink: &mut impl FnMut(Row, Result<&[f32], SessionError>),
    ) -> Result<(), SessionError> {
        self.ask()?;
        let position = sequence.position();
        self.set_tokens(0, &[token]);
        self.team.work().set_segment(0, Extent { position, tokens: 1 }, sequence.caches());
        self.fill_ropes(position + 1);
        self.dispatch(EntryPoint::Decode, Job { position, tokens: 1, ..Job::default() });
        self.hand_out(0, Row { feed: FeedIndex::from_index(0), token: 0 }, position, sink);
        Ok(())
    }

    /// Tokens of any number of sequences, chunk by chunk.
    fn prefill(
        &mut self,
        feeds: &[Feed<'_>],
        sink: &mut impl FnMut(Row, Result<&[f32], SessionError>),
    ) -> Result<(), SessionError> {
        let most = self.entries.chunk;
        self.chunk.clear();
        for (index, feed) in feeds.iter().enumerate() {
            let index = FeedIndex::from_index(index);
            let mut done = 0;
            while done < feed.tokens.len() {
                let room = (most - self.chunk.rows) as usize;
                let part = &feed.tokens[done..feed.tokens.len().min(done + room)];
                let (count, of) = (part.len() as u32, feed.tokens.len() as u32);
                let position = feed.sequence.position() + done as u32;
                self.set_tokens(self.chunk.rows, part);
                let extent = Extent { position, tokens: count };
                self.team.work().set_segment(self.chunk.segments, extent, feed.sequence.caches());
                self.chunk.add(index, feed.logits, done as u32, count, of, position);
                done += part.len();
                if self.chunk.rows == most {
                    self.run_chunk(sink)?;
                }
            }
        }
        if self.chunk.rows > 0 { self.run_chunk(sink) } else { Ok(()) }
    }

    /// Runs the rows that have been put together, and the head for those whose logits are wanted.
    fn run_chunk(
        &mut self,
        sink: &mut impl FnMut(Row, Result<&[f32], SessionError>),
    ) -> Result<(), SessionError> {
        self.ask()?;
        self.fill_ropes(self.chunk.end);
        let Chunk { rows, segments, first, .. } = self.chunk;
        let position = if segments > 1 { 0 } else { first };
        self.dispatch(EntryPoint::Prefill, Job { position, tokens: rows, segments, ..Job::default() });
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
            for i in 0..count {
                let wanted = self.chunk.wanted[first + i];
                self.hand_out(i as u32, wanted.row, wanted.position, sink);
            }
        }
        self.chunk.clear();
        Ok(())
    }

    /// Gives a row of logits to `sink`, or says that it is NaN.
    fn hand_out(
        &mut self,
        at: u32,
        row: Row,
        position: u32,
        sink: &mut impl FnMut(Row, Result<&[f32], SessionError>),
    ) {
        let logits = self.logits(at);
        match first_nan(logits) {
            None => sink(row, Ok(logits)),
            Some(index) => {
                sink(row, Err(SessionError::NotANumber { position, index }));
                self.failed[row.feed.index()] = true;
            }
        }
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

/// Index of the first NaN.
fn first_nan(values: &[f32]) -> Option<u32> {
    // A vectorisable look at everything first: almost always there is none.
    let any = values.iter().fold(false, |any, x| any | x.is_nan());
    if any { values.iter().position(|x| x.is_nan()).map(|i| i as u32) } else { None }
}
