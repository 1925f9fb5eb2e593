//! Statistics of a run: what each pass did to the number of ops, weights, barriers and bytes of memory.
//!
//! Counted from the modules before and after a pass, so a pass needs no code for it and none can be forgotten.

use std::collections::BTreeMap;
use std::fmt::Write;

use bitnetc_ir::Module;

use crate::error::PassFailure;
use crate::instruments::{Done, Instrument, Progress};
use crate::pipeline::PassUse;

/// Sizes of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleStats {
    /// Ops of all functions, by mnemonic.
    pub ops: BTreeMap<&'static str, u64>,
    /// Weights, those that others are made of included.
    pub params: u64,
    /// Barriers of all functions.
    pub barriers: u64,
    /// Bytes of the largest arena.
    pub arena_bytes: u64,
    /// Bytes of the largest private memory of a thread.
    pub private_bytes: u64,
}

impl ModuleStats {
    /// Those of `module`.
    pub fn of(module: &Module) -> Self {
        let mut stats = Self { params: module.params().len() as u64, ..Self::default() };
        for func in module.funcs().values() {
            for &id in func.order() {
                *stats.ops.entry(func.node(id).op.info().mnemonic).or_default() += 1;
            }
            stats.barriers += func.barriers().unwrap_or(0) as u64;
            if let Some(plan) = &func.plan {
                stats.arena_bytes = stats.arena_bytes.max(plan.arena_bytes);
                stats.private_bytes = stats.private_bytes.max(plan.private_bytes);
            }
        }
        stats
    }

    /// Ops of all functions.
    pub fn op_count(&self) -> u64 {
        self.ops.values().sum()
    }
}

/// What a pass did.
#[derive(Clone, Debug, PartialEq)]
pub struct PassStats {
    /// The pass, with its options.
    pub pass: PassUse,
    /// Patches applied.
    pub patches: u64,
    /// The module in front of it.
    pub before: ModuleStats,
    /// The module that it made.
    pub after: ModuleStats,
}

impl PassStats {
    /// Each mnemonic whose number changed, with the difference.
    pub fn op_changes(&self) -> Vec<(&'static str, i64)> {
        let names =
            self.before.ops.keys().chain(self.after.ops.keys().filter(|k| !self.before.ops.contains_key(*k)));
        let count = |stats: &ModuleStats, name: &str| stats.ops.get(name).copied().unwrap_or(0) as i64;
        names
            .map(|&name| (name, count(&self.after, name) - count(&self.before, name)))
            .filter(|(_, difference)| *difference != 0)
            .collect()
    }
}

/// The instrument that counts.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// One for each pass that ran.
    pub passes: Vec<PassStats>,
}

impl Instrument for Statistics {
    fn after_pass(&mut self, _: &Progress<'_>, done: &Done<'_>) -> Result<(), PassFailure> {
        self.passes.push(PassStats {
            pass: done.pass.clone(),
            patches: done.report.patches,
            before: ModuleStats::of(done.before),
            after: ModuleStats::of(done.after),
        });
        Ok(())
    }
}

impl Statistics {
    /// A table with a row for each pass.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<32} {:>7} {:>11} {:>9} {:>8} {:>9}  {}\n",
            "pass", "patches", "ops", "weights", "barriers", "arena", "changes"
        );
        for pass in &self.passes {
            let (before, after) = (&pass.before, &pass.after);
            let changes = pass.op_changes().into_iter().map(|(name, n)| format!("{name} {n:+}"));
            let row = format!(
                "{:<32} {:>7} {:>11} {:>9} {:>8} {:>9}  {}",
                pass.pass.to_string(),
                pass.patches,
                change(before.op_count(), after.op_count()),
                change(before.params, after.params),
                after.barriers,
                after.arena_bytes,
                changes.collect::<Vec<_>>().join(", ")
            );
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", row.trim_end());
        }
        text
    }
}

/// `20→14`, or one number where nothing changed.
fn change(before: u64, after: u64) -> String {
    if before == after { before.to_string() } else { format!("{before}→{after}") }
}
