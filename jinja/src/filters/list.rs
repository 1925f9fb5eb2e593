//! Filters on lists and dictionaries.

use super::{Path, ignoring_case, list_of};
use crate::arguments::{Argument, Arguments};
use crate::ast::{Comparison, Operator};
use crate::compare::{equal, ordered, sort as sorted};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::operators;
use crate::strings;
use crate::text::{Text, TextBuilder};
use crate::value::{Key, List, VALUE_BYTES, Value, View};

pub(super) fn list(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("list")?;
    Ok(Value::List(machine.iterate(&value)?))
}

pub(super) fn first(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("first")?;
    let first = machine.first(&value)?;
    Ok(first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
}

pub(super) fn last(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("last")?;
    if let Value::Text(text) = &value {
        let last = text.as_str().char_indices().next_back();
        return match last {
            Some((at, _)) => Ok(Value::Text(text.slice(machine.budget, at..text.len())?)),
            None => Ok(Value::undefined("No last item, sequence was empty.")),
        };
    }
    reversible(&value)?;
    let last = machine.iterate(&value)?.items().last().cloned();
    Ok(last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
}

/// Fails for what Python cannot go through from its end.
fn reversible(value: &Value) -> Result<()> {
    match value {
        Value::Object(..) | Value::Undefined(_) => {
            Err(Error::operation(format!("'{}' object is not reversible", value.type_name())))
        }
        _ => Ok(()),
    }
}

pub(super) fn items(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("items")?;
    match value {
        Value::Undefined(_) => machine.generator(Vec::new()),
        Value::Dict(dict) => {
            let items = machine.iterate(&Value::View(View::Items, dict))?;
            machine.generator(items.items().to_vec())
        }
        _ => Err(Error::operation("Can only get item pairs from a mapping.")),
    }
}

pub(super) fn reverse(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("reverse")?;
    if let Value::Text(text) = &value {
        machine.budget.bytes(text.len() * 8)?;
        let chars: Vec<_> = text.chars().collect();
        let mut out = TextBuilder::new(machine.budget);
        for (ch, origin) in chars.into_iter().rev() {
            out.push_char(ch, origin)?;
        }
        return Ok(Value::Text(out.finish_as(text.is_markup())));
    }
    let items = machine.iterate(&value)?;
    machine.budget.bytes(items.items().len() * VALUE_BYTES)?;
    let reversed: Vec<Value> = items.items().iter().rev().cloned().collect();
    match value {
        Value::Object(..) => list_of(machine, reversed),
        _ => machine.generator(reversed),
    }
}

pub(super) fn batch(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [count, fill] = arguments.bind("batch", ["linecount", "fill_with"], 1)?;
    let count = count.int("linecount")?.unwrap_or(1);
    let items = machine.iterate(&value)?;
    // A batch of no length never is full.
    let count = usize::try_from(count).ok().filter(|count| *count > 0).unwrap_or(usize::MAX);
    let mut batches = Vec::new();
    for chunk in items.items().chunks(count) {
        machine.budget.bytes(chunk.len() * VALUE_BYTES)?;
        let mut chunk = chunk.to_vec();
        if let Some(fill) = fill.given().filter(|_| count < usize::MAX) {
            machine.budget.bytes((count - chunk.len()).saturating_mul(VALUE_BYTES))?;
            chunk.resize(count, fill.clone());
        }
        batches.push(list_of(machine, chunk)?);
    }
    machine.generator(batches)
}

pub(super) fn slice(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [slices, fill] = arguments.bind("slice", ["slices", "fill_with"], 1)?;
    let slices = slices.int("slices")?.unwrap_or(1);
    if slices == 0 {
        return Err(Error::operation("integer division or modulo by zero"));
    }
    let slices = usize::try_from(slices).unwrap_or(0);
    machine.budget.bytes(slices.saturating_mul(2 * VALUE_BYTES))?;
    let items = machine.iterate(&value)?;
    let (least, more) = (items.items().len() / slices.max(1), items.items().len() % slices.max(1));
    let mut rest = items.items();
    let mut all = Vec::new();
    for number in 0..slices {
        machine.budget.steps(1)?;
        let (slice, after) = rest.split_at_checked(least + usize::from(number < more)).unwrap_or((rest, &[]));
        rest = after;
        let mut slice = slice.to_vec();
        slice.extend(fill.given().filter(|_| number >= more).cloned());
        all.push(list_of(machine, slice)?);
    }
    machine.generator(all)
}

/// Items with the keys that an attribute of them gives.
fn keyed(
    machine: &mut Machine<'_>,
    value: &Value,
    path: &Path,
    default: Option<&Value>,
    case_sensitive: bool,
) -> Result<Vec<(Value, Value)>> {
    let items = machine.iterate(value)?;
    machine.budget.bytes(items.items().len() * 2 * VALUE_BYTES)?;
    let mut keyed = Vec::with_capacity(items.items().len());
    for item in items.items() {
        let key = path.follow(machine, item, default)?;
        keyed.push((ignoring_case(machine, key, case_sensitive)?, item.clone()));
    }
    Ok(keyed)
}

pub(super) fn sort(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let names = ["reverse", "case_sensitive", "attribute"];
    let [reverse, case_sensitive, attribute] = arguments.bind("sort", names, 0)?;
    let paths = match attribute.given() {
        Some(Value::Text(text)) => {
            let pieces = strings::split(machine.budget, text, Some(&Text::from(",")), None, false)?;
            let path = |range| Path::of(machine, &Value::Text(text.slice(machine.budget, range)?));
            pieces.into_iter().map(path).collect::<Result<Vec<_>>>()?
        }
        other => vec![Path::maybe(machine, other)?],
    };
    let items = machine.iterate(&value)?;
    let mut keyed = Vec::with_capacity(items.items().len());
    for item in items.items() {
        let key =
            |path: &Path| ignoring_case(machine, path.follow(machine, item, None)?, case_sensitive.truth());
        let keys = paths.iter().map(key).collect::<Result<Vec<_>>>()?;
        keyed.push((Value::List(List::new(machine.budget, keys)?), item.clone()));
    }
    let items = sorted(machine.budget, keyed, reverse.truth())?;
    list_of(machine, items)
}

pub(super) fn dictsort(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [case_sensitive, by, reverse] = arguments.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let by_value = match by.text("by")?.map(Text::as_str) {
        None | Some("key") => false,
        Some("value") => true,
        Some(_) => return Err(Error::operation("You can only sort by either \"key\" or \"value\"")),
    };
    let Value::Dict(dict) = value.defined()? else {
        return Err(Error::operation(format!("'{}' object has no attribute 'items'", value.type_name())));
    };
    let pairs = machine.iterate(&Value::View(View::Items, dict.clone()))?;
    let mut keyed = Vec::with_capacity(pairs.items().len());
    for ((key, value), pair) in dict.entries().iter().zip(pairs.items()) {
        let key = if by_value { value } else { key };
        keyed.push((ignoring_case(machine, key.clone(), case_sensitive.truth())?, pair.clone()));
    }
    let pairs = sorted(machine.budget, keyed, reverse.truth())?;
    list_of(machine, pairs)
}

pub(super) fn unique(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [case_sensitive, attribute] = arguments.bind("unique", ["case_sensitive", "attribute"], 0)?;
    let path = Path::maybe(machine, attribute.given())?;
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::new();
    for (key, item) in keyed(machine, &value, &path, None, case_sensitive.truth())? {
        if seen.insert(Key::of(machine.budget, &key)?) {
            kept.push(item);
        }
    }
    machine.generator(kept)
}

fn extreme(
    machine: &mut Machine<'_>,
    value: &Value,
    arguments: Arguments,
    wanted: Comparison,
) -> Result<Value> {
    let [case_sensitive, attribute] = arguments.bind("min", ["case_sensitive", "attribute"], 0)?;
    let path = Path::maybe(machine, attribute.given())?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(machine, value, &path, None, case_sensitive.truth())? {
        let better = match &best {
            Some((known, _)) => ordered(machine.budget, wanted, &key, known)?,
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

pub(super) fn min(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    extreme(machine, &value, arguments, Comparison::Lt)
}

pub(super) fn max(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    extreme(machine, &value, arguments, Comparison::Gt)
}

pub(super) fn sum(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [attribute, start] = arguments.bind("sum", ["attribute", "start"], 0)?;
    let path = Path::maybe(machine, attribute.given())?;
    let mut sum = start.unwrap_or_else(|| Value::count(0));
    if matches!(sum, Value::Text(_)) {
        return Err(Error::operation("sum() can't sum strings [use ''.join(seq) instead]"));
    }
    for item in machine.iterate(&value)?.items() {
        let item = path.follow(machine, item, None)?;
        sum = operators::binary(machine, Operator::Add, &sum, &item)?;
    }
    Ok(sum)
}

pub(super) fn groupby(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let names = ["attribute", "default", "case_sensitive"];
    let [attribute, default, case_sensitive] = arguments.bind("groupby", names, 1)?;
    let path = Path::maybe(machine, attribute.as_ref())?;
    let default = default.given();
    let pairs = keyed(machine, &value, &path, default, case_sensitive.truth())?;
    // Sorted with the keys that they are grouped by.
    let mut with_keys = Vec::with_capacity(pairs.len());
    for (key, item) in pairs {
        let pair = List::new(machine.budget, vec![key.clone(), item])?;
        with_keys.push((key, Value::Tuple(pair)));
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for pair in sorted(machine.budget, with_keys, false)? {
        let Value::Tuple(pair) = pair else { continue };
        let [key, item] = pair.items() else { continue };
        match groups.last_mut() {
            Some((known, group)) if equal(machine.budget, known, key)? => group.push(item.clone()),
            _ => groups.push((key.clone(), vec![item.clone()])),
        }
    }
    let mut out = Vec::with_capacity(groups.len());
    for (key, group) in groups {
        let key = match group.first() {
            Some(first) if !case_sensitive.truth() => path.follow(machine, first, default)?,
            _ => key,
        };
        let group = list_of(machine, group)?;
        out.push(Value::Tuple(List::group(machine.budget, key, group)?));
    }
    list_of(machine, out)
}
