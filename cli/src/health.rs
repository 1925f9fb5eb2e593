//! `bitnetc health`: asks a server whether it is up, for the health checks of containers and for scripts where there is no other client
//! of HTTP.

use std::time::Duration;

use bitnetc_tools::load::{Probe, Target};
use clap::{Args, value_parser};

use super::{Outcome, interrupt, output};
use crate::exit;

#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is 0 if the server answers that it is up, and 1 otherwise. No key is needed.\n\nExamples:\n  bitnetc health                                   the server at http://127.0.0.1:8080\n  bitnetc health --ready http://10.0.0.7:8080      whether a new request would be taken\n  until bitnetc -q health; do sleep 1; done        wait until the model is loaded"
)]
pub(crate) struct HealthArgs {
    /// Address of the server (default: this machine, with the port of --port)
    #[arg(value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Port of the server on this machine
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub(crate) port: u16,
    /// Ask whether a new request would be taken (/ready), not only whether the model is loaded (/health)
    #[arg(long)]
    pub(crate) ready: bool,
    /// Longest silence of the server, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
}

/// Runs the command.
pub(crate) fn run(args: &HealthArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let url = args.url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", args.port));
    let timeout = Duration::from_secs(args.timeout);
    let target = Target::new(&url, None, timeout, (|| !interrupt::requested()).into())?;
    let probe = if args.ready { Probe::Ready } else { Probe::Health };
    target.ask(probe)?;
    output::say(quiet, format_args!("{} is {}", target.name(), if args.ready { "ready" } else { "up" }));
    Ok(exit::OK)
}
