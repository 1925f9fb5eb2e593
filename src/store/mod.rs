//! Models by name: the Hugging Face Hub, its cache on this machine, and the cache of compiled plans.
//!
//! A model is named by a path, by `hf:org/repo[@revision][:file]`, or by an alias of such a name ([`ModelRef`]). Files of the Hub
//! live in the cache that all its tools share (`HubCache`: `models--org--repo` with `blobs`, `refs` and `snapshots`), fetched by
//! `Hub` in one connection that goes on where an earlier one broke, and checked against the hash that the Hub states. What
//! they compile to lives in a cache of our own ([`PlanCache`]).
//!
//! `Hub`, its cache and `open` are the feature `hub`; without it, a name of the Hub is refused ([`StoreError::NoHub`]) and no
//! code that reaches the network is linked.
//!
//! Invariants: a name from outside never leads to a path outside of the caches; a blob has its name only when it is complete
//! and its hash is right; a token is sent to the Hub's own host only, and never in the clear; nothing goes out when
//! offline.

#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_cache;
#[cfg(feature = "hub")]
mod open;
mod plan_cache;
mod reference;
mod settings;

use std::path::PathBuf;

#[cfg(feature = "hub")]
pub use download::Progress;
#[cfg(feature = "hub")]
pub use http::missing_for_tls;
#[cfg(feature = "hub")]
pub use hub::{Hub, Pulled};
#[cfg(feature = "hub")]
pub use hub_cache::{CachedFile, HubCache};
#[cfg(feature = "hub")]
pub use open::{Opening, open, open_from_env};
pub use plan_cache::{CachedPlan, PlanCache, Used};
pub use reference::{ALIASES, HubRef, ModelRef, RepoId, is_alias};
pub use settings::{HubSettings, cache_home, config_home};

/// What can go wrong with models by name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A name that is none.
    #[error(
        "invalid model name `{name}`: {why}; expected hf:org/repo, hf:org/repo:file.gguf or hf:org/repo@revision:file.gguf"
    )]
    Name {
        /// As given, printable.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name of the Hub, in a build without it.
    #[error(
        "{name} is a model of the Hugging Face Hub, but this program was built without the feature `hub`: download the file with another tool and use its path"
    )]
    NoHub {
        /// As given.
        name: String,
    },
    /// Neither a home directory nor a cache directory is known.
    #[error("no directory for {what}: set {variable}")]
    NoHome {
        /// What it is for.
        what: &'static str,
        /// The environment variable that says it.
        variable: &'static str,
    },
    /// The system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A thread that waits for a server could not be started.
    #[error("cannot start a thread for the network: {0}")]
    Thread(#[source] std::io::Error),
    /// A file is larger than the disk has room for.
    #[error("{} needs {needed} bytes more and {} has {free} free: make room, or set HF_HUB_CACHE to another disk", printable(file), path.display())]
    NoRoom {
        /// Where it was to be.
        path: PathBuf,
        /// Its name in the repository.
        file: String,
        /// Bytes that are missing.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A link where the cache has folders and files of its own.
    #[error("{} is a link: nothing is written or removed through links; use a real folder there, or set HF_HUB_CACHE", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// Something has to be fetched, and nothing may be.
    #[error("{what} is not in {}, and downloads are disabled (offline)", cache.display())]
    Offline {
        /// What is missing.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// This CPU lacks instructions that the TLS library is made of.
    #[error(
        "https needs a CPU with {needed}: fetch the file with another tool into the Hugging Face cache, or give HF_ENDPOINT an http mirror"
    )]
    NoTls {
        /// The features.
        needed: &'static str,
    },
    /// There is no trustworthy connection to the server.
    #[error(
        "{url}: https failed: {why}; check the system's certificates (SSL_CERT_FILE, SSL_CERT_DIR) and its clock"
    )]
    Tls {
        /// What was asked for.
        url: String,
        /// What the TLS library says.
        why: String,
    },
    /// This machine has no way to the server.
    #[error("{url}: cannot reach the server: {why}; check the network, or give the path of a model file")]
    NoNetwork {
        /// What was asked for.
        url: String,
        /// What the system says.
        why: String,
    },
    /// The server could not be reached, again and again.
    #[error("{url}: {why} (tried {attempts} times); received data is kept: the next attempt resumes there")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened the last time.
        why: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server refused.
    #[error("{url}: {status}: {advice}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What that means here.
        advice: &'static str,
    },
    /// An answer that the Hub would not give.
    #[error("{url}: unexpected answer for the Hugging Face Hub: {why}; check HF_ENDPOINT")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes are not those that the server announced.
    #[error(
        "{url}: the file's {algorithm} is {found}, not {expected}: it was damaged in transit and has been removed; try again"
    )]
    Checksum {
        /// The file.
        url: String,
        /// Which hash.
        algorithm: &'static str,
        /// What the server says.
        expected: String,
        /// What arrived.
        found: String,
    },
    /// A repository without a file that is asked for.
    #[error("{repo} has no {what}; its files: {files}")]
    NoFile {
        /// The repository.
        repo: String,
        /// What was looked for.
        what: String,
        /// What there is, shortened.
        files: String,
    },
    /// A repository with several models.
    #[error("{repo} has several models: give one of {}", files.join(", "))]
    Ambiguous {
        /// The repository.
        repo: String,
        /// Names that can be given.
        files: Vec<String>,
    },
    /// Another process is fetching the file.
    #[error("{} is being fetched by another process: wait for it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Something that is not in the cache was to be removed or named.
    #[error("{what} is not in {}", cache.display())]
    NotCached {
        /// What was asked for.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The caller has stopped the work.
    #[error("interrupted; received data is kept: the next attempt resumes there")]
    Interrupted,
    /// A file of the cache could not be written.
    #[error(transparent)]
    File(#[from] bitnetc_runtime::whole_file::WholeFileError),
}

fn io_error(operation: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { operation, path, source }
}

/// A text from outside for messages: without control characters, and not longer than a line.
fn printable(text: &str) -> String {
    let shown: String = text.chars().take(200).collect();
    shown.escape_debug().to_string()
}
