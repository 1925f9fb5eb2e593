//! Events of a stream: the payloads of `data:` lines. Comments, which keep a connection alive, are no events.

use serde_json::Value;

use super::LoadError;
use super::http::Response;

/// Longest line of a stream.
const MAX_LINE: usize = 16 << 20;

/// An event of a stream.
#[derive(Debug)]
pub(super) enum Event {
    /// A JSON value.
    Data(Value),
    /// The marker that the stream is complete.
    Done,
}

/// The events of an answer.
#[derive(Debug)]
pub(super) struct Events<'a> {
    response: Response<'a>,
    buffer: Vec<u8>,
    /// How much of the buffer has no end of a line.
    searched: usize,
}

impl<'a> Events<'a> {
    pub(super) fn of(response: Response<'a>) -> Self {
        Self { response, buffer: Vec::new(), searched: 0 }
    }

    /// The next event; `None` at the end of the body.
    pub(super) fn next(&mut self) -> Result<Option<Event>, LoadError> {
        loop {
            if let Some(at) = self.buffer.iter().skip(self.searched).position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
                self.searched = 0;
                let line = String::from_utf8_lossy(&line);
                let Some(data) = line.trim_end().strip_prefix("data:") else { continue };
                return match data.trim_start() {
                    "[DONE]" => Ok(Some(Event::Done)),
                    json => serde_json::from_str(json)
                        .map(|value| Some(Event::Data(value)))
                        .map_err(|e| self.response.target().protocol(format!("an event is not JSON: {e}"))),
                };
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE {
                return Err(self
                    .response
                    .target()
                    .protocol(format!("an event has more than {MAX_LINE} bytes")));
            }
            if !self.response.more(&mut self.buffer)? {
                return Ok(None);
            }
        }
    }
}
