//! The configuration of a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bitnetc::api;

use crate::log::LogFormat;

/// The configuration of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen at.
    pub host: IpAddr,
    /// The port (0: any free one).
    pub port: u16,
    /// Access control.
    pub access: Access,
    /// Certificate and key; `None` means plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Bounds on sizes, numbers and times.
    pub limits: Limits,
    /// How models are loaded and run.
    pub models: Models,
    /// The form of the request log; `None` means no log.
    pub log: Option<LogFormat>,
    /// Whether the log contains the bodies of requests.
    pub log_prompts: bool,
    /// The directory for saved states of sequences; `None` disables saving.
    pub slot_save_path: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            access: Access::default(),
            tls: None,
            limits: Limits::default(),
            models: Models::default(),
            log: None,
            log_prompts: false,
            slot_save_path: None,
        }
    }
}

impl Options {
    /// The address to listen at.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Whether other machines can reach the server and use it without a key.
    pub fn is_open(&self) -> bool {
        !self.host.is_loopback() && self.access.keys.is_empty()
    }
}

/// Access control.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Each request must have one of these keys. If the list is empty, no key is needed.
    pub keys: Vec<Key>,
    /// The key for the metrics. `None`: the metrics need one of `keys`, like all other paths.
    pub metrics_key: Option<Key>,
    /// Host names, with or without a port, that `Host` may have in addition to those of the loopback if the server needs no key.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use the server (`*`: all).
    pub cors_origins: Vec<String>,
}

/// A key. Only its hash is stored.
#[derive(Clone, Copy)]
pub struct Key(blake3::Hash);

impl Key {
    /// The key of this text.
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Whether it equals `other`, in a time that does not depend on the number of matching bytes.
    pub(crate) fn is(&self, other: &Self) -> bool {
        // `blake3::Hash` compares in constant time.
        self.0 == other.0
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The files of TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, followed by its chain (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// Bounds on sizes, numbers and times.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of open connections.
    pub connections: usize,
    /// The maximum size of the body of a request, in bytes.
    pub body: usize,
    /// The maximum memory for all bodies that have arrived, and again for all that are being parsed, at 16 bytes per byte of JSON. At
    /// least `body` is used.
    pub bodies: usize,
    /// The maximum time in which the head of a request must arrive, and again its body.
    pub read_timeout: Duration,
    /// The maximum time in which a client reads nothing before its connection is closed.
    pub write_timeout: Duration,
    /// The maximum number of texts that wait for a sequence.
    pub queue: usize,
    /// The maximum time that a request waits for a sequence; `None` means no limit.
    pub queue_timeout: Option<Duration>,
    /// The maximum time that a request waits for its model to be loaded.
    pub load_timeout: Duration,
    /// How long running requests may continue after the shutdown has begun.
    pub drain_timeout: Duration,
    /// How long a stream may send nothing before a comment keeps it open.
    pub ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            body: 16 << 20,
            bodies: 256 << 20,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            queue: 64,
            queue_timeout: None,
            load_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            ping: Duration::from_secs(10),
        }
    }
}

/// How models are loaded and run.
#[derive(Clone, Debug)]
pub struct Models {
    /// The number of texts that each model generates at a time.
    pub parallel: u32,
    /// The context of each text in tokens; `None` means the model's own, limited by the memory of its KV cache.
    pub context: Option<u32>,
    /// The number of threads that compute.
    pub threads: u32,
    /// The measured read bandwidth of these threads in bytes per second, with which a metric compares steps; `None` if it was not
    /// measured.
    pub bandwidth: Option<f64>,
    /// The maximum time of a step while texts are being generated.
    pub max_step: Duration,
    /// The maximum memory for prefixes that are stored outside of the sequences, in bytes; `None` means a tenth of the memory, at most
    /// 2 GiB.
    pub cache_ram: Option<u64>,
    /// The maximum number of models that are loaded at the same time; `None` means limited by the available memory.
    pub most: Option<usize>,
    /// Whether all models are loaded at the start, not only the first.
    pub preload: bool,
    /// Whether a request that names an unknown model is refused even if the server has only one model.
    pub strict: bool,
    /// The defaults of fields that a request does not set.
    pub defaults: api::Defaults,
    /// Bounds on the fields of a request.
    pub limits: api::Limits,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            parallel: 8,
            context: None,
            threads: 1,
            bandwidth: None,
            max_step: Duration::from_millis(250),
            cache_ram: None,
            most: None,
            preload: false,
            strict: false,
            defaults: api::Defaults::default(),
            limits: api::Limits::default(),
        }
    }
}
