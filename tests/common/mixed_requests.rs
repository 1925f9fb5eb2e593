//! Requests for texts of mixed lengths, seeds, grammars and stops, to a server that has the built-in model under the name `tiny`.

#![allow(dead_code, reason = "no test needs all of it")]

use serde_json::{Value, json};

/// What their prompts begin with.
pub(crate) const PLAY: &str = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\nROMEO:\nBut, soft! what \
                    light through yonder window breaks? It is the east, and Juliet is the sun.";

/// A request of the mix.
pub(crate) struct Mixed {
    pub(crate) seed: u64,
    pub(crate) prompt: &'static str,
    pub(crate) limit: u64,
    pub(crate) temperature: f32,
    pub(crate) stop: Vec<String>,
    pub(crate) regex: Option<&'static str>,
    pub(crate) stream: bool,
}

impl Mixed {
    /// The request with this number.
    pub(crate) fn new(number: usize) -> Self {
        Self {
            seed: number as u64,
            prompt: &PLAY[..1 + (number * 37) % (PLAY.len() - 1)],
            limit: 1 + (number as u64 * 7) % 24,
            temperature: if number.is_multiple_of(3) { 0.0 } else { 0.8 },
            stop: if number.is_multiple_of(4) { vec!["e".to_owned()] } else { Vec::new() },
            regex: number.is_multiple_of(5).then_some("[a-z ]{1,40}"),
            stream: number.is_multiple_of(2),
        }
    }

    /// Its body, for `/v1/completions`.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "model": "tiny", "prompt": self.prompt, "max_tokens": self.limit, "seed": self.seed, "temperature": self.temperature,
            "stop": self.stop, "stream": self.stream,
        });
        if let Some(regex) = self.regex {
            body["regex"] = json!(regex);
        }
        body
    }
}
