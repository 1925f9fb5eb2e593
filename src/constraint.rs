//! Output that follows a form: JSON schemas, grammars in Lark and GBNF, regular expressions, choices.
//!
//! [`Constraint`] says which tokens may come next. [`Grammars`] makes them for the texts of a model, with the `llguidance`
//! crate (feature `grammar`), whose masks are computed over a trie of all tokens. [`schema`] and [`gbnf`] rewrite what that
//! crate does not take as it is, and `crate::api` reads what the body of a request asks for. Grammars come from requests and are
//! not trusted: they are compiled on threads of their own, in bounded time ([`Compiling`]), and the work that one may cause
//! later is bounded too ([`GrammarLimit`]).
//!
//! Invariant: messages speak of the grammar and its limits; what the crate says of its own state is not shown.

use std::sync::Arc;

use bitnetc_runtime::sampling::TokenMask;
use bitnetc_runtime::tokenizer::Tokenizer;

mod compile;
pub mod gbnf;
#[cfg(feature = "grammar")]
mod grammar;
#[cfg(feature = "grammar")]
mod message;
pub mod schema;

pub use compile::{Compiling, MAX_TIME};
#[cfg(feature = "grammar")]
pub use grammar::{Grammar, Vocabulary};

use self::gbnf::GbnfError;
use self::schema::SchemaError;

/// Most bytes of a grammar in Lark.
pub const MAX_LARK: usize = 256 << 10;
/// Most bytes of a regular expression.
pub const MAX_REGEX: usize = 64 << 10;
/// Most operators of repetition in an expression, in a grammar, or in all patterns of a schema.
pub const MAX_REPETITIONS: usize = 3_000;

/// What expressions are called in messages.
const REGEX: &str = "regular expression";

/// How many operators of repetition a text has.
fn repetitions(text: &str) -> usize {
    text.bytes().filter(|byte| b"*+?{".contains(byte)).count()
}

/// What of a grammar is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrammarLimit {
    /// The grammar's text.
    Text,
    /// Operators of repetition: what the size of its automata grows with.
    Repetitions,
    /// The grammar as a whole, when it is read.
    Size,
    /// Its regular expressions, while one token is chosen.
    Expressions,
    /// Its rules, while one token is chosen.
    Rules,
    /// The work that its text has taken so far: states of its rules, each as often as there are others beside it.
    Work,
}

impl GrammarLimit {
    /// What is counted.
    fn unit(self) -> &'static str {
        match self {
            GrammarLimit::Text => "bytes",
            GrammarLimit::Repetitions => "repetitions (`*`, `+`, `?`, `{`)",
            GrammarLimit::Size => "units of work to read it",
            GrammarLimit::Expressions => "steps of its regular expressions for one token",
            GrammarLimit::Rules => "open rules for one token",
            GrammarLimit::Work => "units of work by this token",
        }
    }

    /// What helps.
    fn remedy(self) -> &'static str {
        match self {
            GrammarLimit::Text
            | GrammarLimit::Repetitions
            | GrammarLimit::Size
            | GrammarLimit::Expressions => {
                "use shorter patterns, with smaller repetition counts and less nesting"
            }
            GrammarLimit::Rules | GrammarLimit::Work => {
                "use fewer alternatives, rules that can be read in one way only, and lists that grow to the left"
            }
        }
    }
}

/// Why a grammar cannot be used, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// What is wrong with a JSON schema, or not supported of it.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// What is wrong with a grammar in GBNF, or not supported of it.
    #[error("the GBNF grammar cannot be used: {0}")]
    Gbnf(#[from] GbnfError),
    /// The grammar is wrong, or needs what is not supported.
    #[error("the {kind} cannot be used: {reason}")]
    Grammar {
        /// What it is.
        kind: &'static str,
        /// Why, with the place where there is one.
        reason: String,
    },
    /// There is no text that the grammar allows.
    #[error("no text satisfies the {kind}")]
    Empty {
        /// What it is.
        kind: &'static str,
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
    /// The machine had no time to read the grammar.
    #[error("the grammar could not be read within {seconds} s: try again later, or use a simpler one")]
    Late {
        /// How long was waited.
        seconds: u64,
    },
    /// No thread could be started to compile the grammar on.
    #[error("no thread can be started to read the grammar: {0}")]
    Thread(#[source] std::io::Error),
    /// A token that the grammar does not allow, or no token that it allows.
    #[error("the grammar cannot continue: {reason}")]
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
    /// A grammar in the notation of llama.cpp.
    Gbnf(String),
    /// A regular expression for the whole text.
    Regex(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// A Lark grammar whose rules `schema_0`, `schema_1`, … are JSON schemas.
    Parts {
        /// The grammar, without these rules.
        lark: String,
        /// The schemas in their order.
        schemas: Vec<String>,
    },
}

impl GrammarSource {
    /// A grammar in GBNF or Lark, which its form says: only GBNF defines rules by `::=`.
    pub fn of_grammar(text: String) -> Self {
        match gbnf::is_gbnf(&text) {
            true => GrammarSource::Gbnf(text),
            false => GrammarSource::Lark(text),
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            GrammarSource::JsonSchema(_) => "JSON schema",
            GrammarSource::Lark(_) => "Lark grammar",
            GrammarSource::Gbnf(_) => "GBNF grammar",
            GrammarSource::Regex(_) => REGEX,
            GrammarSource::Choice(_) => "list of choices",
            GrammarSource::Parts { .. } => "grammar of tool calls",
        }
    }
}

/// Makes constraints of grammars.
pub trait MakeConstraint {
    /// Begins to compile `source`, for a text that follows it from its start.
    fn compile(&self, source: &GrammarSource) -> Compiling;

    /// A text that follows `source` from its start.
    ///
    /// # Errors
    /// A source that is wrong, needs what is not supported, or exceeds a limit.
    fn constraint(&self, source: &GrammarSource) -> Result<Box<dyn Constraint>, ConstraintError> {
        self.compile(source).wait()
    }
}

/// Tokens that may come next, and what comes of them.
pub trait Constraint: std::fmt::Debug + Send {
    /// Puts the tokens that may come next into `mask`; end tokens where the text may end.
    ///
    /// # Errors
    /// A limit of the grammar.
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError>;

    /// Accepts a token that was allowed and is not an end token.
    ///
    /// # Errors
    /// A token that was not allowed; a limit of the grammar.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;

    /// Whether nothing but the end may come.
    fn is_complete(&self) -> bool;

    /// The same place in another text.
    fn duplicate(&self) -> Box<dyn Constraint>;
}

/// The grammars of a model. The trie of its tokens is made when the first grammar wants it.
#[derive(Debug)]
pub struct Grammars {
    #[cfg_attr(not(feature = "grammar"), expect(dead_code, reason = "nothing is made of it"))]
    made: Arc<Tokens>,
}

/// The tokens of a model, and their trie.
#[derive(Debug)]
struct Tokens {
    #[cfg_attr(not(feature = "grammar"), expect(dead_code, reason = "nothing is made of them"))]
    tokenizer: Arc<Tokenizer>,
    #[cfg_attr(not(feature = "grammar"), expect(dead_code, reason = "nothing is made of them"))]
    vocab: u32,
    #[cfg(feature = "grammar")]
    trie: std::sync::OnceLock<Vocabulary>,
}

impl Grammars {
    /// For a model with `vocab` logits and the tokens of `tokenizer`.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: u32) -> Self {
        let tokens = Tokens {
            tokenizer,
            vocab,
            #[cfg(feature = "grammar")]
            trie: std::sync::OnceLock::new(),
        };
        Self { made: Arc::new(tokens) }
    }
}

#[cfg(feature = "grammar")]
impl Tokens {
    fn vocabulary(&self) -> Result<&Vocabulary, ConstraintError> {
        Ok(match self.trie.get() {
            Some(vocabulary) => vocabulary,
            None => {
                let vocabulary = Vocabulary::new(&self.tokenizer, self.vocab)?;
                self.trie.get_or_init(|| vocabulary)
            }
        })
    }
}

#[cfg(feature = "grammar")]
impl MakeConstraint for Grammars {
    fn compile(&self, source: &GrammarSource) -> Compiling {
        let (tokens, source) = (Arc::clone(&self.made), source.clone());
        Compiling::start(move || Ok(Box::new(tokens.vocabulary()?.grammar(&source)?)))
    }
}

#[cfg(not(feature = "grammar"))]
impl MakeConstraint for Grammars {
    fn compile(&self, source: &GrammarSource) -> Compiling {
        let reason = "this build has no grammars: build bitnetc with the feature `grammar`".to_owned();
        Compiling::done(Err(ConstraintError::Grammar { kind: source.kind(), reason }))
    }
}
