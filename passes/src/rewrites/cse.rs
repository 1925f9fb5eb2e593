//! Common subexpressions: of two ops with the same attributes and operands the later one reads the earlier
//! one's results.
//!
//! Ops are pure, so equal ops give equal bits. Left alone: two ops of which both have results that the
//! function returns at the same position of their results, because one value cannot be written to two buffers
//! of the caller. Finding `a + b` equal to `b + a` is not done here; `canonicalise` gives such pairs one
//! order where it matters.

use std::collections::{HashMap, HashSet};

use bitnetc_ir::{Func, Module, NodeId, Operand, ValueId};

use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::Patch;

/// See the module.
#[derive(Debug, Default)]
pub struct Cse {
    /// Of an op of the present sweep, the earlier op that it is equal to once the patches before it are applied.
    equal: HashMap<NodeId, NodeId>,
}

/// What ops have in common that make the same values.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    mnemonic: &'static str,
    attrs: Vec<(&'static str, String)>,
    operands: Vec<Operand>,
}

impl Rewrite for Cse {
    fn start_sweep(&mut self, func: &Func) {
        self.equal.clear();
        let mut earliest: HashMap<Key, Vec<NodeId>> = HashMap::new();
        // What later ops read once the patches are applied, and what is returned then.
        let mut replaced: HashMap<ValueId, ValueId> = HashMap::new();
        let mut returned: HashSet<ValueId> = func.outputs().iter().copied().collect();
        for &id in func.order() {
            let node = func.node(id);
            let operands = node.operands.iter().map(|&operand| match operand {
                Operand::Value(v) => Operand::Value(replaced.get(&v).copied().unwrap_or(v)),
                Operand::Param(_) => operand,
            });
            let key = Key {
                mnemonic: node.op.info().mnemonic,
                attrs: node.op.print_attrs(),
                operands: operands.collect(),
            };
            let same = earliest.entry(key).or_default();
            let both_returned = |&&other: &&NodeId| {
                let mut pairs = func.node(other).results.iter().zip(&node.results);
                pairs.any(|(a, b)| returned.contains(a) && returned.contains(b))
            };
            let Some(&other) = same.iter().find(|other| !both_returned(other)) else {
                same.push(id);
                continue;
            };
            for (&new, &old) in func.node(other).results.iter().zip(&node.results) {
                replaced.insert(old, new);
                if returned.contains(&old) {
                    returned.insert(new);
                }
            }
            self.equal.insert(id, other);
        }
    }

    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let other = *self.equal.get(&node)?;
        if !func.contains(other) {
            return None;
        }
        let (this, equal) = (func.node(node), func.node(other));
        if (&equal.op, &equal.operands) != (&this.op, &this.operands) {
            return None;
        }
        let mut patch = Patch::new(PassId::Cse, node);
        for (&old, &new) in this.results.iter().zip(&equal.results) {
            patch.replace(old, new);
        }
        patch.remove(node);
        Some(patch)
    }
}
