//! Where values live and where threads meet: what stage `planned` adds to a function.
//!
//! Invariants (proved by the checker in `passes`, which shares no code with the planner): two values whose live ranges
//! meet do not share arena bytes unless one is a view or an alias of the other; between an op that writes bytes and
//! another op that reads or writes them there is a barrier, unless both run in the same thread for the same unit.

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
    /// The place of every value.
    pub places: BTreeMap<ValueId, Place>,
    /// Nodes after which all threads meet.
    pub barriers: BTreeSet<NodeId>,
}
