//! Makes GGUF files for tests, of this crate and of others: any container, and small models of any shape.
//!
//! It writes what it is told, so that broken files can be made too. Compiled with the feature `testing` only.

mod check;
mod config;
pub mod damage;
pub mod store;
mod structured;
mod tiny;
mod writer;

pub use crate::synth::Rng;
pub use crate::write::MetaValue;
pub use check::{Outcome, check_parse};
pub use config::check_lower;
pub use structured::{INPUT_BYTES as STRUCT_BYTES, check_struct};
pub use tiny::TinyModel;
pub use writer::{GgufWriter, Mark, TensorData};

/// A generator whose seed are these bytes, by the hash FNV-1a.
fn rng_of(bytes: &[u8]) -> Rng {
    let hash = |h: u64, &byte: &u8| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    Rng::new(bytes.iter().fold(0xcbf2_9ce4_8422_2325, hash))
}
