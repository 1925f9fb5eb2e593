//! The sequences of a model: what they are doing, and their states in files.
//!
//! A state is saved to one directory, under a name without separators, and only where the options name the directory. What is in a
//! file, and how foreign ones are refused, is the engine's.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use axum::response::Response;
use bitnetc::engine::{SeatIndex, SlotState};
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, json as answer};
use crate::routes::{Answer, parameters, settled};
use crate::text::read_body;

/// Longest name of a file.
const LONGEST_NAME: usize = 128;

fn shown(slot: &SlotState) -> Value {
    let task = slot.task.as_ref();
    json!({
        "id": slot.seat.0,
        "n_ctx": slot.context,
        "is_processing": slot.is_processing(),
        "id_task": task.map_or(-1, |task| task.task.0 as i64),
        "n_tokens": slot.tokens,
        "n_prompt": task.map_or(0, |task| task.prompt_tokens),
        "n_cached": task.map_or(0, |task| task.cached_tokens),
        "n_decoded": task.map_or(0, |task| task.decoded_tokens),
        "t_age": task.map_or(0.0, |task| task.age.as_secs_f64()),
    })
}

/// What the sequences of a model are doing.
pub(crate) async fn list(State(app): State<Arc<App>>, uri: Uri) -> Response {
    settled(uri.path(), list_of(&app, &uri).await)
}

async fn list_of(app: &Arc<App>, uri: &Uri) -> Answer {
    let parameters = parameters(uri);
    let lease = app.registry.acquire(parameters.get("model").map(String::as_str)).await?;
    let slots = lease.engine.slots();
    let wants_free = parameters.get("fail_on_no_slot").is_some_and(|value| !["", "0", "false"].contains(&&**value));
    if wants_free && slots.iter().all(SlotState::is_processing) {
        let message = "all sequences are taken";
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "no_slot", message).retry_after(1));
    }
    Ok(answer(StatusCode::OK, &slots.iter().map(shown).collect()))
}

/// Saves, restores or erases the state of a sequence.
pub(crate) async fn act(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let path = request.uri().path().to_owned();
    settled(&path, act_on(app, request).await)
}

async fn act_on(app: Arc<App>, request: Request<Body>) -> Answer {
    let uri = request.uri().clone();
    let parameters = parameters(&uri);
    let id = uri.path().strip_prefix("/slots/").and_then(|id| id.parse().ok());
    let lease = app.registry.acquire(parameters.get("model").map(String::as_str)).await?;
    let seat = id.filter(|&id: &u32| id < lease.sequences).map(SeatIndex).ok_or_else(|| {
        let message = format!("there is no such sequence: they are 0 to {}", lease.sequences - 1);
        Failure::new(StatusCode::NOT_FOUND, "slot_not_found", message)
    })?;
    let body = read_body(&app, request.into_body()).await?;
    let action = parameters.get("action").map_or("", String::as_str);
    let path = match action {
        "save" | "restore" => Some(path_of(&app, &body)?),
        "erase" => None,
        other => {
            let message = format!("action: expected save, restore or erase, not {}", other.escape_debug());
            return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_value", message));
        }
    };
    let (action, name) = (action.to_owned(), path.as_ref().and_then(|path| path.file_name()).map(|name| name.to_owned()));
    let begun = std::time::Instant::now();
    let done = tokio::task::spawn_blocking(move || lease.act(&action, seat, path.as_deref())).await;
    let mut value = done.map_err(|_| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "a panic while the state was handled")
    })??;
    value["id_slot"] = json!(seat.0);
    value["filename"] = json!(name.map(|name| name.to_string_lossy().into_owned()));
    value["timings"] = json!({ "total_ms": begun.elapsed().as_secs_f64() * 1e3 });
    Ok(answer(StatusCode::OK, &value))
}

/// The file that a body names.
fn path_of(app: &App, body: &[u8]) -> Result<PathBuf, Failure> {
    let Some(folder) = &app.options.slot_save_path else {
        let message = "states are not saved here: the server was started without a directory for them";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "unsupported", message));
    };
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = body["filename"].as_str().filter(|name| is_plain(name)).ok_or_else(|| {
        let message = "filename: expected a name of letters, digits and `-_.` that does not begin with a dot";
        Failure::new(StatusCode::BAD_REQUEST, "invalid_value", message)
    })?;
    Ok(folder.join(name))
}

/// Whether a name stays in its directory on every system.
fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        for name in ["a", "slot-1.bin", "A_b"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", ".a", "a/b", "/a", "a\\b", "a\0", "ä", &"x".repeat(129)] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
