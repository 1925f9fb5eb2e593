//! Attributes of ops: values fixed when the op is built. Each attribute type prints itself, parses what it prints, and
//! offers candidates from which random graphs are made.

use std::fmt;

use crate::blocks::{BLOCK, TERNARY_BLOCK};
use crate::rope::{RopeScaling, Theta};

/// What the op table demands of an attribute, beyond what its type can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Nothing: each value means something.
    Any,
    /// Numbers that are finite and above zero.
    Positive,
    /// Whole numbers from 1.
    UpTo(u32),
    /// Even whole numbers from 2.
    EvenUpTo(u32),
    /// Powers of two from 1.
    PowerOfTwoUpTo(u32),
    /// A list of at most this number of sizes, each of which is at least 1.
    Sizes(usize),
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bounds::Any => f.write_str("anything"),
            Bounds::Positive => f.write_str("positive and finite"),
            Bounds::UpTo(most) => write!(f, "1 to {most}"),
            Bounds::EvenUpTo(most) => write!(f, "even, 2 to {most}"),
            Bounds::PowerOfTwoUpTo(most) => write!(f, "a power of two, 1 to {most}"),
            Bounds::Sizes(most) => write!(f, "1 to {most} sizes of at least 1"),
        }
    }
}

/// An attribute type.
pub trait Attr: Sized + Clone + PartialEq + fmt::Debug {
    /// What a text of this type looks like, for error messages.
    const EXPECTED: &'static str;
    /// The text form.
    fn print(&self) -> String;
    /// The attribute that prints as `text`.
    fn parse(text: &str) -> Option<Self>;
    /// Whether the value lies within bounds, which are such as this type can have.
    fn is_within(&self, bounds: Bounds) -> bool;
    /// Values worth trying on operands whose last dimensions are `widths`.
    fn candidates(widths: &[u32]) -> Vec<Self>;
    /// The value that an op has where its text names none; it is not printed.
    fn default() -> Option<Self> {
        None
    }
}

impl Attr for f32 {
    const EXPECTED: &'static str = "a finite number such as 1e-5";
    fn print(&self) -> String {
        format!("{self:?}")
    }
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|x: &f32| x.is_finite())
    }
    fn is_within(&self, bounds: Bounds) -> bool {
        match bounds {
            Bounds::Any => true,
            Bounds::Positive => *self > 0.0 && self.is_finite(),
            Bounds::UpTo(_) | Bounds::EvenUpTo(_) | Bounds::PowerOfTwoUpTo(_) | Bounds::Sizes(_) => false,
        }
    }
    fn candidates(_: &[u32]) -> Vec<Self> {
        vec![1e-5, 1e-6, 0.125, 1.0, 10000.0, 500000.0]
    }
}

impl Attr for u32 {
    const EXPECTED: &'static str = "a whole number below 2^32";
    fn print(&self) -> String {
        self.to_string()
    }
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn is_within(&self, bounds: Bounds) -> bool {
        match bounds {
            Bounds::Any => true,
            Bounds::UpTo(most) => (1..=most).contains(self),
            Bounds::EvenUpTo(most) => (2..=most).contains(self) && self.is_multiple_of(2),
            Bounds::PowerOfTwoUpTo(most) => (1..=most).contains(self) && self.is_power_of_two(),
            Bounds::Positive | Bounds::Sizes(_) => false,
        }
    }
    fn candidates(widths: &[u32]) -> Vec<Self> {
        let mut all: Vec<u32> = widths
            .iter()
            .flat_map(|&w| [w, w / 2, w / 3, w / 4])
            .chain([1, 2, 3, 4, 6, 8, 16, 40, 64])
            .filter(|&n| n > 0)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Attr for Theta {
    const EXPECTED: &'static str =
        "a number such as 500000.0, or one with a scaling such as 500000.0_linear_8.0";
    fn print(&self) -> String {
        let (kind, numbers) = self.scaling.parts();
        let numbers: String = numbers.iter().map(|x| format!("_{x:?}")).collect();
        match kind {
            "" => self.base.print(),
            kind => format!("{:?}_{kind}{numbers}", self.base),
        }
    }
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split('_');
        let base = f32::parse(words.next()?)?;
        let kind = words.next().unwrap_or_default();
        let numbers: Vec<f32> = words.map(f32::parse).collect::<Option<_>>()?;
        RopeScaling::of_parts(kind, &numbers).map(|scaling| Self { base, scaling })
    }
    fn is_within(&self, bounds: Bounds) -> bool {
        matches!(bounds, Bounds::Any) || (bounds == Bounds::Positive && self.is_sound())
    }
    fn candidates(widths: &[u32]) -> Vec<Self> {
        let mut all: Vec<Self> = f32::candidates(widths).into_iter().map(Self::from).collect();
        let yarn = RopeScaling::Yarn { factor: 4.0, original: 32.0, beta_fast: 32.0, beta_slow: 1.0 };
        for scaling in [RopeScaling::Linear { factor: 8.0 }, yarn] {
            all.push(Self { base: 10_000.0, scaling });
        }
        all
    }
}

/// A list of sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(pub Vec<u32>);

impl Attr for Sizes {
    const EXPECTED: &'static str = "a list of sizes such as [2560,640]";
    fn print(&self) -> String {
        let items: Vec<String> = self.0.iter().map(u32::to_string).collect();
        format!("[{}]", items.join(","))
    }
    fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.split(',').map(|t| t.trim().parse().ok()).collect::<Option<Vec<u32>>>().map(Sizes)
    }
    fn is_within(&self, bounds: Bounds) -> bool {
        match bounds {
            Bounds::Any => true,
            Bounds::Sizes(most) => (1..=most).contains(&self.0.len()) && !self.0.contains(&0),
            Bounds::Positive | Bounds::UpTo(_) | Bounds::EvenUpTo(_) | Bounds::PowerOfTwoUpTo(_) => false,
        }
    }
    fn candidates(widths: &[u32]) -> Vec<Self> {
        widths
            .iter()
            .filter(|&&w| w >= 3)
            .flat_map(|&w| [Sizes(vec![w / 2, w - w / 2]), Sizes(vec![1, 1, w - 2])])
            .collect()
    }
}

macro_rules! word_attr {
    (
        $(#[$doc:meta])* $name:ident, $expected:literal $(, default $default:ident)?
        { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl Attr for $name {
            const EXPECTED: &'static str = $expected;
            fn print(&self) -> String {
                match self { $($name::$variant => $word,)+ }.to_owned()
            }
            fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some($name::$variant),)+ _ => None }
            }
            fn is_within(&self, bounds: Bounds) -> bool {
                bounds == Bounds::Any
            }
            fn candidates(_: &[u32]) -> Vec<Self> {
                vec![$($name::$variant,)+]
            }
            $(fn default() -> Option<Self> {
                Some($name::$default)
            })?
        }
    };
}

word_attr! {
    /// Which elements of a head RoPE turns together.
    Pairs, "`halves` or `interleaved`" {
        /// j and j + rot/2 (GPT-NeoX).
        Halves = "halves",
        /// 2j and 2j + 1 (the original form).
        Interleaved = "interleaved",
    }
}

word_attr! {
    /// Where the signs of a Hadamard rotation stand. The transform of one direction undoes that of the other.
    Direction, "`forward` or `inverse`" {
        /// Before the transform: what the input of a rotated matrix goes through.
        Forward = "forward",
        /// After it: what takes a rotated row back.
        Inverse = "inverse",
    }
}

word_attr! {
    /// Columns of an activation that `quant_blocks` gives a scale of their own.
    QuantBlock, "`32` or `128`", default Cols32 {
        /// Those of block-quantised matrices ([`crate::blocks`]).
        Cols32 = "32",
        /// For ternary matrices.
        Cols128 = "128",
    }
}

impl QuantBlock {
    /// The columns.
    pub fn cols(self) -> u32 {
        match self {
            QuantBlock::Cols32 => BLOCK,
            QuantBlock::Cols128 => TERNARY_BLOCK,
        }
    }
}

impl Epilogue {
    /// Whether rows come in pairs of blocks, gate and up, and the result is half as wide.
    pub fn is_gated(self) -> bool {
        matches!(self, Self::Relu2Mul | Self::SiluMul)
    }
}

word_attr! {
    /// What `bitlinear` does with its sums before it stores them.
    Epilogue, "`none`, `add`, `relu2_mul` or `silu_mul`" {
        /// Nothing more than the scales.
        None = "none",
        /// Adds the residual operand.
        Add = "add",
        /// Rows come in blocks of 16 gate rows and 16 up rows; the result is relu²(gate)·up, half as wide.
        Relu2Mul = "relu2_mul",
        /// As `relu2_mul`, with silu(gate)·up.
        SiluMul = "silu_mul",
    }
}
