//! How the command was called, and how it calls itself for measurements in processes of their own.

use std::ffi::OsString;
use std::process::Command;
use std::sync::OnceLock;

/// How the command was called.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What was typed, the name of the command first.
    pub words: Vec<OsString>,
    /// The program that calls the command again, and its first arguments; empty where none is known.
    pub again: Vec<OsString>,
}

static THIS: OnceLock<Invocation> = OnceLock::new();

impl Invocation {
    /// Of a process whose program is the command itself.
    pub fn of_process() -> Self {
        let again = std::env::current_exe().map(OsString::from).into_iter().collect();
        Self { words: std::env::args_os().collect(), again }
    }

    /// Makes it known to the commands.
    pub(crate) fn remember(self) {
        drop(THIS.set(self));
    }
}

/// The command that runs, for people.
pub(crate) fn typed() -> String {
    let words = THIS.get().into_iter().flat_map(|this| this.words.iter().skip(1));
    let words = words.map(|word| word.to_string_lossy().into_owned());
    std::iter::once("bitnetc".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// This command, to be given arguments and started.
///
/// # Errors
/// The program is not known.
pub(crate) fn again() -> std::io::Result<Command> {
    let [program, first @ ..] = THIS.get().map_or(&[][..], |this| &this.again) else {
        return Err(std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "the path of this program is not known",
        ));
    };
    let mut command = Command::new(program);
    command.args(first);
    Ok(command)
}
