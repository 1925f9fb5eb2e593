//! Taking one layer out of a function, as a module of its own that can be run, timed and compared.
//!
//! A layer has no mark in the IR other than the names of its parameters, `l{N}.…`. The ops of layer N are a contiguous
//! range in program order: from the first op that reads a parameter of the layer, up to the first op after it that reads
//! one of another layer or of none. Ops without parameters right before the layer, each of which serves only the op after
//! it, are part of it unless they are of the layer before.
//!
//! Invariants: the module is in the stage of the one it was taken from, and passes the verifier if that one did.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::entity::{FuncId, NodeId, ValueId};
use crate::graph::{Func, Operand};
use crate::module::Module;
use crate::plan::{FuncPlan, Place};
use crate::storage::{ALIGN, activation_bytes, align};
use crate::text::ValueNames;
use crate::types::Type;
use crate::verify::MAX_ARENA;

/// The ops of layer `layer` of a function, as the only function of a new module with the parameters that it needs. What
/// the ops read from outside becomes inputs, in the order of use and by the printed name (`%12` becomes `%v12`); what
/// others read from them becomes outputs, in order. In a plan, places stay; a value that has become an output lives with
/// the caller, and one that was in its place, or in that of a value from outside, gets a place at the end of the arena.
///
/// `None` where the function has no such layer, where a part of a `split` would have to be returned, or where the arena would
/// grow beyond what the verifier accepts.
pub fn layer(module: &Module, func: FuncId, layer: u32) -> Option<Module> {
    let old = module.funcs().get(func)?;
    let nodes = layer_range(module, old, layer)?;
    let inside: HashSet<NodeId> = nodes.iter().copied().collect();
    let mut used_outside: HashSet<ValueId> = old.outputs().iter().copied().collect();
    for &id in old.order().iter().filter(|n| !inside.contains(n)) {
        used_outside.extend(values_read(old, id));
    }

    let names = ValueNames::new(old);
    let mut taken: HashSet<String> = old.inputs().iter().filter_map(|&v| old.value(v).name.clone()).collect();
    let mut new = Func::new(old.name(), old.tokens());
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    let made: HashSet<ValueId> = nodes.iter().flat_map(|&n| &old.node(n).results).copied().collect();
    for value in nodes.iter().flat_map(|&id| values_read(old, id)) {
        if !made.contains(&value) && !map.contains_key(&value) {
            let name = match &old.value(value).name {
                Some(name) => name.clone(),
                None => fresh(&mut taken, &names.value(value).replace('%', "v")),
            };
            map.insert(value, new.add_input(name, old.ty(value).clone()));
        }
    }
    let mut outputs = Vec::new();
    let mut node_map = BTreeMap::new();
    for &id in nodes {
        let node = old.node(id);
        let operands = node.operands.iter().map(|&operand| match operand {
            Operand::Value(v) => map.get(&v).copied().map(Operand::Value),
            Operand::Param(p) => Some(Operand::Param(p)),
        });
        let types: Vec<Type> = node.results.iter().map(|&v| old.ty(v).clone()).collect();
        let copy = new.insert(None, node.op.clone(), operands.collect::<Option<_>>()?, types);
        node_map.insert(id, copy);
        for (&from, &to) in node.results.iter().zip(&new.node(copy).results.clone()) {
            map.insert(from, to);
            if used_outside.contains(&from) {
                if node.op.info().is_view() {
                    return None;
                }
                outputs.push(to);
            }
        }
    }
    new.set_outputs(outputs);
    if let Some(plan) = &old.plan {
        new.plan = Some(take_plan(plan, old, &new, nodes, &map, &node_map)?);
    }
    let mut result = Module::new();
    result.stage = module.stage;
    result.target = module.target.clone();
    for decl in module.params().values() {
        result.add_param(decl.clone());
    }
    result.add_func(new);
    result.remove_unused_params();
    Some(result)
}

fn values_read(func: &Func, id: NodeId) -> impl Iterator<Item = ValueId> + '_ {
    func.node(id).operands.iter().filter_map(|o| match o {
        Operand::Value(v) => Some(*v),
        Operand::Param(_) => None,
    })
}

fn fresh(taken: &mut HashSet<String>, wish: &str) -> String {
    let mut name = wish.to_owned();
    while !taken.insert(name.clone()) {
        name.push('_');
    }
    name
}

/// The layer of the first parameter that an op reads: nothing for an op without parameters, `Some(None)` for a parameter
/// of no layer.
fn layer_read(module: &Module, func: &Func, id: NodeId) -> Option<Option<u32>> {
    let param = func.node(id).operands.iter().find_map(|o| match o {
        Operand::Param(p) => module.params().get(*p),
        Operand::Value(_) => None,
    })?;
    let number = param.name.strip_prefix('l').and_then(|rest| rest.split_once('.'));
    Some(number.and_then(|(digits, _)| digits.parse().ok()))
}

/// The ops of layer `layer` of a function, in program order; `None` where the function has no such layer.
pub fn layer_range<'f>(module: &Module, func: &'f Func, layer: u32) -> Option<&'f [NodeId]> {
    let order = func.order();
    let first = order.iter().position(|&id| layer_read(module, func, id) == Some(Some(layer)))?;
    let after = (first..order.len())
        .find(|&i| layer_read(module, func, order[i]).is_some_and(|read| read != Some(layer)));
    order.get(with_producers(module, func, first)..after.unwrap_or(order.len()))
}

/// Where the run of ops begins that ends in the op at `first` and in which each op serves the next one only; `first` itself
/// where these ops end another layer.
fn with_producers(module: &Module, func: &Func, first: usize) -> usize {
    let order = func.order();
    if let Some(Some(_)) = order[..first].iter().rev().find_map(|&id| layer_read(module, func, id)) {
        return first;
    }
    let mut start = first;
    while let Some(&before) = order[..start].last() {
        let serves = layer_read(module, func, before).is_none()
            && func.node(before).results.iter().all(|&v| func.sole_user(v) == Some(order[start]));
        if !serves {
            break;
        }
        start -= 1;
    }
    start
}

fn take_plan(
    plan: &FuncPlan,
    old: &Func,
    new: &Func,
    nodes: &[NodeId],
    map: &HashMap<ValueId, ValueId>,
    node_map: &BTreeMap<NodeId, NodeId>,
) -> Option<FuncPlan> {
    let mut taken =
        FuncPlan { arena_bytes: plan.arena_bytes, private_bytes: plan.private_bytes, ..FuncPlan::default() };
    taken.places.extend(new.inputs().iter().map(|&v| (v, Place::Extern)));
    // Values whose bytes are, or lead to, a place in the arena or in private memory.
    let mut in_arena: HashSet<ValueId> = HashSet::new();
    for value in nodes.iter().flat_map(|&id| &old.node(id).results) {
        let (Some(&to), Some(&place)) = (map.get(value), plan.places.get(value)) else { continue };
        let cache = new.ty(to).is_persistent();
        let mapped = |of: &ValueId| map.get(of).copied();
        let kept = match place {
            _ if new.is_output(to) && !cache => Some(Place::Extern),
            Place::Arena { .. } | Place::Private { .. } => Some(place),
            Place::View { of, offset } => mapped(&of).map(|of| Place::View { of, offset }),
            Place::Alias { of } => {
                mapped(&of).filter(|of| cache || in_arena.contains(of)).map(|of| Place::Alias { of })
            }
            Place::Extern => None,
        };
        let place = kept.unwrap_or_else(|| {
            let offset = align(taken.arena_bytes);
            let size = align(activation_bytes(new.ty(to), new.tokens().max()).unwrap_or(ALIGN));
            taken.arena_bytes = offset + size;
            Place::Arena { offset, size }
        });
        let leads_to_arena = match place {
            Place::Arena { .. } | Place::Private { .. } => true,
            Place::View { of, .. } | Place::Alias { of } => in_arena.contains(&of),
            Place::Extern => false,
        };
        if leads_to_arena {
            in_arena.insert(to);
        }
        taken.places.insert(to, place);
    }
    taken.barriers = plan.barriers.iter().filter_map(|n| node_map.get(n).copied()).collect();
    // An op whose results were private and are no longer is not replicated any more: its readers wait for it.
    for &id in nodes {
        let was_private = |v: &&ValueId| plan.is_private(**v);
        let shared = |v: &ValueId| map.get(v).is_some_and(|&to| !taken.is_private(to));
        let view = old.node(id).op.info().is_view();
        if !view && old.node(id).results.iter().filter(was_private).any(shared) {
            taken.barriers.extend(node_map.get(&id).copied());
        }
    }
    (taken.arena_bytes <= MAX_ARENA.max(plan.arena_bytes)).then_some(taken)
}
