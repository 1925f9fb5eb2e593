//! Byte-level BPE: text is cut into pieces, every byte of a piece is a token, and the merges join them.

use std::collections::HashMap;

use super::error::shortened;
use super::merge::{Join, Merger};
use super::split::Splitter;
use super::vocabulary::Vocabulary;
use super::{TokenId, TokenType, TokenizerError, TokenizerSpec};

/// The merges of a vocabulary and the rule that cuts text.
pub(super) struct ByteLevelBpe {
    /// Keyed at random (the standard map), so that no file can choose merges that collide.
    joins: HashMap<(TokenId, TokenId), Join>,
    splitter: Splitter,
    /// Whether a piece that is a token as a whole is taken as it is.
    ignore_merges: bool,
}

impl ByteLevelBpe {
    pub(super) fn new(spec: &TokenizerSpec, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let mut joins = HashMap::with_capacity(spec.merges.len());
        let mut bytes = Vec::new();
        for (rank, &(left, right)) in (0..).zip(&spec.merges) {
            let ordinary = |id: TokenId| {
                let kind = vocabulary.types.get(id as usize).copied();
                match kind {
                    Some(TokenType::Normal | TokenType::Byte) => Ok(()),
                    Some(_) => Err(unknown(rank as usize, &spec.tokens[id as usize])),
                    None => Err(TokenizerError::MergeIdOutOfRange {
                        index: rank as usize,
                        id,
                        tokens: spec.tokens.len(),
                    }),
                }
            };
            ordinary(left)?;
            ordinary(right)?;
            // Tokens that are not spelled in the byte alphabet never come out of text.
            if [left, right].iter().any(|&id| vocabulary.find(vocabulary.token(id)) != Some(id)) {
                continue;
            }
            bytes.clear();
            bytes.extend_from_slice(vocabulary.token(left));
            bytes.extend_from_slice(vocabulary.token(right));
            let product = vocabulary.find(&bytes).ok_or_else(|| {
                unknown(
                    rank as usize,
                    &format!("{}{}", spec.tokens[left as usize], spec.tokens[right as usize]),
                )
            })?;
            // Of equal rules the first counts.
            joins.entry((left, right)).or_insert(Join { rank, token: product });
        }
        Ok(Self {
            joins,
            splitter: Splitter::new(&spec.algorithm)?,
            ignore_merges: spec.algorithm.ignores_merges(),
        })
    }

    /// Appends the ids of a text without special tokens.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        merger: &mut Merger,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        if let Some(offset) = text.bytes().position(|byte| vocabulary.bytes[usize::from(byte)].is_none()) {
            return Err(TokenizerError::ByteNotInVocabulary { byte: text.as_bytes()[offset], offset });
        }
        self.splitter.pieces(text, &mut |piece| self.encode_piece(vocabulary, piece, merger, ids));
        Ok(())
    }

    fn encode_piece(
        &self,
        vocabulary: &Vocabulary,
        piece: &str,
        merger: &mut Merger,
        ids: &mut Vec<TokenId>,
    ) {
        let bytes = piece.as_bytes();
        let whole = self.ignore_merges && bytes.len() <= vocabulary.longest;
        if let Some(id) = whole.then(|| vocabulary.find(bytes)).flatten() {
            ids.push(id);
            return;
        }
        merger.clear();
        for &byte in bytes {
            merger.push(1, vocabulary.bytes[usize::from(byte)]);
        }
        merger.run(|left, right| self.joins.get(&(left.token?, right.token?)).copied());
        ids.extend(merger.symbols().filter_map(|symbol| symbol.token));
    }
}

fn unknown(index: usize, token: &str) -> TokenizerError {
    TokenizerError::MergeUnknownToken { index, token: shortened(token) }
}
