//! The life of a server: binding, loading, serving, shutting down.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};

use crate::app::{App, Front};
use crate::connection::{self, Open};
use crate::lines::Lines;
use crate::options::Options;
use crate::registry::{ModelSource, Registry};
use crate::shutdown::{Phase, Shutdown};
use crate::{Note, ServeError, tls};

/// Threads that read and write sockets. They compute nothing.
const THREADS: usize = 2;
/// Threads for what may take its time: reading requests, waiting for forms, opening models.
const BLOCKING_THREADS: usize = 128;
/// How long texts that are ended have to say so, and connections to close.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A server that listens.
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    tls: Option<tokio_rustls::TlsAcceptor>,
    app: Arc<App>,
    lines: Lines,
    note: Note,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the address of the options. Notes are written to `note`, lines of the request log to `log`.
    ///
    /// # Errors
    /// The address is not available, the files of TLS cannot be used, there is no model, or two models have the same name.
    pub fn bind(
        options: Options,
        models: Vec<ModelSource>,
        note: Note,
        log: Note,
    ) -> Result<Self, ServeError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = models.iter().find(|model| !names.insert(model.name.as_str())) {
            return Err(ServeError::SameName { name: twice.name.clone() });
        }
        if models.is_empty() {
            return Err(ServeError::NoModel);
        }
        let tls = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let wanted = options.address();
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => ServeError::InUse { address: wanted },
            _ => ServeError::Listen { address: wanted, source },
        };
        let listener = connection::bind(wanted).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let options = Arc::new(options);
        let shutdown = Shutdown::new();
        let lines = Lines::start().map_err(ServeError::Threads)?;
        let note = lines.note(note);
        let registry = Registry::new(models, Arc::clone(&options), shutdown.clone(), Arc::clone(&note));
        let app = App::new(options, Arc::new(registry), shutdown, lines.note(log));
        Ok(Self { listener, address, tls, app, lines, note })
    }

    /// The address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of its chat page.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// A handle that shuts the server down.
    pub fn shutdown(&self) -> Shutdown {
        self.app.shutdown.clone()
    }

    /// Answers requests until the server is shut down and its requests have ended. Calls `ready` when the models of the start are
    /// loaded and all notes about them are written.
    ///
    /// # Errors
    /// Threads cannot be started, or a model that must be loaded at the start cannot be loaded.
    pub fn run(self, ready: impl FnOnce()) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("bitnetc-http")
            .enable_all()
            .build()
            .map_err(ServeError::Threads)?;
        let Self { listener, address, tls, app, lines, note } = self;
        let ready = || {
            lines.flush(LAST_WORDS);
            ready();
        };
        let serving = async {
            let failed = |source| ServeError::Listen { address, source };
            serve(TcpListener::from_std(listener).map_err(failed)?, tls, &app, &note, ready).await
        };
        let result = runtime.block_on(serving);
        // What still runs on these threads answers nobody, and ends with the process.
        runtime.shutdown_background();
        lines.flush(LAST_WORDS);
        result
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    app: &Arc<App>,
    note: &Note,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let open = Open::default();
    let accepting = tokio::spawn(connection::serve(listener, Front::new(app), tls, open.clone()));
    let begun = begin(app);
    tokio::select! {
        // First: what cannot be loaded because the server ends is no error.
        biased;
        () = app.shutdown.reached(Phase::Draining) => {}
        result = begun => {
            result?;
            ready();
        }
    }
    app.shutdown.reached(Phase::Draining).await;
    note(&draining(app.active.count(), app.options.limits.drain_timeout));
    tokio::select! {
        () = app.active.none_left() => {}
        () = tokio::time::sleep(app.options.limits.drain_timeout) => {}
        () = app.shutdown.reached(Phase::Ending) => {}
    }
    app.shutdown.end();
    // One deadline for all that is left, so that clients who do not read delay the end no longer than that.
    let deadline = Instant::now() + LAST_WORDS;
    drop(timeout_at(deadline, app.active.none_left()).await);
    accepting.abort();
    drop(timeout_at(deadline, open.none_left()).await);
    note("shut down");
    Ok(())
}

/// What is printed when the end begins.
fn draining(running: usize, time: Duration) -> String {
    let time = time.as_secs_f64();
    match running {
        0 => "shutting down".to_owned(),
        1 => {
            format!("shutting down: 1 request may run for {time} s more; a second signal ends it immediately")
        }
        _ => format!(
            "shutting down: {running} requests may run for {time} s more; a second signal ends them immediately"
        ),
    }
}

/// Loads what must be there from the start. Fails if it cannot be loaded and is the only model, or all were asked for.
async fn begin(app: &Arc<App>) -> Result<(), ServeError> {
    let entries = &app.registry.entries;
    let count = if app.options.models.preload { entries.len() } else { 1 };
    for entry in entries.iter().take(count) {
        if let Err(why) = app.registry.loaded(entry).await
            && app.registry.ends_with_a_failure()
        {
            return Err(ServeError::Model { name: entry.source.name.clone(), why });
        }
    }
    app.registry.begin_serving();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_announced_with_what_runs() {
        let said = |running| draining(running, Duration::from_secs(30));
        assert_eq!(said(0), "shutting down");
        assert_eq!(
            said(1),
            "shutting down: 1 request may run for 30 s more; a second signal ends it immediately"
        );
        assert!(said(3).contains("3 requests may run for 30 s more; a second signal ends them immediately"));
    }
}
