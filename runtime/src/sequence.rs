//! A sequence: the tokens that have been fed, and what the model has computed of them, in KV caches and recurrent states of its own.
//!
//! Sequences are made by [`crate::machine::Machine::sequence`] and fed by [`crate::machine::Machine::step`], of the machine
//! that made them or of another one of the same model with caches of the same size. They can be kept while others are fed,
//! and moved to other threads; dropping one frees its caches. What one sequence holds can be copied to another instead of
//! being computed ([`Sequence::copy_prefix`]): the bits are the same, because keys and values depend on the tokens up to
//! theirs alone.
//!
//! A recurrent state is that of one position, and cannot be cut back. Where it is not that of the last token (tokens were forgotten,
//! a beginning was copied, a step was interrupted), the next step first computes again what is missing: from the start, since
//! a state at position 0 is nothing. [`Sequence::forget_unheld`] gives up the tokens for which that would be so.
//!
//! Invariants: the first [`Sequence::position`] positions of every cache hold the keys and values of [`Sequence::tokens`];
//! what stands there afterwards is never read. Recurrent states are those after the first `held` tokens. There is room for `context` tokens from the start, so that a step allocates
//! nothing; memory that is not used is not taken from the system.

use std::sync::Arc;

use bitnetc_ir::{Type, storage};

use crate::error::SessionError;
use crate::machine::memory::buffer_of;
use crate::machine::vec_with_room;
use crate::map::AlignedBuffer;
use crate::model::Model;
use crate::prefix::{Prefix, PrefixFormat};

/// Bytes of all caches of a sequence up to which they ask for huge pages. The first token writes to as many places of a cache as
/// there are heads, and with huge pages takes the memory of what lies around them: nearly all of it, for a model of many small
/// heads. So that a context of a million positions costs nothing until it is used, large caches do without.
const DENSE_CACHES: u64 = 512 << 20;

/// Tokens of one text, with their keys and values.
pub struct Sequence {
    model: Arc<Model>,
    caches: Vec<AlignedBuffer>,
    /// Of each cache.
    types: Vec<Type>,
    /// Positions of each cache.
    capacity: u32,
    context: u32,
    tokens: Vec<u32>,
    /// Tokens that the recurrent states have gone through, at most as many as there are; without a meaning where there are no
    /// states.
    held: u32,
    spoiled: Option<Spoiled>,
}

/// A token whose embedding is not finite, so that nothing computed from its position on counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spoiled {
    /// Where it stands in the sequence.
    pub(crate) position: u32,
    pub(crate) token: u32,
}

/// Where a sequence stood: see [`Sequence::mark`].
#[derive(Clone, Debug)]
pub struct Mark {
    tokens: Vec<u32>,
    /// None where there were none of its last token.
    states: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequence")
            .field("position", &self.position())
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl Sequence {
    /// An empty sequence with a cache of each of `types` for `capacity` positions.
    pub(crate) fn new(
        model: Arc<Model>,
        types: &[Type],
        capacity: u32,
        context: u32,
    ) -> Result<Self, SessionError> {
        let bytes = |ty| storage::cache_bytes(ty, capacity).unwrap_or(u64::MAX);
        let all = types.iter().map(bytes).fold(0, u64::saturating_add);
        let make = if all <= DENSE_CACHES { AlignedBuffer::zeroed } else { AlignedBuffer::sparse };
        let cache = |ty| buffer_of("KV cache", bytes(ty), make);
        let caches = types.iter().map(cache).collect::<Result<_, _>>()?;
        let tokens = vec_with_room("tokens of a sequence", context as usize)?;
        Ok(Self { model, caches, types: types.to_vec(), capacity, context, tokens, held: 0, spoiled: None })
    }

    /// The tokens that have been fed.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens have been fed: where the next one stands.
    pub fn position(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Tokens that may be fed in all.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Forgets the tokens from `position` on (0: all of them). Of a model with recurrent states, what is left is computed again by
    /// the next step.
    pub fn truncate(&mut self, position: u32) {
        self.tokens.truncate(position as usize);
        self.spoiled = self.spoiled.filter(|spoiled| spoiled.position < position);
        if self.held > self.position() {
            self.held = 0;
        }
    }

    /// Whether there are recurrent states.
    fn has_states(&self) -> bool {
        self.types.iter().any(|ty| ty.as_state().is_some())
    }

    /// The tokens that the recurrent states have not gone through, which the next step computes again.
    pub(crate) fn unheld(&self) -> &[u32] {
        match self.has_states() {
            true => &self.tokens[self.held as usize..],
            false => &[],
        }
    }

    /// Forgets the tokens that the next step would compute again; returns how many are left.
    pub fn forget_unheld(&mut self) -> u32 {
        self.truncate(self.position() - self.unheld().len() as u32);
        self.position()
    }

    /// Where the sequence stands, to come back to with [`Sequence::rewind`]: its tokens, and copies of its recurrent states.
    ///
    /// # Errors
    /// Memory could not be allocated.
    pub fn mark(&self) -> Result<Mark, SessionError> {
        let mut tokens = vec_with_room("tokens of a mark", self.tokens.len())?;
        tokens.extend_from_slice(&self.tokens);
        let mut states = Vec::new();
        for state in self.states().filter(|_| self.unheld().is_empty()) {
            let mut copy = vec_with_room("copy of a recurrent state", state.len())?;
            copy.extend_from_slice(state.as_slice());
            states.push(copy);
        }
        Ok(Mark { tokens, states })
    }

    /// Forgets what came after `mark`, a mark of this sequence or of one with the same beginning. If it is of another one, this is
    /// [`Sequence::truncate`].
    pub fn rewind(&mut self, mark: &Mark) {
        let is_beginning = self.tokens.starts_with(&mark.tokens);
        self.truncate(mark.tokens.len() as u32);
        let sizes = self.states().map(AlignedBuffer::len);
        if !is_beginning || mark.states.is_empty() || !sizes.eq(mark.states.iter().map(Vec::len)) {
            return;
        }
        for (state, copy) in self.states_mut().zip(&mark.states) {
            state.as_mut_slice().copy_from_slice(copy);
        }
        self.held = self.position();
    }

    /// A step begins to change the recurrent states: until it has ended they are those of no position.
    pub(crate) fn release_states(&mut self) {
        self.held = 0;
    }

    /// The first of its tokens whose embedding is not finite.
    pub(crate) fn spoiled(&self) -> Option<Spoiled> {
        self.spoiled
    }

    /// Makes this sequence hold the first `length` tokens of `source`, or all of them if it has fewer, with their keys and
    /// values. Only what the two do not have in common is copied. Nothing of this sequence is left beyond it.
    ///
    /// # Errors
    /// [`SessionError::ForeignSequence`] where `source` is of another model or has caches of another size, and
    /// [`SessionError::ContextFull`] where there is no room for this number of tokens. Then nothing has changed.
    pub fn copy_prefix(&mut self, source: &Sequence, length: u32) -> Result<(), SessionError> {
        if !source.fits(&self.model, self.capacity) {
            return Err(SessionError::ForeignSequence);
        }
        let length = length.min(source.position());
        if length > self.context {
            let tokens = u64::from(length);
            return Err(SessionError::ContextFull { tokens, position: 0, context: self.context });
        }
        let tokens = &source.tokens[..length as usize];
        let same = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        for ((ty, to), from) in self.types.iter().zip(&mut self.caches).zip(&source.caches) {
            let (to, from) = (to.as_mut_slice(), from.as_slice());
            // Sequences are made with types of caches only.
            let ranges = storage::cache_ranges(ty, self.capacity, same as u32..length).into_iter().flatten();
            for range in ranges {
                let range = range.start as usize..range.end as usize;
                to[range.clone()].copy_from_slice(&from[range]);
            }
        }
        let own = self.held as usize <= same;
        self.tokens.truncate(same);
        self.tokens.extend_from_slice(&tokens[same..]);
        if source.held == length {
            for (to, from) in self.states_mut().zip(source.states()) {
                to.as_mut_slice().copy_from_slice(from.as_slice());
            }
            self.held = length;
        } else if !own {
            self.held = 0;
        }
        // The first of the same tokens is the same.
        self.spoiled = source.spoiled.filter(|spoiled| spoiled.position < length);
        Ok(())
    }

    /// The recurrent states.
    fn states(&self) -> impl Iterator<Item = &AlignedBuffer> {
        self.types.iter().zip(&self.caches).filter(|(ty, _)| ty.as_state().is_some()).map(|(_, state)| state)
    }

    fn states_mut(&mut self) -> impl Iterator<Item = &mut AlignedBuffer> {
        let all = self.types.iter().zip(&mut self.caches);
        all.filter(|(ty, _)| ty.as_state().is_some()).map(|(_, state)| state)
    }

    /// The format of what [`Sequence::save`] gives, of the model that `source` identifies.
    pub fn prefix_format(&self, source: &[u8; 32]) -> PrefixFormat {
        PrefixFormat::of(source, &self.types)
    }

    /// Copies the first `length` tokens, or all if there are fewer, with their keys and values, into memory of their size.
    /// A token whose embedding is not finite and what follows it are left out. Of a model with recurrent states there is only the
    /// one beginning that these are of: none if it is longer. `source` identifies the model.
    ///
    /// # Errors
    /// Memory could not be allocated.
    pub fn save(&self, source: &[u8; 32], length: u32) -> Result<Prefix, SessionError> {
        let sound = self.spoiled.map_or(u32::MAX, |spoiled| spoiled.position);
        let mut length = length.min(self.position()).min(sound);
        if self.has_states() {
            length = if self.held <= length { self.held } else { 0 };
        }
        let format = self.prefix_format(source);
        let size = format.bytes(u64::from(length));
        let room = usize::try_from(size).unwrap_or(usize::MAX);
        let mut bytes: Vec<u8> = vec_with_room("saved sequence", room)?;
        for (ty, cache) in self.types.iter().zip(&self.caches) {
            // Sequences are made with types of caches only.
            for range in storage::cache_ranges(ty, self.capacity, 0..length).into_iter().flatten() {
                bytes.extend_from_slice(&cache.as_slice()[range.start as usize..range.end as usize]);
            }
            let state = storage::state_bytes(ty).filter(|_| length > 0).unwrap_or(0);
            bytes.extend_from_slice(&cache.as_slice()[..state as usize]);
        }
        Prefix::new(format, &self.tokens[..length as usize], bytes).ok_or(SessionError::ForeignSequence)
    }

    /// Makes this sequence hold the first `length` tokens of `prefix`, or all of them if it has fewer, with their keys and
    /// values. Only what the two do not have in common is copied. `source` identifies the model.
    ///
    /// # Errors
    /// [`SessionError::ForeignSequence`] where `prefix` is of another model or of caches of other types, and
    /// [`SessionError::ContextFull`] where there is no room for so many tokens. Then nothing has changed.
    pub fn restore(&mut self, source: &[u8; 32], prefix: &Prefix, length: u32) -> Result<(), SessionError> {
        if *prefix.format() != self.prefix_format(source) {
            return Err(SessionError::ForeignSequence);
        }
        let all = u32::try_from(prefix.tokens().len()).unwrap_or(u32::MAX);
        let length = length.min(all);
        if length > self.context || all > self.capacity {
            let tokens = u64::from(length.max(all));
            return Err(SessionError::ContextFull { tokens, position: 0, context: self.context });
        }
        let tokens = &prefix.tokens()[..length as usize];
        let same = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let mut head = 0;
        let (own, whole) = (self.held as usize <= same, length == all && all > 0);
        for (ty, cache) in self.types.iter().zip(&mut self.caches) {
            if let Some(size) = storage::state_bytes(ty).filter(|_| all > 0) {
                let size = size as usize;
                if whole {
                    cache.as_mut_slice()[..size].copy_from_slice(&prefix.bytes()[head..head + size]);
                }
                head += size;
                continue;
            }
            let saved = storage::cache_ranges(ty, self.capacity, 0..all).into_iter().flatten();
            let wanted = storage::cache_ranges(ty, self.capacity, same as u32..length).into_iter().flatten();
            for (saved, wanted) in saved.zip(wanted) {
                let from = head + (wanted.start - saved.start) as usize;
                let count = (wanted.end - wanted.start) as usize;
                let to = &mut cache.as_mut_slice()[wanted.start as usize..wanted.end as usize];
                to.copy_from_slice(&prefix.bytes()[from..from + count]);
                head += (saved.end - saved.start) as usize;
            }
        }
        self.tokens.truncate(same);
        self.tokens.extend_from_slice(&tokens[same..]);
        match (whole, own) {
            (true, _) => self.held = length,
            (false, true) => {}
            (false, false) => self.held = 0,
        }
        self.spoiled = self.spoiled.filter(|spoiled| (spoiled.position as usize) < same);
        Ok(())
    }

    /// Whether the caches are those that a machine for `model` with `capacity` positions works on.
    pub(crate) fn fits(&self, model: &Arc<Model>, capacity: u32) -> bool {
        Arc::ptr_eq(&self.model, model) && self.capacity == capacity
    }

    /// The caches, in the order of the entry points' inputs.
    pub(crate) fn caches(&self) -> &[AlignedBuffer] {
        &self.caches
    }

    /// Adds tokens whose keys and values have been computed; `spoiled` is the first of all that is. The context has room for them.
    pub(crate) fn append(&mut self, tokens: &[u32], spoiled: Option<Spoiled>) {
        self.tokens.extend_from_slice(tokens);
        self.held = self.position();
        self.spoiled = spoiled;
    }
}
