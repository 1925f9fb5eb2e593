//! Byte-level BPE over the model of the `tokenizers` crate.
//!
//! Only the merge algorithm of that crate is used (a heap, O(n log n)); cutting, the byte alphabet and the matching
//! of special tokens are done here. The crate's builder panics on a merge whose result is longer than every token,
//! hence lengths are checked before the merges are handed over.

use std::borrow::Cow;
use std::collections::HashSet;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Error as BpeError, Vocab};

use super::byte_level::ByteAlphabet;
use super::error::shortened;
use super::split::Splitter;
use super::{PreTokenizer, TokenId, TokenType, Tokenize, TokenizerError, TokenizerSpec};

/// A byte-level BPE tokenizer, ready to use. Cheap to share between threads behind an `Arc`.
pub struct BpeTokenizer {
    merges: BPE,
    alphabet: ByteAlphabet,
    splitter: Splitter,
    /// Which byte values have a token.
    known_bytes: [bool; 256],
    special: Option<SpecialTokens>,
    types: Vec<TokenType>,
    /// Bytes of all tokens, one after the other.
    text: Vec<u8>,
    /// End of each token in `text`.
    ends: Vec<usize>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    /// Rising.
    eog: Vec<TokenId>,
    add_bos: bool,
    add_eos: bool,
}

/// Finds special tokens in a text: the leftmost, and of those the longest.
struct SpecialTokens {
    automaton: AhoCorasick,
    ids: Vec<TokenId>,
}

impl SpecialTokens {
    fn new(spec: &TokenizerSpec) -> Result<Option<Self>, TokenizerError> {
        let (ids, texts): (Vec<TokenId>, Vec<&str>) =
            spec.special_tokens().filter(|(_, text)| !text.is_empty()).unzip();
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

impl BpeTokenizer {
    /// Builds the tokenizer that `spec` describes.
    pub fn new(spec: &TokenizerSpec) -> Result<Self, TokenizerError> {
        spec.validate()?;
        let alphabet = ByteAlphabet::new();
        let vocab: Vocab = spec.ordinary_tokens().map(|(id, text)| (text.to_owned(), id)).collect();
        let mut known_bytes = [false; 256];
        let mut key = String::with_capacity(4);
        for byte in 0..=u8::MAX {
            key.clear();
            key.push(alphabet.char(byte));
            known_bytes[usize::from(byte)] = vocab.contains_key(&key);
        }

        let mut text = Vec::with_capacity(spec.tokens.iter().map(String::len).sum());
        let mut ends = Vec::with_capacity(spec.tokens.len());
        for (token, kind) in spec.tokens.iter().zip(&spec.types) {
            match kind {
                TokenType::Normal | TokenType::Byte => alphabet.decode_into(token, &mut text),
                TokenType::Control | TokenType::UserDefined | TokenType::Unknown | TokenType::Unused => {
                    text.extend_from_slice(token.as_bytes());
                }
            }
            ends.push(text.len());
        }
        let mut eog: Vec<TokenId> = spec.eog.iter().copied().chain(spec.eos).collect();
        eog.sort_unstable();
        eog.dedup();

        Ok(Self {
            merges: Self::build_merges(spec, vocab)?,
            alphabet,
            splitter: Splitter::new(spec.pre)?,
            known_bytes,
            special: SpecialTokens::new(spec)?,
            types: spec.types.clone(),
            text,
            ends,
            bos: spec.bos,
            eos: spec.eos,
            eog,
            add_bos: spec.add_bos,
            add_eos: spec.add_eos,
        })
    }

    fn build_merges(spec: &TokenizerSpec, vocab: Vocab) -> Result<BPE, TokenizerError> {
        let longest = spec.ordinary_tokens().map(|(_, text)| text.len()).max().unwrap_or(0);
        let ordinary = |index: usize, id: TokenId| match spec.types.get(id as usize) {
            Some(TokenType::Normal | TokenType::Byte) => Ok(&spec.tokens[id as usize]),
            Some(_) => Err(unknown(index, &spec.tokens[id as usize])),
            None => Err(TokenizerError::MergeIdOutOfRange { index, id, tokens: spec.tokens.len() }),
        };
        let rules = without_repetitions(&spec.merges);
        let mut merges = Vec::with_capacity(rules.len());
        for (index, &(left, right)) in rules.iter().enumerate() {
            let (left, right) = (ordinary(index, left)?, ordinary(index, right)?);
            if left.len() + right.len() > longest {
                return Err(unknown(index, &format!("{left}{right}")));
            }
            merges.push((left.clone(), right.clone()));
        }
        let ignore_merges = match spec.pre {
            PreTokenizer::LlamaBpe => true,
            PreTokenizer::Qwen2 => false,
        };
        let built = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(ignore_merges).build();
        built.map_err(|error| match error.downcast_ref() {
            Some(BpeError::MergeTokenOutOfVocabulary(product)) => {
                let text = |id: TokenId| spec.tokens[id as usize].as_str();
                let is_it = |&(left, right): &(TokenId, TokenId)| {
                    product.strip_prefix(text(left)).is_some_and(|rest| rest == text(right))
                };
                unknown(rules.iter().position(is_it).unwrap_or(0), product)
            }
            _ => TokenizerError::Build { reason: error.to_string() },
        })
    }

    /// Appends the ids of text that has no special tokens in it.
    fn encode_plain(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        if let Some(offset) = text.bytes().position(|byte| !self.known_bytes[usize::from(byte)]) {
            return Err(TokenizerError::ByteNotInVocabulary { byte: text.as_bytes()[offset], offset });
        }
        let mut spelled = String::new();
        for piece in self.splitter.pieces(text) {
            spelled.clear();
            spelled.extend(piece.bytes().map(|byte| self.alphabet.char(byte)));
            let tokens = self
                .merges
                .tokenize(&spelled)
                .map_err(|error| TokenizerError::Encode { bytes: piece.len(), reason: error.to_string() })?;
            ids.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

fn unknown(index: usize, token: &str) -> TokenizerError {
    TokenizerError::MergeUnknownToken { index, token: shortened(token) }
}

/// The rules, each at its first place only: the crate lets the last of equal rules win, but the first has the priority
/// that the file gives it.
fn without_repetitions(rules: &[(TokenId, TokenId)]) -> Cow<'_, [(TokenId, TokenId)]> {
    let mut sorted = rules.to_vec();
    sorted.sort_unstable();
    if sorted.windows(2).all(|pair| pair[0] != pair[1]) {
        return Cow::Borrowed(rules);
    }
    let mut seen = HashSet::with_capacity(rules.len());
    Cow::Owned(rules.iter().copied().filter(|rule| seen.insert(*rule)).collect())
}

impl Tokenize for BpeTokenizer {
    fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        ids.extend(self.bos.filter(|_| add_special && self.add_bos));
        let mut rest = 0;
        if let Some(special) = self.special.as_ref().filter(|_| parse_special) {
            for found in special.automaton.find_iter(text) {
                self.encode_plain(&text[rest..found.start()], &mut ids)?;
                ids.push(special.ids[found.pattern().as_usize()]);
                rest = found.end();
            }
        }
        self.encode_plain(&text[rest..], &mut ids)?;
        ids.extend(self.eos.filter(|_| add_special && self.add_eos));
        Ok(ids)
    }

    fn token_bytes(&self, id: TokenId) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.text[start..end]
    }

    fn token_type(&self, id: TokenId) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    fn vocab_size(&self) -> usize {
        self.types.len()
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All bytes, the merges `a+b`, `ab+c` and specials at the end.
    fn spec() -> TokenizerSpec {
        let alphabet = ByteAlphabet::new();
        let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| alphabet.char(byte).to_string()).collect();
        tokens.extend(
            ["ab", "abc", "wholeword", "<|end|>", "<|end|>!", "<user>", "<unk>", "unused"].map(String::from),
        );
        let mut types = vec![TokenType::Normal; tokens.len()];
        types[259..].copy_from_slice(&[
            TokenType::Control,
            TokenType::Control,
            TokenType::UserDefined,
            TokenType::Unknown,
            TokenType::Unused,
        ]);
        TokenizerSpec {
            tokens,
            types,
            merges: vec![(u32::from(b'a'), u32::from(b'b')), (256, u32::from(b'c'))],
            pre: PreTokenizer::LlamaBpe,
            bos: Some(259),
            eos: Some(260),
            eog: vec![259],
            add_bos: true,
            add_eos: true,
        }
    }

    fn ids(bytes: &[u8]) -> Vec<TokenId> {
        bytes.iter().copied().map(TokenId::from).collect()
    }

    #[test]
    fn merges_and_whole_pieces() {
        let tokenizer = BpeTokenizer::new(&spec()).unwrap();
        assert_eq!(tokenizer.encode("abcab", false, false).unwrap(), [257, 256]);
        assert_eq!(tokenizer.encode("wholeword", false, false).unwrap(), [258]);
        assert_eq!(tokenizer.encode(" wholeword", false, false).unwrap(), ids(b" wholeword"));
        assert!(tokenizer.encode("", false, false).unwrap().is_empty());
    }

    #[test]
    fn the_first_of_equal_merges_counts() {
        let mut spec = spec();
        spec.tokens[258] = "bc".to_owned();
        spec.merges = vec![(u32::from(b'a'), u32::from(b'b')), (u32::from(b'b'), u32::from(b'c'))];
        spec.merges.push(spec.merges[0]);
        let tokenizer = BpeTokenizer::new(&spec).unwrap();
        assert_eq!(tokenizer.encode("xabc", false, false).unwrap(), [u32::from(b'x'), 256, u32::from(b'c')]);
    }

    #[test]
    fn special_tokens_only_when_asked() {
        let tokenizer = BpeTokenizer::new(&spec()).unwrap();
        let text = "ab<|end|>!ab<user><|end|>";
        assert_eq!(tokenizer.encode(text, false, true).unwrap(), [256, 260, 256, 261, 259]);
        let plain = tokenizer.encode(text, false, false).unwrap();
        assert!(plain.iter().all(|&id| id <= 256));
        assert_eq!(tokenizer.decode(&plain, false), text.as_bytes());
        assert_eq!(tokenizer.encode("ab", true, false).unwrap(), [259, 256, 260]);
    }

    #[test]
    fn special_tokens_are_rendered_only_when_asked() {
        let tokenizer = BpeTokenizer::new(&spec()).unwrap();
        let all = [256, 259, 261, 262, 263, 999];
        assert_eq!(tokenizer.decode_lossy(&all, false), "ab<user>");
        assert_eq!(tokenizer.decode_lossy(&all, true), "ab<|end|><user><unk>");
        assert_eq!(tokenizer.token_bytes(263), b"unused");
        assert_eq!(tokenizer.token_bytes(264), b"");
        assert!(tokenizer.is_end(259) && tokenizer.is_end(260) && !tokenizer.is_end(256));
    }

    #[test]
    fn missing_bytes_are_an_error_and_not_a_gap() {
        let mut spec = spec();
        spec.types[usize::from(b'x')] = TokenType::Unused;
        let tokenizer = BpeTokenizer::new(&spec).unwrap();
        assert_eq!(
            tokenizer.encode("abxab", false, false),
            Err(TokenizerError::ByteNotInVocabulary { byte: b'x', offset: 2 })
        );
    }

    #[test]
    fn merges_without_a_product_are_refused() {
        let mut spec = spec();
        spec.merges.push((258, 258));
        assert!(matches!(
            BpeTokenizer::new(&spec),
            Err(TokenizerError::MergeUnknownToken { index: 2, token }) if token == "wholewordwholeword"
        ));
        spec.merges[2] = (0, 1);
        assert!(matches!(
            BpeTokenizer::new(&spec),
            Err(TokenizerError::MergeUnknownToken { index: 2, token }) if token == "ĀāĂ"[..4]
        ));
        spec.merges[2] = (259, 0);
        assert!(matches!(
            BpeTokenizer::new(&spec),
            Err(TokenizerError::MergeUnknownToken { index: 2, token }) if token == "<|end|>"
        ));
    }

    proptest! {
        #[test]
        fn bytes_survive(text in "\\PC*|[abc \n<|>endusr!]*") {
            let tokenizer = BpeTokenizer::new(&spec()).unwrap();
            let plain = tokenizer.encode(&text, false, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&plain, false), text.as_bytes());
            let special = tokenizer.encode(&text, false, true).unwrap();
            prop_assert_eq!(tokenizer.decode(&special, true), text.as_bytes());
        }
    }
}
