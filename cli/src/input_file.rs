//! Text files that a command is given: prompts, schemas, grammars, templates, lists of ids. `-` is standard input.
//!
//! What a file begins and ends with by custom of its editor is no part of its text (`bitnetc_frontend_gguf::text`).
//!
//! Invariant: standard input is read for one option at most; a second one that asks for it is refused.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnetc_frontend_gguf::text;

use super::failure::Failure;
use crate::exit;

/// What stands for standard input and standard output where the name of a file is wanted.
pub(crate) const STANDARD: &str = "-";

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether a path stands for standard input or output.
pub(crate) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

/// Refuses standard output as the place of a file that is written whole or not at all.
pub(crate) fn refuse_standard(output: &Path) -> Result<(), Failure> {
    match is_standard(output) {
        true => Err(Failure::new(
            exit::USAGE,
            "this is written to a file, not to standard output: give it a name",
        )),
        false => Ok(()),
    }
}

/// Refuses a place for a result where one of the files stands that the command reads.
pub(crate) fn refuse_inputs<'p>(
    output: &Path,
    read: impl IntoIterator<Item = Option<&'p Path>>,
) -> Result<(), Failure> {
    match is_one_of(output, read) {
        true => {
            let message = format!("{} is an input of this command: use a different output", output.display());
            Err(Failure::new(exit::USAGE, message))
        }
        false => Ok(()),
    }
}

/// Whether a file is one of those that a command reads, by whatever name or link.
pub(crate) fn is_one_of<'p>(output: &Path, read: impl IntoIterator<Item = Option<&'p Path>>) -> bool {
    !is_standard(output) && read.into_iter().flatten().any(|input| same_file(input, output))
}

/// Whether two paths are one file; `-` is what standard input comes from.
#[cfg(unix)]
fn same_file(input: &Path, output: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let input = if is_standard(input) { Path::new("/dev/stdin") } else { input };
    match (input.metadata(), output.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Whether two paths are one file, links to the same bytes left out.
#[cfg(not(unix))]
fn same_file(input: &Path, output: &Path) -> bool {
    match (input.canonicalize(), output.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// The name of a file for messages.
pub(crate) fn shown(path: &Path) -> String {
    match is_standard(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// Notes that standard input has a text which the command does not read, since it was given `what` by other means.
pub(crate) fn note_unread_stdin(quiet: bool, what: &str, option: &str) {
    if !TAKEN.load(Ordering::Relaxed) && stdin_has_bytes() {
        let note =
            format!("note: standard input is not read, because {what} is given; {option} - reads it instead");
        super::output::say(quiet, note);
    }
}

/// Whether there are bytes on standard input, as far as the system can tell without reading.
fn stdin_has_bytes() -> bool {
    #[cfg(unix)]
    {
        let stdin = std::io::stdin();
        !stdin.is_terminal() && rustix::io::ioctl_fionread(&stdin).is_ok_and(|bytes| bytes > 0)
    }
    #[cfg(not(unix))]
    {
        false
    }
}

/// Whether a text is rather the name of a file: it has the form of one, and the file exists.
pub(crate) fn is_name_of_file(text: &str) -> bool {
    let has_form = text.contains(['/', '.', '\\']) && !text.contains(['\n', '{', '<']) && text.len() < 1024;
    has_form && Path::new(text).is_file()
}

/// A note on the value of a text option that is the name of a file, which `instead` reads.
pub(crate) fn note_name_of_file(quiet: bool, option: &str, text: &str, instead: &str) {
    if is_name_of_file(text) {
        let note = format!("note: {option} is used as text, though there is a file {text}: {instead}");
        super::output::say(quiet, note);
    }
}

fn unreadable(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(exit::FAILURE, format!("cannot read {}: {why}", shown(path)))
}

/// Standard input; only the first caller gets it.
fn take_stdin() -> Result<std::io::StdinLock<'static>, Failure> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        let message = "only one option can read standard input (-): use files for the others";
        return Err(Failure::new(exit::USAGE, message));
    }
    Ok(std::io::stdin().lock())
}

/// A file, byte by byte.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    if !is_standard(path) {
        return std::fs::read(path).map_err(|e| unreadable(path, e));
    }
    let mut bytes = Vec::new();
    take_stdin()?.read_to_end(&mut bytes).map_err(|e| unreadable(path, e))?;
    Ok(bytes)
}

/// Reads a text unchanged, except for a byte order mark.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    let bytes = bytes(path)?;
    let utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    match std::str::from_utf8(text::without_mark(&bytes)) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) if utf16 => Err(unreadable(path, "it is UTF-16; save it as UTF-8")),
        Err(e) => {
            let at = e.valid_up_to() + text::mark_length(&bytes);
            Err(unreadable(path, format!("it is not UTF-8 at byte {at}; convert it to UTF-8")))
        }
    }
}

/// A prompt: a text whose lines end in LF, without the end of the last line.
pub(crate) fn prompt(path: &Path) -> Result<String, Failure> {
    let text = text(path)?;
    let mut prompt = text::with_unix_line_ends(&text).into_owned();
    prompt.truncate(text::without_line_end(prompt.as_bytes()).len());
    Ok(prompt)
}

/// JSON, ready for a parser.
pub(crate) fn json(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(text::json(&bytes(path)?).into_owned())
}

/// Standard input in a file without a name, for what has to be read more than once.
pub(crate) fn spooled_stdin() -> Result<File, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            exit::FAILURE,
            format!("cannot keep standard input in a temporary file: {e}; set TMPDIR"),
        )
    };
    let mut file = tempfile::tempfile().map_err(failed)?;
    std::io::copy(&mut take_stdin()?, &mut file).map_err(failed)?;
    file.flush().and_then(|()| file.rewind()).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_told_from_texts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gbnf");
        std::fs::write(&path, "root ::= \"a\"").unwrap();
        assert!(is_name_of_file(path.to_str().unwrap()));
        for text in [folder.path().to_str().unwrap(), "Hello.", "{\"type\":\"string\"}", "", "/none.gbnf"] {
            assert!(!is_name_of_file(text), "{text}");
        }
    }

    #[test]
    fn what_editors_add_is_no_part_of_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        for (bytes, as_text, as_prompt) in [
            (&b"\xef\xbb\xbfa\r\nb\r\n"[..], "a\r\nb\r\n", "a\nb"),
            (b"a\n\n", "a\n\n", "a\n"),
            (b"a", "a", "a"),
            (b"", "", ""),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(text(&path).unwrap(), as_text);
            assert_eq!(prompt(&path).unwrap(), as_prompt);
        }
        for bad in [&b"a\xff"[..], b"\xff\xfea\0"] {
            std::fs::write(&path, bad).unwrap();
            assert!(text(&path).is_err());
        }
        std::fs::write(&path, b"\xef\xbb\xbf\"\\ud800\"").unwrap();
        assert_eq!(json(&path).unwrap(), br#""\ufffd""#);
    }
}
