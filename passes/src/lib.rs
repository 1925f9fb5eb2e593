//! The passes of bitnetc: from the module that the front-end lowered to one that is fused, laid out and
//! planned.
//!
//! [`run`] runs a [`Pipeline`] over a module. Passes that rewrite return a [`Patch`] and never change what
//! they look at; the manager applies it, verifies, times and counts. Passes that decide (layouts, order,
//! memory) annotate the module. [`check_plan()`] proves a plan again with code of its own.
//!
//! Invariants: no pass but `pack-head`, and that only as it is asked, changes a bit of what a module computes; every pass but the two that a planned module
//! cannot do without can be left out; no IO here (what instruments print and dump, and reproducers, are text given to the caller).
#![forbid(unsafe_code)]

pub mod assign_layout;
pub mod bisect;
pub mod canonicalise;
pub mod check_plan;
pub mod cost;
pub mod cse;
pub mod dce;
pub mod dump_ir;
pub mod error;
pub mod fuse_bitlinear;
pub mod fuse_norm_quant;
pub mod fuse_rope_kv;
pub mod instrument;
pub mod level;
pub mod manager;
pub mod merge_projections;
mod names;
pub mod options;
pub mod pack_head;
pub mod patch;
pub mod pipeline;
pub mod plan_memory;
pub mod print_ir;
pub mod reproducer;
pub mod same_bits;
pub mod schedule;
pub mod statistics;

pub use bisect::{Culprit, bisect};
pub use check_plan::{PlanViolation, check_plan};
pub use cost::{CostModel, WeightPacking};
pub use dump_ir::DumpIr;
pub use error::{PassError, PassFailure};
pub use instrument::{Done, Instrument, Progress};
pub use level::{OptLevel, UnknownLevel};
pub use manager::{PassContext, PassReport, RunReport, UnknownCheck, VerifyEach, run, run_with};
pub use options::PassOptions;
pub use pack_head::{HeadFormat, HeadFormatError};
pub use patch::{Patch, PatchError, PatchRef};
pub use pipeline::{
    ALL_PASSES, PassBody, PassInfo, PassSet, PassUse, Pipeline, PipelineError, Rewrite, Transform,
};
pub use plan_memory::PlanError;
pub use print_ir::{PrintChoice, PrintIr};
pub use reproducer::{Reproducer, ReproducerError};
pub use statistics::{ModuleStats, PassStats, Statistics};
