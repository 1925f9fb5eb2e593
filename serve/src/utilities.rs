//! Answers that do not need the engine: tokens, templates, properties, and lists of models in the forms of OpenAI and ollama.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use axum::response::Response;
use bitnetc::api::{self, Refusal, Route, Service};
use bitnetc::percent;
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

/// Computes the JSON of an answer from a body.
type Compute = fn(&Service, &[u8]) -> Result<String, Refusal>;

/// Computes something, when less than so much is computed already. The place is free again when the work is done: that of a client
/// who leaves goes on, and bodies must not pile up for it.
async fn computed(
    app: &Arc<App>,
    lease: Lease,
    mut body: Held,
    route: Route,
    compute: impl FnOnce(&Service, &[u8]) -> Result<String, Refusal> + Send + 'static,
) -> Answer {
    let place = Arc::clone(&app.computing).acquire_owned().await;
    let place = place.map_err(|_| Failure::internal("the server computes nothing any more"))?;
    app.bodies.admit(&mut body, route).await?;
    let app = Arc::clone(app);
    let work = tokio::task::spawn_blocking(move || {
        let text = compute(&lease.service, &body.bytes);
        drop(body);
        let answer = app.bodies.answer(text?);
        drop(place);
        answer
    });
    Ok(work.await.map_err(|_| Failure::internal("a panic while the request was answered"))??.response())
}

async fn posted(
    app: Arc<App>,
    record: Record,
    request: Request<Body>,
    (compute, route): (Compute, Route),
) -> Response {
    let path = request.uri().path().to_owned();
    let result = async {
        let body = read_body(&app, request.into_body()).await?;
        let lease = app.registry.acquire(model_of(&body.bytes).await?.as_deref()).await?;
        record.model(&lease.service.id);
        computed(&app, lease, body, route, compute).await
    };
    settled(&path, result.await)
}

/// The number of tokens of the prompt of a request, for a route that counts them.
pub(crate) async fn count_tokens(app: &Arc<App>, route: Route, lease: Lease, body: Held) -> Answer {
    computed(app, lease, body, route, move |service, body| {
        Ok(api::count_tokens(service, route, body)?.to_string())
    })
    .await
}

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    let compute: Compute = |service, body| {
        let tokens = api::tokenize(service, body)?;
        serde_json::to_string(&tokens).map_err(|why| Failure::internal(&why.to_string()).refusal)
    };
    posted(app, record, request, (compute, Route::ChatCompletions)).await
}

pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    let compute: Compute = |service, body| Ok(api::detokenize(service, body)?.to_string());
    posted(app, record, request, (compute, Route::Completions)).await
}

pub(crate) async fn apply_template(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Record>,
    request: Request<Body>,
) -> Response {
    let compute: Compute = |service, body| Ok(api::apply_template(service, body)?.to_string());
    posted(app, record, request, (compute, Route::ChatCompletions)).await
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
        let entry = app.registry.find(parameters(&uri).get("model").map(String::as_str))?;
        // Looking at a model loads none.
        let mut value = match entry.running() {
            Some(lease) => api::props(&lease.service),
            None => {
                let (app, about) = (Arc::clone(&app), Arc::clone(entry));
                with_files(move || {
                    let template =
                        about.listed(app.started()).about.and_then(|about| about.chat_template.clone());
                    let defaults = &app.options.models.defaults;
                    api::props_of_unloaded(&about.source.name, defaults, app.options.models.context, template)
                })
                .await?
            }
        };
        value["total_slots"] = json!(app.options.models.parallel);
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
    let id = String::from_utf8_lossy(&percent::decoded(id)).into_owned();
    let found = app.registry.named(&id).map(|entry| answer(StatusCode::OK, &card(&app, entry)));
    settled(path, found)
}

/// Something that reads the headers of model files, on a thread where that may take its time.
async fn with_files(read: impl FnOnce() -> Value + Send + 'static) -> Result<Value, Failure> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|_| Failure::internal("a panic while a model file was read"))
}

pub(crate) async fn ollama_tags(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let listed = with_files(move || {
        let entries = app.registry.entries.iter();
        api::ollama_tags(&entries.map(|entry| entry.listed(app.started())).collect::<Vec<_>>())
    });
    settled(uri.path(), listed.await.map(|value| answer(StatusCode::OK, &value)))
}

pub(crate) async fn ollama_running(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let listed = with_files(move || {
        let entries = app.registry.entries.iter();
        let leases: Vec<_> = entries.filter_map(|entry| Some((entry, entry.running()?))).collect();
        let loaded = leases.iter().map(|(entry, lease)| (entry.listed(app.started()), &*lease.service));
        api::ollama_ps(&loaded.collect::<Vec<_>>())
    });
    settled(uri.path(), listed.await.map(|value| answer(StatusCode::OK, &value)))
}

/// What to do instead of what ollama's server does to models.
pub(crate) async fn ollama_managing(uri: Uri) -> Response {
    let instead = match uri.path() {
        "/api/pull" => "`bitnetc pull NAME` fetches a model, and `bitnetc serve NAME` serves it",
        "/api/delete" => "`bitnetc rm NAME` removes a model from the cache",
        "/api/push" => "models are not uploaded: the hf command of huggingface_hub does that",
        _ => {
            "a model is its file: `bitnetc import` converts a checkpoint, and `bitnetc serve FILE --alias NAME` names it"
        }
    };
    let message = format!("the models of this server are those of its command line: {instead}");
    settled(uri.path(), Err(Failure::new(StatusCode::BAD_REQUEST, "unsupported", message)))
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
    let body: Value = serde_json::from_slice(&body).map_err(|_| invalid("the body is not valid JSON"))?;
    let name = body["model"].as_str().or_else(|| body["name"].as_str());
    let name = name.ok_or_else(|| invalid("model: expected the name of a model"))?;
    // Clients ask in order to learn whether there is such a model, so that any name is not enough.
    let entry = Arc::clone(app.registry.named(name)?);
    // Looking at a model loads none.
    let value = with_files(move || {
        let lease = entry.running();
        let service = lease.as_ref().map(|lease| &*lease.service);
        api::ollama_show(entry.listed(app.started()), service)
    });
    Ok(answer(StatusCode::OK, &value.await?))
}
