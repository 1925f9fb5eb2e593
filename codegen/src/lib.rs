//! Code generation: from kernel specifications to machine code in memory.
//!
//! - [`kir`]: the kernel IR, its verifier, printer and interpreter.
//! - [`kernels`]: from a kernel's specification to its kernel IR.
//! - [`pack`]: from stored weights to the bytes that kernels read.
//! - [`clif`]: the Cranelift instruction selector. [`x64`]: the one for 256- and 512-bit x86-64.
//! - [`machine_code`]: what a selector yields. [`image`]: executable memory.
//! - [`program`]: from a planned module to kernel calls. [`compile`]: all of it at once.
//! - [`host`]: the one CPU probe. [`features`]: a machine restricted to some of its features.
#![deny(unsafe_code)]

pub mod clif;
pub mod compile;
pub mod error;
pub mod features;
pub mod host;
pub mod image;
pub mod kernels;
pub mod kir;
pub mod machine_code;
pub mod pack;
pub mod program;
pub mod x64;
