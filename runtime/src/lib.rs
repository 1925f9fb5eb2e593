//! Execution of compiled bitnetc plans.

#![deny(unsafe_code)]

pub mod batch;
#[allow(unsafe_code)]
mod call;
pub mod cpus;
pub mod execute;
pub mod file_stream;
#[allow(unsafe_code)]
pub mod map;
pub mod model;
pub mod npy;
pub mod one_op;
pub mod plan;
pub mod profile;
pub mod roofline;
mod rope_table;
pub mod sampling;
pub mod session;
mod shares;
mod sleep;
mod team;
pub mod tokenizer;
pub mod trace;
pub mod whole_file;
