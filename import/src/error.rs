//! What can be wrong with a checkpoint, said so that the reader of the message knows where, why, and what to do.
//!
//! Text that comes from the files is escaped and cut ([`printable`]) before it gets into an error.

use bitnetc_frontend_gguf::{GgufError, printable};
use thiserror::Error;

/// The reason for refusing a checkpoint.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum ImportError {
    #[error(
        "{file} has {bytes} bytes, the limit is {limit}; it is damaged, or not the kind of file that its name says"
    )]
    TooLarge { file: String, bytes: u64, limit: u64 },
    #[error("{file} is not the expected JSON: {why}; download it again")]
    Json { file: String, why: String },
    #[error("{file} is not a valid safetensors file: {why}; download it again")]
    BadShard { file: String, why: String },
    #[error("model.safetensors.index.json: {why}; download the whole checkpoint again")]
    BadIndex { why: String },
    #[error(
        "the tensor \"{tensor}\" is missing; the checkpoint is incomplete or has a different architecture"
    )]
    MissingTensor { tensor: String },
    #[error(
        "the tensor \"{tensor}\" occurs in {first} and again in {second}; one of them does not belong here"
    )]
    DuplicateTensor { tensor: String, first: String, second: String },
    #[error("the tensor \"{tensor}\" in {file} is {found}, but must be {expected}")]
    WrongTensor { tensor: String, file: String, found: String, expected: String },
    #[error("the tensor \"{tensor}\" in {file} {why}")]
    UnsupportedTensor { tensor: String, file: String, why: String },
    #[error("{file}: \"{key}\" {why}")]
    BadKey { file: &'static str, key: String, why: String },
    #[error("tokenizer.json: {why}")]
    BadTokenizer { why: String },
    #[error(
        "the tensor \"{tensor}\" in {file} holds {found} (row {row}, column {column}); the file is damaged: download it \
         again"
    )]
    BadWeights { tensor: String, file: String, row: usize, column: usize, found: String },
    #[error("the tensor \"{tensor}\" has rows of {cols} elements, which {ty} cannot store")]
    BadType { tensor: String, cols: usize, ty: &'static str },
    #[error("the scale {scale:e} of the tensor \"{tensor}\" cannot be stored as {ty}")]
    BadScale { tensor: String, scale: f32, ty: &'static str },
    #[error("the checkpoint describes a model that cannot be run: {0}")]
    Model(#[from] GgufError),
}

impl ImportError {
    /// A file that does not parse as what it should be.
    pub(crate) fn json(file: &str, error: &serde_json::Error) -> Self {
        Self::Json { file: file.to_owned(), why: printable(&error.to_string()) }
    }

    /// A key of `config.json`.
    pub(crate) fn config(key: &str, why: impl Into<String>) -> Self {
        Self::BadKey { file: "config.json", key: key.to_owned(), why: why.into() }
    }

    /// The tokenizer.
    pub(crate) fn tokenizer(why: impl Into<String>) -> Self {
        Self::BadTokenizer { why: why.into() }
    }
}
