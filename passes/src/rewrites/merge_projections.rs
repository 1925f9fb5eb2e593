//! Ternary products of one activation become one product of a larger matrix: fewer ops, and rows that divide
//! more evenly among threads.
//!
//! - Gate and up of a gated feed-forward, `mul(relu2(gate), up)`, become one `bitlinear {epilogue=relu2_mul}` (of
//!   `silu`: `silu_mul`) over the two matrices interleaved in blocks of 16 rows, so that the thread that makes 16 gates makes the
//!   16 ups they belong to. An interleaved matrix has no meaning without this epilogue, so both are made at
//!   once.
//! - Any others (q, k and v) become one `ternary_matmul` of their rows one after the other, and a `split`.
//!
//! The rows of each matrix keep their scales and their sums, hence their bits. Left alone: matrices whose
//! rows do not fill whole tiles of 16 (a tile would then span two of them); a product that the function
//! returns, as a part of a split cannot be; a pair of which anything else is read (it counts among the
//! others); one matrix read twice (`cse` joins those); weights that already have a compute layout; products of an activation
//! with more readers than a value may have parts.

use bitnetc_ir::limits::MAX_PARTS;
use bitnetc_ir::weights::TILE_ROWS;
use bitnetc_ir::{
    DType, Epilogue, Func, Layout, Module, NodeId, Op, Operand, ParamDecl, ParamDef, ParamId, Sizes, Type,
    ValueId,
};

use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::{Patch, PatchRef};

/// See the module.
#[derive(Debug)]
pub struct MergeProjections;

/// A `ternary_matmul` that may be merged.
#[derive(Clone, Copy)]
struct Product {
    node: NodeId,
    x: ValueId,
    w: ParamId,
    rows: u32,
    y: ValueId,
}

impl Rewrite for MergeProjections {
    fn matches(&self, module: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        match func.node(node).op {
            Op::Mul {} => gated(module, func, node),
            Op::TernaryMatmul {} => concatenated(module, func, node),
            _ => None,
        }
    }
}

fn product(module: &Module, func: &Func, node: NodeId) -> Option<Product> {
    let n = func.node(node);
    let (Op::TernaryMatmul {}, &[Operand::Value(x), Operand::Param(w)]) = (&n.op, &n.operands[..]) else {
        return None;
    };
    let ty = &module.params()[w].ty;
    let (rows, _) = ty.as_matrix()?;
    let mergeable =
        matches!(ty.layout, Layout::Rows | Layout::I2s128 | Layout::Row16) && rows.is_multiple_of(TILE_ROWS);
    mergeable.then_some(Product { node, x, w, rows, y: n.results[0] })
}

/// A gate and an up matrix, and what joins their products.
struct Gated {
    gate: Product,
    up: Product,
    activation: NodeId,
    epilogue: Epilogue,
}

/// The products that `mul(activation(gate), up)` at `node` can take in as its epilogue.
fn gate_and_up(module: &Module, func: &Func, node: NodeId) -> Option<Gated> {
    let n = func.node(node);
    let (Op::Mul {}, &[Operand::Value(a), Operand::Value(b)]) = (&n.op, &n.operands[..]) else { return None };
    let activation = func.producer(a)?;
    let (epilogue, g) = match (&func.node(activation).op, &func.node(activation).operands[..]) {
        (Op::Relu2 {}, &[Operand::Value(g)]) => (Epilogue::Relu2Mul, g),
        (Op::Silu {}, &[Operand::Value(g)]) => (Epilogue::SiluMul, g),
        _ => return None,
    };
    let gate = product(module, func, func.producer(g)?)?;
    let up = product(module, func, func.producer(b)?)?;
    let alone = func.sole_user(a) == Some(node)
        && func.sole_user(gate.y) == Some(activation)
        && func.sole_user(up.y) == Some(node);
    let (gate_ty, up_ty) = (&module.params()[gate.w].ty, &module.params()[up.w].ty);
    let same_shape = gate_ty.shape == up_ty.shape && gate_ty.group == up_ty.group;
    let alike = gate.x == up.x && gate.w != up.w && same_shape;
    (alone && alike).then_some(Gated { gate, up, activation, epilogue })
}

fn gated(module: &Module, func: &Func, node: NodeId) -> Option<Patch> {
    let Gated { gate, up, activation, epilogue } = gate_and_up(module, func, node)?;
    let mut patch = Patch::new(PassId::MergeProjections, node);
    let w = patch.param(merged(module, &[gate, up], ParamDef::Interleave16(gate.w, up.w))?);
    let y = patch.op(Op::Bitlinear { epilogue }, vec![gate.x.into(), w]);
    patch.replace(func.node(node).results[0], y);
    for gone in [node, activation, gate.node, up.node] {
        patch.remove(gone);
    }
    Some(patch)
}

/// Whether the product is half of a pair that [`gated`] merges.
fn is_gated(module: &Module, func: &Func, y: ValueId) -> bool {
    let Some(user) = func.sole_user(y) else { return false };
    let mul = match func.node(user).op {
        Op::Relu2 {} | Op::Silu {} => func.sole_user(func.node(user).results[0]),
        _ => Some(user),
    };
    mul.is_some_and(|mul| gate_and_up(module, func, mul).is_some_and(|g| g.gate.y == y || g.up.y == y))
}

fn concatenated(module: &Module, func: &Func, node: NodeId) -> Option<Patch> {
    let first = product(module, func, node)?;
    let mut group: Vec<Product> = Vec::new();
    for user in func.users_up_to(first.x, MAX_PARTS)? {
        let Some(p) = product(module, func, user) else { continue };
        let alike = module.params()[p.w].ty.group == module.params()[first.w].ty.group;
        if alike && !func.is_output(p.y) && !is_gated(module, func, p.y) && group.iter().all(|q| q.w != p.w) {
            group.push(p);
        }
    }
    if group.len() < 2 || group[0].node != node {
        return None;
    }
    let mut patch = Patch::new(PassId::MergeProjections, node);
    let w = patch.param(merged(module, &group, ParamDef::Concat(group.iter().map(|p| p.w).collect()))?);
    let y = patch.op(Op::TernaryMatmul {}, vec![first.x.into(), w]);
    patch.op(Op::Split { sizes: Sizes(group.iter().map(|p| p.rows).collect()) }, vec![y]);
    for (result, p) in group.iter().enumerate() {
        patch.replace(p.y, PatchRef::New { op: 1, result });
    }
    for p in &group {
        patch.remove(p.node);
    }
    Some(patch)
}

fn merged(module: &Module, parts: &[Product], def: ParamDef) -> Option<ParamDecl> {
    let rows = parts.iter().try_fold(0u32, |sum, p| sum.checked_add(p.rows))?;
    let of_first = &module.params()[parts[0].w].ty;
    let (_, cols) = of_first.as_matrix()?;
    let names: Vec<&str> = parts.iter().map(|p| module.params()[p.w].name.as_str()).collect();
    Some(ParamDecl {
        name: merged_name(&names),
        ty: Type::matrix(DType::Ter, rows, cols).with_group(of_first.group),
        def,
    })
}

/// `l0.q`, `l0.k`, `l0.v` give `l0.qkv`; `l0.gate`, `l0.up` give `l0.gate_up`.
fn merged_name(names: &[&str]) -> String {
    let prefix = names[0].rfind('.').map_or("", |dot| &names[0][..=dot]);
    let prefix = if names.iter().all(|n| n.starts_with(prefix)) { prefix } else { "" };
    let rests: Vec<&str> = names.iter().map(|n| &n[prefix.len()..]).collect();
    let glue = if rests.iter().all(|r| r.len() == 1) { "" } else { "_" };
    format!("{prefix}{}", rests.join(glue))
}

#[cfg(test)]
mod tests {
    use super::merged_name;

    #[test]
    fn names_share_their_prefix() {
        assert_eq!(merged_name(&["l0.q", "l0.k", "l0.v"]), "l0.qkv");
        assert_eq!(merged_name(&["l12.gate", "l12.up"]), "l12.gate_up");
        assert_eq!(merged_name(&["l0.q", "l1.k"]), "l0.q_l1.k");
        assert_eq!(merged_name(&["a", "b"]), "ab");
    }
}
