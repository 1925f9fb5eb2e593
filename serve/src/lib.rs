//! The HTTP server of bitnetc: the common APIs for language models, on top of the engine.
//!
//! ```text
//! connection ─▶ app: id, gate, log ─▶ routes ─▶ text: body, model, place in the queue ─▶ api::accept ─▶ Engine::submit_with
//!                                                                                              Reply ◀─ Event ◀─┘
//! ```
//!
//! [`bitnetc::api`] defines requests and answers. This crate adds HTTP: connections and their limits ([`Limits`]), keys and origins
//! ([`Access`]), a bounded queue, streams, models that are loaded on first use, metrics, the request log and a graceful shutdown
//! ([`Shutdown`]). `docs/adr/0031-wire-policy.md` has the decisions.
//!
//! Invariants: the threads of the runtime never wait for a model, a file or a grammar; the engine never waits for a socket; if a
//! client disconnects, its texts are cancelled, whatever their state; a request that can never succeed is not answered with a status
//! that makes clients repeat it.
#![forbid(unsafe_code)]

mod access;
mod admission;
mod app;
mod bodies;
mod body;
mod connection;
mod failure;
mod guarded;
mod heads;
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

/// A sink for notes, or for lines of the request log.
pub type Note = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is in use.
    #[error("cannot listen at {address}: the address is already in use")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system does not let the server listen.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use {path:?} for TLS: {why}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        why: String,
    },
    /// Threads cannot be started.
    #[error("cannot start the threads of the server: {0}")]
    Threads(#[source] std::io::Error),
    /// A model that must be loaded at the start cannot be loaded.
    #[error("cannot load {name}: {why}")]
    Model {
        /// Its name.
        name: String,
        /// Why it cannot be loaded.
        why: String,
    },
    /// There is no model to serve.
    #[error("no model is given")]
    NoModel,
    /// Two models have the same name.
    #[error("two models are named {name}: give one of them another name")]
    SameName {
        /// The name.
        name: String,
    },
}
