//! Colours and the width of a terminal.
//!
//! Invariant: a pipe or a file never gets an escape sequence, and no terminal does if `NO_COLOR` is set, `CLICOLOR` is 0, or `TERM`
//! is `dumb`.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::IsTerminal;

use terminal_size::Width;

use super::models::variable;

/// What a text is, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// What the user types in a chat, and the prompt before it.
    User,
    /// A remark of the program in a chat.
    Note,
    /// The word before a message of failure.
    Error,
    /// The word before a hint.
    Hint,
}

impl Style {
    /// The parameters of the escape sequence that selects the colour.
    fn parameters(self) -> &'static str {
        match self {
            Style::User => "1;32",
            Style::Note => "2",
            Style::Error => "1;31",
            Style::Hint => "33",
        }
    }

    /// The text in its colour, or as it is where colours are off.
    pub(crate) fn paint(self, text: &str, colours: bool) -> Cow<'_, str> {
        match colours {
            true => Cow::Owned(format!("\u{1b}[{}m{text}\u{1b}[0m", self.parameters())),
            false => Cow::Borrowed(text),
        }
    }
}

/// Whether colours are shown on `to`.
pub(crate) fn colours(to: &impl IsTerminal) -> bool {
    to.is_terminal() && allowed(&variable)
}

/// Whether the environment allows colours.
fn allowed(variable: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let is = |name: &str, value: &str| variable(name).is_some_and(|found| found == value);
    variable("NO_COLOR").is_none_or(|value| value.is_empty()) && !is("CLICOLOR", "0") && !is("TERM", "dumb")
}

/// Columns of the terminal that stdout is, if it is one.
pub(crate) fn stdout_columns() -> Option<usize> {
    let (Width(columns), _) = terminal_size::terminal_size_of(std::io::stdout())?;
    (columns > 0).then_some(usize::from(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_turns_colours_off() {
        let with = |name: &'static str, value: &'static str| {
            allowed(&move |asked: &str| (asked == name).then(|| OsString::from(value)))
        };
        assert!(with("HOME", "/") && with("NO_COLOR", "") && with("CLICOLOR", "1") && with("TERM", "xterm"));
        assert!(!with("NO_COLOR", "1") && !with("CLICOLOR", "0") && !with("TERM", "dumb"));
        assert_eq!(Style::User.paint("> ", false), "> ");
        assert_eq!(Style::User.paint("> ", true), "\u{1b}[1;32m> \u{1b}[0m");
    }
}
