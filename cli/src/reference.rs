//! `docs/cli.md`, made from the arguments: a test compares it, and records it with `BITNETC_RECORD_REFERENCE=1`.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::args::Cli;

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// How an argument is written.
fn name_of(arg: &Arg) -> String {
    let mut names = Vec::new();
    names.extend(arg.get_short().map(|short| format!("-{short}")));
    let longs = arg.get_long().into_iter().chain(arg.get_visible_aliases().into_iter().flatten());
    names.extend(longs.map(|long| format!("--{long}")));
    let values = arg.get_value_names().unwrap_or_default();
    let value = match arg.get_action() {
        ArgAction::SetTrue
        | ArgAction::SetFalse
        | ArgAction::Count
        | ArgAction::Help
        | ArgAction::Version => String::new(),
        _ => values.iter().map(|value| format!(" {value}")).collect(),
    };
    match names.is_empty() {
        true => format!("`{}`", value.trim()),
        false => format!("`{}{value}`", names.join("`, `")),
    }
}

/// What an argument does, with its values, default and variable.
fn help_of(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = match arg.get_action() {
        ArgAction::Set | ArgAction::Append if !arg.is_hide_possible_values_set() => arg
            .get_possible_values()
            .iter()
            .filter(|v| !v.is_hide_set())
            .map(|v| format!("`{}`", v.get_name()))
            .collect(),
        _ => Vec::new(),
    };
    if !values.is_empty() {
        text += &format!("; one of {}", values.join(", "));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    if !defaults.is_empty() && !matches!(arg.get_action(), ArgAction::SetTrue) {
        text += &format!(" [{}]", defaults.join(","));
    }
    if let Some(variable) = arg.get_env() {
        text += &format!(" (`{}`)", variable.to_string_lossy());
    }
    cell(&text)
}

fn write_command(text: &mut String, command: &Command, path: &str, depth: usize) {
    let _ = writeln!(text, "{} {path}\n", "#".repeat(depth));
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "{about}.\n");
    let shown =
        |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version" | "quiet");
    let mut args: Vec<&Arg> = command.get_arguments().filter(shown).collect();
    // Positional arguments first, then options as they were declared.
    args.sort_by_key(|arg| arg.get_index().unwrap_or(usize::MAX));
    if !args.is_empty() {
        let _ = writeln!(text, "| argument | meaning |\n|---|---|");
        for arg in args {
            let _ = writeln!(text, "| {} | {} |", name_of(arg), help_of(arg));
        }
        text.push('\n');
    }
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        write_command(text, sub, &format!("{path} {}", sub.get_name()), depth + 1);
    }
}

/// The whole reference.
fn reference() -> String {
    let mut text = "# Commands and options\n\nMade from the arguments themselves by a test. In brackets: the default, and the \
                    variable where it has a name of its own; every option also has one by its long name (`config.md`). All \
                    commands have `--quiet`, `--help` and `--version`.\n\n"
        .to_owned();
    let mut command = Cli::command();
    command.build();
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        write_command(&mut text, sub, &format!("bitnetc {}", sub.get_name()), 2);
    }
    format!("{}\n", text.trim_end())
}

#[test]
fn the_reference_is_that_of_the_arguments() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let expected = reference();
    if std::env::var_os("BITNETC_RECORD_REFERENCE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let line = expected.lines().zip(found.lines()).position(|(a, b)| a != b);
    assert!(
        expected == found,
        "docs/cli.md differs from the arguments (from line {:?}): record it with BITNETC_RECORD_REFERENCE=1",
        line.map(|n| n + 1)
    );
}
