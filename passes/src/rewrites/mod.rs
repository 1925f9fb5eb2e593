//! Passes that are rewrites, one a file: each looks at one op at a time and returns a [`crate::Patch`].
//!
//! Invariants: a rewrite builds on the ground floor ([`crate::pass`], [`crate::patch`], [`crate::context`], [`crate::choices`])
//! and knows no other pass, no list of passes and nothing of how passes are run.

pub mod canonicalise;
pub mod cse;
pub mod dce;
pub mod fuse_bitlinear;
pub mod fuse_norm_quant;
pub mod fuse_rope_kv;
pub mod merge_projections;
pub mod pack_head;
