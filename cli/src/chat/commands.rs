//! The commands of a chat: lines that begin with a slash.

use std::path::PathBuf;

use bitnetc_runtime::sampling::SamplingParams;

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Help,
    /// Start again, perhaps with another system message.
    Reset,
    /// Show or replace the system message.
    System(Option<String>),
    Save(PathBuf),
    Load(PathBuf),
    Retry,
    Undo,
    /// Show the settings, or change one.
    Set(Option<(String, String)>),
    Stats,
    Exit,
}

/// What `/help` prints.
pub(super) const HELP: &str = "\
/reset           start again; the system message stays
/system [TEXT]   show the system message, or start again with another (/system none: without)
/retry           take the last answer back and give another
/undo            take the last question back, with its answer
/save FILE       write the conversation to a file
/load FILE       go on with a conversation from a file
/set             show the settings; /set NAME VALUE changes one, from the next answer on
/stats           figures of the last turn
/exit            leave (as Ctrl-D does)
A message of several lines: between lines of \"\"\", or with a backslash at the ends of lines.
Ctrl-C stops an answer; pressed again, it leaves.
";

/// The command in a line, `None` for a message; a message that begins with a slash begins with two.
pub(super) fn parse(line: &str) -> Option<Result<Command, String>> {
    let rest = line.trim().strip_prefix('/')?;
    if rest.starts_with('/') {
        return None;
    }
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    let given = (!argument.is_empty()).then(|| argument.to_owned());
    let alone = |command| match &given {
        None => Ok(command),
        Some(_) => Err(format!("/{name} takes no argument")),
    };
    let file = || given.clone().map(PathBuf::from).ok_or_else(|| format!("/{name} needs a file name"));
    Some(match name {
        "help" | "?" => alone(Command::Help),
        "reset" | "clear" => alone(Command::Reset),
        "system" => Ok(Command::System(given.clone())),
        "save" => file().map(Command::Save),
        "load" => file().map(Command::Load),
        "retry" | "regen" => alone(Command::Retry),
        "undo" => alone(Command::Undo),
        "set" => match (&given, argument.split_once(char::is_whitespace)) {
            (None, _) => Ok(Command::Set(None)),
            (Some(_), Some((name, value))) => {
                Ok(Command::Set(Some((name.to_owned(), value.trim().to_owned()))))
            }
            (Some(name), None) => Err(format!("/set {name} needs a value")),
        },
        "stats" => alone(Command::Stats),
        "exit" | "quit" | "bye" => alone(Command::Exit),
        _ => Err(format!("unknown command /{name}: /help lists the commands")),
    })
}

/// What `/set` changes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) params: SamplingParams,
    /// Tokens of an answer; -1: no limit.
    pub(super) n_predict: i64,
}

impl Settings {
    /// All settings, one a line.
    pub(super) fn show(&self) -> String {
        let p = &self.params;
        format!(
            "temp {}\ntop_k {}\ntop_p {}\ntypical {}\nmin_p {}\nrepeat_penalty {}\nrepeat_last_n {}\npresence_penalty {}\nfrequency_penalty {}\nseed {}\nn_predict {}\n",
            p.temperature,
            p.top_k,
            p.top_p,
            p.typical_p,
            p.min_p,
            p.repeat_penalty,
            p.repeat_last_n,
            p.presence_penalty,
            p.frequency_penalty,
            p.seed,
            self.n_predict
        )
    }

    /// The settings with one changed.
    pub(super) fn with(&self, name: &str, value: &str) -> Result<Self, String> {
        fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("{value:?} is not a number in the valid range"))
        }
        let mut changed = self.clone();
        let p = &mut changed.params;
        match name.replace('-', "_").as_str() {
            "temp" | "temperature" => p.temperature = number(value)?,
            "top_k" => p.top_k = number(value)?,
            "top_p" => p.top_p = number(value)?,
            "typical" | "typ_p" | "typical_p" => p.typical_p = number(value)?,
            "min_p" => p.min_p = number(value)?,
            "repeat_penalty" => p.repeat_penalty = number(value)?,
            "repeat_last_n" => p.repeat_last_n = number(value)?,
            "presence_penalty" => p.presence_penalty = number(value)?,
            "frequency_penalty" => p.frequency_penalty = number(value)?,
            "seed" => p.seed = number(value)?,
            "n_predict" | "n" => changed.n_predict = number::<i64>(value)?.max(-1),
            _ => return Err(format!("unknown setting {name:?}: /set lists them")),
        }
        changed.params.validate().map_err(|error| error.to_string())?;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        assert_eq!(parse("hello /help"), None);
        assert_eq!(parse("//not a command"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse(" /help "), Some(Ok(Command::Help)));
        assert_eq!(
            parse("/system Be brief. Please"),
            Some(Ok(Command::System(Some("Be brief. Please".into()))))
        );
        assert_eq!(parse("/save a b.json"), Some(Ok(Command::Save("a b.json".into()))));
        assert_eq!(parse("/set temp  0.5"), Some(Ok(Command::Set(Some(("temp".into(), "0.5".into()))))));
        for bad in ["/save", "/nonsense", "/set temp", "/retry now", "/"] {
            assert!(matches!(parse(bad), Some(Err(_))), "{bad}");
        }
    }

    #[test]
    fn every_setting_that_is_shown_can_be_set() {
        let settings = Settings { params: SamplingParams::default(), n_predict: -1 };
        for line in settings.show().lines() {
            let (name, value) = line.split_once(' ').unwrap();
            assert_eq!(settings.with(name, value).unwrap(), settings, "{line}");
        }
        assert_eq!(settings.with("top-k", "7").unwrap().params.top_k, 7);
        for (name, value) in [("temp", "hot"), ("top_p", "-1"), ("nonsense", "1"), ("top_k", "-1")] {
            assert!(settings.with(name, value).is_err(), "{name} {value}");
        }
    }
}
