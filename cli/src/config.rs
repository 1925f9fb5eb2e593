//! The configuration: defaults of options from a file and from the environment, aliases of models, and `bitnetc config`.
//!
//! What is said on the command line counts, then `BITNETC_*` variables, then the file, then what is built in. The file is TOML:
//! options by their long names, for all commands that have them or in a table for one command, and a table of aliases.
//!
//! Invariant: an option of the file that no command has, or a value that the option does not take, is an error that names the
//! file, the line and the option; nothing is ignored. A file in the usual place that cannot be read is a note, since the user has not
//! asked for it; one that `BITNETC_CONFIG` names is an error.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bitnetc::store::{config_home, is_alias};
use bitnetc_runtime::whole_file::WholeFile;
use clap::builder::{FalseyValueParser, OsStr, Resettable};
use clap::{ArgAction, Args, Command, Subcommand};
use serde_json::json;
use toml::{Table, Value};

use super::failure::Failure;
use super::models::{self, variable};
use super::{Outcome, output, suggest};
use crate::exit;

/// The variable that names another file; empty for none.
const VARIABLE: &str = "BITNETC_CONFIG";
/// What the names of all variables begin with.
const PREFIX: &str = "BITNETC_";
/// The table of aliases.
const ALIAS_TABLE: &str = "aliases";
/// Options that mean something else in each command, or concern one call only.
const PER_CALL: &[&str] = &[
    "output",
    "help",
    "version",
    "overwrite",
    "emit",
    "emit-dir",
    "inputs",
    "compare",
    "run-reproducer",
    "list-passes",
    "stop-after",
];

/// The contents of a new file.
const TEMPLATE: &str = "\
# Defaults of bitnetc's options, by their long names. The command line and BITNETC_* variables count before this file.

# For all commands:
# threads = 4
# head = \"q8\"
# ctx-size = 4096

# For one command:
# [run]
# temp = 0.7

# Names of your own for models:
# [aliases]
# mine = \"hf:org/repo:model.gguf\"
";

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ConfigCommand>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the settings in effect, and where they come from (the default)
    Show,
    /// Print the path of the file
    Path,
    /// Write a commented-out file to start from
    Init,
}

/// A configuration that was read.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// The file, if one is used.
    path: Option<PathBuf>,
    /// Its contents; empty if it is not there.
    table: Table,
    /// The text that they were read from.
    text: String,
    exists: bool,
    /// Why the file in the usual place was not read.
    note: Option<String>,
}

static ALIASES_OF_FILE: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// The aliases of the file.
pub(crate) fn aliases() -> &'static BTreeMap<String, String> {
    ALIASES_OF_FILE.get_or_init(BTreeMap::new)
}

impl Config {
    /// Reads the user's file.
    pub(crate) fn load() -> Result<Self, Failure> {
        let path = match variable(VARIABLE) {
            Some(path) if path.is_empty() => return Ok(Self::default()),
            Some(path) => {
                let path = PathBuf::from(path);
                // A device such as /dev/null is as good as an empty file.
                if path.metadata().is_ok_and(|found| found.is_dir()) || !path.exists() {
                    return Err(Failure::new(
                        exit::USAGE,
                        format!("{VARIABLE}: there is no file {}", path.display()),
                    ));
                }
                path
            }
            // Without a home directory there is no file.
            None => match config_home(&variable) {
                Ok(home) => return Self::read_usual(home.join("bitnetc").join("config.toml")),
                Err(_) => return Ok(Self::default()),
            },
        };
        Self::read(path)
    }

    /// Reads the file in the usual place, which need not be readable.
    fn read_usual(path: PathBuf) -> Result<Self, Failure> {
        match std::fs::read(&path) {
            Err(error) if !is_absent(&error) => {
                let note = format!("note: the configuration {} is not used: {error}", path.display());
                Ok(Self { path: Some(path), note: Some(note), ..Self::default() })
            }
            _ => Self::read(path),
        }
    }

    fn read(path: PathBuf) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if is_absent(&error) => {
                return Ok(Self { path: Some(path), ..Self::default() });
            }
            Err(error) => {
                return Err(Failure::new(exit::FAILURE, format!("cannot read {}: {error}", path.display())));
            }
        };
        let table =
            text.parse::<Table>().map_err(|error| wrong(&path, error.message(), &text, error.span()))?;
        Ok(Self { path: Some(path), table, text, exists: true, note: None })
    }

    /// What to say of a file that was not read.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Where the file has a value for an option of the command that `path` leads to.
    pub(crate) fn origin(&self, path: &[String], option: &str) -> Option<String> {
        let file = self.path.as_deref()?.display();
        let command = path.first().map(String::as_str);
        let of_command = command.and_then(|name| self.table.get(name)).and_then(Value::as_table);
        let (key, table) = match of_command.is_some_and(|table| table.contains_key(option)) {
            true => (format!("[{}] {option}", command.unwrap_or_default()), command),
            false if self.table.contains_key(option) => (option.to_owned(), None),
            false => return None,
        };
        let line = line_of(&self.text, table, Some(option)).map_or(String::new(), |line| format!(":{line}"));
        Some(format!("{file}{line}, `{key}`"))
    }

    /// The path of the file, which need not exist.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// An error about a key of a table, or about the table itself.
    fn refuse(&self, table: Option<&str>, key: Option<&str>, why: impl std::fmt::Display) -> Failure {
        let path = self.path.as_deref().unwrap_or(Path::new("the configuration"));
        // A table may be written in one line, as a value.
        let line = line_of(&self.text, table, key).or_else(|| line_of(&self.text, None, table));
        let line = line.map_or(String::new(), |line| format!(":{line}"));
        Failure::new(exit::USAGE, format!("{}{line}: {why}", path.display()))
    }

    /// Gives the options of `command` the defaults of the file and the variables of the environment, and makes the aliases
    /// known.
    pub(crate) fn apply(&self, mut command: Command) -> Result<Command, Failure> {
        self.check(&command)?;
        let mut aliases = BTreeMap::new();
        if let Some(Value::Table(table)) = self.table.get(ALIAS_TABLE) {
            for (alias, meaning) in table {
                let meaning = meaning.as_str().filter(|_| is_alias(alias));
                let meaning = meaning.ok_or_else(|| {
                    let why =
                        format!("alias `{alias}`: expected a name of letters, digits, `-_.` and a string");
                    self.refuse(Some(ALIAS_TABLE), Some(alias), why)
                })?;
                aliases.insert(alias.clone(), meaning.to_owned());
            }
        }
        let _ = ALIASES_OF_FILE.set(aliases);
        command = self.apply_to(command, &mut Vec::new());
        Ok(command)
    }

    /// Whether every key is an option of a command, or a command, or the aliases.
    fn check(&self, command: &Command) -> Result<(), Failure> {
        for (key, value) in &self.table {
            match value {
                Value::Table(_) if key == ALIAS_TABLE => {}
                Value::Table(table) => {
                    let sub = command.find_subcommand(key);
                    let sub = sub.ok_or_else(|| {
                        let names = command.get_subcommands().map(Command::get_name);
                        let meant = did_you_mean(key, names.chain([ALIAS_TABLE]), |name| format!("[{name}]"));
                        self.refuse(Some(key), None, format!("[{key}]: unknown command{meant}"))
                    })?;
                    for (option, value) in table {
                        self.check_option(Some(key), option, value, &[sub])?;
                    }
                }
                _ => self.check_option(None, key, value, &command.get_subcommands().collect::<Vec<_>>())?,
            }
        }
        Ok(())
    }

    fn check_option(
        &self,
        table: Option<&str>,
        option: &str,
        value: &Value,
        commands: &[&Command],
    ) -> Result<(), Failure> {
        let what = table.map_or(option.to_owned(), |table| format!("[{table}] {option}"));
        let refuse = |why: &str| Err(self.refuse(table, Some(option), format!("{what}: {why}")));
        let known: Vec<&str> = commands.iter().flat_map(|command| options(command)).collect();
        if !known.contains(&option) && option != "quiet" {
            let whose = if table.is_some() { "the command has no" } else { "no command has an" };
            let elsewhere =
                suggest::spelled_elsewhere(&format!("--{option}")).filter(|name| known.contains(name));
            let meant = match elsewhere {
                Some(name) => format!("; did you mean `{name}`?"),
                None => did_you_mean(option, known.iter().copied(), |name| format!("`{name}`")),
            };
            return refuse(&format!("{whose} option --{option}{meant}"));
        }
        if PER_CALL.contains(&option) {
            return refuse("this option can be set only on the command line");
        }
        match texts(value) {
            Some(_) => Ok(()),
            None => refuse("expected a string, a number, true, false, or an array of these"),
        }
    }

    /// The value for an option of the command that `path` leads to.
    fn value(&self, path: &[String], option: &str) -> Option<Vec<String>> {
        let of_command = path.first().and_then(|name| self.table.get(name)).and_then(Value::as_table);
        let value = of_command.and_then(|table| table.get(option)).or_else(|| self.table.get(option))?;
        texts(value)
    }

    fn apply_to(&self, mut command: Command, path: &mut Vec<String>) -> Command {
        let options: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| {
                let long = arg.get_long()?.to_owned();
                (!PER_CALL.contains(&long.as_str())).then(|| (arg.get_id().clone(), long))
            })
            .collect();
        for (id, long) in options {
            let value = self.value(path, &long);
            command = command.mut_arg(id, |mut arg| {
                if arg.get_env().is_none() {
                    arg = arg.env(variable_of(&long)).hide_env(true);
                    if matches!(arg.get_action(), ArgAction::SetTrue) {
                        arg = arg.value_parser(FalseyValueParser::new());
                    }
                }
                match value {
                    Some(values) if !arg.is_required_set() => {
                        arg.default_values(values.into_iter().map(OsStr::from).collect::<Vec<_>>())
                    }
                    _ => arg,
                }
            });
        }
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in names {
            command = command.mut_subcommand(&name, |sub| {
                path.push(name.clone());
                let sub = self.apply_to(sub, path);
                path.pop();
                sub
            });
        }
        command
    }
}

/// The variable of an option.
fn variable_of(long: &str) -> Resettable<OsStr> {
    Resettable::Value(format!("{PREFIX}{}", long.replace('-', "_").to_uppercase()).into())
}

/// What to say of variables that no option has, but that are like those of one.
pub(crate) fn misspelled_variables(command: &Command) -> Vec<String> {
    let of_bitnetc =
        |name: std::ffi::OsString| name.into_string().ok().filter(|name| name.starts_with(PREFIX));
    let set: Vec<String> = std::env::vars_os().filter_map(|(name, _)| of_bitnetc(name)).collect();
    if set.is_empty() {
        return Vec::new();
    }
    let mut known = vec![VARIABLE.to_owned()];
    variables(command, &mut known);
    let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let names: Vec<String> = known.iter().map(|name| bare(name)).collect();
    let unknown = set.iter().filter(|name| !known.contains(name));
    let notes = unknown.filter_map(|name| {
        let meant = suggest::nearest(&bare(name), names.iter().map(String::as_str))?;
        Some(format!("note: {name} is not used: no option has this variable; did you mean {PREFIX}{meant}?"))
    });
    notes.collect()
}

/// The variables of the options of a command and of those below it.
fn variables(command: &Command, names: &mut Vec<String>) {
    let of_options = command.get_arguments().filter_map(clap::Arg::get_env);
    names.extend(of_options.map(|name| name.to_string_lossy().into_owned()));
    command.get_subcommands().for_each(|sub| variables(sub, names));
}

/// The long names of the options of a command and of those below it.
fn options(command: &Command) -> Vec<&str> {
    let below = command.get_subcommands().flat_map(options);
    command.get_arguments().filter_map(clap::Arg::get_long).chain(below).collect()
}

/// The end of a message about a name that does not exist, if it is like one that does.
fn did_you_mean<'n>(
    word: &str,
    names: impl IntoIterator<Item = &'n str>,
    shown: impl Fn(&str) -> String,
) -> String {
    suggest::nearest(word, names).map_or(String::new(), |name| format!("; did you mean {}?", shown(name)))
}

/// Whether an error of reading means that there is no file.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// The number of the line where a key stands in a table, or the table begins; `None` where the file writes it in an unusual way.
fn line_of(text: &str, table: Option<&str>, key: Option<&str>) -> Option<usize> {
    let mut within: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            within = Some(header.0.trim().trim_matches(['"', '\'']).to_owned());
            if key.is_none() && within.as_deref() == table {
                return Some(index + 1);
            }
        } else if let Some((name, _)) = line.split_once('=') {
            let is_key = key.is_some_and(|key| name.trim().trim_matches(['"', '\'']) == key);
            if is_key && within.as_deref() == table {
                return Some(index + 1);
            }
        }
    }
    None
}

/// A value as it would stand on the command line.
fn texts(value: &Value) -> Option<Vec<String>> {
    Some(match value {
        Value::String(text) => vec![text.clone()],
        Value::Integer(n) => vec![n.to_string()],
        Value::Float(x) => vec![x.to_string()],
        Value::Boolean(on) => vec![on.to_string()],
        Value::Array(list) => {
            let all: Option<Vec<Vec<String>>> =
                list.iter().map(|v| if v.is_array() { None } else { texts(v) }).collect();
            all?.concat()
        }
        Value::Table(_) | Value::Datetime(_) => return None,
    })
}

fn wrong(path: &Path, message: &str, text: &str, span: Option<std::ops::Range<usize>>) -> Failure {
    let name = path.display().to_string();
    match span {
        Some(span) => {
            let message = format!("{name} is not TOML: {message}");
            Failure::in_text(message, text, &span)
        }
        None => Failure::new(exit::USAGE, format!("{name} is not TOML: {message}")),
    }
}

/// Runs the command. `config` is what was read, or why it could not be.
pub(crate) fn run(args: &ConfigArgs, config: Result<Config, Failure>, quiet: bool) -> Outcome {
    let path = match &config {
        Ok(config) => config.path.clone(),
        Err(_) => None,
    };
    let place = path.clone().or_else(|| {
        let given = variable(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        given.or_else(|| Some(config_home(&variable).ok()?.join("bitnetc").join("config.toml")))
    });
    let none = || Failure::new(exit::FAILURE, "no directory for settings: set HOME or XDG_CONFIG_HOME");
    match args.command.unwrap_or(ConfigCommand::Show) {
        ConfigCommand::Path => {
            let place = place.ok_or_else(none)?.display().to_string();
            match args.json {
                true => output::print_json(&json!({ "schema": "bitnetc.config-path/1", "path": place }))?,
                false => output::print(&format!("{place}\n"))?,
            }
        }
        ConfigCommand::Init => {
            let place = place.ok_or_else(none)?;
            init(&place)?;
            let place = place.display().to_string();
            match args.json {
                true => output::print_json(&json!({ "schema": "bitnetc.config-init/1", "path": place }))?,
                false => output::say(quiet, format!("wrote {place}")),
            }
        }
        ConfigCommand::Show => show(&config?, args.json)?,
    }
    Ok(exit::OK)
}

fn init(place: &Path) -> Result<(), Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(exit::FAILURE, format!("cannot {what} {}: {error}", place.display()))
    };
    if place.symlink_metadata().is_ok() {
        return Err(Failure::new(exit::FAILURE, format!("{} already exists", place.display())));
    }
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder).map_err(|e| failed("make the folder of", &e))?;
    }
    let file = WholeFile::create(place).map_err(bitnetc::Error::from)?;
    file.file().write_all(TEMPLATE.as_bytes()).map_err(|e| failed("write", &e))?;
    file.commit().map_err(bitnetc::Error::from)?;
    Ok(())
}

/// The variables that are set and that commands read.
fn environment() -> BTreeMap<String, String> {
    let ours = |name: &str| name.starts_with("BITNETC_");
    let of_hub =
        ["HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"];
    let all = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let known = all.filter(|(name, _)| ours(name) || of_hub.contains(&name.as_str()));
    known.map(|(name, value)| shown_of((name, value.to_string_lossy().into_owned()))).collect()
}

/// A setting as it may be shown: a key is not.
fn shown_of((name, value): (String, String)) -> (String, String) {
    let is_key =
        name.to_lowercase().replace('-', "_").ends_with("_key") && !name.to_lowercase().contains("tls");
    (name, if is_key { "(set)".to_owned() } else { value })
}

fn show(config: &Config, json: bool) -> Result<(), Failure> {
    let mut settings = BTreeMap::new();
    for (key, value) in &config.table {
        match value {
            Value::Table(_) if key == ALIAS_TABLE => {}
            Value::Table(table) => {
                let of_command =
                    table.iter().filter_map(|(option, v)| Some((format!("{key}.{option}"), texts(v)?)));
                settings.extend(of_command.map(|(option, texts)| (option, texts.join(","))));
            }
            value => settings.extend(texts(value).map(|texts| (key.clone(), texts.join(",")))),
        }
    }
    let settings: BTreeMap<String, String> = settings.into_iter().map(shown_of).collect();
    let environment = environment();
    if json {
        return output::print_json(&json!({
            "schema": "bitnetc.config/2",
            "path": config.path.as_ref().map(|path| path.display().to_string()),
            "exists": config.exists,
            "settings": settings,
            "aliases": models::all_aliases(),
            "environment": environment,
        }));
    }
    let mut text = match &config.path {
        Some(path) => {
            format!("file  {}{}\n", path.display(), if config.exists { "" } else { " (not there)" })
        }
        None => "file  none\n".to_owned(),
    };
    let mut section = |name: &str, pairs: &mut dyn Iterator<Item = (&String, &String)>| {
        let lines: String = pairs.map(|(key, value)| format!("  {key} = {value}\n")).collect();
        text +=
            &format!("{name}\n{}", if lines.is_empty() { format!("  {}\n", output::NONE) } else { lines });
    };
    section("settings of the file", &mut settings.iter());
    section("environment", &mut environment.iter());
    section("aliases", &mut models::all_aliases().iter());
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::args::{Cli, Command as Which};

    fn config(text: &str) -> Config {
        let path = Some("config.toml".into());
        Config { path, table: text.parse().unwrap(), text: text.to_owned(), exists: true, note: None }
    }

    fn parse(config: &Config, line: &[&str]) -> Result<Cli, String> {
        let mut command = config.apply(Cli::command()).map_err(|failure| format!("refused: {failure:?}"))?;
        command.clone().debug_assert();
        let words: Vec<std::ffi::OsString> = line.iter().map(std::ffi::OsString::from).collect();
        let matches = command.try_get_matches_from_mut(words.clone()).map_err(|error| {
            crate::usage::explained(error, &mut command, &words, Some(config)).to_string()
        })?;
        Cli::from_arg_matches(&matches).map_err(|e| e.to_string())
    }

    #[test]
    fn the_file_gives_defaults_and_the_command_line_counts() {
        let config = config("threads = 3\ntop-k = 7\njson = true\n[run]\ntemp = 0.25\nthreads = 5\n");
        let run = |line: &[&str]| match parse(&config, line).unwrap().command {
            Which::Run(args) => {
                let args = args.generate;
                (args.engine.build.threads, args.sampling.temp, args.sampling.top_k, args.json)
            }
            _ => unreachable!(),
        };
        assert_eq!(run(&["bitnetc", "run"]), (Some(5), 0.25, 7, true));
        assert_eq!(run(&["bitnetc", "run", "-t", "2", "--temp", "1"]), (Some(2), 1.0, 7, true));
        match parse(&config, &["bitnetc", "bench"]).unwrap().command {
            Which::Bench(args) => assert_eq!(args.threads, [3]),
            _ => unreachable!(),
        }
    }

    #[test]
    fn lists_are_lists() {
        let config = config("threads = [1, 2]\n");
        match parse(&config, &["bitnetc", "bench"]).unwrap().command {
            Which::Bench(args) => assert_eq!(args.threads, [1, 2]),
            _ => unreachable!(),
        }
    }

    #[test]
    fn what_is_wrong_in_the_file_is_said() {
        for (text, line, why) in [
            ("thraeds = 3", 1, "--thraeds; did you mean `threads`?"),
            ("# a\n\n[run]\nmax-tokens = 3", 4, "--max-tokens; did you mean `n-predict`?"),
            ("xyzzy = 3", 1, "no command has an option --xyzzy\""),
            ("\n[rum]\nthreads = 1", 2, "[rum]: unknown command; did you mean [run]?"),
            ("[frobnicate]\nthreads = 1", 1, "[frobnicate]: unknown command\""),
            ("threads = 1\n[run]\npass = 1", 3, "[run] pass: the command has no option"),
            ("output = \"x\"", 1, "only on the command line"),
            ("threads = {a = 1}", 1, "threads"),
            ("threads = 2026-01-01", 1, "expected a string, a number"),
            ("[aliases]\n\"a/b\" = \"x\"", 2, "alias `a/b`"),
            ("[aliases]\na = 1", 2, "alias `a`"),
        ] {
            let error = parse(&config(text), &["bitnetc", "run"]).unwrap_err();
            let place = format!("config.toml:{line}: ");
            let known = error.starts_with("refused") && error.contains(&place) && error.contains(why);
            assert!(known, "{text}: {error}");
        }
    }

    #[test]
    fn an_error_of_a_value_names_its_source() {
        let text = "top-k = 3\n[run]\nthreads = \"many\"\n";
        let error = parse(&config(text), &["bitnetc", "run"]).unwrap_err();
        let expected = "invalid value 'many' for '--threads <N>', from config.toml:3, `[run] threads`: expected a number";
        assert!(error.contains(expected), "{error}");
        let error = parse(&config("threads = \"many\""), &["bitnetc", "bench"]).unwrap_err();
        assert!(error.contains("from config.toml:1, `threads`: "), "{error}");
        let error = parse(&config("kv-type = \"q3\""), &["bitnetc", "run"]).unwrap_err();
        assert!(error.contains("tip: the value is from config.toml:1, `kv-type`"), "{error}");
        // What the command line says is not the file's fault.
        let error = parse(&config(text), &["bitnetc", "run", "-t", "some"]).unwrap_err();
        assert!(error.contains("'some'") && !error.contains("config.toml"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_cannot_be_read_is_a_note_unless_it_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::create_dir(&path).unwrap();
        let config = Config::read_usual(path.clone()).unwrap();
        assert!(config.table.is_empty() && !config.exists);
        assert!(config.note().unwrap().contains("config.toml is not used: "), "{:?}", config.note());
        assert!(Config::read(path.clone()).is_err());
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(Config::read_usual(path.clone()).unwrap().note(), None);
        std::fs::write(&path, "threads = = 3").unwrap();
        assert!(Config::read_usual(path).is_err(), "what is wrong in a file is no note");
    }

    #[test]
    fn a_file_that_is_no_toml_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert!(!Config::read(path.clone()).unwrap().exists);
        std::fs::write(&path, "threads = = 3").unwrap();
        assert!(Config::read(path.clone()).is_err());
        std::fs::remove_file(&path).unwrap();
        init(&path).unwrap();
        let read = Config::read(path.clone()).unwrap();
        assert!(read.exists && read.table.is_empty());
        assert!(init(&path).is_err());
        // What the template shows is right when it is uncommented.
        let shown: String = TEMPLATE
            .lines()
            .filter_map(|l| l.strip_prefix("# ").filter(|l| l.contains('=') || l.starts_with('[')))
            .map(|l| format!("{l}\n"))
            .collect();
        config(&shown).check(&Cli::command()).unwrap();
    }
}
