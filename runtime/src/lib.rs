//! Execution of compiled bitnetc plans.
//!
//! A [`model::Model`] is code and weights. A [`machine::Machine`] feeds tokens to [`sequence::Sequence`]s over it; a
//! [`session::Session`] is a machine with one sequence. [`single`] runs functions and ops of any planned module, for tests and
//! tools. [`plan`] reads and writes plan files, [`tokenizer`] and [`sampling`] are what stands before and after the model.

#![deny(unsafe_code)]

mod cgroups;
pub mod cpus;
pub mod error;
pub mod file_stream;
pub mod machine;
#[allow(unsafe_code)]
pub mod map;
pub mod memory;
pub mod model;
pub mod npy;
pub mod plan;
pub mod prefix;
pub mod profile;
pub mod roofline;
pub mod sampling;
pub mod sequence;
pub mod session;
pub mod single;
pub mod tokenizer;
pub mod trace;
pub mod whole_file;
