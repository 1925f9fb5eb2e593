//! The tests of Jinja2 3.1: what stands after `is`.

use crate::arguments::Arguments;
use crate::ast::{Comparison, Operator};
use crate::compare::{equal, ordered};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::operators;
use crate::strings::has_case;
use crate::value::{ObjectKind, Value, View};
use crate::write::to_text;

/// Whether there is a test of this name.
pub(crate) fn exists(name: &str) -> bool {
    const NAMES: [&str; 39] = [
        "odd",
        "even",
        "divisibleby",
        "defined",
        "undefined",
        "filter",
        "test",
        "none",
        "boolean",
        "false",
        "true",
        "integer",
        "float",
        "lower",
        "upper",
        "string",
        "mapping",
        "number",
        "sequence",
        "iterable",
        "callable",
        "sameas",
        "escaped",
        "in",
        "==",
        "eq",
        "equalto",
        "!=",
        "ne",
        ">",
        "gt",
        "greaterthan",
        "ge",
        ">=",
        "<",
        "lt",
        "lessthan",
        "<=",
        "le",
    ];
    NAMES.contains(&name)
}

/// The comparison that a test with one argument is.
fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        "==" | "eq" | "equalto" => Comparison::Eq,
        "!=" | "ne" => Comparison::Ne,
        ">" | "gt" | "greaterthan" => Comparison::Gt,
        ">=" | "ge" => Comparison::Ge,
        "<" | "lt" | "lessthan" => Comparison::Lt,
        "<=" | "le" => Comparison::Le,
        "in" => Comparison::In,
        _ => return None,
    })
}

pub(crate) fn apply(
    machine: &mut Machine<'_>,
    name: &str,
    value: &Value,
    arguments: Arguments,
) -> Result<bool> {
    if !exists(name) {
        return Err(Error::operation(format!("No test named '{name}'.")));
    }
    machine.budget.steps(1)?;
    if let Some(comparison) = comparison(name) {
        let [other] = arguments.bind(name, ["other"], 1)?;
        let other = other.unwrap_or(Value::None);
        return match comparison {
            Comparison::Eq => equal(machine.budget, value, &other),
            Comparison::Ne => Ok(!equal(machine.budget, value, &other)?),
            Comparison::In | Comparison::NotIn => machine.contains(&other, value),
            comparison => ordered(machine.budget, comparison, value, &other),
        };
    }
    match name {
        "sameas" => {
            let [other] = arguments.bind(name, ["other"], 1)?;
            Ok(other.is_some_and(|other| value.is_same(&other)))
        }
        "divisibleby" => {
            let [number] = arguments.bind(name, ["num"], 1)?;
            rest_is(machine, value, &number.unwrap_or(Value::None), 0)
        }
        _ => {
            arguments.none(name)?;
            alone(machine, name, value)
        }
    }
}

/// Whether the rest of a division is a number.
fn rest_is(machine: &mut Machine<'_>, value: &Value, by: &Value, wanted: usize) -> Result<bool> {
    let rest = operators::binary(machine, Operator::Rem, value, by)?;
    equal(machine.budget, &rest, &Value::count(wanted))
}

/// Tests without an argument.
fn alone(machine: &mut Machine<'_>, name: &str, value: &Value) -> Result<bool> {
    Ok(match name {
        "odd" => rest_is(machine, value, &Value::count(2), 1)?,
        "even" => rest_is(machine, value, &Value::count(2), 0)?,
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "filter" => is_named(value, crate::filters::exists)?,
        "test" => is_named(value, exists)?,
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "integer" => matches!(value, Value::Int(..)),
        "float" => matches!(value, Value::Float(..)),
        "lower" => case(machine, value, char::is_lowercase)?,
        "upper" => case(machine, value, char::is_uppercase)?,
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "number" => matches!(value, Value::Bool(_) | Value::Int(..) | Value::Float(..)),
        "sequence" => is_sequence(value),
        // Also of what is not there; of none it is false and no error.
        "iterable" => Machine::is_iterable(value) || matches!(value, Value::Object(ObjectKind::Loop, _)),
        "callable" => is_callable(value),
        "escaped" => matches!(value, Value::Text(text) if text.is_markup()),
        _ => false,
    })
}

fn is_named(value: &Value, exists: fn(&str) -> bool) -> Result<bool> {
    match value {
        Value::List(_) | Value::Dict(_) | Value::View(View::Keys | View::Items, _) => {
            Err(Error::operation(format!("unhashable type: '{}'", value.type_name())))
        }
        _ => Ok(value.as_text().is_some_and(|name| exists(name.as_str()))),
    }
}

fn case(machine: &Machine<'_>, value: &Value, wanted: fn(char) -> bool) -> Result<bool> {
    let text = to_text(machine, value)?;
    machine.budget.scan(text.len())?;
    Ok(has_case(text.as_str(), wanted))
}

fn is_sequence(value: &Value) -> bool {
    match value {
        // Jinja2 asks for a length and for access by index; what is not there has the one and raises for the other.
        Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Range(_) => true,
        Value::Undefined(_) => true,
        _ => false,
    }
}

fn is_callable(value: &Value) -> bool {
    match value {
        Value::Undefined(_) | Value::Macro(_) | Value::Function(_) | Value::Method(_) => true,
        Value::Object(kind, _) => matches!(kind, ObjectKind::Joiner | ObjectKind::Loop),
        _ => false,
    }
}
