//! Output that follows a grammar: JSON schemas, Lark grammars and regular expressions.
//!
//! [`Constraint`] says which tokens may come next. [`Grammars`] makes them for the texts of a model, with the `llguidance`
//! crate (feature `grammar`), whose masks are computed over a trie of all tokens. Grammars come from requests and are not
//! trusted: the work that one may cause is bounded ([`GrammarLimit`]).
//!
//! Invariant: messages speak of the grammar and its limits; what the crate says of its own state is not shown.

use std::sync::Arc;

use bitnetc_runtime::sampling::TokenMask;
use bitnetc_runtime::tokenizer::Tokenizer;

#[cfg(feature = "grammar")]
mod grammar;
#[cfg(feature = "grammar")]
pub use grammar::{Grammar, Vocabulary};

/// What of a grammar is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrammarLimit {
    /// The grammar as a whole, when it is read.
    Size,
    /// Its regular expressions, while one token is chosen.
    Expressions,
    /// Its rules, while one token is chosen.
    Rules,
}

impl GrammarLimit {
    /// What is counted.
    fn unit(self) -> &'static str {
        match self {
            GrammarLimit::Size => "units of work to read it",
            GrammarLimit::Expressions => "steps of its regular expressions for one token",
            GrammarLimit::Rules => "open rules for one token",
        }
    }

    /// What helps.
    fn remedy(self) -> &'static str {
        match self {
            GrammarLimit::Size | GrammarLimit::Expressions => {
                "use shorter patterns, with smaller repetition counts and less nesting"
            }
            GrammarLimit::Rules => "use fewer alternatives, and lists that grow to the left",
        }
    }
}

/// Why a grammar cannot be used, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// The JSON schema is not JSON.
    #[error("the JSON schema is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The grammar is wrong, or needs what is not supported.
    #[error("the grammar cannot be used: {reason}")]
    Grammar {
        /// Why, with the place where there is one.
        reason: String,
    },
    /// The model has no token to end a text with.
    #[error("the model has no end-of-text token, which a grammar needs: it cannot be used with this model")]
    NoEndToken,
    /// The grammar needs more work than is allowed.
    #[error("the grammar exceeds the limit of {most} {}: {}", limit.unit(), limit.remedy())]
    Limit {
        /// What there is too much of.
        limit: GrammarLimit,
        /// The limit.
        most: u64,
    },
    /// A token that the grammar does not allow, or no token that it allows.
    #[error("the grammar cannot go on: {reason}")]
    Step {
        /// Why.
        reason: String,
    },
}

/// A grammar as its user writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrammarSource {
    /// A JSON schema.
    JsonSchema(String),
    /// A Lark grammar, in the dialect of `llguidance`.
    Lark(String),
    /// A regular expression for the whole text.
    Regex(String),
}

/// Makes constraints of grammars.
pub trait MakeConstraint {
    /// A text that follows `source` from its start.
    ///
    /// # Errors
    /// A source that is wrong, or needs what is not supported.
    fn constraint(&self, source: &GrammarSource) -> Result<Box<dyn Constraint>, ConstraintError>;
}

/// Tokens that may come next, and what comes of them.
pub trait Constraint: std::fmt::Debug + Send {
    /// Puts the tokens that may come next into `mask`; end tokens where the text may end.
    ///
    /// # Errors
    /// A limit of the grammar.
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError>;

    /// Takes a token that was allowed and is no end token.
    ///
    /// # Errors
    /// A token that was not allowed; a limit of the grammar.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;

    /// Whether nothing but the end may come.
    fn is_complete(&self) -> bool;
}

/// The grammars of a model. The trie of its tokens is made when the first grammar wants it.
#[derive(Debug)]
pub struct Grammars {
    #[cfg_attr(not(feature = "grammar"), expect(dead_code, reason = "nothing is made of them"))]
    tokenizer: Arc<Tokenizer>,
    #[cfg_attr(not(feature = "grammar"), expect(dead_code, reason = "nothing is made of them"))]
    vocab: u32,
    #[cfg(feature = "grammar")]
    made: std::sync::OnceLock<Vocabulary>,
}

impl Grammars {
    /// For a model with `vocab` logits and the tokens of `tokenizer`.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: u32) -> Self {
        Self {
            tokenizer,
            vocab,
            #[cfg(feature = "grammar")]
            made: std::sync::OnceLock::new(),
        }
    }
}

#[cfg(feature = "grammar")]
impl MakeConstraint for Grammars {
    fn constraint(&self, source: &GrammarSource) -> Result<Box<dyn Constraint>, ConstraintError> {
        let vocabulary = match self.made.get() {
            Some(vocabulary) => vocabulary,
            None => {
                let vocabulary = Vocabulary::new(&self.tokenizer, self.vocab)?;
                self.made.get_or_init(|| vocabulary)
            }
        };
        Ok(Box::new(vocabulary.grammar(source)?))
    }
}

#[cfg(not(feature = "grammar"))]
impl MakeConstraint for Grammars {
    fn constraint(&self, _: &GrammarSource) -> Result<Box<dyn Constraint>, ConstraintError> {
        let reason = "this build has no grammars: build bitnetc with the feature `grammar`".to_owned();
        Err(ConstraintError::Grammar { reason })
    }
}
