//! `bitnetc serve`: models over HTTP.

mod args;
mod sources;

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use bitnetc_serve::{Access, Key, Limits, LogFormat, Models, Note, Options, ServeError, Server, TlsFiles};

pub(crate) use self::args::ServeArgs;
use self::args::{LogArg, SamplingDefaults};
use self::sources::Sources;
use super::failure::Failure;
use super::generate::LengthArgs;
use super::{Outcome, build, input_file, interrupt, output, speeds};
use crate::exit;

/// Runs the command.
pub(crate) fn run(args: &ServeArgs, quiet: bool) -> Outcome {
    let options = args.options()?;
    let sources = Sources::of(args, quiet)?;
    let note: Note = Arc::new(move |text: &str| output::say(quiet, text));
    let log: Note = Arc::new(|line: &str| output::say(false, line));
    warn_of(&options, quiet);
    let server = Server::bind(options, sources.models, note, log).map_err(Failure::from)?;
    let shutdown = server.shutdown();
    interrupt::drain_with(move || shutdown.drain());
    let (url, shown, drain) = (server.url(), sources.names.join(", "), args.drain_timeout);
    let result = server.run(|| {
        output::say(quiet, format!("serving {shown} at {url} (Ctrl-C ends it, after at most {drain} s)"));
        // On a terminal the line above has it.
        if quiet || !std::io::stdout().is_terminal() || !std::io::stderr().is_terminal() {
            // A reader that has closed standard output has the address on standard error.
            drop(output::print(&format!("{url}\n")));
        }
    });
    interrupt::abandon();
    match result {
        Ok(()) => Ok(exit::OK),
        // Said with its hint, as any command says it.
        Err(ServeError::Model { .. }) if sources.failure.is_set() => Err(sources.failure.take()),
        Err(error) => Err(error.into()),
    }
}

/// Says what everybody who reaches the server may do.
fn warn_of(options: &Options, quiet: bool) {
    if options.is_open() {
        let host = options.host;
        output::say(
            quiet,
            format!(
                "warning: the server accepts connections at {} without a key: --api-key-file FILE asks for one",
                if host.is_unspecified() {
                    "all addresses of this machine".to_owned()
                } else {
                    host.to_string()
                }
            ),
        );
    }
    if options.access.cors_origins.iter().any(|origin| origin == "*") && options.access.keys.is_empty() {
        let message = "warning: every web page that is opened on a machine which reaches this server may use it: name \
                       the origins in --cors-origins";
        output::say(quiet, message);
    }
}

/// The keys that `source` gives, separated by commas.
fn keys_of(source: &str, given: &[String]) -> Result<Vec<Key>, Failure> {
    let all: Vec<&str> = given.iter().flat_map(|keys| keys.split(',')).map(str::trim).collect();
    match all.iter().any(|key| key.is_empty()) {
        true => {
            let hint = format!("without {source}, the server asks for no key");
            Err(Failure::with_hint(exit::USAGE, format!("{source}: a key is empty"), Some(hint)))
        }
        false => Ok(all.into_iter().map(Key::new).collect()),
    }
}

/// The keys of a file, one per line.
fn keys_in(file: &Path) -> Result<Vec<Key>, Failure> {
    let text = input_file::text(file)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<Key> = lines.map(Key::new).collect();
    match keys.is_empty() {
        true => Err(Failure::new(exit::USAGE, format!("--api-key-file: {file:?} has no key"))),
        false => Ok(keys),
    }
}

/// An origin as browsers send it, or `*`.
fn check_origin(origin: &str) -> Result<(), Failure> {
    // Pages of extensions and of desktop programs have schemes of their own.
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
    };
    let is_origin =
        |(scheme, rest): (&str, &str)| is_scheme(scheme) && !rest.is_empty() && !rest.contains('/');
    match origin == "*" || origin.split_once("://").is_some_and(is_origin) {
        true => Ok(()),
        false => {
            let message =
                format!("--cors-origins: expected an origin such as https://app.example, not {origin:?}");
            Err(Failure::new(exit::USAGE, message))
        }
    }
}

/// The name of a host.
fn check_host(name: &str) -> Result<(), Failure> {
    match name.is_empty() || name.contains('/') {
        true => {
            let message = format!("--allowed-hosts: expected a name such as llm.example, not {name:?}");
            Err(Failure::new(exit::USAGE, message))
        }
        false => Ok(()),
    }
}

impl ServeArgs {
    fn options(&self) -> Result<Options, Failure> {
        if let Some(folder) = self.slot_save_path.as_ref().filter(|folder| !folder.is_dir()) {
            let message = format!("--slot-save-path: {} is not a directory", folder.display());
            return Err(Failure::new(exit::USAGE, message));
        }
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(TlsFiles { certificate: certificate.clone(), key: key.clone() })
            }
            _ => None,
        };
        Ok(Options {
            host: self.host()?,
            port: self.port,
            access: self.access()?,
            tls,
            limits: self.limits(),
            models: self.models()?,
            log: self.log_requests.map(|format| match format {
                LogArg::Text => LogFormat::Text,
                LogArg::Json => LogFormat::Json,
            }),
            log_prompts: self.log_prompts,
            slot_save_path: self.slot_save_path.clone(),
        })
    }

    fn access(&self) -> Result<Access, Failure> {
        self.cors_origins.iter().try_for_each(|origin| check_origin(origin))?;
        self.allowed_hosts.iter().try_for_each(|name| check_host(name))?;
        let mut keys = keys_of(self.source("api_key", "--api-key", "BITNETC_API_KEY"), &self.api_key)?;
        if let Some(file) = &self.api_key_file {
            keys.extend(keys_in(file)?);
        }
        let metrics_source = self.source("metrics_key", "--metrics-key", "BITNETC_METRICS_KEY");
        Ok(Access {
            keys,
            metrics_key: keys_of(metrics_source, self.metrics_key.as_slice())?.pop(),
            allowed_hosts: self.allowed_hosts.clone(),
            cors_origins: self.cors_origins.clone(),
        })
    }

    /// Where the values of an option are from.
    fn source(&self, id: &str, option: &'static str, variable: &'static str) -> &'static str {
        let is_set = std::env::var_os(variable).is_some();
        if !self.given.has(id) && is_set { variable } else { option }
    }

    fn host(&self) -> Result<IpAddr, Failure> {
        let bare = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host);
        match bare {
            "localhost" => Ok(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
            address => address.parse().map_err(|_| {
                let message = format!(
                    "--host: {} is not an address of this machine: expected 127.0.0.1, 0.0.0.0, ::1 or the like",
                    self.host
                );
                Failure::new(exit::USAGE, message)
            }),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections as usize,
            body: usize::try_from(self.max_body.saturating_mul(1 << 20)).unwrap_or(usize::MAX),
            read_timeout: self.read_timeout.0,
            write_timeout: self.write_timeout.0,
            queue: self.max_queue as usize,
            queue_timeout: self.queue_timeout.map(|time| time.0),
            drain_timeout: self.drain_timeout.0,
            ..Limits::default()
        }
    }

    fn models(&self) -> Result<Models, Failure> {
        let (mut params, random_seed) = self.sampling.params()?;
        if self.sampling_defaults == SamplingDefaults::Openai {
            self.as_openai(&mut params);
        }
        let length =
            LengthArgs { n_predict: self.max_tokens_default, ctx_size: self.ctx_size, ignore_eos: false };
        let limits = bitnetc::api::Limits { choices: self.max_choices as usize, ..Default::default() };
        Ok(Models {
            parallel: self.parallel.0,
            context: (self.ctx_size > 0).then_some(self.ctx_size),
            threads: self.engine.build.threads(),
            bandwidth: self.bandwidth()?,
            max_step: std::time::Duration::from_millis(u64::from(self.max_step_ms)),
            cache_ram: self.cache_ram.map(|mib| mib.0.saturating_mul(1 << 20)),
            most: self.max_models.map(|most| most as usize),
            preload: self.preload,
            strict: self.strict_model,
            defaults: bitnetc::api::Defaults {
                seed: (!random_seed).then_some(params.seed),
                params,
                options: self.sampling.options(&length, self.escapes)?,
                form: None,
            },
            limits,
        })
    }

    /// Bytes per second that the threads read from memory: what `--speeds measured` measures, or has measured before.
    fn bandwidth(&self) -> Result<Option<f64>, Failure> {
        let build = &self.engine.build;
        let mut target = build::target("native", &build.cpu_features)?;
        target.threads = build.threads();
        let speeds = speeds::known(build.speeds, &target)?;
        Ok(speeds.map(|speeds| f64::from(speeds.read_all_mb_s) * 1e6))
    }

    /// OpenAI's defaults, but for what the command line says.
    fn as_openai(&self, params: &mut bitnetc_runtime::sampling::SamplingParams) {
        if !self.given.has("temp") {
            params.temperature = 1.0;
        }
        if !self.given.has("top_p") {
            params.top_p = 1.0;
        }
        if !self.given.has("top_k") {
            params.top_k = 0;
        }
        if !self.given.has("min_p") {
            params.min_p = 0.0;
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let hint = match &error {
            ServeError::InUse { address } => Some(format!(
                "another port: --port {}; any free one: --port 0",
                address.port().wrapping_add(1).max(1024)
            )),
            ServeError::Listen { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 are for the system: use --port 8080".to_owned())
            }
            ServeError::Listen { .. } => {
                Some("--host takes an address of this machine, or 0.0.0.0 for all of them".to_owned())
            }
            ServeError::SameName { .. } => {
                Some("--alias NAME,NAME names the models in their order".to_owned())
            }
            ServeError::Tls { .. } => Some("--tls-cert and --tls-key take files in PEM".to_owned()),
            _ => None,
        };
        let code = match &error {
            ServeError::SameName { .. } | ServeError::NoModel => exit::USAGE,
            ServeError::Model { .. } => exit::MODEL,
            _ => exit::FAILURE,
        };
        Self::with_hint(code, &error, hint)
    }
}
