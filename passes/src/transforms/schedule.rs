//! The schedule: in which order ops run, and after which of them all threads meet.
//!
//! The machine that this is made for: each of N threads walks the nodes in order; for each node that is no
//! view it runs the kernel on its contiguous share of the node's units; after a node with a barrier it waits
//! for the others. A *phase* is what lies between two barriers. Within a phase nothing orders two threads, so
//!
//! - an op that reads a value runs in a later phase than the op that made it (also where both have one unit:
//!   which thread has it is not known here), unless that op is *replicated*;
//! - an append to a cache, which changes its bytes, runs in a later phase than every reader of the cache
//!   before it.
//!
//! A replicated op is run whole by every thread, each into a copy of its own; who reads the copy of its own thread
//! waits for nobody. An op of a decode step is replicated if it can be, its results stay inside, and the cost model
//! ([`CostModel::replicates`]) predicts no loss: of an op over one row, which is one unit, there is none, since one thread
//! would need as long for it as all threads do at once, and the others would wait for it.
//!
//! The pass orders nodes by the longest chain of such dependences that leads to them; [`phases`] then starts
//! a new phase at the first node that the current one is too early for. The number of phases is the length of
//! the longest chain, which no order can beat. Views do no work and never need a barrier, and a replicated op adds
//! nothing to a chain.
//!
//! The pass changes the order only. The barriers are part of the plan, so `plan-memory` takes [`phases`] of
//! whatever order it finds: a module is never in between.

use std::collections::{BTreeMap, BTreeSet};

use bitnetc_ir::{Func, FuncId, Module, NodeId, Operand, TokenCount, ValueId};

use crate::context::PassContext;
use crate::cost::CostModel;
use crate::error::PassFailure;
use crate::pass::Transform;

/// See the module.
#[derive(Debug)]
pub struct Schedule;

impl Transform for Schedule {
    fn run(&self, module: &mut Module, context: &PassContext) -> Result<bool, PassFailure> {
        let mut changed = false;
        let costs = CostModel::new(&context.target);
        let funcs: Vec<FuncId> = module.funcs().keys().collect();
        for func in funcs {
            let body = module.func_mut(func);
            if let Some(order) = by_chain_length(body, &costs)
                && order != body.order()
            {
                // A sort by a key that grows along every edge gives a topological order.
                changed |= body.set_order(order).is_ok();
            }
        }
        Ok(changed)
    }
}

/// Whether every thread runs all of the node for itself.
pub(crate) fn is_replicated(func: &Func, id: NodeId, costs: &CostModel<'_>) -> bool {
    let node = func.node(id);
    func.tokens() == TokenCount::One
        && node.op.info().can_replicate()
        && !node.results.iter().any(|&v| func.is_output(v))
        && costs.replicates_node(func, id)
}

/// The caches that the node updates, as they are before it.
pub(crate) fn updated_caches(func: &Func, node: NodeId) -> impl Iterator<Item = ValueId> + '_ {
    let node = func.node(node);
    let slots = (0..node.results.len()).filter_map(|result| node.op.info().updated(result));
    slots.filter_map(|slot| match node.operands.get(slot) {
        Some(&Operand::Value(cache)) => Some(cache),
        _ => None,
    })
}

fn values(operands: &[Operand]) -> impl Iterator<Item = ValueId> + '_ {
    operands.iter().filter_map(|&o| match o {
        Operand::Value(v) => Some(v),
        Operand::Param(_) => None,
    })
}

/// The nodes in order of the longest chain that leads to them; `None` where a cache is read after an append
/// that depends on the reader, or the other way round, so that there is no order at all.
fn by_chain_length(func: &Func, costs: &CostModel<'_>) -> Option<Vec<NodeId>> {
    // Edges: operands, and from each reader of a cache to the op that appends to it.
    let mut befores: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for &node in func.order() {
        let before: BTreeSet<NodeId> =
            values(&func.node(node).operands).filter_map(|v| func.producer(v)).collect();
        befores.entry(node).or_default().extend(before);
        for cache in updated_caches(func, node) {
            let readers = func.users(cache).into_iter().filter(|&r| r != node);
            befores.entry(node).or_default().extend(readers);
        }
    }
    let mut afters: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    let mut open: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (&node, before) in &befores {
        open.insert(node, before.len());
        for &b in before {
            afters.entry(b).or_default().push(node);
        }
    }
    // The phase in which a node can run at the earliest, and the one from which its results can be read. Views do no
    // work: they stand with what they are a view of.
    let mut runs: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut readable: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut ready: Vec<NodeId> = func.order().iter().copied().filter(|n| open[n] == 0).collect();
    while let Some(node) = ready.pop() {
        let earliest = befores[&node].iter().map(|b| readable[b]).max().unwrap_or(0);
        let (run, read) = match func.node(node).op.info().is_view() {
            true => (befores[&node].iter().map(|b| runs[b]).max().unwrap_or(0), earliest),
            false if is_replicated(func, node, costs) => (earliest, earliest),
            false => (earliest, earliest + 1),
        };
        runs.insert(node, run);
        readable.insert(node, read);
        for &after in afters.get(&node).into_iter().flatten() {
            let left = open.entry(after).or_default();
            *left -= 1;
            if *left == 0 {
                ready.push(after);
            }
        }
    }
    if runs.len() != func.order().len() {
        return None;
    }
    let mut order = func.order().to_vec();
    order.sort_by_key(|n| runs[n]);
    Some(order)
}

/// The phases of a function in its present order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phases {
    /// The phase of every node that is no view.
    pub of: BTreeMap<NodeId, u32>,
    /// The nodes after which all threads meet: the last of each phase but the last.
    pub barriers: BTreeSet<NodeId>,
}

/// Divides the nodes, in their present order, into as few phases as possible on the machine of `costs`.
pub fn phases(func: &Func, costs: &CostModel<'_>) -> Phases {
    let mut of = BTreeMap::new();
    let mut barriers = BTreeSet::new();
    let mut phase = 0;
    let mut last = None;
    // What the current phase makes, and which caches it reads.
    let mut made: BTreeSet<ValueId> = BTreeSet::new();
    let mut read: BTreeSet<ValueId> = BTreeSet::new();
    for &id in func.order() {
        let node = func.node(id);
        if node.op.info().is_view() {
            continue;
        }
        let overwrites = updated_caches(func, id).any(|cache| read.contains(&cache));
        let too_early = values(&node.operands).any(|v| made.contains(&func.whole(v)));
        if overwrites || too_early {
            barriers.extend(last);
            phase += 1;
            made.clear();
            read.clear();
        }
        if !is_replicated(func, id, costs) {
            made.extend(node.results.iter().copied());
        }
        read.extend(values(&node.operands).filter(|&v| func.ty(v).is_persistent()));
        of.insert(id, phase);
        last = Some(id);
    }
    Phases { of, barriers }
}

#[cfg(test)]
mod tests {
    use bitnetc_ir::{Arch, TargetDesc, text};

    use super::*;

    fn order_and_barriers(text: &str) -> (Vec<&'static str>, Vec<usize>) {
        let mut module = text::parse(text).unwrap();
        let id = module.func_named("f").unwrap();
        let target = TargetDesc::baseline(Arch::X86_64);
        let costs = CostModel::new(&target);
        let order = by_chain_length(&module.funcs()[id], &costs).unwrap();
        module.func_mut(id).set_order(order).unwrap();
        let func = &module.funcs()[id];
        let barriers = phases(func, &costs).barriers;
        let places = func.order().iter().enumerate().filter(|(_, n)| barriers.contains(n)).map(|(i, _)| i);
        (func.order().iter().map(|&n| func.node(n).op.info().mnemonic).collect(), places.collect())
    }

    #[test]
    fn the_append_waits_for_readers_of_the_old_cache() {
        let (order, barriers) = order_and_barriers(
            "bir 1 stage=imported
            func @f(%q: f32[32], %k: f32[32], %kc: f16[2xCx16], %vc: f16[2xCx16], %pos: idx)
              -> (f32[32], f16[2xCx16], f16[2xCx16]) tokens=1 {
              %r = relu2 %q : f32[32]
              %a = attention %r, %kc, %vc, %pos {heads=2, kv_heads=2, scale=0.25} : f32[32]
              %k1, %v1 = kv_append %kc, %vc, %k, %k, %pos : f16[2xCx16], f16[2xCx16]
              return %a, %k1, %v1
            }",
        );
        // Every thread has the squares of its own, so only the append waits.
        assert_eq!((order, barriers), (vec!["relu2", "attention", "kv_append"], vec![1]));
    }

    #[test]
    fn ops_over_one_row_cost_no_phase() {
        let (order, barriers) = order_and_barriers(
            "bir 1 stage=fused
            param @n: f32[32] = file \"n\" #00000000000000000000000000000000
            param @w: f32[32x32] = file \"w\" #00000000000000000000000000000000
            func @f(%x: f32[32]) -> (f32[32], f32[32]) tokens=1 {
              %a = rms_norm %x, @n {eps=1e-5} : f32[32]
              %b = matmul %a, @w : f32[32]
              %c = add %a, %b : f32[32]
              %d = rms_norm %c, @n {eps=1e-5} : f32[32]
              %e = matmul %d, @w : f32[32]
              %f = relu2 %d : f32[32]
              %g = relu2 %f : f32[32]
              return %e, %g
            }",
        );
        // The result is the caller's, so one thread writes it.
        assert_eq!(order, ["rms_norm", "matmul", "add", "rms_norm", "matmul", "relu2", "relu2"]);
        assert_eq!(barriers, [1]);
    }

    #[test]
    fn parts_of_inputs_cost_no_phase() {
        let (order, barriers) = order_and_barriers(
            "bir 1 stage=fused
            func @f(%x: f32[Tx32]) -> (f32[Tx16]) tokens<=4 {
              %r = relu2 %x : f32[Tx32]
              %c, %d = split %r {sizes=[16,16]} : f32[Tx16], f32[Tx16]
              %s = mul %c, %d : f32[Tx16]
              %a, %b = split %x {sizes=[16,16]} : f32[Tx16], f32[Tx16]
              %t = mul %a, %b : f32[Tx16]
              %u = add %s, %t : f32[Tx16]
              return %u
            }",
        );
        assert_eq!(order, ["relu2", "split", "split", "mul", "mul", "add"]);
        assert_eq!(barriers, [3, 4]);
    }

    #[test]
    fn an_order_that_cannot_be_is_left_alone() {
        let module = text::parse(
            "bir 1 stage=imported
            func @f(%k: f32[32], %kc: f16[2xCx16], %vc: f16[2xCx16], %pos: idx)
              -> (f32[32], f16[2xCx16], f16[2xCx16]) tokens=1 {
              %k1, %v1 = kv_append %kc, %vc, %k, %k, %pos : f16[2xCx16], f16[2xCx16]
              %a = attention %k, %k1, %v1, %pos {heads=2, kv_heads=2, scale=0.25} : f32[32]
              %b = attention %a, %kc, %vc, %pos {heads=2, kv_heads=2, scale=0.25} : f32[32]
              return %b, %k1, %v1
            }",
        );
        // The reader of the old cache waits for the append that must wait for it.
        let module = module.unwrap();
        let target = TargetDesc::baseline(Arch::X86_64);
        let order = module.funcs().values().next().map(|f| by_chain_length(f, &CostModel::new(&target)));
        assert_eq!(order, Some(None));
    }
}
