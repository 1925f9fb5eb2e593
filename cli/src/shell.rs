//! `bitnetc completions` and `bitnetc man`: what shells and man read, made from the arguments themselves.

use std::io::Write;
use std::path::PathBuf;

use bitnetc_runtime::whole_file::WholeFile;
use bitnetc_tools::bench::machine::Build;
use clap::builder::PossibleValuesParser;
use clap::{Args, Command, CommandFactory, Id};
use clap_complete::Shell;

use super::args::Cli;
use super::failure::Failure;
use super::{Outcome, models, output};
use crate::exit;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc completions bash > ~/.local/share/bash-completion/completions/bitnetc\n  bitnetc completions zsh > ~/.zfunc/_bitnetc\n  bitnetc completions fish > ~/.config/fish/completions/bitnetc.fish"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc man | man -l -\n  bitnetc man run | man -l -\n  bitnetc man -o ~/.local/share/man/man1"
)]
pub(crate) struct ManArgs {
    /// The command (default: bitnetc itself)
    #[arg(value_name = "COMMAND", conflicts_with = "output")]
    pub(crate) command: Option<String>,
    /// Write the pages of all commands to this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints name and version.
pub(crate) fn version(args: &VersionArgs) -> Outcome {
    match args.json {
        true => {
            let build = Build::this();
            output::print_json(&serde_json::json!({
                "schema": "bitnetc.version/1",
                "version": build.version,
                "profile": build.profile,
                "os": std::env::consts::OS,
                "architecture": std::env::consts::ARCH,
            }))?;
        }
        false => output::print(&Cli::command().render_version())?,
    }
    Ok(exit::OK)
}

/// Prints the completions of a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Outcome {
    let built_in = bitnetc::builtin::SHORT_NAME.to_owned();
    let names: Vec<String> = models::all_aliases().into_keys().chain([built_in]).collect();
    output::print(&script(args.shell, &names))?;
    Ok(exit::OK)
}

/// The completions of a shell, with these names besides files in the place of a model.
fn script(shell: Shell, aliases: &[String]) -> String {
    let mut command = Cli::command();
    if shell == Shell::Bash {
        // What fits no name is completed as a file.
        command = with_names(command, aliases);
    }
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut command, "bitnetc", &mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let names = aliases.join(" ");
    match shell {
        Shell::Zsh => {
            let both = format!("{{_alternative \"files:file:_files\" \"aliases:alias:({names})\"}}");
            let of_argument = "the built-in model):_files";
            text.replace(":MODEL:_files", &format!(":MODEL:{both}"))
                .replace(of_argument, &of_argument.replace("_files", &both))
        }
        Shell::Fish => {
            let of_models = |line: &&str| line.contains("-l model ");
            let named: String = text
                .lines()
                .filter(of_models)
                .map(|line| {
                    let condition = line.split(" -s m ").next().unwrap_or_default();
                    format!("{condition} -a \"{names}\" -d 'alias of a model'\n")
                })
                .collect();
            text + &named
        }
        _ => text,
    }
}

/// The command with names as the values of all models.
fn with_names(mut command: Command, names: &[String]) -> Command {
    // An argument that is changed would stand after the others.
    let positional: Vec<Id> = command.get_positionals().map(|arg| arg.get_id().clone()).collect();
    for (id, index) in positional.iter().zip(1..) {
        command = command.mut_arg(id, |arg| arg.index(index));
    }
    for id in ["MODEL", "model"] {
        if command.get_arguments().any(|arg| arg.get_id() == id) {
            let parser = PossibleValuesParser::new(names.to_vec());
            command = command.mut_arg(id, |arg| arg.value_parser(parser));
        }
    }
    let subs: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    subs.iter().fold(command, |command, sub| command.mut_subcommand(sub, |sub| with_names(sub, names)))
}

/// The page of a command.
fn page(command: &Command) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let program = concat!("bitnetc ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command.clone()).source(program).manual("bitnetc manual").render(&mut text)?;
    Ok(text)
}

/// Prints or writes man pages.
pub(crate) fn man(args: &ManArgs, quiet: bool) -> Outcome {
    let mut command = Cli::command();
    command.build();
    if let Some(folder) = &args.output {
        let failed = |what: &str, path: &std::path::Path, error: std::io::Error| {
            Failure::new(exit::FAILURE, format!("cannot {what} {}: {error}", path.display()))
        };
        std::fs::create_dir_all(folder).map_err(|e| failed("create", folder, e))?;
        let mut written = 0;
        write_pages(&command, "bitnetc", &mut |name, text| {
            let path = folder.join(format!("{name}.1"));
            written += 1;
            let file = WholeFile::create(&path).map_err(bitnetc::Error::from)?;
            file.file().write_all(text).map_err(|e| failed("write", &path, e))?;
            file.commit().map_err(bitnetc::Error::from)?;
            Ok(())
        })?;
        output::say(quiet, format!("wrote {written} pages to {}", folder.display()));
        return Ok(exit::OK);
    }
    let page = match &args.command {
        None => page(&command)?,
        Some(name) => {
            let sub = command.find_subcommand(name);
            page(sub.ok_or_else(|| Failure::new(exit::USAGE, format!("unknown command `{name}`")))?)?
        }
    };
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(exit::OK)
}

/// Takes the name of a page and its text.
type WritePage<'a> = dyn FnMut(&str, &[u8]) -> Result<(), Failure> + 'a;

/// Gives `write` the page of a command and of all below it.
fn write_pages(command: &Command, name: &str, write: &mut WritePage<'_>) -> Result<(), Failure> {
    write(name, &page(command)?)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        write_pages(sub, &format!("{name}-{}", sub.get_name()), write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let mut command = Cli::command();
        command.build();
        let mut names = Vec::new();
        write_pages(&command, "bitnetc", &mut |name, text| {
            assert!(text.starts_with(b".ie") && text.len() > 300, "{name}");
            let footer = concat!("\"bitnetc ", env!("CARGO_PKG_VERSION"), "\" \"bitnetc manual\"");
            assert!(String::from_utf8_lossy(text).contains(footer), "{name}");
            names.push(name.to_owned());
            Ok(())
        })
        .unwrap();
        for name in ["bitnetc", "bitnetc-run", "bitnetc-models-pull", "bitnetc-ir-dump"] {
            assert!(names.iter().any(|n| n == name), "{names:?}");
        }
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let text = script(shell, &["mine".to_owned()]);
            assert!(text.contains("perplexity") && text.contains("cpu-features"), "{shell}");
            // Names of models, where the shell can have them besides files.
            let named = matches!(shell, Shell::Bash | Shell::Zsh | Shell::Fish);
            assert!(!named || text.matches("mine").count() > 10, "{shell}");
        }
    }
}
