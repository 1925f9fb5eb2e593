//! Command lines of hands that know llama.cpp and ollama.
//!
//! Options of llama.cpp have several letters after one dash (`-ngl 99`), which clap would take apart into options of one letter.
//! So they are found before clap sees the line, by the table in [`flags`]: what there is under another name is translated, what
//! cannot have an effect here is accepted with a remark, and the rest is refused with what to use instead. Commands of ollama
//! that do not exist are answered with one sentence ([`COMMANDS`]).
//!
//! Invariants: a word that is the value of an option is never taken for an option; an option of the table that clap knows too is
//! an error of the table, which tests find; remarks and refusals name the option as it was typed.

mod flags;
#[cfg(test)]
mod reference;

use std::ffi::OsString;

use clap::{Arg, Command};

use self::flags::{FLAGS, Flag, Meaning, Tool, Values};
use crate::exit;
use crate::failure::Failure;

/// Commands of others that there are not, and what to do instead.
const COMMANDS: &[(&str, &str)] = &[
    ("server", "the server is `bitnetc serve`"),
    (
        "quantize",
        "`bitnetc import` converts checkpoints; `bitnetc compile --head q6` chooses the format of the head",
    ),
    ("convert", "`bitnetc import` converts a Hugging Face checkpoint to GGUF"),
    ("info", "`bitnetc show` prints the contents of a model file"),
    (
        "ps",
        "only `bitnetc serve` keeps models loaded, and lists them at /api/ps; `bitnetc list` shows what is cached",
    ),
    (
        "stop",
        "only `bitnetc serve` keeps models loaded, until Ctrl-C; `bitnetc rm` removes a model from the disk",
    ),
    ("push", "models are not uploaded: the hf command of huggingface_hub does that"),
    (
        "create",
        "there is nothing to create, since a model is its file: `bitnetc import` converts a checkpoint, and the [aliases] of `bitnetc config init` give names",
    ),
    (
        "cp",
        "a model gets another name in the [aliases] of the configuration: `bitnetc config init` writes one",
    ),
];

/// A command line as clap takes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// All words.
    pub(crate) args: Vec<OsString>,
    /// What to say about options without effect.
    pub(crate) notes: Vec<String>,
}

/// The command line `args` for `command`, with what others call their options translated.
pub(crate) fn translate(args: Vec<OsString>, command: &Command) -> Result<Typed, Failure> {
    let place = args.iter().skip(1).position(|word| !word.to_string_lossy().starts_with('-'));
    let Some(at) = place.map(|place| place + 1) else { return Ok(Typed { args, notes: Vec::new() }) };
    let name = args.get(at).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some((_, instead)) = COMMANDS.iter().find(|(command, _)| *command == name) {
        return Err(Failure::new(exit::USAGE, format!("`{name}`: {instead}")));
    }
    match (Tool::of(&name), command.find_subcommand(&name)) {
        (Some(tool), Some(command)) => Translation::new(tool, command).run(args, at + 1),
        _ => Ok(Typed { args, notes: Vec::new() }),
    }
}

/// A translation under way.
struct Translation<'c> {
    tool: Tool,
    command: &'c Command,
    typed: Typed,
    /// What `-hf` names, as it was typed, and where it stands among the words: the last of `-hf` and `-m` counts.
    repo: Option<(String, usize)>,
    /// What `-hff` names.
    file: Option<String>,
    /// The type of the KV cache, and the option that asked for it.
    kv_type: Option<(String, String)>,
}

impl<'c> Translation<'c> {
    fn new(tool: Tool, command: &'c Command) -> Self {
        Self { tool, command, typed: Typed::default(), repo: None, file: None, kv_type: None }
    }

    /// Translates the words of `args` from `first` on.
    fn run(mut self, args: Vec<OsString>, first: usize) -> Result<Typed, Failure> {
        let mut words = args.into_iter();
        self.typed.args.extend(words.by_ref().take(first));
        let mut words = words.peekable();
        let mut end = None;
        while let Some(word) = words.next() {
            let text = word.to_str().unwrap_or_default().to_owned();
            if text == "--" {
                end = Some(word);
                break;
            }
            let (name, attached) = name_and_value(&text);
            if let Some(flag) = find(self.tool, name) {
                let values = values(flag, name, attached, &mut words)?;
                self.take(flag, name, values)?;
                continue;
            }
            self.typed.args.push(word);
            // The value of an option of ours is no option of theirs.
            if self.takes_next(&text)
                && let Some(value) = words.next()
            {
                self.typed.args.push(value);
            }
        }
        self.finish()?;
        self.typed.args.extend(end.into_iter().chain(words));
        Ok(self.typed)
    }

    /// What a flag of the table means.
    fn take(&mut self, flag: &Flag, name: &str, values: Vec<String>) -> Result<(), Failure> {
        let refuse = |instead: &str| Err(Failure::new(exit::USAGE, format!("{name}: {instead}")));
        let value = values.last().cloned().unwrap_or_default();
        match flag.meaning {
            Meaning::Option(option) => {
                self.push(option);
                values.iter().for_each(|value| self.push(value));
            }
            Meaning::Words(words) => words.iter().for_each(|word| self.push(word)),
            Meaning::Switch { on, off } => self.push(if is_off(&value) { off } else { on }),
            Meaning::Nothing(why) => self.typed.notes.push(format!("note: {name} has no effect: {why}")),
            Meaning::Refused(instead) => return refuse(instead),
            Meaning::Off(instead) if !is_off(&value) => return refuse(instead),
            Meaning::Off(_) => {}
            Meaning::Repo => self.repo = Some((value, self.typed.args.len())),
            Meaning::RepoFile => self.file = Some(value),
            Meaning::KvType => match &self.kv_type {
                Some((other, known)) if *known != value => {
                    return refuse(&format!(
                        "keys and values are kept in one type here, and {other} says {known}: give both the same"
                    ));
                }
                _ if !value.split(',').all(|each| matches!(each, "f16" | "f32")) => {
                    return refuse(&format!("only f16 and f32 are supported, not {value}"));
                }
                _ => self.kv_type = Some((name.to_owned(), value)),
            },
        }
        Ok(())
    }

    fn push(&mut self, word: &str) {
        self.typed.args.push(word.into());
    }

    /// Puts what several flags say together.
    fn finish(&mut self) -> Result<(), Failure> {
        match (self.repo.take(), self.file.take()) {
            (None, None) => {}
            (None, Some(_)) => {
                return Err(Failure::new(exit::USAGE, "-hff: the repository is missing: give -hf org/repo"));
            }
            (Some((repo, at)), file) => {
                // The file counts before what the repository's name says of it.
                let repo = repo.strip_prefix("hf:").unwrap_or(&repo);
                let bare = repo.split(':').next().unwrap_or_default();
                let name = file.map_or(format!("hf:{repo}"), |file| format!("hf:{bare}:{file}"));
                self.typed.args.splice(at..at, ["-m".into(), name.into()]);
            }
        }
        if let Some((_, kv_type)) = self.kv_type.take() {
            self.push("--kv-type");
            self.push(&kv_type);
        }
        Ok(())
    }

    /// Whether the word after `text` is its value, if `text` is an option of ours.
    fn takes_next(&self, text: &str) -> bool {
        if let Some(long) = text.strip_prefix("--") {
            let named = |arg: &&Arg| {
                let mut names = arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten());
                names.any(|name| name == long)
            };
            return !long.contains('=') && self.command.get_arguments().find(named).is_some_and(takes_value);
        }
        let Some(letters) = text.strip_prefix('-') else { return false };
        let short = |letter: char| self.command.get_arguments().find(|arg| arg.get_short() == Some(letter));
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            match short(letter) {
                // What follows the letter in the same word is the value.
                Some(arg) if takes_value(arg) => return letters.next().is_none(),
                Some(_) => {}
                None => return false,
            }
        }
        false
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// An option and the value that is attached to it by `=`.
fn name_and_value(text: &str) -> (&str, Option<&str>) {
    match text.split_once('=') {
        Some((name, value)) if text.starts_with("--") => (name, Some(value)),
        _ => (text, None),
    }
}

/// The flag of the table with this name.
fn find(tool: Tool, name: &str) -> Option<&'static Flag> {
    let known = |flag: &&Flag| flag.names.contains(&name) && flag.tools.contains(&tool);
    if name.starts_with('-') { FLAGS.iter().find(known) } else { None }
}

/// The values of a flag.
fn values(
    flag: &Flag,
    name: &str,
    attached: Option<&str>,
    words: &mut std::iter::Peekable<std::vec::IntoIter<OsString>>,
) -> Result<Vec<String>, Failure> {
    let count = match flag.values {
        Values::None => 0,
        Values::One => 1,
        Values::Two => 2,
        Values::OneOf(known) => {
            let is_known =
                |word: &OsString| word.to_string_lossy().split(',').all(|each| known.contains(&each));
            usize::from(attached.is_some() || words.peek().is_some_and(is_known))
        }
    };
    let mut values: Vec<String> = attached.map(str::to_owned).into_iter().collect();
    while values.len() < count {
        let missing = || Failure::new(exit::USAGE, format!("{name} needs a value"));
        values.push(words.next().ok_or_else(missing)?.to_string_lossy().into_owned());
    }
    Ok(values)
}

/// Whether a value turns something off.
fn is_off(value: &str) -> bool {
    matches!(value, "off" | "none" | "disabled" | "") || value.parse::<f64>().is_ok_and(|x| x <= 0.0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    fn translated(line: &str) -> Result<Typed, Failure> {
        let mut command = Cli::command();
        command.build();
        translate(line.split(' ').map(OsString::from).collect(), &command)
    }

    fn words(line: &str) -> String {
        let typed = translated(line).unwrap();
        typed.args.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_there_is_gets_its_name() {
        for (line, expected) in [
            ("bitnetc run -hf org/repo -n 4", "bitnetc run -m hf:org/repo -n 4"),
            ("bitnetc run -hf org/repo -m a.gguf", "bitnetc run -m hf:org/repo -m a.gguf"),
            ("bitnetc run -m a.gguf -hf org/repo", "bitnetc run -m a.gguf -m hf:org/repo"),
            ("bitnetc run -hf org/repo:q4 --hf-file a.gguf", "bitnetc run -m hf:org/repo:a.gguf"),
            ("bitnetc run -ctk f16 --cache-type-v f16 -st", "bitnetc run --chat --kv-type f16"),
            ("bitnetc run -m -hf -cnv", "bitnetc run -m -hf --conversation"),
            ("bitnetc run -p -ngl", "bitnetc run -p -ngl"),
            ("bitnetc run -qn 3 -sys x", "bitnetc run -qn 3 --system-prompt x"),
            ("bitnetc run -n3 -jf a.json", "bitnetc run -n3 --json-schema-file a.json"),
            ("bitnetc run --seed=3 --verbose-prompt", "bitnetc run --seed=3 --show-prompt"),
            ("bitnetc run -- -ngl 3", "bitnetc run -- -ngl 3"),
            ("bitnetc run -ctk f32 -- -hf", "bitnetc run --kv-type f32 -- -hf"),
            ("bitnetc -q chat -no-cnv-x", "bitnetc -q chat -no-cnv-x"),
            ("bitnetc bench -pg 5,6 -mmp 0 -ub 64", "bitnetc bench --pg 5,6 --no-mmap --batch-size 64"),
            ("bitnetc batch a -np 3", "bitnetc batch a --parallel 3"),
            (
                "bitnetc serve -hf org/repo -np 3 -cram 9 -cb",
                "bitnetc serve -m hf:org/repo --parallel 3 --cache-ram 9",
            ),
            ("bitnetc run -fa -n 3", "bitnetc run -n 3"),
            ("bitnetc run -fa on -n 3", "bitnetc run -n 3"),
            ("bitnetc run --flash-attn=on -n 3", "bitnetc run -n 3"),
            ("bitnetc compile -ngl 3", "bitnetc compile -ngl 3"),
            ("bitnetc run --dry-multiplier 0.0", "bitnetc run"),
            ("bitnetc", "bitnetc"),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn remarks_and_refusals_name_the_option_as_typed() {
        for flag in ["-ngl 99", "--gpu-layers 99", "--mlock", "--jinja", "-tb 4", "--numa distribute"] {
            let typed = translated(&format!("bitnetc run {flag}")).unwrap();
            let name = flag.split(' ').next().unwrap();
            assert_eq!((typed.args.len(), typed.notes.len()), (2, 1), "{flag}");
            assert!(
                typed.notes[0].starts_with(&format!("note: {name} has no effect: ")),
                "{:?}",
                typed.notes
            );
        }
        for line in [
            "bitnetc run --lora x",
            "bitnetc run -ctk q8_0",
            "bitnetc run -ctk f16 -ctv f32",
            "bitnetc run -hff a.gguf",
            "bitnetc run -ngl",
            "bitnetc run --dry-multiplier 0.8",
            "bitnetc server",
            "bitnetc -q ps",
        ] {
            assert!(translated(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_table_takes_nothing_that_is_ours() {
        let mut command = Cli::command();
        command.build();
        for tool in Tool::ALL {
            let command = command.find_subcommand(tool.name()).unwrap();
            let short = |letter: char| command.get_arguments().find(|arg| arg.get_short() == Some(letter));
            let mut seen = std::collections::BTreeSet::new();
            for flag in FLAGS.iter().filter(|flag| flag.tools.contains(&tool)) {
                for name in flag.names {
                    assert!(seen.insert(*name), "{name} is in the table twice for {}", tool.name());
                    let ours = |arg: &Arg| {
                        let mut longs =
                            arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten());
                        longs.any(|long| name.strip_prefix("--") == Some(long))
                    };
                    assert!(!command.get_arguments().any(ours), "{} {name}", tool.name());
                    if let Some(letters) = name.strip_prefix('-').filter(|rest| !rest.starts_with('-')) {
                        let mut letters = letters.chars();
                        let first = short(letters.next().unwrap());
                        match letters.next() {
                            None => assert!(first.is_none(), "{} {name}", tool.name()),
                            // A value that would be glued to an option of one letter is not lost: it can stand apart. Options
                            // without values can be written together, and those clusters stay ours; `-h` ends a line anyway.
                            Some(_) => assert!(
                                first.is_none_or(|arg| takes_value(arg) || arg.get_short() == Some('h')),
                                "{} {name}",
                                tool.name()
                            ),
                        }
                    }
                }
                if let Meaning::Option(option) = flag.meaning {
                    let long = option.trim_start_matches('-');
                    let ours =
                        |arg: &Arg| arg.get_long() == Some(long) || arg.get_short() == long.chars().next();
                    assert!(command.get_arguments().any(ours), "{} has no {option}", tool.name());
                }
            }
        }
    }

    #[test]
    fn every_translation_is_understood() {
        let mut command = Cli::command();
        command.build();
        for tool in Tool::ALL {
            for flag in FLAGS.iter().filter(|flag| flag.tools.contains(&tool)) {
                let value = match flag.names[0] {
                    "-pg" => "5,6",
                    "-ctk" | "-ctv" => "f16",
                    _ => "1",
                };
                let input = if tool == Tool::Batch { &["in", "-o", "out"][..] } else { &[] };
                let mut line: Vec<OsString> = vec!["bitnetc".into(), tool.name().into()];
                line.extend(input.iter().map(OsString::from));
                line.push(flag.names[0].into());
                match flag.values {
                    Values::None => {}
                    Values::One => line.push(value.into()),
                    Values::OneOf(known) => line.push(known[0].into()),
                    Values::Two => line.extend([value.into(), value.into()]),
                }
                let Ok(typed) = translate(line.clone(), &command) else {
                    let refused =
                        matches!(flag.meaning, Meaning::Refused(_) | Meaning::Off(_) | Meaning::RepoFile);
                    assert!(refused, "{line:?}");
                    continue;
                };
                // What is missing or at odds with itself, such as -st without a prompt, is clap's to say.
                if let Err(error) = Cli::command().try_get_matches_from(typed.args) {
                    let kind = error.kind();
                    assert_eq!(kind, clap::error::ErrorKind::MissingRequiredArgument, "{line:?}: {error}");
                }
            }
        }
    }
}
