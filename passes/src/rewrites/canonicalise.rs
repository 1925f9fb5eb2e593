//! One form for ops that can be written in several, so that later passes need to look for one only.
//!
//! - `add`: a ternary product that nobody else reads stands second, the residual first (`fuse-bitlinear`).
//! - `mul`: `relu2` stands second only if both operands are; otherwise first (`merge-projections`).
//! - `bitlinear {epilogue=none}` becomes `ternary_matmul`, which is the same op (`merge-projections` looks
//!   for this one).
//! - `split` into one part is its operand.
//! - `split` of a part of a `split` is one `split`, if nothing else reads the part.
//!
//! All of these keep the bits: f32 addition and multiplication commute, and splits move nothing.
//! Reassociation would not and is done nowhere.

use bitnetc_ir::{Epilogue, Func, Module, NodeId, Op, Operand, Sizes, ValueDef, ValueId};

use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::{Patch, PatchRef};

/// See the module.
#[derive(Debug)]
pub struct Canonicalise;

impl Rewrite for Canonicalise {
    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let n = func.node(node);
        match &n.op {
            Op::Add {} => swapped(func, node, is_lone_product),
            Op::Mul {} => swapped(func, node, |func, v| !is_activation(func, v)),
            Op::Bitlinear { epilogue: Epilogue::None } => {
                let mut patch = Patch::new(PassId::Canonicalise, node);
                let y = patch.op(Op::TernaryMatmul {}, n.operands.iter().map(|&o| o.into()).collect());
                patch.replace(n.results[0], y);
                patch.remove(node);
                Some(patch)
            }
            Op::Split { sizes } => match (&sizes.0[..], n.operands[0]) {
                ([_], Operand::Value(whole)) => {
                    let mut patch = Patch::new(PassId::Canonicalise, node);
                    patch.replace(n.results[0], whole);
                    patch.remove(node);
                    Some(patch)
                }
                (_, Operand::Value(part)) => flattened(func, node, &sizes.0, part),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The two operands exchanged, if `second` says so of the first and not of the second.
fn swapped(func: &Func, node: NodeId, second: impl Fn(&Func, ValueId) -> bool) -> Option<Patch> {
    let n = func.node(node);
    let [Operand::Value(a), Operand::Value(b)] = n.operands[..] else { return None };
    if !second(func, a) || second(func, b) {
        return None;
    }
    let mut patch = Patch::new(PassId::Canonicalise, node);
    let y = patch.op(n.op.clone(), vec![b.into(), a.into()]);
    patch.replace(n.results[0], y);
    patch.remove(node);
    Some(patch)
}

fn is_lone_product(func: &Func, value: ValueId) -> bool {
    let product = func.producer(value).is_some_and(|p| {
        matches!(func.node(p).op, Op::TernaryMatmul {} | Op::Bitlinear { epilogue: Epilogue::None })
    });
    product && func.sole_user(value).is_some()
}

fn is_activation(func: &Func, value: ValueId) -> bool {
    func.producer(value).is_some_and(|p| matches!(func.node(p).op, Op::Relu2 {} | Op::Silu {}))
}

/// The split `inner` of `part`, drawn into the split that made `part`.
fn flattened(func: &Func, inner: NodeId, inner_sizes: &[u32], part: ValueId) -> Option<Patch> {
    let ValueDef::Result(outer, at) = func.value(part).def else { return None };
    let at = at as usize;
    let outer_node = func.node(outer);
    let Op::Split { sizes: Sizes(outer_sizes) } = &outer_node.op else { return None };
    func.sole_user(part)?;
    let mut sizes = outer_sizes.clone();
    sizes.splice(at..=at, inner_sizes.iter().copied());

    let mut patch = Patch::new(PassId::Canonicalise, outer);
    patch.op(Op::Split { sizes: Sizes(sizes) }, outer_node.operands.iter().map(|&o| o.into()).collect());
    let part_of = |result| PatchRef::New { op: 0, result };
    for (i, &old) in outer_node.results.iter().enumerate() {
        match i.cmp(&at) {
            std::cmp::Ordering::Less => patch.replace(old, part_of(i)),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => patch.replace(old, part_of(i + inner_sizes.len() - 1)),
        }
    }
    for (i, &old) in func.node(inner).results.iter().enumerate() {
        patch.replace(old, part_of(at + i));
    }
    patch.remove(inner);
    patch.remove(outer);
    Some(patch)
}
