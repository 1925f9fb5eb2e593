//! SentencePiece's BPE (`tokenizer.ggml.model` = `llama`): no rule cuts the text, characters are the first symbols, and
//! of all neighbours whose joined text is a piece the pair with the best score is joined first.
//!
//! What has no piece in the end becomes the tokens of its bytes, or the unknown token where the vocabulary has none.
//! U+2581, which stands for the space inside the vocabulary, is spelled in bytes where a text contains it, so that
//! decoding gives back every text; SentencePiece itself would give a space.

use super::merge::{Join, Merger};
use super::vocabulary::{SPACE, Vocabulary};
use super::{TokenId, TokenizerError};

/// The scores of a vocabulary.
pub(super) struct SentencePiece {
    /// By token id: the better the score, the lower the rank.
    ranks: Vec<u32>,
    /// Whether a space goes in front of a text and after special tokens.
    pub(super) space_prefix: bool,
    unknown: Option<TokenId>,
}

/// An order of u32 that falls as `score` rises.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let rising = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !rising
}

impl SentencePiece {
    pub(super) fn new(scores: &[f32], space_prefix: bool, unknown: Option<TokenId>) -> Self {
        Self { ranks: scores.iter().map(|&score| rank(score)).collect(), space_prefix, unknown }
    }

    /// Appends the ids of a text without special tokens. `prefix` puts a space in front.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        prefix: bool,
        merger: &mut Merger,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        let shift = usize::from(prefix);
        let spaced: String;
        let text = if prefix {
            spaced = format!(" {text}");
            &spaced
        } else {
            text
        };
        merger.clear();
        let mut utf8 = [0; 4];
        for ch in text.chars() {
            let token = match ch {
                SPACE => None,
                _ => vocabulary.find(ch.encode_utf8(&mut utf8).as_bytes()),
            };
            merger.push(ch.len_utf8() as u32, token);
        }
        let bytes = text.as_bytes();
        merger.run(|left, right| {
            let (start, end) = (left.start as usize, (right.start + right.length) as usize);
            if end - start > vocabulary.longest {
                return None;
            }
            let token = vocabulary.find(&bytes[start..end])?;
            Some(Join { rank: self.ranks[token as usize], token })
        });
        for symbol in merger.symbols() {
            match symbol.token {
                Some(token) => ids.push(token),
                None => {
                    let (start, end) = (symbol.start as usize, (symbol.start + symbol.length) as usize);
                    self.spell(vocabulary, &bytes[start..end], start.saturating_sub(shift), ids)?;
                }
            }
        }
        Ok(())
    }

    /// Appends the tokens of bytes, or one unknown token for all of them.
    fn spell(
        &self,
        vocabulary: &Vocabulary,
        bytes: &[u8],
        offset: usize,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        let missing = bytes.iter().position(|&byte| vocabulary.bytes[usize::from(byte)].is_none());
        match (missing, self.unknown) {
            (None, _) => ids.extend(bytes.iter().filter_map(|&byte| vocabulary.bytes[usize::from(byte)])),
            (Some(_), Some(unknown)) => ids.push(unknown),
            (Some(at), None) => {
                return Err(TokenizerError::ByteNotInVocabulary { byte: bytes[at], offset: offset + at });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_have_lower_ranks() {
        let scores = [f32::INFINITY, 3.5, 0.0, -0.0, -1e-30, -1.0, -31_000.0, f32::NEG_INFINITY];
        for pair in scores.windows(2) {
            assert!(rank(pair[0]) <= rank(pair[1]), "{pair:?}");
            assert_eq!(rank(pair[0]) == rank(pair[1]), pair[0] == pair[1], "{pair:?}");
        }
    }
}
