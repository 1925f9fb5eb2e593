//! Grammars by the `llguidance` crate.

use std::sync::Arc;

use bitnetc_frontend_gguf::text as input_text;
use bitnetc_runtime::sampling::TokenMask;
use bitnetc_runtime::tokenizer::{TokenType, Tokenize, Tokenizer};
use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::{ParserFactory, TokenParser};
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::{Constraint, ConstraintError, GrammarLimit, GrammarSource};

/// White space between the parts of a JSON text: enough to lay it out, not enough to go on for ever.
const WHITE_SPACE: &str = r" |\n[ \t]{0,20}";

/// What the crate says of a grammar that is too large to be read, in its several places.
const TOO_LARGE: [&str; 4] = ["too big", "too large", "fuel exhausted", "precomputation failed"];

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
            .map_err(|error| ConstraintError::Grammar { reason: error.to_string() })?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory })
    }

    /// A text that follows `source` from its start.
    ///
    /// # Errors
    /// A source that is wrong, or needs what is not supported.
    pub fn grammar(&self, source: &GrammarSource) -> Result<Grammar, ConstraintError> {
        let grammar = match source {
            GrammarSource::JsonSchema(text) => {
                let mut schema: serde_json::Value =
                    serde_json::from_slice(&input_text::json(text.as_bytes()))?;
                if let Some(schema) = schema.as_object_mut() {
                    let options = serde_json::json!({ "whitespace_pattern": WHITE_SPACE });
                    schema.entry("x-guidance").or_insert(options);
                }
                TopLevelGrammar::from_json_schema(schema)
            }
            GrammarSource::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
            GrammarSource::Regex(text) => TopLevelGrammar::from_regex(text),
        };
        let limits = self.factory.limits().clone();
        match self.factory.create_parser(grammar) {
            Ok(mut parser) => {
                parser.start_without_prompt();
                Ok(Grammar { parser, limits })
            }
            Err(error) => {
                let reason = error.to_string();
                Err(match TOO_LARGE.iter().any(|words| reason.contains(words)) {
                    true => {
                        ConstraintError::Limit { limit: GrammarLimit::Size, most: limits.initial_lexer_fuel }
                    }
                    false => ConstraintError::Grammar { reason },
                })
            }
        }
    }
}

/// A place in a text that follows a grammar.
pub struct Grammar {
    parser: TokenParser,
    limits: ParserLimits,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("stopped", &self.parser.stopped()).finish_non_exhaustive()
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
}

impl Constraint for Grammar {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        let Ok(allowed) = self.parser.compute_mask() else {
            return Err(self.failed(|| "it allows no token at this place".to_owned()));
        };
        mask.copy_from_words(allowed.as_slice());
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        let taken = self.parser.consume_token(token).and_then(|_| self.parser.check_stop());
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(self.failed(|| format!("it does not allow token {token} at this place"))),
        }
    }

    fn is_complete(&self) -> bool {
        self.parser.stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnetc_runtime::tokenizer::{Algorithm, TokenizerSpec};

    fn tokenizer() -> Tokenizer {
        let mut tokens: Vec<String> = (0x21..0x7f_u8).map(|byte| char::from(byte).to_string()).collect();
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
        ] {
            assert!(vocabulary.grammar(&source).is_err(), "{source:?}");
        }
    }
}
