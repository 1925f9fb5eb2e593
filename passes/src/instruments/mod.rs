//! Instruments: what watches a run of a pipeline without being a pass.
//!
//! [`crate::manager::run_with`] calls every instrument at four moments: before the first pass, before and after each pass,
//! and before each patch. An instrument sees modules and never changes them; after a pass it may refuse what the pass has
//! made, and then the run fails as if the verifier had.
//!
//! Here are the callbacks, and an instrument in each file of the folder.

pub mod dump_ir;
pub mod print_ir;
pub mod same_bits;
pub mod statistics;

use bitnetc_ir::{Func, Module};

use crate::context::PassContext;
use crate::error::PassFailure;
use crate::patch::Patch;
use crate::pipeline::{PassUse, Pipeline};
use crate::report::PassReport;
use crate::reproducer::Reproducer;

/// How far a run has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// All passes of the run.
    pub pipeline: &'a Pipeline,
    /// What the run depends on.
    pub context: &'a PassContext,
    /// Passes that have run.
    pub done: usize,
    /// Patches that may still be applied, if they are counted.
    pub patches_left: Option<u64>,
}

impl Progress<'_> {
    /// What is left to do, with `module`, which is what the run has made so far.
    pub fn rest(&self, module: &Module) -> Reproducer {
        Reproducer {
            pipeline: self.pipeline.rest(self.done),
            context: PassContext { stop_after: self.patches_left, ..self.context.clone() },
            command: None,
            module: module.clone(),
        }
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    /// The pass.
    pub pass: &'a PassUse,
    /// Its time and its patches.
    pub report: &'a PassReport,
    /// The module in front of it.
    pub before: &'a Module,
    /// The module that it made.
    pub after: &'a Module,
}

/// Something that watches a run; see the module.
pub trait Instrument {
    /// The run begins; the module has been verified.
    fn begin(&mut self, _at: &Progress<'_>, _module: &Module) {}
    /// The next pass of `at` begins.
    fn before_pass(&mut self, _at: &Progress<'_>, _pass: &PassUse, _module: &Module) {}
    /// A patch is about to be applied to `func`.
    fn before_patch(&mut self, _module: &Module, _func: &Func, _patch: &Patch) {}
    /// A pass has run, and what it made has been verified if it is verified at all.
    ///
    /// # Errors
    /// Why the run must not go on.
    fn after_pass(&mut self, _at: &Progress<'_>, _done: &Done<'_>) -> Result<(), PassFailure> {
        Ok(())
    }
}
