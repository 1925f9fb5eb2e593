//! Rules about functions: values, ops, caches, outputs.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Rule, Scope};
use crate::blocks::TERNARY_BLOCK;
use crate::build::check_op;
use crate::columns::OpInfo;
use crate::entity::{NodeId, ValueId};
use crate::graph::{Node, Operand, TokenCount, ValueDef};
use crate::limits::{MAX_HEAD, MAX_HEADS, MAX_INPUTS, MAX_OUTPUTS, MAX_PARTS, MAX_WIDTH};
use crate::module::Module;
use crate::stage::Stage;
use crate::storage::MAX_TOKENS;
use crate::text::is_name;
use crate::types::{DType, Dim, Layout, Type};

/// The operands of an op that are caches or recurrent states: slot number, slot name, and the result that is the cache or state
/// after the op, if the op updates it.
pub(crate) fn cache_slots(
    info: &'static OpInfo,
) -> impl Iterator<Item = (usize, &'static str, Option<usize>)> {
    let slots = info.operands.iter().chain(info.optional).enumerate();
    slots.filter(|(_, (_, slot))| slot.is_persistent()).map(|(i, (name, _))| {
        let result = (0..info.results.len()).find(|&r| info.updated(r) == Some(i));
        (i, *name, result)
    })
}

/// Checks a function; returns whether all its operands, results and outputs exist and are typed, so that its plan can be
/// checked.
pub(super) fn check(module: &Module, scope: &mut Scope<'_, '_>) -> bool {
    let func = scope.func;
    let before = scope.errors.list.len();
    if let TokenCount::UpTo(n) = func.tokens()
        && !(1..=MAX_TOKENS).contains(&n)
    {
        scope.func(Rule::TokensRange, format!("calls of up to {n} tokens: expected 1 to {MAX_TOKENS}"));
    }
    let sizes = [("inputs", func.inputs().len(), MAX_INPUTS), ("outputs", func.outputs().len(), MAX_OUTPUTS)];
    if let Some((what, has, most)) = sizes.into_iter().find(|(_, has, most)| has > most) {
        scope.func(Rule::FuncSize, format!("{has} {what}, the most are {most}"));
        return false;
    }
    let mut caches = Caches::default();
    let mut parts = Parts::default();
    let mut defined: HashSet<ValueId> = HashSet::new();
    let mut names = HashSet::new();
    for (i, &input) in func.inputs().iter().enumerate() {
        let data = func.value(input);
        match &data.name {
            Some(name) if is_name(name) => {
                if !names.insert(name) {
                    scope.value(Rule::NameUnique, input, "another input has this name");
                }
            }
            _ => scope.value(Rule::NameSyntax, input, "an input has a name of the text form"),
        }
        if data.def != ValueDef::Input(i as u32) {
            scope.value(Rule::GraphEdges, input, format!("this is input {i} and does not know it"));
        }
        check_input(module, scope, input, &data.ty);
        defined.insert(input);
    }
    let mut edges = BTreeSet::new();
    for &id in func.order() {
        if scope.errors.full() {
            return false;
        }
        let node = func.node(id);
        check_node(module, scope, id, node, &defined);
        caches.visit(module, scope, id, node);
        parts.visit(scope, id, node);
        for (slot, operand) in node.operands.iter().enumerate() {
            if let Operand::Value(v) = operand
                && let Some(ValueDef::Result(from, _)) = func.get_value(*v).map(|d| d.def)
            {
                edges.insert((from, id, slot as u32));
            }
        }
        defined.extend(&node.results);
    }
    check_graph(scope, &edges);
    check_outputs(scope, &defined, &caches);
    scope.errors.list.len() == before
}

fn check_input(module: &Module, scope: &mut Scope<'_, '_>, input: ValueId, ty: &Type) {
    let cache = ty.as_cache().is_some();
    let dims = &ty.shape.0;
    if dims.contains(&Dim::Ctx) && !cache {
        scope.value(Rule::CtxDim, input, format!("{ty} has the dimension C and is no cache"));
        return;
    }
    let kind = match ty.dtype {
        DType::F32 if cache || ty.as_state().is_some() => true,
        DType::F16 => cache,
        DType::Q8b => ty.as_rows().is_some() && matches!(ty.group, 0 | TERNARY_BLOCK),
        DType::F32 | DType::Q8 | DType::I32 => ty.as_rows().is_some(),
        DType::Idx => matches!(dims[..], [] | [Dim::N(1)] | [Dim::Tokens]),
        DType::Bf16 | DType::I8 | DType::Ter | DType::W8 | DType::W6 | DType::W4 => false,
    };
    let layout = ty.layout == Layout::Rows || (ty.layout == Layout::Keys16 && cache);
    let grouped = ty.group > 0 && ty.dtype != DType::Q8b;
    if !kind || !layout || grouped || dims.contains(&Dim::N(0)) {
        let message = format!("{ty} is no activation, no cache, no state, no token ids and no position");
        scope.value(Rule::InputType, input, message);
    }
    if let Some(cache) = ty.as_cache()
        && (cache.kv_heads > MAX_HEADS || cache.head_dim > MAX_HEAD)
    {
        let message =
            format!("{ty} is a cache of more than {MAX_HEADS} heads, or of heads of more than {MAX_HEAD}");
        scope.value(Rule::InputType, input, message);
    }
    if let Some(state) = ty.as_state()
        && (state.heads > MAX_HEADS || state.rows > MAX_HEAD || state.cols > MAX_WIDTH)
    {
        let message = format!(
            "{ty} is a state of more than {MAX_HEADS} heads, or of more than {MAX_HEAD} rows or {MAX_WIDTH} columns"
        );
        scope.value(Rule::InputType, input, message);
    }
    if scope.func.tokens() == TokenCount::One && dims.contains(&Dim::Tokens) {
        scope.value(Rule::TokenDim, input, format!("{ty} in a function with tokens=1"));
    }
    if ty.layout == Layout::Keys16 && module.stage < Stage::LaidOut {
        scope.value(Rule::LayoutEarly, input, format!("layout keys16 in stage {}", module.stage));
    }
}

fn check_node(
    module: &Module,
    scope: &mut Scope<'_, '_>,
    id: NodeId,
    node: &Node,
    defined: &HashSet<ValueId>,
) {
    let info = node.op.info();
    if !info.stages.contains(module.stage) {
        let message = format!(
            "`{}` is legal from stage {} on, this is {}",
            info.mnemonic,
            info.stages.first(),
            module.stage
        );
        scope.node(Rule::OpStage, id, message);
    }
    for (i, &result) in node.results.iter().enumerate() {
        if scope.func.get_value(result).map(|d| d.def) != Some(ValueDef::Result(id, i as u32)) {
            scope.node(Rule::GraphEdges, id, format!("result {i} does not know its op"));
        }
    }
    let mut typed: Vec<(Type, bool)> = Vec::with_capacity(node.operands.len());
    for (i, operand) in node.operands.iter().enumerate() {
        let ty = match operand {
            Operand::Value(v) if defined.contains(v) => {
                scope.func.get_value(*v).map(|d| (d.ty.clone(), false))
            }
            Operand::Param(p) => module.params().get(*p).map(|d| (d.ty.clone(), true)),
            Operand::Value(_) => None,
        };
        match ty {
            Some(ty) => typed.push(ty),
            None => {
                let message = match operand {
                    Operand::Value(v) => {
                        format!("operand {i}, {}, is no input and no result of an earlier op", scope.name(*v))
                    }
                    Operand::Param(_) => format!("operand {i} is a parameter that the module does not have"),
                };
                scope.node(Rule::OperandDefined, id, message);
                return;
            }
        }
    }
    if module.stage >= Stage::LaidOut {
        for (i, (ty, is_param)) in typed.iter().enumerate() {
            let is_blocks = crate::blocks::BlockFormat::of(ty.dtype).is_some();
            let wrong = match ty.dtype {
                DType::Ter => !ty.layout.is_packed_ternary(),
                _ => is_blocks && ty.layout != Layout::Tile16,
            };
            if *is_param && wrong {
                let readable = if is_blocks { "tile16" } else { "tile16, trits16 or lut16" };
                scope.node(Rule::WeightLayout, id, format!("operand {i} is {ty}, kernels read {readable}"));
            }
        }
    }
    match check_op(&node.op, &typed) {
        Err(e) => scope.node(Rule::OpTypes, id, e.to_string()),
        Ok(types) if types.len() != node.results.len() => {
            let message = format!("{} results, the op has {}", node.results.len(), types.len());
            scope.node(Rule::ResultType, id, message);
        }
        Ok(types) => {
            for (ty, &result) in types.iter().zip(&node.results) {
                let has = scope.func.get_value(result).map(|d| &d.ty);
                if has.is_some_and(|has| has != ty) {
                    scope.value(Rule::ResultType, result, format!("the type should be {ty}"));
                }
            }
        }
    }
}

fn check_graph(scope: &mut Scope<'_, '_>, expected: &BTreeSet<(NodeId, NodeId, u32)>) {
    if scope.func.is_cyclic() {
        scope.func(Rule::GraphCycle, "its ops depend on each other in a circle");
    }
    let edges: Vec<_> = scope.func.edges().collect();
    let found: BTreeSet<_> = edges.iter().copied().collect();
    if found.len() != edges.len() {
        scope.func(Rule::GraphEdges, "the graph has an edge twice");
    }
    for &(_, to, slot) in expected.difference(&found) {
        scope.node(Rule::GraphEdges, to, format!("the graph has no edge for operand {slot}"));
    }
    for &(_, to, slot) in found.difference(expected) {
        scope.node(Rule::GraphEdges, to, format!("the graph has a stale edge for operand {slot}"));
    }
}

fn check_outputs(scope: &mut Scope<'_, '_>, defined: &HashSet<ValueId>, caches: &Caches) {
    let mut seen = HashSet::new();
    for &output in scope.func.outputs() {
        let Some(data) = scope.func.get_value(output).filter(|_| defined.contains(&output)) else {
            scope.func(Rule::OutputDefined, "it returns a value that it does not have");
            continue;
        };
        let stored = match data.def {
            ValueDef::Input(_) => false,
            ValueDef::Result(node, _) => !scope.func.node(node).op.info().is_view(),
        };
        if !stored {
            scope.value(Rule::OutputResult, output, "an input, or a part of a split, cannot be returned");
        }
        if !seen.insert(output) {
            scope.value(Rule::OutputOnce, output, "it is returned more than once");
        }
        if caches.updated.contains(&output) {
            scope.value(Rule::CacheLinear, output, "it is returned, but a later op has changed this cache");
        }
    }
}

/// The parts of values so far.
#[derive(Default)]
struct Parts {
    /// Of a part, the value that it is part of in the end.
    whole: HashMap<ValueId, ValueId>,
    /// Of a value that is no part, how many parts it has.
    count: HashMap<ValueId, usize>,
}

impl Parts {
    fn visit(&mut self, scope: &mut Scope<'_, '_>, id: NodeId, node: &Node) {
        if !node.op.info().is_view() {
            return;
        }
        let Some(&Operand::Value(of)) = node.operands.first() else { return };
        let whole = self.whole.get(&of).copied().unwrap_or(of);
        let count = self.count.entry(whole).or_default();
        *count += node.results.len();
        if *count > MAX_PARTS {
            let message = format!("{} has {count} parts, the most are {MAX_PARTS}", scope.name(whole));
            scope.node(Rule::SplitParts, id, message);
        }
        self.whole.extend(node.results.iter().map(|&part| (part, whole)));
    }
}

/// How caches are used so far.
#[derive(Default)]
struct Caches {
    /// The first form of a cache that was updated.
    origin: HashMap<ValueId, ValueId>,
    /// The slot name under which a cache, by its first form, is used.
    roles: HashMap<ValueId, &'static str>,
    /// Forms that an update has made obsolete.
    updated: HashSet<ValueId>,
}

impl Caches {
    fn visit(&mut self, module: &Module, scope: &mut Scope<'_, '_>, id: NodeId, node: &Node) {
        let mut changed = Vec::new();
        for (slot, name, result) in cache_slots(node.op.info()) {
            let Some(Operand::Value(cache)) = node.operands.get(slot).copied() else { continue };
            let origin = self.origin.get(&cache).copied().unwrap_or(cache);
            if *self.roles.entry(origin).or_insert(name) != name {
                let message =
                    format!("{} is used as `{name}` and elsewhere under another role", scope.name(cache));
                scope.node(Rule::CacheRole, id, message);
            }
            if self.updated.contains(&cache) || changed.contains(&cache) {
                let message =
                    format!("{} has been changed by an update, its old contents are gone", scope.name(cache));
                scope.node(Rule::CacheLinear, id, message);
            }
            if module.stage >= Stage::LaidOut
                && let Some(layout) = scope.func.get_value(cache).map(|d| d.ty.layout)
                && layout != cache_layout(name)
            {
                let message = format!(
                    "`{name}` is in layout {}, expected {}",
                    layout.name(),
                    cache_layout(name).name()
                );
                scope.node(Rule::CacheLayout, id, message);
            }
            if let Some(new) = result.and_then(|r| node.results.get(r)) {
                changed.push(cache);
                self.origin.insert(*new, origin);
            }
        }
        self.updated.extend(changed);
    }
}

/// The layout of the cache in slot `name` once layouts are chosen.
pub(crate) fn cache_layout(name: &str) -> Layout {
    match name {
        "kc" => Layout::Keys16,
        _ => Layout::Rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::ALL_OPS;

    #[test]
    fn updates_are_told_from_reads() {
        let of = |mnemonic: &str| {
            let info = ALL_OPS.iter().find(|i| i.mnemonic == mnemonic).unwrap();
            cache_slots(info).collect::<Vec<_>>()
        };
        assert_eq!(of("kv_append"), [(0, "kc", Some(0)), (1, "vc", Some(1))]);
        assert_eq!(of("rope_kv_append"), [(3, "kc", Some(1)), (4, "vc", Some(2))]);
        assert_eq!(of("attention"), [(1, "kc", None), (2, "vc", None)]);
        assert_eq!(of("add"), []);
    }
}
