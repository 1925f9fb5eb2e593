//! Benchmarks: tokens per second of a loaded model, beside what the machine could do at most.
//!
//! A [`Test`] is a prompt, a generation, or one after the other, at a depth of the context and with a number of threads, as
//! llama-bench has them. [`Bench::run`] measures it in repetitions; before the first, between all and after the last it
//! measures the machine's limits with the same threads ([`bitnetc_runtime::roofline`]). [`bitnetc_ir::work`] counts the bytes and
//! multiply-adds that the test needs, so that an [`Outcome`] can say which limit is the nearer one and which share of
//! it was reached. Method and rules: `docs/performance.md`.
//!
//! Invariants: what is timed is what a session does, nothing is left out or added; tokens are the same in every
//! repetition and on every machine; an interrupted test keeps the repetitions that were finished.

pub mod compare;
pub mod kernels;
mod limits;
pub mod machine;
mod outcome;
pub mod page;
pub mod passes;
pub mod report;
mod run;
pub mod step;
pub mod table;

pub use limits::{LimitKind, Limits};
pub use outcome::Outcome;
pub(crate) use run::token;
pub use run::{Bench, BenchOptions, Progress, Test, limits_of_machine};
