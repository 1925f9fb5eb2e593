//! The HTTP server of bitnetc: the APIs that programs speak, for the models of the engine.
//!
//! ```text
//! connection ─▶ app: id, gate, log ─▶ routes ─▶ text: body, model, place in the queue ─▶ api::accept ─▶ Engine::submit_with
//!                                                                                              Reply ◀─ Event ◀─┘
//! ```
//!
//! What requests mean and what answers look like is the library's [`bitnetc::api`]; here is what HTTP adds: connections and their
//! limits ([`Limits`]), keys and origins ([`Access`]), a bounded queue, streams, models that are loaded when they are asked for,
//! metrics, the request log, an end in order ([`Shutdown`]). Decisions: `docs/adr/0031-wire-policy.md`.
//!
//! Invariants: the threads of the runtime never wait for a model, a file or a form; the engine never waits for a socket; a client
//! that leaves takes its texts with it, whatever they were doing; what can never succeed is not answered with a status that makes
//! clients try again.
#![forbid(unsafe_code)]

mod access;
mod admission;
mod app;
mod bodies;
mod connection;
mod failure;
mod io;
mod lines;
mod log;
mod metrics;
mod options;
pub mod page;
mod places;
mod registry;
mod routes;
mod server;
mod shutdown;
mod slots;
mod text;
mod tls;
mod utilities;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use log::LogFormat;
pub use metrics::metric_names;
pub use options::{Access, Key, Limits, Models, Options, TlsFiles};
pub use registry::ModelSource;
pub use server::Server;
pub use shutdown::Shutdown;

/// Where remarks go, and lines of the request log.
pub type Note = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody listens there already.
    #[error("cannot listen at {address}: the address is already in use")]
    InUse {
        /// Where.
        address: SocketAddr,
    },
    /// The system refused.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Its reason.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use {path:?} for TLS: {why}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Threads cannot be started.
    #[error("cannot start the threads of the server: {0}")]
    Threads(#[source] std::io::Error),
    /// A model that must be loaded from the start cannot.
    #[error("cannot load {name}: {why}")]
    Model {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// There is nothing to serve.
    #[error("no model is given")]
    NoModel,
    /// Two models have one name.
    #[error("two models are named {name}: give one of them another name")]
    SameName {
        /// The name.
        name: String,
    },
}
