//! Cutting text into the pieces within which merges apply.
//!
//! Every rule ends in `\s+(?!\S)`, a look-ahead that only backtracking engines have, and those can be made to take
//! quadratic time or to overflow their stack. Here a linear-time engine matches the rule with a plain `\s+` at the end,
//! and the look-ahead is applied by hand: a run of white space that is followed by something else gives its last
//! character to the next piece, unless that is its only character.
//!
//! Rules of several steps cut the pieces of one step by the next. What lies between two matches is a piece too.
//!
//! Of the rules that take every character, each match starts where the one before ends. They are searched for anchored
//! there, in one pass; the place of a match that may start anywhere takes the engine a second one, backwards.
//!
//! Matching needs a cache of more than 100 kB, in which the engine remembers what it has learnt of a rule. A text borrows one for
//! each rule. At most [`IDLE`] of a rule are kept: a server whose clients come on many threads must not keep one for each that has
//! ever been needed at the same time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regex_automata::Input;
use regex_automata::meta::{BuildError, Cache, Regex};

use super::{Algorithm, TokenizerError};

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

/// `qwen35` without the look-ahead (source: the published tokenizer of Qwen 3.5). Text is not normalised, as in llama.cpp.
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r"|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+",
);

/// `gpt-2` without the look-ahead (source: the published tokenizer of GPT-2).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// Punctuation, the first step of `default`.
const PUNCTUATION: &str = r"[\p{P}$+<=>^~|]+";
/// Punctuation, the first step of `falcon` (source: the published tokenizer of Falcon).
const FALCON_PUNCTUATION: &str = r"[\p{P}$+<=>^~|`]+";
const NUMBERS: &str = r"\p{N}+";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";

/// What the look-ahead does to white space at the end of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookAhead {
    /// There is none.
    No,
    /// It applies to what does not end in a line break, because other alternatives take those.
    ButLineBreaks,
    /// It applies to all white space.
    All,
}

/// Caches of a rule that are kept while no text is cut.
const IDLE: usize = 4;

/// A pattern, and the caches that are not in use.
#[derive(Debug)]
struct Rule {
    regex: Regex,
    idle: Mutex<Vec<Cache>>,
}

/// A cache in use; it is returned to its rule when it is dropped.
struct Lent<'r> {
    rule: &'r Rule,
    /// `None` only while it is returned.
    cache: Option<Cache>,
}

impl Rule {
    fn new(pattern: &str) -> Result<Self, Box<BuildError>> {
        Ok(Self { regex: Regex::new(pattern)?, idle: Mutex::default() })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Cache>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(&self) -> Lent<'_> {
        let idle = self.idle().pop();
        Lent { rule: self, cache: idle }
    }
}

impl Lent<'_> {
    /// The first match: where it begins and ends.
    fn find(&mut self, input: &Input<'_>) -> Option<(usize, usize)> {
        let regex = &self.rule.regex;
        let cache = self.cache.get_or_insert_with(|| regex.create_cache());
        regex.search_with(cache, input).map(|found| (found.start(), found.end()))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut idle = self.rule.idle();
        if idle.len() < IDLE {
            idle.extend(self.cache.take());
        }
    }
}

#[derive(Debug, Clone)]
struct Step {
    rule: Arc<Rule>,
    look_ahead: LookAhead,
    /// Some alternative of the rule takes whatever character comes next, and the rule matches only where it is applied.
    anchored: bool,
}

/// A compiled rule.
#[derive(Debug, Clone)]
pub(super) struct Splitter {
    steps: Vec<Step>,
}

/// A rule, compiled once in a process: its Unicode classes take milliseconds, and what the engine learns while it matches is
/// shared by all that use it.
fn compiled(pattern: &'static str, anchored: bool) -> Result<Arc<Rule>, Box<BuildError>> {
    static KNOWN: Mutex<Vec<(&str, Arc<Rule>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, rule)) = known.iter().find(|(known, _)| *known == pattern) {
        return Ok(Arc::clone(rule));
    }
    let rule = if anchored { Rule::new(&format!(r"\A(?:{pattern})")) } else { Rule::new(pattern) };
    let rule = Arc::new(rule?);
    known.push((pattern, Arc::clone(&rule)));
    Ok(rule)
}

impl Splitter {
    /// The rule of an algorithm; SentencePiece has none and takes the text as one piece.
    pub(super) fn new(algorithm: &Algorithm) -> Result<Self, TokenizerError> {
        use LookAhead::{All, ButLineBreaks, No};
        let rules: &[(&'static str, LookAhead)] = match algorithm {
            Algorithm::LlamaBpe => &[(LLAMA_BPE, ButLineBreaks)],
            Algorithm::Qwen2 => &[(QWEN2, ButLineBreaks)],
            Algorithm::Qwen35 => &[(QWEN35, ButLineBreaks)],
            Algorithm::Gpt2 => &[(GPT2, All)],
            Algorithm::Default => &[(PUNCTUATION, No), (GPT2, All), (NUMBERS, No), (THREE_DIGITS, No)],
            Algorithm::Falcon => &[(FALCON_PUNCTUATION, No), (GPT2, All), (THREE_DIGITS, No)],
            Algorithm::SentencePiece { .. } => &[],
        };
        let compile = |&(pattern, look_ahead): &(&'static str, LookAhead)| {
            // The rules with a look-ahead are those that end in `\s+` and take what is no space by other alternatives.
            let anchored = look_ahead != No;
            let rule = compiled(pattern, anchored)
                .map_err(|error| TokenizerError::Build { reason: error.to_string() })?;
            Ok(Step { rule, look_ahead, anchored })
        };
        Ok(Self { steps: rules.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Gives the pieces of `text` in order; joined they are `text`.
    pub(super) fn pieces<'t>(&self, text: &'t str, each: &mut dyn FnMut(&'t str)) {
        let mut steps: Vec<_> = self.steps.iter().map(|step| (step, step.rule.lend())).collect();
        cut(&mut steps, text, each);
    }
}

fn cut<'t>(steps: &mut [(&Step, Lent<'_>)], text: &'t str, each: &mut dyn FnMut(&'t str)) {
    let Some(((step, rule), rest)) = steps.split_first_mut() else {
        if !text.is_empty() {
            each(text);
        }
        return;
    };
    let mut at = 0;
    while at < text.len() {
        let (start, end) = step.next_match(rule, text, at);
        if start > at {
            cut(rest, &text[at..start], each);
        }
        cut(rest, &text[start..end], each);
        at = end;
    }
}

impl Step {
    /// The first match at or after `at`, a character boundary before the end of `text`; the end if there is none.
    fn next_match(&self, rule: &mut Lent<'_>, text: &str, at: usize) -> (usize, usize) {
        let found = match self.anchored {
            // No rule looks behind, so the rest of the text is as good as the text from there on.
            true => rule.find(&Input::new(&text[at..])).map(|(_, end)| (at, at + end)),
            false => rule.find(&Input::new(text).range(at..)),
        };
        let Some((start, end)) = found else { return (text.len(), text.len()) };
        if end == text.len() || self.look_ahead == LookAhead::No {
            return (start, end);
        }
        match text[start..end].char_indices().next_back() {
            // Only the last alternative ends in white space, but for the line breaks that some rules take before it.
            Some((last, ch))
                if last > 0
                    && ch.is_whitespace()
                    && (self.look_ahead == LookAhead::All || (ch != '\r' && ch != '\n')) =>
            {
                (start, start + last)
            }
            _ => (start, end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces_of(algorithm: Algorithm, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        Splitter::new(&algorithm).unwrap().pieces(text, &mut |piece| pieces.push(piece.to_owned()));
        pieces
    }

    fn pieces(text: &str) -> Vec<String> {
        pieces_of(Algorithm::LlamaBpe, text)
    }

    #[test]
    fn hand_checked_pieces() {
        assert_eq!(pieces(""), Vec::<String>::new());
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
    fn few_caches_are_kept_however_many_were_in_use() {
        let splitter = Splitter::new(&Algorithm::LlamaBpe).unwrap();
        let rule = &splitter.steps[0].rule;
        let all_cut = std::sync::Barrier::new(4 * IDLE);
        std::thread::scope(|scope| {
            for _ in 0..4 * IDLE {
                scope.spawn(|| {
                    let mut begun = false;
                    splitter.pieces("to be", &mut |_| {
                        if !std::mem::replace(&mut begun, true) {
                            all_cut.wait();
                        }
                    });
                });
            }
        });
        assert!((1..=IDLE).contains(&rule.idle().len()), "{}", rule.idle().len());
    }

    #[test]
    fn digits_stand_alone_in_qwen2() {
        assert_eq!(pieces_of(Algorithm::Qwen2, "12 a345  b"), ["1", "2", " a", "3", "4", "5", " ", " b"]);
    }

    #[test]
    fn marks_are_letters_in_qwen35() {
        let text = "e\u{301}tude 12 \u{93f}x";
        assert_eq!(pieces_of(Algorithm::Qwen35, text), ["e\u{301}tude", " ", "1", "2", " \u{93f}x"]);
        assert_eq!(pieces_of(Algorithm::Qwen2, text), ["e", "\u{301}tude", " ", "1", "2", " \u{93f}", "x"]);
    }

    #[test]
    fn gpt2_and_the_rules_of_several_steps() {
        assert_eq!(
            pieces_of(Algorithm::Gpt2, "I'll 12345\n\n x!"),
            ["I", "'ll", " 12345", "\n\n", " x", "!"]
        );
        assert_eq!(pieces_of(Algorithm::Gpt2, "a\n\nb"), ["a", "\n", "\n", "b"]);
        let text = "a 12345, it's `x` <b>";
        assert_eq!(
            pieces_of(Algorithm::Default, text),
            ["a", " ", "123", "45", ",", " it", "'", "s", " `", "x", "`", " ", "<", "b", ">"]
        );
        assert_eq!(
            pieces_of(Algorithm::Falcon, text),
            ["a", " ", "123", "45", ",", " it", "'", "s", " ", "`", "x", "`", " ", "<", "b", ">"]
        );
    }

    /// The rule with its look-ahead, in a backtracking engine: an independent implementation.
    fn backtracking_pieces(rules: &[String], text: &str) -> Vec<String> {
        let mut pieces = vec![text.to_owned()];
        for rule in rules {
            let rule = fancy_regex::Regex::new(rule).unwrap();
            let mut next = Vec::new();
            for piece in pieces {
                let mut done = 0;
                for found in rule.find_iter(&piece) {
                    let found = found.unwrap();
                    next.extend([&piece[done..found.start()], found.as_str()].map(str::to_owned));
                    done = found.end();
                }
                next.push(piece[done..].to_owned());
            }
            next.retain(|piece| !piece.is_empty());
            pieces = next;
        }
        pieces
    }

    fn with_look_ahead(rule: &str) -> String {
        rule.strip_suffix(r"|\s+").unwrap().to_owned() + r"|\s+(?!\S)|\s+"
    }

    proptest! {
        #[test]
        fn equals_the_rule_with_look_ahead(
            text in "([ \t\r\n\u{a0}\u{3000}\u{85}a-cÄ0-9²'sſtLm!?.日é\u{301}`|<]|\\PC){0,40}"
        ) {
            let own = |rules: &[&str]| rules.iter().map(|&rule| rule.to_owned()).collect::<Vec<_>>();
            let gpt2 = with_look_ahead(GPT2);
            for (algorithm, rules) in [
                (Algorithm::LlamaBpe, vec![with_look_ahead(LLAMA_BPE)]),
                (Algorithm::Qwen2, vec![with_look_ahead(QWEN2)]),
                (Algorithm::Qwen35, vec![with_look_ahead(QWEN35)]),
                (Algorithm::Gpt2, vec![gpt2.clone()]),
                (Algorithm::Default, own(&[PUNCTUATION, &gpt2, NUMBERS, THREE_DIGITS])),
                (Algorithm::Falcon, own(&[FALCON_PUNCTUATION, &gpt2, THREE_DIGITS])),
            ] {
                let pieces = pieces_of(algorithm, &text);
                prop_assert_eq!(&pieces, &backtracking_pieces(&rules, &text));
                prop_assert_eq!(pieces.concat(), text.as_str());
            }
        }
    }
}
