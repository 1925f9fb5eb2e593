//! Failures: what is shown on stderr, the object that `--json` adds on stdout, and the exit code.
//!
//! Every failure looks as those of the command line do: `error: what, where, why`, then the place in a text if there is one, then
//! `hint: what to do`. Invariant: no line is broken, whatever stderr is; a terminal does that itself.

use std::sync::OnceLock;

use bitnetc::batch::BatchError;
use serde_json::json;

use crate::style::{self, Style};
use crate::terminal::visible;
use crate::{exit, hint, output, usage};

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Nothing if the reader of stdout is gone.
    report: Option<Report>,
}

/// What is said.
#[derive(Debug)]
struct Report {
    message: String,
    hint: Option<String>,
    /// The lines of a text that the message is about.
    excerpt: Option<String>,
}

/// Where the error object of `--json` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonTo {
    /// Where the object of a success would have gone.
    Stdout,
    /// Stdout has the results of a batch.
    Stderr,
}

static JSON: OnceLock<JsonTo> = OnceLock::new();

/// From here on a failure that ends the command is also an object.
pub(crate) fn report_as_json(to: JsonTo) {
    let _ = JSON.set(to);
}

/// Bytes of a text up to which the lines around a place are shown.
const MOST_SHOWN: usize = 4096;

/// Bytes of the lines of `span`, of the one before and of the one after.
fn surroundings(text: &str, span: &std::ops::Range<usize>) -> usize {
    let bytes = text.as_bytes();
    let before = &bytes[..span.start.min(bytes.len())];
    let after = &bytes[span.end.min(bytes.len())..];
    let start = before.iter().rev().take(MOST_SHOWN).enumerate().filter(|(_, b)| **b == b'\n').nth(1);
    let end = after.iter().take(MOST_SHOWN).enumerate().filter(|(_, b)| **b == b'\n').nth(1);
    let start = start.map_or(before.len(), |(at, _)| at);
    let end = end.map_or(after.len(), |(at, _)| at);
    start + span.len() + end
}

/// The line of `text` where `span` begins, with its number and a mark below.
fn excerpt(text: &str, span: &std::ops::Range<usize>) -> Option<String> {
    let start = text.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(start..)?.lines().next().unwrap_or_default();
    let number = text.get(..start)?.lines().count() + 1;
    let before = text.get(start..span.start)?.chars().count();
    let marked = text.get(span.start..span.end.min(start + line.len())).map_or(0, |t| t.chars().count());
    // A terminal obeys control characters, and a tab would move the mark.
    let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let indent = " ".repeat(number.to_string().len());
    let mark = " ".repeat(before) + &"^".repeat(marked.max(1));
    Some(format!("  {indent} |\n  {number} | {shown}\n  {indent} | {mark}\n"))
}

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self::with_hint(code, message, None)
    }
    /// A failure with what the user can do about it, if there is anything to say.
    pub(crate) fn with_hint(code: u8, message: impl std::fmt::Display, hint: Option<String>) -> Self {
        Self { code, report: Some(Report { message: message.to_string(), hint, excerpt: None }) }
    }
    /// A failure at a place in a text, which is shown with its line unless that is too long to be read.
    pub(crate) fn in_text(message: String, text: &str, span: &std::ops::Range<usize>) -> Self {
        let short = surroundings(text, span) <= MOST_SHOWN;
        let excerpt = if short { excerpt(text, span) } else { None };
        Self { code: exit::FAILURE, report: Some(Report { message, hint: None, excerpt }) }
    }
    /// The reader of stdout has closed the pipe: print nothing.
    pub(crate) fn broken_pipe() -> Self {
        Self { code: exit::OK, report: None }
    }

    /// What is said, in one line with the hint.
    #[cfg(feature = "serve")]
    pub(crate) fn message(&self) -> String {
        let Some(Report { message, hint, .. }) = &self.report else { return String::new() };
        hint.as_ref().map_or_else(|| message.clone(), |hint| format!("{message} ({hint})"))
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_quiet(&self) -> bool {
        self.report.is_none()
    }

    /// Shows the failure, as an object too if the command was given `--json`, and gives its exit code.
    pub(crate) fn report(self) -> u8 {
        self.show();
        if let (Some(report), Some(to)) = (&self.report, JSON.get()) {
            print_object(*to, &report.message, report.hint.as_deref(), self.code);
        }
        self.code
    }

    /// Shows the failure, for a command that continues.
    pub(crate) fn show(&self) {
        let Some(Report { message, hint, excerpt }) = &self.report else { return };
        let colours = style::colours(&std::io::stderr());
        let mut text = format!("{} {}\n", Style::Error.paint("error:", colours), visible(message));
        text += &visible(excerpt.as_deref().unwrap_or_default());
        if let Some(hint) = hint {
            text += &format!("  {} {}\n", Style::Hint.paint("hint:", colours), visible(hint));
        }
        // Nothing can be done if stderr is closed too.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    }
}

/// Prints the error object in one line.
fn print_object(to: JsonTo, message: &str, hint: Option<&str>, code: u8) {
    let object = json!({
        "schema": "bitnetc.error/1",
        "error": { "message": message, "hint": hint, "exit_code": code },
    });
    match to {
        // A reader that has closed stdout has the message on stderr.
        JsonTo::Stdout => drop(output::print(&format!("{object}\n"))),
        JsonTo::Stderr => output::say(false, object),
    }
}

/// Reports a command line that cannot be parsed, which clap has shown, as an object too if it has `--json`.
pub(crate) fn report_usage(error: &clap::Error, words: &[std::ffi::OsString]) {
    if !usage::has_json(words) {
        return;
    }
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default().trim();
    let tip = text.lines().find_map(|line| line.trim_start().strip_prefix("tip: "));
    print_object(JsonTo::Stdout, message.strip_prefix("error: ").unwrap_or(message), tip, exit::USAGE);
}

impl From<bitnetc::Error> for Failure {
    fn from(error: bitnetc::Error) -> Self {
        Self::with_hint(exit::code(&error), &error, hint::of(&error))
    }
}

impl From<bitnetc_tools::Error> for Failure {
    fn from(error: bitnetc_tools::Error) -> Self {
        Self::with_hint(exit::of_tools(&error), &error, hint::of_tools(&error))
    }
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Self {
        match &error {
            BatchError::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
                Self::broken_pipe()
            }
            _ => Self::with_hint(exit::of_batch(&error), &error, hint::of_batch(&error)),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::broken_pipe(),
            _ => Self::new(exit::FAILURE, format!("cannot write the result: {error}")),
        }
    }
}

macro_rules! via_error {
    ($($ty:ty),+ $(,)?) => {$(
        impl From<$ty> for Failure {
            fn from(error: $ty) -> Self {
                bitnetc::Error::from(error).into()
            }
        }
    )+};
}

via_error!(
    bitnetc_runtime::map::MapError,
    bitnetc_runtime::error::SessionError,
    bitnetc_runtime::tokenizer::TokenizerError,
    bitnetc_runtime::sampling::ParamError,
    bitnetc_ir::interp::InterpError,
    bitnetc_passes::PassError,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_marked() {
        let text = "one\n\ttwo three\nfour";
        let at = text.find("three").unwrap();
        assert_eq!(excerpt(text, &(at..at + 5)).unwrap(), "    |\n  2 |  two three\n    |      ^^^^^\n");
        // To the end of the line at most, and at the end of the text.
        assert!(excerpt(text, &(at..text.len())).unwrap().ends_with(" ^^^^^\n"));
        assert!(excerpt(text, &(text.len()..text.len())).unwrap().contains("3 | four"));
        assert_eq!(excerpt("ä", &(1..2)), None);
    }
}
