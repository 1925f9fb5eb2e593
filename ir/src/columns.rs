//! What the columns of the op table hold: facts that are true of an op wherever it runs.
//!
//! Verifier, planner, schedule, cost model, lowering and reports read these columns; none of them keeps a list of ops of its
//! own. Only the checker of plans does (`check_plan` in `passes`), so that it proves plans by what it knows itself; a test of it
//! compares the two.
//!
//! Invariants, which tests of this file keep: an op that every thread may run for itself is divided by tokens and updates no
//! cache and no recurrent state; a result that is one of these has exactly one operand that it may take the place of, which is one
//! too; an operand of which there are row numbers or token ids says what they count.

use crate::attr::Bounds;
use crate::partition::{Division, Units};
use crate::slot::Slot;
use crate::stage::StageRange;
use crate::types::Type;
use crate::work::Reads;

/// Which threads execute an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Nobody: the results are parts of each row of operand 0, one after the other, and lie in its bytes.
    View,
    /// The threads together, each a share of the units.
    Shared(Division),
    /// The threads together, or each of them all of it for itself, into its own copies of the results: an op over a row,
    /// whose work is small beside meeting the other threads, and which writes nothing that outlives the call.
    Replicable(Division),
}

/// A result that may be written to the bytes of an operand of its type.
///
/// A kernel of the op has to read all that a store overwrites before that store, and a unit of work must not read what
/// another one overwrites. A result that is a cache or a recurrent state *is* that operand, after the op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InPlace {
    /// Position of the result.
    pub result: usize,
    /// Position of the operand.
    pub operand: usize,
}

/// An operand whose elements are numbers of rows, or of elements of a row, of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Position of the operand with the numbers.
    pub operand: usize,
    /// Position of the operand that they count in: the rows of a matrix, the elements of a row.
    pub into: usize,
}

/// One row of the op table.
#[derive(Clone, Copy, Debug)]
pub struct OpInfo {
    /// The name in the text form.
    pub mnemonic: &'static str,
    /// The first paragraph of the doc comment.
    pub doc: &'static str,
    /// Required operands, in order.
    pub operands: &'static [(&'static str, Slot)],
    /// Optional operands, after the required ones.
    pub optional: &'static [(&'static str, Slot)],
    /// Names of the attributes, in printing order, and their bounds.
    pub attrs: &'static [(&'static str, Bounds)],
    /// Names of the results; empty where their number depends on the attributes.
    pub results: &'static [&'static str],
    /// Which results may be written over which operands; of several for one result, the first that suits is taken.
    pub in_place: &'static [InPlace],
    /// Which operands count in which others.
    pub indices: &'static [Index],
    /// Which threads execute it, and in which units.
    pub run: Run,
    /// What it reads of parameters and caches, and multiplies.
    pub reads: Reads,
    /// Where the op is legal.
    pub stages: StageRange,
}

impl OpInfo {
    /// Kinds of all operands, required ones first.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        self.operands.iter().chain(self.optional).map(|&(_, slot)| slot)
    }

    /// Whether the results are parts of operand 0, so that there is nothing to do.
    pub fn is_view(&self) -> bool {
        self.run == Run::View
    }

    /// Whether every thread may run all of the op for itself.
    pub fn can_replicate(&self) -> bool {
        matches!(self.run, Run::Replicable(_))
    }

    /// How its work divides; `None` for a view.
    pub fn division(&self) -> Option<Division> {
        match self.run {
            Run::View => None,
            Run::Shared(division) | Run::Replicable(division) => Some(division),
        }
    }

    /// The units of the op on operands and results of these types; `None` for a view.
    pub fn units(&self, operands: &[&Type], results: &[&Type]) -> Option<Units> {
        self.division().map(|division| division.units(operands, results))
    }

    /// The operands whose bytes result `result` may take over, the preferred one first.
    pub fn overwritable(&self, result: usize) -> impl Iterator<Item = usize> + use<> {
        self.in_place.iter().filter(move |i| i.result == result).map(|i| i.operand)
    }

    /// The operand, a cache or a recurrent state, that result `result` is after the op.
    pub fn updated(&self, result: usize) -> Option<usize> {
        self.overwritable(result).find(|&operand| self.slots().nth(operand).is_some_and(Slot::is_persistent))
    }

    /// Whether the results depend on where the tokens stand. The other ops treat the rows of their tokens one by one,
    /// whatever sequences these belong to.
    pub fn is_positional(&self) -> bool {
        self.slots().any(|slot| slot == Slot::Position)
    }
}

/// Where `name` is among `names`: what a row of the table says about another of its columns.
///
/// # Panics
/// When the table is compiled, if the name is not there.
pub(crate) const fn position(names: &[&str], name: &str) -> usize {
    let mut at = 0;
    while at < names.len() {
        if equal(names[at].as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("a row of the op table names an operand or a result that the op does not have")
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::ALL_OPS;

    #[test]
    fn what_threads_run_for_themselves_is_work_on_a_row() {
        for info in ALL_OPS.iter().filter(|info| info.can_replicate()) {
            assert_eq!(info.division(), Some(Division::Tokens), "{}", info.mnemonic);
            let updates = (0..info.results.len()).any(|r| info.updated(r).is_some());
            assert!(!updates, "{} updates a cache", info.mnemonic);
        }
    }

    #[test]
    fn what_outlives_a_call_is_overwritten_by_its_own_kind_only() {
        for info in ALL_OPS {
            for (result, name) in info.results.iter().enumerate() {
                let over: Vec<usize> = info.overwritable(result).collect();
                let persistent = |&&o: &&usize| info.slots().nth(o).is_some_and(Slot::is_persistent);
                let caches = over.iter().filter(persistent).count();
                assert!(caches == 0 || over.len() == 1, "{}: {name}", info.mnemonic);
            }
            let mut over: Vec<usize> = info.in_place.iter().map(|i| i.operand).collect();
            over.sort_unstable();
            over.dedup();
            assert_eq!(over.len(), info.in_place.len(), "{}: two results over one operand", info.mnemonic);
        }
    }

    #[test]
    fn numbers_say_what_they_count() {
        for info in ALL_OPS {
            for (operand, slot) in info.slots().enumerate() {
                let number = matches!(slot, Slot::Tokens | Slot::RowNumbers);
                let counts = info.indices.iter().any(|index| index.operand == operand);
                assert_eq!(counts, number, "{}: operand {operand}", info.mnemonic);
            }
        }
    }

    #[test]
    fn a_view_takes_no_place_and_reads_nothing() {
        for info in ALL_OPS.iter().filter(|info| info.is_view()) {
            assert!(info.in_place.is_empty() && info.units(&[], &[]).is_none(), "{}", info.mnemonic);
            assert!(!info.slots().any(Slot::takes_param), "{}", info.mnemonic);
        }
    }
}
