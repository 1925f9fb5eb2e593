//! What a text of a chat says: thoughts, text and calls of tools, told apart as it is made.

use std::sync::Arc;

use crate::chat::{ThinkForm, ThinkSplitter};
use crate::tools::{CallEvent, CallForm, CallIds, CallParser, IdStyle, Tools};

/// How the text of a choice is to be read.
#[derive(Clone, Debug, Default)]
pub(super) struct AnswerForm {
    /// How thoughts are marked, and whether the prompt has begun them; `None` where all is text.
    pub(super) thinking: Option<(ThinkForm, bool)>,
    /// How calls are written, and what may be called.
    pub(super) calls: Option<(&'static CallForm, Arc<Tools>)>,
    /// What ids of calls look like.
    pub(super) ids: IdStyle,
    /// What tells the prompt from others, for ids of calls.
    pub(super) prompt: u64,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Thoughts.
    Thoughts(String),
    /// Text, or what belongs to a call.
    Said(CallEvent),
}

/// How a text came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The model ended it, or what the request asked for did.
    Whole,
    /// It would have gone on: its length has a limit.
    Cut,
}

/// Reads the text of one choice.
#[derive(Debug)]
pub(super) struct Reader {
    splitter: Option<ThinkSplitter>,
    parser: Option<CallParser>,
}

impl AnswerForm {
    /// Whether an answer is text and nothing else.
    pub(super) fn is_plain(&self) -> bool {
        self.thinking.is_none() && self.calls.is_none()
    }

    /// Bytes at the beginning of a text that are thoughts, with their marks.
    pub(super) fn thought_bytes(&self, text: &str) -> usize {
        let Some((form, opened)) = self.thinking else { return 0 };
        let begins = opened || text.trim_start().starts_with(form.open);
        match text.find(form.close) {
            _ if !begins => 0,
            Some(at) => at + form.close.len(),
            None => text.len(),
        }
    }

    /// For the choice with this seed.
    pub(super) fn reader(&self, seed: u64) -> Reader {
        let ids = CallIds { prompt: self.prompt, seed, style: self.ids };
        Reader {
            splitter: self.thinking.map(|(form, opened)| ThinkSplitter::new(form, opened)),
            parser: self.calls.as_ref().map(|(form, tools)| CallParser::new(form, Arc::clone(tools), ids)),
        }
    }

    /// What a whole text says, one that ended in this way.
    pub(super) fn read(&self, seed: u64, text: &str, end: End) -> Vec<Block> {
        let mut reader = self.reader(seed);
        let mut blocks = Blocks::default();
        reader.push(text).into_iter().chain(reader.finish(end)).for_each(|part| blocks.add(part));
        blocks.0
    }
}

impl Reader {
    /// What becomes certain with more text.
    pub(super) fn push(&mut self, text: &str) -> Vec<Part> {
        self.read(text, None)
    }

    /// What was held back, at the end of the text.
    pub(super) fn finish(&mut self, end: End) -> Vec<Part> {
        self.read("", Some(end))
    }

    /// Whether a tool was called.
    pub(super) fn has_calls(&self) -> bool {
        self.parser.as_ref().is_some_and(|parser| parser.calls() > 0)
    }

    fn read(&mut self, text: &str, end: Option<End>) -> Vec<Part> {
        let (mut thoughts, mut answer) = (String::new(), String::new());
        match &mut self.splitter {
            Some(splitter) => {
                splitter.push(text, &mut thoughts, &mut answer);
                match end {
                    Some(End::Whole) => splitter.finish(&mut thoughts, &mut answer),
                    Some(End::Cut) => splitter.cut(&mut thoughts, &mut answer),
                    None => {}
                }
            }
            None => answer.push_str(text),
        }
        let mut parts = Vec::new();
        if !thoughts.is_empty() {
            parts.push(Part::Thoughts(thoughts));
        }
        match &mut self.parser {
            Some(parser) => {
                let mut events = Vec::new();
                parser.push(&answer, &mut events);
                match end {
                    Some(End::Whole) => parser.finish(&mut events),
                    Some(End::Cut) => parser.cut(&mut events),
                    None => {}
                }
                parts.extend(events.into_iter().map(Part::Said));
            }
            None if !answer.is_empty() => parts.push(Part::Said(CallEvent::Text(answer))),
            None => {}
        }
        parts
    }
}

/// A whole part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Thoughts.
    Thoughts(String),
    /// Text.
    Text(String),
    /// A call.
    Call {
        /// Its id.
        id: String,
        /// The function.
        name: String,
        /// JSON text.
        arguments: String,
    },
}

impl Block {
    /// The same kind with nothing in it.
    pub(super) fn of(part: &Part) -> Option<Self> {
        match part {
            Part::Thoughts(_) => Some(Self::Thoughts(String::new())),
            Part::Said(CallEvent::Text(_)) => Some(Self::Text(String::new())),
            Part::Said(CallEvent::Begin { id, name, .. }) => {
                Some(Self::Call { id: id.clone(), name: name.clone(), arguments: String::new() })
            }
            Part::Said(CallEvent::Arguments(_)) | Part::Said(CallEvent::End) => None,
        }
    }

    /// Takes in a part that goes on with it; whether it is one.
    pub(super) fn extend(&mut self, part: &Part) -> bool {
        match (self, part) {
            (Self::Thoughts(text), Part::Thoughts(more))
            | (Self::Text(text), Part::Said(CallEvent::Text(more)))
            | (Self::Call { arguments: text, .. }, Part::Said(CallEvent::Arguments(more))) => {
                text.push_str(more)
            }
            (Self::Call { .. }, Part::Said(CallEvent::End)) => {}
            _ => return false,
        }
        true
    }
}

/// The parts of an answer, joined.
#[derive(Debug, Default)]
struct Blocks(Vec<Block>);

impl Blocks {
    fn add(&mut self, part: Part) {
        if self.0.last_mut().is_some_and(|last| last.extend(&part)) {
            return;
        }
        if let Some(mut block) = Block::of(&part) {
            block.extend(&part);
            self.0.push(block);
        }
    }
}

/// The text of all blocks of one kind, joined.
pub(super) fn joined(blocks: &[Block], thoughts: bool) -> String {
    let text = |block: &Block| match block {
        Block::Thoughts(text) if thoughts => Some(text.clone()),
        Block::Text(text) if !thoughts => Some(text.clone()),
        _ => None,
    };
    blocks.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::{Tool, ToolChoice};

    #[test]
    fn thoughts_text_and_calls_are_told_apart() {
        let tools = vec![Tool::new("f", None, None).unwrap()];
        let tools = Arc::new(Tools::new(tools, ToolChoice::Auto, true).unwrap());
        let hermes = CallForm::of_text("<tool_call>").unwrap();
        let form = AnswerForm {
            thinking: Some((ThinkForm { open: "<think>", close: "</think>" }, true)),
            calls: Some((hermes, tools)),
            ids: IdStyle::Call,
            prompt: 5,
        };
        let text =
            "Hm <tool_call>.\n</think>\n\nSo: <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
        let blocks = form.read(3, text, End::Whole);
        let [Block::Thoughts(thoughts), Block::Text(said), Block::Call { name, arguments, .. }] = &blocks[..]
        else {
            panic!("{blocks:?}");
        };
        assert_eq!((thoughts.as_str(), said.as_str()), ("Hm <tool_call>.", "So:"));
        assert_eq!((name.as_str(), arguments.as_str()), ("f", "{}"));
        assert_eq!(joined(&blocks, false), "So:");
        let mut reader = form.reader(3);
        let mut pieces = Blocks::default();
        for character in text.split_inclusive(|_: char| true) {
            reader.push(character).into_iter().for_each(|part| pieces.add(part));
        }
        reader.finish(End::Whole).into_iter().for_each(|part| pieces.add(part));
        assert_eq!(pieces.0, blocks);
        assert!(reader.has_calls());
        assert_eq!(form.thought_bytes(text), text.find("\n\nSo").unwrap());
        assert_eq!(form.thought_bytes("Hm"), 2);
        let plain = AnswerForm::default();
        assert_eq!(plain.read(0, text, End::Whole), [Block::Text(text.to_owned())]);
    }
}
