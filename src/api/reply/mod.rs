//! The engine's events as the answer of an API.

pub(super) mod frame;

use serde_json::Value;

use self::frame::{Frame, Framing};
use super::Refusal;
use crate::engine::Event;

/// Which of the choices of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChoiceIndex(u32);

impl ChoiceIndex {
    /// The choice with this number, from 0 on.
    pub fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Its number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The answer of a request in the making.
#[derive(Debug)]
pub struct Reply {
    stream: bool,
    framing: Framing,
    left: usize,
}

impl Reply {
    /// Whether the answer is a stream.
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// How the pieces of the stream are told apart.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The beginning of the stream.
    pub fn begin(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    /// What an event of a choice adds to the stream; nothing for an answer in one piece, which collects them.
    pub fn event(&mut self, _choice: ChoiceIndex, _event: Event) -> Vec<Frame> {
        Vec::new()
    }

    /// Whether all choices have ended, or one has failed.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// The end of a stream whose choices have all ended.
    pub fn end(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    /// The end of a stream that cannot go on: the error, and what ends the stream.
    pub fn fail(&mut self, _refusal: &Refusal) -> Vec<Frame> {
        Vec::new()
    }

    /// The answer in one piece.
    ///
    /// # Errors
    /// Why a choice failed.
    pub fn into_body(self) -> Result<Value, Refusal> {
        Ok(Value::Null)
    }
}
