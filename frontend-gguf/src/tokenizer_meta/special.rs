//! The ids of special tokens, as files have them.
//!
//! Writers say "there is none" by leaving a key out or by −1, in whatever integer type they have. Such an id is absent, with
//! a note; any other id beyond the vocabulary is a sign of a damaged or mixed-up file.

use super::{SpecialIds, TokenId, TokenType, bad};
use crate::error::GgufError;
use crate::note::Note;
use crate::reader::Gguf;

pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
/// Not used, but out of range they are a sign of a damaged or mixed-up file.
const UNUSED: [&str; 3] =
    ["tokenizer.ggml.seperator_token_id", "tokenizer.ggml.cls_token_id", "tokenizer.ggml.mask_token_id"];

/// Whether a token id is how writers say that there is none: −1, in a signed integer of any width or in an unsigned one of 32
/// or 64 bits.
pub fn is_none(id: i128) -> bool {
    id == -1 || id == i128::from(u32::MAX) || id == i128::from(u64::MAX)
}

/// The token with this number; `None` if it stands for none.
pub(super) fn token(key: &'static str, id: i128, tokens: usize) -> Result<Option<TokenId>, GgufError> {
    match TokenId::try_from(id) {
        Ok(token) if (token as usize) < tokens => Ok(Some(token)),
        _ if is_none(id) => Ok(None),
        _ => Err(bad(key, format!("is {id}, but there are {tokens} tokens"))),
    }
}

/// Reads ids and notes those that stand for none.
struct Ids<'g, 'a> {
    gguf: &'g Gguf<'a>,
    tokens: usize,
    notes: &'g mut Vec<Note>,
}

impl Ids<'_, '_> {
    fn read(&mut self, key: &'static str) -> Result<Option<TokenId>, GgufError> {
        let Some(id) = self.gguf.integer(key)? else { return Ok(None) };
        let token = token(key, id, self.tokens)?;
        if token.is_none() {
            self.notes.push(Note::warning(key, format!("is {id}, which is taken for none")));
        }
        Ok(token)
    }

    /// As [`Ids::read`]; where the key is absent, what `default` gives, with a note.
    fn read_or(&mut self, key: &'static str, default: Option<TokenId>) -> Result<Option<TokenId>, GgufError> {
        if self.gguf.entry(key).is_some() {
            return self.read(key);
        }
        if let Some(id) = default {
            self.notes.push(Note::default_used(key, id, "as SentencePiece models have it"));
        }
        Ok(default)
    }
}

/// Reads all ids. SentencePiece's `<unk>`, `<s>` and `</s>` are tokens 0 to 2 where the file does not say.
pub(super) fn read(
    gguf: &Gguf<'_>,
    types: &[TokenType],
    model: &str,
    notes: &mut Vec<Note>,
) -> Result<SpecialIds, GgufError> {
    let mut ids = Ids { gguf, tokens: types.len(), notes };
    for key in UNUSED {
        ids.read(key)?;
    }
    let default = |id: TokenId, ty| (model == "llama" && types.get(id as usize) == Some(&ty)).then_some(id);
    Ok(SpecialIds {
        bos: ids.read_or(BOS, default(1, TokenType::Control))?,
        eos: match super::ends::list(gguf, EOS)? {
            Some(list) => list.first().copied().map_or(Ok(None), |id| token(EOS, id, types.len()))?,
            None => ids.read_or(EOS, default(2, TokenType::Control))?,
        },
        eot: ids.read(EOT)?,
        eom: ids.read(EOM)?,
        pad: ids.read(PADDING)?,
        unk: ids.read_or(UNKNOWN, default(0, TokenType::Unknown))?,
    })
}
