//! bitnetc compiles ternary (BitNet b1.58) language models for CPUs and runs them.
//!
//! [`Model`] is where programs begin: it opens a file, and makes texts, conversations and the [`engine`] that makes many texts
//! at a time. `docs/library.md` is the tour, `docs/architecture.md` says what lies below.
//!
//! ```
//! use bitnetc::{Model, Settings};
//!
//! # fn main() -> Result<(), bitnetc::Error> {
//! let model = Model::builtin()?; // or Model::load("model.gguf")
//! let mut session = model.session(256)?;
//! let settings = Settings { limit: Some(16), stops: vec!["\n\n".to_owned()], ..Settings::default() };
//! println!("{}", session.complete("ROMEO:", &settings)?.text);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod batch;
pub mod bench;
pub mod builtin;
pub mod chat;
pub mod compile;
pub mod constraint;
pub mod emit;
pub mod engine;
pub mod error;
pub mod explain;
pub mod import;
pub mod load;
mod model;
pub mod perplexity;
pub mod run_ir;
pub mod speeds;
pub mod store;
pub mod synth;
pub mod tokenizer_spec;
pub mod verify;
pub mod verify_kernels;

pub use bitnetc_passes::HeadFormat;
pub use bitnetc_runtime::cpus::Cpus;
pub use bitnetc_runtime::machine::{KeepGoing, Machine, MemoryUse};
pub use bitnetc_runtime::sampling::{Sampler, SamplingParams, TokenLogprob, TokenLogprobs};
pub use bitnetc_runtime::tokenizer::{TokenId, Tokenize};
pub use compile::DEFAULT_CHUNK;
pub use constraint::GrammarSource;
pub use engine::{Completion, Engine, EngineOptions, Event, GenerateOptions, Handle, Request, Stop, Token};
pub use error::Error;
pub use load::LoadOptions;
pub use model::{Model, Settings, TextSession, Tokens, prompt_tokens};
