//! Going through values.

use super::{Machine, Object};
use crate::error::{Error, Result};
use crate::text::Text;
use crate::value::{List, Value, View};

impl Machine<'_> {
    /// The items that going through a value gives. A generator is used up.
    pub(crate) fn iterate(&mut self, value: &Value) -> Result<List> {
        let budget = self.budget;
        let items = match value {
            Value::List(list) | Value::Tuple(list) => return Ok(list.clone()),
            Value::Undefined(_) => Vec::new(),
            Value::Text(text) => {
                budget.scan(text.len())?;
                let ends = text.as_str().char_indices().map(|(at, ch)| at..at + ch.len_utf8());
                ends.map(|range| Ok(Value::Text(text.slice(budget, range)?))).collect::<Result<Vec<_>>>()?
            }
            Value::Dict(dict) => {
                budget.steps(dict.entries().len())?;
                dict.entries().iter().map(|(key, _)| key.clone()).collect()
            }
            Value::View(view, dict) => {
                budget.steps(dict.entries().len())?;
                let item = |(key, value): &(Value, Value)| match view {
                    View::Keys => Ok(key.clone()),
                    View::Values => Ok(value.clone()),
                    View::Items => Ok(Value::Tuple(List::new(budget, vec![key.clone(), value.clone()])?)),
                };
                dict.entries().iter().map(item).collect::<Result<Vec<_>>>()?
            }
            Value::Range(range) => {
                budget.steps(range.len)?;
                let number = |at| Value::Int(range.get(at).unwrap_or_default(), crate::Origin::Program);
                (0..range.len).map(number).collect()
            }
            Value::Object(_, id) => match self.object_mut(*id)? {
                Object::Generator { items, at } => {
                    let rest = items.items().get(*at..).unwrap_or_default().to_vec();
                    *at = items.items().len();
                    rest
                }
                _ => return Err(not_iterable(value)),
            },
            _ => return Err(not_iterable(value)),
        };
        List::new(budget, items)
    }

    /// Whether [`Machine::iterate`] is possible.
    pub(crate) fn is_iterable(value: &Value) -> bool {
        match value {
            Value::Undefined(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Tuple(_)
            | Value::Dict(_)
            | Value::View(..)
            | Value::Range(_) => true,
            Value::Object(kind, _) => *kind == crate::value::ObjectKind::Generator,
            _ => false,
        }
    }

    /// The first item; only that is taken from a generator.
    pub(crate) fn first(&mut self, value: &Value) -> Result<Option<Value>> {
        match value {
            Value::Text(text) => {
                let first = text.as_str().chars().next();
                first.map(|ch| Ok(Value::Text(text.slice(self.budget, 0..ch.len_utf8())?))).transpose()
            }
            Value::Object(_, id) => match self.object_mut(*id)? {
                Object::Generator { items, at } => {
                    let first = items.items().get(*at).cloned();
                    *at += usize::from(first.is_some());
                    Ok(first)
                }
                _ => Err(not_iterable(value)),
            },
            _ => Ok(self.iterate(value)?.items().first().cloned()),
        }
    }

    /// The text of every item, for methods that take texts only.
    pub(crate) fn texts(&mut self, value: &Value) -> Result<Vec<Text>> {
        let items = self.iterate(value)?;
        let text = |(number, item): (usize, &Value)| match item {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(Error::operation(format!(
                "sequence item {number}: expected str instance, {} found",
                item.type_name()
            ))),
        };
        items.items().iter().enumerate().map(text).collect()
    }
}

pub(crate) fn not_iterable(value: &Value) -> Error {
    Error::operation(format!("'{}' object is not iterable", value.type_name()))
}
