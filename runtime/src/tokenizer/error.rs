//! Errors of tokenizer construction and encoding.

use super::TokenId;

/// Why a tokenizer cannot be built, or why a text cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The vocabulary has no tokens.
    #[error("the tokenizer has no tokens: `tokenizer.ggml.tokens` is missing from the model file")]
    EmptyVocabulary,
    /// Tokens and token types differ in number.
    #[error("the tokenizer has {tokens} tokens but {types} token types; convert the model file again")]
    TypeCount {
        /// Number of tokens.
        tokens: usize,
        /// Number of types.
        types: usize,
    },
    /// Tokens and scores differ in number.
    #[error("the tokenizer has {tokens} tokens but {scores} scores; convert the model file again")]
    ScoreCount {
        /// Number of tokens.
        tokens: usize,
        /// Number of scores.
        scores: usize,
    },
    /// A score is not a number.
    #[error("the score of token {id} is not a number; convert the model file again")]
    ScoreNotANumber {
        /// The token.
        id: TokenId,
    },
    /// The vocabulary is larger than any that is supported.
    #[error("the tokenizer has {tokens} tokens, more than the limit of {limit}")]
    TooManyTokens {
        /// Number of tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A named id (bos, eos, end of generation) is not in the vocabulary.
    #[error("the {role} token id {id} is outside the vocabulary of {tokens} tokens")]
    IdOutOfRange {
        /// Which setting holds the id.
        role: &'static str,
        /// The id.
        id: TokenId,
        /// Number of tokens.
        tokens: usize,
    },
    /// A merge rule uses or makes a token that plain text may not contain or that does not exist.
    #[error("merge {index} needs the token {token:?}, which is not an ordinary token of the vocabulary")]
    MergeUnknownToken {
        /// Position in the list of merges.
        index: usize,
        /// The missing token, shortened.
        token: String,
    },
    /// A merge rule names a token id outside the vocabulary.
    #[error("merge {index} names token id {id}, outside the vocabulary of {tokens} tokens")]
    MergeIdOutOfRange {
        /// Position in the list of merges.
        index: usize,
        /// The id.
        id: TokenId,
        /// Number of tokens.
        tokens: usize,
    },
    /// The texts of the special tokens are unreasonably long.
    #[error("the texts of the special tokens take {bytes} bytes, more than the limit of {limit}")]
    SpecialTokensTooLong {
        /// Sum of their lengths.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The vocabulary has no token for a byte of the text.
    #[error(
        "byte 0x{byte:02x} at offset {offset} of the text has no token in this vocabulary; remove that character"
    )]
    ByteNotInVocabulary {
        /// The byte.
        byte: u8,
        /// Offset in the piece of text between special tokens.
        offset: usize,
    },
    /// The text is longer than any that is encoded at once.
    #[error("the text has {bytes} bytes, more than the limit of {limit}")]
    TextTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The rule that cuts text, or the search for special tokens, could not be built.
    #[error("the tokenizer could not be built: {reason}")]
    Build {
        /// The library's reason.
        reason: String,
    },
}

/// At most 40 characters of a string taken from a file, for use in messages.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
