//! Looking into bitnetc's compiler, and measuring the code that it makes.
//!
//! Nothing here is needed to generate text, so a program that does so links `bitnetc` alone.
//!
//! | module | question |
//! |---|---|
//! | [`check_file`] | Would this file run, and what is wrong with it? |
//! | [`emit`] | What does a compilation go through? |
//! | [`explain`] | What does a compiled model do, op by op, and how long should it take? |
//! | [`verify`] | Do the kernels compute the interpreter's bits? |
//! | [`mod@bench`] | How fast is a model, beside what the machine could do? |
//! | [`load`] | How long do the answers of a server take when several clients ask? |
//! | [`speeds`] | What are the machine's limits, measured once and remembered? |
//! | [`run_ir`] | What does a function of any module return? |
//! | [`synth`] | Models with random weights, as files. |
//!
//! Invariants: nothing here changes what a model computes; each module works through the public interface of the library
//! and of the compiler's crates.
#![forbid(unsafe_code)]

pub mod bench;
pub mod check_file;
pub mod emit;
pub mod error;
pub mod explain;
pub mod load;
mod page;
pub mod run_ir;
pub mod speeds;
pub mod synth;
pub mod verify;

pub use error::Error;
