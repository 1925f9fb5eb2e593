//! The planned module as one JSON object, schema `bitnetc.module/1`: weights, and for each function its inputs, outputs,
//! memory and ops, each with operands, attributes, types, places, barrier and kernels.

use bitnetc_ir::text::ValueNames;
use bitnetc_ir::{FuncId, NodeId, Operand, ParamDef, Place, TargetDesc, ValueId, weights};
use serde_json::{Value, json};

use super::Lowered;

/// The object.
pub(super) fn json(lowered: &Lowered, target: &TargetDesc) -> Value {
    let module = &lowered.module;
    let kernels = lowered.kernels_of_ops();
    let params = module.params().values().map(|decl| {
        let names = |all: &[bitnetc_ir::ParamId]| -> Vec<&str> {
            all.iter().map(|&p| module.params()[p].name.as_str()).collect()
        };
        let (origin, tensor) = match &decl.def {
            ParamDef::File { tensor, .. } => ("file", Some(tensor)),
            ParamDef::Concat(_) => ("concat", None),
            ParamDef::Interleave16(..) => ("interleave16", None),
            ParamDef::Relayout(_) => ("relayout", None),
            ParamDef::Quantise(_) => ("quantise", None),
        };
        json!({
            "name": decl.name,
            "type": decl.ty.to_string(),
            "origin": origin,
            "tensor": tensor,
            "of": names(&decl.def.sources()),
            "bytes": weights::packed_bytes(&decl.ty).map(|(bytes, scales)| bytes + scales),
        })
    });
    let funcs = module.funcs().keys().map(|id| func(lowered, id, &kernels));
    json!({
        "schema": "bitnetc.module/1",
        "stage": module.stage.name(),
        "target": target.to_string(),
        "weights": params.collect::<Vec<_>>(),
        "functions": funcs.collect::<Vec<_>>(),
        "kernels": lowered.programs.kernels.values().map(|spec| spec.name()).collect::<Vec<_>>(),
    })
}

fn func(
    lowered: &Lowered,
    id: FuncId,
    kernels: &std::collections::BTreeMap<(FuncId, NodeId), Vec<String>>,
) -> Value {
    let module = &lowered.module;
    let func = &module.funcs()[id];
    let names = ValueNames::new(func);
    let plan = func.plan.as_ref();
    let value = |v: ValueId| json!({ "name": names.value(v), "type": func.ty(v).to_string() });
    let place = |v: ValueId| match plan.and_then(|plan| plan.places.get(&v)) {
        Some(Place::Arena { offset, size }) => json!({ "in": "arena", "offset": offset, "bytes": size }),
        Some(Place::Private { offset, size }) => json!({ "in": "private", "offset": offset, "bytes": size }),
        Some(Place::View { of, offset }) => json!({ "view": names.value(*of), "offset": offset }),
        Some(Place::Alias { of }) => json!({ "alias": names.value(*of) }),
        Some(Place::Extern) => json!({ "in": "caller" }),
        None => Value::Null,
    };
    let ops = func.order().iter().map(|&node| {
        let op = func.node(node);
        let operands = op.operands.iter().map(|operand| match operand {
            Operand::Value(v) => names.value(*v),
            Operand::Param(p) => format!("@{}", module.params()[*p].name),
        });
        let attrs =
            op.op.print_attrs().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
        let results = op.results.iter().map(|&v| {
            let mut result = value(v);
            result["place"] = place(v);
            result
        });
        json!({
            "op": op.op.info().mnemonic,
            "operands": operands.collect::<Vec<_>>(),
            "attributes": Value::Object(attrs.collect()),
            "results": results.collect::<Vec<_>>(),
            "barrier": plan.is_some_and(|plan| plan.barriers.contains(&node)),
            "kernels": kernels.get(&(id, node)).cloned().unwrap_or_default(),
        })
    });
    json!({
        "name": func.name(),
        "max_tokens": func.tokens().max(),
        "inputs": func.inputs().iter().map(|&v| value(v)).collect::<Vec<_>>(),
        "outputs": func.outputs().iter().map(|&v| names.value(v)).collect::<Vec<_>>(),
        "arena_bytes": plan.map(|plan| plan.arena_bytes),
        "private_bytes": plan.map(|plan| plan.private_bytes),
        "ops": ops.collect::<Vec<_>>(),
    })
}
