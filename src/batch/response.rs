//! Results in the shape of OpenAI's batch files: one object a line.
//!
//! An answered request has `response.status_code` 200 and a `text_completion` or `chat.completion` as `response.body`; a refused
//! one has the status and the `error` object that a server would give. `request_hash` belongs to resuming: the first 64
//! bits of the BLAKE3 hash of the request's line; so do the `settings` that [`super::Job`] adds.

use std::time::{SystemTime, UNIX_EPOCH};

use bitnetc_runtime::sampling::{TokenLogprob, TokenLogprobs};
use bitnetc_runtime::tokenizer::Tokenize;
use serde_json::{Value, json};

use super::{Endpoint, Item, Refusal};
use crate::engine::{Completion, Stop};

/// The result of a request that was answered. `seed` is the one that was used; `tokenizer` gives the texts of tokens.
pub fn answered(
    item: &Item,
    endpoint: Endpoint,
    model: &str,
    seed: u64,
    completion: &Completion,
    tokenizer: &dyn Tokenize,
) -> Value {
    let finish = match completion.finish {
        Stop::EndToken(_) | Stop::StopString(_) | Stop::Grammar => "stop",
        Stop::Limit | Stop::ContextFull | Stop::Interrupted => "length",
    };
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let logprobs = match (completion.logprobs.is_empty(), endpoint) {
        (true, _) => Value::Null,
        (false, Endpoint::Completions) => listed(&completion.logprobs, tokenizer),
        (false, Endpoint::Chat) => nested(&completion.logprobs, tokenizer),
    };
    let (id, object, choice) = match endpoint {
        Endpoint::Completions => {
            let choice = json!({
                "index": 0, "text": completion.text, "logprobs": logprobs, "finish_reason": finish,
            });
            (format!("cmpl-{}", item.hash), "text_completion", choice)
        }
        Endpoint::Chat => {
            let message = json!({ "role": "assistant", "content": completion.text, "refusal": null });
            let choice = json!({
                "index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish,
            });
            (format!("chatcmpl-{}", item.hash), "chat.completion", choice)
        }
    };
    let (prompt, generated) = (completion.prompt_tokens, completion.tokens.len());
    let body = json!({
        "id": id,
        "object": object,
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        },
        "seed": seed,
    });
    result(item, 200, &body)
}

/// Probabilities as `/v1/completions` lists them. Where several of the likeliest tokens have the same text, the likeliest counts.
fn listed(logprobs: &[TokenLogprobs], tokenizer: &dyn Tokenize) -> Value {
    let text = |id| tokenizer.decode_lossy(&[id], true);
    let mut offset = 0;
    let mut offsets = Vec::new();
    for entry in logprobs {
        offsets.push(offset);
        offset += text(entry.token.id).chars().count();
    }
    let top = |entry: &TokenLogprobs| -> Value {
        let mut map = serde_json::Map::new();
        for token in &entry.top {
            map.entry(text(token.id)).or_insert_with(|| json!(token.logprob));
        }
        map.into()
    };
    json!({
        "tokens": logprobs.iter().map(|entry| text(entry.token.id)).collect::<Vec<_>>(),
        "token_logprobs": logprobs.iter().map(|entry| entry.token.logprob).collect::<Vec<_>>(),
        "top_logprobs": logprobs.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// Probabilities as `/v1/chat/completions` lists them.
fn nested(logprobs: &[TokenLogprobs], tokenizer: &dyn Tokenize) -> Value {
    let shown = |token: &TokenLogprob| {
        json!({
            "token": tokenizer.decode_lossy(&[token.id], true),
            "logprob": token.logprob,
            "bytes": tokenizer.token_bytes(token.id),
        })
    };
    let entry = |entry: &TokenLogprobs| {
        let mut value = shown(&entry.token);
        value["top_logprobs"] = entry.top.iter().map(shown).collect();
        value
    };
    json!({ "content": logprobs.iter().map(entry).collect::<Vec<_>>(), "refusal": null })
}

/// The result of a request that was not answered.
pub fn refused(item: &Item, refusal: &Refusal) -> Value {
    let error = json!({
        "message": format!("line {}: {}", item.line, refusal.message),
        "type": if refusal.status < 500 { "invalid_request_error" } else { "server_error" },
        "param": refusal.param,
        "code": refusal.code,
    });
    result(item, refusal.status, &json!({ "error": error }))
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
