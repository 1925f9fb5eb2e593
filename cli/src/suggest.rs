//! Values that shells complete, for options that take more than a list of names.

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, Error};

/// Parses values of an option, and tells shells and the reference the usual ones.
pub(crate) struct Suggested<T: 'static, E: 'static> {
    parse: fn(&str) -> Result<T, E>,
    names: fn() -> Vec<&'static str>,
}

impl<T, E> Clone for Suggested<T, E> {
    fn clone(&self) -> Self {
        Self { parse: self.parse, names: self.names }
    }
}

/// The parser `parse`, for which `names` are the usual values.
pub(crate) fn suggested<T, E>(
    parse: fn(&str) -> Result<T, E>,
    names: fn() -> Vec<&'static str>,
) -> Suggested<T, E> {
    Suggested { parse, names }
}

impl<T, E> TypedValueParser for Suggested<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &std::ffi::OsStr) -> Result<T, Error> {
        self.parse.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.names)().into_iter().map(PossibleValue::new)))
    }
}

/// A text as it is.
pub(crate) fn as_text(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.to_owned())
}
