//! What can go wrong between a file and its text, with the exit code that each has on the command line.

use std::path::PathBuf;

use bitnetc_codegen::compile::CompileError;
use bitnetc_codegen::pack::PackError;
use bitnetc_frontend_gguf::GgufError;
use bitnetc_import::ImportError;
use bitnetc_ir::interp::InterpError;
use bitnetc_passes::{PassError, PassFailure};
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::map::MapError;
use bitnetc_runtime::model::ModelError;
use bitnetc_runtime::plan::PlanError;
use bitnetc_runtime::roofline::RooflineError;
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
        "{}: neither a GGUF file nor a plan (it begins with {found}); give a .gguf model or a plan made by `bitnetc compile`",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, printable.
        found: String,
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
    /// There is no checkpoint there.
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
    /// A report could not be put into JSON.
    #[error("the report cannot be written as JSON: {0}")]
    Report(#[from] serde_json::Error),
    /// A result file could not be written.
    #[error(transparent)]
    File(#[from] WholeFileError),
    /// A plan has another head than the one asked for.
    #[error(
        "{}: the plan was compiled with --head {has}; leave --head out, or compile the model again with --head {asked}",
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
    /// No text to go on from, with a model that does not say how texts begin.
    #[error("the prompt is empty and the model has no begin-of-text token: give a prompt")]
    NoPrompt,
    /// A function could not be run.
    #[error(transparent)]
    Execute(#[from] bitnetc_runtime::single::ExecuteError),
    /// Ctrl-C.
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
    /// The machine's limits could not be measured.
    #[error(transparent)]
    Roofline(#[from] RooflineError),
    /// The file that remembers the machine's speeds could not be written.
    #[error("cannot write {}: {source}; set XDG_CACHE_HOME to a folder that can be written", path.display())]
    Speeds {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
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
    /// A cache dtype that is no cache dtype.
    #[error("{0}")]
    Cache(String),
}

/// Exit codes of the command line.
pub mod exit {
    /// It worked.
    pub const OK: u8 = 0;
    /// It failed.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The model file is bad or not supported.
    pub const MODEL: u8 = 3;
    /// What was computed in two ways, or checked against a rule, is not the same.
    pub const VERIFY: u8 = 4;
    /// `bench --compare` found a test that has become slower.
    pub const REGRESSION: u8 = 5;
    /// Interrupted by Ctrl-C.
    pub const INTERRUPTED: u8 = 130;
}

impl Error {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::UnknownFormat { .. }
            | Error::Gguf { .. }
            | Error::Import { .. }
            | Error::Location(LocationError::NoFile { .. })
            | Error::PlanModule { .. }
            | Error::PlanLacks { .. }
            | Error::Lower(_)
            | Error::Model(_)
            | Error::Tokenizer(_) => exit::MODEL,
            // What a plan file says, as against what the system says.
            Error::Plan(PlanError::Io { .. } | PlanError::Write { .. } | PlanError::NotAFile { .. }) => {
                exit::FAILURE
            }
            Error::Plan(PlanError::Map(_)) => exit::FAILURE,
            Error::Plan(_) | Error::Cache(_) | Error::Session(SessionError::Entry(_)) => exit::MODEL,
            Error::Compile(CompileError::Program(_) | CompileError::Kernel { .. }) => exit::MODEL,
            Error::NotInPlan { .. } | Error::HeadOfPlan { .. } => exit::USAGE,
            Error::Interrupted | Error::Session(SessionError::Interrupted) => exit::INTERRUPTED,
            Error::Param(_) | Error::NoPrompt | Error::Chat(ChatError::UnknownTemplate { .. }) => exit::USAGE,
            Error::Constraint(ConstraintError::Json(_) | ConstraintError::Grammar { .. }) => exit::USAGE,
            Error::Store(error) => error.exit_code(),
            Error::Pass(error) if matches!(*error.failure, PassFailure::Miscompile { .. }) => exit::VERIFY,
            _ => exit::FAILURE,
        }
    }
}
