//! One reading of the text files of a checkpoint: bounded, without a byte order mark, and with every string as Unicode.
//!
//! Editors on Windows put the mark in front of a file (RFC 8259 lets readers ignore it), and Python writes half of a
//! surrogate pair as `\ud800`, which is no character: it is read as U+FFFD, as decoders of UTF-8 replace what is none.
//! `tokenizers`, which refuses such a file, gives no other meaning to it.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::error::ImportError;

/// The file's text without a byte order mark.
///
/// # Errors
/// `TooLarge`.
pub(crate) fn text<'a>(file: &'static str, bytes: &'a [u8], limit: usize) -> Result<&'a [u8], ImportError> {
    if bytes.len() > limit {
        let (bytes, limit) = (bytes.len() as u64, limit as u64);
        return Err(ImportError::TooLarge { file: file.to_owned(), bytes, limit });
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// As [`text`], for JSON: ready to be parsed.
///
/// # Errors
/// `TooLarge`.
pub(crate) fn prepare<'a>(
    file: &'static str,
    bytes: &'a [u8],
    limit: usize,
) -> Result<Cow<'a, [u8]>, ImportError> {
    Ok(with_whole_characters(text(file, bytes, limit)?))
}

/// Parses a file whose contents are not borrowed.
///
/// # Errors
/// `TooLarge`, or `Json`.
pub(crate) fn parse<T: DeserializeOwned>(
    file: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<T, ImportError> {
    let bytes = prepare(file, bytes, limit)?;
    serde_json::from_slice(&bytes).map_err(|e| ImportError::json(file, &e))
}

/// Replaces the escapes of lone surrogates by that of U+FFFD, which is as long, so that places in messages stay right.
fn with_whole_characters(json: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Cow::Borrowed(json);
    let mut at = 0;
    while let Some(found) = json.get(at..).and_then(|rest| rest.iter().position(|&b| b == b'\\')) {
        at += found;
        at += match (unit(json, at), unit(json, at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                if let Some(escape) = out.to_mut().get_mut(at..at + 6) {
                    escape.copy_from_slice(b"\\ufffd");
                }
                6
            }
            (Some(_), _) => 6,
            // Another escape, two characters long.
            (None, _) => 2,
        };
    }
    out
}

/// The UTF-16 unit whose escape, `\uXXXX`, stands at `at`.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digit = |value: u16, &b: &u8| Some(value << 4 | char::from(b).to_digit(16)? as u16);
    digits.iter().try_fold(0, digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(json: &str) -> Result<String, ImportError> {
        parse("a.json", json.as_bytes(), 100)
    }

    #[test]
    fn half_pairs_are_one_replacement_character_each() {
        for (json, expected) in [
            (r#""a\ud83d\ude00b""#, "a\u{1f600}b"),
            (r#""\ud800""#, "\u{fffd}"),
            (r#""\uD83D x""#, "\u{fffd} x"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83d\u0041\n\u00e9""#, "\u{fffd}A\n\u{e9}"),
            (r#""\\ud800\"\\""#, "\\ud800\"\\"),
        ] {
            assert_eq!(string(json).unwrap(), expected, "{json}");
        }
        assert!(matches!(with_whole_characters(br#""\ud83d\ude00""#), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_no_json_stays_refused() {
        for bad in [r#""\ud8"#, r#""\u"#, r"\", r#""\uD8zz""#, "\u{feff}\u{feff}1", ""] {
            assert!(string(bad).is_err(), "{bad}");
        }
        let long = format!("\"{}\"", "x".repeat(100));
        assert!(matches!(string(&long), Err(ImportError::TooLarge { limit: 100, .. })));
    }

    #[test]
    fn a_mark_and_line_ends_are_no_part_of_the_text() {
        assert_eq!(string("\u{feff}\r\n\"a\"\r\n").unwrap(), "a");
        assert_eq!(text("a.txt", "\u{feff}a\u{feff}".as_bytes(), 100).unwrap(), "a\u{feff}".as_bytes());
    }
}
