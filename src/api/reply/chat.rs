//! Answers of `/v1/chat/completions`.

use serde_json::{Value, json};

use super::frame::Frame;
use super::logprobs::{nested, of_prompt};
use super::usage::{Usage, prompt_progress, timings, timings_so_far};
use super::{About, Choice, ChoiceIndex, Piece, Shape};
use crate::api::Refusal;
use crate::api::answer::{AnswerForm, Block, Part, Reader, joined};
use crate::engine::PromptProgress;
use crate::tools::CallEvent;

/// The shape of chats.
#[derive(Debug)]
pub(in crate::api) struct ChatShape {
    form: AnswerForm,
    readers: Vec<Reader>,
    /// Of each choice, tokens that no chunk has had yet.
    held: Vec<Piece>,
    /// Of each choice, the number of the call under way.
    calls: Vec<u32>,
}

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
            choice["prompt_token_ids"] = json!(prompt.tokens[..]);
        }
    }
    choice
}

/// The probabilities of the prompt's tokens, where they were asked for.
pub(super) fn with_prompt_logprobs(mut value: Value, about: &About, choice: &Choice) -> Value {
    if let Some(n) = about.shown.prompt_logprobs {
        value["prompt_logprobs"] = of_prompt(about.tokenizer(), &choice.scored, n);
    }
    value
}

/// A stream that ends with an error.
pub(super) fn failing(refusal: &Refusal) -> Vec<Frame> {
    vec![Frame::Data(refusal.to_openai()), Frame::Done]
}

const CHUNK: &str = "chat.completion.chunk";
const PREFIX: &str = "chatcmpl";

/// A part of an answer as a delta; nothing where a call ends. `call` is the number of the one under way.
fn delta(part: Part, call: &mut u32) -> Option<Value> {
    Some(match part {
        Part::Thoughts(text) => json!({ "reasoning_content": text }),
        Part::Said(CallEvent::Text(text)) => json!({ "content": text }),
        Part::Said(CallEvent::Begin { index, id, name }) => {
            *call = index;
            let function = json!({ "name": name, "arguments": "" });
            json!({ "tool_calls": [{ "index": index, "id": id, "type": "function", "function": function }] })
        }
        Part::Said(CallEvent::Arguments(text)) => {
            json!({ "tool_calls": [{ "index": call, "function": { "arguments": text } }] })
        }
        Part::Said(CallEvent::End) => return None,
    })
}

/// A whole answer as a message.
pub(in crate::api) fn message(blocks: &[Block]) -> Value {
    let call = |block: &Block| match block {
        Block::Call { id, name, arguments } => {
            let function = json!({ "name": name, "arguments": arguments });
            Some(json!({ "id": id, "type": "function", "function": function }))
        }
        _ => None,
    };
    let calls: Vec<Value> = blocks.iter().filter_map(call).collect();
    let (thoughts, text) = (joined(blocks, true), joined(blocks, false));
    let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { json!(text) };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if blocks.iter().any(|block| matches!(block, Block::Thoughts(_))) {
        message["reasoning_content"] = json!(thoughts);
    }
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    message
}

/// Why a choice ended, where tools may have been called.
fn finish_reason(choice: &Choice, has_calls: bool) -> Value {
    match choice.finish_reason() {
        Some("stop") if has_calls => json!("tool_calls"),
        reason => json!(reason),
    }
}

impl ChatShape {
    /// For answers that are read in this way.
    pub(in crate::api) fn new(form: AnswerForm) -> Self {
        Self { form, readers: Vec::new(), held: Vec::new(), calls: Vec::new() }
    }

    fn chunk(about: &About, index: ChoiceIndex, delta: &Value) -> Value {
        let choice =
            json!({ "index": index.index(), "delta": delta, "logprobs": null, "finish_reason": null });
        envelope(about, PREFIX, CHUNK, json!([choice]))
    }

    /// The chunk of a delta, with the tokens that it became certain with.
    fn with_tokens(
        about: &About,
        index: ChoiceIndex,
        choice: &Choice,
        delta: &Value,
        piece: &Piece,
    ) -> Frame {
        let mut chunk = Self::chunk(about, index, delta);
        if let Some(n) = about.shown.logprobs {
            chunk["choices"][0]["logprobs"] = nested(about.tokenizer(), &piece.logprobs, n);
        }
        let prompt = piece.first.then_some(choice);
        let mut value = with_ids(chunk["choices"][0].take(), about, &piece.tokens, prompt);
        if let Some(choice) = prompt {
            value = with_prompt_logprobs(value, about, choice);
        }
        chunk["choices"][0] = value;
        with_usage(with_timings(chunk, about, choice), about, None)
    }

    /// The chunks of parts of an answer; the first has the tokens that were held.
    fn parts(&mut self, about: &About, index: ChoiceIndex, choice: &Choice, parts: Vec<Part>) -> Vec<Frame> {
        let (Some(held), Some(call)) = (self.held.get_mut(index.index()), self.calls.get_mut(index.index()))
        else {
            return Vec::new();
        };
        let deltas = parts.into_iter().filter_map(|part| delta(part, call));
        deltas.map(|delta| Self::with_tokens(about, index, choice, &delta, &std::mem::take(held))).collect()
    }
}

impl Shape for ChatShape {
    fn begin(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame> {
        let seed = |index: usize| about.seed.wrapping_add(index as u64);
        self.readers = (0..choices.len()).map(|index| self.form.reader(seed(index))).collect();
        self.held = vec![Piece::default(); choices.len()];
        self.calls = vec![0; choices.len()];
        let role = |index: usize| {
            let delta = json!({ "role": "assistant", "content": "" });
            with_usage(Self::chunk(about, ChoiceIndex::new(index), &delta), about, None)
        };
        (0..choices.len()).map(role).collect()
    }

    fn progress(
        &mut self,
        about: &About,
        index: ChoiceIndex,
        _: &Choice,
        progress: PromptProgress,
    ) -> Vec<Frame> {
        let mut chunk = Self::chunk(about, index, &json!({}));
        chunk["prompt_progress"] = prompt_progress(progress);
        vec![with_usage(chunk, about, None)]
    }

    fn piece(&mut self, about: &About, index: ChoiceIndex, choice: &Choice, piece: Piece) -> Vec<Frame> {
        if self.form.is_plain() {
            let delta = json!({ "content": piece.text });
            return vec![Self::with_tokens(about, index, choice, &delta, &piece)];
        }
        let Some(reader) = self.readers.get_mut(index.index()) else { return Vec::new() };
        let parts = reader.push(&piece.text);
        if let Some(held) = self.held.get_mut(index.index()) {
            held.tokens.extend(piece.tokens);
            held.logprobs.extend(piece.logprobs);
            held.first |= piece.first;
        }
        self.parts(about, index, choice, parts)
    }

    fn ended(&mut self, about: &About, index: ChoiceIndex, choice: &Choice) -> Vec<Frame> {
        let Some(reader) = self.readers.get_mut(index.index()) else { return Vec::new() };
        let parts = if self.form.is_plain() { Vec::new() } else { reader.finish(choice.ending()) };
        let has_calls = reader.has_calls();
        let mut frames = self.parts(about, index, choice, parts);
        // Tokens of marks alone have no part of their own.
        let held = self.held.get_mut(index.index()).map(std::mem::take).unwrap_or_default();
        let shown = about.shown.token_ids || about.shown.logprobs.is_some();
        if shown && !held.tokens.is_empty() || held.first && about.shown.prompt_logprobs.is_some() {
            frames.push(Self::with_tokens(about, index, choice, &json!({ "content": "" }), &held));
        }
        let mut chunk = Self::chunk(about, index, &json!({}));
        chunk["choices"][0]["finish_reason"] = finish_reason(choice, has_calls);
        chunk["choices"][0]["stop_reason"] = choice.stop_reason();
        frames.push(last_chunk(chunk, about, choice));
        frames
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
            let blocks = choice.blocks(&self.form, about.seed.wrapping_add(index as u64));
            let has_calls = blocks.iter().any(|block| matches!(block, Block::Call { .. }));
            let value = json!({
                "index": index,
                "message": message(&blocks),
                "logprobs": logprobs,
                "finish_reason": finish_reason(choice, has_calls),
                "stop_reason": choice.stop_reason(),
            });
            let value = with_ids(value, about, &end.tokens, Some(choice));
            Some(with_prompt_logprobs(value, about, choice))
        };
        let all: Vec<Value> = choices.iter().enumerate().filter_map(of).collect();
        complete(envelope(about, PREFIX, "chat.completion", all.into()), about, choices)
    }
}
