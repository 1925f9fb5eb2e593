//! The tokenizer as plain data: what a model file declares and what a plan file stores.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::error::shortened;
use super::{TokenId, TokenizerError};

/// Kind of a token, with the meaning of `tokenizer.ggml.token_type` in GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TokenType {
    /// Ordinary text (GGUF 1).
    Normal,
    /// Stands for text that has no token (GGUF 2).
    Unknown,
    /// Steers the model and is not text (GGUF 3).
    Control,
    /// Text added after training, spelled as it is (GGUF 4).
    UserDefined,
    /// Place holder (GGUF 5).
    Unused,
    /// A single byte (GGUF 6).
    Byte,
}

impl TokenType {
    /// The type with this number in GGUF.
    pub fn from_gguf(value: i64) -> Option<Self> {
        Some(match value {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// How text becomes tokens: byte-level BPE with one of the rules that cut text into pieces
/// (`tokenizer.ggml.model` = `gpt2`, the rule is `tokenizer.ggml.pre`), or SentencePiece (`llama`).
///
/// The order of the variants is part of the plan file's format: new ones go to the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Algorithm {
    /// `llama-bpe`, the rule of LLaMA 3 and Falcon 3. A piece that is itself a token is taken without applying merges.
    LlamaBpe,
    /// `qwen2`, the rule of Qwen 2 and 3: as LLaMA 3's, but a piece has one digit, and merges are always applied.
    Qwen2,
    /// `gpt-2`, the first rule of this kind: words and numbers with the space in front of them, case sensitive.
    Gpt2,
    /// `default`, llama.cpp's for files that name no other: punctuation apart, then as GPT-2's, digits by threes.
    Default,
    /// `falcon`, the rule of the first Falcon models: as `default`, with the back quote among the punctuation.
    Falcon,
    /// SentencePiece's BPE: pieces have scores, the best pair of neighbours is joined first, spaces are U+2581, and
    /// characters without a piece become the tokens of their bytes.
    SentencePiece {
        /// Scores by token id, higher joins first.
        scores: Vec<f32>,
        /// Whether a space is inserted before a text and after special tokens.
        space_prefix: bool,
        /// Stands for bytes without a token.
        unknown: Option<TokenId>,
    },
    /// `qwen35`, the rule of Qwen 3.5: as Qwen 2's, with marks counted as letters.
    Qwen35,
}

impl Algorithm {
    /// Whether the tokens are written in the byte alphabet of GPT-2.
    pub fn is_byte_level(&self) -> bool {
        !matches!(self, Self::SentencePiece { .. })
    }

    /// Whether a piece that is a token as a whole is taken without applying merges.
    pub(super) fn ignores_merges(&self) -> bool {
        matches!(self, Self::LlamaBpe)
    }
}

/// A tokenizer, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenizerSpec {
    /// Token texts by id: ordinary tokens in the byte alphabet (SentencePiece: with U+2581 for spaces, bytes as
    /// `<0xFF>`), the others as they are.
    pub tokens: Vec<String>,
    /// Token types by id.
    pub types: Vec<TokenType>,
    /// Merge rules, first has priority: ids of the left and the right token. See [`pack_merges`]. None for
    /// SentencePiece.
    pub merges: Vec<(TokenId, TokenId)>,
    /// How text becomes tokens.
    pub algorithm: Algorithm,
    /// Beginning-of-sequence token.
    pub bos: Option<TokenId>,
    /// End-of-sequence token.
    pub eos: Option<TokenId>,
    /// All tokens that end generation.
    pub eog: Vec<TokenId>,
    /// Whether the model wants `bos` in front of a text.
    pub add_bos: bool,
    /// Whether the model expects `eos` after a text.
    pub add_eos: bool,
}

impl TokenizerSpec {
    /// Largest number of tokens.
    pub const MAX_TOKENS: usize = 1 << 24;
    /// Largest sum of the lengths of control, unknown and user-defined tokens, in bytes.
    pub const MAX_SPECIAL_BYTES: usize = 1 << 20;

    /// Checks everything that can be checked without building the encoder.
    pub fn validate(&self) -> Result<(), TokenizerError> {
        let tokens = self.tokens.len();
        if tokens == 0 {
            return Err(TokenizerError::EmptyVocabulary);
        }
        if tokens > Self::MAX_TOKENS {
            return Err(TokenizerError::TooManyTokens { tokens, limit: Self::MAX_TOKENS });
        }
        if tokens != self.types.len() {
            return Err(TokenizerError::TypeCount { tokens, types: self.types.len() });
        }
        let in_range = |id: TokenId| (id as usize) < tokens;
        let named = self.bos.iter().map(|&id| ("bos", id));
        let named = named.chain(self.eos.iter().map(|&id| ("eos", id)));
        for (role, id) in named.chain(self.eog.iter().map(|&id| ("end-of-generation", id))) {
            if !in_range(id) {
                return Err(TokenizerError::IdOutOfRange { role, id, tokens });
            }
        }
        for (index, &(left, right)) in self.merges.iter().enumerate() {
            if let Some(id) = [left, right].into_iter().find(|&id| !in_range(id)) {
                return Err(TokenizerError::MergeIdOutOfRange { index, id, tokens });
            }
        }
        if let Algorithm::SentencePiece { scores, unknown, .. } = &self.algorithm {
            if scores.len() != tokens {
                return Err(TokenizerError::ScoreCount { tokens, scores: scores.len() });
            }
            if let Some(id) = scores.iter().position(|score| score.is_nan()) {
                return Err(TokenizerError::ScoreNotANumber { id: id as TokenId });
            }
            if let Some(id) = unknown.filter(|&id| !in_range(id)) {
                return Err(TokenizerError::IdOutOfRange { role: "unknown", id, tokens });
            }
        }
        let bytes = self.special_tokens().map(|(_, text)| text.len()).sum();
        if bytes > Self::MAX_SPECIAL_BYTES {
            return Err(TokenizerError::SpecialTokensTooLong { bytes, limit: Self::MAX_SPECIAL_BYTES });
        }
        Ok(())
    }

    /// Control, unknown and user-defined tokens: those that are matched as whole words or not at all.
    pub(super) fn special_tokens(&self) -> impl Iterator<Item = (TokenId, &str)> {
        self.typed_tokens()
            .filter(|(_, text, kind)| {
                matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::UserDefined)
                    && !text.is_empty()
            })
            .map(|(id, text, _)| (id, text))
    }

    fn typed_tokens(&self) -> impl Iterator<Item = (TokenId, &str, TokenType)> {
        (0..).zip(&self.tokens).zip(&self.types).map(|((id, text), &kind)| (id, text.as_str(), kind))
    }
}

/// Turns merge rules, pairs of token texts, into pairs of token ids.
///
/// Only [`TokenType::Normal`] and [`TokenType::Byte`] tokens count, since nothing else may come out of plain text.
pub fn pack_merges<'m, S: AsRef<str>>(
    tokens: &[S],
    types: &[TokenType],
    merges: impl IntoIterator<Item = (&'m str, &'m str)>,
) -> Result<Vec<(TokenId, TokenId)>, TokenizerError> {
    if tokens.len() != types.len() {
        return Err(TokenizerError::TypeCount { tokens: tokens.len(), types: types.len() });
    }
    let ids: HashMap<&str, TokenId> = (0..)
        .zip(tokens)
        .zip(types)
        .filter(|(_, kind)| matches!(kind, TokenType::Normal | TokenType::Byte))
        .map(|((id, text), _)| (text.as_ref(), id))
        .collect();
    let resolve = |index: usize, token: &str| {
        ids.get(token)
            .copied()
            .ok_or_else(|| TokenizerError::MergeUnknownToken { index, token: shortened(token) })
    };
    merges
        .into_iter()
        .enumerate()
        .map(|(index, (left, right))| Ok((resolve(index, left)?, resolve(index, right)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn merges_become_ids() {
        let tokens = strings(&["a", "b", "ab", "<end>"]);
        let mut types = vec![TokenType::Normal; 4];
        assert_eq!(pack_merges(&tokens, &types, [("a", "b"), ("ab", "a")]), Ok(vec![(0, 1), (2, 0)]));
        assert_eq!(
            pack_merges(&tokens, &types, [("a", "b"), ("a", "c")]),
            Err(TokenizerError::MergeUnknownToken { index: 1, token: "c".to_owned() })
        );
        types[3] = TokenType::Control;
        assert_eq!(
            pack_merges(&tokens, &types, [("a", "<end>")]),
            Err(TokenizerError::MergeUnknownToken { index: 0, token: "<end>".to_owned() })
        );
        assert_eq!(
            pack_merges(&tokens, &types[1..], []),
            Err(TokenizerError::TypeCount { tokens: 4, types: 3 })
        );
    }

    #[test]
    fn validation_names_the_fault() {
        let good = TokenizerSpec {
            tokens: strings(&["a", "b", "ab"]),
            types: vec![TokenType::Normal; 3],
            merges: vec![(0, 1)],
            algorithm: Algorithm::LlamaBpe,
            bos: Some(0),
            eos: Some(2),
            eog: vec![2],
            add_bos: true,
            add_eos: false,
        };
        assert_eq!(good.validate(), Ok(()));
        let check = |change: &dyn Fn(&mut TokenizerSpec), expected: TokenizerError| {
            let mut spec = good.clone();
            change(&mut spec);
            assert_eq!(spec.validate(), Err(expected));
        };
        check(&|spec| spec.tokens.clear(), TokenizerError::EmptyVocabulary);
        check(&|spec| spec.types.truncate(1), TokenizerError::TypeCount { tokens: 3, types: 1 });
        check(&|spec| spec.bos = Some(3), TokenizerError::IdOutOfRange { role: "bos", id: 3, tokens: 3 });
        check(
            &|spec| spec.eog.push(9),
            TokenizerError::IdOutOfRange { role: "end-of-generation", id: 9, tokens: 3 },
        );
        check(
            &|spec| {
                let scores = vec![0.0];
                spec.algorithm = Algorithm::SentencePiece { scores, space_prefix: true, unknown: None };
            },
            TokenizerError::ScoreCount { tokens: 3, scores: 1 },
        );
        check(
            &|spec| {
                let scores = vec![0.0, f32::NAN, 0.0];
                spec.algorithm = Algorithm::SentencePiece { scores, space_prefix: true, unknown: None };
            },
            TokenizerError::ScoreNotANumber { id: 1 },
        );
        check(
            &|spec| {
                let scores = vec![0.0; 3];
                spec.algorithm = Algorithm::SentencePiece { scores, space_prefix: true, unknown: Some(3) };
            },
            TokenizerError::IdOutOfRange { role: "unknown", id: 3, tokens: 3 },
        );
        check(
            &|spec| spec.merges.push((0, 7)),
            TokenizerError::MergeIdOutOfRange { index: 1, id: 7, tokens: 3 },
        );
        check(
            &|spec| {
                spec.types[2] = TokenType::Control;
                spec.tokens[2] = "x".repeat(TokenizerSpec::MAX_SPECIAL_BYTES + 1);
            },
            TokenizerError::SpecialTokensTooLong {
                bytes: TokenizerSpec::MAX_SPECIAL_BYTES + 1,
                limit: TokenizerSpec::MAX_SPECIAL_BYTES,
            },
        );
    }

    #[test]
    fn stored_form_round_trips() {
        let spec = TokenizerSpec {
            tokens: strings(&["Ġ", "b", "<|end|>"]),
            types: vec![TokenType::Normal, TokenType::Byte, TokenType::Control],
            merges: vec![(0, 1)],
            algorithm: Algorithm::LlamaBpe,
            bos: None,
            eos: Some(2),
            eog: vec![2],
            add_bos: false,
            add_eos: true,
        };
        let bytes = postcard::to_stdvec(&spec).unwrap();
        assert_eq!(postcard::from_bytes::<TokenizerSpec>(&bytes).unwrap(), spec);
    }
}
