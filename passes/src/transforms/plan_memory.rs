//! The memory plan: where every value lives, and after which nodes threads meet.
//!
//! One arena holds all values that are not the caller's and are shared by the threads. Time is counted in phases
//! ([`crate::transforms::schedule`]): within a phase ops run at once, so a value lives from the phase of the op that makes it
//! to the phase of its last reader, both included, and values that live in one phase do not share bytes. Results
//! of replicated ops lie in the private memory that every thread has of its own; their time is counted in ops,
//! since a thread runs one after the other. In order:
//!
//! 1. Inputs, and outputs that are no caches, are buffers of the caller.
//! 2. Results of a view are parts of its operand's rows.
//! 3. Appended caches are the caches appended to. All readers of the older state must come before.
//! 4. A result takes over an operand of the same type, if the op table says that it may ([`bitnetc_ir::InPlace`]) and the
//!    operand dies there. It dies if all other readers of its bytes ran in earlier phases. Shared values do not take
//!    over private ones, nor the other way round.
//! 5. The rest gets bytes of the arena or of the private memory, largest first, each in the smallest gap that holds it; sizes are those of
//!    the most tokens of a call, and everything is aligned to 64 bytes.
//!
//! A plan is proved again by [`crate::check_plan()`], which shares no code with this file.

mod occupied;

use std::collections::{BTreeMap, BTreeSet};

use bitnetc_ir::{
    DType, Func, FuncId, FuncPlan, Module, NodeId, Operand, Part, Place, ValueDef, ValueId, storage,
};

use crate::context::PassContext;
use crate::cost::CostModel;
use crate::error::{PassFailure, PlanError};
use crate::names::value_name;
use crate::pass::Transform;
use crate::transforms::schedule::{Phases, is_replicated, phases, updated_caches};

use occupied::{Life, Occupied};

/// Ranges of bytes that are looked at in all for the offsets of a memory: a few hundred for each op of the largest model.
const MAX_STEPS: usize = 1 << 25;

/// See the module.
#[derive(Debug)]
pub struct PlanMemory;

impl Transform for PlanMemory {
    fn run(&self, module: &mut Module, context: &PassContext) -> Result<bool, PassFailure> {
        let mut changed = false;
        let funcs: Vec<FuncId> = module.funcs().keys().collect();
        for func in funcs {
            let body = module.func_mut(func);
            let plan = plan(body, &CostModel::new(&context.target))
                .map_err(|source| PassFailure::Unplannable { func: body.name().to_owned(), source })?;
            changed |= body.plan.as_ref() != Some(&plan);
            body.plan = Some(plan);
        }
        Ok(changed)
    }
}

/// Plans one function in its present order, for the machine of `costs`.
///
/// # Errors
/// What the function asks for and memory cannot give.
pub fn plan(func: &Func, costs: &CostModel<'_>) -> Result<FuncPlan, PlanError> {
    check_outputs(func)?;
    check_caches(func)?;
    let planner = Planner::new(func, costs);
    let mut places = BTreeMap::new();
    for value in func.values() {
        places.insert(value, planner.place(value)?);
    }
    let (arena_bytes, private_bytes) = planner.give_offsets(&mut places)?;
    Ok(FuncPlan { arena_bytes, private_bytes, places, barriers: planner.phases.barriers })
}

fn is_view(func: &Func, node: NodeId) -> bool {
    func.node(node).op.info().is_view()
}

fn is_cache(func: &Func, value: ValueId) -> bool {
    func.ty(value).is_persistent()
}

/// Outputs are written by an op, whole and once.
fn check_outputs(func: &Func) -> Result<(), PlanError> {
    let mut before: BTreeSet<ValueId> = BTreeSet::new();
    for (position, &value) in func.outputs().iter().enumerate() {
        let why = match func.value(value).def {
            _ if !before.insert(value) => "which is an output already",
            _ if is_cache(func, value) => continue,
            ValueDef::Input(_) => "an input that no op has changed",
            ValueDef::Result(..) if func.part(value).is_some() => "part of another value",
            ValueDef::Result(..) if func.users(value).iter().any(|&u| is_view(func, u)) => {
                "which is split; parts of the caller's buffer have no place"
            }
            ValueDef::Result(..) => continue,
        };
        return Err(PlanError::Output { position, value: value_name(func, value), why });
    }
    Ok(())
}

/// Only the op that appends to a cache uses its older state from then on.
fn check_caches(func: &Func) -> Result<(), PlanError> {
    let mut overwritten: BTreeSet<ValueId> = BTreeSet::new();
    let stale = |cache| PlanError::CacheReadAfterAppend { cache: value_name(func, cache) };
    for &id in func.order() {
        let node = func.node(id);
        for &operand in &node.operands {
            if let Operand::Value(v) = operand
                && overwritten.contains(&v)
            {
                return Err(stale(v));
            }
        }
        for cache in updated_caches(func, id) {
            // Keys and values of one append in one cache are the second overwriting the first.
            if !overwritten.insert(cache) {
                return Err(stale(cache));
            }
        }
    }
    match func.outputs().iter().find(|v| overwritten.contains(v)) {
        Some(&cache) => Err(stale(cache)),
        None => Ok(()),
    }
}

struct Planner<'f> {
    func: &'f Func,
    costs: &'f CostModel<'f>,
    phases: Phases,
    /// Of a value with views: all of them, and itself.
    views: BTreeMap<ValueId, Vec<ValueId>>,
    last_read: BTreeMap<ValueId, LastRead>,
}

/// The ops that read a value last, views aside.
#[derive(Clone, Copy)]
struct LastRead {
    phase: u32,
    /// The one op that reads it in that phase, if there is no other.
    only: Option<NodeId>,
}

/// Bytes of a row of a whole value that a view covers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Columns {
    start: u64,
    end: u64,
}

impl Columns {
    fn meets(self, other: Columns) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl<'f> Planner<'f> {
    fn new(func: &'f Func, costs: &'f CostModel<'f>) -> Self {
        let phases = phases(func, costs);
        let mut views: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
        for value in func.values() {
            let root = func.whole(value);
            if root != value {
                views.entry(root).or_insert_with(|| vec![root]).push(value);
            }
        }
        let mut last_read: BTreeMap<ValueId, LastRead> = BTreeMap::new();
        for &id in func.order() {
            // Views do no work and have no phase.
            let Some(&phase) = phases.of.get(&id) else { continue };
            for &operand in &func.node(id).operands {
                let Operand::Value(v) = operand else { continue };
                let this = LastRead { phase, only: Some(id) };
                let last = last_read.entry(v).or_insert(this);
                match last.phase == phase {
                    true => last.only = last.only.filter(|&other| other == id),
                    false => *last = this,
                }
            }
        }
        Self { func, costs, phases, views, last_read }
    }
}

impl Planner<'_> {
    fn place(&self, value: ValueId) -> Result<Place, PlanError> {
        let func = self.func;
        let ValueDef::Result(id, result) = func.value(value).def else { return Ok(Place::Extern) };
        let (node, result) = (func.node(id), result as usize);
        if let Some(Part { of, offset }) = func.part(value) {
            return Ok(Place::View { of, offset });
        }
        if let Some(slot) = node.op.info().updated(result)
            && let Operand::Value(of) = node.operands[slot]
        {
            return Ok(Place::Alias { of });
        }
        if func.is_output(value) {
            return Ok(Place::Extern);
        }
        if let Some(of) = self.taken_over(id, result) {
            return Ok(Place::Alias { of });
        }
        let size = storage::activation_bytes(func.ty(value), func.tokens().max())
            .ok_or_else(|| PlanError::NoSize { value: value_name(func, value) })?;
        Ok(match is_replicated(func, id, self.costs) {
            true => Place::Private { offset: 0, size },
            false => Place::Arena { offset: 0, size },
        })
    }

    /// Whether the bytes of `value` are private.
    fn is_private(&self, value: ValueId) -> bool {
        self.func.producer(self.func.whole(value)).is_some_and(|n| is_replicated(self.func, n, self.costs))
    }

    /// The operand of `id` whose bytes result `result` takes over.
    fn taken_over(&self, id: NodeId, result: usize) -> Option<ValueId> {
        let node = self.func.node(id);
        let ty = self.func.ty(node.results[result]);
        node.op.info().overwritable(result).find_map(|slot| match node.operands.get(slot) {
            Some(&Operand::Value(of)) if self.func.ty(of) == ty && self.dies_at(of, id, slot) => Some(of),
            _ => None,
        })
    }

    /// Whether nothing but operand `slot` of `id` reads the bytes of `value` in the phase of `id` or later.
    fn dies_at(&self, value: ValueId, id: NodeId, slot: usize) -> bool {
        let func = self.func;
        let root = func.whole(value);
        if self.is_private(value) != is_replicated(func, id, self.costs) {
            return false;
        }
        if matches!(func.value(root).def, ValueDef::Input(_)) || func.is_output(root) {
            return false;
        }
        let own = self.columns(value);
        // Kernels write whole vectors; inside a row of another value these must be vectors of this one.
        let aligned = |n: u64| n.is_multiple_of(storage::ALIGN);
        if value != root && !(aligned(own.start) && aligned(own.end)) {
            return false;
        }
        let here = self.phases.of[&id];
        let alone = [root];
        let views = self.views.get(&root).map_or(&alone[..], Vec::as_slice);
        views.iter().filter(|&&v| self.columns(v).meets(own)).all(|&v| {
            let reads = |(s, &o): (usize, &Operand)| o == Operand::Value(v) && s != slot;
            !func.is_output(v)
                && self.last_read.get(&v).is_none_or(|last| {
                    let here_only = last.phase == here && last.only == Some(id);
                    last.phase < here || (here_only && !func.node(id).operands.iter().enumerate().any(reads))
                })
        })
    }

    /// Where `value` lies in the rows of its whole value.
    fn columns(&self, value: ValueId) -> Columns {
        let func = self.func;
        let ty = func.ty(value);
        let width = ty.as_rows().map_or(0, |r| u64::from(r.width));
        let bytes = match ty.dtype {
            DType::F32 => width * 4,
            _ => storage::row_stride(ty).unwrap_or(0),
        };
        let mut start = 0;
        let mut at = value;
        while let Some(Part { of, offset }) = func.part(at) {
            start += offset;
            at = of;
        }
        Columns { start, end: start + bytes }
    }

    /// Gives every place in the arena and in private memory its offset; returns the sizes of both.
    fn give_offsets(&self, places: &mut BTreeMap<ValueId, Place>) -> Result<(u64, u64), PlanError> {
        let arena = self.fill(
            places,
            |place| match place {
                Place::Arena { offset, size } => Some((offset, size)),
                _ => None,
            },
            &self.phases.of,
        )?;
        let order: BTreeMap<NodeId, u32> = self.func.order().iter().copied().zip(0..).collect();
        let private = self.fill(
            places,
            |place| match place {
                Place::Private { offset, size } => Some((offset, size)),
                _ => None,
            },
            &order,
        )?;
        Ok((arena, private))
    }

    /// Gives the places that `inside` opens their offsets; returns the size of the memory. `times` is when each op runs.
    fn fill(
        &self,
        places: &mut BTreeMap<ValueId, Place>,
        inside: fn(&mut Place) -> Option<(&mut u64, &mut u64)>,
        times: &BTreeMap<NodeId, u32>,
    ) -> Result<u64, PlanError> {
        let func = self.func;
        let size_of = |place: Option<&Place>| inside(&mut place.copied()?).map(|(_, size)| *size);
        // A buffer lives as long as anything that is in it.
        let mut lives: BTreeMap<ValueId, Life> = BTreeMap::new();
        let mut buffer_of: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for value in func.values() {
            let buffer = match places.get(&value) {
                // What it lies in stands before it.
                Some(Place::View { of, .. } | Place::Alias { of }) => {
                    buffer_of.get(of).copied().unwrap_or(*of)
                }
                _ => value,
            };
            buffer_of.insert(value, buffer);
            if size_of(places.get(&buffer)).is_none() {
                continue;
            }
            let born = func.producer(value).and_then(|n| times.get(&n)).copied();
            let reads = func.users(value).into_iter().filter_map(|u| times.get(&u)).copied();
            for time in reads.chain(born) {
                let life = lives.entry(buffer).or_insert(Life { born: time, died: time });
                *life = Life { born: life.born.min(time), died: life.died.max(time) };
            }
        }
        let mut buffers: Vec<(ValueId, u64, Life)> =
            lives.into_iter().map(|(v, life)| (v, size_of(places.get(&v)).unwrap_or(0), life)).collect();
        buffers.sort_by_key(|&(_, size, life)| (std::cmp::Reverse(size), life.born));

        let times = times.values().max().map_or(0, |&last| last as usize + 1);
        let mut occupied = Occupied::new(times);
        let (mut memory, mut steps) = (0, 0);
        for (value, size, life) in buffers {
            let mut taken = occupied.during(life);
            steps += taken.len();
            if steps > MAX_STEPS {
                return Err(PlanError::TooManyLive { limit: MAX_STEPS });
            }
            taken.sort_unstable();
            let offset = smallest_gap(&taken, size);
            occupied.add(offset, offset + size, life);
            memory = memory.max(offset + size);
            if let Some((at, _)) = places.get_mut(&value).and_then(inside) {
                *at = offset;
            }
        }
        Ok(memory)
    }
}

/// Start of the smallest gap between the ranges `taken` (by start) that holds `size` bytes, else the end of
/// them all.
fn smallest_gap(taken: &[(u64, u64)], size: u64) -> u64 {
    let mut end = 0;
    let mut best: Option<(u64, u64)> = None;
    for &(start, stop) in taken {
        let gap = start.saturating_sub(end);
        if gap >= size && best.is_none_or(|(b, _)| gap < b) {
            best = Some((gap, end));
        }
        end = end.max(stop);
    }
    best.map_or(end, |(_, start)| start)
}

#[cfg(test)]
mod tests {
    use bitnetc_ir::{Arch, CacheDims, Op, Rows, Sizes, TargetDesc, TokenCount, Type};

    use super::*;

    /// A function over f32 rows of 32 and a pair of caches with heads of 16; `build` adds ops and says the
    /// outputs.
    fn refused(build: impl Fn(&mut Func, &[ValueId]) -> Vec<ValueId>) -> String {
        let row = Type::rows(DType::F32, Rows { per_token: false, width: 32 });
        let cache = Type::cache(DType::F16, CacheDims { kv_heads: 2, head_dim: 16 });
        let mut func = Func::new("f", TokenCount::One);
        let inputs = [
            func.add_input("x", row),
            func.add_input("kc", cache.clone()),
            func.add_input("vc", cache),
            func.add_input("pos", Type::scalar(DType::Idx)),
        ];
        let outputs = build(&mut func, &inputs);
        func.set_outputs(outputs);
        let target = TargetDesc::baseline(Arch::X86_64);
        plan(&func, &CostModel::new(&target)).unwrap_err().to_string()
    }

    fn add(func: &mut Func, op: Op, operands: &[ValueId]) -> Vec<ValueId> {
        let types: Vec<Type> = operands.iter().map(|&v| func.ty(v).clone()).collect();
        let results = op.infer(&types.iter().collect::<Vec<_>>()).unwrap();
        let node = func.insert(None, op, operands.iter().map(|&v| v.into()).collect(), results);
        func.node(node).results.clone()
    }

    #[test]
    fn what_memory_cannot_give_is_refused_by_name() {
        let attention = Op::Attention { heads: 2, kv_heads: 2, scale: 0.25 };
        let append =
            |func: &mut Func, i: &[ValueId]| add(func, Op::KvAppend {}, &[i[1], i[2], i[0], i[0], i[3]]);
        let late = refused(|f, i| {
            let caches = append(f, i);
            let y = add(f, attention.clone(), &[i[0], i[1], i[2], i[3]]);
            [y, caches].concat()
        });
        assert!(late.starts_with("the cache %kc is read after it was appended to"), "{late}");
        let returned = refused(|f, i| {
            append(f, i);
            vec![i[2]]
        });
        assert!(returned.starts_with("the cache %vc is read after"), "{returned}");
        let twice = refused(|f, i| [append(f, i), append(f, i)].concat());
        assert!(twice.starts_with("the cache %kc is read after"), "{twice}");
        let both = refused(|f, i| add(f, Op::KvAppend {}, &[i[1], i[1], i[0], i[0], i[3]]));
        assert!(both.starts_with("the cache %kc is read after"), "{both}");
        assert_eq!(refused(|_, i| vec![i[0]]), "output 0 is %x, an input that no op has changed");
        let relu2 = |f: &mut Func, i: &[ValueId]| add(f, Op::Relu2 {}, &[i[0]])[0];
        let again = refused(|f, i| {
            let y = relu2(f, i);
            vec![y, y]
        });
        assert_eq!(again, "output 1 is %0, which is an output already");
        let halves = |f: &mut Func, x: ValueId| add(f, Op::Split { sizes: Sizes(vec![16, 16]) }, &[x]);
        let part = refused(|f, i| {
            let y = relu2(f, i);
            vec![halves(f, y)[1]]
        });
        assert_eq!(part, "output 0 is %2, part of another value");
        let split = refused(|f, i| {
            let y = relu2(f, i);
            halves(f, y);
            vec![y]
        });
        assert!(split.starts_with("output 0 is %0, which is split"), "{split}");
    }

    #[test]
    fn the_smallest_gap_that_fits_is_taken() {
        assert_eq!(smallest_gap(&[], 64), 0);
        assert_eq!(smallest_gap(&[(0, 64)], 64), 64);
        assert_eq!(smallest_gap(&[(256, 320), (384, 448)], 64), 320);
        assert_eq!(smallest_gap(&[(64, 128), (128, 192)], 128), 192);
        assert_eq!(smallest_gap(&[(0, 512), (64, 128), (640, 704)], 128), 512);
    }
}
