//! `bitnetc bench serve`: a server under load.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bitnetc::store::missing_for_tls;
use bitnetc_tools::bench::machine::{Build, Machine};
use bitnetc_tools::bench::report as bench_report;
use bitnetc_tools::bench::table::TableStyle;
use bitnetc_tools::load::{
    Arrivals, BurstOptions, Length, LoadError, Mix, Probe, Target, Test, burst, report, run as measure,
};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::build::host;
use super::failure::Failure;
use super::model_arg::ModelArg;
use super::{Outcome, interrupt, invocation, output, progress};
use crate::exit;

/// Longest address of a server.
const MAX_ADDRESS: u64 = 4096;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadFormat {
    /// Columns for a terminal
    Table,
    /// A Markdown table
    Md,
    /// Comma-separated values
    Csv,
    /// One JSON object
    Json,
}

/// Lengths that are known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MixArg {
    /// Lengths that resemble those of the ShareGPT conversations
    Sharegpt,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Lengths are a number, a range such as 64..512, or a median and a spread such as 200~0.8 (log-normal).\n\nExamples:\n  bitnetc bench serve                                          the built-in model, 1, 4 and 8 clients\n  bitnetc bench serve model.plan --clients 1,8,32 --mix sharegpt -- --parallel 32\n  bitnetc bench serve --url http://127.0.0.1:8080 --rate 0.5,1,2 --json\n  bitnetc bench serve --url http://127.0.0.1:8080 --clients 8 --prompt-burst 4096 --output-tokens 1024"
)]
pub(crate) struct BenchServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Measure the server at this address instead of starting one
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The model to ask for, where the server has several (default: the first that it lists)
    #[arg(long, value_name = "ID")]
    pub(crate) model_id: Option<String>,
    /// Clients, each of which asks again as soon as it has an answer
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,4,8", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) clients: Vec<u32>,
    /// Requests per second at random times (Poisson), instead of clients
    #[arg(long, value_name = "RATE", value_delimiter = ',', value_parser = parse_rate)]
    pub(crate) rate: Vec<f64>,
    /// Requests of each test (default: 4 per client, 32 with --rate)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) requests: Option<u32>,
    /// Tokens of a prompt
    #[arg(long, value_name = "LENGTH", default_value = "128", conflicts_with = "mix", value_parser = parse_length)]
    pub(crate) prompt_tokens: Length,
    /// Tokens to generate for each prompt
    #[arg(long, value_name = "LENGTH", default_value = "64", conflicts_with = "mix", value_parser = parse_length)]
    pub(crate) output_tokens: Length,
    /// Lengths by name
    #[arg(long, value_name = "NAME")]
    pub(crate) mix: Option<MixArg>,
    /// Tokens at the beginning of every prompt that all prompts share
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) shared_prefix: u32,
    /// Measure what a prompt of N tokens does to the streams of the first number of --clients, and they to it
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "4096", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) prompt_burst: Option<u32>,
    /// Repetitions of --prompt-burst
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repetitions: u32,
    /// Temperature of sampling
    #[arg(long = "temp", value_name = "T", default_value_t = 0.0, value_parser = parse_temperature)]
    pub(crate) temperature: f64,
    /// Seed of lengths, prompts, times and answers
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Key of the server's API
    #[arg(long, value_name = "KEY", env = "BITNETC_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Longest silence of the server, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Output format (default: `table` on a terminal, `md` otherwise)
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<LoadFormat>,
    /// Print one JSON object: the same as `-o json`
    #[arg(long, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Options of the server that is started
    #[arg(last = true, value_name = "OPTIONS", conflicts_with = "url")]
    pub(crate) server_options: Vec<String>,
}

fn parse_length(text: &str) -> Result<Length, String> {
    text.parse()
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.trim().parse().ok().filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.ok_or_else(|| "expected a number of requests per second from 0.001 to 10000".to_owned())
}

fn parse_temperature(text: &str) -> Result<f64, String> {
    let temperature = text.trim().parse().ok().filter(|t| (0.0..=100.0).contains(t));
    temperature.ok_or_else(|| "expected a number from 0 to 100".to_owned())
}

impl BenchServeArgs {
    fn format(&self) -> LoadFormat {
        match (self.json, self.output) {
            (true, _) => LoadFormat::Json,
            (false, Some(format)) => format,
            (false, None) => match output::table_style() {
                TableStyle::Aligned => LoadFormat::Table,
                TableStyle::Markdown => LoadFormat::Md,
            },
        }
    }

    fn test(&self, arrivals: Arrivals) -> Test {
        let requests = match arrivals {
            Arrivals::Closed(clients) => clients.saturating_mul(4),
            Arrivals::Poisson(_) => 32,
        };
        let mix = match self.mix {
            Some(MixArg::Sharegpt) => Mix::SHARE_GPT,
            None => Mix { prompt: self.prompt_tokens, answer: self.output_tokens },
        };
        Test {
            arrivals,
            requests: self.requests.unwrap_or(requests),
            mix,
            shared_prefix: self.shared_prefix,
            temperature: self.temperature,
            seed: self.seed,
            model: self.model_id.clone(),
        }
    }

    fn tests(&self) -> Vec<Test> {
        match &self.rate[..] {
            [] => self.clients.iter().map(|&n| self.test(Arrivals::Closed(n))).collect(),
            rates => rates.iter().map(|&rate| self.test(Arrivals::Poisson(rate))).collect(),
        }
    }
}

fn style(format: LoadFormat) -> Option<TableStyle> {
    match format {
        LoadFormat::Table => Some(TableStyle::Aligned),
        LoadFormat::Md => Some(TableStyle::Markdown),
        LoadFormat::Csv | LoadFormat::Json => None,
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let code = match error {
            LoadError::Address { .. } => exit::USAGE,
            LoadError::Interrupted => exit::INTERRUPTED,
            _ => exit::FAILURE,
        };
        Failure::new(code, error)
    }
}

/// A server that was started for a measurement, and ends with it.
#[derive(Debug)]
struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts `bitnetc serve` and waits until it answers.
    fn start(args: &BenchServeArgs, quiet: bool) -> Result<Self, Failure> {
        let failed = |what: String| Failure::new(exit::FAILURE, what);
        let mut command =
            invocation::again().map_err(|e| failed(format!("cannot find this program: {e}")))?;
        command.args(["--quiet", "serve", "--port", "0"]);
        if let Some(key) = args.api_key.as_ref().filter(|key| !key.is_empty()) {
            command.env("BITNETC_API_KEY", key);
        }
        if let Some(model) = args.model.name()? {
            command.arg(model);
        }
        // What goes wrong the server says itself.
        command.args(&args.server_options).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|e| failed(format!("cannot start the server: {e}")))?;
        let mut server = Self { child, url: String::new() };
        if let Some(stdout) = server.child.stdout.take() {
            let line = BufReader::new(stdout.take(MAX_ADDRESS)).lines().next();
            server.url = line.and_then(Result::ok).unwrap_or_default().trim().to_owned();
        }
        if interrupt::requested() {
            return Err(LoadError::Interrupted.into());
        }
        if server.url.is_empty() {
            return Err(failed("the server did not start".to_owned()));
        }
        output::say(quiet, format_args!("started a server at {}", server.url));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the server has loaded its model.
fn wait_until_ready(target: &Target) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match target.ask(Probe::Health) {
            Err(LoadError::Refused { status: 503, .. }) if begun.elapsed() < Duration::from_secs(600) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return Ok(result?),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &BenchServeArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    if args.url.is_some() && args.model.is_given() {
        let message = "both a model and --url are given: a server at an address has its model already";
        return Err(Failure::new(exit::USAGE, message));
    }
    let server = match args.url {
        Some(_) => None,
        None => Some(Server::start(args, quiet)?),
    };
    let url = args.url.as_deref().or(server.as_ref().map(|s| s.url.as_str())).unwrap_or_default();
    if let Some(feature) = missing_for_tls().filter(|_| url.starts_with("https:")) {
        return Err(Failure::new(
            exit::FAILURE,
            format!("https needs a CPU with {feature}: measure the server from another machine"),
        ));
    }
    let timeout = Duration::from_secs(args.timeout);
    let target = Target::new(url, args.api_key.clone(), timeout, (|| !interrupt::requested()).into())?;
    if server.is_some() {
        progress::working("loading", quiet, || wait_until_ready(&target))?;
    }
    let report = Report { format: args.format(), machine: Machine::describe(&host()?), build: Build::this() };
    match args.prompt_burst {
        Some(tokens) => report.burst(args, &target, url, tokens, quiet),
        None => report.tests(args, &target, url, quiet),
    }
}

/// How results are written, and where they were measured.
struct Report {
    format: LoadFormat,
    machine: Machine,
    build: Build,
}

impl Report {
    fn document(&self, url: &str, model: &str, tests: &[Value], burst: &Value) -> Result<(), Failure> {
        let (machine, build) = bench_report::json_head(&self.machine, &self.build);
        output::print_json(&json!({
            "schema": "bitnetc.bench-serve/1",
            "machine": machine,
            "build": build,
            "url": url,
            "model": model,
            "tests": tests,
            "burst": burst,
        }))
    }

    fn head(&self, url: &str) -> String {
        format!("{url}; client: {}", bench_report::machine_line(&self.machine, &self.build))
    }

    fn tests(&self, args: &BenchServeArgs, target: &Target, url: &str, quiet: bool) -> Outcome {
        let (mut documents, mut model, mut interrupted) = (Vec::new(), String::new(), false);
        let (mut has_head, mut answered) = (false, 0);
        for test in args.tests() {
            let bar = progress::bar("requests", u64::from(test.requests), quiet);
            let result = measure(target, &test, &mut |done| bar.set_position(done as u64));
            bar.finish_and_clear();
            let outcome = match result {
                Err(LoadError::Interrupted) => {
                    interrupted = true;
                    break;
                }
                result => result?,
            };
            interrupted = outcome.interrupted;
            answered += outcome.answers().count();
            // Nothing is printed where nothing could be measured.
            if !std::mem::replace(&mut has_head, true) {
                match (self.format, style(self.format)) {
                    (_, Some(style)) => output::print(&(self.head(url) + "\n" + &report::head(style)))?,
                    (LoadFormat::Csv, _) => output::print(report::CSV_HEAD)?,
                    _ => {}
                }
            }
            match (self.format, style(self.format)) {
                (_, Some(style)) => output::print(&report::row(style, &outcome))?,
                (LoadFormat::Csv, _) => output::print(&report::csv_row(&outcome))?,
                _ => documents.push(report::json_test(&outcome)),
            }
            if let Some((status, message)) = outcome.first_refusal() {
                output::say(
                    quiet,
                    format_args!("warning: requests were refused, the first with status {status}: {message}"),
                );
            }
            if let Some(why) = outcome.failures().next() {
                output::say(quiet, format_args!("warning: requests failed, the first because of: {why}"));
            }
            model = outcome.model;
            if interrupted {
                break;
            }
        }
        if self.format == LoadFormat::Json {
            self.document(url, &model, &documents, &Value::Null)?;
        }
        match (interrupted, answered) {
            (true, _) => Ok(exit::INTERRUPTED),
            (false, 0) => Err(Failure::new(exit::FAILURE, format!("{url} answered no request"))),
            (false, _) => Ok(exit::OK),
        }
    }

    fn burst(&self, args: &BenchServeArgs, target: &Target, url: &str, tokens: u32, quiet: bool) -> Outcome {
        let streams = args.clients.first().copied().unwrap_or(1);
        let options = BurstOptions { streams, prompt_tokens: tokens, repetitions: args.repetitions };
        let test = args.test(Arrivals::Closed(streams));
        let found = progress::working("measuring", quiet, || burst(target, &test, options))?;
        match style(self.format) {
            Some(style) => output::print(&(self.head(url) + "\n" + &found.tables(style)))?,
            None => self.document(url, &found.model, &[], &found.json())?,
        }
        Ok(if found.interrupted { exit::INTERRUPTED } else { exit::OK })
    }
}
