//! Grammars by the `llguidance` crate.

use std::sync::Arc;

use bitnetc_runtime::sampling::TokenMask;
use bitnetc_runtime::tokenizer::{TokenType, Tokenize, Tokenizer};
use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::{ParserFactory, TokenParser};
use serde_json::Value;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::schema::{self, Followed, SchemaError};
use super::{
    Constraint, ConstraintError, GrammarLimit, GrammarSource, MAX_LARK, MAX_REGEX, MAX_REPETITIONS, REGEX,
    gbnf, message, repetitions,
};

/// What the crate says of a grammar that is too large to be read, in its several places.
const TOO_LARGE: [&str; 7] = [
    "too big",
    "too large",
    "fuel exhausted",
    "precomputation failed",
    "stack level exceeded",
    "panic:",
    "too deeply nested",
];
/// Most bytes of an expression that is written for a list of choices.
const MAX_CHOICES: usize = 1 << 20;
/// Most states of the lexer of a grammar, about 2 KiB each.
const MAX_STATES: usize = 50_000;
/// Most open rules at a place, and at all places that are looked at for one token.
const MAX_RULES: (usize, usize) = (1_000, 25_000);
/// Units of work that the form of a text may take for each token, and once beside that. Forms that can be read in one way take a
/// hundredth of it. What takes more would make all others wait: the work for a token of an ambiguous grammar grows with its place.
const MAX_WORK: (u64, u64) = (4_000_000, 100_000_000);
/// Most parts of a schema that are tried by themselves to find the one that is not supported.
const MAX_TRIES: usize = 60;

/// The tokens of a model in the form that masks are computed over: made once, used by any number of grammars.
pub struct Vocabulary {
    factory: ParserFactory,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// The tokens of `tokenizer` for a model with `vocab` logits. Control tokens other than end tokens are never
    /// allowed.
    ///
    /// # Errors
    /// A tokenizer without end token.
    pub fn new(tokenizer: &Tokenizer, vocab: u32) -> Result<Self, ConstraintError> {
        let ends: Vec<u32> = tokenizer.end_tokens().iter().copied().filter(|&id| id < vocab).collect();
        let first = *ends.first().ok_or(ConstraintError::NoEndToken)?;
        let words: Vec<Vec<u8>> = (0..vocab)
            .map(|id| match tokenizer.token_type(id) {
                Some(TokenType::Normal | TokenType::UserDefined | TokenType::Byte) => {
                    tokenizer.token_bytes(id).to_vec()
                }
                // How the crate marks what is no text.
                Some(TokenType::Control | TokenType::Unknown) => {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.token_bytes(id)].concat()
                }
                Some(TokenType::Unused) | None => Vec::new(),
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab, first), &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|error| ConstraintError::Grammar { kind: "grammar", reason: error.to_string() })?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = MAX_STATES;
        (limits.max_items_in_row, limits.step_max_items) = MAX_RULES;
        Ok(Self { factory })
    }

    /// A text that follows `source` from its start.
    ///
    /// # Errors
    /// A source that is wrong, or needs what is not supported.
    pub fn grammar(&self, source: &GrammarSource) -> Result<Grammar, ConstraintError> {
        let made = match source {
            GrammarSource::JsonSchema(text) => match schema::normalise(text)? {
                Followed::Schema(document) => self.follow_schema(document),
                // What is wrong is said of the schema, not of what it has become.
                Followed::Lark(text) => {
                    self.follow(TopLevelGrammar::from_lark(text)).map_err(|failed| match failed {
                        Failed::Unusable { reason, .. } => {
                            Failed::Unusable { at: Some("#".to_owned()), reason }
                        }
                        other => other,
                    })
                }
            },
            GrammarSource::Lark(text) => {
                check_size(text, MAX_LARK)?;
                self.follow(TopLevelGrammar::from_lark(text.clone()))
            }
            GrammarSource::Gbnf(text) => {
                check_size(text, gbnf::MAX_TEXT)?;
                self.follow(TopLevelGrammar::from_lark(gbnf::to_lark(text)?))
            }
            GrammarSource::Regex(text) => {
                check_size(text, MAX_REGEX)?;
                self.follow(TopLevelGrammar::from_regex(text))
            }
            GrammarSource::Parts { lark, schemas } => {
                check_size(lark, MAX_LARK)?;
                let rules = schemas.iter().enumerate().map(|(number, text)| schema_rule(number, text));
                let rules = rules.collect::<Result<String, ConstraintError>>()?;
                self.follow(TopLevelGrammar::from_lark(format!("{lark}\n{rules}")))
            }
            GrammarSource::Choice(texts) if texts.is_empty() => Err(Failed::Empty),
            GrammarSource::Choice(texts) => {
                let pattern = choice(texts);
                check_length(&pattern, MAX_CHOICES)?;
                self.follow(TopLevelGrammar::from_regex(&pattern))
            }
        };
        made.map_err(|failed| failed.explain(source.kind(), self.factory.limits()))
    }

    /// A text at its start. The first mask is made here, which shows whether there is any text.
    fn follow(&self, grammar: TopLevelGrammar) -> Result<Grammar, Failed> {
        let parser = self.factory.create_parser(grammar);
        let mut parser = parser.map_err(|error| Failed::Unusable { at: None, reason: error.to_string() })?;
        parser.start_without_prompt();
        let limits = self.factory.limits().clone();
        let mut grammar = Grammar { parser, limits, tokens: 0, spent: 0 };
        match grammar.parser.compute_mask() {
            Ok(_) => Ok(grammar),
            Err(_) => Err(match grammar.failed(String::new) {
                ConstraintError::Step { .. } => Failed::Empty,
                limit => Failed::Limit(limit),
            }),
        }
    }

    /// As [`Vocabulary::follow`], for a rewritten schema. What is not supported has the place of the innermost part that
    /// is not supported by itself.
    fn follow_schema(&self, document: Value) -> Result<Grammar, Failed> {
        let failed = match self.follow(TopLevelGrammar::from_json_schema(document.clone())) {
            Err(Failed::Unusable { reason, .. }) => reason,
            other => return other,
        };
        let (mut here, mut at, mut reason, mut tries) = (&document, "#", failed, 0);
        let shared = ["$defs", "x-guidance"].map(|key| (key, document.get(key)));
        'down: loop {
            let definitions = here.get("$defs").and_then(Value::as_object);
            for part in schema::parts(here).chain(definitions.into_iter().flat_map(serde_json::Map::values)) {
                tries += 1;
                if tries > MAX_TRIES || TOO_LARGE.iter().any(|words| reason.contains(words)) {
                    break 'down;
                }
                let Value::Object(mut alone) = part.clone() else { continue };
                for (key, value) in shared {
                    alone.extend(value.map(|value| (key.to_owned(), value.clone())));
                }
                let alone =
                    self.factory.create_parser(TopLevelGrammar::from_json_schema(Value::Object(alone)));
                if let Err(error) = alone {
                    (here, at, reason) = (part, schema::origin(part).unwrap_or(at), error.to_string());
                    continue 'down;
                }
            }
            break;
        }
        Err(Failed::Unusable { at: Some(at.to_owned()), reason })
    }
}

/// A rule of Lark for the texts that follow a schema.
fn schema_rule(number: usize, schema: &str) -> Result<String, ConstraintError> {
    Ok(match schema::normalise(schema)? {
        Followed::Schema(document) => format!("schema_{number}: %json {document}\n"),
        Followed::Lark(text) => format!("schema_{number}: %lark {{\n{text}\n}}\n"),
    })
}

/// Refuses a text of more than `most` bytes.
fn check_length(text: &str, most: usize) -> Result<(), ConstraintError> {
    match text.len() > most {
        true => Err(ConstraintError::Limit { limit: GrammarLimit::Text, most: most as u64 }),
        false => Ok(()),
    }
}

/// Refuses a text of more than `most` bytes, or with too many repetitions.
fn check_size(text: &str, most: usize) -> Result<(), ConstraintError> {
    check_length(text, most)?;
    match repetitions(text) > MAX_REPETITIONS {
        true => {
            Err(ConstraintError::Limit { limit: GrammarLimit::Repetitions, most: MAX_REPETITIONS as u64 })
        }
        false => Ok(()),
    }
}

/// The expression for one of some texts.
fn choice(texts: &[String]) -> String {
    let code = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_string(),
        false => format!("\\x{{{:X}}}", c as u32),
    };
    let texts: Vec<String> = texts.iter().map(|text| text.chars().map(code).collect()).collect();
    texts.join("|")
}

/// Why the crate does not follow a grammar.
enum Failed {
    /// In its words, with the place in a schema.
    Unusable { at: Option<String>, reason: String },
    /// No token may come first.
    Empty,
    /// A limit, with the first token.
    Limit(ConstraintError),
}

impl Failed {
    fn explain(self, kind: &'static str, limits: &ParserLimits) -> ConstraintError {
        let (at, reason) = match self {
            Failed::Empty => return ConstraintError::Empty { kind },
            Failed::Limit(limit) => return limit,
            Failed::Unusable { at, reason } => (at, reason),
        };
        if TOO_LARGE.iter().any(|words| reason.contains(words)) {
            return ConstraintError::Limit { limit: GrammarLimit::Size, most: limits.initial_lexer_fuel };
        }
        if reason.contains("nsatisfiable") {
            return ConstraintError::Empty { kind };
        }
        match at {
            Some(at) => SchemaError::Unsupported { at, what: message::of_schema(&reason) }.into(),
            None if kind == REGEX => ConstraintError::Grammar { kind, reason: message::of_regex(&reason) },
            None => ConstraintError::Grammar { kind, reason: message::of_lark(&reason) },
        }
    }
}

/// A place in a text that follows a grammar.
pub struct Grammar {
    parser: TokenParser,
    limits: ParserLimits,
    /// Tokens so far.
    tokens: u32,
    /// Units of work that they took.
    spent: u64,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("stopped", &self.parser.stopped()).finish_non_exhaustive()
    }
}

/// The same place in another text.
impl Clone for Grammar {
    fn clone(&self) -> Self {
        let Self { limits, tokens, spent, .. } = self;
        Self { parser: self.parser.deep_clone(), limits: limits.clone(), tokens: *tokens, spent: *spent }
    }
}

impl Grammar {
    /// Why the parser does not go on: a limit, or `otherwise`.
    fn failed(&self, otherwise: impl FnOnce() -> String) -> ConstraintError {
        let (limit, most) = match self.parser.stop_reason() {
            StopReason::LexerTooComplex => (GrammarLimit::Expressions, self.limits.step_lexer_fuel),
            StopReason::ParserTooComplex => (GrammarLimit::Rules, self.limits.step_max_items as u64),
            _ => return ConstraintError::Step { reason: otherwise() },
        };
        ConstraintError::Limit { limit, most }
    }

    /// Does some of the work of a token, unless the text has had more than its share. Work is counted and not timed, so that a text
    /// ends at the same place on every machine and under any load: of each row of the parser, the states times the states, since each
    /// may be looked up among the others.
    fn work<T>(&mut self, what: impl FnOnce(&mut TokenParser) -> T) -> Result<T, ConstraintError> {
        let (each, once) = MAX_WORK;
        let most = once + each * u64::from(self.tokens);
        if self.spent > most {
            return Err(ConstraintError::Limit { limit: GrammarLimit::Work, most });
        }
        let count = |parser: &TokenParser| (parser.parser_stats().rows, parser.parser_stats().all_items);
        let (rows, states) = count(&self.parser);
        let done = what(&mut self.parser);
        let (rows, states) = (count(&self.parser).0 - rows, (count(&self.parser).1 - states) as u64);
        self.spent = self.spent.saturating_add(states.saturating_mul(states) / rows.max(1) as u64);
        Ok(done)
    }
}

impl Constraint for Grammar {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        let Ok(allowed) = self.work(TokenParser::compute_mask)? else {
            return Err(self.failed(|| "it allows no token at this place".to_owned()));
        };
        mask.copy_from_words(allowed.as_slice());
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.tokens = self.tokens.saturating_add(1);
        let taken = self.work(|parser| parser.consume_token(token).and_then(|_| parser.check_stop()))?;
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(self.failed(|| format!("it does not allow token {token} at this place"))),
        }
    }

    fn is_complete(&self) -> bool {
        self.parser.stopped()
    }

    fn duplicate(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnetc_runtime::tokenizer::{Algorithm, TokenizerSpec};

    fn tokenizer() -> Tokenizer {
        with_tokens(Vec::new())
    }

    /// A tokenizer of single characters, a few words and `more`.
    fn with_tokens(more: Vec<String>) -> Tokenizer {
        let mut tokens: Vec<String> = (0x21..0x7f_u8).map(|byte| char::from(byte).to_string()).collect();
        tokens.extend(more);
        tokens.extend(["Ġ", "Ċ", "true", "\":", "<|end|>", "<|user|>"].map(String::from));
        let mut types = vec![TokenType::Normal; tokens.len()];
        let n = tokens.len();
        types[n - 2..].fill(TokenType::Control);
        Tokenizer::new(&TokenizerSpec {
            tokens,
            types,
            merges: vec![],
            algorithm: Algorithm::Qwen2,
            bos: None,
            eos: Some(n as u32 - 2),
            eog: vec![n as u32 - 2],
            add_bos: false,
            add_eos: false,
        })
        .unwrap()
    }

    /// Follows the grammar with a choice among what is allowed, up to `limit` tokens.
    fn follow(source: GrammarSource, limit: usize, choose: impl Fn(&[u32], usize) -> u32) -> String {
        let tokenizer = tokenizer();
        let vocab = tokenizer.vocab_size() as u32;
        let mut grammar = Vocabulary::new(&tokenizer, vocab).unwrap().grammar(&source).unwrap();
        let mut mask = TokenMask::none(vocab as usize);
        let mut ids = Vec::new();
        while !grammar.is_complete() && ids.len() < limit {
            grammar.allowed(&mut mask).unwrap();
            let allowed: Vec<u32> = (0..vocab).filter(|&id| mask.allows(id)).collect();
            assert!(!allowed.contains(&(vocab - 1)), "a control token is never allowed");
            let id = choose(&allowed, ids.len());
            if tokenizer.is_end(id) {
                break;
            }
            grammar.accept(id).unwrap();
            ids.push(id);
        }
        tokenizer.decode_lossy(&ids, true)
    }

    #[test]
    fn json_schemas_give_json() {
        let schema = r#"{"type":"object","properties":{"ok":{"type":"boolean"},"n":{"type":"integer"}},
            "required":["ok","n"],"additionalProperties":false}"#;
        for seed in 0..20 {
            let text = follow(GrammarSource::JsonSchema(schema.to_owned()), 400, |allowed, at| {
                let end = allowed.last().copied().filter(|&id| id == 98);
                let mixed = (at as u64 * 7919 + seed * 104_729).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                end.unwrap_or(allowed[mixed as usize % allowed.len()])
            });
            // A very long number may not have ended yet.
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                assert!(value["ok"].is_boolean() && value["n"].is_number(), "{text}");
            } else {
                assert!(text.len() >= 400, "{text}");
            }
        }
    }

    #[test]
    fn expressions_and_lark() {
        let first = |allowed: &[u32], _: usize| allowed[0];
        assert_eq!(follow(GrammarSource::Regex("yes|no".to_owned()), 9, first), "no");
        let lark = "start: \"a\" \"b\"~2 (\"c\" | \"d\")".to_owned();
        assert_eq!(follow(GrammarSource::Lark(lark), 9, first), "abbc");
        let gbnf = "root ::= [a-c]{2} x?\nx ::= \"!\"".to_owned();
        let last = |allowed: &[u32], _: usize| *allowed.iter().filter(|&&id| id < 90).max().unwrap_or(&98);
        assert_eq!(follow(GrammarSource::Gbnf(gbnf), 9, last), "cc!");
        let choice = vec!["(a+b)*".to_owned(), "x y".to_owned()];
        assert_eq!(follow(GrammarSource::Choice(choice), 9, first), "(a+b)*");
    }

    #[test]
    fn a_text_has_no_more_than_its_share_of_the_processor() {
        let tokenizer = tokenizer();
        let vocab = tokenizer.vocab_size() as u32;
        let source = GrammarSource::Gbnf("root ::= s\ns ::= s s s | s s | [a-z] | \"\"".to_owned());
        let mut grammar = Vocabulary::new(&tokenizer, vocab).unwrap().grammar(&source).unwrap();
        let mut mask = TokenMask::none(vocab as usize);
        let a = tokenizer.encode("a", false, false).unwrap()[0];
        let ended =
            (0..100_000).find_map(|_| grammar.allowed(&mut mask).and_then(|()| grammar.accept(a)).err());
        let Some(ConstraintError::Limit { limit: GrammarLimit::Work | GrammarLimit::Rules, .. }) = ended
        else {
            panic!("{ended:?}");
        };
        // What has had its share gets no more of it.
        grammar.spent = u64::MAX;
        let refused = grammar.allowed(&mut mask);
        assert!(matches!(refused, Err(ConstraintError::Limit { limit: GrammarLimit::Work, .. })));
    }

    /// How many tokens of the text a grammar follows, and the units of work that they take.
    fn work_of(grammar: &Grammar, text: &str, limit: usize) -> (u32, u64, bool) {
        let (tokenizer, mut grammar) = (tokenizer(), grammar.clone());
        let mut mask = TokenMask::none(tokenizer.vocab_size());
        let token = tokenizer.encode(text, false, false).unwrap()[0];
        let ended =
            (0..limit).any(|_| grammar.allowed(&mut mask).and_then(|()| grammar.accept(token)).is_err());
        (grammar.tokens, grammar.spent, ended)
    }

    #[test]
    fn the_work_of_a_text_is_the_same_each_time_and_small_where_it_can_be_read_in_one_way() {
        let tokenizer = tokenizer();
        let vocabulary = Vocabulary::new(&tokenizer, tokenizer.vocab_size() as u32).unwrap();
        let made = |source| vocabulary.grammar(&source).unwrap();
        let ambiguous =
            made(GrammarSource::Gbnf("root ::= x\nx ::= x x x | [^z] | [^q] [^q] | \"\"".to_owned()));
        let (first, second) = (work_of(&ambiguous, "a", 40), work_of(&ambiguous, "a", 40));
        assert_eq!(first, second);
        assert!(first.1 > work_of(&ambiguous, "a", 20).1 * 2, "it grows with the place: {first:?}");
        let schema = r#"{"type":"array","items":{"anyOf":[{"type":"integer"},{"type":"array","items":{}}]}}"#;
        for source in [
            GrammarSource::JsonSchema(schema.to_owned()),
            GrammarSource::Lark("start: \"[\" start \"]\" | \"x\"".to_owned()),
            GrammarSource::Regex("(\\[[a-z]*)*".to_owned()),
        ] {
            let (tokens, work, ended) = work_of(&made(source.clone()), "[", 50);
            assert!(!ended && work < u64::from(tokens) * MAX_WORK.0, "{source:?}: {work}");
        }
    }

    #[test]
    fn wrong_grammars_are_refused() {
        let tokenizer = tokenizer();
        let vocabulary = Vocabulary::new(&tokenizer, tokenizer.vocab_size() as u32).unwrap();
        for source in [
            GrammarSource::JsonSchema("{".to_owned()),
            GrammarSource::JsonSchema(r#"{"type":"nonsense"}"#.to_owned()),
            GrammarSource::Lark("start: (".to_owned()),
            GrammarSource::Regex("(".to_owned()),
            GrammarSource::Regex(r"[^\s\S]".to_owned()),
            GrammarSource::Lark("start: start".to_owned()),
            GrammarSource::Gbnf("root ::= (".to_owned()),
            GrammarSource::Choice(vec![]),
        ] {
            assert!(vocabulary.grammar(&source).is_err(), "{source:?}");
        }
    }
}
