//! Answers of OpenAI's `/v1/responses`: items of thoughts, messages and calls.

use bitnetc_runtime::tokenizer::TokenId;
use serde_json::{Value, json};

use super::frame::Frame;
use super::usage::Usage;
use super::{About, Choice, ChoiceIndex, Piece, Shape};
use crate::api::Refusal;
use crate::api::answer::{AnswerForm, Block, Part, Reader};
use crate::engine::Stop;
use crate::tools::CallEvent;

/// The shape of responses.
#[derive(Debug)]
pub(in crate::api) struct ResponseShape {
    form: AnswerForm,
    /// What of the request the answer repeats.
    repeated: Value,
    reader: Option<Reader>,
    /// Items that are complete, and the one that is open.
    done: Vec<Block>,
    open: Option<Block>,
    sequence: u64,
}

/// The id of an item.
fn item_id(about: &About, block: &Block, index: usize) -> String {
    let prefix = match block {
        Block::Thoughts(_) => "rs",
        Block::Text(_) => "msg",
        Block::Call { .. } => "fc",
    };
    format!("{prefix}_{}{index:02x}", about.id)
}

/// The content part of a text.
fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

/// An item of the output.
fn item(about: &About, block: &Block, index: usize, status: &str) -> Value {
    let id = item_id(about, block, index);
    let is_begun = status == "in_progress";
    match block {
        Block::Thoughts(text) => {
            let content = json!([{ "type": "reasoning_text", "text": text }]);
            let content = if is_begun { json!([]) } else { content };
            json!({ "id": id, "type": "reasoning", "summary": [], "content": content, "status": status })
        }
        Block::Text(text) => {
            let content = if is_begun { json!([]) } else { json!([part(text)]) };
            json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": content })
        }
        Block::Call { id: call, name, arguments } => json!({
            "id": id, "type": "function_call", "status": status, "call_id": call, "name": name, "arguments": arguments,
        }),
    }
}

/// How an answer ended: its status, and why it is incomplete.
fn status(choices: &[Choice]) -> (&'static str, Value) {
    match choices.first().and_then(|choice| choice.end.as_ref()).map(|end| end.finish) {
        Some(Stop::Limit | Stop::ContextFull | Stop::Interrupted) => {
            ("incomplete", json!({ "reason": "max_output_tokens" }))
        }
        _ => ("completed", Value::Null),
    }
}

impl ResponseShape {
    /// For answers that are read in this way; `repeated` is what they repeat of their request.
    pub(in crate::api) fn new(form: AnswerForm, repeated: Value) -> Self {
        Self { form, repeated, reader: None, done: Vec::new(), open: None, sequence: 0 }
    }

    fn response(&self, about: &About, status: &str, output: Value) -> Value {
        let mut response = json!({
            "id": format!("resp_{}", about.id),
            "object": "response",
            "created_at": about.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": about.model,
            "output": output,
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
            "store": false,
            "truncation": "disabled",
            "usage": null,
        });
        if let (Value::Object(response), Value::Object(repeated)) = (&mut response, &self.repeated) {
            response.extend(repeated.clone());
        }
        response
    }

    /// The response when it has ended.
    fn ended_response(&self, about: &About, choices: &[Choice], blocks: &[Block]) -> Value {
        let (status, details) = status(choices);
        let last = blocks.len().saturating_sub(1);
        let of = |(index, block)| item(about, block, index, if index == last { status } else { "completed" });
        let output: Vec<Value> = blocks.iter().enumerate().map(of).collect();
        let mut response = self.response(about, status, json!(output));
        response["incomplete_details"] = details;
        let usage = Usage::of(about, choices);
        response["usage"] = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": { "cached_tokens": usage.cached_tokens },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": { "reasoning_tokens": self.reasoning_tokens(about, choices) },
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        });
        response
    }

    /// Tokens of the thoughts, their marks among them.
    fn reasoning_tokens(&self, about: &About, choices: &[Choice]) -> usize {
        let Some(end) = choices.first().and_then(|choice| choice.end.as_ref()) else { return 0 };
        let thoughts = self.form.thought_bytes(&end.text);
        let mut bytes = 0;
        let begins_in_thoughts = |&&id: &&TokenId| {
            let begin = bytes;
            bytes += about.tokenizer().piece(id, about.visible.contains(&id)).len();
            begin < thoughts
        };
        end.tokens.iter().take_while(begins_in_thoughts).count()
    }

    fn event(&mut self, name: &'static str, value: Value) -> Frame {
        let mut event = json!({ "type": name, "sequence_number": self.sequence });
        self.sequence += 1;
        if let (Value::Object(event), Value::Object(value)) = (&mut event, value) {
            event.extend(value);
        }
        Frame::Event(name, event)
    }

    /// Opens an item.
    fn begin_item(&mut self, about: &About, block: &Block, out: &mut Vec<Frame>) {
        let index = self.done.len();
        let begun = json!({ "output_index": index, "item": item(about, block, index, "in_progress") });
        out.push(self.event("response.output_item.added", begun));
        let content = match block {
            Block::Text(_) => part(""),
            Block::Thoughts(_) => json!({ "type": "reasoning_text", "text": "" }),
            Block::Call { .. } => return,
        };
        let id = item_id(about, block, index);
        let begun = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": content });
        out.push(self.event("response.content_part.added", begun));
    }

    /// More of the open item.
    fn delta(&mut self, about: &About, part: &Part, out: &mut Vec<Frame>) {
        let index = self.done.len();
        let Some(id) = self.open.as_ref().map(|block| item_id(about, block, index)) else { return };
        let at =
            |delta: &str| json!({ "item_id": id, "output_index": index, "content_index": 0, "delta": delta });
        let frame = match part {
            Part::Thoughts(text) => self.event("response.reasoning_text.delta", at(text)),
            Part::Said(CallEvent::Text(text)) => {
                let mut value = at(text);
                value["logprobs"] = json!([]);
                self.event("response.output_text.delta", value)
            }
            Part::Said(CallEvent::Arguments(text)) => {
                let value = json!({ "item_id": id, "output_index": index, "delta": text });
                self.event("response.function_call_arguments.delta", value)
            }
            Part::Said(CallEvent::Begin { .. }) | Part::Said(CallEvent::End) => return,
        };
        out.push(frame);
    }

    /// Closes the open item.
    fn close(&mut self, about: &About, status: &str, out: &mut Vec<Frame>) {
        let Some(block) = self.open.take() else { return };
        let index = self.done.len();
        let id = item_id(about, &block, index);
        let at = |mut value: Value| {
            value["item_id"] = json!(id);
            value["output_index"] = json!(index);
            value["content_index"] = json!(0);
            value
        };
        match &block {
            Block::Text(text) => {
                out.push(
                    self.event("response.output_text.done", at(json!({ "text": text, "logprobs": [] }))),
                );
                out.push(self.event("response.content_part.done", at(json!({ "part": part(text) }))));
            }
            Block::Thoughts(text) => {
                out.push(self.event("response.reasoning_text.done", at(json!({ "text": text }))));
                let part = json!({ "type": "reasoning_text", "text": text });
                out.push(self.event("response.content_part.done", at(json!({ "part": part }))));
            }
            Block::Call { name, arguments, .. } => {
                let value =
                    json!({ "item_id": id, "output_index": index, "name": name, "arguments": arguments });
                out.push(self.event("response.function_call_arguments.done", value));
            }
        }
        let value = json!({ "output_index": index, "item": item(about, &block, index, status) });
        out.push(self.event("response.output_item.done", value));
        self.done.push(block);
    }

    fn parts(&mut self, about: &About, parts: Vec<Part>) -> Vec<Frame> {
        let mut out = Vec::new();
        for part in parts {
            let goes_on = self.open.as_mut().is_some_and(|block| block.extend(&part));
            if !goes_on && let Some(mut block) = Block::of(&part) {
                self.close(about, "completed", &mut out);
                self.begin_item(about, &block, &mut out);
                block.extend(&part);
                self.open = Some(block);
            }
            self.delta(about, &part, &mut out);
        }
        out
    }
}

impl Shape for ResponseShape {
    fn begin(&mut self, about: &About, _: &[Choice]) -> Vec<Frame> {
        self.reader = Some(self.form.reader(about.seed));
        let response = json!({ "response": self.response(about, "in_progress", json!([])) });
        let created = self.event("response.created", response.clone());
        vec![created, self.event("response.in_progress", response)]
    }

    fn piece(&mut self, about: &About, _: ChoiceIndex, _: &Choice, piece: Piece) -> Vec<Frame> {
        let parts = self.reader.as_mut().map(|reader| reader.push(&piece.text)).unwrap_or_default();
        self.parts(about, parts)
    }

    fn ended(&mut self, about: &About, _: ChoiceIndex, choice: &Choice) -> Vec<Frame> {
        let end = choice.ending();
        let parts = self.reader.as_mut().map(|reader| reader.finish(end)).unwrap_or_default();
        let mut out = self.parts(about, parts);
        let (status, _) = status(std::slice::from_ref(choice));
        self.close(about, status, &mut out);
        out
    }

    fn end(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame> {
        let response = self.ended_response(about, choices, &self.done);
        let name = match response["status"] == "completed" {
            true => "response.completed",
            false => "response.incomplete",
        };
        vec![self.event(name, json!({ "response": response }))]
    }

    fn fail(&mut self, about: &About, refusal: &Refusal) -> Vec<Frame> {
        let error = json!({ "code": refusal.code, "message": refusal.message, "param": refusal.param });
        let error = self.event("error", error);
        let mut response = self.response(about, "failed", json!([]));
        response["error"] = json!({ "code": "server_error", "message": refusal.message });
        vec![error, self.event("response.failed", json!({ "response": response }))]
    }

    fn body(&mut self, about: &About, choices: &[Choice]) -> Value {
        let blocks = choices.first().map(|choice| choice.blocks(&self.form, about.seed)).unwrap_or_default();
        self.ended_response(about, choices, &blocks)
    }
}
