//! Filters that apply other filters and tests to every item.

use super::{Path, apply};
use crate::arguments::{Argument, Arguments};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::tests;
use crate::text::Text;
use crate::value::{VALUE_BYTES, Value};

/// The same arguments once more.
fn copied(machine: &Machine<'_>, arguments: &Arguments) -> Result<Arguments> {
    let count = arguments.positional.len() + arguments.named.len();
    machine.budget.bytes(count * VALUE_BYTES)?;
    Ok(Arguments { positional: arguments.positional.clone(), named: arguments.named.clone() })
}

fn take_first(arguments: &mut Arguments, missing: &str) -> Result<Value> {
    if arguments.positional.is_empty() {
        return Err(Error::operation(missing));
    }
    Ok(arguments.positional.remove(0))
}

fn name_of(value: &Value) -> Result<Text> {
    let name = Some(value.clone());
    name.text("the name")?.cloned().ok_or_else(|| Error::operation("a name is missing"))
}

pub(super) fn map(machine: &mut Machine<'_>, value: Value, mut arguments: Arguments) -> Result<Value> {
    if !value.is_true() {
        return machine.generator(Vec::new());
    }
    let mut mapped = Vec::new();
    if arguments.positional.is_empty()
        && let Some(attribute) = arguments.take_named("attribute")
    {
        let [default] = arguments.bind("map", ["default"], 0)?;
        let path = Path::of(machine, &attribute)?;
        for item in machine.iterate(&value)?.items() {
            mapped.push(path.follow(machine, item, default.given())?);
        }
    } else {
        let name = name_of(&take_first(&mut arguments, "map requires a filter argument")?)?;
        for item in machine.iterate(&value)?.items() {
            let arguments = copied(machine, &arguments)?;
            mapped.push(nested(machine, |machine| apply(machine, name.as_str(), item.clone(), arguments))?);
        }
    }
    machine.generator(mapped)
}

/// One level deeper: a filter may apply filters that apply filters.
fn nested<T>(machine: &mut Machine<'_>, run: impl FnOnce(&mut Machine<'_>) -> Result<T>) -> Result<T> {
    machine.budget.deeper()?;
    let result = run(machine);
    machine.budget.shallower();
    result
}

fn chosen(
    machine: &mut Machine<'_>,
    value: &Value,
    mut arguments: Arguments,
    wanted: bool,
    by_attribute: bool,
) -> Result<Value> {
    if !value.is_true() {
        return machine.generator(Vec::new());
    }
    let path = match by_attribute {
        true => Path::of(machine, &take_first(&mut arguments, "Missing parameter for attribute name")?)?,
        false => Path::maybe(machine, None)?,
    };
    let test = match arguments.positional.is_empty() {
        true => None,
        false => Some(name_of(&take_first(&mut arguments, "")?)?),
    };
    let mut kept = Vec::new();
    for item in machine.iterate(value)?.items() {
        let probe = path.follow(machine, item, None)?;
        let passes = match &test {
            Some(name) => {
                let arguments = copied(machine, &arguments)?;
                nested(machine, |machine| tests::apply(machine, name.as_str(), &probe, arguments))?
            }
            None => probe.is_true(),
        };
        if passes == wanted {
            kept.push(item.clone());
        }
    }
    machine.generator(kept)
}

pub(super) fn select(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    chosen(machine, &value, arguments, true, false)
}

pub(super) fn reject(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    chosen(machine, &value, arguments, false, false)
}

pub(super) fn selectattr(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    chosen(machine, &value, arguments, true, true)
}

pub(super) fn rejectattr(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    chosen(machine, &value, arguments, false, true)
}
