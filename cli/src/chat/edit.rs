//! Changing a message: in the editor that the user has chosen, or in the line editor.

use std::process::Command;

use super::input::{Input, Line};
use crate::exit;
use crate::failure::Failure;
use crate::interrupt::{self, Patience};
use crate::models::variable;

/// The changed text; `None` if it is the same, empty, or given up. `VISUAL` and `EDITOR` count before the line editor.
pub(super) fn edited(text: &str, input: &mut Input) -> Result<Option<String>, Failure> {
    let chosen = ["VISUAL", "EDITOR"].into_iter().filter_map(variable).find(|editor| !editor.is_empty());
    let changed = match chosen {
        Some(editor) => in_editor(&editor.to_string_lossy(), text)?,
        None => match input.edit(text)? {
            Some(Line::Text(changed)) => changed,
            Some(Line::Interrupt | Line::End) => return Ok(None),
            None => {
                let message =
                    "/edit: standard input is not a terminal: set EDITOR, or give the new text: /edit TEXT";
                return Err(Failure::new(exit::FAILURE, message));
            }
        },
    };
    Ok(Some(changed).filter(|changed| !changed.trim().is_empty() && changed != text))
}

/// The text after `editor`, a command of the shell, has changed it in a file.
fn in_editor(editor: &str, text: &str) -> Result<String, Failure> {
    let failed =
        |why: String| Failure::new(exit::FAILURE, format!("cannot edit the message with `{editor}`: {why}"));
    let file = tempfile::Builder::new().prefix("message").suffix(".txt").tempfile();
    let file = file.map_err(|error| failed(format!("no temporary file: {error}; set TMPDIR")))?;
    std::fs::write(file.path(), text).map_err(|error| failed(error.to_string()))?;
    // Ctrl-C is the editor's while it runs.
    let patience = Patience::new();
    let status = shell(editor).arg(file.path()).status();
    interrupt::clear();
    drop(patience);
    let status = status.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(format!("it ended with {status}; the message is unchanged")));
    }
    let changed = std::fs::read_to_string(file.path()).map_err(|error| failed(error.to_string()))?;
    Ok(changed.trim_end_matches(['\n', '\r']).to_owned())
}

/// The shell that runs `editor`, which may have arguments, on a further argument.
#[cfg(unix)]
fn shell(editor: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("sh");
    command
}

/// The editor; its arguments are separated by blanks.
#[cfg(not(unix))]
fn shell(editor: &str) -> Command {
    let mut words = editor.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}
