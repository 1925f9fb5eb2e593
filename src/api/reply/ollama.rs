//! Answers of ollama's `/api/chat` and `/api/generate`: lines of JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::frame::{Frame, Framing};
use super::{About, Choice, ChoiceIndex, Piece, Shape};
use crate::api::Refusal;
use crate::api::answer::{AnswerForm, Block, Part, Reader, joined};
use crate::api::ollama::time;
use crate::tools::CallEvent;

/// What a request asks for that no text is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Residence {
    /// That the model is loaded.
    Load,
    /// That it is unloaded.
    Unload,
}

impl Residence {
    /// Why an answer without text is complete.
    fn reason(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Unload => "unload",
        }
    }
}

/// The shape of ollama's answers.
#[derive(Debug)]
pub(in crate::api) struct OllamaShape {
    form: AnswerForm,
    /// Whether the text stands in a message.
    is_chat: bool,
    /// What was asked for where there is no text.
    residence: Option<Residence>,
    reader: Option<Reader>,
    /// The call under way: clients take calls whole.
    call: Option<Block>,
}

/// A duration in nanoseconds.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A call, with its arguments as an object.
fn call(block: &Block) -> Option<Value> {
    let Block::Call { id, name, arguments } = block else { return None };
    let arguments = serde_json::from_str::<Value>(arguments).unwrap_or_else(|_| json!({}));
    Some(json!({ "id": id, "function": { "name": name, "arguments": arguments } }))
}

impl OllamaShape {
    /// For answers that are read in this way, of chats or of completions.
    pub(in crate::api) fn new(form: AnswerForm, is_chat: bool) -> Self {
        Self { form, is_chat, residence: None, reader: None, call: None }
    }

    /// For answers without text.
    pub(in crate::api) fn resident(residence: Residence, is_chat: bool) -> Self {
        Self { residence: Some(residence), ..Self::new(AnswerForm::default(), is_chat) }
    }

    /// The only line of an answer without text.
    fn resident_line(&self, about: &About) -> Option<Value> {
        let mut line = self.line(about, "", "", &[], true);
        line.insert("done_reason".to_owned(), json!(self.residence?.reason()));
        if about.shown.measured {
            let load = json!(nanoseconds(about.load));
            line.insert("total_duration".to_owned(), load.clone());
            line.insert("load_duration".to_owned(), load);
        }
        Some(Value::Object(line))
    }

    /// The answer of a request that needs no model.
    pub(in crate::api) fn alone(&self, model: &str) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let mut line = self.line_of((model, now), "", "", &[], true);
        line.insert("done_reason".to_owned(), json!(self.residence.map(Residence::reason)));
        Value::Object(line)
    }

    /// A line with text, thoughts and calls.
    fn line(
        &self,
        about: &About,
        text: &str,
        thoughts: &str,
        calls: &[Value],
        done: bool,
    ) -> Map<String, Value> {
        self.line_of((&about.model, about.created), text, thoughts, calls, done)
    }

    /// A line of an answer of this model, whose request is of this second.
    fn line_of(
        &self,
        (model, created): (&str, u64),
        text: &str,
        thoughts: &str,
        calls: &[Value],
        done: bool,
    ) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("model".to_owned(), json!(model));
        line.insert("created_at".to_owned(), json!(time(created)));
        let mut said = Map::new();
        if self.is_chat {
            said.insert("role".to_owned(), json!("assistant"));
        }
        said.insert(if self.is_chat { "content" } else { "response" }.to_owned(), json!(text));
        if !thoughts.is_empty() {
            said.insert("thinking".to_owned(), json!(thoughts));
        }
        if !calls.is_empty() {
            said.insert("tool_calls".to_owned(), json!(calls));
        }
        match self.is_chat {
            true => drop(line.insert("message".to_owned(), Value::Object(said))),
            false => line.extend(said),
        }
        line.insert("done".to_owned(), json!(done));
        line
    }

    /// What the last line has besides: why and when the answer ended.
    fn finish(about: &About, choice: &Choice, line: &mut Map<String, Value>) {
        let Some(end) = &choice.end else { return };
        line.insert("done_reason".to_owned(), json!(choice.finish_reason()));
        if about.shown.measured {
            let writing = end.timings.decode + end.timings.sample;
            let total = about.load + end.timings.queue + end.timings.prompt + writing;
            line.insert("total_duration".to_owned(), json!(nanoseconds(total)));
            line.insert("load_duration".to_owned(), json!(nanoseconds(about.load)));
            line.insert("prompt_eval_duration".to_owned(), json!(nanoseconds(end.timings.prompt)));
            line.insert("eval_duration".to_owned(), json!(nanoseconds(writing)));
        }
        line.insert("prompt_eval_count".to_owned(), json!(end.prompt_tokens));
        line.insert("eval_count".to_owned(), json!(end.tokens.len()));
    }

    fn parts(&mut self, about: &About, parts: Vec<Part>) -> Vec<Frame> {
        let mut out = Vec::new();
        for part in parts {
            let line = match &part {
                Part::Said(CallEvent::Text(text)) => self.line(about, text, "", &[], false),
                Part::Thoughts(text) => self.line(about, "", text, &[], false),
                Part::Said(CallEvent::Begin { .. }) => {
                    self.call = Block::of(&part);
                    continue;
                }
                Part::Said(CallEvent::Arguments(_)) => {
                    if let Some(call) = &mut self.call {
                        call.extend(&part);
                    }
                    continue;
                }
                Part::Said(CallEvent::End) => {
                    let Some(call) = self.call.take().as_ref().and_then(call) else { continue };
                    self.line(about, "", "", &[call], false)
                }
            };
            out.push(Frame::Line(Value::Object(line)));
        }
        out
    }
}

impl Shape for OllamaShape {
    fn framing(&self) -> Framing {
        Framing::Ndjson
    }

    fn begin(&mut self, about: &About, _: &[Choice]) -> Vec<Frame> {
        self.reader = Some(self.form.reader(about.seed));
        Vec::new()
    }

    fn piece(&mut self, about: &About, _: ChoiceIndex, _: &Choice, piece: Piece) -> Vec<Frame> {
        let parts = self.reader.as_mut().map(|reader| reader.push(&piece.text)).unwrap_or_default();
        self.parts(about, parts)
    }

    fn ended(&mut self, about: &About, _: ChoiceIndex, choice: &Choice) -> Vec<Frame> {
        let end = choice.ending();
        let parts = self.reader.as_mut().map(|reader| reader.finish(end)).unwrap_or_default();
        let mut out = self.parts(about, parts);
        let mut line = self.line(about, "", "", &[], true);
        Self::finish(about, choice, &mut line);
        out.push(Frame::Line(Value::Object(line)));
        out
    }

    fn end(&mut self, about: &About, _: &[Choice]) -> Vec<Frame> {
        self.resident_line(about).map(Frame::Line).into_iter().collect()
    }

    fn fail(&mut self, _: &About, refusal: &Refusal) -> Vec<Frame> {
        vec![Frame::Line(json!({ "error": refusal.message }))]
    }

    fn body(&mut self, about: &About, choices: &[Choice]) -> Value {
        let Some(choice) = choices.first() else { return self.resident_line(about).unwrap_or_default() };
        let blocks = choice.blocks(&self.form, about.seed);
        let calls: Vec<Value> = blocks.iter().filter_map(call).collect();
        let mut line = self.line(about, &joined(&blocks, false), &joined(&blocks, true), &calls, true);
        Self::finish(about, choice, &mut line);
        Value::Object(line)
    }
}
