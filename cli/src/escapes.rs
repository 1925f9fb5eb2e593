//! Escapes in texts of the command line, as llama.cpp reads them: `\n`, `\r`, `\t`, `\\`, `\'`, `\"` and `\xHH`.
//!
//! Anything else after a backslash stays as it is, backslash included. Texts from files have no escapes.

use clap::Args;

use super::failure::Failure;
use crate::exit;

/// Whether texts of the command line have escapes.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct EscapeArgs {
    /// Read \n, \r, \t, \\, \', \" and \xHH in prompts and stop strings on the command line (default)
    #[arg(short, long, overrides_with = "no_escape")]
    pub(crate) escape: bool,
    /// Use these texts unchanged
    #[arg(long, overrides_with = "escape")]
    pub(crate) no_escape: bool,
}

impl EscapeArgs {
    /// The text that was meant by `given`, the value of `option`.
    pub(crate) fn text(self, option: &str, given: &str) -> Result<String, Failure> {
        if self.no_escape && !self.escape {
            return Ok(given.to_owned());
        }
        String::from_utf8(unescaped(given.as_bytes())).map_err(|_| {
            let message =
                format!("{option}: its escapes make bytes that are not UTF-8; --no-escape takes it as it is");
            Failure::new(exit::USAGE, message)
        })
    }

    /// As [`EscapeArgs::text`], for an option that may be missing.
    pub(crate) fn optional(self, option: &str, given: Option<&str>) -> Result<Option<String>, Failure> {
        given.map(|text| self.text(option, text)).transpose()
    }
}

/// The text with its escapes replaced.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let (taken, value) = match rest {
            [b'\\', b'n', ..] => (2, b'\n'),
            [b'\\', b'r', ..] => (2, b'\r'),
            [b'\\', b't', ..] => (2, b'\t'),
            [b'\\', quoted @ (b'\'' | b'"' | b'\\'), ..] => (2, *quoted),
            [b'\\', b'x', high, low, ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (4, high << 4 | low),
                _ => (1, *byte),
            },
            _ => (1, *byte),
        };
        out.push(value);
        rest = after.get(taken - 1..).unwrap_or_default();
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_llama_cpp() {
        for (given, expected) in [
            (r"a\nb", "a\nb"),
            (r"a\\nb", "a\\nb"),
            (r#"\t\r\'\""#, "\t\r'\""),
            (r"\x41\x7a", "Az"),
            (r"\xc3\xa4", "ä"),
            (r"\q\x4", r"\q\x4"),
            (r"\xg1", r"\xg1"),
            ("end\\", "end\\"),
            ("", ""),
        ] {
            assert_eq!(EscapeArgs::default().text("-p", given).unwrap(), expected, "{given}");
        }
        let off = EscapeArgs { no_escape: true, escape: false };
        assert_eq!(off.text("-p", r"a\nb").unwrap(), r"a\nb");
        assert!(EscapeArgs::default().text("-p", r"\xff").is_err());
    }
}
