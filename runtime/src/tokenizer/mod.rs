//! Text to token ids and back, as GGUF files describe it: byte-level BPE and SentencePiece.
//!
//! Three separate jobs live here. [`TokenizerSpec`] is plain data (what a plan file stores). [`Tokenizer`] is
//! built from it and does the work behind the small trait [`Tokenize`], so that another algorithm can be put in
//! its place. [`StreamDecoder`] turns the bytes of tokens, which may end in the middle of a character, into text.
//!
//! Invariants:
//! - a control token is never produced from text unless the caller asks with `parse_special`;
//! - `decode(encode_bytes(bytes))` without special tokens returns exactly `bytes`;
//! - time is O(n log n) in the length of the text, whatever the text is;
//! - nothing here panics, whatever the specification or the text contains.

mod bpe;
mod byte_level;
mod encode;
mod error;
mod merge;
mod sentencepiece;
mod spec;
mod split;
mod stream;
mod vocabulary;

pub use encode::Tokenizer;
pub use error::TokenizerError;
pub use spec::{Algorithm, TokenType, TokenizerSpec, pack_merges};
pub use stream::StreamDecoder;

/// Index of a token in the vocabulary, and of its row in the embedding and in the logits.
pub type TokenId = u32;

/// What the rest of the runtime needs from a tokenizer.
pub trait Tokenize: Send + Sync {
    /// The ids of `text`.
    ///
    /// `add_special` puts the beginning-of-sequence token in front and the end-of-sequence token after, each only
    /// if the model asks for it. `parse_special` lets control tokens that are spelled out in the text become those
    /// tokens; leave it off for text that a user wrote. User-defined tokens are text and always found.
    ///
    /// # Errors
    /// A text that is too long, or has a byte that the vocabulary has no token for.
    fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TokenizerError>;

    /// As [`Tokenize::encode`], for bytes that need not be UTF-8; those that are not become the tokens of their bytes.
    ///
    /// # Errors
    /// As [`Tokenize::encode`].
    fn encode_bytes(
        &self,
        bytes: &[u8],
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TokenizerError>;

    /// The ids of the text that a chat template made: with control tokens, but none across one of `breaks` (rising byte
    /// offsets), which lie where a user spelled one out. `at_start` says that nothing comes before the text: the
    /// beginning-of-sequence token then stands in front once if the model asks for it, whether or not the template
    /// writes it.
    ///
    /// # Errors
    /// As [`Tokenize::encode`].
    fn encode_template(
        &self,
        text: &str,
        breaks: &[usize],
        at_start: bool,
    ) -> Result<Vec<TokenId>, TokenizerError>;

    /// All bytes of a token, control tokens included. Empty for an id outside the vocabulary.
    fn token_bytes(&self, id: TokenId) -> &[u8];

    /// The kind of a token; `None` for an id outside the vocabulary.
    fn token_type(&self, id: TokenId) -> Option<TokenType>;

    /// Number of tokens.
    fn vocab_size(&self) -> usize;

    /// Beginning-of-sequence token.
    fn bos(&self) -> Option<TokenId>;

    /// End-of-sequence token as the file names it. To know when to stop use [`Tokenize::is_end`].
    fn eos(&self) -> Option<TokenId>;

    /// Whether generation stops at this token (end of sequence, end of turn and the like).
    fn is_end(&self, id: TokenId) -> bool;

    /// The bytes that a token contributes to the output: nothing for control and unknown tokens unless
    /// `render_special`, nothing for unused ones.
    fn piece(&self, id: TokenId, render_special: bool) -> &[u8] {
        match self.token_type(id) {
            Some(TokenType::Normal | TokenType::UserDefined | TokenType::Byte) => self.token_bytes(id),
            Some(TokenType::Control | TokenType::Unknown) if render_special => self.token_bytes(id),
            Some(TokenType::Control | TokenType::Unknown | TokenType::Unused) | None => &[],
        }
    }

    /// The bytes of a sequence of tokens from the start of a text; see [`Tokenize::piece`]. A space that
    /// [`Tokenize::encode`] has put in front is taken away.
    fn decode(&self, ids: &[TokenId], render_special: bool) -> Vec<u8> {
        ids.iter().flat_map(|&id| self.piece(id, render_special)).copied().collect()
    }

    /// The text of a sequence of tokens, with U+FFFD for bytes that are not UTF-8.
    fn decode_lossy(&self, ids: &[TokenId], render_special: bool) -> String {
        String::from_utf8_lossy(&self.decode(ids, render_special)).into_owned()
    }
}
