//! Numbered dumps: the module that a run begins with, and what each pass that changed something made of it.
//!
//! `00-imported.bir` (the number 0 and the stage), `04-fuse-norm-quant.bir` (the position in the pipeline and the pass). Every
//! dump is a [`crate::Reproducer`] too: its comments name the passes that were still to run, so the run can be taken up from
//! any of them.
//!
//! Invariants: each dump parses to the module that it shows; the last one is the module that the run returns; nothing is
//! written here, files belong to the caller.

use bitnetc_ir::Module;

use crate::error::PassFailure;
use crate::instruments::{Done, Instrument, Progress};

/// The instrument; gives each dump's file name and text to a function.
pub struct DumpIr<F>(F);

impl<F: FnMut(&str, &str)> DumpIr<F> {
    /// Dumps to `sink`.
    pub fn new(sink: F) -> Self {
        Self(sink)
    }
}

impl<F: FnMut(&str, &str)> Instrument for DumpIr<F> {
    fn begin(&mut self, at: &Progress<'_>, module: &Module) {
        (self.0)(&format!("00-{}.bir", module.stage), &at.rest(module).to_string());
    }

    fn after_pass(&mut self, at: &Progress<'_>, done: &Done<'_>) -> Result<(), PassFailure> {
        if done.report.changed {
            (self.0)(&format!("{:02}-{}.bir", at.done, done.pass.id), &at.rest(done.after).to_string());
        }
        Ok(())
    }
}
