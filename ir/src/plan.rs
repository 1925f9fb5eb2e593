//! Where values live and where threads meet: what stage `planned` adds to a function.
//!
//! Invariants (proved by the checker in `passes`, which shares no code with the planner): two values whose live ranges
//! meet do not share arena bytes unless one is a view or an alias of the other; between an op that writes bytes and
//! another op that reads or writes them there is a barrier.
//!
//! An op whose results are in *private* memory is replicated: every thread runs all of it, into a copy of its own, and
//! every reader of the result reads the copy of its own thread. No barrier stands between the two, since a thread does
//! its own work in order.

use std::collections::{BTreeMap, BTreeSet};

use crate::entity::{NodeId, ValueId};

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the arena, from `offset` on, a multiple of 64.
    Arena {
        /// Bytes from the start of the arena.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// In the private memory of every thread, from `offset` on, a multiple of 64: the op that makes the value is
    /// replicated.
    Private {
        /// Bytes from the start of the private memory.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Part of each row of another value.
    View {
        /// The value with the bytes.
        of: ValueId,
        /// Bytes from the start of its row.
        offset: u64,
    },
    /// The bytes of another value, which is dead or is changed in place on purpose.
    Alias {
        /// The value with the bytes.
        of: ValueId,
    },
    /// In a buffer that the caller gives: an input, or an output that is not a cache.
    Extern,
}

/// The plan of a function.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FuncPlan {
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Bytes of the private memory of each thread.
    pub private_bytes: u64,
    /// The place of every value.
    pub places: BTreeMap<ValueId, Place>,
    /// Nodes after which all threads meet.
    pub barriers: BTreeSet<NodeId>,
}

impl FuncPlan {
    /// Whether `value` lies in private memory, itself or as a part or alias of another value.
    pub fn is_private(&self, value: ValueId) -> bool {
        let mut at = value;
        // A chain visits each value at most once.
        for _ in 0..=self.places.len() {
            match self.places.get(&at) {
                Some(Place::Private { .. }) => return true,
                Some(Place::View { of, .. } | Place::Alias { of }) => at = *of,
                _ => return false,
            }
        }
        false
    }
}
