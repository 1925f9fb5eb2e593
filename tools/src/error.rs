//! What can go wrong while a compiled model is looked into or measured.

use std::path::PathBuf;

use bitnetc_codegen::compile::CompileError;
use bitnetc_frontend_gguf::synth::ShapeError;
use bitnetc_ir::interp::InterpError;
use bitnetc_passes::PassError;
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::roofline::RooflineError;
use bitnetc_runtime::single::ExecuteError;
use bitnetc_runtime::whole_file::WholeFileError;

/// An error of the tools.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The library refused.
    #[error(transparent)]
    Library(#[from] bitnetc::Error),
    /// A function could not be run.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// A call whose sizes are above the limits ([`bitnetc_ir::limits`]).
    #[error(
        "a call of @{func} {what} {has}, the most is {most}; give the function smaller types, or fewer tokens"
    )]
    TooLarge {
        /// The function.
        func: String,
        /// What is too large.
        what: &'static str,
        /// Its size.
        has: u64,
        /// The limit.
        most: u64,
    },
    /// The machine's limits could not be measured.
    #[error(transparent)]
    Roofline(#[from] RooflineError),
    /// A report could not be put into JSON.
    #[error("the report cannot be written as JSON: {0}")]
    Report(#[from] serde_json::Error),
    /// A synthetic model cannot have this shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The file that remembers the machine's speeds could not be written.
    #[error("cannot write {}: {source}; set XDG_CACHE_HOME to a writable folder", path.display())]
    Speeds {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// The caller interrupted the work.
    pub(crate) const INTERRUPTED: Self = Self::Library(bitnetc::Error::Interrupted);

    /// Whether the caller interrupted the work.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Library(error) if error.is_interruption())
    }
}

/// Errors of the crates below that the library's error has a place for.
macro_rules! through_library {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::Library(error.into())
            }
        }
    )+};
}

through_library!(
    CompileError,
    InterpError,
    PassError,
    SessionError,
    WholeFileError,
    bitnetc::store::StoreError,
);
