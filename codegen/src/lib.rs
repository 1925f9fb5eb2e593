//! Code generation: from kernel specifications to machine code in memory.
//!
//! - [`kir`]: the kernel IR, its verifier, printer and interpreter.

pub mod kir;
