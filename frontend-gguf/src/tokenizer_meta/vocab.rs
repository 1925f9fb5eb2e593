//! Tokens and their types: lengths, uniqueness, and the byte alphabet.

use std::collections::HashMap;

use super::{SCORES, TOKEN_TYPE, TOKENS, TokenId, TokenType, bad, byte_level, string_array};
use crate::error::{GgufError, printable};
use crate::limits;
use crate::note::Note;
use crate::reader::Gguf;
use crate::value::{Array, ValueType};

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

/// The types of the tokens; told from the texts where the file has none.
pub(super) fn read_types(
    gguf: &Gguf<'_>,
    model: &str,
    tokens: &[&str],
    notes: &mut Vec<Note>,
) -> Result<Vec<TokenType>, GgufError> {
    let array = gguf.array(TOKEN_TYPE, "an array of i32", |a| a.elem() == ValueType::I32)?;
    let Some(array) = array else {
        notes.push(Note::inferred(TOKEN_TYPE, "is absent; what tokens are for is told from their texts"));
        return Ok(tokens.iter().map(|text| type_by_text(model, text)).collect());
    };
    if array.len() != tokens.len() {
        let why = format!("there are {} types for {} tokens", array.len(), tokens.len());
        return Err(bad(TOKEN_TYPE, why));
    }
    let types = array.i32s().into_iter().flatten().enumerate().map(|(id, ty)| {
        TokenType::from_id(ty)
            .ok_or_else(|| bad(TOKEN_TYPE, format!("token {id} has the type {ty}; types are 1 to 6")))
    });
    types.collect()
}

/// What a token is for by its text: all tokens are text but the four kinds that every SentencePiece vocabulary has.
fn type_by_text(model: &str, text: &str) -> TokenType {
    let byte = || {
        let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    match text {
        _ if model != "llama" => TokenType::Normal,
        "<unk>" => TokenType::Unknown,
        "<s>" | "</s>" => TokenType::Control,
        _ if byte() => TokenType::Byte,
        _ => TokenType::Normal,
    }
}

/// The scores, or nothing; integers, which some writers have, are scores too. They do not matter to byte-level BPE, but an
/// array of another type or length is a sign of a mixed-up file there too.
pub(super) fn read_scores(gguf: &Gguf<'_>, tokens: usize) -> Result<Vec<f32>, GgufError> {
    let numbers = |a: &Array<'_>| matches!(a.elem(), ValueType::F32 | ValueType::I32);
    let Some(array) = gguf.array(SCORES, "an array of f32", numbers)? else {
        return Ok(Vec::new());
    };
    if array.len() != tokens {
        return Err(bad(SCORES, format!("there are {} scores for {tokens} tokens", array.len())));
    }
    let scores: Vec<f32> = array.numbers().into_iter().flatten().map(|x| x as f32).collect();
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(bad(SCORES, format!("the score of token {id} is not a number"))),
        None => Ok(scores),
    }
}

/// The index by string; refuses repeated tokens. Empty ones, which no text can become, are left out.
pub(super) fn index<'a>(tokens: &[&'a str], notes: &mut Vec<Note>) -> Result<TokenIds<'a>, GgufError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    let mut empty = 0usize;
    for (id, &token) in (0..).zip(tokens) {
        if token.is_empty() {
            empty += 1;
        } else if let Some(first) = ids.insert(token, id) {
            return Err(bad(TOKENS, format!("tokens {first} and {id} are both \"{}\"", printable(token))));
        }
    }
    if empty > 0 {
        notes.push(Note::warning(TOKENS, format!("has empty tokens ({empty}); no text is encoded to them")));
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
