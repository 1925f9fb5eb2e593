//! Chooses layouts: from here on a module is made for one target.
//!
//! - Every ternary matrix that an op reads is replaced by a `relayout` of it to a layout that kernels read, `tile16`,
//!   `trits16` or `lut16`, named `NAME.tile16` and so on. Which one follows from [`PassContext::weights`], where asked by
//!   the cost model ([`crate::cost`]). A matrix that is in such a layout already keeps it.
//! - Every block-quantised matrix that an op reads is replaced by a `relayout` of it to `tile16`.
//! - Every cache that holds keys gets `keys16`, in all functions in which an input has its name, because
//!   functions hand caches to each other by name. Value caches stay in rows.
//!
//! What a layout means is written in `ir`, how it is packed in `codegen`. Dense matrices and vectors keep
//! their layout: there is one for each.

use std::collections::BTreeMap;

use bitnetc_ir::weights::packed_bytes;
use bitnetc_ir::{
    BlockFormat, DType, Entity, Func, FuncId, Layout, Module, NodeId, Operand, ParamDecl, ParamDef, ParamId,
    Slot, TokenCount, ValueDef, ValueId,
};

use crate::context::PassContext;
use crate::cost::{self, CostModel};
use crate::error::PassFailure;
use crate::pass::Transform;
use crate::patch::intern;

/// See the module.
#[derive(Debug)]
pub struct AssignLayout;

impl Transform for AssignLayout {
    fn run(&self, module: &mut Module, context: &PassContext) -> Result<bool, PassFailure> {
        let mut changed = module.target.as_ref() != Some(&context.target);
        module.target = Some(context.target.clone());
        let funcs: Vec<FuncId> = module.funcs().keys().collect();
        let layouts = weight_layouts(module, context);
        for &func in &funcs {
            changed |= pack_weights(module, func, &layouts);
        }
        let key_caches = key_caches(module)?;
        for &func in &funcs {
            changed |= lay_out_caches(module.func_mut(func), &key_caches);
            let types: Vec<_> = module.params().values().map(|p| p.ty.clone()).collect();
            let param_type = |p: ParamId| types[p.index()].clone();
            let body = module.func_mut(func);
            let name = body.name().to_owned();
            body.retype(&param_type).map_err(|(_, source)| PassFailure::Retype { func: name, source })?;
        }
        Ok(changed)
    }
}

/// The layout for every ternary or block-quantised matrix that an op reads and that is in none that kernels read.
fn weight_layouts(module: &Module, context: &PassContext) -> BTreeMap<ParamId, Layout> {
    let (mut read, mut step_bytes) = (BTreeMap::new(), 0u64);
    for func in module.funcs().values() {
        let one_token = func.tokens() == TokenCount::One;
        let params = func.params_used();
        let bytes = |p: &ParamId| {
            let ty = &module.params()[*p].ty;
            let tiled = ty.dtype == DType::Ter || BlockFormat::of(ty.dtype).is_some();
            let compute = if tiled { Layout::Tile16 } else { ty.layout };
            packed_bytes(&ty.clone().with_layout(compute)).map_or(0, |(bytes, _)| bytes)
        };
        step_bytes = step_bytes.max(params.iter().map(bytes).fold(0, u64::saturating_add));
        for param in params {
            *read.entry(param).or_insert(false) |= one_token;
        }
    }
    let resident = CostModel::new(&context.target).resident(step_bytes);
    let layout = |(param, one_token): (ParamId, bool)| {
        let ty = &module.params()[param].ty;
        if BlockFormat::of(ty.dtype).is_some() {
            return (ty.layout != Layout::Tile16).then_some((param, Layout::Tile16));
        }
        let (rows, cols) =
            ty.as_matrix().filter(|_| ty.dtype == DType::Ter && !ty.layout.is_packed_ternary())?;
        let (packing, target) = (context.weights, &context.target);
        let shape = cost::TernaryShape { rows, cols, group: ty.group };
        Some((param, cost::ternary_layout(packing, target, shape, one_token, resident)))
    };
    read.into_iter().filter_map(layout).collect()
}

/// Makes the ops of `func` read matrices in these layouts.
fn pack_weights(module: &mut Module, func: FuncId, layouts: &BTreeMap<ParamId, Layout>) -> bool {
    let body = &module.funcs()[func];
    let mut reads: Vec<(NodeId, usize, ParamId, Layout)> = Vec::new();
    for &node in body.order() {
        for (slot, &operand) in body.node(node).operands.iter().enumerate() {
            if let Operand::Param(p) = operand
                && let Some(&layout) = layouts.get(&p)
            {
                reads.push((node, slot, p, layout));
            }
        }
    }
    for &(node, slot, param, layout) in &reads {
        let source = &module.params()[param];
        let decl = ParamDecl {
            name: format!("{}.{}", source.name, layout.name()),
            ty: source.ty.clone().with_layout(layout),
            def: ParamDef::Relayout(param),
        };
        let packed = intern(module, &decl);
        module.func_mut(func).set_operand(node, slot, Operand::Param(packed));
    }
    !reads.is_empty()
}

/// The input that `cache` is an appended form of.
fn cache_input(func: &Func, mut cache: ValueId) -> Option<ValueId> {
    loop {
        let ValueDef::Result(node, result) = func.value(cache).def else { return Some(cache) };
        let node = func.node(node);
        let Operand::Value(before) = node.operands[node.op.info().updated(result as usize)?] else {
            return None;
        };
        cache = before;
    }
}

/// Names of the caches that hold keys.
fn key_caches(module: &Module) -> Result<BTreeMap<String, String>, PassFailure> {
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for func in module.funcs().values() {
        for &node in func.order() {
            let node = func.node(node);
            for (&(slot, kind), &operand) in node.op.info().operands.iter().zip(&node.operands) {
                let role = match slot {
                    _ if kind != Slot::Cache => continue,
                    "kc" => &mut keys,
                    _ => &mut values,
                };
                if let Operand::Value(cache) = operand
                    && let Some(name) = cache_input(func, cache).and_then(|c| func.value(c).name.clone())
                {
                    role.entry(name).or_insert_with(|| func.name().to_owned());
                }
            }
        }
    }
    match keys.iter().find_map(|(cache, k)| values.get(cache).map(|v| (cache, k, v))) {
        Some((cache, k, v)) => {
            Err(PassFailure::CacheRole { cache: cache.clone(), keys: k.clone(), values: v.clone() })
        }
        None => Ok(keys),
    }
}

fn lay_out_caches(func: &mut Func, keys: &BTreeMap<String, String>) -> bool {
    let mut changed = false;
    for position in 0..func.inputs().len() {
        let input = func.value(func.inputs()[position]);
        let is_key = input.name.as_ref().is_some_and(|name| keys.contains_key(name));
        if is_key && input.ty.as_cache().is_some() && input.ty.layout != Layout::Keys16 {
            let ty = input.ty.clone().with_layout(Layout::Keys16);
            func.set_input_type(position, ty);
            changed = true;
        }
    }
    changed
}
