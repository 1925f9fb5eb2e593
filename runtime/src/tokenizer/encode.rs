//! The tokenizer: special tokens are taken out of the text, what is left goes to the algorithm of the vocabulary.

use super::bpe::ByteLevelBpe;
use super::merge::Merger;
use super::sentencepiece::SentencePiece;
use super::vocabulary::{Fragment, SpecialTokens, Vocabulary};
use super::{Algorithm, TokenId, TokenType, Tokenize, TokenizerError, TokenizerSpec};

/// A tokenizer, ready to use. Cheap to share between threads behind an `Arc`.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    special: SpecialTokens,
    encoder: Encoder,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    /// Rising.
    eog: Vec<TokenId>,
    add_bos: bool,
    add_eos: bool,
}

enum Encoder {
    ByteLevel(ByteLevelBpe),
    SentencePiece(SentencePiece),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("tokens", &self.vocabulary.types.len()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Longest text that is encoded at once, in bytes.
    pub const MAX_TEXT_BYTES: usize = 1 << 30;

    /// Builds the tokenizer that `spec` describes.
    ///
    /// # Errors
    /// A specification whose tables do not fit together.
    pub fn new(spec: &TokenizerSpec) -> Result<Self, TokenizerError> {
        spec.validate()?;
        let vocabulary = Vocabulary::new(spec);
        let encoder = match &spec.algorithm {
            Algorithm::SentencePiece { scores, space_prefix, unknown } => {
                Encoder::SentencePiece(SentencePiece::new(scores, *space_prefix, *unknown))
            }
            _ => Encoder::ByteLevel(ByteLevelBpe::new(spec, &vocabulary)?),
        };
        let mut eog: Vec<TokenId> = spec.eog.iter().copied().chain(spec.eos).collect();
        eog.sort_unstable();
        eog.dedup();
        Ok(Self {
            special: SpecialTokens::new(spec)?,
            vocabulary,
            encoder,
            bos: spec.bos,
            eos: spec.eos,
            eog,
            add_bos: spec.add_bos,
            add_eos: spec.add_eos,
        })
    }

    /// All tokens that end generation, rising.
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.eog
    }

    /// Appends the ids of one text between `bos` and `eos`. `after_special` says whether a special token, or nothing,
    /// stands in front of it.
    fn encode_into(
        &self,
        text: &str,
        control: bool,
        breaks: &[usize],
        after_special: &mut bool,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        if text.len() > Self::MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), limit: Self::MAX_TEXT_BYTES });
        }
        let mut merger = Merger::default();
        self.special.split(text, control, breaks, |fragment| {
            let text = match fragment {
                Fragment::Token(id) => {
                    ids.push(id);
                    *after_special = true;
                    return Ok(());
                }
                Fragment::Text(text) => text,
            };
            let prefix = std::mem::replace(after_special, false);
            match &self.encoder {
                Encoder::ByteLevel(bpe) => bpe.encode(&self.vocabulary, text, &mut merger, ids),
                Encoder::SentencePiece(pieces) => {
                    let prefix = prefix && pieces.space_prefix;
                    pieces.encode(&self.vocabulary, text, prefix, &mut merger, ids)
                }
            }
        })
    }

    fn has_space_prefix(&self) -> bool {
        matches!(&self.encoder, Encoder::SentencePiece(pieces) if pieces.space_prefix)
    }
}

impl Tokenize for Tokenizer {
    fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        ids.extend(self.bos.filter(|_| add_special && self.add_bos));
        self.encode_into(text, parse_special, &[], &mut true, &mut ids)?;
        ids.extend(self.eos.filter(|_| add_special && self.add_eos));
        Ok(ids)
    }

    fn encode_template(
        &self,
        text: &str,
        breaks: &[usize],
        at_start: bool,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        ids.extend(self.bos.filter(|_| at_start && self.add_bos));
        let own = ids.len();
        self.encode_into(text, true, breaks, &mut { at_start }, &mut ids)?;
        // A template that writes the token itself is not given a second one.
        if own == 1 && ids.get(1) == ids.first() {
            ids.remove(0);
        }
        Ok(ids)
    }

    fn encode_bytes(
        &self,
        bytes: &[u8],
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = Vec::with_capacity(bytes.len() / 3 + 2);
        ids.extend(self.bos.filter(|_| add_special && self.add_bos));
        let mut after_special = true;
        let mut offset = 0;
        for chunk in bytes.utf8_chunks() {
            self.encode_into(chunk.valid(), parse_special, &[], &mut after_special, &mut ids)?;
            offset += chunk.valid().len();
            for &byte in chunk.invalid() {
                let token = self.vocabulary.bytes[usize::from(byte)];
                ids.push(token.ok_or(TokenizerError::ByteNotInVocabulary { byte, offset })?);
                after_special = false;
                offset += 1;
            }
        }
        ids.extend(self.eos.filter(|_| add_special && self.add_eos));
        Ok(ids)
    }

    fn token_bytes(&self, id: TokenId) -> &[u8] {
        self.vocabulary.token(id)
    }

    fn token_type(&self, id: TokenId) -> Option<TokenType> {
        self.vocabulary.types.get(id as usize).copied()
    }

    fn vocab_size(&self) -> usize {
        self.vocabulary.types.len()
    }

    fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    fn is_end(&self, id: TokenId) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    fn decode(&self, ids: &[TokenId], render_special: bool) -> Vec<u8> {
        let mut bytes: Vec<u8> = ids.iter().flat_map(|&id| self.piece(id, render_special)).copied().collect();
        // The space that `encode` put in front of the text, whether or not the first token follows a special one.
        let starts_with_text = ids
            .iter()
            .map(|&id| self.token_type(id))
            .find(|&kind| render_special || kind != Some(TokenType::Control))
            .is_some_and(|kind| kind == Some(TokenType::Normal));
        if self.has_space_prefix() && starts_with_text && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
