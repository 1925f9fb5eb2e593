//! What can go wrong in a run of a pipeline.

use bitnetc_ir::verify::VerifyError;
use bitnetc_ir::{Stage, TypeRule};

use crate::check_plan::PlanViolation;
use crate::pass_id::PassId;
use crate::patch::PatchError;

/// A run that ended early: where, why, and how to see it again.
#[derive(Debug, thiserror::Error)]
#[error("{}: {failure}", place(.pass))]
pub struct PassError {
    /// The pass that failed; none if the module was bad before the first.
    pub pass: Option<PassId>,
    /// Why.
    pub failure: Box<PassFailure>,
    /// The text form of the module before that pass, with the rest of the pipeline; [`crate::Reproducer`]
    /// reads it.
    pub reproducer: String,
}

impl PassError {
    /// Where the run ended, as a word: the name of the pass, or `input`.
    pub fn place(&self) -> &'static str {
        place(&self.pass)
    }
}

fn place(pass: &Option<PassId>) -> &'static str {
    pass.map_or("input", PassId::name)
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassFailure {
    /// The pass may not run in the module's stage.
    #[error("runs in stages {first} to {last}, but the module is in stage {stage}: move it in the pipeline")]
    Stage {
        /// The module's.
        stage: Stage,
        /// First allowed.
        first: Stage,
        /// Last allowed.
        last: Stage,
    },
    /// The module does not keep the rules of the IR.
    #[error("the module breaks {} rules, first {}", .0.len(), first(.0))]
    Verify(Vec<VerifyError>),
    /// The plan is wrong.
    #[error("@{func}: the plan is wrong: {source}")]
    Plan {
        /// The function.
        func: String,
        /// What is wrong.
        source: PlanViolation,
    },
    /// A function cannot be planned.
    #[error("@{func} cannot be planned: {source}")]
    Unplannable {
        /// The function.
        func: String,
        /// Why.
        source: PlanError,
    },
    /// A cache is read as keys and as values, which have different layouts.
    #[error(
        "the cache %{cache} is used for keys (in @{keys}) and for values (in @{values}); use one cache for each"
    )]
    CacheRole {
        /// Name of the input.
        cache: String,
        /// A function that uses it for keys.
        keys: String,
        /// A function that uses it for values.
        values: String,
    },
    /// A rewrite made a bad patch.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// Types do not fit after a layout was chosen.
    #[error("@{func}: {source}")]
    Retype {
        /// The function.
        func: String,
        /// The rule.
        source: TypeRule,
    },
    /// A rewrite finds something to do again and again.
    #[error("@{func}: still patching after {sweeps} sweeps over the function")]
    Diverges {
        /// The function.
        func: String,
        /// Sweeps made.
        sweeps: usize,
    },
    /// The interpreter gives other bits than before.
    #[error(
        "changes what @{func} computes{}: {difference} (weights and inputs from seed {seed})",
        output.map_or_else(String::new, |i| format!(", result {i}"))
    )]
    Miscompile {
        /// The function.
        func: String,
        /// Position of the result, if there is one that differs.
        output: Option<usize>,
        /// The first difference, what it was against what it is.
        difference: String,
        /// Of weights and inputs.
        seed: u64,
    },
    /// The module could not be interpreted, so nothing could be compared.
    #[error("cannot be checked by the interpreter: {reason}")]
    NotInterpreted {
        /// Why.
        reason: String,
    },
    /// The pass panicked.
    #[error("panicked: {0}")]
    Panic(String),
}

/// Why a function has no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// An append changes a cache in place, and something wants its older state afterwards.
    #[error("the cache {cache} is read after it was appended to; read it before, or read the appended cache")]
    CacheReadAfterAppend {
        /// The older state.
        cache: String,
    },
    /// An output that no op can write to the caller's buffer.
    #[error("output {position} is {value}, {why}")]
    Output {
        /// Position of the output.
        position: usize,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More values live at the same times than the planner arranges.
    #[error(
        "too many values live at once: placing them takes more than {limit} steps; read values soon after they are made"
    )]
    TooManyLive {
        /// The limit.
        limit: usize,
    },
    /// A value whose size the storage rules do not give.
    #[error("{value} has no size in memory")]
    NoSize {
        /// The value.
        value: String,
    },
}

fn first(errors: &[VerifyError]) -> String {
    errors.first().map_or_else(String::new, VerifyError::to_string)
}
