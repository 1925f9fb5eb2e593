//! Cutting text into the pieces within which merges apply.
//!
//! The rules of LLaMA 3 and Qwen 2 end in `\s+(?!\S)|\s+`, a look-ahead that only backtracking engines have, and those can be
//! made to take quadratic time or to overflow their stack. Here a linear-time engine matches the rule with a plain
//! `\s+` at the end, and the look-ahead is applied by hand: a run of white space without a line break that is
//! followed by something else gives its last character to the next piece, unless that is its only character.

use regex::Regex;

use super::{PreTokenizer, TokenizerError};

/// `llama-bpe` without the look-ahead (source: the published tokenizer of LLaMA 3).
const LLAMA_BPE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+",
);

/// `qwen2` without the look-ahead (source: the published tokenizer of Qwen 2).
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+",
);

/// A compiled rule.
#[derive(Debug, Clone)]
pub(super) struct Splitter {
    rule: Regex,
}

impl Splitter {
    pub(super) fn new(pre: PreTokenizer) -> Result<Self, TokenizerError> {
        let pattern = match pre {
            PreTokenizer::LlamaBpe => LLAMA_BPE,
            PreTokenizer::Qwen2 => QWEN2,
        };
        let rule =
            Regex::new(pattern).map_err(|error| TokenizerError::Build { reason: error.to_string() })?;
        Ok(Self { rule })
    }

    /// The pieces of `text` in order; joined they are `text`.
    pub(super) fn pieces<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= text.len() {
                return None;
            }
            let end = self.piece_end(text, at);
            let piece = &text[at..end];
            at = end;
            Some(piece)
        })
    }

    /// End of the piece that starts at `start`, which is a character boundary before the end of `text`.
    fn piece_end(&self, text: &str, start: usize) -> usize {
        // Every character begins a match, so the match is at `start`; `text.len()` is never taken in practice.
        let end = self.rule.find_at(text, start).map_or(text.len(), |found| found.end());
        if end == text.len() {
            return end;
        }
        match text[start..end].char_indices().next_back() {
            // Only the last alternative ends in white space other than a line break.
            Some((last, ch)) if last > 0 && ch.is_whitespace() && ch != '\r' && ch != '\n' => start + last,
            _ => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(text: &str) -> Vec<&str> {
        Splitter::new(PreTokenizer::LlamaBpe).unwrap().pieces(text).collect()
    }

    #[test]
    fn hand_checked_pieces() {
        assert_eq!(pieces(""), Vec::<&str>::new());
        assert_eq!(pieces("Hello  world"), ["Hello", " ", " world"]);
        assert_eq!(pieces("a   "), ["a", "   "]);
        assert_eq!(pieces("   a"), ["  ", " a"]);
        assert_eq!(pieces("a \n\n b"), ["a", " \n\n", " b"]);
        assert_eq!(pieces("I'LL it's"), ["I", "'LL", " it", "'s"]);
        assert_eq!(pieces("12345 x"), ["123", "45", " x"]);
        assert_eq!(pieces(" 1"), [" ", "1"]);
        assert_eq!(pieces("!!\n\nx"), ["!!\n\n", "x"]);
        assert_eq!(pieces("\t\tx"), ["\t", "\tx"]);
        assert_eq!(pieces("\u{3000}\u{3000}9"), ["\u{3000}", "\u{3000}", "9"]);
    }

    #[test]
    fn digits_stand_alone_in_qwen2() {
        let splitter = Splitter::new(PreTokenizer::Qwen2).unwrap();
        assert_eq!(
            splitter.pieces("12 a345  b").collect::<Vec<_>>(),
            ["1", "2", " a", "3", "4", "5", " ", " b"]
        );
    }

    /// The rule with its look-ahead, in a backtracking engine: an independent implementation.
    fn backtracking_pieces(rule: &str, text: &str) -> Vec<String> {
        let pattern = rule.strip_suffix(r"|\s+").unwrap().to_owned() + r"|\s+(?!\S)|\s+";
        let rule = fancy_regex::Regex::new(&pattern).unwrap();
        rule.find_iter(text).map(|found| found.unwrap().as_str().to_owned()).collect()
    }

    proptest! {
        #[test]
        fn equals_the_rule_with_look_ahead(
            text in "([ \t\r\n\u{a0}\u{3000}\u{85}a-cÄ0-9²'sſtLm!?.日é\u{301}]|\\PC){0,40}"
        ) {
            prop_assert_eq!(pieces(&text), backtracking_pieces(LLAMA_BPE, &text));
            let qwen2 = Splitter::new(PreTokenizer::Qwen2).unwrap();
            prop_assert_eq!(qwen2.pieces(&text).collect::<Vec<_>>(), backtracking_pieces(QWEN2, &text));
            prop_assert_eq!(pieces(&text).concat(), text);
        }
    }
}
