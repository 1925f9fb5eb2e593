//! What is done with a command line as clap reads it: errors that say what is expected, where a value is from and which option
//! was meant, and remarks on values.

use std::error::Error as _;
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::{Arg, ArgMatches, Command};

use super::config::Config;
use super::failure::JsonTo;
use super::input_file::is_standard;
use super::suggest;

/// Commands that run a model with the threads that are asked for; others only reckon with them.
const RUNNING: &[&str] = &["run", "chat", "batch", "bench", "logits", "perplexity", "verify"];

/// The error as it is shown: with what is expected instead of a value, where that value is from, and the option that was meant.
/// `words` is the command line for `command`.
pub(crate) fn explained(
    error: Error,
    command: &mut Command,
    words: &[OsString],
    config: Option<&Config>,
) -> Error {
    let error = without_value_tip(error);
    let (path, command) = subcommand(command, words);
    match error.kind() {
        ErrorKind::UnknownArgument => of_unknown(error, &path, command),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            of_value(error, &path, command, words, config)
        }
        _ => error,
    }
}

/// The error without the tip to pass an unknown option as a value, which is never what was meant.
fn without_value_tip(mut error: Error) -> Error {
    let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) else { return error };
    let kept: Vec<_> = tips.into_iter().filter(|tip| !tip.to_string().contains("as a value")).collect();
    if !kept.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(kept));
    }
    error
}

/// The command that the words name, with the names that lead to it.
fn subcommand<'c>(mut command: &'c mut Command, words: &[OsString]) -> (Vec<String>, &'c mut Command) {
    let mut path = Vec::new();
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        match command.find_subcommand(word).map(|found| found.get_name().to_owned()) {
            Some(name) => {
                command = command.find_subcommand_mut(&name).expect("it was found");
                path.push(name);
            }
            None if word.starts_with('-') => {}
            None => break,
        }
    }
    (path, command)
}

fn string(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// An unknown option with the name that it has here, and a word that is too much with the option for it.
fn of_unknown(mut error: Error, path: &[String], command: &mut Command) -> Error {
    let Some(argument) = string(&error, ContextKind::InvalidArg) else { return error };
    let has = |long: &str| command.get_arguments().any(|arg| arg.get_long() == Some(long));
    if let Some(meant) = suggest::spelled_elsewhere(&argument).filter(|long| has(long)) {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(format!("--{meant}")));
        error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
    } else if !argument.starts_with('-') && path == ["chat"] {
        let tip = "-p gives the first message of a chat: `bitnetc chat MODEL -p \"…\"`; for one answer use \
                   `bitnetc run MODEL --chat \"…\"`";
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// A value with what is expected instead, and where it is from unless that is the command line.
fn of_value(
    mut error: Error,
    path: &[String],
    command: &Command,
    words: &[OsString],
    config: Option<&Config>,
) -> Error {
    let argument = string(&error, ContextKind::InvalidArg).unwrap_or_default();
    let value = string(&error, ContextKind::InvalidValue).unwrap_or_default();
    let arg = command.get_arguments().find(|arg| arg.to_string() == argument);
    let from = arg.filter(|arg| !is_on(words, arg)).and_then(|arg| origin(arg, path, config));
    if error.kind() == ErrorKind::InvalidValue {
        if let Some(from) = from {
            let tip = format!("the value is from {from}");
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
        return error;
    }
    let Some(source) = error.source() else { return error };
    let expected = expected(source, &value);
    if from.is_none() && expected == source.to_string() {
        return error;
    }
    let from = from.map_or(String::new(), |from| format!(", from {from}"));
    let message = format!(
        "invalid value '{value}' for '{argument}'{from}: {expected}\n\nFor more information, try '--help'.\n"
    );
    Error::raw(ErrorKind::ValueValidation, message)
}

/// What is expected instead of a value that is not understood, in words of this program.
fn expected(source: &(dyn std::error::Error + 'static), value: &str) -> String {
    if let Some(error) = source.downcast_ref::<ParseIntError>() {
        return match error.kind() {
            IntErrorKind::PosOverflow => "the number is too large".to_owned(),
            IntErrorKind::NegOverflow => "the number is too small".to_owned(),
            // An unsigned number has no sign.
            _ if value.parse::<i128>().is_ok_and(|n| n < 0) => {
                "expected a whole number of at least 0".to_owned()
            }
            _ => "expected a whole number".to_owned(),
        };
    }
    if source.is::<ParseFloatError>() {
        return "expected a number".to_owned();
    }
    let text = source.to_string();
    let range = text.split_once(" is not in ").and_then(|(_, range)| range.split_once(".."));
    let Some((least, most)) = range else { return text };
    // clap writes the end of a range that has none as the largest number of its type.
    match most.strip_prefix('=') {
        Some(most) => format!("expected a whole number from {least} to {most}"),
        None => format!("expected a whole number of at least {least}"),
    }
}

/// Whether an option is on the command line, by any of its names.
fn is_on(words: &[OsString], arg: &Arg) -> bool {
    let longs = || arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten());
    words.iter().skip(1).filter_map(|word| word.to_str()).any(|word| match word.strip_prefix("--") {
        Some(long) => longs().any(|name| long.split('=').next() == Some(name)),
        None => arg.get_short().is_some_and(|short| word.starts_with('-') && word.contains(short)),
    })
}

/// The variable or the line of the configuration that has a value for an option which the command line does not give.
fn origin(arg: &Arg, path: &[String], config: Option<&Config>) -> Option<String> {
    let variable = arg.get_env().filter(|name| std::env::var_os(name).is_some());
    match variable {
        Some(name) => Some(format!("the variable {}", name.to_string_lossy())),
        None => config?.origin(path, arg.get_long()?),
    }
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

    /// The error of a command line.
    fn shown(line: &[&str]) -> String {
        let words: Vec<OsString> = ["bitnetc"].iter().chain(line).map(OsString::from).collect();
        let mut command = Cli::command();
        let error = command.try_get_matches_from_mut(words.clone()).unwrap_err();
        explained(error, &mut command, &words, None).to_string()
    }

    #[test]
    fn options_of_others_are_answered_with_ours() {
        for (line, meant) in [
            (&["run", "--prompt-file", "x"][..], "'--file'"),
            (&["run", "--max-tokens", "3"], "'--n-predict'"),
            (&["run", "--max_new_tokens=3"], "'--n-predict'"),
            (&["chat", "--system", "x"], "'--system-prompt'"),
            (&["run", "--num_ctx", "3"], "'--ctx-size'"),
            (&["run", "--repetition-penalty", "3"], "'--repeat-penalty'"),
            (&["bench", "--num-threads", "3"], "'--threads'"),
            (&["run", "--sed", "1"], "'--seed'"),
        ] {
            let text = shown(line);
            assert!(text.contains(&format!("a similar argument exists: {meant}")), "{text}");
            assert_eq!(text.matches("tip:").count(), 1, "{text}");
            assert!(!text.contains("--profile <FILE>"), "{text}");
        }
        // What the command does not have is not suggested.
        assert!(!shown(&["inspect", "--max-tokens", "3"]).contains("--n-predict"));
        let text = shown(&["chat", "model.gguf", "hi"]);
        assert!(
            text.contains("bitnetc chat MODEL -p") && text.contains("bitnetc run MODEL --chat"),
            "{text}"
        );
    }

    #[test]
    fn values_that_are_not_understood_are_answered_with_what_is_expected() {
        for (line, expected) in [
            (&["run", "--top-k", "x"][..], "'--top-k <K>': expected a whole number\n"),
            (&["run", "--temp", "warm"], "'--temp <T>': expected a number\n"),
            (&["run", "-s", "99999999999999999999"], "the number is too large\n"),
            (&["run", "-n", "-2"], "expected a whole number of at least -1\n"),
            (&["bench", "-r", "0"], "expected a whole number from 1 to 10000\n"),
            (&["bench", "-p", "abc"], "expected a whole number\n"),
            (&["run", "-c", "-5"], "'--ctx-size <N>': expected a whole number from 0 to 4294967295\n"),
            (
                &["synth", "--preset", "2b-4t", "-o", "x", "--seed", "-5"],
                "expected a whole number of at least 0\n",
            ),
            (&["batch", "a", "-o", "b", "--parallel", ""], "expected a whole number\n"),
            (&["logits", "--tokens", "1,x"], "expected a whole number\n"),
        ] {
            let text = shown(line);
            assert!(
                text.starts_with("error: invalid value '") && text.contains(expected),
                "{line:?}: {text}"
            );
            assert!(text.ends_with("try '--help'.\n"), "{text}");
        }
    }

    /// No parser of an option answers in the words of Rust's libraries.
    #[test]
    fn no_option_answers_in_the_words_of_a_library() {
        let mut command = Cli::command();
        command.build();
        for sub in command.get_subcommands().filter(|sub| !sub.has_subcommands()) {
            for long in
                sub.get_arguments().filter(|arg| arg.get_action().takes_values()).filter_map(Arg::get_long)
            {
                for value in ["x", "", "-99999999999999999999", "99999999999999999999999"] {
                    let words: Vec<OsString> = ["bitnetc", sub.get_name(), &format!("--{long}={value}")]
                        .map(OsString::from)
                        .to_vec();
                    let mut command = Cli::command();
                    let Err(error) = command.try_get_matches_from_mut(words.clone()) else { continue };
                    let text = explained(error, &mut command, &words, None).to_string();
                    for phrase in [
                        "digit found",
                        "too large to fit",
                        "too small to fit",
                        "empty string",
                        "float literal",
                        "9223372036854775807",
                    ] {
                        assert!(!text.contains(phrase), "{} --{long}={value}: {text}", sub.get_name());
                    }
                }
            }
        }
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
