//! Suggestions: values that shells complete, for options that take more than a list of names, and the names that were meant by
//! names that do not exist.

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, Error};

/// Parses values of an option, and tells shells and the reference the usual ones.
pub(crate) struct Suggested<T: 'static, E: 'static> {
    parse: fn(&str) -> Result<T, E>,
    names: fn() -> Vec<&'static str>,
}

impl<T, E> Clone for Suggested<T, E> {
    fn clone(&self) -> Self {
        Self { parse: self.parse, names: self.names }
    }
}

/// The parser `parse`, for which `names` are the usual values.
pub(crate) fn suggested<T, E>(
    parse: fn(&str) -> Result<T, E>,
    names: fn() -> Vec<&'static str>,
) -> Suggested<T, E> {
    Suggested { parse, names }
}

impl<T, E> TypedValueParser for Suggested<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &std::ffi::OsStr) -> Result<T, Error> {
        self.parse.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.names)().into_iter().map(PossibleValue::new)))
    }
}

/// A text as it is.
pub(crate) fn as_text(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.to_owned())
}

/// Names of options in other programs (ollama, vLLM, Transformers, OpenAI's API) that are too unlike ours to be found by their
/// letters, with `-` for `_`, and what they are called here.
const SPELLINGS: &[(&[&str], &str)] = &[
    (&["prompt-file", "input-file", "in-file"], "file"),
    (&["input", "text", "message"], "prompt"),
    (
        &[
            "max-tokens",
            "max-new-tokens",
            "max-completion-tokens",
            "max-length",
            "num-predict",
            "num-tokens",
            "n-tokens",
            "tokens",
            "length",
        ],
        "n-predict",
    ),
    (
        &[
            "ctx",
            "context",
            "context-length",
            "context-size",
            "ctx-len",
            "max-context",
            "max-model-len",
            "max-seq-len",
            "n-ctx",
            "num-ctx",
        ],
        "ctx-size",
    ),
    (&["system", "system-message", "instruction", "instructions"], "system-prompt"),
    (&["system-file"], "system-prompt-file"),
    (&["num-thread", "num-threads", "n-threads", "nthreads", "cpus", "cores", "jobs"], "threads"),
    (&["repetition-penalty", "rep-pen", "repeat-pen"], "repeat-penalty"),
    (&["repeat-window", "repetition-window"], "repeat-last-n"),
    (&["model-path", "model-file", "gguf", "checkpoint"], "model"),
    (&["random-seed", "rng-seed"], "seed"),
    (&["stop-sequence", "stop-sequences", "stop-string", "stop-strings", "stop-words"], "reverse-prompt"),
    (&["template"], "chat-template"),
    (&["format", "json-mode", "response-format", "guided-json", "schema"], "json-schema"),
    (&["guided-regex", "pattern"], "regex"),
    (&["guided-grammar"], "grammar"),
    (&["stats", "timings", "timing"], "perf"),
    (&["out", "outfile", "output-file", "save"], "output"),
    (&["iterations", "runs", "reps", "rounds", "repeat"], "repetitions"),
    (&["concurrency", "num-parallel", "max-num-seqs", "workers"], "parallel"),
    (&["silent", "no-log", "log-disable"], "quiet"),
    (&["served-model-name", "model-name", "model-alias"], "alias"),
];

/// What an option of another program is called here; without dashes.
pub(crate) fn spelled_elsewhere(option: &str) -> Option<&'static str> {
    let name = option.strip_prefix("--")?.split('=').next()?.replace('_', "-").to_ascii_lowercase();
    SPELLINGS.iter().find(|(names, _)| names.contains(&name.as_str())).map(|&(_, meant)| meant)
}

/// The name that `word` may be a misspelling of: the nearest one, if at most a third of its letters are wrong.
pub(crate) fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let distances = names.into_iter().map(|name| (distance(word, name), name));
    let like = distances.filter(|(wrong, name)| 3 * wrong <= name.chars().count());
    like.min().map(|(_, name)| name)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour to make `a` of `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn misspelled_names_are_found() {
        let names = ["threads", "temp", "ctx-size", "head"];
        for (word, meant) in [
            ("thraeds", Some("threads")),
            ("thread", Some("threads")),
            ("ctx_size", Some("ctx-size")),
            ("haed", Some("head")),
            ("x", None),
            ("frobnicate", None),
        ] {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
        assert_eq!(nearest("x", []), None);
        assert_eq!((distance("", "abc"), distance("ab", "ba"), distance("kitten", "sitting")), (3, 1, 3));
    }

    #[test]
    fn spellings_lead_to_options_that_exist_and_are_not_options_themselves() {
        let mut command = Cli::command();
        command.build();
        let all: Vec<&clap::Arg> = command
            .get_subcommands()
            .flat_map(|sub| sub.get_arguments().chain(sub.get_subcommands().flat_map(Command::get_arguments)))
            .collect();
        for (names, meant) in SPELLINGS {
            assert!(all.iter().any(|arg| arg.get_long() == Some(meant)), "{meant}");
            let mut seen = std::collections::BTreeSet::new();
            assert!(names.iter().all(|name| seen.insert(name)), "{meant}");
        }
        assert_eq!(spelled_elsewhere("--max_new_tokens=3"), Some("n-predict"));
        assert_eq!(spelled_elsewhere("max-tokens"), None);
    }
}
