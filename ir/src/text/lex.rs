//! Tokens of the text form.
//!
//! A word is a maximal run of letters, digits, `_`, `.` and `-`, so that names, numbers (`1e-5`) and shapes (`5xCx128`) are
//! one token each; the parser says what a word means where it stands.
//!
//! Invariants: spans lie on character boundaries of the source; every token but the last is at least one byte long.

use std::ops::Range;

use super::ParseError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tok<'a> {
    /// Keyword, mnemonic, number, shape, …
    Word(&'a str),
    /// `%name`, without the sign.
    Value(&'a str),
    /// `@name`, without the sign.
    Name(&'a str),
    /// `#hex`, without the sign.
    Hash(&'a str),
    /// `"…"`, between the quotes, escapes not yet undone.
    Str(&'a str),
    /// One of `( ) { } [ ] , : = +`.
    Punct(char),
    /// `->`
    Arrow,
    /// `<=`
    AtMost,
    /// The end of the text.
    End,
}

/// A token and its bytes.
#[derive(Clone, Debug)]
pub(super) struct Token<'a> {
    pub(super) tok: Tok<'a>,
    pub(super) span: Range<usize>,
}

/// Whether the byte may be part of a word.
pub(super) fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')
}

/// Reads tokens from a text, one at a time.
pub(super) struct Lexer<'a> {
    pub(super) source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Self { source, at: 0 }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.source.as_bytes().get(at).copied()
    }

    fn run(&self, from: usize, accept: impl Fn(u8) -> bool) -> usize {
        let rest = self.source.as_bytes().get(from..).unwrap_or_default();
        from + rest.iter().position(|&b| !accept(b)).unwrap_or(rest.len())
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Result<Token<'a>, ParseError> {
        loop {
            self.at = self.run(self.at, |b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'));
            if self.byte(self.at) != Some(b';') {
                break;
            }
            self.at = self.run(self.at, |b| b != b'\n');
        }
        let start = self.at;
        let Some(first) = self.byte(start) else {
            return Ok(Token { tok: Tok::End, span: start..start });
        };
        let (tok, end) = match first {
            b'-' if self.byte(start + 1) == Some(b'>') => (Tok::Arrow, start + 2),
            b'<' if self.byte(start + 1) == Some(b'=') => (Tok::AtMost, start + 2),
            b'(' | b')' | b'{' | b'}' | b'[' | b']' | b',' | b':' | b'=' | b'+' => {
                (Tok::Punct(char::from(first)), start + 1)
            }
            b'"' => self.string(start)?,
            b'%' | b'@' | b'#' => {
                let end = self.run(start + 1, is_word_byte);
                let name = &self.source[start + 1..end];
                if name.is_empty() {
                    let what = format!("`{}` must be followed by a name", char::from(first));
                    return Err(ParseError::new(self.source, start..start + 1, what));
                }
                match first {
                    b'%' => (Tok::Value(name), end),
                    b'@' => (Tok::Name(name), end),
                    _ => (Tok::Hash(name), end),
                }
            }
            b if is_word_byte(b) => {
                let end = self.run(start, is_word_byte);
                (Tok::Word(&self.source[start..end]), end)
            }
            _ => {
                let c = self.source[start..].chars().next().unwrap_or(' ');
                let what = format!("the character {c:?} has no meaning here");
                return Err(ParseError::new(self.source, start..start + c.len_utf8(), what));
            }
        };
        self.at = end;
        Ok(Token { tok, span: start..end })
    }

    fn string(&self, start: usize) -> Result<(Tok<'a>, usize), ParseError> {
        let mut at = start + 1;
        loop {
            at = self.run(at, |b| !matches!(b, b'"' | b'\\' | b'\n'));
            match self.byte(at) {
                Some(b'"') => return Ok((Tok::Str(&self.source[start + 1..at]), at + 1)),
                Some(b'\\') if self.byte(at + 1).is_some_and(|b| b.is_ascii() && b != b'\n') => at += 2,
                _ => {
                    let what = "this string has no closing `\"` on its line";
                    return Err(ParseError::new(self.source, start..start + 1, what));
                }
            }
        }
    }
}

/// The text that a string token stands for.
pub(super) fn unescape(raw: &str) -> Result<String, String> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(i) = rest.find('\\') {
        text.push_str(&rest[..i]);
        let escape = &rest[i + 1..];
        rest = match escape.chars().next() {
            Some(c @ ('"' | '\\')) => {
                text.push(c);
                &escape[1..]
            }
            Some('u') => {
                let hex = escape.strip_prefix("u{").and_then(|s| s.split_once('}'));
                let (c, after) = hex
                    .and_then(|(h, after)| Some((char::from_u32(u32::from_str_radix(h, 16).ok()?)?, after)))
                    .ok_or("`\\u` must be followed by a character's number, as in `\\u{1b}`")?;
                text.push(c);
                after
            }
            _ => return Err("a `\\` must be followed by `\"`, `\\` or `u{hex}`".to_owned()),
        };
    }
    text.push_str(rest);
    Ok(text)
}

/// `text` as it stands between the quotes of a string token.
pub(super) fn escape(text: &str) -> String {
    let mut raw = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => raw.extend(['\\', c]),
            c if c.is_control() => raw.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => raw.push(c),
        }
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        for text in ["", "blk.0.attn_q.weight", "a\"b\\c", "tab\tnewline\nescape\u{1b}", "größe"] {
            let raw = escape(text);
            assert!(!raw.contains('\n'));
            assert_eq!(unescape(&raw).as_deref(), Ok(text));
        }
        for raw in ["\\n", "\\u{110000}", "\\u{zz}", "\\u41", "\\"] {
            assert!(unescape(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn words_take_numbers_and_shapes_whole() {
        let mut lexer = Lexer::new("1e-5 5xCx128 a.b-c ; comment\n->");
        let mut toks = Vec::new();
        while let Ok(Token { tok, .. }) = lexer.next() {
            toks.push(tok);
            if tok == Tok::End {
                break;
            }
        }
        assert_eq!(toks, [Tok::Word("1e-5"), Tok::Word("5xCx128"), Tok::Word("a.b-c"), Tok::Arrow, Tok::End]);
    }
}
