//! The pieces of a stream, as they stand on the wire.

use serde_json::Value;

/// How the pieces of a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events (`text/event-stream`).
    Sse,
    /// A line of JSON each (`application/x-ndjson`).
    Ndjson,
}

impl Framing {
    /// The media type of a stream.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A server-sent event without a name.
    Data(Value),
    /// A server-sent event with a name.
    Event(&'static str, Value),
    /// The end of a stream of server-sent events of OpenAI's APIs.
    Done,
    /// A comment between server-sent events, which shows that the connection is alive.
    Ping,
    /// A line of JSON.
    Line(Value),
}

impl Frame {
    /// Appends the bytes of the piece.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Data(value) => {
                out.extend_from_slice(b"data: ");
                write_json(value, out);
                out.extend_from_slice(b"\n\n");
            }
            Self::Event(name, value) => {
                out.extend_from_slice(b"event: ");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\ndata: ");
                write_json(value, out);
                out.extend_from_slice(b"\n\n");
            }
            Self::Done => out.extend_from_slice(b"data: [DONE]\n\n"),
            Self::Ping => out.extend_from_slice(b": ping\n\n"),
            Self::Line(value) => {
                write_json(value, out);
                out.push(b'\n');
            }
        }
    }
}

/// Appends JSON in one line: control characters, line ends among them, are escaped in its strings.
fn write_json(value: &Value, out: &mut Vec<u8>) {
    // Writing a value to memory fails only where memory does, which ends the process.
    drop(serde_json::to_writer(out, value));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_piece_is_one_event_or_one_line() {
        let written = |frame: Frame| {
            let mut out = Vec::new();
            frame.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let value = json!({ "text": "a\n\ndata: [DONE]\r" });
        assert_eq!(written(Frame::Data(value.clone())), "data: {\"text\":\"a\\n\\ndata: [DONE]\\r\"}\n\n");
        assert_eq!(written(Frame::Event("ping", json!({}))), "event: ping\ndata: {}\n\n");
        assert_eq!(written(Frame::Line(value)), "{\"text\":\"a\\n\\ndata: [DONE]\\r\"}\n");
        assert_eq!(
            (written(Frame::Done), written(Frame::Ping)),
            ("data: [DONE]\n\n".into(), ": ping\n\n".into())
        );
    }
}
