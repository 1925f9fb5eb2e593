//! Writing results to stdout, and remarks to stderr.

use std::io::{IsTerminal, Write};

use bitnetc::visible::{escape_json, with_escapes};
use bitnetc_tools::bench::table::TableStyle;

use crate::failure::Failure;
use crate::terminal::visible;

/// Writes text to stdout, with its control characters shown if that is a terminal.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().is_terminal() {
        true => print_as_is(&visible(text)),
        false => print_as_is(text),
    }
}

/// Writes text to stdout as it is.
pub(crate) fn print_as_is(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a JSON value and a line end to stdout. Control characters inside of strings are escaped, those too that JSON admits: a
/// terminal obeys them.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    let text = format!("{value:#}\n");
    let obeyed = |c: char| c.is_control() && c != '\n';
    print(&with_escapes(&text, obeyed, escape_json))
}

/// How tables are written where no form was asked for: columns on a terminal, Markdown through a pipe and into a file.
pub(crate) fn table_style() -> TableStyle {
    if std::io::stdout().is_terminal() { TableStyle::Aligned } else { TableStyle::Markdown }
}

/// Prints a note on stderr. A closed stderr is not an error.
pub(crate) fn say(quiet: bool, text: impl std::fmt::Display) {
    say_as_is(quiet, visible(&text.to_string()));
}

/// As [`say`], for text that has colours.
pub(crate) fn say_as_is(quiet: bool, text: impl std::fmt::Display) {
    if !quiet {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// What stands for the entries of a list that has none.
pub(crate) const NONE: &str = "(none)";

/// A number of things: `1 token`, `2 tokens`.
pub(crate) fn count(n: u64, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

/// A large number, rounded: `4.8 M`.
pub(crate) fn rounded(n: f64) -> String {
    match n {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n if n < 1e9 => format!("{:.1} M", n / 1e6),
        n => format!("{:.2} G", n / 1e9),
    }
}

/// A duration in milliseconds.
pub(crate) fn ms(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Peak resident set size of this process, in bytes.
pub(crate) fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
