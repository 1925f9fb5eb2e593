//! The verifier: what a module must keep so that passes, code generation and the runtime may rely on it.
//!
//! It takes any module, also one made from untrusted text, collects errors (at most [`MAX_ERRORS`]) and anchors each to a
//! function, op, value or parameter, under the code of the rule that is broken. The rules:
//!
//! Names
//! - `name-syntax`: names of parameters, functions and inputs are names of the text form; tensor names are short.
//! - `name-unique`: no two parameters, no two functions, no two inputs of a function have the same name.
//!
//! Sizes ([`crate::limits`])
//! - `module-size`: a module has at most `MAX_PARAMS` parameters, `MAX_FUNCS` functions, and `MAX_OPS` ops in all of them
//!   together.
//! - `func-size`: a function has at most `MAX_INPUTS` inputs and `MAX_OUTPUTS` outputs.
//! - `split-parts`: a value has at most `MAX_PARTS` parts, through all splits of it and of its parts.
//!
//! Parameters
//! - `param-type`: a parameter is an f32 vector, a matrix of f32, f16 or bf16, or a ternary or block-quantised matrix;
//!   sizes are at least 1.
//! - `param-size`: a parameter has fewer than 2^40 elements.
//! - `param-layout`: only ternary matrices have `i2s128`, with columns in blocks of 128, and `trits16` and `lut16`, with
//!   at most [`crate::weights::TRITS_MAX_COLS`] columns; only they and block-quantised matrices have `tile16`.
//! - `param-file`: a ternary or block-quantised parameter from a file is in a layout that has bytes.
//! - `param-order`: a derived parameter refers to parameters that are declared before it.
//! - `param-concat`: `concat` joins ternary matrices with equal columns, its rows are theirs added up, its layout is `rows`.
//! - `param-interleave`: `interleave16` takes two ternary matrices of equal shape with rows in blocks of 16, has twice
//!   their rows and layout `rows`.
//! - `param-relayout`: `relayout` keeps the type of a ternary or block-quantised matrix and has layout `tile16` or, where
//!   it is ternary, `trits16` or `lut16`, which its source has not.
//! - `param-quantise`: `quantise` takes an f32, f16 or bf16 matrix, keeps its shape, and has an element type in blocks and
//!   layout `rows`.
//!
//! Stages
//! - `target-stage`: there is a target from stage `laid_out` on, and none before.
//! - `op-stage`: an op stands only in stages in which the op table allows it.
//! - `layout-early`: before `laid_out` there is no `tile16`, no `trits16`, no `lut16` and no `keys16`.
//! - `weight-layout`: from `laid_out` on, a ternary parameter that an op reads is `tile16`, `trits16` or
//!   `lut16`, a block-quantised one `tile16`.
//! - `cache-layout`: from `laid_out` on, K caches (operands `kc`) are `keys16` and V caches (`vc`) are `rows`.
//! - `plan-stage`: functions have a plan in stage `planned` and only there.
//!
//! Functions
//! - `tokens-range`: a call takes at least one token and at most [`crate::storage::MAX_TOKENS`].
//! - `input-type`: an input is an activation (f32, q8, q8b or i32), token ids, a position, or an f16 or f32 cache; sizes are at
//!   least 1, those of a cache at most `MAX_HEADS` heads of `MAX_HEAD` elements; only a cache has a layout.
//! - `token-dim`: no type of a function with `tokens=1` has the dimension `T`.
//! - `ctx-dim`: only caches have the dimension `C`, in the middle of three.
//! - `graph-cycle`: the dependences have no cycle.
//! - `graph-edges`: the graph has exactly the edges that the operands imply, and results know the op that makes them.
//! - `operand-defined`: an operand is an input, a result of an earlier op, or a parameter of the module.
//! - `op-types`: the operands are as many, of the kinds, and of types that go together as the op table says, and the attributes
//!   are within its bounds.
//! - `result-type`: results have the types that the op infers.
//! - `output-defined`: an output is a value of the function.
//! - `output-result`: an output is the result of an op that stores it: no input and no part of a `split`.
//! - `output-once`: no value is returned twice, as every output has a buffer of its own.
//! - `cache-role`: a cache, through all its updates, is used as K cache only or as V cache only.
//! - `cache-linear`: an op that updates a cache is the last one to use the value from before; it is not returned.
//!
//! Plans
//! - `plan-complete`: every value has a place, and only values of the function have one; barriers stand at its ops.
//! - `plan-input`: inputs are `extern`.
//! - `plan-output`: outputs that are not caches are `extern`, other results are not.
//! - `plan-cache`: an updated cache is an alias of the cache that the op was given.
//! - `plan-arena`: arena places start at multiples of 64, hold the value for the most tokens, and lie within the arena,
//!   which has at most 2^40 bytes.
//! - `plan-view`: parts of a `split` are views of the row of its operand at their own offset; nothing else is a view.
//! - `plan-alias`: an alias is of an earlier value in the arena or in private memory with equal storage; through a view,
//!   of equal type.
//! - `plan-private`: private are all results of an op or none, and only where a call has one token and the op is one that
//!   can be replicated ([`crate::OpInfo::can_replicate`]).
//!
//! What a plan must keep beyond that (live ranges, barriers) is proved by the checker in `passes`.

pub(crate) mod func;
mod params;
mod plan;

use std::collections::HashSet;
use std::fmt;

use crate::entity::{FuncId, NodeId, ParamId, ValueId};
use crate::limits::{MAX_FUNCS, MAX_OPS, MAX_PARAMS};
use crate::module::Module;
use crate::stage::Stage;
use crate::text::{ValueNames, is_name};

pub(crate) use plan::MAX_ARENA;

/// Errors after which the verifier stops.
pub const MAX_ERRORS: usize = 256;

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)+) => {
        /// A rule; the module documentation says what each demands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Rule { $($(#[$doc])* #[doc = concat!("`", $code, "`")] $variant,)+ }

        impl Rule {
            /// All rules.
            pub const ALL: &[Rule] = &[$(Rule::$variant,)+];
            /// The stable code, for messages and tests.
            pub fn code(self) -> &'static str {
                match self { $(Rule::$variant => $code,)+ }
            }
        }
    };
}

rules! {
    NameSyntax = "name-syntax",
    NameUnique = "name-unique",
    ModuleSize = "module-size",
    FuncSize = "func-size",
    SplitParts = "split-parts",
    ParamType = "param-type",
    ParamSize = "param-size",
    ParamLayout = "param-layout",
    ParamFile = "param-file",
    ParamOrder = "param-order",
    ParamConcat = "param-concat",
    ParamInterleave = "param-interleave",
    ParamRelayout = "param-relayout",
    ParamQuantise = "param-quantise",
    TargetStage = "target-stage",
    OpStage = "op-stage",
    LayoutEarly = "layout-early",
    WeightLayout = "weight-layout",
    CacheLayout = "cache-layout",
    PlanStage = "plan-stage",
    TokensRange = "tokens-range",
    InputType = "input-type",
    TokenDim = "token-dim",
    CtxDim = "ctx-dim",
    GraphCycle = "graph-cycle",
    GraphEdges = "graph-edges",
    OperandDefined = "operand-defined",
    OpTypes = "op-types",
    ResultType = "result-type",
    OutputDefined = "output-defined",
    OutputResult = "output-result",
    OutputOnce = "output-once",
    CacheRole = "cache-role",
    CacheLinear = "cache-linear",
    PlanComplete = "plan-complete",
    PlanInput = "plan-input",
    PlanOutput = "plan-output",
    PlanCache = "plan-cache",
    PlanArena = "plan-arena",
    PlanView = "plan-view",
    PlanAlias = "plan-alias",
    PlanPrivate = "plan-private",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// The head of the module.
    Module,
    /// A parameter.
    Param(ParamId),
    /// A function.
    Func(FuncId),
    /// An op.
    Node(FuncId, NodeId),
    /// An input or result.
    Value(FuncId, ValueId),
}

/// A rule that a module breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[{rule}] {place}: {message}")]
#[non_exhaustive]
pub struct VerifyError {
    /// The rule.
    pub rule: Rule,
    /// Where.
    pub anchor: Anchor,
    /// Where, in the names of the printed module: `@decode, %3 = rms_norm`.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

/// Checks every rule.
///
/// # Errors
/// What is broken, in the order of the module; at least one, at most [`MAX_ERRORS`].
pub fn verify(module: &Module) -> Result<(), Vec<VerifyError>> {
    let mut errors = Errors { list: Vec::new() };
    if let Err(message) = check_size(module) {
        errors.add(Rule::ModuleSize, Anchor::Module, "the module", message);
        return Err(errors.list);
    }
    if module.target.is_some() != (module.stage >= Stage::LaidOut) {
        let message = match module.target {
            Some(_) => {
                format!("stage {} has no target, a target belongs to laid_out and planned", module.stage)
            }
            None => format!("stage {} needs a target in the head of the module", module.stage),
        };
        errors.add(Rule::TargetStage, Anchor::Module, "the module", message);
    }
    params::check(module, &mut errors);
    let mut names = HashSet::new();
    for (id, func) in module.funcs().iter() {
        let place = format!("@{}", func.name());
        if !is_name(func.name()) {
            errors.add(Rule::NameSyntax, Anchor::Func(id), &place, "this is no name of the text form");
        }
        if !names.insert(func.name()) {
            errors.add(Rule::NameUnique, Anchor::Func(id), &place, "another function has this name");
        }
        let mut scope = Scope { id, func, names: None, errors: &mut errors };
        let sound = func::check(module, &mut scope);
        match (&func.plan, module.stage == Stage::Planned) {
            // A plan for a broken function says nothing.
            (Some(plan), true) if sound => plan::check(plan, &mut scope),
            (Some(_), true) | (None, false) => {}
            (Some(_), false) => scope.func(Rule::PlanStage, format!("a plan in stage {}", module.stage)),
            (None, true) => scope.func(Rule::PlanStage, "stage planned without a plan"),
        }
    }
    match errors.list.is_empty() {
        true => Ok(()),
        false => Err(errors.list),
    }
}

/// The sizes of the whole module; nothing else is looked at in one that is too large.
fn check_size(module: &Module) -> Result<(), String> {
    let ops: usize = module.funcs().values().map(|f| f.order().len()).sum();
    let sizes = [
        ("parameters", module.params().len(), MAX_PARAMS),
        ("functions", module.funcs().len(), MAX_FUNCS),
        ("ops", ops, MAX_OPS),
    ];
    match sizes.into_iter().find(|(_, has, most)| has > most) {
        Some((what, has, most)) => Err(format!("{has} {what}, the most are {most}")),
        None => Ok(()),
    }
}

struct Errors {
    list: Vec<VerifyError>,
}

impl Errors {
    fn add(&mut self, rule: Rule, anchor: Anchor, place: &str, message: impl Into<String>) {
        if !self.full() {
            self.list.push(VerifyError { rule, anchor, place: place.to_owned(), message: message.into() });
        }
    }
    fn full(&self) -> bool {
        self.list.len() >= MAX_ERRORS
    }
}

/// A function under check, and where its errors go.
struct Scope<'m, 'e> {
    id: FuncId,
    func: &'m crate::graph::Func,
    /// Made for the first error.
    names: Option<ValueNames<'m>>,
    errors: &'e mut Errors,
}

impl<'m> Scope<'m, '_> {
    fn names(&mut self) -> &ValueNames<'m> {
        self.names.get_or_insert_with(|| ValueNames::new(self.func))
    }
    /// The printed name of a value.
    fn name(&mut self, value: ValueId) -> String {
        self.names().value(value)
    }
    fn func(&mut self, rule: Rule, message: impl Into<String>) {
        let place = format!("@{}", self.func.name());
        self.errors.add(rule, Anchor::Func(self.id), &place, message);
    }
    fn node(&mut self, rule: Rule, node: NodeId, message: impl Into<String>) {
        if !self.errors.full() {
            let place = format!("@{}, {}", self.func.name(), self.names().node(node));
            self.errors.add(rule, Anchor::Node(self.id, node), &place, message);
        }
    }
    fn value(&mut self, rule: Rule, value: ValueId, message: impl Into<String>) {
        if !self.errors.full() {
            let place = format!("@{}, {}", self.func.name(), self.name(value));
            self.errors.add(rule, Anchor::Value(self.id, value), &place, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Func, TokenCount};
    use crate::ops::Op;
    use crate::types::{DType, Rows, Type};

    #[test]
    fn lost_edges_are_found() {
        let ty = Type::rows(DType::F32, Rows { per_token: false, width: 3 });
        let mut func = Func::new("f", TokenCount::One);
        let x = func.add_input("x", ty.clone());
        let a = func.insert(None, Op::Relu2 {}, vec![x.into()], vec![ty.clone()]);
        let a = func.node(a).results[0];
        let b = func.insert(None, Op::Relu2 {}, vec![a.into()], vec![ty]);
        func.set_outputs(func.node(b).results.clone());
        let mut module = Module::new();
        let id = module.add_func(func);
        assert_eq!(verify(&module), Ok(()));
        module.func_mut(id).forget_edges();
        let errors = verify(&module).unwrap_err();
        assert_eq!(errors.iter().map(|e| e.rule).collect::<Vec<_>>(), [Rule::GraphEdges]);
    }

    #[test]
    fn every_rule_is_documented() {
        let text = include_str!("mod.rs");
        for rule in Rule::ALL {
            let line = format!("//! - `{}`: ", rule.code());
            assert_eq!(text.matches(&line).count(), 1, "{rule}");
        }
    }
}
