//! Why a kernel could not be turned into running code.

use crate::kir::VerifyError;

/// Why a kernel could not be turned into running code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodegenError {
    /// The kernel breaks a rule of the kernel IR: a defect of its generator.
    #[error(transparent)]
    Malformed(#[from] VerifyError),
    /// Generated code needs more than this CPU has.
    #[error("this CPU does not have {missing}, the minimum for generated code")]
    HostFloor {
        /// The missing features.
        missing: String,
    },
    /// Code is generated for x86-64 and aarch64 only.
    #[error("code generation for this machine ({arch}) is not supported: use an x86-64 or aarch64 machine")]
    UnsupportedHost {
        /// The machine's architecture.
        arch: &'static str,
    },
    /// Code for one target was to be run on another.
    #[error(
        "code for {target} cannot run on this machine: {missing} is missing; compile for {host} or a subset of it"
    )]
    WrongTarget {
        /// What the code is for.
        target: String,
        /// What the machine is.
        host: String,
        /// The features that the machine lacks, or its architecture.
        missing: String,
    },
    /// The instruction selector refused the kernel.
    #[error("kernel `{kernel}`: the code generator failed (a defect, please report it): {reason}")]
    Backend {
        /// The kernel's name.
        kernel: String,
        /// What the code generator says.
        reason: String,
    },
    /// The wide selector needs more registers than there are, in a loop where nothing may move to memory.
    #[error(
        "kernel `{kernel}` needs {needed} registers at once in an inner loop; there are {available}: choose a smaller tile"
    )]
    Registers {
        /// The kernel's name.
        kernel: String,
        /// Values that are live at once.
        needed: usize,
        /// Registers that can hold them.
        available: usize,
    },
    /// The wide selector would need a frame that is too large.
    #[error("kernel `{kernel}` needs a frame of {bytes} bytes; the limit is {limit}: choose a smaller tile")]
    Frame {
        /// The kernel's name.
        kernel: String,
        /// Bytes of its frame.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The wide selector was asked for code that this target has no registers for.
    #[error(
        "{target} has neither AVX2 with FMA and F16C nor AVX-512 F, BW, DQ and VL: use the Cranelift selector"
    )]
    Narrow {
        /// The target.
        target: String,
    },
    /// The kernel uses tile registers, which the target or the selector lacks.
    #[error("kernel `{kernel}` uses tile registers: {target} has none, or its selector cannot use them")]
    Tiles {
        /// The kernel's name.
        kernel: String,
        /// The target.
        target: String,
    },
    /// The kernel's code is too long.
    #[error("kernel `{kernel}` needs {bytes} bytes of code; the limit is {limit}: choose a smaller tile")]
    TooLarge {
        /// The kernel's name.
        kernel: String,
        /// Bytes of its code.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The code refers to something outside of itself, which no kernel may.
    #[error("kernel `{kernel}`: the code refers to `{symbol}`; kernels must be self-contained (a defect)")]
    Relocation {
        /// The kernel's name.
        kernel: String,
        /// What the first reference is to.
        symbol: String,
    },
    /// Two kernels of one image have the same name.
    #[error("kernel `{kernel}` is defined twice in one image")]
    Duplicate {
        /// The kernel's name.
        kernel: String,
    },
    /// Executable memory could not be had.
    #[error("could not make memory executable: {reason}")]
    Memory {
        /// What the system says.
        reason: String,
    },
}
