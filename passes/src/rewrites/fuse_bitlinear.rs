//! Ternary products become `bitlinear`, the op that the kernels implement, together with what follows them:
//!
//! - `add(residual, y)`, y a product that nothing else reads, becomes `bitlinear {epilogue=add}` with the
//!   residual as third operand: the sum is made while the row is in a register, and the residual can be
//!   updated in place.
//! - Any other `ternary_matmul` becomes `bitlinear {epilogue=none}`.
//!
//! The gated epilogue needs both matrices interleaved and is made by `merge-projections`. Left alone: a sum
//! whose second operand is read elsewhere too, or is no product (`canonicalise` puts the product second).

use bitnetc_ir::{Epilogue, Func, Module, NodeId, Op, Operand};

use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::Patch;

/// See the module.
#[derive(Debug)]
pub struct FuseBitlinear;

impl Rewrite for FuseBitlinear {
    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        match func.node(node).op {
            Op::Add {} => residual(func, node),
            Op::TernaryMatmul {} => plain(func, node),
            _ => None,
        }
    }
}

/// The product that the `add` at `node` takes in.
fn addend(func: &Func, node: NodeId) -> Option<(NodeId, Operand)> {
    let sum = func.node(node);
    let (Op::Add {}, &[residual, Operand::Value(y)]) = (&sum.op, &sum.operands[..]) else { return None };
    let product = func.producer(y)?;
    let is_product =
        matches!(func.node(product).op, Op::TernaryMatmul {} | Op::Bitlinear { epilogue: Epilogue::None });
    let alone = func.sole_user(y) == Some(node) && residual != Operand::Value(y);
    (is_product && alone).then_some((product, residual))
}

fn residual(func: &Func, node: NodeId) -> Option<Patch> {
    let (product, residual) = addend(func, node)?;
    let mut operands: Vec<_> = func.node(product).operands.iter().map(|&o| o.into()).collect();
    operands.push(residual.into());
    let mut patch = Patch::new(PassId::FuseBitlinear, node);
    let y = patch.op(Op::Bitlinear { epilogue: Epilogue::Add }, operands);
    patch.replace(func.node(node).results[0], y);
    patch.remove(node);
    patch.remove(product);
    Some(patch)
}

fn plain(func: &Func, node: NodeId) -> Option<Patch> {
    let product = func.node(node);
    let taken = func.sole_user(product.results[0]).is_some_and(|user| addend(func, user).is_some());
    if taken {
        return None;
    }
    let mut patch = Patch::new(PassId::FuseBitlinear, node);
    let operands = product.operands.iter().map(|&o| o.into()).collect();
    let y = patch.op(Op::Bitlinear { epilogue: Epilogue::None }, operands);
    patch.replace(product.results[0], y);
    patch.remove(node);
    Some(patch)
}
