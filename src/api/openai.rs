//! Requests of `/v1/chat/completions` and `/v1/completions`.

use super::answer::AnswerForm;
use super::asked::Asked;
use super::body::Body;
use super::chat::ChatRequest;
use super::fields::*;
use super::reply::chat::ChatShape;
use super::reply::completions::CompletionShape;
use super::reply::{Reply, Shape, Shown};
use super::{Call, Reading, Refusal, Route, Service, prompt};

/// Whether a request for a model of the name `asked` is one for the model `id`: its name, with the tag that ollama's clients add, or
/// with the ending of a file.
pub fn is_name_of(asked: &str, id: &str) -> bool {
    let asked = asked.strip_suffix(":latest").unwrap_or(asked);
    asked == id || [".gguf", ".plan"].iter().any(|ending| asked.strip_suffix(ending) == Some(id))
}

/// Whether the request is for this model.
pub(super) fn check_model(body: Body<'_>, service: &Service) -> Result<(), Refusal> {
    match body.text(&MODEL) {
        Some(name) if service.strict_model && !is_name_of(name, &service.id) => {
            let shown: String = name.chars().take(100).collect();
            let message = format!("model {shown:?} is not served here: ask for {:?}", service.id);
            Err(Refusal { status: 404, code: "model_not_found", ..Refusal::field("model", message) })
        }
        _ => Ok(()),
    }
}

/// How many of the likeliest tokens are listed with each token, if probabilities are asked for.
///
/// # Errors
/// Likeliest tokens are asked for without probabilities.
fn logprobs(body: Body<'_>, route: Route) -> Result<Option<usize>, Refusal> {
    if route == Route::Completions {
        return Ok(body.count(&LOGPROBS).map(|n| n as usize));
    }
    match (body.is_on(&CHAT_LOGPROBS), body.count(&TOP_LOGPROBS).unwrap_or(0)) {
        (true, top) => Ok(Some(top as usize)),
        (false, 0) => Ok(None),
        (false, _) => Err(Refusal::field("top_logprobs", "top_logprobs needs `\"logprobs\": true`")),
    }
}

/// What the answer shows, beside text.
fn shown(body: Body<'_>, asked: &Asked, how: &Reading<'_>) -> Shown {
    let include_usage =
        body.object(&STREAM_OPTIONS).and_then(|options| options.get("include_usage")?.as_bool());
    Shown {
        echo: body.is_on(&ECHO),
        logprobs: asked.options.logprobs,
        prompt_logprobs: asked.prompt_logprobs,
        include_usage: include_usage == Some(true),
        token_ids: body.is_on(&RETURN_TOKEN_IDS),
        timings_per_token: body.is_on(&TIMINGS_PER_TOKEN),
        measured: how.measured,
    }
}

/// Reads a request of one of both routes.
///
/// # Errors
/// What is wrong with it.
pub(super) fn accept(
    service: &Service,
    route: Route,
    value: &serde_json::Value,
    how: &Reading<'_>,
) -> Result<Call, Refusal> {
    let body = Body::new(route, value)?;
    check_model(body, service)?;
    let logprobs = logprobs(body, route)?;
    let (mut asked, form) = match route {
        Route::Completions => {
            let prompts = prompt::of_body(body, service)?;
            (Asked::of_body(body, service, prompts, logprobs, how)?, AnswerForm::default())
        }
        _ => {
            let request = ChatRequest::of_openai(body, value, service)?;
            ChatRequest { logprobs, ..request }.ask(body, service, how)?
        }
    };
    // OpenAI's routes differ in nothing else but their shapes.
    let mut shown = shown(body, &asked, how);
    let shape: Box<dyn Shape> = match route {
        Route::Completions => Box::new(CompletionShape::default()),
        _ => {
            shown.echo = false;
            Box::new(ChatShape::new(form))
        }
    };
    let stream = asked.stream;
    if shown.echo
        && let Some(n) = shown.logprobs
    {
        asked.prompt_logprobs = Some(asked.prompt_logprobs.unwrap_or(0).max(n));
    }
    let choices = asked.prepare(service, how)?;
    let reply = Reply::new(service, shape, &asked, shown, how, stream);
    Ok(Call { choices, reply })
}
