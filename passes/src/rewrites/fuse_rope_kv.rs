//! `rope` on the queries, `rope` on the keys and `kv_append` become `rope_kv_append`: one op and one barrier
//! for three.
//!
//! The queries are those of an attention over the caches that the append returns. Left alone: keys that
//! anything else reads after their rotation; rotations that differ in an attribute or in the position;
//! queries that are not rotated or are read before the append; caches whose heads are not the heads of the
//! rotation.

use bitnetc_ir::{Func, Module, NodeId, Op, Operand, ValueId};

use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::{Patch, PatchRef};

/// See the module.
#[derive(Debug)]
pub struct FuseRopeKv;

/// The `rope` that makes `value`, and its operands.
fn rope_of(func: &Func, value: ValueId) -> Option<(NodeId, ValueId, Operand)> {
    let id = func.producer(value)?;
    let node = func.node(id);
    match (&node.op, &node.operands[..]) {
        (Op::Rope { .. }, &[Operand::Value(x), pos]) => Some((id, x, pos)),
        _ => None,
    }
}

impl Rewrite for FuseRopeKv {
    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let append = func.node(node);
        let (Op::KvAppend {}, &[kc, vc, Operand::Value(k), v, pos]) = (&append.op, &append.operands[..])
        else {
            return None;
        };
        let (k_rope, k_plain, k_pos) = rope_of(func, k)?;
        if func.sole_user(k) != Some(node) || k_pos != pos {
            return None;
        }
        let Op::Rope { theta, head, rot, pairs } = func.node(k_rope).op else { return None };
        if func.ty(append.results[0]).as_cache()?.head_dim != head {
            return None;
        }
        let (q_rope, q, q_plain) = func.users(append.results[0]).into_iter().find_map(|user| {
            let attention = func.node(user);
            let (Op::Attention { .. }, &[Operand::Value(q), kc, _, _]) =
                (&attention.op, &attention.operands[..])
            else {
                return None;
            };
            let (q_rope, q_plain, q_pos) = rope_of(func, q)?;
            let same = func.node(q_rope).op == func.node(k_rope).op && q_pos == pos && q_rope != k_rope;
            (same && kc == Operand::Value(append.results[0])).then_some((q_rope, q, q_plain))
        })?;
        let made_before = func.producer(q_plain).is_none_or(|p| func.is_before(p, node));
        let read_after = func.users(q).into_iter().all(|u| func.is_before(node, u));
        if !made_before || !read_after || func.ty(q).as_rows()?.per_token != func.ty(k).as_rows()?.per_token {
            return None;
        }

        let mut patch = Patch::new(PassId::FuseRopeKv, node);
        let op = Op::RopeKvAppend { theta, head, rot, pairs };
        patch.op(op, vec![q_plain.into(), k_plain.into(), v.into(), kc.into(), vc.into(), pos.into()]);
        for (result, old) in [q, append.results[0], append.results[1]].into_iter().enumerate() {
            patch.replace(old, PatchRef::New { op: 0, result });
        }
        for gone in [node, k_rope, q_rope] {
            patch.remove(gone);
        }
        Some(patch)
    }
}
