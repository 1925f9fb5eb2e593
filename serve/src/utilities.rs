//! What is answered without the engine: tokens, templates, properties, and which models there are, in OpenAI's and ollama's form.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use axum::response::Response;
use bitnetc::api::{self, Listed, Refusal, Route, Service};
use serde_json::{Value, json};

use crate::app::App;
use crate::bodies::Held;
use crate::failure::{Failure, json as answer};
use crate::log::Record;
use crate::registry::{Entry, Lease};
use crate::routes::{Answer, parameters, settled};
use crate::text::{model_of, read_body, read_short_body};

/// The version that programs are told.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Something that is computed of a body.
type Compute = fn(&Service, &[u8]) -> Result<Value, Refusal>;

/// How it is computed, and the route whose bodies are read as this one is.
type Computed = (Compute, Route);

/// Computes something, when less than so much is computed already. The place is free again when the work is done: that of a client
/// who leaves goes on, and bodies must not pile up for it.
async fn computed(app: &Arc<App>, lease: Lease, mut body: Held, (compute, route): Computed) -> Answer {
    let bug = |message| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message);
    let place = Arc::clone(&app.computing).acquire_owned().await;
    let place = place.map_err(|_| bug("the server computes nothing any more"))?;
    app.bodies.admit(&mut body, route).await?;
    let app = Arc::clone(app);
    let work = tokio::task::spawn_blocking(move || {
        let value = compute(&lease.service, &body.bytes);
        drop(body);
        let answer = app.bodies.answer(&value?);
        drop(place);
        answer
    });
    Ok(work.await.map_err(|_| bug("a panic while the request was answered"))??.response())
}

async fn posted(app: Arc<App>, record: Record, request: Request<Body>, compute: Computed) -> Response {
    let path = request.uri().path().to_owned();
    let result = async {
        let body = read_body(&app, request.into_body()).await?;
        let lease = app.registry.acquire(model_of(&body.bytes).await?.as_deref()).await?;
        record.model(&lease.service.id);
        computed(&app, lease, body, compute).await
    };
    settled(&path, result.await)
}

/// The number of tokens of a conversation.
pub(crate) async fn count_tokens(app: &Arc<App>, lease: Lease, body: Held) -> Answer {
    computed(app, lease, body, (api::count_tokens, Route::CountTokens)).await
}

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    posted(app, record, request, (api::tokenize, Route::ChatCompletions)).await
}

pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    posted(app, record, request, (api::detokenize, Route::Completions)).await
}

pub(crate) async fn apply_template(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    posted(app, record, request, (api::apply_template, Route::ChatCompletions)).await
}

/// The model that the parameters of a path name, or the first.
async fn named(app: &Arc<App>, uri: &Uri) -> Result<Lease, Failure> {
    app.registry.acquire(parameters(uri).get("model").map(String::as_str)).await
}

pub(crate) async fn tokenizer_info(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let result =
        async { Ok(answer(StatusCode::OK, &api::tokenizer_info(&named(&app, &uri).await?.service))) };
    settled(uri.path(), result.await)
}

/// What a client may know of the server: never a key, a path or a prompt.
pub(crate) async fn props(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let result = async {
        let lease = named(&app, &uri).await?;
        let mut value = api::props(&lease.service);
        value["total_slots"] = json!(lease.sequences);
        value["build_info"] = json!(format!("bitnetc {VERSION}"));
        Ok(answer(StatusCode::OK, &value))
    };
    settled(uri.path(), result.await)
}

pub(crate) async fn openapi() -> Response {
    answer(StatusCode::OK, &api::openapi())
}

/// A model in OpenAI's form. One that is not loaded is known by its name only.
fn card(app: &App, entry: &Entry) -> Value {
    match entry.running() {
        Some(lease) => api::model_card(&lease.service),
        None => json!({
            "id": entry.source.name,
            "object": "model",
            "created": app.started(),
            "owned_by": "bitnetc",
            "meta": null,
        }),
    }
}

pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    let cards: Vec<Value> = app.registry.entries.iter().map(|entry| card(&app, entry)).collect();
    answer(StatusCode::OK, &json!({ "object": "list", "data": cards }))
}

pub(crate) async fn model(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let path = uri.path();
    let id = path.strip_prefix("/v1/models/").or_else(|| path.strip_prefix("/models/")).unwrap_or_default();
    let id = percent_decoded(id);
    let found = app.registry.named(&id).map(|entry| answer(StatusCode::OK, &card(&app, entry)));
    settled(path, found)
}

/// A part of a path, as it was before it was encoded.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) async fn ollama_tags(State(app): State<Arc<App>>) -> Response {
    let entries = &app.registry.entries;
    let leases: Vec<_> = entries.iter().map(|entry| entry.running()).collect();
    let listed = entries.iter().zip(&leases).map(|(entry, lease)| Listed {
        name: &entry.source.name,
        bytes: entry.source.bytes,
        service: lease.as_ref().map(|lease| &*lease.service),
    });
    let all: Vec<Listed<'_>> = listed.collect();
    answer(StatusCode::OK, &api::ollama_tags(&all))
}

pub(crate) async fn ollama_running(State(app): State<Arc<App>>) -> Response {
    let leases: Vec<_> = app.registry.entries.iter().filter_map(|entry| entry.running()).collect();
    let loaded: Vec<&Service> = leases.iter().map(|lease| &*lease.service).collect();
    answer(StatusCode::OK, &api::ollama_ps(&loaded))
}

pub(crate) async fn ollama_version() -> Response {
    answer(StatusCode::OK, &api::ollama_version())
}

pub(crate) async fn ollama_show(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let path = request.uri().path().to_owned();
    settled(&path, show(app, request).await)
}

async fn show(app: Arc<App>, request: Request<Body>) -> Answer {
    let body = read_short_body(&app, request.into_body()).await?;
    let invalid = |message: &str| Failure::new(StatusCode::BAD_REQUEST, "invalid_value", message);
    let body: Value = serde_json::from_slice(&body).map_err(|_| invalid("the body is not JSON"))?;
    let name = body["model"].as_str().or_else(|| body["name"].as_str());
    let name = name.ok_or_else(|| invalid("model: expected the name of a model"))?;
    // Clients ask in order to learn whether there is such a model, so that any name is not enough.
    let entry = app.registry.named(name)?;
    let lease = app.registry.acquire(Some(&entry.source.name)).await?;
    Ok(answer(StatusCode::OK, &api::ollama_show(&lease.service)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_are_decoded() {
        assert_eq!(percent_decoded("hf%3Aorg%2Frepo:x.gguf"), "hf:org/repo:x.gguf");
        assert_eq!(percent_decoded("%"), "%");
        assert_eq!(percent_decoded("%zz%4%+1"), "%zz%4%+1");
        assert_eq!(percent_decoded("%ff"), "\u{fffd}");
    }
}
