//! Passes that are transforms, one a file: each decides something for the whole module (layouts, the order of ops, the memory
//! plan) and notes it there.
//!
//! Invariants: as for [`crate::rewrites`], except that a transform may ask the cost model ([`crate::cost`]), and that the memory
//! plan and the layouts of caches follow the rules of [`schedule`].

pub mod assign_layout;
pub mod plan_memory;
pub mod schedule;
