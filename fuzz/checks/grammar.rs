//! The property behind the fuzz target `grammar`, shared with the tests that replay its seeds: any text as a grammar in GBNF
//! and as a JSON schema is translated or refused, without a panic, in bounded work, and with messages of a few lines.

use bitnetc::constraint::{gbnf, schema};

/// Longest message: a sentence, and a line of the grammar with a caret.
const MAX_MESSAGE: usize = 1_000;

/// What became of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it is a grammar in GBNF.
    pub gbnf: bool,
    /// Whether it is a schema.
    pub schema: bool,
}

/// Checks a text.
pub fn check(bytes: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(bytes);
    let lark = gbnf::to_lark(&text);
    let schema = schema::normalise(&text);
    let messages =
        [lark.as_ref().err().map(ToString::to_string), schema.as_ref().err().map(ToString::to_string)];
    for message in messages.into_iter().flatten() {
        assert!(message.len() < MAX_MESSAGE && message.lines().count() <= 3, "{message}");
    }
    if let Ok(lark) = &lark {
        assert!(lark.starts_with("start: r") && !gbnf::is_gbnf(lark), "{lark}");
        assert!(lark.len() <= 200_000 + 400 * text.len(), "{} of {}", lark.len(), text.len());
    }
    if let Ok(schema::Followed::Schema(schema)) = &schema {
        assert!(schema["$defs"].is_object() && schema["x-guidance"].is_object(), "{schema}");
        // What is rewritten is in the form that it is rewritten to.
        let mut again = schema.clone();
        again.as_object_mut().map(|map| map.remove("x-guidance"));
        let again = schema::normalise(&again.to_string());
        assert!(again.is_ok(), "{schema}: {again:?}");
    }
    Outcome { gbnf: lark.is_ok(), schema: schema.is_ok() }
}
