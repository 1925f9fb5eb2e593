//! Kernels: from a [`KernelSpec`] to the kernel IR that computes it.
//!
//! `table.rs` is the table of all kernels, and each family of generators has a file. What they share is beside them: their
//! arguments (`args`), loops over the lanes of a row and over tiles of a range (`lanes`), and here [`Registers`], what a
//! generator needs to know of the machine. Blocking and the choice between equal forms follow from it and never change a
//! bit: `docs/numerics.md` fixes every rounding, and the tests compare with it.
//!
//! Invariants: a kernel takes exactly the words of [`KernelSpec::args`], in that order; it writes only its results (or,
//! for caches, the operands that hold them), its scratch and its workspace; what it computes for a unit depends neither on the range
//! of units nor on the registers. A result may lie in the bytes of an operand where the op table says so
//! ([`bitnetc_ir::InPlace`]), so everything that a store overwrites has been read before.

#[macro_use]
mod define;

mod args;
mod attention;
mod bitlinear;
mod blocks;
mod buffers;
mod check;
mod elementwise;
mod embed;
mod hadamard;
mod kv_append;
mod lanes;
mod matmul;
mod norm;
mod prefetch;
mod recurrent;
pub mod roofline;
mod rope;
mod screen;
mod spec;
mod table;

use bitnetc_ir::{Arch, Feature, TargetDesc};

pub use spec::{
    ActivationScale, Arg, CacheShape, ElementwiseFn, KernelIndex, KernelSpec, RopeShape, SpecError, TokenMode,
};
pub use table::KernelKind;

use table::kernel;

use crate::kir::{Kernel, KernelBuilder, MAX_STATEMENTS, VerifyError};

/// Greatest distance in bytes between the rows of two tokens.
const MAX_STRIDE: u64 = 1 << 40;

/// Why a kernel could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A size is 0 or beyond what generated code can address.
    #[error(
        "kernel `{kernel}`: {what} is {value}, must be 1 to {max}: bitnetc does not support a model of this size"
    )]
    Size {
        /// The kernel's name.
        kernel: String,
        /// The size.
        what: &'static str,
        /// As given.
        value: u64,
        /// The greatest value that works.
        max: u64,
    },
    /// Sizes that do not go together; the IR's verifier refuses the op.
    #[error("kernel `{kernel}`: {rule}; the op breaks a rule of the IR")]
    Shape {
        /// The kernel's name.
        kernel: String,
        /// What does not hold.
        rule: &'static str,
    },
    /// A dtype for which there is no code.
    #[error("kernel `{kernel}`: no kernel reads {what} of {dtype}")]
    DType {
        /// The kernel's name.
        kernel: String,
        /// Which operand.
        what: &'static str,
        /// Its dtype.
        dtype: &'static str,
    },
    /// The spec's strides do not fit its kind.
    #[error(
        "kernel `{kernel}`: {got} strides for {expected} activations (or one is less than a row, odd or too large)"
    )]
    Strides {
        /// The kernel's name.
        kernel: String,
        /// Activation operands and results.
        expected: usize,
        /// As given.
        got: usize,
    },
    /// The kernel would be longer than any that can be compiled.
    #[error(
        "kernel `{kernel}` has more than {limit} statements: bitnetc does not support a model of this size"
    )]
    TooLong {
        /// The kernel's name.
        kernel: String,
        /// The most that are generated.
        limit: usize,
    },
    /// The generator made a kernel that the kernel IR refuses: a defect of the generator.
    #[error(transparent)]
    Malformed(#[from] VerifyError),
}

/// How many virtual vectors an instruction selector can hold in registers, how it multiplies bytes, and how memory is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Registers {
    vectors: u8,
    whole_byte_dot: bool,
    tiles: bool,
    one_stream: bool,
}

impl Registers {
    /// `count` physical registers of `bits` bits (128, 256 or 512).
    pub const fn new(bits: u32, count: u8) -> Self {
        let parts = if bits >= 512 {
            1
        } else if bits >= 256 {
            2
        } else {
            4
        };
        Self { vectors: count / parts, whole_byte_dot: true, tiles: false, one_stream: false }
    }

    /// The same registers where `dot_u8i8` costs more for bytes above 128 than for others.
    #[must_use]
    pub const fn without_whole_byte_dot(self) -> Self {
        Self { whole_byte_dot: false, ..self }
    }

    /// What the Cranelift selector has on `target`: 128-bit registers.
    pub fn cranelift(target: &TargetDesc) -> Self {
        let whole_byte_dot = Self::has_whole_byte_dot(target);
        match target.arch {
            Arch::X86_64 => Self { vectors: 16 / 4, whole_byte_dot, tiles: false, one_stream: false },
            Arch::Aarch64 => Self { vectors: 32 / 4, whole_byte_dot, tiles: false, one_stream: false },
        }
    }

    /// Whether `dot_u8i8` is one instruction for all bytes, or as dear for all of them.
    fn has_whole_byte_dot(target: &TargetDesc) -> bool {
        match target.arch {
            Arch::X86_64 => target.has(Feature::Avx512vnni) || target.has(Feature::AvxVnni),
            Arch::Aarch64 => target.has(Feature::I8mm) || !target.has(Feature::Dotprod),
        }
    }

    /// Whether products with bytes above 128 cost no more than others.
    pub fn whole_byte_dot(self) -> bool {
        self.whole_byte_dot
    }

    /// The same registers, and tile registers.
    #[must_use]
    pub const fn with_tiles(self) -> Self {
        Self { tiles: true, ..self }
    }

    /// Whether there are tile registers, and products of bytes between them.
    pub fn tiles(self) -> bool {
        self.tiles
    }

    /// The same registers where memory is read fastest in one sequence without prefetches.
    #[must_use]
    pub const fn with_one_stream(self) -> Self {
        Self { one_stream: true, ..self }
    }

    /// The same registers with the tuning of `target`. The Cranelift selector has none: its kernels are bound by arithmetic.
    #[must_use]
    pub fn tuned_for(self, target: &TargetDesc) -> Self {
        if target.has(Feature::OneStream) { self.with_one_stream() } else { self }
    }

    /// Whether a kernel for one token should read a matrix from its first byte to its last, and prefetch nothing.
    pub fn one_stream(self) -> bool {
        self.one_stream
    }

    /// Virtual vectors that fit.
    pub fn vectors(self) -> usize {
        usize::from(self.vectors)
    }
}

impl KernelSpec {
    /// The kernel for the Cranelift selector on `target`.
    ///
    /// # Errors
    /// As [`KernelSpec::build_for`].
    pub fn build(&self, target: &TargetDesc) -> Result<Kernel, KernelError> {
        self.build_for(Registers::cranelift(target))
    }

    /// The kernel, blocked for a selector that has these registers.
    ///
    /// # Errors
    /// A spec whose sizes, dtypes or strides do not go together.
    pub fn build_for(&self, registers: Registers) -> Result<Kernel, KernelError> {
        self.check()?;
        let mut b = KernelBuilder::new(self.name());
        self.generate(&mut b, registers);
        match b.is_too_long() {
            true => Err(KernelError::TooLong { kernel: self.name(), limit: MAX_STATEMENTS }),
            false => Ok(b.finish()?),
        }
    }
}
