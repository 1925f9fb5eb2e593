//! JSON schemas (draft 2020-12) in the form that the grammar engine follows to the letter.
//!
//! The engine knows a part of the language, and takes some keywords for less than they say. [`normalise`] rewrites a schema
//! into that part: references become definitions of their own, formats become patterns, conditions become alternatives,
//! annotations go. What cannot be rewritten is refused by keyword and JSON pointer, so that no text is made that the schema
//! forbids.
//!
//! Invariants: every text that follows the result follows the schema; work and size are bounded ([`MAX_TEXT`],
//! [`MAX_SCHEMAS`]), and nothing here panics, whatever the schema.

mod alternatives;
mod check;
mod conditions;
mod escapes;
mod exact;
mod format;
mod index;
mod inside;
mod lower;
mod number;
mod pattern;
mod unevaluated;
mod uri;

use bitnetc_frontend_gguf::text as input_text;
use serde_json::{Value, json};

/// Most bytes of a schema.
pub const MAX_TEXT: usize = 4 << 20;
/// Most schemas inside of a schema, after rewriting.
pub const MAX_SCHEMAS: usize = 20_000;

/// White space between the parts of a JSON text: enough to lay it out, not enough to go on for ever.
const WHITE_SPACE: &str = r" |\n[ \t]{0,20}";

/// The keyword in which the result keeps where in the schema it comes from.
const ORIGIN: &str = "$comment";

/// Why a schema cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is no JSON.
    #[error("the JSON schema is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A keyword has a value that it cannot have.
    #[error("the JSON schema is wrong at {at}: {what}")]
    Wrong {
        /// JSON pointer, as a fragment.
        at: String,
        /// What is wrong.
        what: String,
    },
    /// What is not supported.
    #[error("the JSON schema cannot be followed at {at}: {what}")]
    Unsupported {
        /// JSON pointer, as a fragment.
        at: String,
        /// What is not supported, and what to use instead.
        what: String,
    },
    /// More than is read.
    #[error("the JSON schema has more than {most} {unit}")]
    TooLarge {
        /// What is counted.
        unit: &'static str,
        /// The limit.
        most: usize,
    },
    /// There is no finite text.
    #[error("no text satisfies the JSON schema: {what}")]
    Empty {
        /// Why.
        what: String,
    },
}

/// A place in a schema: a JSON pointer, without its `#`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Pointer(String);

impl Pointer {
    fn child(&self, key: &str) -> Self {
        Self(format!("{}/{}", self.0, key.replace('~', "~0").replace('/', "~1")))
    }

    fn item(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }

    /// For messages: as a fragment, cut where it is very long.
    fn shown(&self) -> String {
        let shown: String = self.0.chars().take(200).collect();
        format!("#{}", shown.escape_debug())
    }

    fn wrong(&self, what: impl Into<String>) -> SchemaError {
        SchemaError::Wrong { at: self.shown(), what: what.into() }
    }

    fn unsupported(&self, what: impl Into<String>) -> SchemaError {
        SchemaError::Unsupported { at: self.shown(), what: what.into() }
    }
}

/// Where a part of a rewritten schema comes from, if it is known: a JSON pointer, as a fragment.
pub(super) fn origin(schema: &Value) -> Option<&str> {
    schema.get(ORIGIN).and_then(Value::as_str)
}

/// The schemas right inside of a rewritten schema.
#[cfg(feature = "grammar")]
pub(super) fn parts(schema: &Value) -> impl Iterator<Item = &Value> {
    inside::inner(schema)
}

/// A schema as the engine follows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// An object, with its definitions in `$defs` and options for the engine in `x-guidance`.
    Schema(Value),
    /// A grammar in Lark, where there are integers beyond 2^53.
    Lark(String),
}

/// Rewrites a schema.
///
/// # Errors
/// A text that is no JSON or no schema; a schema that is too large, that needs what is not supported, or that nothing
/// satisfies.
pub fn normalise(text: &str) -> Result<Followed, SchemaError> {
    if text.len() > MAX_TEXT {
        return Err(SchemaError::TooLarge { unit: "bytes", most: MAX_TEXT });
    }
    let schema: Value = serde_json::from_slice(&input_text::json(text.as_bytes()))?;
    let index = index::Index::new(&schema)?;
    let mut document = lower::Lowering::new(&index).document(&schema)?;
    check::cut_empty(&mut document)?;
    alternatives::rewrite(&mut document)?;
    let escapes = escapes::choose(&document)?;
    if let Some(lark) = exact::lark(&document, escapes)? {
        return Ok(Followed::Lark(lark));
    }
    document["x-guidance"] = json!({ "whitespace_pattern": WHITE_SPACE, "json_allowed_escapes": escapes });
    Ok(Followed::Schema(document))
}

/// The patterns that `pattern` and `format` of a schema ask of a text, in the dialect of the engine. A format that is an
/// annotation asks for nothing.
pub(crate) fn patterns(schema: &Value) -> Vec<String> {
    let word = |key: &str| schema.get(key).and_then(Value::as_str);
    let pattern = word("pattern").map(pattern::from_ecma);
    pattern.into_iter().chain(word("format").and_then(format::pattern)).collect()
}
