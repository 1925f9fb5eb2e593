//! What a user may choose about a run of the passes, with the text that the command line, pipelines, plans and reproducers
//! have for each choice: the format of the head, the packing of weights, what is checked after every pass, and the options
//! between the braces of a pipeline (`pack-head{head=q8}`, `assign-layout{weights=1.6bit}`).
//!
//! Invariants: every text parses to the choice that prints it; an option that is not written leaves the value of the run's
//! [`crate::PassContext`]. Which pass takes which option stands in the list of passes ([`crate::PassInfo::options`]).

use std::fmt;
use std::str::FromStr;

use bitnetc_ir::{BlockFormat, DType, Op};

/// How the head is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum HeadFormat {
    /// From the matrix as the model file has it.
    #[default]
    Stored,
    /// 8.5 bits an element.
    Q8,
    /// 6.5 bits an element.
    Q6,
    /// 4.5 bits an element.
    Q4,
    /// The ternary matrix that the module has as its head, computed as in a layer. Not made by `pack-head`: a front-end lowers
    /// to it, and no other format is made of it.
    Ternary,
    /// 4.5 bits an element for all rows, and the best ones exactly.
    Screened {
        /// Rows that are computed exactly, at least 1; all if the matrix has no more.
        rows: u32,
    },
}

impl HeadFormat {
    /// Rows that a screened head computes exactly, unless asked otherwise.
    pub const SCREENED_ROWS: u32 = 256;

    /// The blocks that all rows of the matrix are kept in; `None` for the matrix as it is.
    pub fn blocks(self) -> Option<BlockFormat> {
        match self {
            HeadFormat::Stored | HeadFormat::Ternary => None,
            HeadFormat::Q8 => Some(BlockFormat::W8),
            HeadFormat::Q6 => Some(BlockFormat::W6),
            HeadFormat::Q4 | HeadFormat::Screened { .. } => Some(BlockFormat::W4),
        }
    }

    /// The format of the head that an op is a part of, an operand of which is a parameter of type `operand`; `None` for ops
    /// that are part of none. A screened head is told by its `screen`; its product with all rows is that of `q4`.
    pub fn of_op(op: &Op, operand: DType) -> Option<Self> {
        match op {
            Op::Matmul {} => Some(HeadFormat::Stored),
            Op::Screen { n } => Some(HeadFormat::Screened { rows: *n }),
            Op::BlockMatmul {} => {
                let formats = [HeadFormat::Q8, HeadFormat::Q6, HeadFormat::Q4];
                formats.into_iter().find(|format| format.blocks().is_some_and(|b| b.dtype() == operand))
            }
            _ => None,
        }
    }
}

/// A text that names no head format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown head `{text}`: expected f16, q8, q6, q4, ternary, screened, or screened:N with N exact rows from 1 on"
)]
pub struct HeadFormatError {
    /// As written.
    pub text: String,
}

impl fmt::Display for HeadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadFormat::Stored => f.write_str("f16"),
            HeadFormat::Q8 => f.write_str("q8"),
            HeadFormat::Q6 => f.write_str("q6"),
            HeadFormat::Q4 => f.write_str("q4"),
            HeadFormat::Ternary => f.write_str("ternary"),
            HeadFormat::Screened { rows: Self::SCREENED_ROWS } => f.write_str("screened"),
            HeadFormat::Screened { rows } => write!(f, "screened:{rows}"),
        }
    }
}

impl FromStr for HeadFormat {
    type Err = HeadFormatError;

    fn from_str(text: &str) -> Result<Self, HeadFormatError> {
        let unknown = || HeadFormatError { text: text.to_owned() };
        Ok(match text {
            "f16" => HeadFormat::Stored,
            "q8" => HeadFormat::Q8,
            "q6" => HeadFormat::Q6,
            "q4" => HeadFormat::Q4,
            "ternary" => HeadFormat::Ternary,
            "screened" => HeadFormat::Screened { rows: Self::SCREENED_ROWS },
            _ => {
                let rows = text.strip_prefix("screened:").and_then(|n| n.parse().ok()).filter(|&n| n > 0);
                HeadFormat::Screened { rows: rows.ok_or_else(unknown)? }
            }
        })
    }
}

/// How ternary matrices are to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum WeightPacking {
    /// `tile16` everywhere.
    #[default]
    TwoBits,
    /// `trits16` or `lut16` for every matrix that the layout holds, `tile16` for wider ones.
    Trits,
    /// What the cost model predicts to be faster for one token.
    Auto,
}

impl WeightPacking {
    /// All of them.
    pub const ALL: &[WeightPacking] = &[WeightPacking::TwoBits, WeightPacking::Trits, WeightPacking::Auto];

    /// The name on the command line, in plans and in reproducers.
    pub fn name(self) -> &'static str {
        match self {
            WeightPacking::TwoBits => "2bit",
            WeightPacking::Trits => "1.6bit",
            WeightPacking::Auto => "auto",
        }
    }
}

impl fmt::Display for WeightPacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no packing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown packing of weights `{0}`: expected 2bit, 1.6bit or auto")]
pub struct UnknownPacking(String);

impl FromStr for WeightPacking {
    type Err = UnknownPacking;

    fn from_str(text: &str) -> Result<Self, UnknownPacking> {
        Self::ALL.iter().copied().find(|p| p.name() == text).ok_or_else(|| UnknownPacking(text.to_owned()))
    }
}

/// What is checked after every pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyEach {
    /// Nothing; the rules of the IR after the last pass only.
    Off,
    /// The rules of the IR, and the memory plan if there is one.
    #[default]
    Rules,
    /// The rules, and that the interpreter gives the same bits as before: see [`crate::instruments::same_bits`].
    Bits {
        /// Of weights and inputs.
        seed: u64,
    },
}

/// A text that names no check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown check `{0}`: expected off, rules, interp, or interp:SEED with a number")]
pub struct UnknownCheck(String);

impl fmt::Display for VerifyEach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyEach::Off => f.write_str("off"),
            VerifyEach::Rules => f.write_str("rules"),
            VerifyEach::Bits { seed: 0 } => f.write_str("interp"),
            VerifyEach::Bits { seed } => write!(f, "interp:{seed}"),
        }
    }
}

impl FromStr for VerifyEach {
    type Err = UnknownCheck;

    fn from_str(text: &str) -> Result<Self, UnknownCheck> {
        Ok(match text {
            "off" => VerifyEach::Off,
            "rules" => VerifyEach::Rules,
            "interp" => VerifyEach::Bits { seed: 0 },
            _ => {
                let seed = text.strip_prefix("interp:").and_then(|seed| seed.parse().ok());
                VerifyEach::Bits { seed: seed.ok_or_else(|| UnknownCheck(text.to_owned()))? }
            }
        })
    }
}

/// An option that a pipeline may give to a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassOption {
    /// The head that `pack-head` makes.
    Head,
    /// How `assign-layout` packs ternary weights.
    Weights,
}

impl PassOption {
    /// The name in pipelines.
    pub const fn name(self) -> &'static str {
        match self {
            PassOption::Head => "head",
            PassOption::Weights => "weights",
        }
    }
}

/// Options of one run of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassOptions {
    /// See [`PassOption::Head`].
    pub head: Option<HeadFormat>,
    /// See [`PassOption::Weights`].
    pub weights: Option<WeightPacking>,
}

impl PassOptions {
    /// Sets `option` to what `value` says.
    ///
    /// # Errors
    /// What is wrong with the value, and what would have been accepted.
    pub(crate) fn set(&mut self, option: PassOption, value: &str) -> Result<(), String> {
        match option {
            PassOption::Head => self.head = Some(value.parse().map_err(|e: HeadFormatError| e.to_string())?),
            PassOption::Weights => {
                self.weights = Some(value.parse().map_err(|e: UnknownPacking| e.to_string())?);
            }
        }
        Ok(())
    }
}

impl fmt::Display for PassOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head.map(|head| format!("{}={head}", PassOption::Head.name()));
        let weights = self.weights.map(|weights| format!("{}={weights}", PassOption::Weights.name()));
        let all: Vec<String> = [head, weights].into_iter().flatten().collect();
        match all.is_empty() {
            true => Ok(()),
            false => write!(f, "{{{}}}", all.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_and_nothing_else_is() {
        for text in ["f16", "q8", "q6", "q4", "ternary", "screened", "screened:1", "screened:4096"] {
            assert_eq!(text.parse::<HeadFormat>().unwrap().to_string(), text);
        }
        assert_eq!("screened:256".parse::<HeadFormat>().unwrap().to_string(), "screened");
        for text in ["", "f32", "q5", "screened:", "screened:0", "screened:-1", "screened:x", "Q8"] {
            assert!(text.parse::<HeadFormat>().unwrap_err().to_string().contains(&format!("`{text}`")));
        }
    }

    #[test]
    fn packings_have_names() {
        for &packing in WeightPacking::ALL {
            assert_eq!(packing.to_string().parse(), Ok(packing));
        }
        assert!("3bit".parse::<WeightPacking>().unwrap_err().to_string().contains("1.6bit"));
    }

    #[test]
    fn checks_have_names() {
        for text in ["off", "rules", "interp", "interp:7"] {
            assert_eq!(text.parse::<VerifyEach>().unwrap().to_string(), text);
        }
        assert!("interp:".parse::<VerifyEach>().is_err() && "on".parse::<VerifyEach>().is_err());
    }
}
