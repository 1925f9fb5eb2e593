//! Execution of compiled bitnetc plans.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod map;
pub mod npy;
pub mod plan;
pub mod sampling;
pub mod tokenizer;
