//! What is done with a command line as clap reads it: errors without advice that helps nobody, and remarks on values.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, Error};

use super::failure::JsonTo;
use super::input_file::is_standard;

/// Commands that run a model with the threads that are asked for; others only reckon with them.
const RUNNING: &[&str] = &["run", "chat", "batch", "bench", "logits", "perplexity", "verify"];

/// The error without the tip to pass an unknown option as a value, which is never what was meant.
pub(crate) fn without_value_tip(mut error: Error) -> Error {
    let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) else { return error };
    let kept: Vec<_> = tips.into_iter().filter(|tip| !tip.to_string().contains("as a value")).collect();
    if !kept.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(kept));
    }
    error
}

/// Whether a command line that has not been parsed asks for JSON.
pub(crate) fn has_json(words: &[OsString]) -> bool {
    words.iter().take_while(|word| *word != "--").any(|word| word == "--json")
}

/// Where the object of an error goes, if the command was given `--json`.
pub(crate) fn error_object(mut matches: &ArgMatches) -> Option<JsonTo> {
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    let asked = matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or(false);
    // Stdout is the results' where these are written to it.
    let output = matches.try_get_one::<PathBuf>("output").ok().flatten();
    let to = if output.is_some_and(|path| is_standard(path)) { JsonTo::Stderr } else { JsonTo::Stdout };
    asked.then_some(to)
}

/// The most threads that a command is asked to run with.
pub(crate) fn threads_asked(matches: &ArgMatches) -> Option<u32> {
    let (name, mut matches) = matches.subcommand()?;
    if !RUNNING.contains(&name) {
        return None;
    }
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches.try_get_many::<u32>("threads").ok()??.copied().max()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn no_tip_passes_options_as_values() {
        for line in [
            ["bitnetc", "run", "--frobnicate"],
            ["bitnetc", "run", "-z"],
            ["bitnetc", "tokenize", "--foo"],
            ["bitnetc", "bench", "--frob"],
        ] {
            let error = Cli::command().try_get_matches_from(line).unwrap_err();
            assert!(error.to_string().contains("as a value"), "there is something to take away: {error}");
            let error = without_value_tip(error).to_string();
            assert!(!error.contains("as a value") && error.contains("unexpected argument"), "{error}");
        }
        let other = Cli::command().try_get_matches_from(["bitnetc", "run", "--sed", "1"]).unwrap_err();
        assert!(without_value_tip(other).to_string().contains("--seed"));
    }

    #[test]
    fn the_object_of_an_error_does_not_mix_with_results() {
        let object = |line: &[&str]| {
            let line = [&["bitnetc"], line].concat();
            error_object(&Cli::command().try_get_matches_from(line).unwrap())
        };
        assert_eq!(object(&["run"]), None);
        assert_eq!(object(&["ir", "check", "x.bir"]), None);
        assert_eq!(object(&["run", "--json"]), Some(JsonTo::Stdout));
        assert_eq!(object(&["ir", "check", "x.bir", "--json"]), Some(JsonTo::Stdout));
        assert_eq!(object(&["batch", "a", "-o", "b", "--json"]), Some(JsonTo::Stdout));
        assert_eq!(object(&["batch", "a", "-o", "-", "--json"]), Some(JsonTo::Stderr));
        assert!(has_json(&["run".into(), "--json".into()]) && !has_json(&["--".into(), "--json".into()]));
    }

    #[test]
    fn threads_are_those_of_commands_that_run() {
        let asked = |line: &[&str]| {
            let line = [&["bitnetc"], line].concat();
            threads_asked(&Cli::command().try_get_matches_from(line).unwrap())
        };
        assert_eq!(asked(&["run", "-t", "7"]), Some(7));
        assert_eq!(asked(&["run"]), None);
        assert_eq!(asked(&["bench", "-t", "1,9,2"]), Some(9));
        assert_eq!(asked(&["bench", "kernels", "-t", "3"]), Some(3));
        assert_eq!(asked(&["compile", "m.gguf", "-t", "64"]), None);
    }
}
