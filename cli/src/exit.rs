//! Exit codes: what each command can end with, and which code an error of the library or the tools has.
//!
//! Invariant: a code is decided here and nowhere else, from the typed error.

use bitnetc::Error;
use bitnetc::batch::BatchError;
use bitnetc::chat::ChatError;
use bitnetc::constraint::ConstraintError;
use bitnetc::import::LocationError;
use bitnetc::store::StoreError;
use bitnetc_codegen::compile::CompileError;
use bitnetc_passes::PassFailure;
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::model::WeightFault;
use bitnetc_runtime::plan::PlanError;

/// Success.
pub(crate) const OK: u8 = 0;
/// Failure.
pub(crate) const FAILURE: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The model file is bad or not supported.
pub(crate) const MODEL: u8 = 3;
/// Two ways of computing something gave different results, or a check failed.
pub(crate) const VERIFY: u8 = 4;
/// `bench --compare` found a test that has become slower.
pub(crate) const REGRESSION: u8 = 5;
/// Interrupted by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// The exit code of a command that ends with this error.
pub(crate) fn code(error: &Error) -> u8 {
    if let Some(error) = error.session() {
        return of_session(error);
    }
    match error {
        Error::UnknownFormat { .. }
        | Error::LfsPointer { .. }
        | Error::NotAModel { .. }
        | Error::Gguf { .. }
        | Error::Import { .. }
        | Error::Location(LocationError::NoFile { .. } | LocationError::NotADirectory { exists: true, .. })
        | Error::PlanModule { .. }
        | Error::PlanLacks { .. }
        | Error::Lower(_)
        | Error::Model(_)
        | Error::Tokenizer(_) => MODEL,
        // What a plan file says, as against what the system says.
        Error::Plan(
            PlanError::Io { .. }
            | PlanError::Write { .. }
            | PlanError::NotDurable { .. }
            | PlanError::NoFolder { .. }
            | PlanError::NotAFile { .. },
        ) => FAILURE,
        Error::Plan(PlanError::Map(_)) => FAILURE,
        Error::Plan(_) | Error::Cache(_) => MODEL,
        Error::Compile(CompileError::Program(_) | CompileError::Kernel { .. }) => MODEL,
        Error::NotInPlan { .. } | Error::HeadOfPlan { .. } | Error::PackingOfPlan { .. } => USAGE,
        Error::ActivationsOfPlan { .. } | Error::NoTernaryHead => USAGE,
        Error::Interrupted => INTERRUPTED,
        Error::Param(_) | Error::NoPrompt | Error::Chat(ChatError::UnknownTemplate { .. }) => USAGE,
        Error::Constraint(
            ConstraintError::Schema(_)
            | ConstraintError::Gbnf(_)
            | ConstraintError::Grammar { .. }
            | ConstraintError::Empty { .. },
        ) => USAGE,
        Error::Store(error) => of_store(error),
        Error::Pass(error) if matches!(*error.failure, PassFailure::Miscompile { .. }) => VERIFY,
        _ => FAILURE,
    }
}

/// As [`code`], for what the machine says, by itself or through the engine.
fn of_session(error: &SessionError) -> u8 {
    match error {
        SessionError::Entry(_)
        | SessionError::Weights(WeightFault::Damaged)
        | SessionError::NotFinite { .. } => MODEL,
        SessionError::Interrupted => INTERRUPTED,
        _ => FAILURE,
    }
}

/// As [`code`], for models by name.
fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::Name { .. } | StoreError::Ambiguous { .. } => USAGE,
        StoreError::Interrupted => INTERRUPTED,
        _ => FAILURE,
    }
}

/// As [`code`], for a batch.
pub(crate) fn of_batch(error: &BatchError) -> u8 {
    match error {
        BatchError::OutputIsInput { .. } | BatchError::InputIsModel { .. } => USAGE,
        BatchError::Run(error) => code(error),
        _ => FAILURE,
    }
}

/// As [`code`], for what looks into the compiler or measures.
pub(crate) fn of_tools(error: &bitnetc_tools::Error) -> u8 {
    match error {
        bitnetc_tools::Error::Library(error) => code(error),
        bitnetc_tools::Error::TooLarge { .. } => MODEL,
        _ => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bitnetc::engine::EngineError;

    use super::*;

    #[test]
    fn an_error_has_the_same_code_through_the_engine() {
        let cases = [
            (SessionError::Weights(WeightFault::Damaged), MODEL),
            (SessionError::Weights(WeightFault::Lost), FAILURE),
            (SessionError::Interrupted, INTERRUPTED),
            (SessionError::NotANumber { position: 3, index: 0 }, FAILURE),
        ];
        for (error, expected) in cases {
            let shown = error.to_string();
            assert_eq!(code(&Error::Engine(EngineError::Step(Arc::new(error)))), expected, "{shown}");
        }
        assert_eq!(code(&SessionError::Weights(WeightFault::Damaged).into()), MODEL);
    }
}
