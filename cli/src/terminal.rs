//! Text of a model on a terminal.
//!
//! A model can be made to say anything, and a terminal obeys what it reads: an escape sequence moves the cursor, changes the
//! title, or writes to the clipboard.
//!
//! Invariant: where stdout is a terminal, no control character reaches it but line feeds and tabs, and none that changes the
//! direction of what follows; the others are shown as Rust writes them (`\u{1b}`). Through a pipe or into a file results go as they
//! are. Messages on stderr, which name files, options and what others wrote, never contain any.

use std::borrow::Cow;
use std::io::IsTerminal;

use bitnetc::visible::with_escapes;
use clap::Args;

use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct RawArgs {
    /// Send control characters in the text to the terminal instead of showing them
    #[arg(long)]
    pub(crate) raw: bool,
}

impl RawArgs {
    /// Writes generated text to stdout.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        output::print_as_is(&self.shown(text, &std::io::stdout()))
    }

    /// Writes a text for a model to stderr, and a line end.
    pub(crate) fn say(&self, text: &str) {
        output::say_as_is(false, self.shown(text, &std::io::stderr()));
    }

    /// The text as it is written to `to`.
    pub(crate) fn shown<'t>(&self, text: &'t str, to: &impl IsTerminal) -> Cow<'t, str> {
        if self.raw || !to.is_terminal() { Cow::Borrowed(text) } else { visible(text) }
    }
}

/// The text with its control characters shown.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || c.is_control() && c != '\n' && c != '\t'
    };
    with_escapes(text, hidden, |c, out| out.extend(c.escape_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert!(matches!(visible("a\tb\nä…\u{2028}"), Cow::Borrowed(_)));
        assert_eq!(visible("\u{1b}[31mno\u{7}"), "\\u{1b}[31mno\\u{7}");
        // The eight-bit forms, and what goes back to the start of the line.
        assert_eq!(visible("a\u{202e}b\u{2066}"), "a\\u{202e}b\\u{2066}");
        assert_eq!(visible("\u{9b}2J\rx\u{7f}\u{0}"), "\\u{9b}2J\\rx\\u{7f}\\u{0}");
    }
}
