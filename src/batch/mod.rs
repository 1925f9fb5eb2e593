//! Many texts at once: a file of requests in, a file of results out.
//!
//! [`Input`] finds the requests of a text or JSONL file, [`crate::api`] says what one of them asks for, [`Job`] has the engine
//! make their texts, puts results into the shape of OpenAI's batch files, and [`Output`] appends them line by line, so
//! that an interrupted run can go on where it was.
//!
//! Invariants: a request's text does not depend on the other requests, on their order or on how many run together; each
//! request has one line of output, whether it was answered, refused, or failed while it was answered; a line of output is
//! written only when it is complete, and what stood in the file before is never changed, but for a torn last line.

mod input;
mod job;
mod output;
mod request;
mod response;
mod settings;

use std::path::PathBuf;

pub use input::{Format, Input, Item, Shard, ShardError};
pub use job::{Job, Outcome};
pub use output::{Done, Output};
pub use request::Lines;
pub use settings::Settings;

/// Why a batch could not be started or had to be given up. What is wrong with a single request is a
/// [`Refusal`](crate::api::Refusal) instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Two requests have the same id, so that their results could not be told apart.
    #[error("{}: custom_id \"{id}\" is on line {first} and on line {second}: give each request a unique id", path.display())]
    TwoOfAnId {
        /// The input.
        path: PathBuf,
        /// The id, printable.
        id: String,
        /// Line of the first request.
        first: u64,
        /// Line of the second.
        second: u64,
    },
    /// Input and output are the same file.
    #[error("{} is the input: give another name for the output", path.display())]
    OutputIsInput {
        /// The file.
        path: PathBuf,
    },
    /// Input or output is a device, a pipe or a folder.
    #[error("{} is not a regular file: give a file, or `-` for standard input or output", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The input is text in another encoding.
    #[error("{} is UTF-16: save it as UTF-8", path.display())]
    Utf16 {
        /// The path.
        path: PathBuf,
    },
    /// The input is a model.
    #[error("{} is a model, not a file of prompts or requests", path.display())]
    InputIsModel {
        /// The path.
        path: PathBuf,
    },
    /// The output is something else than results of a batch.
    #[error("{}, line {line}: not a result of a batch ({why}), so nothing is appended", path.display())]
    NotResults {
        /// The output.
        path: PathBuf,
        /// The line.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The output holds the result of another request under the same id.
    #[error(
        "{}: the result for \"{id}\" belongs to another request than line {line} of the input, which has changed",
        path.display()
    )]
    OtherRequest {
        /// The output.
        path: PathBuf,
        /// The id, printable.
        id: String,
        /// Line of the request.
        line: u64,
    },
    /// The output holds a result that was made with other settings.
    #[error(
        "{}: the result for \"{id}\" was made with another {setting} ({was}; this run has {is})",
        path.display()
    )]
    OtherSettings {
        /// The output.
        path: PathBuf,
        /// The id, printable.
        id: String,
        /// The setting that differs.
        setting: String,
        /// Its value then.
        was: String,
        /// Its value in this run.
        is: String,
    },
    /// Another process writes to the output.
    #[error("{} is being written by another process: wait for it, or use a different name", path.display())]
    Busy {
        /// The output.
        path: PathBuf,
    },
    /// The generation failed: see the facade's errors.
    #[error(transparent)]
    Run(#[from] crate::error::Error),
    /// The input changed while it was read.
    #[error("{} changed while it was being read: run the batch again", path.display())]
    InputChanged {
        /// The input.
        path: PathBuf,
    },
}

/// An id for messages: without control characters, and not longer than a line.
fn printable(id: &str) -> String {
    let shown: String = id.chars().take(100).collect();
    shown.escape_debug().to_string()
}

/// First 64 bits of the BLAKE3 hash of a request's line, in hexadecimal.
fn line_hash(line: &[u8]) -> String {
    let hash = blake3::hash(line);
    hash.to_hex()[..16].to_owned()
}
