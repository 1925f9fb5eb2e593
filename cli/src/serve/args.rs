//! Arguments of `bitnetc serve`. Names are those of llama.cpp's server where it has the option.

use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum, value_parser};

use crate::args::EngineArgs;
use crate::chat::TemplateArgs;
use crate::escapes::EscapeArgs;
use crate::given::Given;
use crate::sampling::SamplingArgs;

/// The form of the lines of the request log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogArg {
    /// Words and name=value
    Text,
    /// An object
    Json,
}

/// The sampling settings of a request that gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SamplingDefaults {
    /// Temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, as in the other commands
    Bitnetc,
    /// Temperature 1, and no other stage
    Openai,
}

/// A time in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.as_secs_f64())
    }
}

fn parse_seconds(text: &str) -> Result<Seconds, String> {
    let seconds: f64 =
        text.trim_end_matches('s').parse().map_err(|_| "expected a number of seconds".to_owned())?;
    match (0.001..=1e6).contains(&seconds) {
        true => Ok(Seconds(Duration::from_secs_f64(seconds))),
        false => Err("expected seconds from 0.001 to 1000000".to_owned()),
    }
}

/// A number of texts at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parallel(pub(crate) u32);

/// What nobody chose.
const PARALLEL: Parallel = Parallel(8);

impl std::fmt::Display for Parallel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn parse_parallel(text: &str) -> Result<Parallel, String> {
    match text.parse() {
        Ok(-1) => Ok(PARALLEL),
        Ok(count @ 1..=4096) => Ok(Parallel(count as u32)),
        Ok(_) | Err(_) => Err("expected a whole number from 1 to 4096, or -1 for the default".to_owned()),
    }
}

/// An amount of memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mib(pub(crate) u64);

fn parse_cache_ram(text: &str) -> Result<Mib, String> {
    match text {
        "-1" => Ok(Mib(u64::MAX)),
        text => text
            .parse()
            .map(Mib)
            .map_err(|_| "expected a whole number of MiB from 0 up, or -1 for no limit".to_owned()),
    }
}

/// The models of a server: arguments, and `-m`, which may be repeated.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelsArg {
    pub(crate) models: Vec<PathBuf>,
}

impl FromArgMatches for ModelsArg {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let all = |id: &str| {
            let values = matches.get_many::<PathBuf>(id).into_iter().flatten().cloned();
            matches.indices_of(id).into_iter().flatten().zip(values)
        };
        let mut models: Vec<(usize, PathBuf)> = all("MODELS").collect();
        // What stands on the command line counts before the environment and the configuration.
        let typed = matches.value_source("model") == Some(ValueSource::CommandLine);
        if typed || models.is_empty() {
            models.extend(all("model"));
        }
        models.sort_by_key(|&(place, _)| place);
        Ok(Self { models: models.into_iter().map(|(_, model)| model).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ModelsArg {
    fn augment_args(command: Command) -> Command {
        let arguments = Arg::new("MODELS")
            .value_name("MODEL")
            .num_args(0..)
            .action(ArgAction::Append)
            .value_parser(value_parser!(PathBuf))
            .help("Models: .gguf files, plans, hf:org/repo[:file] or aliases (default: the built-in model)");
        let option = Arg::new("model")
            .short('m')
            .long("model")
            .value_name("MODEL")
            .action(ArgAction::Append)
            .value_parser(value_parser!(PathBuf))
            .env("BITNETC_MODEL")
            .help("A model, as an option instead of an argument (may be repeated)");
        command.arg(arguments).arg(option)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "The address is printed on standard output. Clients use the APIs of OpenAI, Anthropic, llama.cpp's\nserver or ollama; / is a chat page.\n\nExamples:\n  bitnetc serve                                    the built-in model at http://127.0.0.1:8080\n  bitnetc serve model.plan --parallel 16 -c 4096 --api-key-file keys.txt\n  bitnetc serve 2b-4t other.gguf                   several models, loaded when they are first used\n  bitnetc serve model.plan --host 0.0.0.0 --port 443 --tls-cert cert.pem --tls-key key.pem --api-key-file keys.txt\n  bitnetc -q serve model.plan --log-requests json 2> requests.log"
)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) given: Given,
    #[command(flatten)]
    pub(crate) models: ModelsArg,
    /// Names of the models in requests and answers, in their order (default: those of the files)
    #[arg(short = 'a', long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) alias: Vec<String>,
    /// Address to listen on (0.0.0.0: all addresses of this machine)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on (0: any free one)
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub(crate) port: u16,
    /// Number of texts that each model generates at a time (-1: 8)
    #[arg(long, visible_alias = "np", value_name = "N", default_value_t = PARALLEL, allow_negative_numbers = true, env = "BITNETC_PARALLEL", value_parser = parse_parallel)]
    pub(crate) parallel: Parallel,
    /// Context of each text in tokens, prompt included; not divided by --parallel (0: the model's own, or as much of it as takes 2 GiB of memory for each text)
    #[arg(short, long, value_name = "N", default_value_t = 0, env = "BITNETC_CTX_SIZE")]
    pub(crate) ctx_size: u32,
    /// Maximum tokens of an answer whose request does not say (-1: until the model ends or the context is full)
    #[arg(short = 'n', long, visible_aliases = ["n-predict", "predict"], value_name = "N", default_value_t = 2048, allow_negative_numbers = true, value_parser = value_parser!(i64).range(-1..))]
    pub(crate) max_tokens_default: i64,
    /// Maximum number of choices of a request (`n`)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=128))]
    pub(crate) max_choices: u32,
    /// Maximum time of a step while texts are being generated, in milliseconds: the longest that a prompt delays them
    #[arg(long, value_name = "MS", default_value_t = 250, value_parser = value_parser!(u32).range(1..=60_000))]
    pub(crate) max_step_ms: u32,
    /// Memory for the prefixes of earlier texts, in MiB (default: a tenth of the memory, 2048 at most; 0: none; -1: without limit)
    #[arg(long, value_name = "MIB", allow_negative_numbers = true, value_parser = parse_cache_ram)]
    pub(crate) cache_ram: Option<Mib>,
    /// Keys, one of which every request must have; other users of this machine can see command lines, but not the file or the variable
    #[arg(long, value_name = "KEYS", env = "BITNETC_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Vec<String>,
    /// Keys from a file, one per line
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Key of /metrics (default: any of the API keys, if there are any)
    #[arg(long, value_name = "KEY", env = "BITNETC_METRICS_KEY", hide_env_values = true)]
    pub(crate) metrics_key: Option<String>,
    /// Names other than localhost by which clients may reach a server that listens on the loopback and needs no key
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) allowed_hosts: Vec<String>,
    /// Origins of web pages that may use the server (*: all; default: its own page only)
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',')]
    pub(crate) cors_origins: Vec<String>,
    /// Certificate for https, followed by its chain (PEM)
    #[arg(long, visible_alias = "ssl-cert-file", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, visible_alias = "ssl-key-file", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Number of requests that may wait; more are refused (429)
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(0..=65_536))]
    pub(crate) max_queue: u32,
    /// How long a request may wait for its turn before it is refused (503), in seconds (default: without limit)
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pub(crate) queue_timeout: Option<Seconds>,
    /// Number of connections at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = value_parser!(u32).range(1..=65_536))]
    pub(crate) max_connections: u32,
    /// Size of the body of a request, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = value_parser!(u64).range(1..=4096))]
    pub(crate) max_body: u64,
    /// How long the head of a request, and its body, may take to arrive, in seconds
    #[arg(long, value_name = "S", default_value = "30", value_parser = parse_seconds)]
    pub(crate) read_timeout: Seconds,
    /// How long a client may read nothing before its request is cancelled, in seconds
    #[arg(long, value_name = "S", default_value = "60", value_parser = parse_seconds)]
    pub(crate) write_timeout: Seconds,
    /// How long running requests may continue after Ctrl-C or SIGTERM, in seconds
    #[arg(long, value_name = "S", default_value = "30", value_parser = parse_seconds)]
    pub(crate) drain_timeout: Seconds,
    /// Load all models at the start, not only the first
    #[arg(long)]
    pub(crate) preload: bool,
    /// Maximum number of models that are loaded at a time (default: limited by the available memory)
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) max_models: Option<u32>,
    /// Refuse requests that name an unknown model, even if the server has only one
    #[arg(long)]
    pub(crate) strict_model: bool,
    /// Print a line for each request on stderr, without its text
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_requests: Option<LogArg>,
    /// Print the bodies of requests too
    #[arg(long, requires = "log_requests")]
    pub(crate) log_prompts: bool,
    /// Save states of sequences to files in this directory (default: never)
    #[arg(long, value_name = "DIR")]
    pub(crate) slot_save_path: Option<PathBuf>,
    /// Sampling settings of requests that give none
    #[arg(long, value_name = "WHOSE", default_value = "bitnetc")]
    pub(crate) sampling_defaults: SamplingDefaults,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    #[command(flatten)]
    pub(crate) escapes: EscapeArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_what_llama_server_takes_it_for() {
        assert_eq!((parse_parallel("-1"), parse_parallel("4096")), (Ok(PARALLEL), Ok(Parallel(4096))));
        assert_eq!((parse_cache_ram("-1"), parse_cache_ram("0")), (Ok(Mib(u64::MAX)), Ok(Mib(0))));
        for wrong in ["-2", "0", "4097", "x", ""] {
            assert!(parse_parallel(wrong).unwrap_err().contains("from 1 to 4096"), "{wrong}");
        }
        assert!(parse_cache_ram("-2").unwrap_err().contains("-1 for no limit"));
    }

    #[test]
    fn models_are_in_the_order_of_the_command_line() {
        let models = |line: &[&str]| {
            let matches = ModelsArg::augment_args(Command::new("serve")).try_get_matches_from(line).unwrap();
            ModelsArg::from_arg_matches(&matches).unwrap().models
        };
        let expected: Vec<PathBuf> = ["a", "b", "c", "d"].map(PathBuf::from).to_vec();
        assert_eq!(models(&["serve", "a", "-m", "b", "c", "-m", "d"]), expected);
        assert_eq!(models(&["serve"]), Vec::<PathBuf>::new());
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!(parse_seconds("1.5").unwrap().0, Duration::from_millis(1500));
        assert_eq!(parse_seconds("30s").unwrap().to_string(), "30");
        for wrong in ["", "x", "-1", "0", "nan", "1e9", "inf"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
