//! Messages from a terminal, with editing and history, or from a pipe.
//!
//! A message of several lines is put between lines of `"""`, or its lines end with a backslash but for the last.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use bitnetc_frontend_gguf::text;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};

use super::complete::Assistant;
use crate::exit;
use crate::failure::Failure;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A message or a command.
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupt,
    /// The end of the input.
    End,
}

/// Where messages come from.
pub(super) enum Input {
    /// A terminal.
    Terminal {
        /// The line editor.
        editor: Box<Editor<Assistant, FileHistory>>,
        /// Where the history is kept.
        history: Option<PathBuf>,
    },
    /// Anything else.
    Pipe {
        /// Whether nothing has been read yet.
        at_start: bool,
    },
}

/// What stands before a message.
const PROMPT: &str = "> ";
const QUOTES: &str = "\"\"\"";
const HISTORY_LINES: usize = 2000;

/// `$XDG_STATE_HOME/bitnetc/chat_history`, or below `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("bitnetc/chat_history"))
}

/// What the line editor has read.
fn of_terminal(read: Result<String, ReadlineError>) -> Result<Line, Failure> {
    match read {
        Ok(line) => Ok(Line::Text(line)),
        Err(ReadlineError::Interrupted) => Ok(Line::Interrupt),
        Err(ReadlineError::Eof) => Ok(Line::End),
        Err(error) => Err(Failure::new(exit::FAILURE, format!("the terminal cannot be read: {error}"))),
    }
}

impl Input {
    /// The terminal, if standard input is one; with the history of earlier chats, if `keep_history`, and with completion of
    /// commands and of the names of `models`.
    pub(super) fn open(keep_history: bool, models: Vec<String>) -> Result<Self, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe { at_start: true });
        }
        let failed = |error: ReadlineError| {
            Failure::new(exit::FAILURE, format!("the terminal cannot be used: {error}"))
        };
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)
            .map_err(failed)?
            .history_ignore_space(true)
            .auto_add_history(false)
            .completion_type(CompletionType::List)
            .build();
        let mut editor: Editor<Assistant, FileHistory> = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Assistant::new(models)));
        let history = history_file().filter(|_| keep_history);
        if let Some(path) = &history {
            // A history that cannot be read is an empty one.
            let _ = editor.load_history(path);
        }
        Ok(Self::Terminal { editor: Box::new(editor), history })
    }

    /// Whether standard input is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// The next message or command.
    pub(super) fn read(&mut self) -> Result<Line, Failure> {
        let first = match self.read_line(PROMPT)? {
            Line::Text(line) => line,
            other => return Ok(other),
        };
        let message =
            if first.trim() == QUOTES { self.read_until_quotes()? } else { self.read_continued(first)? };
        self.remember(&message);
        Ok(message)
    }

    /// A text that is edited in the line editor; `None` if there is no terminal for that.
    pub(super) fn edit(&mut self, text: &str) -> Result<Option<Line>, Failure> {
        let Self::Terminal { editor, .. } = self else { return Ok(None) };
        let line = of_terminal(editor.readline_with_initial(PROMPT, (text, "")))?;
        self.remember(&line);
        Ok(Some(line))
    }

    fn remember(&mut self, line: &Line) {
        if let (Line::Text(text), Self::Terminal { editor, .. }) = (line, self)
            && !text.trim().is_empty()
        {
            // A line that cannot be remembered is no reason to fail.
            let _ = editor.add_history_entry(text.as_str());
        }
    }

    fn read_until_quotes(&mut self) -> Result<Line, Failure> {
        let mut text = String::new();
        loop {
            match self.read_line("… ")? {
                Line::Text(line) if line.trim() == QUOTES => return Ok(Line::Text(text)),
                Line::Text(line) => {
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text.push_str(&line);
                }
                Line::End if !text.is_empty() => return Ok(Line::Text(text)),
                other => return Ok(other),
            }
        }
    }

    fn read_continued(&mut self, mut text: String) -> Result<Line, Failure> {
        while text.ends_with('\\') {
            text.pop();
            text.push('\n');
            match self.read_line("… ")? {
                Line::Text(line) => text.push_str(&line),
                Line::End => break,
                Line::Interrupt => return Ok(Line::Interrupt),
            }
        }
        Ok(Line::Text(text))
    }

    fn read_line(&mut self, prompt: &str) -> Result<Line, Failure> {
        match self {
            Self::Terminal { editor, .. } => of_terminal(editor.readline(prompt)),
            Self::Pipe { at_start } => {
                let mut bytes = Vec::new();
                let read = std::io::stdin().lock().read_until(b'\n', &mut bytes);
                let n = read.map_err(|error| {
                    Failure::new(exit::FAILURE, format!("cannot read standard input: {error}"))
                })?;
                if n == 0 {
                    return Ok(Line::End);
                }
                let line = text::without_line_end(&bytes);
                let line = if std::mem::take(at_start) { text::without_mark(line) } else { line };
                String::from_utf8(line.to_vec()).map(Line::Text).map_err(|_| {
                    Failure::new(exit::FAILURE, "standard input is not UTF-8; convert it to UTF-8")
                })
            }
        }
    }

    /// Keeps the history for the next chat.
    pub(super) fn close(&mut self) {
        if let Self::Terminal { editor, history: Some(path) } = self {
            // A history that cannot be kept is not worth a failure of the chat.
            if let Some(folder) = path.parent() {
                let _ = std::fs::create_dir_all(folder);
            }
            let _ = editor.save_history(path);
        }
    }
}
