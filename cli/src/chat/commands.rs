//! The commands of a chat: lines that begin with a slash.

use std::path::PathBuf;

use bitnetc_runtime::sampling::SamplingParams;

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Help,
    /// Start a new conversation with the same system message.
    Reset,
    /// Show or replace the system message.
    System(Option<String>),
    Save(PathBuf),
    Load(PathBuf),
    Retry,
    Undo,
    /// Ask the last question again in other words: these, or those of an editor.
    Edit(Option<String>),
    /// Show the settings, or change one.
    Set(Option<(String, String)>),
    /// Show the model, or continue with a different one.
    Model(Option<String>),
    Stats,
    Exit,
}

/// A line of `/help`: the names of a command, what it takes, what it does.
struct Entry {
    /// The first is the one that is shown.
    names: &'static [&'static str],
    arguments: &'static str,
    about: &'static str,
}

const fn entry(names: &'static [&'static str], arguments: &'static str, about: &'static str) -> Entry {
    Entry { names, arguments, about }
}

/// All commands, in the order of `/help`.
const ENTRIES: &[Entry] = &[
    entry(&["clear", "reset"], "", "start a new conversation with the same system message (also /reset)"),
    entry(
        &["system"],
        "[TEXT]",
        "show the system message, or start a new conversation with this one (/system none: without)",
    ),
    entry(&["retry", "regen"], "", "discard the last answer and generate a new one"),
    entry(&["edit"], "[TEXT]", "change the last question, here or in $EDITOR, and ask it again"),
    entry(&["undo"], "", "discard the last question and its answer"),
    entry(&["model"], "[NAME]", "show the model, or continue with a different one"),
    entry(&["save"], "FILE", "write the conversation to a file"),
    entry(&["load"], "FILE", "continue a conversation from a file"),
    entry(&["set"], "[NAME VALUE]", "show the settings, or change one from the next answer on"),
    entry(&["stats"], "", "show figures of the last turn"),
    entry(&["help", "?"], "", "show this list"),
    entry(&["exit", "quit", "bye"], "", "leave (also Ctrl-D)"),
];

/// What `/help` prints.
pub(super) fn help() -> String {
    let mut text = String::new();
    for entry in ENTRIES {
        let usage = format!("/{} {}", entry.names[0], entry.arguments);
        text += &format!("{usage:<18} {}\n", entry.about);
    }
    text + "A message of several lines: between lines of \"\"\", or with a backslash at the ends of lines.\n\
            Ctrl-C stops an answer; pressed again, it leaves."
}

/// The names of all commands, without the slash.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().flat_map(|entry| entry.names.iter().copied()).filter(|name| *name != "?")
}

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
        "edit" => Ok(Command::Edit(given.clone())),
        "model" => Ok(Command::Model(given.clone())),
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
    /// The names of all settings.
    pub(super) fn names() -> Vec<String> {
        let shown = Self { params: SamplingParams::default(), n_predict: -1 }.show();
        shown.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
    }

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
        assert_eq!(parse("/edit"), Some(Ok(Command::Edit(None))));
        assert_eq!(parse("/model 2b-4t"), Some(Ok(Command::Model(Some("2b-4t".into())))));
        assert_eq!(parse("/clear"), parse("/reset"));
        assert_eq!(parse("/save a b.json"), Some(Ok(Command::Save("a b.json".into()))));
        assert_eq!(parse("/set temp  0.5"), Some(Ok(Command::Set(Some(("temp".into(), "0.5".into()))))));
        for bad in ["/save", "/nonsense", "/set temp", "/retry now", "/"] {
            assert!(matches!(parse(bad), Some(Err(_))), "{bad}");
        }
    }

    #[test]
    fn every_listed_command_is_known() {
        for name in names() {
            let alone = parse(&format!("/{name}")).unwrap();
            let with_argument = parse(&format!("/{name} x y")).unwrap();
            assert!(alone.is_ok() || with_argument.is_ok(), "/{name}");
            let listed = help().contains(&format!("/{name}"));
            assert!(listed || ["regen", "quit", "bye"].contains(&name), "/{name}");
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
