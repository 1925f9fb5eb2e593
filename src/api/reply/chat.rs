//! Answers of `/v1/chat/completions`.

use serde_json::{Value, json};

use super::frame::Frame;
use super::logprobs::{nested, of_prompt};
use super::usage::{Usage, timings, timings_so_far};
use super::{About, Choice, ChoiceIndex, Piece, Shape};
use crate::api::Refusal;

/// The shape of chats.
#[derive(Debug)]
pub(in crate::api) struct ChatShape;

/// What every answer and every chunk begins with.
pub(super) fn envelope(about: &About, prefix: &str, object: &str, choices: Value) -> Value {
    json!({
        "id": format!("{prefix}-{}", about.id),
        "object": object,
        "created": about.created,
        "model": about.model,
        "system_fingerprint": about.fingerprint,
        "choices": choices,
    })
}

/// The usage of a whole stream, or null in its other chunks, if it was asked for.
pub(super) fn with_usage(mut chunk: Value, about: &About, usage: Option<Usage>) -> Frame {
    if about.shown.include_usage {
        chunk["usage"] = usage.map_or(Value::Null, |usage| usage.to_openai(about.shown.measured));
    }
    Frame::Data(chunk)
}

/// The end of a stream: the usage, if it was asked for, and the mark.
pub(super) fn closing(about: &About, choices: &[Choice], prefix: &str, object: &str) -> Vec<Frame> {
    let usage = about.shown.include_usage.then(|| {
        let chunk = envelope(about, prefix, object, json!([]));
        with_usage(chunk, about, Some(Usage::of(about, choices)))
    });
    usage.into_iter().chain([Frame::Done]).collect()
}

/// What a whole answer has after its choices.
pub(super) fn complete(mut body: Value, about: &About, choices: &[Choice]) -> Value {
    body["usage"] = Usage::of(about, choices).to_openai(about.shown.measured);
    body["seed"] = json!(about.seed);
    if about.shown.measured
        && let [Choice { end: Some(end), .. }] = choices
    {
        body["timings"] = timings(end);
    }
    body
}

/// Adds what only some answers have to the last chunk of a choice.
pub(super) fn last_chunk(mut chunk: Value, about: &About, choice: &Choice) -> Frame {
    chunk["seed"] = json!(about.seed);
    if let Some(end) = &choice.end
        && about.shown.measured
    {
        chunk["timings"] = timings(end);
    }
    with_usage(chunk, about, None)
}

/// Adds the times so far to a chunk, if they were asked for.
pub(super) fn with_timings(mut chunk: Value, about: &About, choice: &Choice) -> Value {
    if about.shown.timings_per_token {
        chunk["timings"] = timings_so_far(choice);
    }
    chunk
}

/// What a chunk and a whole choice have where they were asked for.
pub(super) fn with_ids(mut choice: Value, about: &About, tokens: &[u32], prompt: Option<&Choice>) -> Value {
    if about.shown.token_ids {
        choice["token_ids"] = json!(tokens);
        if let Some(prompt) = prompt.and_then(|choice| about.prompts.get(choice.prompt)) {
            choice["prompt_token_ids"] = json!(prompt.tokens);
        }
    }
    choice
}

/// The probabilities of the prompt's tokens, where they were asked for.
pub(super) fn with_prompt_logprobs(mut value: Value, about: &About, choice: &Choice) -> Value {
    if let (Some(n), Some(end)) = (about.shown.prompt_logprobs, &choice.end) {
        value["prompt_logprobs"] = of_prompt(about.tokenizer(), &end.prompt_logprobs, n);
    }
    value
}

/// A stream that ends with an error.
pub(super) fn failing(refusal: &Refusal) -> Vec<Frame> {
    vec![Frame::Data(refusal.to_openai()), Frame::Done]
}

const CHUNK: &str = "chat.completion.chunk";
const PREFIX: &str = "chatcmpl";

impl ChatShape {
    fn chunk(about: &About, index: ChoiceIndex, delta: &Value) -> Value {
        let choice =
            json!({ "index": index.index(), "delta": delta, "logprobs": null, "finish_reason": null });
        envelope(about, PREFIX, CHUNK, json!([choice]))
    }
}

impl Shape for ChatShape {
    fn begin(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame> {
        let role = |index: usize| {
            let delta = json!({ "role": "assistant", "content": "" });
            with_usage(Self::chunk(about, ChoiceIndex::new(index), &delta), about, None)
        };
        (0..choices.len()).map(role).collect()
    }

    fn piece(&mut self, about: &About, index: ChoiceIndex, choice: &Choice, piece: Piece) -> Vec<Frame> {
        let mut chunk = Self::chunk(about, index, &json!({ "content": piece.text }));
        if let Some(n) = about.shown.logprobs {
            chunk["choices"][0]["logprobs"] = nested(about.tokenizer(), &piece.logprobs, n);
        }
        let prompt = piece.first.then_some(choice);
        chunk["choices"][0] = with_ids(chunk["choices"][0].take(), about, &piece.tokens, prompt);
        vec![with_usage(with_timings(chunk, about, choice), about, None)]
    }

    fn ended(&mut self, about: &About, index: ChoiceIndex, choice: &Choice) -> Vec<Frame> {
        let mut chunk = Self::chunk(about, index, &json!({}));
        chunk["choices"][0]["finish_reason"] = json!(choice.finish_reason());
        chunk["choices"][0]["stop_reason"] = choice.stop_reason();
        vec![last_chunk(chunk, about, choice)]
    }

    fn end(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame> {
        closing(about, choices, PREFIX, CHUNK)
    }

    fn fail(&mut self, _: &About, refusal: &Refusal) -> Vec<Frame> {
        failing(refusal)
    }

    fn body(&mut self, about: &About, choices: &[Choice]) -> Value {
        let of = |(index, choice): (usize, &Choice)| {
            let end = choice.end.as_ref()?;
            let logprobs = about.shown.logprobs.map(|n| nested(about.tokenizer(), &end.logprobs, n));
            let value = json!({
                "index": index,
                "message": { "role": "assistant", "content": end.text, "refusal": null },
                "logprobs": logprobs,
                "finish_reason": choice.finish_reason(),
                "stop_reason": choice.stop_reason(),
            });
            let value = with_ids(value, about, &end.tokens, Some(choice));
            Some(with_prompt_logprobs(value, about, choice))
        };
        let all: Vec<Value> = choices.iter().enumerate().filter_map(of).collect();
        complete(envelope(about, PREFIX, "chat.completion", all.into()), about, choices)
    }
}
