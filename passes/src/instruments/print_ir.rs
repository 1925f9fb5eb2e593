//! Printing the module around passes, as `mlir-opt` does: each text under a comment that says where in the run it is.
//!
//! Invariant: headings are comments of the text form, so what is printed for one pass parses.

use bitnetc_ir::{Module, text};

use crate::error::PassFailure;
use crate::instruments::{Done, Instrument, Progress};
use crate::pass_id::PassId;
use crate::pipeline::PassUse;

/// Around which passes to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrintChoice {
    /// Before these.
    pub before: Vec<PassId>,
    /// After these.
    pub after: Vec<PassId>,
    /// After all.
    pub after_all: bool,
    /// After those that changed the module.
    pub after_change: bool,
}

impl PrintChoice {
    /// Whether nothing is printed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The instrument; gives each text to a function.
pub struct PrintIr<F> {
    choice: PrintChoice,
    sink: F,
}

impl<F: FnMut(&str)> PrintIr<F> {
    /// Prints to `sink`.
    pub fn new(choice: PrintChoice, sink: F) -> Self {
        Self { choice, sink }
    }
}

impl<F: FnMut(&str)> PrintIr<F> {
    fn print(&mut self, heading: &str, module: &Module) {
        (self.sink)(&format!("; ----- IR {heading} -----\n{}", text::print(module)));
    }
}

impl<F: FnMut(&str)> Instrument for PrintIr<F> {
    fn before_pass(&mut self, at: &Progress<'_>, pass: &PassUse, module: &Module) {
        if self.choice.before.contains(&pass.id) {
            let heading = format!("before {pass} ({} of {})", at.done + 1, at.pipeline.passes().len());
            self.print(&heading, module);
        }
    }

    fn after_pass(&mut self, at: &Progress<'_>, done: &Done<'_>) -> Result<(), PassFailure> {
        let changed = done.report.changed;
        let named = self.choice.after.contains(&done.pass.id);
        if named || self.choice.after_all || (self.choice.after_change && changed) {
            let what = if changed { "" } else { ", which changed nothing" };
            let heading =
                format!("after {} ({} of {}){what}", done.pass, at.done, at.pipeline.passes().len());
            self.print(&heading, done.after);
        }
        Ok(())
    }
}
