//! Answers of Anthropic's `/v1/messages`: blocks of thoughts, text and calls.

use bitnetc_runtime::sampling::StopList;
use serde_json::{Value, json};

use super::frame::Frame;
use super::usage::Usage;
use super::{About, Choice, ChoiceIndex, Piece, Shape};
use crate::api::Refusal;
use crate::api::answer::{AnswerForm, Block, Part, Reader};
use crate::engine::Stop;
use crate::tools::CallEvent;

/// The shape of messages.
#[derive(Debug)]
pub(in crate::api) struct MessageShape {
    form: AnswerForm,
    /// The strings that the request ends at.
    stops: StopList,
    reader: Option<Reader>,
    /// The block that is open, with its number.
    open: Option<Block>,
    blocks: usize,
    has_calls: bool,
}

fn event(name: &'static str, mut value: Value) -> Frame {
    if let Value::Object(fields) = &mut value {
        fields.shift_insert(0, "type".to_owned(), json!(name));
    }
    Frame::Event(name, value)
}

impl MessageShape {
    /// For answers that are read in this way, and end before these strings.
    pub(in crate::api) fn new(form: AnswerForm, stops: StopList) -> Self {
        Self { form, stops, reader: None, open: None, blocks: 0, has_calls: false }
    }

    /// The number of the open block.
    fn index(&self) -> usize {
        self.blocks.saturating_sub(1)
    }

    /// The message around its content.
    fn message(about: &About, content: Value, usage: Value) -> Value {
        json!({
            "id": format!("msg_{}", about.id),
            "type": "message",
            "role": "assistant",
            "model": about.model,
            "content": content,
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage,
        })
    }

    /// Why the answer ended, and the string that it ended at.
    fn reason(&self, choice: &Choice, has_calls: bool) -> (&'static str, Value) {
        match choice.end.as_ref().map(|end| end.finish) {
            Some(Stop::StopString(index)) => match self.stops.get(index) {
                Some(stop) => ("stop_sequence", json!(stop)),
                None => ("end_turn", Value::Null),
            },
            Some(Stop::Limit | Stop::ContextFull | Stop::Interrupted) => ("max_tokens", Value::Null),
            _ if has_calls => ("tool_use", Value::Null),
            _ => ("end_turn", Value::Null),
        }
    }

    fn usage(about: &About, choices: &[Choice]) -> Value {
        let usage = Usage::of(about, choices);
        json!({
            "input_tokens": usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        })
    }

    /// A block in an answer in one piece; `empty`: as a stream begins it.
    fn block(block: &Block, empty: bool) -> Value {
        match block {
            Block::Thoughts(text) => json!({ "type": "thinking", "thinking": text, "signature": "" }),
            Block::Text(text) => json!({ "type": "text", "text": text }),
            Block::Call { id, name, arguments } => {
                let input = if empty { None } else { serde_json::from_str::<Value>(arguments).ok() };
                let input = input.unwrap_or_else(|| json!({}));
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
        }
    }

    /// Closes the open block.
    fn close(&mut self, out: &mut Vec<Frame>) {
        let index = self.index();
        let Some(block) = self.open.take() else { return };
        if matches!(block, Block::Thoughts(_)) {
            let delta = json!({ "type": "signature_delta", "signature": "" });
            out.push(event("content_block_delta", json!({ "index": index, "delta": delta })));
        }
        out.push(event("content_block_stop", json!({ "index": index })));
    }

    fn parts(&mut self, parts: Vec<Part>) -> Vec<Frame> {
        let mut out = Vec::new();
        for part in parts {
            let goes_on = self.open.as_mut().is_some_and(|block| block.extend(&part));
            if !goes_on && let Some(block) = Block::of(&part) {
                self.close(&mut out);
                self.blocks += 1;
                self.has_calls |= matches!(block, Block::Call { .. });
                let start = json!({ "index": self.index(), "content_block": Self::block(&block, true) });
                out.push(event("content_block_start", start));
                if self.blocks == 1 {
                    out.push(event("ping", json!({})));
                }
                self.open = Some(block);
            }
            let delta = match part {
                Part::Thoughts(text) => json!({ "type": "thinking_delta", "thinking": text }),
                Part::Said(CallEvent::Text(text)) => json!({ "type": "text_delta", "text": text }),
                Part::Said(CallEvent::Arguments(text)) => {
                    json!({ "type": "input_json_delta", "partial_json": text })
                }
                Part::Said(CallEvent::Begin { .. }) => continue,
                Part::Said(CallEvent::End) => {
                    self.close(&mut out);
                    continue;
                }
            };
            let delta = json!({ "index": self.index(), "delta": delta });
            out.push(event("content_block_delta", delta));
        }
        out
    }
}

impl Shape for MessageShape {
    fn begin(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame> {
        self.reader = Some(self.form.reader(about.seed));
        let message = Self::message(about, json!([]), Self::usage(about, choices));
        vec![event("message_start", json!({ "message": message }))]
    }

    fn piece(&mut self, _: &About, _: ChoiceIndex, _: &Choice, piece: Piece) -> Vec<Frame> {
        let parts = self.reader.as_mut().map(|reader| reader.push(&piece.text)).unwrap_or_default();
        self.parts(parts)
    }

    fn ended(&mut self, _: &About, _: ChoiceIndex, choice: &Choice) -> Vec<Frame> {
        let end = choice.ending();
        let parts = self.reader.as_mut().map(|reader| reader.finish(end)).unwrap_or_default();
        let mut out = self.parts(parts);
        self.close(&mut out);
        out
    }

    fn end(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame> {
        let (reason, sequence) =
            choices.first().map_or(("end_turn", Value::Null), |choice| self.reason(choice, self.has_calls));
        let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
        let delta = json!({ "delta": delta, "usage": Self::usage(about, choices) });
        vec![event("message_delta", delta), event("message_stop", json!({}))]
    }

    fn fail(&mut self, _: &About, refusal: &Refusal) -> Vec<Frame> {
        vec![Frame::Event("error", refusal.to_anthropic())]
    }

    fn body(&mut self, about: &About, choices: &[Choice]) -> Value {
        let blocks = choices.first().map(|choice| choice.blocks(&self.form, about.seed)).unwrap_or_default();
        let has_calls = blocks.iter().any(|block| matches!(block, Block::Call { .. }));
        let content: Vec<Value> = blocks.iter().map(|block| Self::block(block, false)).collect();
        let mut message = Self::message(about, json!(content), Self::usage(about, choices));
        if let Some(choice) = choices.first() {
            let (reason, sequence) = self.reason(choice, has_calls);
            message["stop_reason"] = json!(reason);
            message["stop_sequence"] = sequence;
        }
        message
    }
}
