//! The text files of a checkpoint: bounded, and read as `bitnetc_frontend_gguf::text` reads all text.

use std::borrow::Cow;

use bitnetc_frontend_gguf::text as input;
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
    Ok(input::without_mark(bytes))
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
    text(file, bytes, limit)?;
    Ok(input::json(bytes))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn string(json: &str) -> Result<String, ImportError> {
        parse("a.json", json.as_bytes(), 100)
    }

    #[test]
    fn json_is_read_as_all_text_is() {
        assert_eq!(string("\u{feff}\r\n\"a\\ud83d\\ude00\\ud800\"\r\n").unwrap(), "a\u{1f600}\u{fffd}");
        assert_eq!(text("a.txt", "\u{feff}a\u{feff}".as_bytes(), 100).unwrap(), "a\u{feff}".as_bytes());
    }

    #[test]
    fn what_is_no_json_stays_refused() {
        for bad in [r#""\ud8"#, r#""\u"#, r"\", r#""\uD8zz""#, "\u{feff}\u{feff}1", ""] {
            assert!(string(bad).is_err(), "{bad}");
        }
        let long = format!("\"{}\"", "x".repeat(100));
        assert!(matches!(string(&long), Err(ImportError::TooLarge { limit: 100, .. })));
    }
}
