//! `rms_norm` followed by `quant_absmax` becomes `rms_norm_quant`, which keeps the normed row in registers
//! and cache instead of writing it and meeting at a barrier.
//!
//! Left alone: a norm that anything else reads or that the function returns, because it has to be written
//! then anyway. A norm whose quantised value is shared by several products is the usual case and is fused;
//! two `quant_absmax` of one norm are made one by `cse` first.

use bitnetc_ir::{Func, Module, NodeId, Op, Operand};

use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::Patch;

/// See the module.
#[derive(Debug)]
pub struct FuseNormQuant;

impl Rewrite for FuseNormQuant {
    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let quant = func.node(node);
        let (Op::QuantAbsmax {}, [Operand::Value(normed)]) = (&quant.op, &quant.operands[..]) else {
            return None;
        };
        let norm_id = func.producer(*normed)?;
        let norm = func.node(norm_id);
        let Op::RmsNorm { eps } = norm.op else { return None };
        if func.sole_user(*normed) != Some(node) {
            return None;
        }
        let mut patch = Patch::new(PassId::FuseNormQuant, node);
        let q = patch.op(Op::RmsNormQuant { eps }, norm.operands.iter().map(|&o| o.into()).collect());
        patch.replace(quant.results[0], q);
        patch.remove(node);
        patch.remove(norm_id);
        Some(patch)
    }
}
