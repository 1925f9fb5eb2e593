//! The tokens themselves: bytes, kinds, a search by bytes, and the special tokens that are found as whole words.

use std::hash::BuildHasher;

use aho_corasick::{AhoCorasick, MatchKind};
use hashbrown::{DefaultHashBuilder, HashTable};

use super::byte_level::ByteAlphabet;
use super::{TokenId, TokenType, TokenizerError, TokenizerSpec};

/// The space of SentencePiece.
pub(super) const SPACE: char = '\u{2581}';

/// Tokens by id and by bytes. Only what ordinary text may become is found by bytes.
pub(super) struct Vocabulary {
    pub(super) types: Vec<TokenType>,
    /// Bytes of all tokens, one after the other.
    text: Vec<u8>,
    /// End of each token in `text`.
    ends: Vec<usize>,
    /// Ids of normal tokens. Keyed at random, so that no file can choose tokens that collide.
    by_bytes: HashTable<TokenId>,
    hasher: DefaultHashBuilder,
    /// Tokens of single bytes.
    pub(super) bytes: [Option<TokenId>; 256],
    /// Bytes of the longest token that is found by bytes.
    pub(super) longest: usize,
}

impl Vocabulary {
    pub(super) fn new(spec: &TokenizerSpec) -> Self {
        let mut vocabulary = Self {
            types: spec.types.clone(),
            text: Vec::with_capacity(spec.tokens.iter().map(String::len).sum()),
            ends: Vec::with_capacity(spec.tokens.len()),
            by_bytes: HashTable::with_capacity(spec.tokens.len()),
            hasher: DefaultHashBuilder::default(),
            bytes: [None; 256],
            longest: 0,
        };
        let alphabet = ByteAlphabet::new();
        for ((id, token), &kind) in (0..).zip(&spec.tokens).zip(&spec.types) {
            let is_text = match spec.algorithm.is_byte_level() {
                true => vocabulary.push_byte_level(&alphabet, token, kind),
                false => vocabulary.push_sentence_piece(token, kind, id),
            };
            let end = vocabulary.text.len();
            vocabulary.ends.push(end);
            if is_text && end > vocabulary.start(id) {
                vocabulary.insert(id);
            }
        }
        if spec.algorithm.is_byte_level() {
            for byte in 0..=u8::MAX {
                vocabulary.bytes[usize::from(byte)] = vocabulary.find(&[byte]);
            }
        }
        vocabulary
    }

    /// Appends the bytes of a token and says whether text may become it.
    fn push_byte_level(&mut self, alphabet: &ByteAlphabet, token: &str, kind: TokenType) -> bool {
        match kind {
            TokenType::Normal | TokenType::Byte => alphabet.decode_into(token, &mut self.text),
            TokenType::Control | TokenType::UserDefined | TokenType::Unknown | TokenType::Unused => {
                self.text.extend_from_slice(token.as_bytes());
                false
            }
        }
    }

    fn push_sentence_piece(&mut self, token: &str, kind: TokenType, id: TokenId) -> bool {
        match kind {
            TokenType::Normal => {
                let mut utf8 = [0; 4];
                for ch in token.chars() {
                    let ch = if ch == SPACE { ' ' } else { ch };
                    self.text.extend_from_slice(ch.encode_utf8(&mut utf8).as_bytes());
                }
                true
            }
            TokenType::Byte => {
                match byte_of_name(token) {
                    Some(byte) => {
                        self.text.push(byte);
                        self.bytes[usize::from(byte)].get_or_insert(id);
                    }
                    None => self.text.extend_from_slice(token.as_bytes()),
                }
                false
            }
            TokenType::Control | TokenType::UserDefined | TokenType::Unknown | TokenType::Unused => {
                self.text.extend_from_slice(token.as_bytes());
                false
            }
        }
    }

    /// The first of equal tokens stays.
    fn insert(&mut self, id: TokenId) {
        let token = self.token(id);
        let (length, hash) = (token.len(), self.hasher.hash_one(token));
        if self.find_hashed(token, hash).is_some() {
            return;
        }
        self.longest = self.longest.max(length);
        let (text, ends, hasher) = (&self.text, &self.ends, &self.hasher);
        let rehash = |&id: &TokenId| hasher.hash_one(slice(text, ends, id));
        self.by_bytes.insert_unique(hash, id, rehash);
    }

    /// The ordinary token with these bytes.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<TokenId> {
        self.find_hashed(bytes, self.hasher.hash_one(bytes))
    }

    fn find_hashed(&self, bytes: &[u8], hash: u64) -> Option<TokenId> {
        self.by_bytes.find(hash, |&id| self.token(id) == bytes).copied()
    }

    fn start(&self, id: TokenId) -> usize {
        if id == 0 { 0 } else { self.ends[id as usize - 1] }
    }

    /// All bytes of a token; none for an id outside the vocabulary.
    pub(super) fn token(&self, id: TokenId) -> &[u8] {
        slice(&self.text, &self.ends, id)
    }
}

fn slice<'t>(text: &'t [u8], ends: &[usize], id: TokenId) -> &'t [u8] {
    let id = id as usize;
    let Some(&end) = ends.get(id) else { return &[] };
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &text[start..end]
}

/// The byte of a SentencePiece byte token, `<0x0A>`.
fn byte_of_name(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Finds special tokens in a text: the leftmost, and of those the longest.
pub(super) struct SpecialTokens {
    /// Control, unknown and user-defined tokens.
    all: Option<Automaton>,
    /// User-defined tokens alone, which any text may become.
    user_defined: Option<Automaton>,
}

struct Automaton {
    automaton: AhoCorasick,
    ids: Vec<TokenId>,
}

impl Automaton {
    fn new<'t>(tokens: impl Iterator<Item = (TokenId, &'t str)>) -> Result<Option<Self>, TokenizerError> {
        let (ids, texts): (Vec<TokenId>, Vec<&str>) = tokens.unzip();
        if ids.is_empty() {
            return Ok(None);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&texts)
            .map_err(|error| TokenizerError::Build { reason: error.to_string() })?;
        Ok(Some(Self { automaton, ids }))
    }
}

/// A stretch of text, or a special token that was found in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(TokenId),
}

impl SpecialTokens {
    pub(super) fn new(spec: &TokenizerSpec) -> Result<Self, TokenizerError> {
        let is_user_defined = |&(id, _): &(TokenId, &str)| spec.types[id as usize] == TokenType::UserDefined;
        Ok(Self {
            all: Automaton::new(spec.special_tokens())?,
            user_defined: Automaton::new(spec.special_tokens().filter(is_user_defined))?,
        })
    }

    /// Cuts `text` at user-defined tokens and, if `control`, at all special tokens. No control token is found across
    /// one of `breaks`, which are rising places in `text`, and none that is a single character between two of them.
    pub(super) fn split<'t, E>(
        &self,
        text: &'t str,
        control: bool,
        breaks: &[usize],
        mut each: impl FnMut(Fragment<'t>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(all) = self.all.as_ref().filter(|_| control) else {
            return self.split_user_defined(text, &mut each);
        };
        let mut done = 0;
        let mut start = 0;
        let inner =
            breaks.iter().copied().filter(|&at| at > 0 && at < text.len() && text.is_char_boundary(at));
        for end in inner.chain([text.len()]) {
            if end <= start {
                continue;
            }
            for found in all.automaton.find_iter(&text[start..end]) {
                if found.end() == end - start && found.start() == 0 && is_alone(text, breaks, start..end) {
                    continue;
                }
                self.split_user_defined(&text[done..start + found.start()], &mut each)?;
                each(Fragment::Token(all.ids[found.pattern().as_usize()]))?;
                done = start + found.end();
            }
            start = end;
        }
        self.split_user_defined(&text[done..], &mut each)
    }

    fn split_user_defined<'t, E>(
        &self,
        text: &'t str,
        each: &mut impl FnMut(Fragment<'t>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done = 0;
        if let Some(own) = &self.user_defined {
            for found in own.automaton.find_iter(text) {
                if found.start() > done {
                    each(Fragment::Text(&text[done..found.start()]))?;
                }
                each(Fragment::Token(own.ids[found.pattern().as_usize()]))?;
                done = found.end();
            }
        }
        if done < text.len() {
            each(Fragment::Text(&text[done..]))?;
        }
        Ok(())
    }
}

/// Whether a range is one character between two breaks, which cannot be broken within.
fn is_alone(text: &str, breaks: &[usize], range: std::ops::Range<usize>) -> bool {
    let is_break = |place: usize| breaks.binary_search(&place).is_ok();
    text[range.clone()].chars().nth(1).is_none() && is_break(range.start) && is_break(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bytes() {
        assert_eq!(byte_of_name("<0x0A>"), Some(10));
        assert_eq!(byte_of_name("<0xff>"), Some(255));
        for bad in ["<0xA>", "<0x+A>", "<0x0A", "0x0A", "<0x00A>"] {
            assert_eq!(byte_of_name(bad), None, "{bad}");
        }
    }
}
