//! Load generator for servers that speak the API of OpenAI: how long requests take when several clients ask at once.
//!
//! A [`Test`] is a number of requests with random prompts to `/v1/completions`, streamed, either from clients that each ask again as soon as
//! they have an answer ([`Arrivals::Closed`]) or at random times with a given rate ([`Arrivals::Poisson`]). [`run`] measures it;
//! [`burst()`] measures what a long prompt does to streams that are under way.
//!
//! | module | job |
//! |---|---|
//! | `http` | HTTP/1.1 over a socket, with deadlines |
//! | `socket` | the socket, with TLS for https |
//! | `stream` | events of a stream |
//! | `lengths` | lengths of prompts and answers |
//! | `request` | one request and its times |
//! | `report` | tables, CSV and JSON |
//!
//! Invariants: every gap between two pieces of a stream is a sample, keep-alives are none; requests of the same seed are the same; an
//! interrupted test keeps the requests that were complete; nothing of a server's answer is trusted, lengths included.

mod burst;
mod http;
mod lengths;
pub mod report;
mod request;
mod run;
mod socket;
mod stream;

pub use burst::{Burst, BurstOptions, burst};
pub use http::{Probe, Target};
pub use lengths::{Length, Mix};
pub use request::{Answer, Ending, Vocabulary};
pub use run::{Arrivals, Outcome, Test, run};

/// Why a server could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// An address that is not one of HTTP.
    #[error("{url:?} is not an address such as http://127.0.0.1:8080: {why}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// https cannot be used.
    #[error("cannot use https: {why}")]
    Tls {
        /// Why not.
        why: String,
    },
    /// The server could not be reached, or ended the connection.
    #[error("{server}: {source}")]
    Io {
        /// Host and port.
        server: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// What came is not HTTP or not what the API prescribes.
    #[error("{server}: {what}")]
    Protocol {
        /// Host and port.
        server: String,
        /// What is wrong.
        what: String,
    },
    /// The server refused the request that tries it out.
    #[error("{server} answers {status}: {message}")]
    Refused {
        /// Host and port.
        server: String,
        /// The status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// The caller interrupted the work.
    #[error("interrupted")]
    Interrupted,
}
