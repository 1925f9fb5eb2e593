//! The model of a command: its first argument, or `-m`.
//!
//! What stands on the command line counts before `BITNETC_MODEL` and the configuration. Where a command takes words besides the
//! model, `-m` on the command line makes all its arguments words: `run model.gguf "Hello"` and `run -m model.gguf "Hello"` are
//! the same.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::failure::Failure;
use crate::exit;

/// The id of the argument, and its name in usages.
const ARGUMENT: &str = "MODEL";
/// The id and the long name of the option.
const OPTION: &str = "model";

/// The model of a command.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelArg {
    argument: Option<PathBuf>,
    option: Option<PathBuf>,
    /// Whether the option stands on the command line.
    explicit: bool,
}

impl FromArgMatches for ModelArg {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let path = |id: &str| matches.get_one::<PathBuf>(id).cloned();
        let explicit = matches.value_source(OPTION) == Some(ValueSource::CommandLine);
        Ok(Self { argument: path(ARGUMENT), option: path(OPTION), explicit })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ModelArg {
    fn augment_args(command: Command) -> Command {
        let argument = Arg::new(ARGUMENT)
            .value_name(ARGUMENT)
            .value_parser(value_parser!(PathBuf))
            .help("A .gguf model, a plan, hf:org/repo[:file] or an alias (default: the built-in model)");
        let option = Arg::new(OPTION)
            .short('m')
            .long(OPTION)
            .value_name(ARGUMENT)
            .value_parser(value_parser!(PathBuf))
            .env("BITNETC_MODEL")
            .help("The model, as an option instead of an argument");
        command.arg(argument).arg(option)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl ModelArg {
    /// The model that is named, if any is.
    pub(crate) fn name(&self) -> Result<Option<&Path>, Failure> {
        match (&self.argument, &self.option) {
            (Some(argument), Some(option)) if self.explicit => {
                let message = format!(
                    "the model is given twice, {} and --model {}: omit one",
                    argument.display(),
                    option.display()
                );
                Err(Failure::new(exit::USAGE, message))
            }
            (argument, option) => Ok(argument.as_deref().or(option.as_deref())),
        }
    }

    /// Whether the command line names a model.
    pub(crate) fn is_given(&self) -> bool {
        self.argument.is_some() || self.explicit
    }

    /// Refuses a model that is given both as the argument and as the option, where the argument could be a word.
    pub(crate) fn check_once(&self) -> Result<(), Failure> {
        match self.explicit && self.argument.is_some() && self.argument == self.option {
            true => self.name().map(drop),
            false => Ok(()),
        }
    }

    /// The model, and the words of a command whose further arguments are `words`.
    pub(crate) fn with_words<'a>(&'a self, words: &'a [String]) -> (Option<&'a Path>, Vec<String>) {
        let (argument, option) = (self.argument.as_deref(), self.option.as_deref());
        let first = argument.filter(|_| self.explicit).map(|word| word.to_string_lossy().into_owned());
        let model = if self.explicit { option } else { argument.or(option) };
        (model, first.into_iter().chain(words.iter().cloned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        model: ModelArg,
        words: Vec<String>,
    }

    #[test]
    fn the_option_makes_words_of_the_arguments() {
        let with_words = |line: &[&str]| {
            let line = Line::try_parse_from([&["x"], line].concat()).unwrap();
            let (model, words) = line.model.with_words(&line.words);
            (model.map(|path| path.display().to_string()), words.join(" "))
        };
        assert_eq!(with_words(&[]), (None, String::new()));
        assert_eq!(with_words(&["m"]), (Some("m".to_owned()), String::new()));
        assert_eq!(with_words(&["m", "a", "b"]), (Some("m".to_owned()), "a b".to_owned()));
        assert_eq!(with_words(&["-m", "m", "a", "b"]), (Some("m".to_owned()), "a b".to_owned()));
        let name = |line: &[&str]| {
            let line = Line::try_parse_from([&["x"], line].concat()).unwrap();
            line.model.name().map(|name| name.map(Path::to_owned)).map_err(|_| ())
        };
        let once =
            |line: &[&str]| Line::try_parse_from([&["x"], line].concat()).unwrap().model.check_once().is_ok();
        assert!(once(&["m", "-m", "n"]) && once(&["m"]) && once(&["-m", "m"]) && !once(&["m", "-m", "m"]));
        assert_eq!(name(&["m"]), Ok(Some("m".into())));
        assert_eq!(name(&["--model", "m"]), Ok(Some("m".into())));
        assert_eq!(name(&["a", "-m", "b"]), Err(()));
        assert_eq!(name(&[]), Ok(None));
    }
}
