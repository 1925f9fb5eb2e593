//! Why a template is refused or fails.
//!
//! Invariant: a message can be sent to a terminal. Texts of the template or of a user may be part of it, so control
//! characters and those that change the direction of writing are escaped when it is made.

use std::fmt::{self, Write};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The template is not valid Jinja.
    Syntax,
    /// An operation is not possible with these values.
    Operation,
    /// The template called `raise_exception`.
    Raised,
    /// A limit of [`Limits`](crate::Limits) was reached.
    Limit,
}

/// A failure of a template, with the line where it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    reason: String,
    line: Option<u32>,
}

/// The result of everything that a template does.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest message in characters; templates can put whole conversations into them.
const LONGEST_REASON: usize = 1000;

impl Error {
    pub(crate) fn new(kind: ErrorKind, reason: &str) -> Self {
        let mut shown = printable(reason, LONGEST_REASON);
        if kind == ErrorKind::Raised {
            shown.insert_str(0, "the template refuses these messages: ");
        }
        Self { kind, reason: shown, line: None }
    }

    pub(crate) fn operation(reason: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Operation, reason.as_ref())
    }

    pub(crate) fn syntax(line: u32, reason: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Syntax, reason.as_ref()).at(line)
    }

    pub(crate) fn limit(reason: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Limit, reason.as_ref())
    }

    /// The same with a line, unless it has one.
    #[must_use]
    pub(crate) fn at(mut self, line: u32) -> Self {
        self.line.get_or_insert(line);
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The line of the template, from 1.
    pub fn line(&self) -> Option<u32> {
        self.line
    }

    /// The reason without the line.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The text with control characters escaped, cut after `most` characters.
fn printable(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(most));
    for (number, ch) in text.chars().enumerate() {
        if number == most {
            shown.push('…');
            break;
        }
        match ch {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            _ if ch.is_control() || changes_direction(ch) => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(ch));
            }
            _ => shown.push(ch),
        }
    }
    shown
}

/// Marks, embeddings, overrides and isolates of the bidirectional algorithm, and the separators of lines.
fn changes_direction(ch: char) -> bool {
    matches!(ch, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_can_be_sent_to_a_terminal() {
        let error = Error::new(ErrorKind::Raised, "<\u{1b}[31mno\u{9b}\n\u{202e}é").at(3).at(4);
        let shown = error.to_string();
        assert_eq!(shown, "the template refuses these messages: <\\u{1b}[31mno\\u{9b}\\n\\u{202e}é (line 3)");
        assert!(Error::operation("x".repeat(5000)).to_string().chars().count() < 1100);
    }
}
