//! How many inputs of a structured target get through: a target that refuses nearly everything tests little.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that prints itself after every power of two of runs.
pub(crate) struct Rate {
    what: &'static str,
    runs: AtomicU64,
    hits: AtomicU64,
}

impl Rate {
    /// A counter of inputs to which `what` happened.
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, runs: AtomicU64::new(0), hits: AtomicU64::new(0) }
    }

    /// Counts one input.
    pub(crate) fn count(&self, hit: bool) {
        let hits = self.hits.fetch_add(u64::from(hit), Ordering::Relaxed) + u64::from(hit);
        let runs = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        if runs.is_power_of_two() {
            eprintln!("{} {hits} of {runs}", self.what);
        }
    }
}
