//! Result types of ops, and the rules that their operand types must keep. One function for each rule set; the op table
//! names them. Slots (dtype and rank) and attributes, by the bounds of the table, have been checked before these run.

use crate::attr::Epilogue;
use crate::blocks::BLOCK;
use crate::limits::MAX_TAPS;
use crate::ops::Op;
use crate::types::{DType, Rows, StateDims, Type};
use crate::weights::TILE_ROWS;

/// A rule that operand types break, in words that name the sizes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeRule(pub String);

type Inferred = Result<Vec<Type>, TypeRule>;

fn rule<T>(text: impl Into<String>) -> Result<T, TypeRule> {
    Err(TypeRule(text.into()))
}

fn rows(ty: &Type) -> Result<Rows, TypeRule> {
    ty.as_rows().ok_or_else(|| TypeRule(format!("{ty} has no rows")))
}

fn matrix(ty: &Type) -> Result<(u32, u32), TypeRule> {
    ty.as_matrix().ok_or_else(|| TypeRule(format!("{ty} is no matrix")))
}

pub(crate) fn embed(_: &Op, t: &[&Type]) -> Inferred {
    let (_, width) = matrix(t[1])?;
    let per_token = matches!(t[0].shape.0[..], [crate::types::Dim::Tokens]);
    Ok(vec![Type::rows(DType::F32, Rows { per_token, width })])
}

fn norm_weight(t: &[&Type]) -> Result<Rows, TypeRule> {
    let x = rows(t[0])?;
    if t[1].elements() != Some(u64::from(x.width)) {
        return rule(format!("the weight {} must have {} elements, as x has", t[1], x.width));
    }
    Ok(x)
}

pub(crate) fn rms_norm(_: &Op, t: &[&Type]) -> Inferred {
    Ok(vec![Type::rows(DType::F32, norm_weight(t)?)])
}

pub(crate) fn rms_norm_quant(_: &Op, t: &[&Type]) -> Inferred {
    Ok(vec![Type::rows(DType::Q8, norm_weight(t)?)])
}

pub(crate) fn rms_norm_heads(op: &Op, t: &[&Type]) -> Inferred {
    let Op::RmsNormHeads { head, .. } = op else { return rule("not an rms_norm_heads") };
    let (x, w) = (rows(t[0])?, rows(t[1])?);
    if !x.width.is_multiple_of(*head) || w.width != *head {
        return rule(format!("{} columns and {} weights do not make heads of {head}", x.width, w.width));
    }
    Ok(vec![t[0].clone()])
}

pub(crate) fn quant_absmax(_: &Op, t: &[&Type]) -> Inferred {
    Ok(vec![Type::rows(DType::Q8, rows(t[0])?)])
}

fn product(t: &[&Type]) -> Result<Rows, TypeRule> {
    let x = rows(t[0])?;
    let (out, cols) = matrix(t[1])?;
    if x.width != cols {
        return rule(format!("x has {} columns but the matrix {} has {cols}", x.width, t[1]));
    }
    Ok(Rows { per_token: x.per_token, width: out })
}

pub(crate) fn ternary_matmul(_: &Op, t: &[&Type]) -> Inferred {
    Ok(vec![Type::rows(DType::F32, product(t)?)])
}

pub(crate) fn matmul(_: &Op, t: &[&Type]) -> Inferred {
    Ok(vec![Type::rows(DType::F32, product(t)?)])
}

pub(crate) fn bitlinear(op: &Op, t: &[&Type]) -> Inferred {
    let Op::Bitlinear { epilogue } = op else { return rule("not a bitlinear") };
    let mut y = product(t)?;
    match (epilogue, t.get(2)) {
        (Epilogue::Add, Some(residual)) => {
            if rows(residual)? != y {
                return rule(format!(
                    "the residual {residual} must have the type of the result, width {}",
                    y.width
                ));
            }
        }
        (Epilogue::Add, None) => return rule("epilogue=add needs a residual operand"),
        (_, Some(_)) => return rule("a residual operand needs epilogue=add"),
        (Epilogue::Relu2Mul | Epilogue::SiluMul, None) => {
            if !y.width.is_multiple_of(2 * TILE_ROWS) {
                return rule(format!(
                    "a gated epilogue needs rows in blocks of 16 + 16, the matrix has {}",
                    y.width
                ));
            }
            y.width /= 2;
        }
        (Epilogue::None, None) => {}
    }
    Ok(vec![Type::rows(DType::F32, y)])
}

fn head_dims(x: Rows, head: u32, rot: u32) -> Result<u32, TypeRule> {
    if !x.width.is_multiple_of(head) {
        return rule(format!("{} columns are not heads of {head}", x.width));
    }
    if rot > head {
        return rule(format!("rot={rot} must be at most head={head}"));
    }
    Ok(x.width / head)
}

pub(crate) fn rope(op: &Op, t: &[&Type]) -> Inferred {
    let Op::Rope { head, rot, .. } = op else { return rule("not a rope") };
    head_dims(rows(t[0])?, *head, *rot)?;
    Ok(vec![t[0].clone()])
}

fn cache_pair(kc: &Type, vc: &Type, k: &Type, v: &Type) -> Result<Vec<Type>, TypeRule> {
    let (Some(kd), Some(vd)) = (kc.as_cache(), vc.as_cache()) else {
        return rule("caches must be [kv_heads x C x head_dim]");
    };
    if kd != vd || kc.dtype != vc.dtype {
        return rule(format!("the caches differ: {kc} and {vc}"));
    }
    let width = u64::from(kd.kv_heads) * u64::from(kd.head_dim);
    let (kr, vr) = (rows(k)?, rows(v)?);
    if kr != vr || u64::from(kr.width) != width {
        return rule(format!("k and v must both have {width} columns for caches {kc}, they are {k} and {v}"));
    }
    Ok(vec![kc.clone(), vc.clone()])
}

pub(crate) fn kv_append(_: &Op, t: &[&Type]) -> Inferred {
    cache_pair(t[0], t[1], t[2], t[3])
}

pub(crate) fn rope_kv_append(op: &Op, t: &[&Type]) -> Inferred {
    let Op::RopeKvAppend { head, rot, .. } = op else { return rule("not a rope_kv_append") };
    let (q, k) = (rows(t[0])?, rows(t[1])?);
    head_dims(q, *head, *rot)?;
    head_dims(k, *head, *rot)?;
    if q.per_token != k.per_token {
        return rule("q and k must have the same tokens");
    }
    let caches = cache_pair(t[3], t[4], t[1], t[2])?;
    if t[3].as_cache().map(|c| c.head_dim) != Some(*head) {
        return rule(format!("head={head} is not the head size of the cache {}", t[3]));
    }
    Ok([vec![t[0].clone()], caches].concat())
}

pub(crate) fn attention(op: &Op, t: &[&Type]) -> Inferred {
    let Op::Attention { heads, kv_heads, .. } = op else { return rule("not an attention") };
    let (Some(kd), Some(vd)) = (t[1].as_cache(), t[2].as_cache()) else {
        return rule("caches must be [kv_heads x C x head_dim]");
    };
    if kd != vd || t[1].dtype != t[2].dtype {
        return rule(format!("the caches differ: {} and {}", t[1], t[2]));
    }
    if kd.kv_heads != *kv_heads {
        return rule(format!("kv_heads={kv_heads} but the cache is {}", t[1]));
    }
    if !heads.is_multiple_of(*kv_heads) {
        return rule(format!("heads={heads} must be a multiple of kv_heads={kv_heads}"));
    }
    if u64::from(rows(t[0])?.width) != u64::from(*heads) * u64::from(kd.head_dim) {
        return rule(format!("q is {}, expected {heads} heads of {}", t[0], kd.head_dim));
    }
    Ok(vec![t[0].clone()])
}

pub(crate) fn elementwise(_: &Op, t: &[&Type]) -> Inferred {
    match t.get(1) {
        Some(b) if *b != t[0] => rule(format!("operands differ: {} and {b}", t[0])),
        _ => Ok(vec![t[0].clone()]),
    }
}

pub(crate) fn quant_blocks(op: &Op, t: &[&Type]) -> Inferred {
    let Op::QuantBlocks { block } = op else { return rule("not a quant_blocks") };
    let group = if block.cols() == BLOCK { 0 } else { block.cols() };
    Ok(vec![Type::rows(DType::Q8b, rows(t[0])?).with_group(group)])
}

pub(crate) fn block_matmul(_: &Op, t: &[&Type]) -> Inferred {
    Ok(vec![Type::rows(DType::F32, product(t)?)])
}

pub(crate) fn screen(op: &Op, t: &[&Type]) -> Inferred {
    let Op::Screen { n } = op else { return rule("not a screen") };
    let y = rows(t[0])?;
    match (1..=y.width).contains(n) {
        true => Ok(vec![Type::rows(DType::I32, Rows { width: *n, ..y })]),
        false => rule(format!("n={n} must be 1 to {}, the elements of a row", y.width)),
    }
}

pub(crate) fn matmul_rows(_: &Op, t: &[&Type]) -> Inferred {
    let chosen = rows(t[1])?;
    let all = product(&[t[0], t[2]])?;
    match chosen.per_token == all.per_token {
        true => Ok(vec![Type::rows(DType::F32, chosen)]),
        false => rule("x and the row numbers must have the same tokens"),
    }
}

pub(crate) fn merge_screened(_: &Op, t: &[&Type]) -> Inferred {
    let (y, chosen, exact) = (rows(t[0])?, rows(t[1])?, rows(t[2])?);
    match chosen == exact && chosen.per_token == y.per_token {
        true => Ok(vec![t[0].clone()]),
        false => {
            rule(format!("{} and {} must have a number for a number, in the tokens of {}", t[1], t[2], t[0]))
        }
    }
}

pub(crate) fn split(op: &Op, t: &[&Type]) -> Inferred {
    let Op::Split { sizes } = op else { return rule("not a split") };
    let x = rows(t[0])?;
    let sum: u64 = sizes.0.iter().map(|&n| u64::from(n)).sum();
    if sum != u64::from(x.width) {
        return rule(format!("sizes {:?} must add up to {}", sizes.0, x.width));
    }
    Ok(sizes.0.iter().map(|&width| Type::rows(DType::F32, Rows { per_token: x.per_token, width })).collect())
}

pub(crate) fn hadamard(op: &Op, t: &[&Type]) -> Inferred {
    let Op::Hadamard { block, .. } = op else { return rule("not a hadamard") };
    let x = rows(t[0])?;
    if !x.width.is_multiple_of(*block) {
        return rule(format!("{} columns are not in blocks of {block}", x.width));
    }
    match t.get(1) {
        Some(signs) if signs.elements() != Some(u64::from(x.width)) => {
            rule(format!("there must be {} signs, one for each column, {signs} has others", x.width))
        }
        _ => Ok(vec![t[0].clone()]),
    }
}

pub(crate) fn transpose_heads(op: &Op, t: &[&Type]) -> Inferred {
    let Op::TransposeHeads { head, rows: of } = op else { return rule("not a transpose_heads") };
    let x = rows(t[0])?;
    match u64::from(x.width).is_multiple_of(u64::from(*head) * u64::from(*of)) {
        true => Ok(vec![t[0].clone()]),
        false => rule(format!("{} columns are not {of} rows of heads of {head}", x.width)),
    }
}

pub(crate) fn l2_norm_heads(op: &Op, t: &[&Type]) -> Inferred {
    let Op::L2NormHeads { head, .. } = op else { return rule("not an l2_norm_heads") };
    let x = rows(t[0])?;
    match x.width.is_multiple_of(*head) {
        true => Ok(vec![t[0].clone()]),
        false => rule(format!("{} columns are not heads of {head}", x.width)),
    }
}

pub(crate) fn with_vectors(_: &Op, t: &[&Type]) -> Inferred {
    let x = rows(t[0])?;
    for vector in &t[1..] {
        if vector.elements() != Some(u64::from(x.width)) {
            return rule(format!("{vector} must have {} elements, as x has", x.width));
        }
    }
    Ok(vec![t[0].clone()])
}

fn state(ty: &Type) -> Result<StateDims, TypeRule> {
    ty.as_state().ok_or_else(|| TypeRule(format!("{ty} is no state")))
}

pub(crate) fn causal_conv(_: &Op, t: &[&Type]) -> Inferred {
    let (x, (taps, channels), s) = (rows(t[0])?, matrix(t[1])?, state(t[2])?);
    if t[1].dtype != DType::F32 || !(2..=MAX_TAPS).contains(&taps) {
        return rule(format!("the weights {} must be 2 to {MAX_TAPS} rows of f32", t[1]));
    }
    if channels != x.width || !channels.is_multiple_of(TILE_ROWS) {
        return rule(format!(
            "the weights {} must have a column for each of {} channels, in 16s",
            t[1], x.width
        ));
    }
    let expected = StateDims { heads: 1, rows: taps - 1, cols: channels };
    match s == expected {
        true => Ok(vec![t[0].clone(), t[2].clone()]),
        false => rule(format!("the state {} must be {}", t[2], Type::state(expected))),
    }
}

pub(crate) fn delta_rule(_: &Op, t: &[&Type]) -> Inferred {
    let [q, k, v, decay, beta] = [rows(t[0])?, rows(t[1])?, rows(t[2])?, rows(t[3])?, rows(t[4])?];
    let s = state(t[5])?;
    if q != k || decay != beta || q.per_token != v.per_token || decay.per_token != v.per_token {
        return rule("q and k, and decay and beta, must be alike, and all have the same tokens");
    }
    if s.rows != s.cols || !s.cols.is_multiple_of(TILE_ROWS) {
        return rule(format!("the state {} must be square, in 16s", t[5]));
    }
    let (keys, heads) = (q.width / s.rows, v.width / s.cols);
    if !q.width.is_multiple_of(s.rows) || !v.width.is_multiple_of(s.cols) || heads != s.heads {
        return rule(format!("q is {} and v is {}, expected heads as in the state {}", t[0], t[2], t[5]));
    }
    if !heads.is_multiple_of(keys) || decay.width != heads {
        let width = decay.width;
        return rule(format!("{heads} value heads, {keys} key heads and {width} decays do not go together"));
    }
    Ok(vec![t[2].clone(), t[5].clone()])
}
