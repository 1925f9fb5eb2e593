//! Tokens and their types: lengths, uniqueness, and the byte alphabet.

use std::collections::HashMap;

use super::{SCORES, TOKEN_TYPE, TOKENS, TokenId, TokenType, bad, byte_level, missing, string_array};
use crate::error::{GgufError, printable};
use crate::limits;
use crate::note::Note;
use crate::reader::Gguf;
use crate::value::ValueType;

/// Token ids by string.
pub(super) type TokenIds<'a> = HashMap<&'a str, TokenId>;

pub(super) fn read_tokens<'a>(gguf: &Gguf<'a>) -> Result<Vec<&'a str>, GgufError> {
    let array = string_array(gguf, TOKENS)?;
    if array.is_empty() || array.len() as u64 > limits::MAX_VOCAB {
        return Err(bad(
            TOKENS,
            format!("there are {} tokens (1 to {} are accepted)", array.len(), limits::MAX_VOCAB),
        ));
    }
    Ok(array.strings().into_iter().flatten().collect())
}

pub(super) fn read_types(gguf: &Gguf<'_>, tokens: usize) -> Result<Vec<TokenType>, GgufError> {
    let array = gguf.array(TOKEN_TYPE, "an array of i32", |a| a.elem() == ValueType::I32)?;
    let array = array.ok_or_else(|| missing(TOKEN_TYPE))?;
    if array.len() != tokens {
        return Err(bad(TOKEN_TYPE, format!("there are {} types for {tokens} tokens", array.len())));
    }
    let types = array.i32s().into_iter().flatten().enumerate().map(|(id, ty)| {
        TokenType::from_id(ty)
            .ok_or_else(|| bad(TOKEN_TYPE, format!("token {id} has the type {ty}; types are 1 to 6")))
    });
    types.collect()
}

/// The scores, or nothing. They do not matter to byte-level BPE, but an array of another type or length is a sign of a
/// mixed-up file there too.
pub(super) fn read_scores(gguf: &Gguf<'_>, tokens: usize) -> Result<Vec<f32>, GgufError> {
    let Some(array) = gguf.array(SCORES, "an array of f32", |a| a.elem() == ValueType::F32)? else {
        return Ok(Vec::new());
    };
    if array.len() != tokens {
        return Err(bad(SCORES, format!("there are {} scores for {tokens} tokens", array.len())));
    }
    let scores: Vec<f32> = array.f32s().into_iter().flatten().collect();
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(bad(SCORES, format!("the score of token {id} is not a number"))),
        None => Ok(scores),
    }
}

/// The index by string; refuses empty and repeated tokens.
pub(super) fn index<'a>(tokens: &[&'a str]) -> Result<TokenIds<'a>, GgufError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, &token) in (0..).zip(tokens) {
        if token.is_empty() {
            return Err(bad(TOKENS, format!("token {id} is empty")));
        }
        if let Some(first) = ids.insert(token, id) {
            return Err(bad(TOKENS, format!("tokens {first} and {id} are both \"{}\"", printable(token))));
        }
    }
    Ok(ids)
}

/// Notes on normal tokens outside the byte alphabet; returns the bytes that have no token.
pub(super) fn check_alphabet(
    tokens: &[&str],
    types: &[TokenType],
    ids: &TokenIds<'_>,
    notes: &mut Vec<Note>,
) -> Vec<u8> {
    let outside = |text: &str| text.chars().any(|c| byte_level::byte_of_char(c).is_none());
    let odd = tokens.iter().zip(types).filter(|&(text, ty)| *ty == TokenType::Normal && outside(text));
    let odd: Vec<&str> = odd.map(|(text, _)| *text).collect();
    if let Some(first) = odd.first() {
        let text = format!(
            "has {} normal tokens outside the byte-level alphabet, such as \"{}\"; no text is encoded to them",
            odd.len(),
            printable(first)
        );
        notes.push(Note::warning(TOKENS, text));
    }
    let missing: Vec<u8> = (0..=255u8)
        .filter(|&byte| !ids.contains_key(byte_level::char_of_byte(byte).encode_utf8(&mut [0; 4]) as &str))
        .collect();
    if let Some(first) = missing.first() {
        let text = format!(
            "has no token for {} of the 256 bytes, such as {first:#04x}; a text with such a byte cannot be encoded",
            missing.len()
        );
        notes.push(Note::warning(TOKENS, text));
    }
    missing
}

/// The bytes that have no token of their own in a SentencePiece vocabulary, with a note on them.
pub(super) fn check_byte_tokens(types: &[TokenType], ids: &TokenIds<'_>, notes: &mut Vec<Note>) -> Vec<u8> {
    let has = |byte: u8| {
        let id = ids.get(format!("<0x{byte:02X}>").as_str());
        id.is_some_and(|&id| types.get(id as usize) == Some(&TokenType::Byte))
    };
    let missing: Vec<u8> = (0..=255u8).filter(|&byte| !has(byte)).collect();
    if !missing.is_empty() {
        let text = format!(
            "has no byte token for {} of the 256 bytes; characters that need one become the unknown token",
            missing.len()
        );
        notes.push(Note::warning(TOKENS, text));
    }
    missing
}
