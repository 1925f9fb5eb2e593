//! Common subexpressions: of two ops with the same attributes and operands the later one reads the earlier
//! one's results.
//!
//! Ops are pure, so equal ops give equal bits. Left alone: two ops of which both have results that the
//! function returns at the same position of their results, because one value cannot be written to two buffers
//! of the caller. Finding `a + b` equal to `b + a` is not done here; `canonicalise` gives such pairs one
//! order where it matters.

use bitnetc_ir::{Func, Module, NodeId};

use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::Patch;

/// See the module.
#[derive(Debug)]
pub struct Cse;

impl Rewrite for Cse {
    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let this = func.node(node);
        let earlier = func.order().iter().take_while(|&&n| n != node);
        let equal = earlier.map(|&n| func.node(n)).find(|other| {
            other.op == this.op
                && other.operands == this.operands
                && !other
                    .results
                    .iter()
                    .zip(&this.results)
                    .any(|(&a, &b)| func.is_output(a) && func.is_output(b))
        })?;
        let mut patch = Patch::new(PassId::Cse, node);
        for (&old, &new) in this.results.iter().zip(&equal.results) {
            patch.replace(old, new);
        }
        patch.remove(node);
        Some(patch)
    }
}
