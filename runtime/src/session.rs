//! A session: one sequence over a model, with its KV cache, its buffers and its threads.
//!
//! [`Session::feed`] takes tokens and gives the logits behind the last of them: one token goes through `@decode`, more
//! through `@prefill` in chunks and one `@head`. Both ways give the same bits. [`Session::score`] gives the logits behind
//! every token. A [`crate::batch::Batch`] is a session made for several sequences.
//!
//! Invariants: the context is at most the capacity that the caches were made for, a multiple of the key block; a call is refused before
//! anything is computed when a token id is not in the vocabulary or the context would overflow; after an error the
//! position is what it was before the call.

use std::sync::Arc;
use std::time::Instant;

use bitnetc_codegen::program::{Programs, Word};
use bitnetc_ir::work::Accounts;
use bitnetc_ir::{DType, Dim, Entity, HEAD_ROWS, KEY_BLOCK, Module, TokenCount, storage, weights};

use crate::call::{Addresses, Engine, Room, Segment};
use crate::map::AlignedBuffer;
use crate::model::Model;
use crate::profile::{Profile, Recorder};
use crate::rope_table::RopeTable;
use crate::team::{Job, Team};
use crate::trace::{MOST_EVENTS, Recorded};

/// What a session is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Tokens that may be fed in all; the KV cache gets room for the next multiple of 64.
    pub context: u32,
    /// Threads, the caller among them.
    pub threads: u32,
}

/// What a session records of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Nothing,
    /// Totals of every step.
    Totals,
    /// Every single event too.
    Events,
}

/// Why a session could not be made or a call was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Memory for a buffer could not be had.
    #[error(
        "cannot allocate {bytes} bytes for the {what}: {source}; ask for a smaller context with --ctx-size"
    )]
    Memory {
        /// Which buffer.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The threads could not be started.
    #[error("cannot start the threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// No token was given.
    #[error("no tokens to run: give at least one")]
    Empty,
    /// A token id that the model does not have.
    #[error("token id {id} at position {position} is not in the vocabulary of {vocab} tokens")]
    Token {
        /// As given.
        id: u32,
        /// Where it would have stood.
        position: u64,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// More tokens than the context holds.
    #[error(
        "{tokens} tokens do not fit behind the {position} in the context of {context}: shorten the prompt or ask for a larger --ctx-size"
    )]
    ContextFull {
        /// Tokens given.
        tokens: u64,
        /// Tokens already there.
        position: u32,
        /// Room.
        context: u32,
    },
    /// The model computed a NaN: broken weights, or a bug.
    #[error(
        "the logits behind position {position} are NaN (first at token {index}); the model's weights or scales are out of range: run `bitnetc inspect`"
    )]
    NotANumber {
        /// Position of the token that was fed.
        position: u32,
        /// Vocabulary index of the first NaN.
        index: usize,
    },
    /// [`Session::set_keep_going`]'s function said no.
    #[error("interrupted")]
    Interrupted,
    /// A sequence that the batch has no room for.
    #[error("sequence {sequence} is not one of the {sequences} that the batch was made for")]
    Sequence {
        /// As given.
        sequence: u32,
        /// Room.
        sequences: u32,
    },
    /// A sequence is given tokens twice in one call.
    #[error("sequence {0} is given tokens twice: give all of them at once")]
    SequenceTwice(u32),
    /// A module without one of the three entry points, or with other inputs.
    #[error("the plan's module has no usable @{0}: compile the model again")]
    Entry(&'static str),
}

/// The buffers of a session.
struct Buffers {
    arena: AlignedBuffer,
    tokens: AlignedBuffer,
    hidden: AlignedBuffer,
    hidden_stride: u64,
    logits: AlignedBuffer,
    /// The caches of sequence 0, then those of sequence 1, …
    caches: Vec<AlignedBuffer>,
    caches_each: usize,
    ropes: Vec<RopeTable>,
    scratch: AlignedBuffer,
    scratch_bytes: u64,
    /// The private memory of every thread.
    private: AlignedBuffer,
    private_bytes: u64,
    workspace: AlignedBuffer,
}

/// Where each input and output of a program lives.
struct Binding<'a> {
    buffers: &'a Buffers,
    model: &'a Model,
    inputs: Vec<Vec<Place>>,
}

#[derive(Clone, Copy)]
enum Place {
    Tokens,
    Position,
    Hidden,
    Cache(usize),
}

impl Addresses for Binding<'_> {
    fn address(&self, program: usize, word: Word) -> Option<u64> {
        let at = |buffer: &AlignedBuffer, offset: u64| buffer.address() + offset;
        Some(match word {
            Word::Arena(offset) => at(&self.buffers.arena, offset),
            Word::Input { index, offset } => match self.inputs[program][index as usize] {
                Place::Tokens => at(&self.buffers.tokens, offset),
                Place::Position => return None,
                Place::Hidden => at(&self.buffers.hidden, offset),
                Place::Cache(i) => at(&self.buffers.caches[i], offset),
            },
            Word::Output { .. } => match self.model.programs().programs[program].name.as_str() {
                "prefill" => at(&self.buffers.hidden, 0),
                _ => at(&self.buffers.logits, 0),
            },
            Word::Weight(w) => self.model.weight_address(w),
            Word::Scales(w) => self.model.scales_address(w),
            Word::Rope(r) => self.buffers.ropes[r.index()].address(),
            Word::Workspace => at(&self.buffers.workspace, 0),
            Word::Scratch
            | Word::Private(_)
            | Word::Position
            | Word::Tokens
            | Word::Capacity
            | Word::UnitBegin
            | Word::UnitEnd => {
                return None;
            }
        })
    }

    fn row_stride(&self, program: usize, word: Word) -> u64 {
        match word {
            Word::Input { index, .. } => match self.inputs[program][index as usize] {
                Place::Hidden => {
                    let ty = &self.model.programs().programs[program].inputs[index as usize].ty;
                    storage::row_stride(ty).unwrap_or(0)
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    fn cache(&self, program: usize, word: Word, sequence: u32) -> Option<u64> {
        match word {
            Word::Input { index, offset } => match self.inputs[program][index as usize] {
                Place::Cache(i) => {
                    let cache = self.buffers.caches.get(sequence as usize * self.buffers.caches_each + i)?;
                    Some(cache.address() + offset)
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn scratch(&self, thread: u32) -> u64 {
        self.buffers.scratch.address() + u64::from(thread) * self.buffers.scratch_bytes
    }

    fn private(&self, thread: u32) -> u64 {
        self.buffers.private.address() + u64::from(thread) * self.buffers.private_bytes
    }
}

/// Indices of the three entry points among the programs.
#[derive(Clone, Copy, Debug)]
struct Entries {
    decode: u32,
    prefill: u32,
    head: u32,
}

/// One sequence over a model.
pub struct Session {
    team: Team<Engine<Arc<Model>>>,
    model: Arc<Model>,
    buffers: Buffers,
    entries: Entries,
    context: u32,
    chunk: u32,
    head_rows: u32,
    position: u32,
    keep_going: fn() -> bool,
    recorder: Option<Arc<Recorder>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("context", &self.context)
            .field("position", &self.position)
            .field("threads", &self.team.threads())
            .finish_non_exhaustive()
    }
}

/// Memory that a session takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Packed weights with their scales.
    pub weights: u64,
    /// KV cache at full context.
    pub kv_cache: u64,
    /// Activations.
    pub arena: u64,
    /// Token ids, hidden states, logits, RoPE tables, scratch.
    pub io: u64,
}

impl MemoryUse {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.arena + self.io
    }
}

/// Zeroed memory, and behind it what kernels may read.
pub(crate) fn buffer(what: &'static str, bytes: u64) -> Result<AlignedBuffer, SessionError> {
    bytes
        .checked_add(storage::PADDING)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or(())
        .map_err(|()| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
        .and_then(AlignedBuffer::zeroed)
        .map_err(|source| SessionError::Memory { what, bytes, source })
}

impl Session {
    /// A session over `model`, at position 0.
    ///
    /// # Errors
    /// Memory or threads that could not be had; a module without the three entry points.
    pub fn new(model: Arc<Model>, options: SessionOptions) -> Result<Self, SessionError> {
        Self::make(model, options, 1, Record::Nothing)
    }

    /// As [`Session::new`], with the time of every step and barrier recorded. The bits are the same.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn profiled(model: Arc<Model>, options: SessionOptions) -> Result<Self, SessionError> {
        Self::make(model, options, 1, Record::Totals)
    }

    /// As [`Session::profiled`], with the single events recorded too: [`Session::trace`].
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn traced(model: Arc<Model>, options: SessionOptions) -> Result<Self, SessionError> {
        Self::make(model, options, 1, Record::Events)
    }

    /// As [`Session::new`], with caches for so many sequences.
    pub(crate) fn make(
        model: Arc<Model>,
        options: SessionOptions,
        sequences: u32,
        record: Record,
    ) -> Result<Self, SessionError> {
        let programs = model.programs();
        let find = |name: &'static str| {
            programs
                .programs
                .iter()
                .position(|p| p.name == name)
                .map(|i| i as u32)
                .ok_or(SessionError::Entry(name))
        };
        let entries = Entries { decode: find("decode")?, prefill: find("prefill")?, head: find("head")? };
        let capacity = round_up(options.context);

        let decode = &programs.programs[entries.decode as usize];
        let caches: Vec<_> = decode.inputs.iter().filter(|b| b.ty.as_cache().is_some()).collect();
        let hidden = programs.programs[entries.prefill as usize].outputs.first();
        let mut inputs = Vec::new();
        for program in &programs.programs {
            let mut places = Vec::new();
            for input in &program.inputs {
                places.push(match (input.ty.dtype, &input.ty.shape.0[..]) {
                    (DType::Idx, []) => Place::Position,
                    (DType::Idx, [Dim::N(1)] | [Dim::Tokens]) => Place::Tokens,
                    // Only what @prefill has left there: one input, of exactly its type.
                    (DType::F32, [Dim::Tokens, Dim::N(_)]) if program.name == "head" => {
                        if !hidden.is_some_and(|h| h.ty == input.ty) {
                            return Err(SessionError::Entry("head"));
                        }
                        Place::Hidden
                    }
                    (_, [_, Dim::Ctx, _]) => {
                        let i = caches.iter().position(|c| c.name == input.name && c.ty == input.ty);
                        Place::Cache(i.ok_or(SessionError::Entry("decode"))?)
                    }
                    _ => return Err(SessionError::Entry("head")),
                });
            }
            inputs.push(places);
        }

        let chunk = programs.programs[entries.prefill as usize].tokens.max();
        let head_rows = match programs.programs[entries.head as usize].tokens {
            TokenCount::UpTo(n) => n.min(chunk).min(HEAD_ROWS),
            TokenCount::One => return Err(SessionError::Entry("head")),
        };
        // Outputs but the first are caches, which change in place: only the first has a buffer.
        for (entry, name) in
            [(entries.decode, "decode"), (entries.prefill, "prefill"), (entries.head, "head")]
        {
            let outputs = &programs.programs[entry as usize].outputs;
            if outputs.iter().skip(1).any(|b| b.ty.as_cache().is_none()) {
                return Err(SessionError::Entry(name));
            }
        }
        let output_stride = |entry: u32, name| {
            let first = programs.programs[entry as usize].outputs.first();
            first.and_then(|b| storage::row_stride(&b.ty)).ok_or(SessionError::Entry(name))
        };
        let hidden_stride = output_stride(entries.prefill, "prefill")?;
        let logits_stride = output_stride(entries.head, "head")?;
        let logits_type = |entry: u32| {
            let ty = &programs.programs[entry as usize].outputs.first()?.ty;
            Some((ty.dtype, ty.as_rows()?.width))
        };
        for (entry, name) in [(entries.decode, "decode"), (entries.head, "head")] {
            if logits_type(entry) != Some((DType::F32, model.vocab())) {
                return Err(SessionError::Entry(name));
            }
        }

        let arena_bytes = programs.programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0);
        let scratch_bytes = scratch_bytes(programs);
        let private_bytes = private_bytes(programs);
        let sequences = sequences.max(1);
        let mut cache_buffers = Vec::with_capacity(caches.len() * sequences as usize);
        for cache in (0..sequences).flat_map(|_| &caches) {
            let bytes = storage::cache_bytes(&cache.ty, capacity).unwrap_or(u64::MAX);
            cache_buffers.push(buffer("KV cache", bytes)?);
        }
        let mut ropes = Vec::new();
        for spec in programs.ropes.values() {
            ropes.push(RopeTable::new(spec, capacity)?);
        }
        let buffers = Buffers {
            arena: buffer("activations", arena_bytes)?,
            tokens: buffer("token ids", u64::from(chunk) * 4)?,
            hidden: buffer("hidden states", hidden_stride * u64::from(chunk))?,
            hidden_stride,
            logits: buffer("logits", logits_stride * u64::from(head_rows))?,
            caches: cache_buffers,
            caches_each: caches.len(),
            ropes,
            scratch: buffer("scratch memory", scratch_bytes * u64::from(options.threads.max(1)))?,
            scratch_bytes,
            private: buffer("copies of activations", private_bytes * u64::from(options.threads.max(1)))?,
            private_bytes,
            workspace: buffer("workspace of attention", workspace_bytes(programs, capacity))?,
        };
        let threads = options.threads.max(1);
        let recorder = match record {
            Record::Nothing => None,
            Record::Totals => Some(Arc::new(Recorder::new(programs, threads, 0))),
            Record::Events => Some(Arc::new(Recorder::new(programs, threads, MOST_EVENTS))),
        };
        let engine = {
            let binding = Binding { buffers: &buffers, model: &model, inputs };
            let keep = Arc::clone(&model);
            let recorder = recorder.clone();
            let room = Room { capacity, threads, sequences };
            Engine::bind(&programs.programs, model.entries(), &binding, room, recorder, keep)
        };
        let team = Team::new(Arc::new(engine), threads)?;
        let context = options.context.clamp(1, capacity);
        Ok(Self {
            team,
            model,
            buffers,
            entries,
            context,
            chunk,
            head_rows,
            position: 0,
            keep_going: || true,
            recorder,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }
    /// Tokens fed so far.
    pub fn position(&self) -> u32 {
        self.position
    }
    /// Tokens that may be fed in all.
    pub fn context(&self) -> u32 {
        self.context
    }
    /// Threads.
    pub fn threads(&self) -> u32 {
        self.team.threads()
    }
    /// Most tokens of one prefill call.
    pub fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Has `keep_going` asked before every chunk of a prompt; when it says no, the call ends with
    /// [`SessionError::Interrupted`] and the tokens are not appended.
    pub fn set_keep_going(&mut self, keep_going: fn() -> bool) {
        self.keep_going = keep_going;
    }

    /// Forgets all tokens from `position` on (0: everything).
    pub fn truncate(&mut self, position: u32) {
        self.position = self.position.min(position);
    }

    /// What has been recorded since the session was made or [`Session::reset_profile`] was called; `None` unless it was
    /// made by [`Session::profiled`].
    pub fn profile(&self) -> Option<Profile> {
        Some(self.recorder.as_ref()?.profile(self.model.programs()))
    }

    /// The events since the session was made or [`Session::reset_profile`] was called; `None` unless it was made by
    /// [`Session::traced`].
    pub fn trace(&self) -> Option<Recorded<'_>> {
        Some(self.recorder.as_ref()?.trace()?.recorded(self.model.programs()))
    }

    /// Forgets what has been recorded.
    pub fn reset_profile(&mut self) {
        if let Some(recorder) = &self.recorder {
            recorder.reset();
        }
    }

    fn dispatch(&mut self, job: Job) {
        let started = self.recorder.is_some().then(Instant::now);
        self.team.run(job);
        if let (Some(recorder), Some(started)) = (&self.recorder, started) {
            recorder.called(job, started);
        }
    }

    /// What the session takes.
    pub fn memory(&self) -> MemoryUse {
        let b = &self.buffers;
        let ropes: u64 = b.ropes.iter().map(RopeTable::len).sum();
        MemoryUse {
            weights: self.model.weight_bytes(),
            kv_cache: b.caches.iter().map(|c| c.len() as u64).sum(),
            arena: (b.arena.len() + b.private.len()) as u64,
            io: (b.tokens.len() + b.hidden.len() + b.logits.len() + b.scratch.len() + b.workspace.len())
                as u64
                + ropes,
        }
    }

    fn check(&self, tokens: &[u32]) -> Result<(), SessionError> {
        self.check_at(self.position, tokens)
    }

    /// Whether `tokens` can be appended to a sequence of `position` tokens.
    pub(crate) fn check_at(&self, position: u32, tokens: &[u32]) -> Result<(), SessionError> {
        if tokens.is_empty() {
            return Err(SessionError::Empty);
        }
        let context = self.context;
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

    fn job(&mut self, program: u32, tokens: &[u32], offset: u32) {
        self.fill_ropes(self.position + offset + tokens.len() as u32);
        self.set_tokens(0, tokens);
        let (position, tokens) = (self.position + offset, tokens.len() as u32);
        self.dispatch(Job { program, position, tokens, ..Job::default() });
    }

    /// Fills the RoPE tables up to position `end`.
    fn fill_ropes(&mut self, end: u32) {
        for table in &mut self.buffers.ropes {
            // @head runs at position 0 with up to so many rows.
            table.fill_to(end.max(HEAD_ROWS));
        }
    }

    /// Puts the ids in the places from `first` on of the chunk to be run.
    pub(crate) fn set_tokens(&mut self, first: u32, tokens: &[u32]) {
        let slots = self.buffers.tokens.as_mut_slice().chunks_exact_mut(4).skip(first as usize);
        for (slot, id) in slots.zip(tokens) {
            slot.copy_from_slice(&id.to_le_bytes());
        }
    }

    /// Runs `@prefill` over the tokens that were set, which are these segments one after the other. The caller has
    /// checked that they fit the chunk, their sequences' contexts and the vocabulary, and that no sequence is there twice.
    pub(crate) fn run_segments(&mut self, segments: &[Segment]) {
        let end = segments.iter().map(|s| s.position + s.tokens).max().unwrap_or(0);
        self.fill_ropes(end);
        let program = self.entries.prefill;
        if let &[Segment { sequence, position, tokens }] = segments {
            return self.dispatch(Job { program, position, tokens, sequence, ..Job::default() });
        }
        for (number, &segment) in segments.iter().enumerate() {
            self.team.work().set_segment(number, segment);
        }
        let (tokens, segments) = (segments.iter().map(|s| s.tokens).sum(), segments.len() as u32);
        self.dispatch(Job { program, tokens, segments, ..Job::default() });
    }

    /// Runs `@decode` for one token of a sequence; its logits are in row 0.
    pub(crate) fn run_decode(&mut self, sequence: u32, position: u32, token: u32) {
        self.fill_ropes(position + 1);
        self.set_tokens(0, &[token]);
        let program = self.entries.decode;
        self.dispatch(Job { program, position, tokens: 1, sequence, ..Job::default() });
    }

    /// Copies the hidden state in row `from` of the last chunk to row `to`.
    pub(crate) fn move_hidden(&mut self, from: u32, to: u32) {
        let stride = self.buffers.hidden_stride as usize;
        let start = from as usize * stride;
        self.buffers.hidden.as_mut_slice().copy_within(start..start + stride, to as usize * stride);
    }

    /// Rows of logits that one call of `@head` gives at most.
    pub(crate) fn head_rows(&self) -> u32 {
        self.head_rows
    }

    fn logits_row(&self, row: u32) -> &[f32] {
        let stride = storage::align(u64::from(self.model.vocab()) * 4) as usize / 4;
        let start = row as usize * stride;
        &self.buffers.logits.as_f32()[start..start + self.model.vocab() as usize]
    }

    /// Row `row` of what `@head` or `@decode` gave last, behind position `position`.
    pub(crate) fn checked_logits(&self, row: u32, position: u32) -> Result<&[f32], SessionError> {
        let logits = self.logits_row(row);
        match first_nan(logits) {
            Some(index) => Err(SessionError::NotANumber { position, index }),
            None => Ok(logits),
        }
    }

    /// Appends `tokens` and returns the logits behind the last one (`vocab` numbers). One token allocates nothing.
    ///
    /// # Errors
    /// No tokens, an unknown token, a full context, NaN logits.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], SessionError> {
        self.check(tokens)?;
        if let [_] = tokens {
            self.job(self.entries.decode, tokens, 0);
        } else {
            self.prefill(tokens)?;
            let last = (tokens.len() as u32 - 1) % self.chunk;
            self.head(last, 1);
        }
        let position = self.position + tokens.len() as u32 - 1;
        if let Some(index) = first_nan(self.logits_row(0)) {
            return Err(SessionError::NotANumber { position, index });
        }
        self.position = position + 1;
        Ok(self.logits_row(0))
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<(), SessionError> {
        let mut done = 0;
        for chunk in tokens.chunks(self.chunk as usize) {
            self.ask()?;
            self.job(self.entries.prefill, chunk, done);
            done += chunk.len() as u32;
        }
        Ok(())
    }

    /// Whether to go on, by [`Session::set_keep_going`]'s function.
    pub(crate) fn ask(&self) -> Result<(), SessionError> {
        if (self.keep_going)() { Ok(()) } else { Err(SessionError::Interrupted) }
    }

    /// Runs `@head` over `rows` hidden states from row `row` on.
    pub(crate) fn head(&mut self, row: u32, rows: u32) {
        self.dispatch(Job { program: self.entries.head, tokens: rows, row, ..Job::default() });
    }

    /// Appends `tokens` and gives the logits behind each of them to `sink`, with its index in `tokens`. `sink` may stop
    /// early by returning false; the tokens are appended all the same.
    ///
    /// # Errors
    /// As for [`Session::feed`].
    pub fn score(
        &mut self,
        tokens: &[u32],
        mut sink: impl FnMut(usize, &[f32]) -> bool,
    ) -> Result<(), SessionError> {
        self.check(tokens)?;
        let (mut done, mut wanted) = (0u32, true);
        for chunk in tokens.chunks(self.chunk as usize) {
            self.ask()?;
            self.job(self.entries.prefill, chunk, done);
            let mut row = 0;
            while wanted && row < chunk.len() as u32 {
                let rows = self.head_rows.min(chunk.len() as u32 - row);
                self.head(row, rows);
                for i in 0..rows {
                    let logits = self.checked_logits(i, self.position + done + row + i)?;
                    wanted = wanted && sink((done + row + i) as usize, logits);
                }
                row += rows;
            }
            done += chunk.len() as u32;
        }
        self.position += done;
        Ok(())
    }
}

/// Index of the first NaN.
fn first_nan(values: &[f32]) -> Option<usize> {
    // A vectorisable look at everything first: almost always there is none.
    let any = values.iter().fold(false, |any, x| any | x.is_nan());
    if any { values.iter().position(|x| x.is_nan()) } else { None }
}

/// What a session of one thread over a module would take with this context, before anything is allocated.
pub fn memory_needs(module: &Module, programs: &Programs, context: u32) -> MemoryUse {
    let capacity = round_up(context);
    let chunk = programs.programs.iter().find(|p| p.name == "prefill").map_or(1, |p| p.tokens.max());
    let outputs = |name: &str, rows: u32| {
        let program = programs.programs.iter().find(|p| p.name == name);
        let output = program.and_then(|p| p.outputs.first());
        output.and_then(|b| storage::activation_bytes(&b.ty, rows)).unwrap_or(0)
    };
    let ropes = programs.ropes.values().map(|r| u64::from(capacity).saturating_mul(u64::from(r.rot) * 8));
    let ropes = ropes.fold(0, u64::saturating_add);
    let packed = programs.weights.values().filter_map(|&p| weights::packed_bytes(&module.params()[p].ty));
    MemoryUse {
        weights: packed.map(|(bytes, scales)| bytes + scales).sum(),
        kv_cache: Accounts::of(module).kv_bytes_per_position().saturating_mul(u64::from(capacity)),
        arena: programs.programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0) + private_bytes(programs),
        io: u64::from(chunk) * 4
            + outputs("prefill", chunk)
            + outputs("head", HEAD_ROWS.min(chunk))
            + scratch_bytes(programs)
            + workspace_bytes(programs, capacity).min(u64::MAX / 4)
            + ropes.min(u64::MAX / 4),
    }
}

/// Bytes of scratch memory for each thread.
fn scratch_bytes(programs: &Programs) -> u64 {
    storage::align(programs.kernels.values().map(|k| k.scratch_bytes()).max().unwrap_or(0)) + storage::PADDING
}

/// Bytes of private memory for each thread.
fn private_bytes(programs: &Programs) -> u64 {
    storage::align(programs.programs.iter().map(|p| p.private_bytes).max().unwrap_or(0)) + storage::PADDING
}

/// Bytes of the workspace that the threads share.
fn workspace_bytes(programs: &Programs, capacity: u32) -> u64 {
    programs.kernels.values().map(|k| k.workspace_bytes(capacity)).max().unwrap_or(0)
}

fn round_up(context: u32) -> u32 {
    context.max(1).checked_next_multiple_of(KEY_BLOCK).unwrap_or(u32::MAX - KEY_BLOCK + 1)
}
