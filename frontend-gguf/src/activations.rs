//! How the activations of ternary products are rounded: a choice of the compilation, with a default for each family.

use std::fmt;
use std::str::FromStr;

/// In which form an activation meets a ternary matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationFormat {
    /// int8 with one scale for the token, as BitNet b1.58 is trained.
    Int8Token,
    /// int8 with a scale for each 128 columns.
    Int8Blocks,
    /// As it is: nothing is rounded. Slow.
    F32,
}

impl ActivationFormat {
    /// All formats.
    pub const ALL: &[ActivationFormat] =
        &[ActivationFormat::Int8Token, ActivationFormat::Int8Blocks, ActivationFormat::F32];

    /// The name on the command line and in plans.
    pub fn name(self) -> &'static str {
        match self {
            ActivationFormat::Int8Token => "int8-token",
            ActivationFormat::Int8Blocks => "int8-128",
            ActivationFormat::F32 => "f32",
        }
    }
}

impl fmt::Display for ActivationFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown activations `{0}`: expected int8-token, int8-128 or f32")]
pub struct UnknownActivations(String);

impl FromStr for ActivationFormat {
    type Err = UnknownActivations;

    fn from_str(text: &str) -> Result<Self, UnknownActivations> {
        let named = Self::ALL.iter().copied().find(|format| format.name() == text);
        named.ok_or_else(|| UnknownActivations(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_and_nothing_else_is() {
        for &format in ActivationFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        for text in ["", "int8", "INT8-TOKEN", "f16"] {
            assert!(text.parse::<ActivationFormat>().unwrap_err().to_string().contains(&format!("`{text}`")));
        }
    }
}
