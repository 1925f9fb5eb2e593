//! What helps at the prompt of a terminal: Tab completes commands and what they take, and the prompt has the user's colour.

use std::borrow::Cow;
use std::path::Path;

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper, Result};

use super::commands::{self, Settings};
use crate::style::{self, Style};

/// The helper of the line editor.
pub(super) struct Assistant {
    /// Names that `/model` is offered.
    models: Vec<String>,
    colours: bool,
}

impl Assistant {
    /// A helper that knows these models.
    pub(super) fn new(models: Vec<String>) -> Self {
        Self { models, colours: style::colours(&std::io::stdout()) }
    }

    /// Where the word begins that ends a line, and the words that it can become.
    fn offers(&self, line: &str) -> (usize, Vec<String>) {
        let Some(rest) = line.strip_prefix('/') else { return (0, Vec::new()) };
        let Some((name, argument)) = rest.split_once(' ') else {
            return (1, beginning_with(rest, commands::names().map(str::to_owned)));
        };
        let argument = argument.trim_start();
        let start = line.len() - argument.len();
        let words = match name {
            "set" => beginning_with(argument, Settings::names().into_iter()),
            "system" => beginning_with(argument, std::iter::once("none".to_owned())),
            "save" | "load" => files(argument),
            "model" => {
                let named = beginning_with(argument, self.models.iter().cloned());
                [named, files(argument)].concat()
            }
            _ => Vec::new(),
        };
        (start, words)
    }
}

fn beginning_with(start: &str, words: impl Iterator<Item = String>) -> Vec<String> {
    words.filter(|word| word.starts_with(start)).collect()
}

/// The paths that begin with `start`; those of folders end with a slash.
fn files(start: &str) -> Vec<String> {
    let (folder, name) =
        start.rsplit_once('/').map_or(("", start), |(folder, name)| (&start[..=folder.len()], name));
    let place = if folder.is_empty() { Path::new(".") } else { Path::new(folder) };
    let Ok(entries) = place.read_dir() else { return Vec::new() };
    let mut found: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            // What a terminal would obey cannot be typed anyway.
            let shown = file.starts_with(name) && (!file.starts_with('.') || name.starts_with('.'));
            let end = if entry.path().is_dir() { "/" } else { "" };
            (shown && !file.contains(char::is_control)).then(|| format!("{folder}{file}{end}"))
        })
        .collect();
    found.sort();
    found
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let (start, words) = self.offers(line.get(..pos).unwrap_or(line));
        let pair = |word: String| Pair { display: word.clone(), replacement: word };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Style::User.paint(prompt, self.colours)
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Validator for Assistant {}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tab_completes_commands_and_what_they_take() {
        let assistant = Assistant { models: vec!["shakespeare-5m".into(), "2b-4t".into()], colours: false };
        let offers = |line: &str| assistant.offers(line);
        assert_eq!(offers("/st"), (1, vec!["stats".to_owned()]));
        assert_eq!(offers("/re"), (1, vec!["reset".to_owned(), "retry".to_owned(), "regen".to_owned()]));
        assert_eq!(offers("/set top_"), (5, vec!["top_k".to_owned(), "top_p".to_owned()]));
        assert_eq!(offers("/model sh"), (7, vec!["shakespeare-5m".to_owned()]));
        assert_eq!(offers("/system "), (8, vec!["none".to_owned()]));
        assert!(offers("hello").1.is_empty() && offers("/retry x").1.is_empty());

        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a b.json"), "").unwrap();
        std::fs::write(folder.path().join(".hidden"), "").unwrap();
        std::fs::create_dir(folder.path().join("more")).unwrap();
        let base = folder.path().display();
        let line = format!("/load {base}/");
        assert_eq!(offers(&line), (6, vec![format!("{base}/a b.json"), format!("{base}/more/")]));
        assert_eq!(offers(&format!("/save {base}/a b")).1, [format!("{base}/a b.json")]);
    }
}
