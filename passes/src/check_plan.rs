//! Proves a memory plan and its barriers, from the IR alone: nothing here is shared with the planner or the
//! scheduler. What an op may overwrite, and whether every thread may run it for itself, the checker knows by itself too:
//! it does not read these columns of the op table, which the planner goes by.
//!
//! The checker runs the function on *claims* instead of bytes. A claim says: these bytes hold this value,
//! written in this phase. It walks the nodes in order and keeps these rules:
//!
//! 1. Every value has one place, and the place suits what made the value: inputs and non-cache outputs lie in
//!    buffers of the caller; a part of a split is exactly that part of the operand's rows; an appended cache
//!    or recurrent state is the one that was changed; anything else has aligned arena bytes, enough for the most tokens of a call
//!    and inside the arena, or takes over an operand of the same type of an op that reads, for each unit,
//!    only what it writes. Likewise private bytes for all results of an op that may be replicated.
//! 2. An op reads a value only while the value's claim stands, that is while no op has written to any of its
//!    bytes.
//! 3. An op reads a value only in a later phase than it was written. Within a phase, what one op writes no
//!    other op reads or writes. Private bytes are free of this rule: a replicated op is run whole by every thread, into
//!    the copy of that thread, and everybody reads the copy of its own thread, in the order of the ops.
//! 4. What an op writes does not meet what it reads itself, but for the operand that its result takes over,
//!    in the slot in which this is allowed, and what its other results are written to.
//! 5. At the end the claims of all outputs stand, and no two outputs are the same value in a buffer of the
//!    caller.
//!
//! Byte sets are taken for the most tokens; fewer tokens touch the first rows of the same sets. A write
//! counts up to the next multiple of 64 bytes in each row, because kernels store whole vectors. Different
//! buffers of the caller are taken not to overlap. An op is taken to touch all of an operand and all of a
//! result from any thread: no dependence inside a phase is accepted on the grounds that the same thread does
//! both sides.
//!
//! The proof takes time `n log n` in ops and values: what an op may meet is found by its bytes (`spans`).

mod spans;

use std::collections::{BTreeMap, BTreeSet};

use bitnetc_ir::{
    DType, Func, FuncPlan, NodeId, Op, Operand, Place, Sizes, TokenCount, ValueDef, ValueId, storage,
};

use crate::names::value_name;
use spans::Spans;

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanViolation {
    /// There is no plan.
    #[error("there is no plan")]
    NoPlan,
    /// A value without a place, or a place for something that is no value of the function.
    #[error("{value} has no place in memory, or has one but is not a value of the function")]
    Unplaced {
        /// The value.
        value: String,
    },
    /// A place that the value must not have.
    #[error("{value} must not be placed there: {why}")]
    WrongPlace {
        /// The value.
        value: String,
        /// What it should be.
        why: &'static str,
    },
    /// A view or alias of a value that it cannot be a view or alias of.
    #[error("{value} cannot be a part of {of} at byte {offset} of its rows, or take its place")]
    WrongBase {
        /// The value.
        value: String,
        /// The value whose bytes it claims.
        of: String,
        /// Bytes from the start of the row.
        offset: u64,
    },
    /// An arena place that is too small, not aligned, or not inside the arena.
    #[error(
        "{value} needs {needed} bytes at a multiple of 64 and has {offset}+{size} in a memory of {arena}"
    )]
    Bounds {
        /// The value.
        value: String,
        /// Bytes that it needs.
        needed: u64,
        /// Where it starts.
        offset: u64,
        /// Bytes that it has.
        size: u64,
        /// Bytes of the arena, or of private memory.
        arena: u64,
    },
    /// A private result of an op that cannot be replicated, or of one that writes shared memory too.
    #[error("{value} is private, but `{op}` is not an op that every thread can run for itself")]
    NotReplicable {
        /// The value.
        value: String,
        /// The op that makes it.
        op: &'static str,
    },
    /// A barrier after something that is not an op of the function.
    #[error("a barrier follows an op that is not in the function")]
    Barrier,
    /// A value is read after its bytes were written for another value.
    #[error("{reader} reads {value}, but its bytes were overwritten with {by}")]
    Overwritten {
        /// The value.
        value: String,
        /// What its bytes hold now.
        by: String,
        /// The op that reads it.
        reader: String,
    },
    /// A value is read in the phase in which it is written.
    #[error("{reader} reads {value} without a barrier after it was written")]
    MissingBarrier {
        /// The value.
        value: String,
        /// The op that reads it.
        reader: String,
    },
    /// Two ops of one phase touch the same bytes, and one writes.
    #[error("{first} and {second} share bytes in one phase, and one of them is written")]
    Race {
        /// What the first op reads or writes.
        first: String,
        /// What the second op reads or writes.
        second: String,
    },
    /// An op writes bytes that it reads otherwise, or writes two results to the same bytes.
    #[error("{result} shares bytes with {other} of the same op")]
    SelfOverlap {
        /// The result.
        result: String,
        /// An operand or another result.
        other: String,
    },
    /// Two outputs are one value.
    #[error("{value} is returned twice")]
    ReturnedTwice {
        /// The value.
        value: String,
    },
}

/// Memory in which offsets can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Region {
    Arena,
    /// Of each thread for itself.
    Private,
    Caller(ValueId),
}

/// `rows` times `row` bytes, `stride` apart.
#[derive(Clone, Copy, Debug)]
struct Extent {
    region: Region,
    start: u64,
    row: u64,
    stride: u64,
    rows: u64,
}

impl Extent {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.stride.saturating_mul(self.rows - 1)).saturating_add(self.row)
    }

    /// As a kernel may write it.
    fn written(mut self) -> Extent {
        self.row = self.row.checked_next_multiple_of(64).unwrap_or(u64::MAX);
        self
    }

    /// Whether a byte may be in both: exact for single rows; for equal strides, whether their columns overlap.
    fn meets(&self, other: &Extent) -> bool {
        if self.region != other.region || self.start >= other.end() || other.start >= self.end() {
            return false;
        }
        if self.stride != other.stride || (self.rows == 1 && other.rows == 1) {
            return true;
        }
        let stride = i128::from(self.stride.max(1));
        let apart = (i128::from(other.start) - i128::from(self.start)).rem_euclid(stride);
        apart < i128::from(self.row) || apart + i128::from(other.row) > stride
    }
}

/// Bytes that hold a value since a phase; `None` for what the caller wrote.
#[derive(Clone, Copy, Debug)]
struct Claim {
    extent: Extent,
    since: Option<u32>,
}

/// Proves the plan of `func`.
///
/// # Errors
/// The first rule that the plan breaks, with the values that show it.
pub fn check_plan(func: &Func) -> Result<(), PlanViolation> {
    let plan = func.plan.as_ref().ok_or(PlanViolation::NoPlan)?;
    let name = |v: ValueId| value_name(func, v);
    let values: BTreeSet<ValueId> = func.values().collect();
    if let Some(&stray) = plan.places.keys().find(|v| !values.contains(v)) {
        return Err(PlanViolation::Unplaced { value: format!("{stray:?}") });
    }
    let ops: BTreeSet<NodeId> = func.order().iter().copied().collect();
    if !plan.barriers.is_subset(&ops) {
        return Err(PlanViolation::Barrier);
    }
    let mut returned = BTreeSet::new();
    if let Some(&value) = func.outputs().iter().find(|&&v| !returned.insert(v)) {
        return Err(PlanViolation::ReturnedTwice { value: name(value) });
    }
    let extents = extents(func, plan)?;
    replicated(func, &extents)?;
    Machine {
        func,
        plan,
        extents,
        claims: BTreeMap::new(),
        claimed: Spans::default(),
        lost: BTreeMap::new(),
        read: Spans::default(),
        written: Spans::default(),
        phase: 0,
    }
    .run()
}

/// Rule 1 for replicated ops: all of their results are private, one token, and no effect but the results.
fn replicated(func: &Func, extents: &BTreeMap<ValueId, Extent>) -> Result<(), PlanViolation> {
    for &id in func.order() {
        let node = func.node(id);
        let private = |v: &&ValueId| extents[v].region == Region::Private;
        let Some(&value) = node.results.iter().find(private) else { continue };
        let all = node.results.iter().all(|v| private(&v));
        let run = known(&node.op).run;
        let one_row = run == Run::OverRow && all && func.tokens() == TokenCount::One;
        if run != Run::Nobody && !one_row {
            return Err(PlanViolation::NotReplicable {
                value: value_name(func, value),
                op: node.op.info().mnemonic,
            });
        }
    }
    Ok(())
}

/// Which threads may run an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Nobody: its results are views.
    Nobody,
    /// All threads together.
    Together,
    /// All threads together or, since it is over a row and has no effect but its results, each for itself.
    OverRow,
}

/// What the checker knows of an op by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    run: Run,
    /// Results, and the operand slots that each may take over.
    replaceable: &'static [(usize, &'static [usize])],
}

impl Known {
    const fn new(run: Run, replaceable: &'static [(usize, &'static [usize])]) -> Self {
        Self { run, replaceable }
    }

    /// Which operand slots result `result` may take over.
    fn slots(self, result: usize) -> &'static [usize] {
        let of_result = self.replaceable.iter().find(|(r, _)| *r == result);
        of_result.map_or(&[], |(_, slots)| slots)
    }
}

/// The checker's own table. It repeats on purpose what the op table says, so that a plan is proved by something that the
/// planner does not read; a test compares the two.
fn known(op: &Op) -> Known {
    match op {
        Op::Split { .. } => Known::new(Run::Nobody, &[]),
        Op::Embed {}
        | Op::RmsNorm { .. }
        | Op::RmsNormHeads { .. }
        | Op::RmsNormQuant { .. }
        | Op::QuantAbsmax {}
        | Op::QuantBlocks { .. }
        | Op::TransposeHeads { .. }
        | Op::L2NormHeads { .. } => Known::new(Run::OverRow, &[]),
        Op::Add {} | Op::Mul {} => Known::new(Run::OverRow, &[(0, &[0, 1])]),
        Op::Relu2 {} | Op::Silu {} | Op::Rope { .. } => Known::new(Run::OverRow, &[(0, &[0])]),
        Op::Sigmoid {} | Op::SoftplusDecay {} | Op::AddBias {} | Op::Hadamard { .. } => {
            Known::new(Run::OverRow, &[(0, &[0])])
        }
        Op::CausalConv {} => Known::new(Run::Together, &[(0, &[0]), (1, &[2])]),
        Op::DeltaRule {} => Known::new(Run::Together, &[(0, &[2]), (1, &[5])]),
        // Without a residual there is no operand in this slot.
        Op::Bitlinear { .. } => Known::new(Run::Together, &[(0, &[2])]),
        Op::KvAppend {} => Known::new(Run::Together, &[(0, &[0]), (1, &[1])]),
        Op::RopeKvAppend { .. } => Known::new(Run::Together, &[(0, &[0]), (1, &[3]), (2, &[4])]),
        Op::TernaryMatmul {}
        | Op::Matmul {}
        | Op::BlockMatmul {}
        | Op::Attention { .. }
        | Op::Screen { .. }
        | Op::MatmulRows {}
        | Op::MergeScreened {} => Known::new(Run::Together, &[]),
    }
}

fn is_cache(func: &Func, value: ValueId) -> bool {
    func.ty(value).is_persistent()
}

/// Rule 1: the bytes of every value.
fn extents(func: &Func, plan: &FuncPlan) -> Result<BTreeMap<ValueId, Extent>, PlanViolation> {
    let name = |v: ValueId| value_name(func, v);
    let mut extents: BTreeMap<ValueId, Extent> = BTreeMap::new();
    for value in func.values() {
        let place = *plan.places.get(&value).ok_or_else(|| PlanViolation::Unplaced { value: name(value) })?;
        let wrong = |why| PlanViolation::WrongPlace { value: name(value), why };
        let extent = match func.value(value).def {
            ValueDef::Input(_) => match place {
                Place::Extern => own_extent(func, value, Region::Caller(value), 0),
                _ => return Err(wrong("an input is a buffer of the caller")),
            },
            ValueDef::Result(node, result) => {
                let (node, result) = (func.node(node), result as usize);
                let is_part = known(&node.op).run == Run::Nobody;
                if func.is_output(value) && !is_cache(func, value) && (is_part || place != Place::Extern) {
                    return Err(wrong("an output is written to a buffer of the caller"));
                }
                match place {
                    Place::View { of, offset } => {
                        part(func, &extents, value, of, offset).ok_or_else(|| PlanViolation::WrongBase {
                            value: name(value),
                            of: name(of),
                            offset,
                        })?
                    }
                    _ if is_part => return Err(wrong("a part of a split is a view")),
                    Place::Alias { of } => {
                        let slots = known(&node.op).slots(result);
                        let of_slot =
                            slots.iter().any(|&s| node.operands.get(s) == Some(&Operand::Value(of)));
                        let base = extents.get(&of).copied();
                        let ours = base.filter(|e| {
                            is_cache(func, value) || matches!(e.region, Region::Arena | Region::Private)
                        });
                        match ours {
                            Some(extent) if of_slot && func.ty(of) == func.ty(value) => extent,
                            _ => {
                                let (value, of) = (name(value), name(of));
                                return Err(PlanViolation::WrongBase { value, of, offset: 0 });
                            }
                        }
                    }
                    _ if is_cache(func, value) => {
                        return Err(wrong("an appended cache is the cache appended to"));
                    }
                    Place::Extern if func.is_output(value) => {
                        own_extent(func, value, Region::Caller(value), 0)
                    }
                    Place::Extern => return Err(wrong("it is no output")),
                    Place::Arena { offset, size } | Place::Private { offset, size } => {
                        let (region, arena) = match place {
                            Place::Private { .. } => (Region::Private, plan.private_bytes),
                            _ => (Region::Arena, plan.arena_bytes),
                        };
                        let extent = own_extent(func, value, region, offset);
                        let needed = extent.stride.saturating_mul(extent.rows);
                        let end = offset.checked_add(size);
                        let inside = end.is_some_and(|end| end <= arena);
                        if !offset.is_multiple_of(64) || size < needed || !inside {
                            return Err(PlanViolation::Bounds {
                                value: name(value),
                                needed,
                                offset,
                                size,
                                arena,
                            });
                        }
                        extent
                    }
                }
            }
        };
        extents.insert(value, extent);
    }
    Ok(extents)
}

/// The bytes of a value that has a buffer of its own from `start` on.
fn own_extent(func: &Func, value: ValueId, region: Region, start: u64) -> Extent {
    let ty = func.ty(value);
    match (storage::row_stride(ty), ty.as_rows()) {
        (Some(stride), Some(rows)) => {
            let rows = match (rows.per_token, func.tokens()) {
                (true, TokenCount::UpTo(max)) => u64::from(max.max(1)),
                _ => 1,
            };
            Extent { region, start, row: stride, stride, rows }
        }
        // Caches, token ids and positions: a buffer of their own, which only the same cache can share.
        _ => Extent { region, start, row: 1, stride: 1, rows: 1 },
    }
}

/// The bytes of `value` as a part of `of`, if it is the part that starts at byte `offset`.
fn part(
    func: &Func,
    extents: &BTreeMap<ValueId, Extent>,
    value: ValueId,
    of: ValueId,
    offset: u64,
) -> Option<Extent> {
    let ValueDef::Result(node, result) = func.value(value).def else { return None };
    let node = func.node(node);
    let Op::Split { sizes: Sizes(sizes) } = &node.op else { return None };
    let before: u64 = sizes.get(..result as usize)?.iter().map(|&n| 4 * u64::from(n)).sum();
    let base = extents.get(&of)?;
    let right =
        node.operands[..] == [Operand::Value(of)] && func.ty(of).dtype == DType::F32 && before == offset;
    // A part of a buffer of the caller is readable only where the caller gave it as an input.
    let readable = match base.region {
        Region::Caller(root) => func.inputs().contains(&root),
        Region::Arena | Region::Private => true,
    };
    let row = 4 * u64::from(*sizes.get(result as usize)?);
    (right && readable && offset + row <= base.row).then_some(Extent {
        start: base.start.saturating_add(offset),
        row,
        ..*base
    })
}

struct Machine<'f> {
    func: &'f Func,
    plan: &'f FuncPlan,
    extents: BTreeMap<ValueId, Extent>,
    claims: BTreeMap<ValueId, Claim>,
    /// The values of `claims` by their bytes.
    claimed: Spans,
    /// Values whose claim fell, with the value that was written over them.
    lost: BTreeMap<ValueId, ValueId>,
    /// What ops of this phase read of shared memory.
    read: Spans,
    /// What they wrote.
    written: Spans,
    phase: u32,
}

impl Machine<'_> {
    fn run(mut self) -> Result<(), PlanViolation> {
        for &input in self.func.inputs() {
            self.claim(input, self.extents[&input], None);
        }
        for &id in self.func.order() {
            match known(&self.func.node(id).op).run {
                Run::Nobody => self.split(id),
                Run::Together | Run::OverRow => self.execute(id)?,
            }
            if self.plan.barriers.contains(&id) {
                self.phase += 1;
                self.read.clear();
                self.written.clear();
            }
        }
        for &output in self.func.outputs() {
            if !self.claims.contains_key(&output) {
                return Err(self.overwritten(output, "the caller".to_owned()));
            }
        }
        Ok(())
    }

    fn claim(&mut self, value: ValueId, extent: Extent, since: Option<u32>) {
        self.claims.insert(value, Claim { extent, since });
        self.claimed.insert(value, extent);
    }

    /// Parts hold what the whole holds.
    fn split(&mut self, id: NodeId) {
        let node = self.func.node(id);
        let Some(&Operand::Value(whole)) = node.operands.first() else { return };
        for &part in &node.results {
            match (self.claims.get(&whole), self.lost.get(&whole)) {
                (Some(&Claim { since, .. }), _) => {
                    self.claim(part, self.extents[&part], since);
                }
                (None, Some(&by)) => {
                    self.lost.insert(part, by);
                }
                (None, None) => {}
            }
        }
    }

    fn execute(&mut self, id: NodeId) -> Result<(), PlanViolation> {
        let node = self.func.node(id);
        let name = |v: ValueId| value_name(self.func, v);
        let reader = || format!("`{}`", node.op.info().mnemonic);
        let mut now: Vec<(ValueId, Extent, bool)> = Vec::new();
        for &operand in &node.operands {
            let Operand::Value(value) = operand else { continue };
            let claim = *self.claims.get(&value).ok_or_else(|| self.overwritten(value, reader()))?;
            if claim.since == Some(self.phase) && claim.extent.region != Region::Private {
                return Err(PlanViolation::MissingBarrier { value: name(value), reader: reader() });
            }
            now.push((value, claim.extent, false));
        }
        for (result, &value) in node.results.iter().enumerate() {
            let extent = self.extents[&value].written();
            let taken_over = match self.plan.places.get(&value) {
                Some(&Place::Alias { of }) => Some(of),
                _ => None,
            };
            for (slot, &operand) in node.operands.iter().enumerate() {
                let Operand::Value(read) = operand else { continue };
                let allowed = taken_over == Some(read) && known(&node.op).slots(result).contains(&slot);
                if !allowed && extent.meets(&self.extents[&read]) {
                    return Err(PlanViolation::SelfOverlap { result: name(value), other: name(read) });
                }
            }
            for &other in &node.results[..result] {
                if extent.meets(&self.extents[&other].written()) {
                    return Err(PlanViolation::SelfOverlap { result: name(value), other: name(other) });
                }
            }
            now.push((value, extent, true));
        }
        let shared = now.into_iter().filter(|(_, extent, _)| extent.region != Region::Private);
        let shared: Vec<(ValueId, Extent, bool)> = shared.collect();
        for (second, extent, writes) in &shared {
            let mut met = self.written.meeting(extent).chain(self.read.meeting(extent).filter(|_| *writes));
            if let Some(first) = met.next() {
                return Err(PlanViolation::Race { first: name(first), second: name(*second) });
            }
        }
        for (value, extent, writes) in shared {
            let spans = if writes { &mut self.written } else { &mut self.read };
            spans.insert(value, extent);
        }
        for &value in &node.results {
            let extent = self.extents[&value].written();
            let fallen: Vec<ValueId> = self.claimed.meeting(&extent).collect();
            for old in fallen {
                if let Some(claim) = self.claims.remove(&old) {
                    self.claimed.remove(old, &claim.extent);
                }
                self.lost.insert(old, value);
            }
        }
        for &value in &node.results {
            self.claim(value, self.extents[&value], Some(self.phase));
        }
        Ok(())
    }

    fn overwritten(&self, value: ValueId, reader: String) -> PlanViolation {
        let by =
            self.lost.get(&value).map_or_else(|| "nothing yet".to_owned(), |&v| value_name(self.func, v));
        PlanViolation::Overwritten { value: value_name(self.func, value), by, reader }
    }
}

#[cfg(test)]
mod tests {
    use bitnetc_ir::ALL_OPS;
    use bitnetc_ir::random::SplitMix;

    use super::*;

    /// Every op of the table, once for every choice of attributes that its sampler knows.
    fn every_op() -> Vec<Op> {
        let mut all = Vec::new();
        for (row, info) in ALL_OPS.iter().enumerate() {
            let before = all.len();
            for choice in 0..64 {
                all.extend(Op::sample(row, &[64], &mut |n| choice % n));
            }
            assert!(all.len() > before, "{} is in no sample", info.mnemonic);
        }
        all
    }

    #[test]
    fn the_checker_knows_what_the_op_table_says() {
        for op in every_op() {
            let info = op.info();
            let run = match info.run {
                bitnetc_ir::Run::View => Run::Nobody,
                bitnetc_ir::Run::Shared(_) => Run::Together,
                bitnetc_ir::Run::Replicable(_) => Run::OverRow,
            };
            let own = known(&op);
            assert_eq!(own.run, run, "who runs {op:?}: the checker, and the op table");
            let named = own.replaceable.iter().map(|&(result, _)| result + 1).max().unwrap_or(0);
            for result in 0..info.results.len().max(named) {
                let table: Vec<usize> = info.overwritable(result).collect();
                let slots = own.slots(result);
                assert_eq!(slots, table, "{op:?}, result {result}: the checker, and the op table");
            }
        }
    }

    #[test]
    fn extents_that_share_a_byte_meet() {
        let mut rng = SplitMix::new(1);
        let mut apart = 0;
        for _ in 0..20_000 {
            let strides = [8, 8 + rng.below(2) as u64 * 4];
            let [a, b] = strides.map(|stride| Extent {
                region: Region::Arena,
                start: rng.below(40) as u64,
                row: 1 + rng.below(stride as usize) as u64,
                stride,
                rows: 1 + rng.below(4) as u64,
            });
            let bytes = |e: &Extent| -> BTreeSet<u64> {
                (0..e.rows).flat_map(|r| (0..e.row).map(move |c| e.start + r * e.stride + c)).collect()
            };
            let share = !bytes(&a).is_disjoint(&bytes(&b));
            assert!(!share || (a.meets(&b) && b.meets(&a)), "{a:?} {b:?}");
            let single = a.rows == 1 && b.rows == 1;
            assert!(!single || share == a.meets(&b), "{a:?} {b:?}");
            apart += usize::from(!a.meets(&b) && a.start < b.end() && b.start < a.end());
        }
        assert!(apart > 100, "only {apart} pairs of interleaved extents were told apart");
    }
}
