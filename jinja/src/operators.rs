//! Arithmetic and what Python makes of `+`, `*` and `%` for texts and lists.

use crate::ast::Operator;
use crate::error::{Error, Result};
use crate::format::percent;
use crate::machine::Machine;
use crate::markup::escape;
use crate::text::{Origin, Text, TextBuilder};
use crate::value::{List, VALUE_BYTES, Value};

/// Two numbers of one type.
enum Numbers {
    Whole(i128, i128),
    Floats(f64, f64),
}

/// A whole number as a float.
pub(crate) fn as_float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number, _) => Some(*number),
        _ => value.as_index().map(|number| number as f64),
    }
}

fn numbers(left: &Value, right: &Value) -> Option<Numbers> {
    match (left.as_index(), right.as_index()) {
        (Some(a), Some(b)) => Some(Numbers::Whole(a, b)),
        _ => Some(Numbers::Floats(as_float(left)?, as_float(right)?)),
    }
}

fn too_large() -> Error {
    Error::limit("a number is too large")
}

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Sub => "-",
        Operator::Mul => "*",
        Operator::Div => "/",
        Operator::FloorDiv => "//",
        Operator::Rem => "%",
        Operator::Pow => "**",
    }
}

pub(crate) fn binary(
    machine: &mut Machine<'_>,
    operator: Operator,
    left: &Value,
    right: &Value,
) -> Result<Value> {
    let origin = left.origin().and(right.origin());
    if let Some(numbers) = numbers(left, right) {
        return match numbers {
            Numbers::Whole(a, b) => whole(operator, a, b, origin),
            Numbers::Floats(a, b) => floats(operator, a, b).map(|number| Value::Float(number, origin)),
        };
    }
    match (operator, left, right) {
        (Operator::Rem, Value::Text(format), _) => percent(machine, format, right).map(Value::Text),
        (Operator::Add, Value::Text(a), Value::Text(b)) => add_texts(machine, a, b).map(Value::Text),
        (Operator::Add, Value::List(a), Value::List(b)) => add_lists(machine, a, b).map(Value::List),
        (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => add_lists(machine, a, b).map(Value::Tuple),
        (Operator::Mul, value, times) | (Operator::Mul, times, value)
            if times.as_index().is_some() && is_sequence(value) =>
        {
            repeat(machine, value, times.as_index().unwrap_or_default())
        }
        _ => {
            let (left, right) = (left.defined()?.type_name(), right.defined()?.type_name());
            let sign = sign(operator);
            Err(Error::operation(format!("unsupported operand type(s) for {sign}: '{left}' and '{right}'")))
        }
    }
}

fn is_sequence(value: &Value) -> bool {
    matches!(value, Value::Text(_) | Value::List(_) | Value::Tuple(_))
}

fn whole(operator: Operator, a: i128, b: i128, origin: Origin) -> Result<Value> {
    let number = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Sub => a.checked_sub(b),
        Operator::Mul => a.checked_mul(b),
        Operator::Div if b == 0 => return Err(Error::operation("division by zero")),
        Operator::Div => return Ok(Value::Float(a as f64 / b as f64, origin)),
        Operator::FloorDiv | Operator::Rem if b == 0 => {
            return Err(Error::operation("integer division or modulo by zero"));
        }
        Operator::FloorDiv => floor_div(a, b),
        // -1 divides everything, also the number that has no negative.
        Operator::Rem if b == -1 => Some(0),
        Operator::Rem => Some(floor_rem(a, b)),
        Operator::Pow if b < 0 => {
            return floats(operator, a as f64, b as f64).map(|number| Value::Float(number, origin));
        }
        Operator::Pow => power(a, b),
    };
    number.map(|number| Value::Int(number, origin)).ok_or_else(too_large)
}

fn power(base: i128, exponent: i128) -> Option<i128> {
    match base {
        0 | 1 => Some(if exponent == 0 { 1 } else { base }),
        -1 => Some(if exponent % 2 == 0 { 1 } else { -1 }),
        _ => base.checked_pow(u32::try_from(exponent).ok()?),
    }
}

fn floor_div(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}

fn floor_rem(a: i128, b: i128) -> i128 {
    let rest = a % b;
    if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<f64> {
    Ok(match operator {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mul => a * b,
        Operator::Div | Operator::FloorDiv | Operator::Rem if b == 0.0 => {
            return Err(Error::operation("float division by zero"));
        }
        Operator::Div => a / b,
        Operator::FloorDiv => {
            // As CPython does it, from the remainder.
            let quotient = (a - float_rem(a, b)) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 { floor + 1.0 } else { floor }
        }
        Operator::Rem => float_rem(a, b),
        Operator::Pow if a == 0.0 && b < 0.0 => {
            return Err(Error::operation("zero to a negative power"));
        }
        Operator::Pow if a < 0.0 && b.fract() != 0.0 && b.is_finite() => {
            return Err(Error::operation("complex numbers are not supported"));
        }
        Operator::Pow => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(Error::operation("a number is too large"));
            }
            power
        }
    })
}

fn float_rem(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest == 0.0 {
        return rest.abs().copysign(b);
    }
    if (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
}

fn add_texts(machine: &Machine<'_>, a: &Text, b: &Text) -> Result<Text> {
    let markup = a.is_markup() || b.is_markup();
    let mut sum = TextBuilder::new(machine.budget);
    for part in [a, b] {
        if markup && !part.is_markup() {
            sum.push_text(&escape(machine.budget, part)?)?;
        } else {
            sum.push_text(part)?;
        }
    }
    Ok(sum.finish_as(markup))
}

fn add_lists(machine: &Machine<'_>, a: &List, b: &List) -> Result<List> {
    machine.budget.bytes((a.items().len() + b.items().len()) * VALUE_BYTES)?;
    List::new(machine.budget, a.items().iter().chain(b.items()).cloned().collect())
}

fn repeat(machine: &Machine<'_>, value: &Value, times: i128) -> Result<Value> {
    let times = usize::try_from(times.max(0)).map_err(|_| too_large())?;
    let budget = machine.budget;
    let many = |list: &List| {
        let places = list.items().len().saturating_mul(times);
        budget.bytes(places.saturating_mul(VALUE_BYTES))?;
        List::new(budget, list.items().iter().cycle().take(places).cloned().collect())
    };
    match value {
        Value::List(list) => Ok(Value::List(many(list)?)),
        Value::Tuple(list) => Ok(Value::Tuple(many(list)?)),
        Value::Text(text) => {
            let mut repeated = TextBuilder::new(budget);
            repeated.push_repeated(text, times)?;
            Ok(Value::Text(repeated.finish_as(text.is_markup())))
        }
        other => Ok(other.clone()),
    }
}

pub(crate) fn negative(value: &Value) -> Result<Value> {
    match value {
        Value::Float(number, origin) => Ok(Value::Float(-number, *origin)),
        _ => match value.as_index() {
            Some(number) => number.checked_neg().map(|n| Value::Int(n, value.origin())).ok_or_else(too_large),
            None => Err(bad_operand("-", value)?),
        },
    }
}

pub(crate) fn positive(value: &Value) -> Result<Value> {
    match value {
        Value::Float(..) => Ok(value.clone()),
        _ => match value.as_index() {
            Some(number) => Ok(Value::Int(number, value.origin())),
            None => Err(bad_operand("+", value)?),
        },
    }
}

fn bad_operand(sign: &str, value: &Value) -> Result<Error> {
    let kind = value.defined()?.type_name();
    Ok(Error::operation(format!("bad operand type for unary {sign}: '{kind}'")))
}
