//! Attributes, items and slices, as Jinja2's sandbox looks them up.

use std::sync::Arc;

use super::Machine;
use crate::error::{Error, Result};
use crate::methods;
use crate::text::{Origin, Text, TextBuilder};
use crate::value::{Key, List, Method, Range, Value};

impl Machine<'_> {
    /// `value.name`: an attribute or method, or else the item of that name.
    pub(crate) fn attribute(&self, value: &Value, name: &Text) -> Result<Value> {
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        if let Value::Dict(dict) = value {
            self.budget.scan(name.len())?;
            if let Some(found) = dict.get(&Key::Text(name.clone())) {
                return Ok(found.clone());
            }
        }
        Ok(missing(value, name.as_str()))
    }

    /// What Python's `getattr` finds.
    fn own_attribute(&self, value: &Value, name: &Text) -> Result<Option<Value>> {
        let text = name.as_str();
        if let Value::Undefined(reason) = value {
            return Err(Error::operation(reason));
        }
        if let Value::Object(_, id) = value
            && let Some(found) = self.object_attribute(*id, text)?
        {
            return Ok(Some(found));
        }
        if let Value::Tuple(list) = value
            && let Some(found) = list.named(text)
        {
            return Ok(Some(found.clone()));
        }
        if let Value::Macro(value) = value {
            return self.macro_attribute(&value.tree, text);
        }
        if text.starts_with("__") && text.ends_with("__") && text.len() > 4 {
            let kind = value.type_name();
            let reason = format!("access to attribute '{text}' of '{kind}' object is unsafe.");
            return Ok(Some(Value::undefined(reason)));
        }
        let is_method = match value {
            Value::Object(kind, _) => Self::object_has_method(*kind, text),
            _ => methods::exists(value, text),
        };
        if is_method {
            return Ok(Some(Value::Method(Arc::new(Method::new(value.clone(), name.clone())?))));
        }
        if methods::changes(value, text) {
            let kind = value.type_name();
            let reason = format!("access to attribute '{text}' of '{kind}' object is unsafe.");
            return Ok(Some(Value::undefined(reason)));
        }
        Ok(None)
    }

    fn macro_attribute(&self, tree: &crate::ast::Macro, name: &str) -> Result<Option<Value>> {
        Ok(Some(match name {
            "name" => tree.name.map_or(Value::None, |name| Value::from(self.name(name))),
            "arguments" => {
                let names = tree.parameters.iter().map(|(name, _)| Value::from(self.name(*name)));
                Value::Tuple(List::new(self.budget, names.collect())?)
            }
            "catch_kwargs" => Value::Bool(tree.uses_kwargs),
            "catch_varargs" => Value::Bool(tree.uses_varargs),
            "caller" => Value::Bool(tree.uses_caller),
            _ => return Ok(None),
        }))
    }

    /// `value[index]`: an item, or else the attribute of that name.
    pub(crate) fn item(&self, value: &Value, index: &Value) -> Result<Value> {
        if let Value::Undefined(reason) = value {
            return Err(Error::operation(reason));
        }
        let found = match (value, index.as_index()) {
            (Value::Dict(dict), _) if crate::compare::is_hashable(index) => {
                dict.get(&Key::of(self.budget, index)?).cloned()
            }
            (Value::List(list) | Value::Tuple(list), Some(at)) => {
                place(at, list.items().len()).and_then(|at| list.items().get(at)).cloned()
            }
            (Value::Text(text), Some(at)) => self.character(text, at)?,
            (Value::Range(range), Some(at)) => place(at, range.len)
                .and_then(|at| range.get(at))
                .map(|number| Value::Int(number, Origin::Program)),
            _ => None,
        };
        match (found, index) {
            (Some(found), _) => Ok(found),
            (None, Value::Text(name)) => {
                Ok(self.own_attribute(value, name)?.unwrap_or_else(|| missing(value, name.as_str())))
            }
            (None, _) => {
                let index = crate::write::to_repr(self, index)?;
                Ok(Value::undefined(format!("{} has no element {}", type_repr(value), index.as_str())))
            }
        }
    }

    fn character(&self, text: &Text, at: i128) -> Result<Option<Value>> {
        self.budget.scan(text.len())?;
        let string = text.as_str();
        let place = if string.is_ascii() {
            place(at, string.len())
        } else {
            place(at, string.chars().count()).and_then(|at| Some(string.char_indices().nth(at)?.0))
        };
        let Some(start) = place else { return Ok(None) };
        let len = string[start..].chars().next().map_or(0, char::len_utf8);
        Ok(Some(Value::Text(text.slice(self.budget, start..start + len)?)))
    }

    /// `value[start:stop:step]`.
    pub(crate) fn slice(&self, value: &Value, bounds: [Option<Value>; 3]) -> Result<Value> {
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(&bounds) {
            *number = match bound {
                None | Some(Value::None) => None,
                Some(bound) => Some(bound.as_index().ok_or_else(|| {
                    Error::operation("slice indices must be integers or None or have an __index__ method")
                })?),
            };
        }
        let [start, stop, step] = numbers;
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(Error::operation("slice step cannot be zero"));
        }
        match value.defined()? {
            Value::Text(text) => {
                self.budget.scan(text.len())?;
                Ok(Value::Text(self.slice_text(text, start, stop, step)?))
            }
            Value::List(list) => Ok(Value::List(self.slice_list(list, start, stop, step)?)),
            Value::Tuple(list) => Ok(Value::Tuple(self.slice_list(list, start, stop, step)?)),
            Value::Range(range) => {
                let (first, len) = indices(range.len, start, stop, step);
                let start = range.start + first * range.step;
                // Matters for one number at most where it is large.
                let step = step.saturating_mul(range.step).clamp(-(1 << 100), 1 << 100);
                Ok(Value::Range(Range { start, step, stop: start + step * len as i128, len }))
            }
            other => Err(Error::operation(format!("'{}' object is not subscriptable", other.type_name()))),
        }
    }

    fn slice_list(&self, list: &List, start: Option<i128>, stop: Option<i128>, step: i128) -> Result<List> {
        let (first, len) = indices(list.items().len(), start, stop, step);
        self.budget.bytes(len * crate::value::VALUE_BYTES)?;
        let item = |number| list.items().get((first + number as i128 * step) as usize).cloned();
        List::new(self.budget, (0..len).filter_map(item).collect())
    }

    fn slice_text(&self, text: &Text, start: Option<i128>, stop: Option<i128>, step: i128) -> Result<Text> {
        let string = text.as_str();
        let chars = if string.is_ascii() { string.len() } else { string.chars().count() };
        let (first, len) = indices(chars, start, stop, step);
        let place = |at: usize| match string.is_ascii() {
            true => at,
            false => string.char_indices().nth(at).map_or(string.len(), |(place, _)| place),
        };
        if step == 1 || len == 0 {
            let range = if len == 0 { 0..0 } else { place(first as usize)..place(first as usize + len) };
            return text.slice(self.budget, range);
        }
        self.budget.bytes(chars * 4)?;
        let all: Vec<(char, Origin)> = text.chars().collect();
        let mut picked = TextBuilder::new(self.budget);
        for number in 0..len {
            if let Some(&(ch, origin)) = all.get((first + number as i128 * step) as usize) {
                picked.push_char(ch, origin)?;
            }
        }
        Ok(picked.finish_as(text.is_markup()))
    }
}

/// The place of an index, which counts from the end if it is negative.
pub(crate) fn place(at: i128, len: usize) -> Option<usize> {
    let at = if at < 0 { at.checked_add(len as i128)? } else { at };
    usize::try_from(at).ok().filter(|&at| at < len)
}

/// The first place of a slice and how many it has, as Python's `slice.indices`.
pub(crate) fn indices(len: usize, start: Option<i128>, stop: Option<i128>, step: i128) -> (i128, usize) {
    let n = len as i128;
    let (least, most) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let bound = |bound: i128| if bound < 0 { bound.saturating_add(n) } else { bound }.clamp(least, most);
    let start = start.map_or(if step > 0 { 0 } else { n - 1 }, bound);
    let stop = stop.map_or(if step > 0 { n } else { -1 }, bound);
    let span = if step > 0 { stop - start } else { start - stop };
    // The step may be the smallest number there is.
    let count = if span <= 0 { 0 } else { 1 + (span - 1) / step.saturating_abs() };
    (start, count as usize)
}

fn type_repr(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        _ => format!("{} object", value.type_name()),
    }
}

fn missing(value: &Value, name: &str) -> Value {
    Value::undefined(format!("'{}' has no attribute '{name}'", type_repr(value)))
}
