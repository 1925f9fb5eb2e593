//! Types, value names and typed handles of the kernel IR.
//!
//! A [`Value`] is an index into [`Kernel::types`](super::Kernel::types). Generators never see it: they hold a handle
//! ([`I64`], [`Vf`], [`Vi`], [`Vb`]) whose Rust type is the value's type, so that a type error in a generator is a
//! compile error. A handle belongs to the builder that made it; mixing builders is caught by the verifier, not by
//! rustc.

use std::fmt;

use super::build::KernelBuilder;

/// Lanes of a virtual vector of 32-bit elements.
pub const LANES: usize = 16;

/// Bytes of a virtual vector.
pub const VECTOR_BYTES: usize = 64;

/// Tile registers.
pub const TILES: usize = 8;

/// Most rows of a tile register; a row is [`VECTOR_BYTES`] long.
pub const TILE_ROWS: usize = 16;

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// 64-bit integer: number, byte offset or pointer.
    I64,
    /// 16 × f32.
    Vf,
    /// 16 × i32; also masks (each lane all ones or all zeros).
    Vi,
    /// 64 × 8 bits, signed or unsigned as the op says.
    Vb,
}

impl Type {
    /// Whether the type is one of the three views of a 512-bit vector.
    pub fn is_vector(self) -> bool {
        self != Type::I64
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::I64 => "i64",
            Type::Vf => "vf",
            Type::Vi => "vi",
            Type::Vb => "vb",
        })
    }
}

/// Name of an SSA value of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

impl Value {
    /// The position of the value in per-value tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// A typed handle to a value.
pub trait Handle: Copy {
    /// The type of every value that the handle can name.
    const TYPE: Type;
    /// Wraps a value that is known to have the type.
    fn from_value(value: Value) -> Self;
    /// The value after the handle.
    fn value(self) -> Value;
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(Value);

        impl Handle for $name {
            const TYPE: Type = Type::$name;
            fn from_value(value: Value) -> Self { Self(value) }
            fn value(self) -> Value { self.0 }
        }

        impl IntoOperand<$name> for $name {
            fn into_operand(self, _: &mut KernelBuilder) -> $name { self }
        }

        impl Carry for $name {
            fn collect(&self, values: &mut Vec<Value>) { values.push(self.0); }
            fn rebuild(&self, values: &mut dyn Iterator<Item = Value>) -> Self {
                Self(values.next().unwrap_or(self.0))
            }
        }
    )+};
}

handles! {
    /// Handle to an [`Type::I64`] value.
    I64,
    /// Handle to a [`Type::Vf`] value.
    Vf,
    /// Handle to a [`Type::Vi`] value.
    Vi,
    /// Handle to a [`Type::Vb`] value.
    Vb,
}

/// Handle to a vector of any view: the operand of the free bitcasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnyVec(Value);

impl AnyVec {
    /// The value after the handle.
    pub fn value(self) -> Value {
        self.0
    }
}

macro_rules! any_vec {
    ($($name:ident)+) => {$(
        impl IntoOperand<AnyVec> for $name {
            fn into_operand(self, _: &mut KernelBuilder) -> AnyVec { AnyVec(self.0) }
        }
    )+};
}
any_vec!(Vf Vi Vb);

/// What a builder method takes where it wants a `T`: a handle, or for [`I64`] also an integer constant.
pub trait IntoOperand<T> {
    /// The handle, after the builder has emitted a constant if one is needed.
    fn into_operand(self, builder: &mut KernelBuilder) -> T;
}

macro_rules! int_operands {
    ($($ty:ty)+) => {$(
        impl IntoOperand<I64> for $ty {
            fn into_operand(self, builder: &mut KernelBuilder) -> I64 { builder.int(self as i64) }
        }
    )+};
}
int_operands!(i32 u32 i64 usize);

/// Loop-carried (or `if`-yielded) state: a handle, or any nesting of tuples, arrays and `Vec`s of handles.
pub trait Carry: Sized {
    /// Appends the values in a fixed order.
    fn collect(&self, values: &mut Vec<Value>);
    /// The same shape over other values, taken in the order of [`Carry::collect`].
    fn rebuild(&self, values: &mut dyn Iterator<Item = Value>) -> Self;
}

impl<T: Carry> Carry for Vec<T> {
    fn collect(&self, values: &mut Vec<Value>) {
        self.iter().for_each(|c| c.collect(values));
    }
    fn rebuild(&self, values: &mut dyn Iterator<Item = Value>) -> Self {
        self.iter().map(|c| c.rebuild(values)).collect()
    }
}

impl<T: Carry, const N: usize> Carry for [T; N] {
    fn collect(&self, values: &mut Vec<Value>) {
        self.iter().for_each(|c| c.collect(values));
    }
    fn rebuild(&self, values: &mut dyn Iterator<Item = Value>) -> Self {
        std::array::from_fn(|i| self[i].rebuild(values))
    }
}

impl Carry for () {
    fn collect(&self, _: &mut Vec<Value>) {}
    fn rebuild(&self, _: &mut dyn Iterator<Item = Value>) -> Self {}
}

macro_rules! tuple_carry {
    ($($t:ident $i:tt),+) => {
        impl<$($t: Carry),+> Carry for ($($t,)+) {
            fn collect(&self, values: &mut Vec<Value>) { $(self.$i.collect(values);)+ }
            fn rebuild(&self, values: &mut dyn Iterator<Item = Value>) -> Self {
                ($(self.$i.rebuild(values),)+)
            }
        }
    };
}
tuple_carry!(A 0);
tuple_carry!(A 0, B 1);
tuple_carry!(A 0, B 1, C 2);
tuple_carry!(A 0, B 1, C 2, D 3);
tuple_carry!(A 0, B 1, C 2, D 3, E 4);
tuple_carry!(A 0, B 1, C 2, D 3, E 4, F 5);

/// An f32 constant, compared and hashed by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct F32(u32);

impl F32 {
    /// The number.
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
    /// Its IEEE-754 bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl From<f32> for F32 {
    fn from(x: f32) -> Self {
        Self(x.to_bits())
    }
}

impl fmt::Debug for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            x if x.is_nan() => write!(f, "nan:{:08x}", self.0),
            x => write!(f, "{x:?}"),
        }
    }
}

/// The 64 bytes that a look-up reads, compared and hashed by their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table(pub &'static [u8; VECTOR_BYTES]);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// All variants, in the order of their declaration.
            pub const ALL: &[$name] = &[$($name::$variant,)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $word,)+ })
            }
        }
    };
}

word_enum! {
    /// Memory type of a scalar load or store. Loads extend to 64 bits, stores keep the low bits.
    Scalar {
        /// Unsigned byte.
        U8 = "u8",
        /// Signed byte.
        I8 = "i8",
        /// Unsigned 16 bits.
        U16 = "u16",
        /// Signed 32 bits.
        I32 = "i32",
        /// 64 bits.
        I64 = "i64",
    }
}

impl Scalar {
    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        match self {
            Scalar::U8 | Scalar::I8 => 1,
            Scalar::U16 => 2,
            Scalar::I32 => 4,
            Scalar::I64 => 8,
        }
    }
}

word_enum! {
    /// Comparison of two signed integers.
    IntCond {
        /// `a == b`
        Eq = "eq",
        /// `a != b`
        Ne = "ne",
        /// `a < b`
        Lt = "lt",
        /// `a <= b`
        Le = "le",
        /// `a > b`
        Gt = "gt",
        /// `a >= b`
        Ge = "ge",
    }
}

impl IntCond {
    /// Whether the comparison holds.
    pub fn holds<T: Ord>(self, a: T, b: T) -> bool {
        match self {
            IntCond::Eq => a == b,
            IntCond::Ne => a != b,
            IntCond::Lt => a < b,
            IntCond::Le => a <= b,
            IntCond::Gt => a > b,
            IntCond::Ge => a >= b,
        }
    }
}

word_enum! {
    /// Comparison of two f32; all but `Uno` are false when an operand is NaN.
    FloatCond {
        /// `a == b`
        Eq = "eq",
        /// `a < b`
        Lt = "lt",
        /// `a <= b`
        Le = "le",
        /// `a > b`
        Gt = "gt",
        /// `a >= b`
        Ge = "ge",
        /// Neither is NaN.
        Ord = "ord",
        /// At least one is NaN.
        Uno = "uno",
    }
}
