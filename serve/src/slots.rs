//! The sequences of a model: their current state, and saving that to files.
//!
//! Files have names without separators and are in the directory that the options name; without one, saving is disabled. The engine
//! defines the format and refuses files of other models.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use axum::response::Response;
use bitnetc::api::Refusal;
use bitnetc::engine::{Engine, SavedSlot, SeatIndex, SlotError, SlotState};
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, json as answer};
use crate::routes::{Answer, parameters, settled};
use crate::text::read_short_body;

/// Longest name of a file.
const LONGEST_NAME: usize = 128;
/// Files in the directory of states.
const MOST_FILES: usize = 256;

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
    let entry = app.registry.find(parameters.get("model").map(String::as_str))?;
    // Looking at a model loads none.
    let slots = entry.running().map_or_else(Vec::new, |lease| lease.engine.slots());
    let wants_free =
        parameters.get("fail_on_no_slot").is_some_and(|value| !["", "0", "false"].contains(&&**value));
    if wants_free && slots.iter().all(SlotState::is_processing) {
        let message = match slots.is_empty() {
            true => "the model is not loaded: try again later",
            false => "all sequences are in use: try again later",
        };
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
    let body = read_short_body(&app, request.into_body()).await?;
    let named = match parameters.get("model") {
        Some(name) => Some(name.clone()),
        None if body.is_empty() => None,
        None => bitnetc::api::model_of(&body)?,
    };
    let lease = app.registry.acquire(named.as_deref()).await?;
    let seat = id.filter(|&id: &u32| id < lease.sequences).map(SeatIndex).ok_or_else(|| {
        let message = format!("there is no such sequence: they are 0 to {}", lease.sequences - 1);
        Failure::new(StatusCode::NOT_FOUND, "slot_not_found", message)
    })?;
    let action = match parameters.get("action").map_or("", String::as_str) {
        "save" => {
            let path = path_of(&app, &body)?;
            check_folder(&path)?;
            Action::Save(path)
        }
        "restore" => Action::Restore(existing(path_of(&app, &body)?)?),
        "erase" => Action::Erase,
        other => {
            let is = if other.is_empty() { "missing".to_owned() } else { format!("{other:?}") };
            let message =
                format!("action is {is}: expected save, restore or erase, as in /slots/0?action=erase");
            return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_value", message));
        }
    };
    let place = Arc::clone(&app.saving).try_acquire_owned().map_err(|_| {
        let message = "another state is being saved, restored or erased: try again later";
        Failure::new(StatusCode::TOO_MANY_REQUESTS, "slots_busy", message).retry_after(1)
    })?;
    let done = tokio::task::spawn_blocking(move || {
        let done = action.run(&lease.engine, seat);
        drop(place);
        done
    });
    let value = done.await.map_err(|_| Failure::internal("a panic while the state was handled"))?;
    Ok(answer(StatusCode::OK, &value?))
}

/// What is done with the state of a sequence.
enum Action {
    Save(PathBuf),
    Restore(PathBuf),
    Erase,
}

impl Action {
    /// Does it; what to say of it, in the words of llama.cpp's server.
    fn run(self, engine: &Engine, seat: SeatIndex) -> Result<Value, Failure> {
        let begun = Instant::now();
        let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
        Ok(match self {
            Self::Save(path) => {
                let SavedSlot { tokens, bytes } = engine.save(seat, &path).map_err(refused)?;
                let timings = json!({ "save_ms": ms(begun) });
                json!({ "id_slot": seat.0, "filename": name(&path), "n_saved": tokens, "n_written": bytes, "timings": timings })
            }
            Self::Restore(path) => {
                let SavedSlot { tokens, bytes } = engine.restore(seat, &path).map_err(refused)?;
                let timings = json!({ "restore_ms": ms(begun) });
                json!({ "id_slot": seat.0, "filename": name(&path), "n_restored": tokens, "n_read": bytes, "timings": timings })
            }
            Self::Erase => json!({ "id_slot": seat.0, "n_erased": engine.erase(seat).map_err(refused)? }),
        })
    }
}

fn name(path: &Path) -> Value {
    path.file_name().map_or(Value::Null, |name| json!(name.to_string_lossy()))
}

/// What the engine says of a state.
fn refused(error: SlotError) -> Failure {
    let (status, code) = match &error {
        SlotError::NoSuchSeat { .. } => (StatusCode::NOT_FOUND, "slot_not_found"),
        SlotError::InUse { .. } => (StatusCode::CONFLICT, "slot_in_use"),
        SlotError::Empty { .. } => (StatusCode::BAD_REQUEST, "slot_empty"),
        SlotError::File(_) => (StatusCode::BAD_REQUEST, "slot_file"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "slot_failed"),
    };
    Failure::new(status, code, error.to_string())
}

/// The file that a body names.
fn path_of(app: &App, body: &[u8]) -> Result<PathBuf, Failure> {
    let Some(folder) = &app.options.slot_save_path else {
        let message = "saving is disabled: start the server with --slot-save-path DIR";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "unsupported", message));
    };
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = body["filename"].as_str().filter(|name| is_plain(name)).ok_or_else(|| {
        let message = "filename: expected a name of letters, digits and `-_.` that does not begin with a dot";
        Refusal::field("filename", message)
    })?;
    Ok(folder.join(name))
}

/// The path of a state that was saved.
fn existing(path: PathBuf) -> Result<PathBuf, Failure> {
    match path.is_file() {
        true => Ok(path),
        false => {
            let message = format!("filename: there is no saved state {}", name(&path));
            let refusal = Refusal::field("filename", message);
            Err(Refusal { status: 404, code: "slot_file_not_found", ..refusal }.into())
        }
    }
}

/// Refuses a new file where there are as many as there may be.
fn check_folder(path: &Path) -> Result<(), Failure> {
    let files = path.parent().and_then(|folder| std::fs::read_dir(folder).ok()).map_or(0, Iterator::count);
    if files < MOST_FILES || path.exists() {
        return Ok(());
    }
    let message = format!(
        "the directory of saved states has {files} files, and may have {MOST_FILES}: use the name of one of them, or remove some"
    );
    Err(Failure::new(StatusCode::BAD_REQUEST, "slot_files_full", message))
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
    fn a_directory_has_a_bounded_number_of_states() {
        let folder = tempfile::tempdir().unwrap();
        let path = |number: usize| folder.path().join(number.to_string());
        (1..MOST_FILES).for_each(|number| std::fs::write(path(number), "").unwrap());
        assert!(check_folder(&path(0)).is_ok());
        std::fs::write(path(0), "").unwrap();
        assert_eq!(check_folder(&path(MOST_FILES)).unwrap_err().refusal.code, "slot_files_full");
        assert!(check_folder(&path(1)).is_ok());
    }

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
