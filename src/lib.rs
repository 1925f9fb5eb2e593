//! bitnetc compiles ternary (BitNet b1.58) language models for CPUs and runs them.
//!
//! This crate is the facade over the parts (see `docs/architecture.md`) and the `bitnetc` command. The way from a file to
//! text:
//!
//! ```no_run
//! use bitnetc::generate::{GenerateOptions, generate};
//! use bitnetc_runtime::sampling::{Sampler, SamplingParams};
//! use bitnetc_runtime::session::{Session, SessionOptions};
//! use bitnetc_runtime::tokenizer::Tokenize;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let loaded = bitnetc::load::load(None, &bitnetc::load::LoadOptions::default())?;
//! let mut session = Session::new(loaded.model.clone(), SessionOptions { context: 256, threads: 2 })?;
//! let mut sampler = Sampler::new(SamplingParams { seed: 7, ..SamplingParams::default() })?;
//! let prompt = loaded.tokenizer.encode("ROMEO:", true, false)?;
//! let options = GenerateOptions { limit: Some(32), ..GenerateOptions::default() };
//! generate(&mut session, &loaded.tokenizer, &mut sampler, &prompt, &options, |text| {
//!     print!("{text}");
//!     true
//! })?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod batch;
pub mod builtin;
pub mod chat;
pub mod compile;
pub mod constraint;
pub mod error;
pub mod generate;
pub mod import;
pub mod load;
mod model;
pub mod perplexity;
pub mod store;
pub mod tokenizer_spec;

pub use compile::DEFAULT_CHUNK;
pub use error::Error;
pub use model::{Model, Settings, TextSession, Token, Tokens};
