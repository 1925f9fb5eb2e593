//! The typed dataflow IR of bitnetc.
pub mod target;
pub use target::{Arch, Feature, TargetDesc, TargetError};
