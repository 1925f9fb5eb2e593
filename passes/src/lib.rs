//! The passes of bitnetc: from the module that the front-end lowered to one that is fused, laid out and
//! planned.
//!
//! [`run`] runs a [`Pipeline`] over a module. Passes that rewrite return a [`Patch`] and never change what
//! they look at; the manager applies it, verifies, times and counts. Passes that decide (layouts, order,
//! memory) annotate the module. [`check_plan()`] proves a plan again with code of its own.
//!
//! Files import downwards only:
//!
//! | floor | files |
//! |---|---|
//! | how passes run | [`manager`], [`bisect`](mod@bisect), [`instruments`], [`report`], [`reproducer`] |
//! | which passes run | [`list`], [`pipeline`], [`level`] |
//! | the passes | [`rewrites`], [`transforms`], with the cost model ([`cost`]) |
//! | what a pass is | [`pass`], [`context`], [`patch`], [`error`], [`pass_id`], [`choices`], [`check_plan`](mod@check_plan) |
//!
//! Invariants: no pass but `pack-head`, and that only as it is asked, changes a bit of what a module computes; every pass but
//! the two that a planned module cannot do without can be left out; no IO here (what instruments print and dump, and
//! reproducers, are text given to the caller).
#![forbid(unsafe_code)]

pub mod bisect;
pub mod check_plan;
pub mod choices;
pub mod context;
pub mod cost;
pub mod error;
pub mod instruments;
pub mod level;
pub mod list;
pub mod manager;
mod names;
pub mod pass;
pub mod pass_id;
pub mod patch;
pub mod pipeline;
pub mod report;
pub mod reproducer;
pub mod rewrites;
pub mod transforms;

pub use bisect::{Culprit, bisect};
pub use check_plan::{PlanViolation, check_plan};
pub use choices::{
    HeadFormat, HeadFormatError, PassOption, PassOptions, UnknownCheck, UnknownPacking, VerifyEach,
    WeightPacking,
};
pub use context::PassContext;
pub use cost::CostModel;
pub use error::{PassError, PassFailure, PlanError};
pub use instruments::dump_ir::DumpIr;
pub use instruments::print_ir::{PrintChoice, PrintIr};
pub use instruments::statistics::{ModuleStats, PassStats, Statistics};
pub use instruments::{Done, Instrument, Progress};
pub use level::{OptLevel, UnknownLevel};
pub use list::ALL_PASSES;
pub use manager::{run, run_with};
pub use pass::{PassBody, PassInfo, Rewrite, Transform};
pub use pass_id::{PassId, UnknownPass};
pub use patch::{Patch, PatchError, PatchRef};
pub use pipeline::{PassSet, PassUse, Pipeline, PipelineError};
pub use report::{PassReport, RunReport};
pub use reproducer::{Reproducer, ReproducerError};
