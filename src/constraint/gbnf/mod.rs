//! Grammars in GBNF, the notation of llama.cpp, translated to the Lark dialect of the grammar engine.
//!
//! GBNF has no tokens: a rule speaks of characters. The engine reads a text in lexemes, and takes the longest one. The
//! translation therefore takes as lexemes only what can be cut off a text in one way (`lexeme`): expressions without
//! recursion, taken apart until no lexeme can swallow a character that its successor needs. A grammar without recursion is
//! one lexeme.
//!
//! Invariants: the translation accepts exactly the texts of the grammar; what it costs is bounded ([`MAX_TEXT`],
//! [`MAX_SYMBOLS`], [`MAX_RULES`], [`MAX_DEPTH`], [`MAX_REPEAT`]), and nothing here panics, whatever the text.

mod chars;
mod lexeme;
mod lower;
mod parse;

use self::chars::CharSet;

/// Most bytes of a grammar.
pub const MAX_TEXT: usize = 1 << 20;
/// Most characters, classes and names of a grammar.
pub const MAX_SYMBOLS: usize = 50_000;
/// Most rules of a grammar.
pub const MAX_RULES: usize = 4_000;
/// Most groups inside of each other.
pub const MAX_DEPTH: u32 = 64;
/// Largest number in braces, as in llama.cpp.
pub const MAX_REPEAT: u32 = 2_000;

/// Why a grammar in GBNF is not translated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GbnfError {
    /// Something is wrong with the text, or not supported.
    #[error("line {line}, column {column}: {what}\n{shown}")]
    At {
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong, and what to do.
        what: String,
        /// The line, with a caret under the place.
        shown: String,
    },
    /// There is no rule to start with.
    #[error("there is no rule `root`, which every GBNF grammar starts with")]
    NoRoot,
    /// More than is read.
    #[error("the grammar has more than {most} {unit}")]
    TooLarge {
        /// What is counted.
        unit: &'static str,
        /// The limit.
        most: usize,
    },
    /// Every text would have to be endless.
    #[error("no text satisfies the grammar: the rule `root` never comes to an end")]
    Empty,
}

/// Index of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct RuleId(usize);

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Expr {
    /// One character of a set.
    Chars(CharSet),
    /// What another rule says.
    Rule(RuleId),
    /// One after the other; nothing at all where there is none.
    Seq(Vec<Expr>),
    /// Any one.
    Alt(Vec<Expr>),
    /// So often, without end where there is no maximum.
    Repeat(Box<Expr>, u32, Option<u32>),
}

impl Expr {
    /// The text without characters.
    const EMPTY: Self = Expr::Seq(Vec::new());

    /// The expressions right inside of this one.
    fn children(&self) -> &[Expr] {
        match self {
            Expr::Chars(_) | Expr::Rule(_) => &[],
            Expr::Seq(parts) | Expr::Alt(parts) => parts,
            Expr::Repeat(inner, ..) => std::slice::from_ref(inner),
        }
    }
}

/// A grammar whose names are all defined.
#[derive(Debug)]
struct Gbnf {
    /// What each rule says.
    rules: Vec<Expr>,
    root: RuleId,
}

/// Whether a grammar is in GBNF rather than Lark: rules are defined by `::=`, which Lark does not have outside of strings,
/// expressions and comments.
pub fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let name = line.trim_start_matches('\u{feff}').trim_start();
        let rest = name.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        rest.len() < name.len() && rest.trim_start().starts_with("::=")
    })
}

/// The grammar in Lark.
///
/// # Errors
/// A text that is no GBNF, names what it does not define, needs what is not supported, or has no text.
pub fn to_lark(text: &str) -> Result<String, GbnfError> {
    let grammar = parse::parse(text)?;
    lower::lower(grammar)
}
