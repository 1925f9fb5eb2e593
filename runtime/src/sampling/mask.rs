//! Which tokens may come next, a bit for each.

use crate::tokenizer::TokenId;

/// A set of tokens. Tokens beyond its size are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    tokens: usize,
}

impl TokenMask {
    /// No token of a vocabulary of this size.
    pub fn none(tokens: usize) -> Self {
        Self { words: vec![0; tokens.div_ceil(32)], tokens }
    }

    /// Every token of a vocabulary of this size.
    pub fn all(tokens: usize) -> Self {
        Self { words: vec![u32::MAX; tokens.div_ceil(32)], tokens }
    }

    /// Makes this the set with these bits: bit `id % 32` of word `id / 32`. Words that are missing are empty.
    pub fn copy_from_words(&mut self, words: &[u32]) {
        for (at, word) in self.words.iter_mut().enumerate() {
            *word = words.get(at).copied().unwrap_or(0);
        }
    }

    /// Adds a token.
    pub fn allow(&mut self, id: TokenId) {
        if (id as usize) < self.tokens {
            self.words[id as usize / 32] |= 1 << (id % 32);
        }
    }

    /// Takes a token out.
    pub fn forbid(&mut self, id: TokenId) {
        if (id as usize) < self.tokens {
            self.words[id as usize / 32] &= !(1 << (id % 32));
        }
    }

    /// Whether a token is in the set.
    pub fn allows(&self, id: TokenId) -> bool {
        let id = id as usize;
        id < self.tokens && self.words[id / 32] >> (id % 32) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_tokens() {
        let mut mask = TokenMask::all(70);
        assert!(mask.allows(69) && !mask.allows(70));
        mask.forbid(33);
        mask.forbid(700);
        assert!(!mask.allows(33) && mask.allows(32) && mask.allows(34));
        mask.copy_from_words(&[0b101]);
        assert!(mask.allows(0) && !mask.allows(1) && mask.allows(2) && !mask.allows(69));
        mask.allow(69);
        mask.allow(70);
        assert!(mask.allows(69) && !mask.allows(70));
        assert!(!TokenMask::none(3).allows(0));
    }
}
