//! Errors of reading and writing plans.

use std::io;
use std::path::PathBuf;

use super::SectionKind;
use crate::map::MapError;
use crate::tokenizer::TokenizerError;
use crate::whole_file::WholeFileError;

/// Why a plan cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// An error in the plan at `path`.
    #[error("plan {path:?}: {source}")]
    InFile {
        /// The plan.
        path: PathBuf,
        /// What is wrong.
        source: Box<PlanError>,
    },
    /// The file could not be brought into memory.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The file does not start like a plan.
    #[error("this is not a bitnetc plan")]
    NotAPlan,
    /// The format is older or newer than this program.
    #[error(
        "the plan has format version {found}, this program reads version {supported}; compile the model again"
    )]
    UnsupportedVersion {
        /// Version in the file.
        found: u32,
        /// The version that is read.
        supported: u32,
    },
    /// The end of the file is missing.
    #[error(
        "the plan is incomplete ({what}); it is truncated or was not written completely; compile the model again"
    )]
    Incomplete {
        /// What shows that.
        what: String,
    },
    /// A part reaches outside of the room that there is for it.
    #[error(
        "the plan is damaged: {what} at {offset}, {length} bytes long, exceeds the available {room} bytes; compile the model again"
    )]
    OutOfBounds {
        /// The part.
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// How long it is.
        length: u64,
        /// How much room there is.
        room: u64,
    },
    /// The parts of the file do not fit together.
    #[error("the plan is damaged: {what}; compile the model again")]
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// A section's bytes are not those that were written.
    #[error(
        "the plan is damaged: the contents of the {section} do not match their hash; compile the model again"
    )]
    HashMismatch {
        /// The part of the file.
        section: String,
    },
    /// A size is above its limit.
    #[error("the plan is refused: {what} is {value}, the limit is {limit}")]
    LimitExceeded {
        /// What is too large.
        what: &'static str,
        /// Its size.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// A section that every plan needs is absent.
    #[error("the plan has no {section}; compile the model again")]
    MissingSection {
        /// The section.
        section: SectionKind,
    },
    /// A section or weight occurs twice.
    #[error("the plan has {what} twice")]
    Duplicate {
        /// What occurs twice.
        what: String,
    },
    /// The contents of a section cannot be decoded.
    #[error("the {section} of the plan cannot be decoded ({reason}); compile the model again")]
    Decode {
        /// The part of the file.
        section: String,
        /// Why not.
        reason: String,
    },
    /// The tokenizer of the plan is not usable.
    #[error("the tokenizer of the plan is not usable: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// A value cannot be put in a plan.
    #[error("the {section} cannot be stored: {reason}")]
    Encode {
        /// The part of the file.
        section: String,
        /// Why not.
        reason: String,
    },
    /// Bytes were written to the weights before a first weight was begun.
    #[error("bytes were given to the weights section before a weight was named")]
    UnnamedWeight,
    /// The system refused an operation on the disk.
    #[error("cannot {operation} {path:?}: {source}; an older plan there is unchanged")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write the {section} of the plan: {source}; an older plan there is unchanged")]
    Write {
        /// The part of the file.
        section: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The plan is there, but may not survive a loss of power.
    #[error("{path:?} is written, but its folder cannot be written to the disk: {source}")]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no folder for the plan.
    #[error("cannot write {path:?}: the folder {folder:?} does not exist; create it first")]
    NoFolder {
        /// The path.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// The place to write to is something else than a file.
    #[error("{path:?} exists and is not a regular file; choose another name for the plan")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
}

impl From<WholeFileError> for PlanError {
    fn from(error: WholeFileError) -> Self {
        match error {
            WholeFileError::NotAFile { path } => PlanError::NotAFile { path },
            WholeFileError::NoFolder { path, folder } => PlanError::NoFolder { path, folder },
            WholeFileError::NotDurable { path, source } => PlanError::NotDurable { path, source },
            WholeFileError::Io { operation, path, source } => PlanError::Io { operation, path, source },
        }
    }
}
