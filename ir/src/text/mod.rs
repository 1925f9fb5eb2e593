//! The text form of a module, `*.bir`: printing it and reading it back.
//!
//! The form is complete: [`parse`] of what [`print()`] wrote gives an equal module, and printing that gives the same text,
//! in every stage. (Of a target, the text holds architecture and features; cache sizes and thread count are not part of
//! a module's meaning.) Weights appear by name and content hash; their bytes are elsewhere.
//!
//! ```text
//! module  = "bir" "1" "stage=" stage [ "target=" target ] { param } { func }
//! param   = "param" "@"name ":" type "=" ( "file" string "#"hash | "concat" "@"name { "," "@"name }
//!           | "interleave16" "@"name "," "@"name | "relayout" "@"name )
//! func    = "func" "@"name "(" [ "%"name ":" type { "," … } ] ")" "->" "(" [ type { "," … } ] ")"
//!           ( "tokens=1" | "tokens<="n ) [ "arena="n [ "private="n ] ] "{" { op } "return" [ "%"name { "," … } ] "}"
//! op      = "%"name { "," … } "=" mnemonic operand { "," … } [ "{" attr "=" value { "," … } "}" ]
//!           ":" type { "," … } [ place { "," … } [ "barrier" ] ]
//! operand = "%"name | "@"name
//! place   = ( "at" | "private" ) offset "+" size | "view" "%"name "+" offset | "alias" "%"name | "extern" | "unplaced"
//! type    = dtype [ "[" dim { "x" dim } "]" ] [ "@"layout ]        dim = n | "T" | "C"
//! ```
//!
//! Blanks and newlines only separate; `;` starts a comment. Names are letters, digits, `_`, `.` and `-`, and start with a
//! letter or `_`; results may have any name and are printed as `%0`, `%1`, … in program order. Places stand with every op
//! of a function whose header has `arena=`, and with no op of another. Inputs live with the caller, always; `unplaced`
//! is how a plan that lacks a place prints. Strings escape `"` and `\` by `\`, and control characters as `\u{hex}`.
//!
//! Invariants: the parser refuses what could not be represented (names that mean nothing, ops whose operands do not fit,
//! a printed type that is not the inferred one), the [`crate::verify`] everything else; text from outside costs time and
//! memory in proportion to its length, within the limits below and those of [`crate::limits`], and never a panic or deep stack.

mod lex;
mod parse;
mod print;

use std::ops::Range;

use crate::entity::{Entity, NodeId, ValueId};
use crate::graph::ValueDef;
use crate::module::Module;
use crate::verify::Anchor;

pub use parse::{parse, parse_mapped};
pub use print::{ValueNames, print, print_annotated, print_func, print_op, print_param};

/// Longest text that is parsed, in bytes.
pub const MAX_TEXT: usize = 64 << 20;
/// Longest name of a parameter, function, value or tensor, in bytes.
pub const MAX_NAME: usize = 256;
/// Most dimensions of a type.
pub const MAX_DIMS: usize = 4;
/// Characters after which a message, which may quote the text, is cut.
const MAX_MESSAGE: usize = 1000;

/// Whether `name` may name a parameter, a function or an input.
pub fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(lex::is_word_byte)
}

/// Why a text is not a module, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
#[non_exhaustive]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Bytes of the text that are at fault; empty at the end of the text.
    pub span: Range<usize>,
    /// What is wrong and what would have been accepted.
    pub message: String,
}

impl ParseError {
    fn new(source: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((cut, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(cut);
            message.push('…');
        }
        let before = source.get(..span.start).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Self {
            line: before.bytes().filter(|&b| b == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            span,
            message,
        }
    }
}

/// Which bytes of a parsed text each entity comes from, so that an error of the verifier can be shown in the text.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    params: Vec<Range<usize>>,
    funcs: Vec<FuncSpans>,
}

#[derive(Clone, Debug, Default)]
struct FuncSpans {
    name: Range<usize>,
    inputs: Vec<Range<usize>>,
    nodes: Vec<Range<usize>>,
}

impl SourceMap {
    /// The bytes that `anchor` in `module`, the module parsed with this map, comes from; the first byte for the module
    /// itself and for entities that were made after parsing.
    pub fn span(&self, module: &Module, anchor: Anchor) -> Range<usize> {
        let node_span = |f: &FuncSpans, node: NodeId| f.nodes.get(node.index()).cloned();
        let value_span =
            |f: &FuncSpans, func, value: ValueId| match module.funcs().get(func)?.get_value(value)?.def {
                ValueDef::Input(i) => f.inputs.get(i as usize).cloned(),
                ValueDef::Result(node, _) => node_span(f, node),
            };
        let found = match anchor {
            Anchor::Module => None,
            Anchor::Param(p) => self.params.get(p.index()).cloned(),
            Anchor::Func(f) => self.funcs.get(f.index()).map(|s| s.name.clone()),
            Anchor::Node(f, n) => self.funcs.get(f.index()).and_then(|s| node_span(s, n)),
            Anchor::Value(f, v) => self.funcs.get(f.index()).and_then(|s| value_span(s, f, v)),
        };
        found.unwrap_or(0..1)
    }
}
