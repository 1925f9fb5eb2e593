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
//! let settings = Settings { limit: Some(16), ..Settings::greedy() };
//! for token in session.generate("ROMEO:", &settings)? {
//!     print!("{}", token?.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Model`] is a model that is ready to run: load it once, share it among threads. A [`TextSession`] makes one text at a time,
//! whole or token by token, as [`Settings`] say; [`Model::chat`] begins a conversation. [`LoadOptions`] and [`BuildOptions`] say
//! how a model is opened and compiled: which head, which weights, which caches, for which CPU.
//!
//! | module | what for |
//! |---|---|
//! | [`chat`] | messages, chat templates, conversations |
//! | [`api`] | requests of the APIs of servers, and their answers |
//! | [`batch`] | files of prompts and requests |
//! | [`constraint`] | text that follows a JSON schema or a grammar (feature `grammar`) |
//! | [`store`] | models by name, and the cache of compiled plans; the network with feature `hub` |
//! | [`perplexity`] | how well a model predicts a text |
//! | [`likelihood`] | how likely texts are after a context |
//! | [`engine`] | many texts at a time: requests, events, the scheduler |
//! | [`load`] | what [`Model`] is made of, with every option |
//! | [`describe`] | what a model file says of its model, without loading it |
//! | [`compile`], [`import`] | plan files, and GGUF files from checkpoints |
//! | [`percent`], [`visible`] | percent-encoding of addresses; escapes for characters that would not be shown |
//! | [`sampling`], [`session`], [`tokenizer`], [`cpus`] | the parts of the runtime that those name |
//! | [`ir`], [`passes`], [`codegen`], [`gguf`], [`checkpoint`], [`runtime`] | the compiler's crates, whole, for programs that go below all this |
//!
//! A program needs this crate alone in its `Cargo.toml`: what public functions take and return is named here, [`serde_json`]
//! included.
#![forbid(unsafe_code)]

pub mod api;
pub mod batch;
pub mod build;
pub mod builtin;
pub mod chat;
pub mod compile;
pub mod constraint;
pub mod describe;
pub mod engine;
pub mod error;
pub mod import;
pub mod likelihood;
pub mod load;
mod model;
pub mod percent;
pub mod perplexity;
mod plan_in_use;
pub mod store;
pub mod tokenizer_spec;
pub mod tools;
pub mod visible;

pub use build::{BuildOptions, DEFAULT_CHUNK};
pub use constraint::GrammarSource;
pub use engine::{Completion, Engine, EngineOptions, Event, GenerateOptions, Handle, Request, Stop, Token};
pub use error::Error;
pub use load::LoadOptions;
pub use model::{Model, Settings, TextSession, Tokens};
pub use plan_in_use::{CheckState, HeldCheck, WeightsCheck};

pub use bitnetc_codegen::compile::Codegen;
pub use bitnetc_frontend_gguf::{ActivationFormat, ModelOptions};
pub use bitnetc_ir::{CacheType, TargetDesc};
pub use bitnetc_passes::{HeadFormat, WeightPacking};
pub use bitnetc_runtime::cpus::{self, Cpus};
pub use bitnetc_runtime::machine::{KeepGoing, Machine, MemoryUse};
pub use bitnetc_runtime::map::MapMode;
pub use bitnetc_runtime::sampling::{self, Sampler, SamplingParams, TokenLogprob, TokenLogprobs};
pub use bitnetc_runtime::session::{self, Session, SessionOptions};
pub use bitnetc_runtime::tokenizer::{self, TokenId, Tokenize, Tokenizer};

pub use {
    bitnetc_codegen as codegen, bitnetc_frontend_gguf as gguf, bitnetc_import as checkpoint,
    bitnetc_ir as ir, bitnetc_passes as passes, bitnetc_runtime as runtime,
};

/// The JSON of requests, answers and template variables.
pub use serde_json;
