//! How a server is set up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bitnetc::api;

use crate::log::LogFormat;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen at.
    pub host: IpAddr,
    /// The port; 0: one that the system chooses.
    pub port: u16,
    /// Who may ask.
    pub access: Access,
    /// Certificate and key; `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// How much is taken at a time, and how long is waited.
    pub limits: Limits,
    /// Models.
    pub models: Models,
    /// The request log; `None`: none.
    pub log: Option<LogFormat>,
    /// Whether the log has the bodies of requests.
    pub log_prompts: bool,
    /// The directory that states of sequences are saved to; `None`: they are not.
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

    /// Whether other machines can reach the server, and anybody on them may ask.
    pub fn is_open(&self) -> bool {
        !self.host.is_loopback() && self.access.keys.is_empty()
    }
}

/// Who may ask.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Keys of which a request has to have one; none: everybody may ask.
    pub keys: Vec<Key>,
    /// The key of the metrics; none: they need one of `keys`, as everything else does.
    pub metrics_key: Option<Key>,
    /// Names besides those of the loopback that `Host` may have, where the server asks for no key.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may ask; `*`: all.
    pub cors_origins: Vec<String>,
}

/// A key, of which only the hash is kept.
#[derive(Clone, Copy)]
pub struct Key(blake3::Hash);

impl Key {
    /// The key of this text.
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Whether it is `other`, in a time that does not depend on how much of it is right.
    pub(crate) fn is(&self, other: &Self) -> bool {
        // Comparing hashes of blake3 takes the same time whatever they are.
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
    /// The certificate and those that vouch for it, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// How much is taken at a time, and how long is waited.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Bytes of the body of a request.
    pub body: usize,
    /// Until the head of a request, or its body, has arrived.
    pub read_timeout: Duration,
    /// Until a client that reads nothing is given up.
    pub write_timeout: Duration,
    /// Texts that wait for a sequence.
    pub queue: usize,
    /// How long a request waits for one; `None`: as long as it takes.
    pub queue_timeout: Option<Duration>,
    /// How long a request waits for its model to be loaded.
    pub load_timeout: Duration,
    /// Until running texts are ended, once the server is asked to end.
    pub drain_timeout: Duration,
    /// Silence of a stream after which a comment shows that it is alive.
    pub ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            body: 16 << 20,
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

/// How models are run.
#[derive(Clone, Debug)]
pub struct Models {
    /// Texts that are made at the same time, by each model.
    pub parallel: u32,
    /// Tokens that a text has room for; `None`: the model's own context, as far as its memory is bounded.
    pub context: Option<u32>,
    /// Threads that compute.
    pub threads: u32,
    /// Time of a step while anyone decodes.
    pub max_step: Duration,
    /// Bytes of prefixes that are kept beside the sequences; `None`: 2 GiB, or a tenth of the memory where that is less.
    pub cache_ram: Option<u64>,
    /// Models that are loaded at the same time; `None`: as many as there is memory for.
    pub most: Option<usize>,
    /// Whether all are loaded at the start, and not only the first.
    pub preload: bool,
    /// Whether a request that names a model which there is not is refused, also where there is one only.
    pub strict: bool,
    /// What a request asks for where it says nothing.
    pub defaults: api::Defaults,
    /// What a request may ask for.
    pub limits: api::Limits,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            parallel: 8,
            context: None,
            threads: 1,
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
