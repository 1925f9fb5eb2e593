//! What a run of a template may take, and what it has taken.
//!
//! Everything that takes time charges steps, everything that makes a value charges bytes, *before* it is done. Bytes are
//! not given back when a value is dropped, so that the sum is a bound of what is held at any time and of the time that
//! copying takes. Charging is the duty of the few primitives that walk or make values: the builder of texts, the
//! constructors of lists and dictionaries, iteration, comparison, hashing and writing.

use std::cell::Cell;

use crate::error::{Error, Result};

/// Limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Evaluated nodes, visited items and looked-at characters (16 for a step).
    pub steps: u64,
    /// Bytes of all values that are made.
    pub bytes: u64,
    /// Bytes of the rendered text.
    pub output: usize,
    /// Nodes of the template within each other while running: expressions, statements, calls of macros.
    pub depth: u32,
}

impl Default for Limits {
    /// Far more than any conversation needs: four million steps, 256 MiB of values, 16 MiB of text.
    fn default() -> Self {
        Self { steps: 4_000_000, bytes: 256 << 20, output: 16 << 20, depth: 1500 }
    }
}

/// What is left.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<u32>,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        let Limits { steps, bytes, depth, .. } = *limits;
        Self { steps: Cell::new(steps), bytes: Cell::new(bytes), depth: Cell::new(depth) }
    }

    /// Takes steps.
    pub(crate) fn steps(&self, steps: usize) -> Result<()> {
        take(&self.steps, steps).ok_or_else(|| Error::limit("the template takes too many steps"))
    }

    /// Takes bytes of memory, and the time to fill them.
    pub(crate) fn bytes(&self, bytes: usize) -> Result<()> {
        take(&self.bytes, bytes).ok_or_else(|| Error::limit("the template makes too much text"))
    }

    /// Takes the steps of looking at this many bytes of text.
    pub(crate) fn scan(&self, bytes: usize) -> Result<()> {
        self.steps(bytes / 16)
    }

    /// Runs something one level deeper.
    pub(crate) fn deeper(&self) -> Result<()> {
        let left =
            self.depth.get().checked_sub(1).ok_or_else(|| Error::limit("the template recurses too deep"))?;
        self.depth.set(left);
        Ok(())
    }

    /// Leaves the level that [`Budget::deeper`] entered.
    pub(crate) fn shallower(&self) {
        self.depth.set(self.depth.get() + 1);
    }
}

/// Takes from a counter, or empties it for good.
fn take(left: &Cell<u64>, amount: usize) -> Option<()> {
    let rest = left.get().checked_sub(amount as u64);
    left.set(rest.unwrap_or(0));
    rest.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_spent() {
        let budget = Budget::new(&Limits { steps: 10, bytes: 10, output: 0, depth: 1 });
        assert!(budget.steps(4).is_ok() && budget.steps(7).is_err() && budget.steps(1).is_err());
        assert!(budget.bytes(10).is_ok() && budget.bytes(1).is_err());
        assert!(budget.deeper().is_ok() && budget.deeper().is_err());
        budget.shallower();
        assert!(budget.deeper().is_ok());
    }
}
