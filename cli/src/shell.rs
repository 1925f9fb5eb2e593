//! `bitnetc completions` and `bitnetc man`: what shells and man read, made from the arguments themselves.

use std::io::Write;
use std::path::PathBuf;

use bitnetc_runtime::whole_file::WholeFile;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::args::Cli;
use super::failure::Failure;
use super::{Outcome, output};
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
    /// The command whose page is printed (default: bitnetc itself)
    #[arg(value_name = "COMMAND", conflicts_with = "output")]
    pub(crate) command: Option<String>,
    /// Write the pages of all commands to this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// Prints name and version.
pub(crate) fn version() -> Outcome {
    output::print(&Cli::command().render_version())?;
    Ok(exit::OK)
}

/// Prints the completions of a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bitnetc", &mut text);
    output::print(&String::from_utf8_lossy(&text))?;
    Ok(exit::OK)
}

/// The page of a command.
fn page(command: &Command) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
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
            page(sub.ok_or_else(|| Failure::new(exit::USAGE, format!("there is no command `{name}`")))?)?
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
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "bitnetc", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("perplexity") && text.contains("cpu-features"), "{shell}");
        }
    }
}
