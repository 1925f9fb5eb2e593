//! The path that every request takes: id, access control, router, log.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, ORIGIN};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use axum::response::Response;
use bitnetc::api::Refusal;
use tokio::sync::Semaphore;
use tower_service::Service;

use crate::access::{self, Gate};
use crate::bodies::Bodies;
use crate::failure::{Dialect, Failure};
use crate::guarded::{Panicked, guarded};
use crate::log::{Active, Record, UnderWay};
use crate::metrics::Counters;
use crate::options::Options;
use crate::registry::Registry;
use crate::shutdown::{Phase, Shutdown};
use crate::{Note, connection, routes};

/// The maximum number of requests that are computed without the engine at a time; others wait.
const COMPUTING: usize = 16;

/// How many of them where the engine computes on `threads`: its processors are left to it.
fn computing(threads: u32) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.saturating_sub(threads as usize).clamp(1, COMPUTING)
}

/// The time in which a probe is sent on a connection beyond those that there may be.
const PROBE: Duration = Duration::from_secs(1);

/// The maximum length of an id that a client chooses.
const LONGEST_ID: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The state that all requests share.
pub(crate) struct App {
    pub(crate) options: Arc<Options>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) shutdown: Shutdown,
    pub(crate) counters: Counters,
    pub(crate) active: Active,
    /// Places for work that is done without the engine: counting tokens, templates.
    pub(crate) computing: Arc<Semaphore>,
    /// The place for work on saved states.
    pub(crate) saving: Arc<Semaphore>,
    /// Memory for bodies.
    pub(crate) bodies: Bodies,
    gate: Gate,
    log: Note,
    /// Microseconds since 1970. Ids are the time of the start and a number.
    started: u64,
    requests: AtomicU64,
}

/// The entry point of the requests of all connections.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) app: Arc<App>,
    router: Router,
    /// Whether only those are answered who watch the server.
    probes_only: bool,
}

impl App {
    pub(crate) fn new(
        options: Arc<Options>,
        registry: Arc<Registry>,
        shutdown: Shutdown,
        log: Note,
    ) -> Arc<Self> {
        let gate = Gate::new(&options);
        let bodies = Bodies::new(&options.limits);
        let computing = Arc::new(Semaphore::new(computing(options.models.threads)));
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64);
        Arc::new(Self {
            options,
            registry,
            shutdown,
            counters: Counters::default(),
            active: Active::default(),
            computing,
            saving: Arc::new(Semaphore::new(1)),
            bodies,
            gate,
            log,
            started,
            requests: AtomicU64::new(0),
        })
    }

    /// When the server was started, in seconds since 1970.
    pub(crate) fn started(&self) -> u64 {
        self.started / 1_000_000
    }

    /// Checks what every request must satisfy before it is routed.
    fn admit(&self, request: &Request<Body>, path: &str) -> Result<(), Failure> {
        let bytes: usize =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if bytes > connection::HEAD {
            let message = format!("the head of the request is longer than {} bytes", connection::HEAD);
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err(Failure::new(status, "headers_too_large", message).closing());
        }
        self.gate.check(request)?;
        access::check_encodings(request.headers())?;
        if self.shutdown.is_draining() && !is_watching(path) {
            return Err(Failure::draining());
        }
        Ok(())
    }

    /// The id of a request: the one that it brings, if that is short and printable, or a new one.
    fn id(&self, headers: &HeaderMap) -> String {
        let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
        let fits = |id: &&str| {
            (1..=LONGEST_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
        };
        given.filter(fits).map_or_else(|| self.new_id(), str::to_owned)
    }

    /// A new id, for a request without one.
    pub(crate) fn new_id(&self) -> String {
        format!("req-{:x}-{}", self.started, self.requests.fetch_add(1, Ordering::Relaxed))
    }
}

impl Front {
    pub(crate) fn new(app: &Arc<App>) -> Self {
        Self { app: Arc::clone(app), router: routes::router(app), probes_only: false }
    }

    /// The same for a connection beyond those that there may be: it is closed after a probe, and has no time for anything else.
    pub(crate) fn for_probes(&self) -> Self {
        Self { probes_only: true, ..self.clone() }
    }

    /// Whether a connection may have more than one request.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.probes_only
    }

    /// The time in which the head of a request arrives.
    pub(crate) fn head_timeout(&self) -> Duration {
        let time = self.app.options.limits.read_timeout;
        if self.probes_only { time.min(PROBE) } else { time }
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, mut request: Request<Body>, peer: IpAddr) -> Response {
        let app = &self.app;
        without_slash(request.uri_mut());
        let path = request.uri().path().to_owned();
        let dialect = Dialect::of_path(&path);
        let id = app.id(request.headers());
        let record = Record::new(peer, id, request.method().to_string(), path.clone());
        let log = app.options.log.map(|format| (format, Arc::clone(&app.log)));
        let under_way = UnderWay::new(record.clone(), log, &app.active);
        let origin = request.headers().get(ORIGIN).cloned();
        let is_preflight = request.method() == Method::OPTIONS;
        request.extensions_mut().insert(record.clone());
        let admitted = match self.probes_only && !is_watching(&path) {
            true => Err(too_many_connections()),
            false => app.admit(&request, &path),
        };
        let mut response = match admitted {
            Err(failure) => failure.respond(dialect),
            Ok(()) if is_preflight => options(),
            // A stream has begun by then, and has words of its own for the end.
            Ok(()) => tokio::select! {
                // The end first: what it frees must not begin anything.
                biased;
                () = app.shutdown.reached(Phase::Ending) => Failure::draining().respond(dialect),
                response = guarded(self.route(request)) => response.unwrap_or_else(|Panicked| {
                    Failure::internal("a panic while the request was answered").respond(dialect)
                }),
            },
        };
        app.gate.allow(origin.as_ref(), is_preflight, &mut response);
        if let Ok(id) = HeaderValue::from_str(&record.id()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if app.shutdown.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        record.status(response.status());
        if let Some(refusal) = response.extensions().get::<Refusal>() {
            record.refused(refusal);
        }
        app.counters.answered(response.status(), is_probe(&path));
        response.map(|body| under_way.until_the_end_of(body))
    }

    async fn route(&self, request: Request<Body>) -> Response {
        // It is always ready, and never fails.
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match self.router.clone().call(request).await {
            Ok(response) if response.status() == StatusCode::METHOD_NOT_ALLOWED => {
                routes::other_method(&method, &path, &response)
            }
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Takes away the slash at the end of a path, which clients add whose base address has one.
fn without_slash(uri: &mut Uri) {
    let path = uri.path();
    let short = path.trim_end_matches('/');
    if short.is_empty() || short.len() == path.len() {
        return;
    }
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    let Ok(short) = format!("{short}{query}").parse::<PathAndQuery>() else { return };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(short);
    if let Ok(shorter) = Uri::from_parts(parts) {
        *uri = shorter;
    }
}

/// Whether a path tells about the server, for those that watch it.
pub(crate) fn is_probe(path: &str) -> bool {
    ["/health", "/v1/health", "/ready"].contains(&path)
}

/// Whether a path is for those that watch the server.
fn is_watching(path: &str) -> bool {
    is_probe(path) || path == "/metrics"
}

/// The refusal of a request on a connection beyond those that there may be.
fn too_many_connections() -> Failure {
    let message = "too many connections: try again later";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_connections", message).retry_after(1).closing()
}

/// The answer to a preflight, or to any other `OPTIONS` request.
fn options() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use serde_json::Value;

    use super::*;
    use crate::failure;

    async fn panics() -> Response {
        panic!("a test")
    }

    async fn body(response: Response) -> Value {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_a_500_and_the_next_request_is_answered() {
        let (options, shutdown) = (Arc::new(Options::default()), Shutdown::new());
        let note: Note = Arc::new(|_: &str| {});
        let registry = Registry::new(Vec::new(), Arc::clone(&options), shutdown.clone(), Arc::clone(&note));
        let app = App::new(options, Arc::new(registry), shutdown, note);
        let router = Router::new()
            .route("/v1/messages", get(panics))
            .route("/sound", get(|| async { failure::json(StatusCode::OK, &Value::Null) }));
        let front = Front { app, router, probes_only: false };
        let ask = |path: &str| {
            let request =
                Request::builder().uri(path).header("host", "localhost").body(Body::empty()).unwrap();
            front.answer(request, Ipv4Addr::LOCALHOST.into())
        };
        let failed = ask("/v1/messages").await;
        assert_eq!(failed.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(failed.headers().contains_key(REQUEST_ID));
        // In the form of the path's API.
        let body = body(failed).await;
        assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"api_error".into()), "{body}");
        assert_eq!(ask("/sound").await.status(), StatusCode::OK);
        assert_eq!(front.app.active.count(), 0);
    }
}
