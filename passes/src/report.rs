//! What a run did: for each pass its time, its patches and the size of the module around it.

use std::fmt::Write;

use crate::pass_id::PassId;

/// What one pass did.
#[derive(Clone, Debug, PartialEq)]
pub struct PassReport {
    /// The pass.
    pub pass: PassId,
    /// Time that it took, without verification.
    pub seconds: f64,
    /// Time that the verification of its result took.
    pub verify_seconds: f64,
    /// Patches applied.
    pub patches: u64,
    /// Whether the module changed, its stage included.
    pub changed: bool,
    /// Nodes of all functions before.
    pub nodes_before: usize,
    /// Nodes of all functions afterwards.
    pub nodes_after: usize,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunReport {
    /// One for each pass of the pipeline.
    pub passes: Vec<PassReport>,
}

impl RunReport {
    /// Patches of all passes.
    pub fn patches(&self) -> u64 {
        self.passes.iter().map(|p| p.patches).sum()
    }
    /// Time of all passes, without verification.
    pub fn seconds(&self) -> f64 {
        self.passes.iter().map(|p| p.seconds).sum()
    }

    /// A table of the times, with a row for each pass and one for all.
    pub fn timing_table(&self) -> String {
        let all: f64 = self.seconds();
        let mut text = format!("{:<20} {:>11} {:>6} {:>11}\n", "pass", "time", "share", "verifying");
        let mut row = |name: &str, seconds: f64, verify: f64| {
            let share = if all > 0.0 { 100.0 * seconds / all } else { 0.0 };
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "{name:<20} {:>8.3} ms {share:>5.1}% {:>8.3} ms", seconds * 1e3, verify * 1e3);
        };
        for pass in &self.passes {
            row(pass.pass.name(), pass.seconds, pass.verify_seconds);
        }
        row("(all)", all, self.passes.iter().map(|p| p.verify_seconds).sum());
        text
    }
}
