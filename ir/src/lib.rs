//! The typed dataflow IR of bitnetc: what a ternary language model computes, in text and in memory.
//!
//! A [`Module`] holds the weights by name and the entry points `@decode`, `@prefill` and `@head`. Ops are defined once,
//! in [`ops`]; their meaning is the interpreter's. The IR knows nothing of GGUF files, of machine code or of the host.
//!
//! The feature `testing` adds `generate`, random modules for the tests of this crate and of others; no product enables it.
//!
//! Invariants: no IO and no `unsafe` here; the text form is complete ([`text`] prints and parses it and the two are
//! inverse); nothing outside [`verify`] is trusted to have checked a module that came from outside.
#![forbid(unsafe_code)]

pub mod attr;
pub mod blocks;
pub mod build;
pub mod cache;
pub mod columns;
pub mod diff;
pub mod entity;
pub mod entry_point;
pub mod extract;
#[cfg(feature = "testing")]
pub mod generate;
pub mod graph;
pub mod infer;
pub mod interp;
pub mod limits;
pub mod module;
pub mod ops;
pub mod partition;
pub mod plan;
pub mod random;
pub mod rope;
pub mod sample;
pub mod slot;
pub mod stage;
pub mod storage;
pub mod target;
pub mod text;
pub mod types;
pub mod verify;
pub mod weights;
pub mod work;

pub use attr::{Attr, Bounds, Direction, Epilogue, Pairs, QuantBlock, Sizes};
pub use blocks::BlockFormat;
pub use build::{BuildError, FuncBuilder};
pub use cache::CacheType;
pub use columns::{InPlace, Index, OpInfo, Run};
pub use entity::{Entity, EntityVec, FuncId, NodeId, ParamId, ValueId};
pub use entry_point::EntryPoint;
pub use graph::{Func, Node, Operand, Part, TokenCount, ValueData, ValueDef};
pub use infer::TypeRule;
pub use module::{ContentHash, Module, ParamDecl, ParamDef};
pub use ops::{ALL_OPS, Op};
pub use partition::{Division, Extent, Units};
pub use plan::{FuncPlan, Place};
pub use slot::Slot;
pub use stage::{Stage, StageRange};
pub use target::{Arch, Feature, TargetDesc, TargetError};
pub use types::{CacheDims, DType, Dim, Layout, Rows, Shape, StateDims, Type};
pub use weights::{WeightBytes, WeightSource};

/// Key positions in one block of attention: scores are reduced block by block, and blocks are merged in rising order, so
/// that decode and prefill, and any number of threads, give the same bits. Capacities of caches are multiples of it.
pub const KEY_BLOCK: u32 = 64;

/// Most rows of one `@head` call: enough to read the head once for many rows of logits, few enough to keep them all.
pub const HEAD_ROWS: u32 = 32;
