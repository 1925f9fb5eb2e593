//! Failures: what is shown on stderr, and the exit code.

use std::process::ExitCode;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceSpan};

use crate::{exit, hint};

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    report: Option<miette::Report>,
}

/// An error of a text file, with its place.
#[derive(Debug)]
struct TextError {
    message: String,
    help: Option<String>,
    source: NamedSource<String>,
    span: SourceSpan,
    label: String,
}

impl std::fmt::Display for TextError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TextError {}

impl Diagnostic for TextError {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn std::fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some(self.label.clone()), self.span))))
    }
}

/// An error with what the user can do about it.
#[derive(Debug)]
struct Hinted {
    message: String,
    hint: String,
}

impl std::fmt::Display for Hinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

impl Diagnostic for Hinted {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(&self.hint))
    }
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

/// Columns of messages that no terminal shows.
const COLUMNS: usize = 100;

/// Breaks lines by the terminal that stderr is, and otherwise always at the same column (the default would ask stdin's
/// terminal, so that what a log holds would depend on who started the command).
pub(crate) fn break_lines() {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        let hook = |_: &_| -> Box<dyn miette::ReportHandler> {
            Box::new(miette::MietteHandlerOpts::new().width(COLUMNS).build())
        };
        // Fails only where a hook is set already, and this is the only one.
        let _ = miette::set_hook(Box::new(hook));
    }
}

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self { code, report: Some(miette::Report::msg(message.to_string())) }
    }
    /// A failure with what the user can do about it, if there is anything to say.
    pub(crate) fn with_hint(code: u8, message: impl std::fmt::Display, hint: Option<String>) -> Self {
        let report = match hint {
            Some(hint) => miette::Report::new(Hinted { message: message.to_string(), hint }),
            None => miette::Report::msg(message.to_string()),
        };
        Self { code, report: Some(report) }
    }
    /// A failure at a place in a text, which is shown with its line and the ones beside it unless they are too long to be read.
    pub(crate) fn in_text(
        message: String,
        help: Option<String>,
        name: &str,
        text: String,
        span: std::ops::Range<usize>,
        label: String,
    ) -> Self {
        if surroundings(&text, &span) > MOST_SHOWN {
            return Self::new(exit::FAILURE, message);
        }
        let error =
            TextError { message, help, source: NamedSource::new(name, text), span: span.into(), label };
        Self { code: exit::FAILURE, report: Some(miette::Report::new(error)) }
    }
    /// The reader of stdout has closed the pipe: print nothing.
    pub(crate) fn broken_pipe() -> Self {
        Self { code: exit::OK, report: None }
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_quiet(&self) -> bool {
        self.report.is_none()
    }

    /// Shows the failure and gives its exit code.
    pub(crate) fn report(self) -> ExitCode {
        self.show();
        ExitCode::from(self.code)
    }

    /// Shows the failure, for a command that continues.
    pub(crate) fn show(&self) {
        if let Some(report) = &self.report {
            let text = format!("{report:?}");
            // Nothing can be done if stderr is closed too.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{}\n", text.trim_end()).as_bytes(),
            );
        }
    }
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

impl From<bitnetc::batch::BatchError> for Failure {
    fn from(error: bitnetc::batch::BatchError) -> Self {
        Self::with_hint(exit::of_batch(&error), &error, hint::of_batch(&error))
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
