//! The working memory of compiled code, and the one place that knows how much of it there is.
//!
//! Every program works in an *arena* (activations), *scratch* and *private* memory of each thread (what a kernel keeps for
//! itself; copies of activations that every thread makes), a *workspace* that the threads share within an op, and tables for
//! RoPE. One working memory serves all programs of a module, since only one of them runs at a time.
//!
//! Invariants: every buffer is followed by readable padding; a thread's memory begins and ends apart from another's.

use bitnetc_codegen::kernels::KernelSpec;
use bitnetc_codegen::program::{Program, Programs, RopeSpec};
use bitnetc_ir::work::Accounts;
use bitnetc_ir::{EntryPoint, HEAD_ROWS, KEY_BLOCK, Module, storage, weights};

use super::rope_table::RopeTable;
use crate::error::SessionError;
use crate::map::AlignedBuffer;

/// Memory that a machine takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Packed weights with their scales.
    pub weights: u64,
    /// KV caches at full context, and recurrent states, of as many sequences as one step has.
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

/// Bytes of a workspace up to which it asks for huge pages.
const DENSE_WORKSPACE: u64 = 16 << 20;

/// Zeroed memory, followed by what kernels may read.
pub(crate) fn buffer(what: &'static str, bytes: u64) -> Result<AlignedBuffer, SessionError> {
    buffer_of(what, bytes, AlignedBuffer::zeroed)
}

/// As [`buffer`], of memory that `make` gives.
pub(crate) fn buffer_of(
    what: &'static str,
    bytes: u64,
    make: fn(usize) -> std::io::Result<AlignedBuffer>,
) -> Result<AlignedBuffer, SessionError> {
    bytes
        .checked_add(storage::PADDING)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or(())
        .map_err(|()| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
        .and_then(make)
        .map_err(|source| SessionError::Memory { what, bytes, source })
}

/// An empty vector with room for `count` elements.
///
/// # Errors
/// Memory could not be allocated.
pub fn vec_with_room<T>(what: &'static str, count: usize) -> Result<Vec<T>, SessionError> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(count).map_err(|_| SessionError::Memory {
        what,
        bytes: (count as u64).saturating_mul(size_of::<T>() as u64),
        source: std::io::ErrorKind::OutOfMemory.into(),
    })?;
    Ok(vec)
}

/// Capacity of the caches for a context of this number of tokens: whole key blocks.
pub(crate) fn capacity_for(context: u32) -> u32 {
    context.max(1).checked_next_multiple_of(KEY_BLOCK).unwrap_or(u32::MAX - KEY_BLOCK + 1)
}

/// Bytes of working memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Of the arena.
    pub(crate) arena: u64,
    /// Of each thread's scratch memory.
    pub(crate) scratch: u64,
    /// Of each thread's private memory.
    pub(crate) private: u64,
    /// Of the workspace.
    pub(crate) workspace: u64,
}

impl Sizes {
    /// What `programs` need, whose kernels are `kernels`, with caches of `capacity` positions.
    pub(crate) fn of<'a>(
        programs: &[Program],
        kernels: impl Iterator<Item = &'a KernelSpec> + Clone,
        capacity: u32,
    ) -> Self {
        let most = |sizes: &mut dyn Iterator<Item = u64>| sizes.max().unwrap_or(0);
        Self {
            arena: most(&mut programs.iter().map(|p| p.arena_bytes)),
            scratch: apart(most(&mut kernels.clone().map(KernelSpec::scratch_bytes))),
            private: apart(most(&mut programs.iter().map(|p| p.private_bytes))),
            workspace: most(&mut kernels.map(|k| k.workspace_bytes(capacity))),
        }
    }
}

/// Bytes from the memory of one thread to that of the next, for `bytes` bytes each.
fn apart(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(storage::ALIGN).unwrap_or(u64::MAX).saturating_add(storage::PADDING)
}

/// Memory of each thread, one after the other.
#[derive(Debug)]
pub(crate) struct PerThread {
    buffer: AlignedBuffer,
    each: u64,
}

impl PerThread {
    fn new(what: &'static str, each: u64, threads: u32) -> Result<Self, SessionError> {
        let buffer = buffer(what, each.saturating_mul(u64::from(threads)))?;
        Ok(Self { buffer, each })
    }

    /// Address of what thread `thread` has.
    pub(crate) fn address(&self, thread: u32) -> u64 {
        self.buffer.address() + u64::from(thread) * self.each
    }

    /// The memory of all threads, and the bytes from one's to the next one's.
    pub(crate) fn parts(&mut self) -> (&mut AlignedBuffer, u64) {
        (&mut self.buffer, self.each)
    }
}

/// Working memory for some threads.
#[derive(Debug)]
pub(crate) struct WorkMemory {
    pub(crate) arena: AlignedBuffer,
    pub(crate) scratch: PerThread,
    pub(crate) private: PerThread,
    pub(crate) workspace: AlignedBuffer,
    pub(crate) ropes: Vec<RopeTable>,
}

impl WorkMemory {
    /// Zeroed memory for `threads` threads, and an empty table of `positions` rows for each of `ropes`.
    ///
    /// # Errors
    /// Memory could not be allocated.
    pub(crate) fn new<'a>(
        sizes: Sizes,
        threads: u32,
        ropes: impl Iterator<Item = &'a RopeSpec>,
        positions: u32,
    ) -> Result<Self, SessionError> {
        // Heads lie apart by the whole context, so a long one that is hardly used is touched here and there.
        let dense = sizes.workspace <= DENSE_WORKSPACE;
        let workspace = if dense { AlignedBuffer::zeroed } else { AlignedBuffer::sparse };
        Ok(Self {
            arena: buffer("activations", sizes.arena)?,
            scratch: PerThread::new("scratch memory", sizes.scratch, threads)?,
            private: PerThread::new("copies of activations", sizes.private, threads)?,
            workspace: buffer_of("workspace of attention", sizes.workspace, workspace)?,
            ropes: ropes.map(|spec| RopeTable::new(spec, positions)).collect::<Result<_, _>>()?,
        })
    }

    /// Fills the RoPE tables for the positions below `end`.
    pub(crate) fn fill_ropes(&mut self, end: u32) {
        self.ropes.iter_mut().for_each(|table| table.fill_to(end));
    }

    /// Bytes of activations, and of everything else.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let ropes: u64 = self.ropes.iter().map(RopeTable::len).sum();
        let len = |buffer: &AlignedBuffer| buffer.len() as u64;
        let activations = len(&self.arena) + len(&self.private.buffer);
        (activations, len(&self.scratch.buffer) + len(&self.workspace) + ropes)
    }
}

/// What a machine of one thread and one sequence over a module would take with this context, before anything is allocated.
pub fn memory_needs(module: &Module, programs: &Programs, context: u32) -> MemoryUse {
    let capacity = capacity_for(context);
    let program = |entry| programs.entry_point(entry).map(|(_, program)| program);
    let chunk = program(EntryPoint::Prefill).map_or(1, |p| p.tokens.max());
    let outputs = |entry, rows: u32| {
        let output = program(entry).and_then(|p| p.outputs.first());
        output.and_then(|b| storage::activation_bytes(&b.ty, rows)).unwrap_or(0)
    };
    let ropes = programs.ropes.values().map(|r| u64::from(capacity).saturating_mul(u64::from(r.rot) * 8));
    let ropes = ropes.fold(0, u64::saturating_add);
    let packed = programs.weights.values().filter_map(|&p| weights::packed_bytes(&module.params()[p].ty));
    let sizes = Sizes::of(&programs.programs, programs.kernels.values(), capacity);
    MemoryUse {
        weights: packed.map(|(bytes, scales)| bytes + scales).sum(),
        kv_cache: {
            let accounts = Accounts::of(module);
            let caches = accounts.kv_bytes_per_position().saturating_mul(u64::from(capacity));
            caches.saturating_add(accounts.state_bytes())
        },
        arena: sizes.arena + sizes.private,
        io: u64::from(chunk) * 4
            + outputs(EntryPoint::Prefill, chunk)
            + outputs(EntryPoint::Head, HEAD_ROWS.min(chunk))
            + sizes.scratch
            + sizes.workspace.min(u64::MAX / 4)
            + ropes.min(u64::MAX / 4),
    }
}
