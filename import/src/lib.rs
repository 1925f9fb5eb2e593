//! Hugging Face checkpoints (safetensors, `config.json`, `tokenizer.json`) to GGUF.
//!
//! [`Import::read`] takes the bytes of a checkpoint's files ([`Checkpoint`]), checks all of it but the weights, and knows
//! then which file it makes; [`Import::write`] hands that file over piece by piece and converts the weights on the way.
//! What the numbers mean is left to the GGUF front-end: the hyper-parameters and the tokenizer are written as GGUF
//! metadata and read back by it, and the tensors are those that it asks for.
//!
//! Invariants: no file IO and no `unsafe`; the input is not trusted, so no bytes make these functions panic, hang or
//! allocate by a number that has not been compared with the bytes that are there. Beside the mapped files, memory is held
//! for the metadata (at most [`limits::METADATA_FACTOR`] times the JSON files) and one band of rows
//! ([`limits::BAND_BYTES`]), whatever the size of the weights.
#![forbid(unsafe_code)]

mod config;
mod error;
mod import;
mod json;
pub mod limits;
mod matrix;
mod names;
mod rope;
mod safetensors;
mod tokenizer;

pub use error::ImportError;
pub use import::{Checkpoint, Import, Options, TARGETS};
pub use safetensors::shard_names;
