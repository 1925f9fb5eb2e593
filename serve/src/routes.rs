//! The routes: every path with its methods.
//!
//! Refusals have the form of the API that the path belongs to, including those for unknown paths and methods.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{any, get, post};
use bitnetc::api::Route;
use serde_json::json;

use crate::app::App;
use crate::failure::{self, Dialect, Failure};
use crate::log::{Record, cut};
use crate::registry::State as ModelState;
use crate::{metrics, page, slots, text, utilities};

/// What a handler gives.
pub(crate) type Answer = Result<Response, Failure>;

/// Paths that clients ask for and that no text model can answer; what they ask for.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("/v1/embeddings", "embeddings"),
    ("/embeddings", "embeddings"),
    ("/embedding", "embeddings"),
    ("/api/embed", "embeddings"),
    ("/api/embeddings", "embeddings"),
    ("/rerank", "rankings"),
    ("/reranking", "rankings"),
    ("/v1/rerank", "rankings"),
    ("/v1/reranking", "rankings"),
    ("/v1/audio/speech", "spoken texts"),
    ("/v1/audio/transcriptions", "transcriptions"),
    ("/audio/transcriptions", "transcriptions"),
    ("/v1/audio/translations", "translations of audio"),
    ("/v1/images/generations", "images"),
    ("/v1/images/edits", "images"),
    ("/v1/images/variations", "images"),
];

/// All routes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(all_metrics))
        .route("/openapi.json", get(utilities::openapi))
        .route("/props", get(utilities::props))
        .route("/tokenizer_info", get(utilities::tokenizer_info))
        .route("/tokenize", post(utilities::tokenize))
        .route("/detokenize", post(utilities::detokenize))
        .route("/apply-template", post(utilities::apply_template))
        .route("/slots", get(slots::list))
        .route("/slots/{id}", post(slots::act))
        .route("/v1/models", get(utilities::models))
        .route("/models", get(utilities::models))
        .route("/v1/models/{*id}", get(utilities::model))
        .route("/models/{*id}", get(utilities::model))
        .route("/api/tags", get(utilities::ollama_tags))
        .route("/api/ps", get(utilities::ollama_running))
        .route("/api/version", get(utilities::ollama_version))
        .route("/api/show", post(utilities::ollama_show));
    for route in Route::ALL {
        for path in route.paths() {
            router =
                router.route(path, post(move |app, record, request| of_text(app, route, record, request)));
        }
    }
    for path in ["/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete"] {
        router = router.route(path, any(utilities::ollama_managing));
    }
    for &(path, what) in UNSUPPORTED {
        router = router.route(path, post(move |uri: Uri| async move { unsupported(&uri, what) }));
    }
    router
        .fallback(
            |uri: Uri| async move { Failure::not_found(uri.path()).respond(Dialect::of_path(uri.path())) },
        )
        .with_state(Arc::clone(app))
}

/// The refusal of a method that a path does not have, in place of the router's answer, which names those that it has.
pub(crate) fn other_method(method: &Method, path: &str, of_router: &Response) -> Response {
    let allowed = of_router.headers().get(ALLOW);
    let names = allowed.and_then(|names| names.to_str().ok()).unwrap_or_default();
    // Where GET is answered, HEAD is too.
    let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| *name != "HEAD").collect();
    let message = format!("{} is not supported: use {}", cut(method.as_str(), 32), names.join(" or "));
    let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
    let mut response = failure.respond(Dialect::of_path(path));
    if let Some(allowed) = allowed {
        response.headers_mut().insert(ALLOW, allowed.clone());
    }
    response
}

/// An answer, or the refusal in the form of the path's API.
pub(crate) fn settled(path: &str, answer: Answer) -> Response {
    answer.unwrap_or_else(|failure| failure.respond(Dialect::of_path(path)))
}

/// The parameters after the path; none where they cannot be read.
pub(crate) fn parameters(uri: &Uri) -> HashMap<String, String> {
    Query::try_from_uri(uri).map_or_else(|_| HashMap::new(), |Query(parameters)| parameters)
}

async fn of_text(
    State(app): State<Arc<App>>,
    route: Route,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    let path = request.uri().path().to_owned();
    settled(&path, text::answer(app, route, record, request).await)
}

fn unsupported(uri: &Uri, what: &str) -> Response {
    let message = format!("{what} are not supported: the models of this server generate text");
    let failure = Failure::new(StatusCode::BAD_REQUEST, "unsupported", message);
    failure.respond(Dialect::of_path(uri.path()))
}

/// The page.
async fn index() -> Response {
    let document = page::document();
    let mut response = Response::new(Body::from(document.html.as_str()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::from_str(&document.policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Whether the process lives and has what it was started for. Asks the engine nothing.
async fn health(State(app): State<Arc<App>>) -> Response {
    match app.registry.has_begun() {
        true => failure::json(StatusCode::OK, &json!({ "status": "ok" })),
        false => loading(),
    }
}

/// As llama.cpp's server says it, for programs that wait for these words.
fn loading() -> Response {
    let error = json!({ "code": 503, "message": "Loading model", "type": "unavailable_error" });
    failure::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": error }))
}

/// Whether a new request would be taken.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let not = |status: &str| failure::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": status }));
    if app.shutdown.is_draining() {
        return not("draining");
    }
    if !app.registry.has_begun() {
        return loading();
    }
    let is_full = |state: ModelState| matches!(state, ModelState::Ready(lease) if lease.admission.is_full());
    match app.registry.entries.iter().any(|entry| is_full(entry.state())) {
        true => not("queue full"),
        false => failure::json(StatusCode::OK, &json!({ "status": "ok" })),
    }
}

async fn all_metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(Body::from(metrics::render(&app.registry, &app.counters)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
