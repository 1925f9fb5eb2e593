//! Makes GGUF files for tests, of this crate and of others: any container, and small models of any shape.
//!
//! Not part of the public interface. It writes what it is told, so that broken files can be made too.

mod check;
pub mod damage;
pub mod store;
mod tiny;
mod writer;

pub use crate::synth::Rng;
pub use crate::write::MetaValue;
pub use check::{Outcome, check_parse};
pub use tiny::TinyModel;
pub use writer::{GgufWriter, Mark, TensorData};
