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

/// A place in a text that arrives as the bytes of tokens, which may cut characters.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Place {
    /// Characters that are complete, what is no character counting as U+FFFD.
    characters: usize,
    /// The bytes of one that is not complete yet.
    begun: Vec<u8>,
    /// Characters at the beginning that are no part of the text.
    hidden: usize,
}

impl Place {
    /// The beginning of a text in front of which tokens have `hidden` characters that are not in it.
    pub(in crate::api) fn after_hidden(hidden: usize) -> Self {
        Self { hidden, ..Self::default() }
    }

    /// Reads the bytes of a token; the index of the character in which it begins.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        let goes_on = |&byte: &u8| byte & 0xc0 == 0x80;
        if !self.begun.is_empty() && bytes.first().is_some_and(|byte| !goes_on(byte)) {
            self.begun.clear();
            self.characters += 1;
        }
        let offset = self.characters.saturating_sub(self.hidden);
        self.begun.extend_from_slice(bytes);
        self.count();
        offset
    }

    /// Counts the characters that are complete.
    fn count(&mut self) {
        loop {
            match std::str::from_utf8(&self.begun) {
                Ok(text) => {
                    self.characters += text.chars().count();
                    return self.begun.clear();
                }
                Err(wrong) => {
                    let valid = self.begun.get(..wrong.valid_up_to()).unwrap_or_default();
                    self.characters += String::from_utf8_lossy(valid).chars().count();
                    let bad = wrong.error_len();
                    self.begun.drain(..wrong.valid_up_to() + bad.unwrap_or(0));
                    match bad {
                        Some(_) => self.characters += 1,
                        None => return,
                    }
                }
            }
        }
    }
}

/// Characters of `tokens` that are not in `text`, which they were made of: the token that begins every text, and a blank
/// in front of the first word.
pub(in crate::api) fn hidden_characters(tokenizer: &dyn Tokenize, tokens: &[TokenId], text: &str) -> usize {
    let bytes: Vec<u8> = tokens.iter().flat_map(|&id| tokenizer.piece(id, true)).copied().collect();
    String::from_utf8_lossy(&bytes).chars().count().saturating_sub(text.chars().count())
}

/// Lists of `/v1/completions`, to which tokens are added. An offset is the index of the character of the choice's `text`
/// in which a token begins; tokens without a text of their own have that of the next.
#[derive(Debug, Default)]
pub(in crate::api) struct Lists {
    tokens: Vec<String>,
    logprobs: Vec<Option<f64>>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Where the next token begins.
    pub(in crate::api) place: Place,
    /// Whether the tokens are those of the prompt.
    in_prompt: bool,
}

impl Lists {
    /// Lists whose first token begins there.
    pub(in crate::api) fn from_place(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    fn push(&mut self, tokenizer: &dyn Tokenize, id: TokenId, logprob: Option<f64>, top: Value) {
        self.offsets.push(self.place.advance(tokenizer.piece(id, self.in_prompt)));
        self.tokens.push(token_text(tokenizer, id));
        self.logprobs.push(logprob);
        self.top.push(top);
    }

    /// Adds the tokens of an echoed prompt, in whose text control tokens are spelled out. The first has no probability.
    pub(in crate::api) fn echo(
        &mut self,
        tokenizer: &dyn Tokenize,
        first: TokenId,
        rest: &[TokenLogprobs],
        n: usize,
    ) {
        self.in_prompt = true;
        self.push(tokenizer, first, None, Value::Null);
        self.extend(tokenizer, rest, n);
        self.in_prompt = false;
    }

    /// Adds tokens, each with the `n` likeliest at its place and itself. Where several of them have the same text, the
    /// likeliest counts.
    pub(in crate::api) fn extend(&mut self, tokenizer: &dyn Tokenize, all: &[TokenLogprobs], n: usize) {
        for entry in all {
            let mut map = Map::new();
            for token in entry.top.iter().take(n).chain([&entry.token]) {
                map.entry(token_text(tokenizer, token.id)).or_insert_with(|| json!(token.logprob));
            }
            self.push(tokenizer, entry.token.id, Some(entry.token.logprob), map.into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_of_the_text() {
        let offsets = |hidden, pieces: &[&[u8]]| {
            let mut place = Place::after_hidden(hidden);
            pieces.iter().map(|piece| place.advance(piece)).collect::<Vec<_>>()
        };
        assert_eq!(offsets(0, &[b"ab", "\u{e9}".as_bytes(), b"", b"c"]), [0, 2, 3, 3]);
        // A token before the text, and characters that are cut: all parts of one are at its place.
        assert_eq!(offsets(3, &[b"<s>", b"a", b"\xe2\x82", b"\xac", b"b"]), [0, 0, 1, 1, 2]);
        // What is no character is U+FFFD in the text.
        let pieces: [&[u8]; 5] = [b"a", b"\xe2\x82", b"x", b"\xff\xff", b"y"];
        assert_eq!(offsets(0, &pieces), [0, 1, 2, 3, 5]);
        assert_eq!(String::from_utf8_lossy(&pieces.concat()).chars().count(), 6);
    }
}
