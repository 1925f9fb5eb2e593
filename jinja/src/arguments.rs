//! The arguments of a call, bound to parameters as Python binds them.

use crate::error::{Error, Result};
use crate::text::Text;
use crate::value::Value;

#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(Text, Value)>,
}

impl Arguments {
    /// Takes a named argument out.
    pub(crate) fn take_named(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(known, _)| known.as_str() == name)?;
        Some(self.named.remove(at).1)
    }

    /// The arguments of parameters with these names, the first `required` of which have to be there.
    pub(crate) fn bind<const N: usize>(
        mut self,
        callee: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            let given = self.positional.len();
            return Err(Error::operation(format!(
                "{callee}() takes at most {N} arguments, {given} were given"
            )));
        }
        let mut positional = std::mem::take(&mut self.positional).into_iter();
        let bound: [(Option<Value>, Option<Value>); N] =
            names.map(|name| (positional.next(), self.take_named(name)));
        if let Some((name, _)) = self.named.first() {
            let name = name.as_str();
            return Err(Error::operation(format!("{callee}() got an unexpected keyword argument '{name}'")));
        }
        for (number, (name, pair)) in names.iter().zip(&bound).enumerate() {
            match pair {
                (Some(_), Some(_)) => {
                    return Err(Error::operation(format!(
                        "{callee}() got multiple values for argument '{name}'"
                    )));
                }
                (None, None) if number < required => {
                    return Err(Error::operation(format!("{callee}() misses the argument '{name}'")));
                }
                _ => {}
            }
        }
        Ok(bound.map(|(positional, named)| positional.or(named)))
    }

    /// Fails if there are any.
    pub(crate) fn none(self, callee: &str) -> Result<()> {
        self.bind(callee, [], 0).map(|[]| ())
    }
}

/// Reads of single arguments, with the type that they must have.
pub(crate) trait Argument {
    /// A text, or None where there is no argument.
    fn text(&self, what: &str) -> Result<Option<&Text>>;
    /// A whole number.
    fn int(&self, what: &str) -> Result<Option<i128>>;
    /// The truth of what was given.
    fn truth(&self) -> bool;
    /// What was given unless it is none.
    fn given(&self) -> Option<&Value>;
}

impl Argument for Option<Value> {
    fn text(&self, what: &str) -> Result<Option<&Text>> {
        match self {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(Error::operation(format!("{what} must be str, not {}", other.type_name()))),
        }
    }

    fn int(&self, what: &str) -> Result<Option<i128>> {
        match self {
            None => Ok(None),
            Some(value) => value.as_index().map(Some).ok_or_else(|| {
                Error::operation(format!("{what} must be an integer, not {}", value.type_name()))
            }),
        }
    }

    fn truth(&self) -> bool {
        self.as_ref().is_some_and(Value::is_true)
    }

    fn given(&self) -> Option<&Value> {
        self.as_ref().filter(|value| !matches!(value, Value::None))
    }
}
