//! What is answered without the engine: tokens, templates, properties, and which models there are, in OpenAI's and ollama's form.

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use axum::response::Response;
use bitnetc::api::{self, Refusal, Service};
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, json as answer};
use crate::log::Record;
use crate::registry::{Entry, Lease};
use crate::routes::{Answer, parameters, settled};
use crate::text::read_body;

/// The version that programs are told.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Something that is computed of a body.
type Compute = fn(&Service, &[u8]) -> Result<Value, Refusal>;

async fn computed(lease: Lease, body: Bytes, compute: Compute) -> Answer {
    let work = tokio::task::spawn_blocking(move || compute(&lease.service, &body));
    let panicked = |_| {
        let message = "a panic while the request was answered";
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    };
    Ok(answer(StatusCode::OK, &work.await.map_err(panicked)??))
}

async fn posted(app: Arc<App>, record: Record, request: Request<Body>, compute: Compute) -> Response {
    let path = request.uri().path().to_owned();
    let result = async {
        let body = read_body(&app, request.into_body()).await?;
        let lease = app.registry.acquire(api::model_of(&body).as_deref()).await?;
        record.model(&lease.service.id);
        computed(lease, body, compute).await
    };
    settled(&path, result.await)
}

/// The number of tokens of a conversation.
pub(crate) async fn count_tokens(lease: Lease, body: Bytes) -> Answer {
    computed(lease, body, api::count_tokens).await
}

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    posted(app, record, request, api::tokenize).await
}

pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    posted(app, record, request, api::detokenize).await
}

pub(crate) async fn apply_template(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    posted(app, record, request, api::apply_template).await
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
fn card(entry: &Entry) -> Value {
    match entry.running() {
        Some(lease) => api::model_card(&lease.service),
        None => json!({
            "id": entry.source.name,
            "object": "model",
            "created": 0,
            "owned_by": "bitnetc",
            "meta": null,
        }),
    }
}

pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    let cards: Vec<Value> = app.registry.entries.iter().map(|entry| card(entry)).collect();
    answer(StatusCode::OK, &json!({ "object": "list", "data": cards }))
}

pub(crate) async fn model(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let path = uri.path();
    let id = path.strip_prefix("/v1/models/").or_else(|| path.strip_prefix("/models/")).unwrap_or_default();
    let id = percent_decoded(id);
    let found = app.registry.named(&id).map(|entry| answer(StatusCode::OK, &card(entry)));
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

/// A model in ollama's form.
fn ollama_card(entry: &Entry) -> Value {
    let lease = entry.running();
    let created = lease.as_ref().map_or(0, |lease| lease.service.created);
    let modified = jiff::Timestamp::from_second(created as i64).unwrap_or_default().to_string();
    let digest: String = lease.as_ref().map_or_else(String::new, |lease| {
        lease.service.model.loaded().source_hash.iter().map(|byte| format!("{byte:02x}")).collect()
    });
    json!({
        "name": entry.source.name,
        "model": entry.source.name,
        "modified_at": modified,
        "size": lease.as_ref().map_or(entry.source.bytes, |lease| lease.service.model.loaded().model.weight_bytes()),
        "digest": digest,
        "details": details(lease.as_ref()),
    })
}

fn details(lease: Option<&Lease>) -> Value {
    let family = lease.map_or("", |lease| lease.service.model.loaded().architecture.as_str());
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "1.58 bit",
    })
}

pub(crate) async fn ollama_tags(State(app): State<Arc<App>>) -> Response {
    let all: Vec<Value> = app.registry.entries.iter().map(|entry| ollama_card(entry)).collect();
    answer(StatusCode::OK, &json!({ "models": all }))
}

pub(crate) async fn ollama_running(State(app): State<Arc<App>>) -> Response {
    let loaded = app.registry.entries.iter().filter_map(|entry| {
        let lease = entry.running()?;
        let mut card = ollama_card(entry);
        card["size"] = json!(lease.bytes);
        card["size_vram"] = json!(0);
        card["context_length"] = json!(lease.service.context);
        Some(card)
    });
    let loaded: Vec<Value> = loaded.collect();
    answer(StatusCode::OK, &json!({ "models": loaded }))
}

pub(crate) async fn ollama_version() -> Response {
    answer(StatusCode::OK, &json!({ "version": VERSION }))
}

pub(crate) async fn ollama_show(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let path = request.uri().path().to_owned();
    settled(&path, show(app, request).await)
}

async fn show(app: Arc<App>, request: Request<Body>) -> Answer {
    let body = read_body(&app, request.into_body()).await?;
    let invalid = |message: &str| Failure::new(StatusCode::BAD_REQUEST, "invalid_value", message);
    let body: Value = serde_json::from_slice(&body).map_err(|_| invalid("the body is not JSON"))?;
    let name = body["model"].as_str().or_else(|| body["name"].as_str());
    let name = name.ok_or_else(|| invalid("model: expected the name of a model"))?;
    // Clients ask in order to learn whether there is such a model, so that any name is not enough.
    let entry = app
        .registry
        .named(name.strip_suffix(":latest").unwrap_or(name))
        .or_else(|_| app.registry.named(name))?;
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
