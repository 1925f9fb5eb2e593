//! One reading of the text that people and other programs hand over: prompts, requests, schemas, grammars, templates, the
//! JSON files of checkpoints.
//!
//! Editors on Windows put a byte order mark in front of a file and end its lines with CR LF; neither is part of what its author
//! wrote (Unicode 15, 23.8; RFC 8259, 8.1). Python and JavaScript write half of a surrogate pair as `\ud800`, which is no
//! character: it is read as U+FFFD, as decoders of UTF-8 replace what is none.
//!
//! Invariant: a function here removes or replaces exactly what its name says, so that places in messages stay right.

use std::borrow::Cow;

/// The byte order mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The bytes without a byte order mark at their beginning.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// As [`without_mark`], for a string.
pub fn text_without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// How many bytes a byte order mark at the beginning takes: 3, or none.
pub fn mark_length(bytes: &[u8]) -> usize {
    bytes.len() - without_mark(bytes).len()
}

/// The text with LF at the end of each line in place of CR LF.
pub fn with_unix_line_ends(text: &str) -> Cow<'_, str> {
    match text.contains("\r\n") {
        true => Cow::Owned(text.replace("\r\n", "\n")),
        false => Cow::Borrowed(text),
    }
}

/// The line, or the text, without its last line end, LF or CR LF.
pub fn without_line_end(bytes: &[u8]) -> &[u8] {
    let Some(line) = bytes.strip_suffix(b"\n") else { return bytes };
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// JSON ready for a parser that takes Unicode only: without a byte order mark, and with the escape of U+FFFD in place of that of
/// half a surrogate pair.
pub fn json(bytes: &[u8]) -> Cow<'_, [u8]> {
    with_whole_characters(without_mark(bytes))
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

    #[test]
    fn half_pairs_are_one_replacement_character_each() {
        for (given, expected) in [
            (r#""a\ud83d\ude00b""#, r#""a\ud83d\ude00b""#),
            (r#""\ud800""#, r#""\ufffd""#),
            (r#""\uD83D x""#, r#""\ufffd x""#),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ud83d\u0041\n\u00e9""#, r#""\ufffd\u0041\n\u00e9""#),
            (r#""\\ud800\"\\""#, r#""\\ud800\"\\""#),
            (r#""\ud8"#, r#""\ud8"#),
            (r#""\uD8zz""#, r#""\uD8zz""#),
            ("\\", "\\"),
        ] {
            assert_eq!(json(given.as_bytes()), expected.as_bytes(), "{given}");
        }
        assert!(matches!(json(br#""\ud83d\ude00""#), Cow::Borrowed(_)));
    }

    #[test]
    fn one_mark_and_one_line_end_are_no_part_of_the_text() {
        assert_eq!(without_mark("\u{feff}\u{feff}a".as_bytes()), "\u{feff}a".as_bytes());
        assert_eq!(text_without_mark("\u{feff}a\u{feff}"), "a\u{feff}");
        assert_eq!((mark_length(b"a"), mark_length("\u{feff}".as_bytes())), (0, 3));
        for (given, expected) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\r", "a\r"), ("a\n\r\n", "a\n"), ("", "")]
        {
            assert_eq!(without_line_end(given.as_bytes()), expected.as_bytes(), "{given:?}");
        }
        assert_eq!(with_unix_line_ends("a\r\nb\rc\n"), "a\nb\rc\n");
    }
}
