//! Results in the shape of OpenAI's batch files: one object a line.
//!
//! An answered request has `response.status_code` 200 and the answer of its route as `response.body`; a refused
//! one has the status and the `error` object that a server would give. `request_hash` belongs to resuming: the first 64
//! bits of the BLAKE3 hash of the request's line; so do the `settings` that [`super::Job`] adds.

use serde_json::{Value, json};

use super::Item;
use crate::api::Refusal;

/// The result of a request that was answered.
pub(super) fn answered(item: &Item, body: &Value) -> Value {
    result(item, 200, body)
}

/// The result of a request that was not answered.
pub(super) fn refused(item: &Item, refusal: &Refusal) -> Value {
    let message = format!("line {}: {}", item.line, refusal.message);
    let refusal = Refusal { message, ..refusal.clone() };
    result(item, refusal.status, &refusal.to_openai())
}

/// What every line of results begins with, by which a torn one is told from a line of something else.
pub(super) const BEGINNING: &str = "{\"id\":\"batch_req_";

fn result(item: &Item, status: u16, body: &Value) -> Value {
    json!({
        // The first key, by `BEGINNING`.
        "id": format!("batch_req_{}", item.hash),
        "custom_id": item.custom_id,
        "request_hash": item.hash,
        "response": { "status_code": status, "request_id": format!("req_{}", item.hash), "body": body },
        "error": null,
    })
}
