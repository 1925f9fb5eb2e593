//! Filters that give numbers or write them.

use crate::arguments::{Argument, Arguments};
use crate::error::{Error, Result};
use crate::format::{fixed, rounded};
use crate::machine::Machine;
use crate::numbers::{float_of_text, int_of_text};
use crate::operators::as_float;
use crate::text::{Origin, Text};
use crate::value::Value;

pub(super) fn abs(_: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("abs")?;
    match value.defined()? {
        Value::Float(number, origin) => Ok(Value::Float(number.abs(), *origin)),
        other => match other.as_index().map(i128::checked_abs) {
            Some(Some(number)) => Ok(Value::Int(number, other.origin())),
            Some(None) => Err(Error::limit("a number is too large")),
            None => Err(Error::operation(format!("bad operand type for abs(): '{}'", other.type_name()))),
        },
    }
}

/// A float cut to a whole number.
fn truncated(number: f64, origin: Origin) -> Option<Value> {
    (number.is_finite() && number.abs() < 1.7e38).then(|| Value::Int(number.trunc() as i128, origin))
}

pub(super) fn int(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [default, base] = arguments.bind("int", ["default", "base"], 0)?;
    let base = u32::try_from(base.int("base")?.unwrap_or(10)).unwrap_or(u32::MAX);
    if base == 1 || base > 36 {
        return Ok(default.unwrap_or(Value::Int(0, Origin::Program)));
    }
    let origin = value.origin();
    let found = match value.defined()? {
        Value::Text(text) => {
            machine.budget.scan(text.len())?;
            let string = text.as_str();
            // A text with a fraction is read and cut.
            int_of_text(string, base)
                .map(|number| Value::Int(number, origin))
                .or_else(|| truncated(float_of_text(string)?, origin))
        }
        Value::Float(number, _) if number.is_infinite() => {
            return Err(Error::operation("cannot convert float infinity to integer"));
        }
        Value::Float(number, _) => truncated(*number, origin),
        other => other.as_index().map(|number| Value::Int(number, origin)),
    };
    Ok(found.or(default).unwrap_or(Value::Int(0, Origin::Program)))
}

pub(super) fn float(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [default] = arguments.bind("float", ["default"], 0)?;
    let origin = value.origin();
    let found = match value.defined()? {
        Value::Text(text) => {
            machine.budget.scan(text.len())?;
            float_of_text(text.as_str())
        }
        other => as_float(other),
    };
    Ok(found
        .map(|number| Value::Float(number, origin))
        .or(default)
        .unwrap_or(Value::Float(0.0, Origin::Program)))
}

pub(super) fn round(_: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [precision, method] = arguments.bind("round", ["precision", "method"], 0)?;
    let precision = precision.int("precision")?.unwrap_or(0);
    let origin = value.origin();
    let kind = value.defined()?.type_name();
    let wrong = || Error::operation(format!("type {kind} doesn't define __round__ method"));
    let number = as_float(&value).ok_or_else(wrong)?;
    let upwards = match method.text("method")?.map(Text::as_str) {
        None | Some("common") => {
            return match (value.as_index(), precision) {
                (Some(number), 0..) => Ok(Value::Int(number, origin)),
                (Some(number), _) => Ok(Value::Int(rounded_whole(number, precision), origin)),
                (None, _) => Ok(Value::Float(rounded(number, precision)?, origin)),
            };
        }
        Some("ceil") => true,
        Some("floor") => false,
        Some(_) => return Err(Error::operation("method must be common, ceil or floor")),
    };
    let power = 10f64.powi(i32::try_from(precision).unwrap_or(i32::MAX));
    let scaled = number * power;
    if !scaled.is_finite() {
        return Err(Error::operation("a number is too large"));
    }
    let whole = if upwards { scaled.ceil() } else { scaled.floor() };
    // With a whole power Python divides whole numbers.
    Ok(Value::Float(whole / power + 0.0, origin))
}

/// A whole number rounded to a power of ten, ties to even.
fn rounded_whole(number: i128, precision: i128) -> i128 {
    let power = u32::try_from(-precision).ok().and_then(|digits| 10i128.checked_pow(digits));
    let Some(power) = power else { return 0 };
    let (quotient, rest) = (number.div_euclid(power), number.rem_euclid(power));
    let up = match (rest * 2).cmp(&power) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal => quotient.rem_euclid(2),
        std::cmp::Ordering::Greater => 1,
    };
    (quotient + up).saturating_mul(power)
}

pub(super) fn filesizeformat(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [binary] = arguments.bind("filesizeformat", ["binary"], 0)?;
    let bytes = match value.defined()? {
        Value::Text(text) => {
            machine.budget.scan(text.len())?;
            float_of_text(text.as_str())
        }
        other => as_float(other),
    };
    let bytes = bytes.ok_or_else(|| Error::operation("could not convert to float"))?;
    let (base, middle) = if binary.truth() { (1024.0, "iB") } else { (1000.0, "B") };
    let kilo = if binary.truth() { "K" } else { "k" };
    let text = if bytes == 1.0 {
        "1 Byte".to_owned()
    } else if bytes < base {
        format!("{} Bytes", bytes.trunc())
    } else {
        let mut unit = base * base;
        let mut prefixes = [kilo, "M", "G", "T", "P", "E", "Z", "Y"].into_iter().peekable();
        loop {
            let prefix = prefixes.next().unwrap_or("Y");
            if bytes < unit || prefixes.peek().is_none() {
                break format!("{} {prefix}{middle}", fixed(base * bytes / unit, 1));
            }
            unit *= base;
        }
    };
    Ok(Value::Text(Text::new(text, value.origin())))
}
