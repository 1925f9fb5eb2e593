//! A model's machine: its working memory, its threads and its compiled code, which feed tokens to sequences.
//!
//! [`Machine::step`] takes tokens of some sequences, one or many of each, and gives the logits that are wanted. One token of
//! one sequence goes through `@decode`; everything else is rows of chunks of `@prefill` (rows know their sequence and position,
//! see `docs/adr/0016-batches.md`), and `@head` for the rows whose logits are wanted. A sequence's logits are the same bits
//! whatever way they come and whatever the others do.
//!
//! This module is the only owner of buffers, of the addresses of everything that programs name, of threads and of the call of
//! generated code (`call`); [`crate::single`] and [`crate::roofline`] run other programs by the same means.
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
mod step;
mod takers;
pub(crate) mod team;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bitnetc_codegen::program::WeightIndex;
use bitnetc_ir::storage;

use crate::error::SessionError;
use crate::model::Model;
use crate::prefix::PrefixFormat;
use crate::profile::{Profile, Recorder};
use crate::sequence::{Sequence, Spoiled};
use crate::trace::{MOST_EVENTS, Recorded};
use binding::{Binding, WeightAddress};
use call::{BoundPrograms, Crew};
use entries::{Buffers, Entries};
use feeds::Chunk;
use memory::{Sizes, WorkMemory, capacity_for};
use team::Team;

pub use feeds::{Feed, FeedIndex, Row, Wanted};
pub use keep_going::KeepGoing;
pub(crate) use memory::buffer;
pub use memory::{MemoryUse, memory_needs, vec_with_room};
pub use takers::Takers;

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
    failed: Vec<AtomicBool>,
    /// Of each feed of the step: the first token whose embedding is not finite.
    spoiled: Vec<Option<Spoiled>>,
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
        let failed = vec_with_room("feeds of a step", options.segments as usize)?;
        let spoiled = vec_with_room("feeds of a step", options.segments as usize)?;
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
            failed,
            spoiled,
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

    /// The format of what [`Sequence::save`] gives of its sequences, where `source` identifies the model.
    pub fn prefix_format(&self, source: &[u8; 32]) -> PrefixFormat {
        PrefixFormat::of(source, &self.entries.caches)
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
}
