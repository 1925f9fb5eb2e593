//! Jinja templates that nobody has vouched for.
//!
//! A chat template is a program that comes with a model file. This is an engine of its own for them, equal to Jinja2 3.1
//! with the settings of transformers (`trim_blocks`, `lstrip_blocks`, loop controls, an immutable sandbox, `tojson`,
//! `raise_exception`, `strftime_now`, `{% generation %}`), with three properties that a general engine does not have:
//!
//! - **Limits.** Whatever a template does ends with a text or an error within [`Limits`]: every step, every byte of a value
//!   and every level of recursion is charged before it is done, values cannot contain themselves, and how deep they nest
//!   is bounded when they are made.
//! - **Origins.** Every character of every text knows whether the template (or the program) or a user wrote it, through
//!   all filters, methods and operators. [`Rendered`] says which ranges are a user's.
//! - **Messages** are fit for a terminal, whatever the template puts into them.

#![forbid(unsafe_code)]

mod arguments;
mod ast;
mod budget;
mod compare;
mod error;
mod filters;
mod format;
mod json;
mod lexer;
mod machine;
mod markup;
mod methods;
mod numbers;
mod operators;
mod parser;
mod strings;
mod template;
mod tests;
mod text;
mod value;
mod variables;
mod write;

pub use budget::Limits;
pub use error::{Error, ErrorKind, Result};
pub use template::{Rendered, Template};
pub use text::Origin;
pub use variables::{FormatTime, Variables};
