//! What can go wrong between a file and its text.

use std::path::PathBuf;

use bitnetc_codegen::compile::CompileError;
use bitnetc_codegen::pack::PackError;
use bitnetc_frontend_gguf::{ActivationFormat, GgufError};
use bitnetc_import::ImportError;
use bitnetc_ir::cache::CacheError;
use bitnetc_ir::interp::InterpError;
use bitnetc_passes::{PassError, WeightPacking};
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::map::MapError;
use bitnetc_runtime::model::ModelError;
use bitnetc_runtime::plan::PlanError;
use bitnetc_runtime::sampling::{ParamError, SampleError};
use bitnetc_runtime::tokenizer::TokenizerError;
use bitnetc_runtime::whole_file::WholeFileError;

use crate::chat::ChatError;
use crate::constraint::ConstraintError;
use crate::engine::EngineError;
use crate::import::LocationError;

/// An error of the library facade.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model file could not be opened.
    #[error(transparent)]
    Open(#[from] MapError),
    /// The file is neither a GGUF nor a plan.
    #[error(
        "{}: neither a GGUF file nor a plan (it starts with {found}): use a .gguf model or a compiled plan",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, printable.
        found: String,
    },
    /// What a failed download leaves in the place of a model.
    #[error("{}: this is not a model: {what}; download the model again, and check the address", path.display())]
    NotAModel {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A clone of a repository without its large files.
    #[error("{}: this is a Git LFS pointer, a few lines of text instead of the model", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The GGUF is malformed or holds a model that is not supported.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// The checkpoint is malformed or holds a model that is not supported.
    #[error("{}: {source}", path.display())]
    Import {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: ImportError,
    },
    /// The directory contains no checkpoint.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The plan is malformed or was made for another machine.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan's module does not parse, verify or check.
    #[error("{}: the plan's module is not usable: {reason}; compile the model again", path.display())]
    PlanModule {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something is missing from the plan.
    #[error("{}: the plan has no {what}; compile the model again", path.display())]
    PlanLacks {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// Something was asked of a plan that only the model file has.
    #[error("{}: {what}", path.display())]
    NotInPlan {
        /// The file.
        path: PathBuf,
        /// What was asked, and what to do.
        what: &'static str,
    },
    /// A result file could not be written.
    #[error(transparent)]
    File(#[from] WholeFileError),
    /// A plan has another head than the one asked for.
    #[error(
        "{}: the plan was compiled with the head {has}, not {asked}",
        path.display()
    )]
    HeadOfPlan {
        /// The file.
        path: PathBuf,
        /// The head that it has.
        has: String,
        /// The head that was asked for.
        asked: String,
    },
    /// A plan was compiled for other activations than those asked for.
    #[error(
        "{}: the plan was compiled for activations {has}, not {asked}",
        path.display()
    )]
    ActivationsOfPlan {
        /// The file.
        path: PathBuf,
        /// The activations that it has.
        has: ActivationFormat,
        /// The activations that were asked for.
        asked: ActivationFormat,
    },
    /// A ternary head was asked for, of a model that has none.
    #[error(
        "the head of this model cannot be ternary: only families with ternary heads have one, and only where its weights are ternary"
    )]
    NoTernaryHead,
    /// A plan's weights are packed otherwise than asked for.
    #[error(
        "{}: the plan's weights are packed as {has}, not {asked}",
        path.display()
    )]
    PackingOfPlan {
        /// The file.
        path: PathBuf,
        /// The packing that it has.
        has: WeightPacking,
        /// The packing that was asked for.
        asked: WeightPacking,
    },
    /// The prompt is empty, and the model has no begin-of-text token.
    #[error("the prompt is empty and the model has no begin-of-text token: give a prompt")]
    NoPrompt,
    /// The caller has stopped the work.
    #[error("interrupted")]
    Interrupted,
    /// The model could not be lowered to IR.
    #[error(transparent)]
    Lower(#[from] bitnetc_frontend_gguf::LowerError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A weight could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Code generation failed.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Weights and module do not fit.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A session could not be made, or refused a call.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The interpreter refused.
    #[error(transparent)]
    Interp(#[from] InterpError),
    /// The tokenizer's tables are not usable.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Sampling failed.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// Memory for the weights could not be had.
    #[error("cannot allocate {bytes} bytes for the packed weights: {source}")]
    Memory {
        /// Bytes.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread {what}: {source}")]
    Thread {
        /// What it was for.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A conversation cannot go on.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A grammar cannot be used.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The engine, or what belongs to one of its requests, failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A model by name could not be had.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The caches of a plan cannot have the element type that was asked for.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl Error {
    /// Whether the caller interrupted the work.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Error::Interrupted) || matches!(self.session(), Some(SessionError::Interrupted))
    }

    /// The error of the machine that this one is, or that made a step of the engine fail.
    pub fn session(&self) -> Option<&SessionError> {
        match self {
            Error::Session(error) => Some(error),
            Error::Engine(EngineError::Step(error)) => Some(error),
            _ => None,
        }
    }
}
