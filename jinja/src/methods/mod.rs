//! Methods of Python's texts, lists and dictionaries, as far as they change nothing.

mod classes;
mod text;

use crate::arguments::{Argument, Arguments};
use crate::compare::equal;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::operators::as_float;
use crate::value::{Key, List, Range, Value, View};

/// Whether a value has a method of this name.
pub(crate) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) => text::exists(name),
        Value::List(_) => matches!(name, "copy" | "count" | "index"),
        Value::Tuple(_) | Value::Range(_) => matches!(name, "count" | "index"),
        Value::Dict(_) => matches!(name, "copy" | "get" | "items" | "keys" | "values"),
        Value::Float(..) => name == "is_integer",
        Value::Int(..) | Value::Bool(_) => matches!(name, "bit_length" | "bit_count" | "is_integer"),
        _ => false,
    }
}

/// Whether Python has a method of this name that changes the value, which the sandbox forbids.
pub(crate) fn changes(value: &Value, name: &str) -> bool {
    match value {
        Value::List(_) => {
            matches!(name, "append" | "clear" | "extend" | "insert" | "pop" | "remove" | "reverse" | "sort")
        }
        Value::Dict(_) => matches!(name, "clear" | "pop" | "popitem" | "setdefault" | "update"),
        _ => false,
    }
}

pub(crate) fn call(
    machine: &mut Machine<'_>,
    receiver: &Value,
    name: &str,
    arguments: Arguments,
) -> Result<Value> {
    match receiver {
        Value::Text(text) => text::call(machine, text, name, arguments),
        Value::List(list) if name == "copy" => {
            arguments.none(name)?;
            let items = list.items().to_vec();
            Ok(Value::List(List::new(machine.budget, items)?))
        }
        Value::List(list) | Value::Tuple(list) => in_list(machine, list, name, arguments),
        Value::Range(range) => in_range(*range, name, arguments),
        Value::Dict(dict) => match name {
            "get" => {
                let [key, default] = arguments.bind(name, ["key", "default"], 1)?;
                let key = Key::of(machine.budget, &key.unwrap_or(Value::None))?;
                Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None))
            }
            _ => {
                arguments.none(name)?;
                Ok(match name {
                    "items" => Value::View(View::Items, dict.clone()),
                    "keys" => Value::View(View::Keys, dict.clone()),
                    "values" => Value::View(View::Values, dict.clone()),
                    _ => Value::Dict(dict.clone()),
                })
            }
        },
        number => {
            arguments.none(name)?;
            let bits = number.as_index().unwrap_or_default().unsigned_abs();
            Ok(match name {
                "is_integer" => Value::Bool(as_float(number).is_some_and(|number| number.fract() == 0.0)),
                "bit_count" => Value::count(bits.count_ones() as usize),
                _ => Value::count(128 - bits.leading_zeros() as usize),
            })
        }
    }
}

fn in_list(machine: &Machine<'_>, list: &List, name: &str, arguments: Arguments) -> Result<Value> {
    let budget = machine.budget;
    let is = |item: &Value, wanted: &Value| Ok(item.is_same(wanted) || equal(budget, item, wanted)?);
    if name == "count" {
        let [wanted] = arguments.bind(name, ["value"], 1)?;
        let wanted = wanted.unwrap_or(Value::None);
        let mut count = 0;
        for item in list.items() {
            count += usize::from(is(item, &wanted)?);
        }
        return Ok(Value::count(count));
    }
    let [wanted, start, stop] = arguments.bind(name, ["value", "start", "stop"], 1)?;
    let wanted = wanted.unwrap_or(Value::None);
    let (start, stop) = (start.int("start")?, stop.int("stop")?);
    let (first, len) = crate::machine::indices(list.items().len(), start, stop, 1);
    for (place, item) in list.items().iter().enumerate().skip(first as usize).take(len) {
        if is(item, &wanted)? {
            return Ok(Value::count(place));
        }
    }
    Err(Error::operation("the value is not in the list"))
}

fn in_range(range: Range, name: &str, arguments: Arguments) -> Result<Value> {
    let [wanted] = arguments.bind(name, ["value"], 1)?;
    let distance = wanted.and_then(|value| value.as_index()).map(|number| number.saturating_sub(range.start));
    let place = distance.filter(|distance| distance % range.step == 0).map(|distance| distance / range.step);
    let place = place.filter(|place| (0..range.len as i128).contains(place));
    match (name, place) {
        ("count", place) => Ok(Value::count(usize::from(place.is_some()))),
        (_, Some(place)) => Ok(Value::count(place as usize)),
        (_, None) => Err(Error::operation("the value is not in range")),
    }
}
