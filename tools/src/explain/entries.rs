//! Entry points of a planned module as the document has them: ops with their kinds, layers that are the same, values with
//! their time, and what was predicted and measured.

use std::collections::HashMap;
use std::ops::Range;

use bitnetc_codegen::program::{Program, Programs};
use bitnetc_ir::extract::layer_range;
use bitnetc_ir::partition::Per;
use bitnetc_ir::text::ValueNames;
use bitnetc_ir::work::OpWork;
use bitnetc_ir::{Entity, Extent, Func, Module, NodeId, Operand, ParamId, Place, Type, ValueId};
use bitnetc_passes::CostModel;
use bitnetc_passes::cost::OpCost;
use bitnetc_runtime::profile::{Profile, ProgramProfile};

use super::document::{Entry, Kind, Measured, OpInfo, OperandInfo, Part, Predicted, ValueInfo, WorkInfo, ns};

/// Most threads whose shares are listed.
const MOST_SHARES: u32 = 64;

/// Makes entries, and collects the kinds of their ops.
pub(super) struct Entries<'m> {
    pub(super) module: &'m Module,
    pub(super) programs: &'m Programs,
    pub(super) costs: CostModel<'m>,
    pub(super) profile: Option<&'m Profile>,
    pub(super) kinds: Vec<Kind>,
}

impl From<&OpWork> for WorkInfo {
    fn from(w: &OpWork) -> Self {
        Self {
            weight_bytes: w.work.weight_bytes,
            kv_read_bytes: w.work.kv_bytes + w.work.state_bytes,
            kv_written_bytes: w.kv_written_bytes,
            read_bytes: w.read_bytes,
            written_bytes: w.written_bytes,
            ternary_macs: w.work.ternary_macs,
            dense_macs: w.work.dense_macs,
            attention_macs: w.work.attention_macs,
        }
    }
}

fn predicted(cost: &OpCost) -> Predicted {
    Predicted {
        ns: ns(cost.seconds()),
        memory_ns: ns(cost.memory),
        compute_ns: ns(cost.compute),
        overhead_ns: ns(cost.overhead),
        least_ns: ns(cost.least),
        bound: cost.bound().name(),
    }
}

/// What units are counted of.
fn per_name(per: Per) -> &'static str {
    match per {
        Per::Call => "call",
        Per::Token => "token",
        Per::KeyBlock => "key block",
        Per::QueryTile => "query tile",
    }
}

/// The first sentence of a doc comment.
fn first_sentence(doc: &'static str) -> &'static str {
    let doc = doc.trim();
    doc.find(". ").map_or(doc, |end| &doc[..=end])
}

/// The steps of each op that has any, in program order: one, or two with a barrier between them.
fn steps_of_ops(program: &Program, programs: &Programs) -> Vec<Range<usize>> {
    let mut ops = Vec::new();
    let mut at = 0;
    while let Some(step) = program.steps.get(at) {
        let steps = 1 + usize::from(programs.kernels[step.kernel].after_barrier().is_some());
        ops.push(at..(at + steps).min(program.steps.len()));
        at += steps;
    }
    ops
}

/// What the steps of an op took in a call.
fn measured(recorded: &ProgramProfile, steps: &Range<usize>) -> Option<Measured> {
    let steps = recorded.steps.get(steps.clone())?;
    let calls = recorded.calls.max(1) as f64;
    let sum = |of: fn(&bitnetc_runtime::profile::StepProfile) -> &[u64]| {
        let threads = steps.iter().map(|s| of(s).len()).max().unwrap_or(0);
        let total = |thread: usize| steps.iter().filter_map(|s| of(s).get(thread)).sum::<u64>();
        (0..threads).map(|thread| ns(total(thread) as f64 / calls * 1e-9)).collect()
    };
    Some(Measured { busy_ns: sum(|s| &s.busy_ns), wait_ns: sum(|s| &s.wait_ns) })
}

fn place_text(names: &ValueNames<'_>, place: Option<&Place>) -> String {
    match place {
        Some(Place::Arena { offset, size }) => format!("arena, bytes {offset}+{size}"),
        Some(Place::Private { offset, size }) => {
            format!("private memory of each thread, bytes {offset}+{size}")
        }
        Some(Place::View { of, offset }) => {
            format!("part of {}, from byte {offset} of its row", names.value(*of))
        }
        Some(Place::Alias { of }) => format!("in the place of {}", names.value(*of)),
        Some(Place::Extern) => "the caller's buffer".to_owned(),
        None => "nowhere".to_owned(),
    }
}

impl Entries<'_> {
    /// One entry point in a call of `call`.
    pub(super) fn entry(&mut self, func: &Func, program: &Program, call: Extent) -> Entry {
        let cost = self.costs.entry(self.module, func, call);
        let names = ValueNames::new(func);
        let recorded = self.profile.and_then(|p| p.programs.iter().find(|p| p.name == func.name()));
        let recorded = recorded.filter(|p| p.calls > 0);
        let mut steps = steps_of_ops(program, self.programs).into_iter();
        let (mut ops, mut phase) = (Vec::new(), 0);
        for (&id, cost) in func.order().iter().zip(&cost.ops) {
            let node = func.node(id);
            let steps = if cost.units.is_some() { steps.next() } else { None };
            let kernels = steps.iter().flat_map(|steps| &program.steps[steps.clone()]);
            let kernels = kernels.map(|step| step.kernel.index()).collect();
            let kind = self.kind(func, id, cost, kernels, call);
            let inner_barrier = func.has_inner_barrier(id);
            let barrier = func.plan.as_ref().is_some_and(|plan| plan.barriers.contains(&id));
            let operand = |operand: &Operand| match operand {
                Operand::Value(v) => names.value(*v),
                Operand::Param(p) => format!("@{}", self.module.params()[*p].name),
            };
            ops.push(OpInfo {
                kind,
                operands: node.operands.iter().map(operand).collect(),
                results: node.results.iter().map(|&v| names.value(v)).collect(),
                places: node
                    .results
                    .iter()
                    .map(|v| place_text(&names, func.plan.as_ref().and_then(|p| p.places.get(v))))
                    .collect(),
                phase,
                barrier,
                inner_barrier,
                measured: recorded.zip(steps).and_then(|(recorded, steps)| measured(recorded, &steps)),
            });
            phase += u32::from(inner_barrier) + u32::from(barrier);
        }
        let waited: f64 = ops.iter().filter_map(|op| op.measured.as_ref()).map(Measured::waited_ns).sum();
        let overhead = recorded.and_then(|p| p.overhead());
        let wall_ns = recorded.map(|p| p.wall_ns as f64 / p.calls as f64);
        let roofline_by_memory = cost.least > self.costs.multiply_seconds(&cost.work.work, call);
        Entry {
            name: func.name().to_owned(),
            tokens: call.tokens,
            most_tokens: func.tokens().max(),
            inputs: func.inputs().iter().map(|&v| (names.value(v), func.ty(v).to_string())).collect(),
            outputs: func.outputs().iter().map(|&v| names.value(v)).collect(),
            parts: parts(self.module, func, &ops),
            values: values(func, &names),
            arena_bytes: func.plan.as_ref().map_or(0, |p| p.arena_bytes),
            private_bytes: func.plan.as_ref().map_or(0, |p| p.private_bytes),
            barriers: cost.barriers,
            barrier_ns: ns(cost.barrier_seconds),
            work: WorkInfo::from(&cost.work),
            predicted: Predicted {
                ns: ns(cost.seconds),
                memory_ns: ns(cost.ops.iter().map(|op| op.memory).sum()),
                compute_ns: ns(cost.ops.iter().map(|op| op.compute).sum()),
                overhead_ns: ns(cost.ops.iter().map(|op| op.overhead).sum::<f64>() + cost.barrier_seconds),
                least_ns: ns(cost.least),
                bound: if roofline_by_memory { "memory" } else { "compute" },
            },
            resident: cost.resident,
            measured_ns: wall_ns.map(|wall| ns(wall * 1e-9)),
            measured_barrier_ns: wall_ns.map(|_| ns(waited * 1e-9)),
            measured_dispatch_ns: wall_ns.zip(overhead).map(|(wall, o)| ns(o.dispatch * wall * 1e-9)),
            ops,
        }
    }

    /// The position of an op's kind.
    fn kind(&mut self, func: &Func, id: NodeId, cost: &OpCost, kernels: Vec<usize>, call: Extent) -> usize {
        let node = func.node(id);
        let info = node.op.info();
        let param_type = |p: ParamId| self.module.params()[p].ty.clone();
        let slots = info.operands.iter().chain(info.optional).map(|&(name, _)| name);
        let operands =
            slots.chain(std::iter::repeat("")).zip(&node.operands).map(|(name, &operand)| OperandInfo {
                name,
                ty: func.operand_type(operand, &param_type).to_string(),
                weight: matches!(operand, Operand::Param(_)),
            });
        let threads = self.costs.threads();
        let share = |units: bitnetc_ir::Units, thread| match cost.replicated {
            true => units.total(call),
            false => {
                let share = units.share(call, thread, threads);
                share.end.saturating_sub(share.start)
            }
        };
        let shares = cost.units.map(|units| (0..threads.min(MOST_SHARES)).map(|t| share(units, t)).collect());
        let kind = Kind {
            entry: func.name().to_owned(),
            op: info.mnemonic,
            doc: first_sentence(info.doc),
            attrs: node.op.print_attrs(),
            operands: operands.collect(),
            results: node.results.iter().map(|&v| func.ty(v).to_string()).collect(),
            kernels,
            units: cost.units.map(|units| (units.count, per_name(units.per))),
            shares: shares.unwrap_or_default(),
            replicated: cost.replicated,
            work: WorkInfo::from(&cost.work),
            predicted: predicted(cost),
        };
        self.kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
            self.kinds.push(kind);
            self.kinds.len() - 1
        })
    }
}

/// The layer of every op, by position.
pub(super) fn layers(module: &Module, func: &Func) -> Vec<Option<u32>> {
    let places: HashMap<NodeId, usize> = func.order().iter().enumerate().map(|(i, &n)| (n, i)).collect();
    let mut layers = vec![None; func.order().len()];
    for layer in 0.. {
        let Some(nodes) = layer_range(module, func, layer) else { break };
        for node in nodes {
            layers[places[node]].get_or_insert(layer);
        }
    }
    layers
}

/// An operand as an op of a layer sees it.
#[derive(PartialEq)]
enum Seen {
    Weight,
    /// A result of an op of the same layer, by its place among all of these.
    Inside(usize),
    Outside,
}

/// Divides ops into runs of one layer, or of none, and folds runs that are the same.
fn parts(module: &Module, func: &Func, ops: &[OpInfo]) -> Vec<Part> {
    let layers = layers(module, func);
    let signature = |part: &Part| -> Vec<(usize, bool, Vec<Seen>)> {
        let mut made: Vec<ValueId> = Vec::new();
        let nodes = &func.order()[part.start..part.start + part.length];
        let mut seen = Vec::new();
        for (&id, op) in nodes.iter().zip(&ops[part.start..]) {
            let operands = func.node(id).operands.iter().map(|operand| match operand {
                Operand::Param(_) => Seen::Weight,
                Operand::Value(v) => made.iter().position(|m| m == v).map_or(Seen::Outside, Seen::Inside),
            });
            seen.push((op.kind, op.barrier, operands.collect()));
            made.extend(&func.node(id).results);
        }
        seen
    };
    let mut parts: Vec<Part> = Vec::new();
    let mut start = 0;
    while start < layers.len() {
        let length = layers[start..].iter().take_while(|&&l| l == layers[start]).count();
        let part = Part { layer: layers[start], count: 1, start, length };
        let same = parts.last_mut().filter(|last| {
            let next = last.layer.map(|l| l + last.count);
            next.is_some()
                && next == part.layer
                && last.length == length
                && signature(last) == signature(&part)
        });
        match same {
            Some(last) => last.count += 1,
            None => parts.push(part),
        }
        start += length;
    }
    parts
}

/// Values with memory of their own, and when they live.
fn values(func: &Func, names: &ValueNames<'_>) -> Vec<ValueInfo> {
    let Some(plan) = &func.plan else { return Vec::new() };
    let places: HashMap<NodeId, usize> = func.order().iter().enumerate().map(|(i, &n)| (n, i)).collect();
    let root = |value: ValueId| {
        let mut at = value;
        // A chain visits each value at most once.
        for _ in 0..=plan.places.len() {
            match plan.places.get(&at) {
                Some(Place::View { of, .. } | Place::Alias { of }) => at = *of,
                _ => break,
            }
        }
        at
    };
    // In program order; where the value of each root stands.
    let mut found: Vec<ValueInfo> = Vec::new();
    let mut at: HashMap<ValueId, usize> = HashMap::new();
    for &id in func.order() {
        let here = places[&id];
        for &value in &func.node(id).results {
            let ty: &Type = func.ty(value);
            if let Some(&(Place::Arena { offset, size } | Place::Private { offset, size })) =
                plan.places.get(&value)
            {
                let private = matches!(plan.places.get(&value), Some(Place::Private { .. }));
                let (name, ty) = (names.value(value), ty.to_string());
                let holds = Vec::new();
                let info = ValueInfo { name, ty, private, offset, size, first: here, last: here, holds };
                at.insert(value, found.len());
                found.push(info);
            }
            if let Some(info) = at.get(&root(value)).and_then(|&i| found.get_mut(i)) {
                let users = func.users(value);
                let last = users.iter().filter_map(|user| places.get(user)).copied().max();
                info.last = info.last.max(here).max(last.unwrap_or(0));
                if root(value) != value {
                    info.holds.push(names.value(value));
                }
            }
        }
    }
    found
}
