//! Probabilities of tokens, as the APIs list them.
//!
//! The text of a token is that of its bytes alone, with U+FFFD for parts of characters; `bytes` has them exactly.

use bitnetc_runtime::sampling::{TokenLogprob, TokenLogprobs};
use bitnetc_runtime::tokenizer::{TokenId, Tokenize};
use serde_json::{Map, Value, json};

/// The text of a token by itself.
pub(in crate::api) fn token_text(tokenizer: &dyn Tokenize, id: TokenId) -> String {
    String::from_utf8_lossy(tokenizer.piece(id, true)).into_owned()
}

/// Lists of `/v1/completions`, to which tokens are added.
#[derive(Debug, Default)]
pub(in crate::api) struct Lists {
    tokens: Vec<String>,
    logprobs: Vec<Option<f64>>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Characters of the tokens so far.
    pub(in crate::api) offset: usize,
}

impl Lists {
    /// Lists whose first token begins after so many characters.
    pub(in crate::api) fn from_offset(offset: usize) -> Self {
        Self { offset, ..Self::default() }
    }

    fn push(&mut self, text: String, logprob: Option<f64>, top: Value) {
        self.offsets.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text);
        self.logprobs.push(logprob);
        self.top.push(top);
    }

    /// Adds a token before which there is nothing that its probability could depend on.
    pub(in crate::api) fn push_first(&mut self, tokenizer: &dyn Tokenize, id: TokenId) {
        self.push(token_text(tokenizer, id), None, Value::Null);
    }

    /// Adds tokens, each with the `n` likeliest at its place and itself. Where several of them have the same text, the
    /// likeliest counts.
    pub(in crate::api) fn extend(&mut self, tokenizer: &dyn Tokenize, all: &[TokenLogprobs], n: usize) {
        for entry in all {
            let mut map = Map::new();
            for token in entry.top.iter().take(n).chain([&entry.token]) {
                map.entry(token_text(tokenizer, token.id)).or_insert_with(|| json!(token.logprob));
            }
            self.push(token_text(tokenizer, entry.token.id), Some(entry.token.logprob), map.into());
        }
    }

    pub(in crate::api) fn into_json(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.logprobs,
            "top_logprobs": self.top,
            "text_offset": self.offsets,
        })
    }
}

/// The object of `/v1/chat/completions`, with the `n` likeliest at each place.
pub(in crate::api) fn nested(tokenizer: &dyn Tokenize, all: &[TokenLogprobs], n: usize) -> Value {
    let shown = |token: &TokenLogprob| {
        json!({
            "token": token_text(tokenizer, token.id),
            "logprob": token.logprob,
            "bytes": tokenizer.token_bytes(token.id),
        })
    };
    let entry = |entry: &TokenLogprobs| {
        let mut value = shown(&entry.token);
        value["top_logprobs"] = entry.top.iter().take(n).map(shown).collect();
        value
    };
    json!({ "content": all.iter().map(entry).collect::<Vec<_>>(), "refusal": null })
}

/// The list of the prompt's tokens, as vLLM has it: nothing for the first, then an object by token id.
pub(in crate::api) fn of_prompt(tokenizer: &dyn Tokenize, all: &[TokenLogprobs], n: usize) -> Value {
    let entry = |entry: &TokenLogprobs| -> Value {
        let mut map = Map::new();
        for token in entry.top.iter().take(n).chain([&entry.token]) {
            let shown = json!({ "logprob": token.logprob, "decoded_token": token_text(tokenizer, token.id) });
            map.entry(token.id.to_string()).or_insert(shown);
        }
        map.into()
    };
    std::iter::once(Value::Null).chain(all.iter().map(entry)).collect()
}
