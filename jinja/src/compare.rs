//! Equality, order, containment and sorting. Every pair of items that is looked at is charged, so that lists which share
//! their parts are not compared for longer than the budget lasts.

use std::cmp::Ordering;

use crate::ast::Comparison;
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::machine::{Machine, Object};
use crate::value::{Dict, Key, List, Value, View};

/// Python's `==`.
pub(crate) fn equal(budget: &Budget, left: &Value, right: &Value) -> Result<bool> {
    budget.steps(1)?;
    Ok(match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) => true,
        (Value::Text(a), Value::Text(b)) => {
            budget.scan(a.len().min(b.len()))?;
            a == b
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => lists_equal(budget, a, b)?,
        (Value::Dict(a), Value::Dict(b)) => dicts_equal(budget, a, b)?,
        (Value::View(View::Keys, a), Value::View(View::Keys, b)) => {
            budget.steps(a.entries().len())?;
            let known = |(key, _): &(Value, Value)| Ok(b.get(&Key::of(budget, key)?).is_some());
            a.entries().len() == b.entries().len() && all(a.entries(), known)?
        }
        (Value::View(View::Items, a), Value::View(View::Items, b)) => dicts_equal(budget, a, b)?,
        (Value::Range(a), Value::Range(b)) => {
            let step = a.step == b.step || a.len < 2;
            a.len == b.len && (a.len == 0 || a.start == b.start && step)
        }
        (Value::Method(a), Value::Method(b)) => a.name == b.name && a.receiver.is_same(&b.receiver),
        _ => match numbers(left, right) {
            Some(order) => order == Some(Ordering::Equal),
            None => left.is_same(right),
        },
    })
}

fn all<T>(items: &[T], mut holds: impl FnMut(&T) -> Result<bool>) -> Result<bool> {
    for item in items {
        if !holds(item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lists_equal(budget: &Budget, a: &List, b: &List) -> Result<bool> {
    if a.same(b) {
        return Ok(true);
    }
    let same_length = a.items().len() == b.items().len();
    let pairs: &mut dyn Iterator<Item = _> = &mut a.items().iter().zip(b.items());
    for (a, b) in pairs.take_while(|_| same_length) {
        if !equal(budget, a, b)? {
            return Ok(false);
        }
    }
    Ok(same_length)
}

fn dicts_equal(budget: &Budget, a: &Dict, b: &Dict) -> Result<bool> {
    if a.same(b) {
        return Ok(true);
    }
    let same = |(key, value): &(Value, Value)| match b.get(&Key::of(budget, key)?) {
        Some(other) => equal(budget, value, other),
        None => Ok(false),
    };
    Ok(a.entries().len() == b.entries().len() && all(a.entries(), same)?)
}

/// The order of two numbers, if they are numbers; of none with a NaN.
fn numbers(left: &Value, right: &Value) -> Option<Option<Ordering>> {
    Some(match (left, right) {
        (Value::Float(a, _), Value::Float(b, _)) => a.partial_cmp(b),
        (Value::Float(a, _), b) => with_float(b.as_index()?, *a).map(Ordering::reverse),
        (a, Value::Float(b, _)) => with_float(a.as_index()?, *b),
        (a, b) => Some(a.as_index()?.cmp(&b.as_index()?)),
    })
}

/// The order of a whole number and a float, exactly.
fn with_float(whole: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // Floats beyond are larger than every whole number here.
    if float.abs() >= 1.7e38 {
        return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let floor = float.floor();
    Some(whole.cmp(&(floor as i128)).then(if float > floor { Ordering::Less } else { Ordering::Equal }))
}

/// The order of two values, where they have one.
fn order(budget: &Budget, left: &Value, right: &Value) -> Result<Option<Ordering>> {
    budget.steps(1)?;
    match (left.defined()?, right.defined()?) {
        (Value::Text(a), Value::Text(b)) => {
            budget.scan(a.len().min(b.len()))?;
            // The order of code points is that of the bytes.
            Ok(Some(a.as_str().cmp(b.as_str())))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.items().iter().zip(b.items()) {
                if !equal(budget, a, b)? {
                    return order(budget, a, b);
                }
            }
            Ok(Some(a.items().len().cmp(&b.items().len())))
        }
        _ => numbers(left, right).ok_or_else(|| {
            let (left, right) = (left.type_name(), right.type_name());
            Error::operation(format!("'<' not supported between instances of '{left}' and '{right}'"))
        }),
    }
}

/// Whether `<`, `<=`, `>` or `>=` holds.
pub(crate) fn ordered(budget: &Budget, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
    let Some(order) = order(budget, left, right)? else { return Ok(false) };
    Ok(match comparison {
        Comparison::Lt => order.is_lt(),
        Comparison::Le => order.is_le(),
        Comparison::Gt => order.is_gt(),
        Comparison::Ge => order.is_ge(),
        Comparison::Eq => order.is_eq(),
        Comparison::Ne | Comparison::In | Comparison::NotIn => false,
    })
}

/// Whether a value can be a key.
pub(crate) fn is_hashable(value: &Value) -> bool {
    match value {
        Value::List(_) | Value::Dict(_) | Value::View(..) => false,
        Value::Tuple(list) => list.items().iter().all(is_hashable),
        _ => true,
    }
}

/// Sorts by keys, stably. Python compares with `<` alone; an order that is none gives some order.
pub(crate) fn sort(budget: &Budget, items: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
    let mut items = items;
    // A stable sort in reverse is that of the reversed list, reversed.
    if reverse {
        items.reverse();
    }
    let mut width = 1;
    while width < items.len() {
        budget.bytes(items.len() * 2 * crate::value::VALUE_BYTES)?;
        let mut merged = Vec::with_capacity(items.len());
        let mut rest = items.into_iter().peekable();
        while rest.peek().is_some() {
            let left: Vec<_> = rest.by_ref().take(width).collect();
            let right: Vec<_> = rest.by_ref().take(width).collect();
            let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
            while let (Some((a, _)), Some((b, _))) = (left.peek(), right.peek()) {
                let next = if ordered(budget, Comparison::Lt, b, a)? { right.next() } else { left.next() };
                merged.extend(next);
            }
            merged.extend(left.chain(right));
        }
        items = merged;
        width *= 2;
    }
    if reverse {
        items.reverse();
    }
    Ok(items.into_iter().map(|(_, item)| item).collect())
}

impl Machine<'_> {
    /// Python's `item in container`.
    pub(crate) fn contains(&mut self, container: &Value, item: &Value) -> Result<bool> {
        let budget = self.budget;
        match container {
            Value::Text(text) => match item {
                Value::Text(part) => {
                    budget.scan(text.len() + part.len())?;
                    Ok(text.as_str().contains(part.as_str()))
                }
                _ => Err(Error::operation(format!(
                    "'in <string>' requires string as left operand, not {}",
                    item.defined()?.type_name()
                ))),
            },
            Value::Dict(dict) | Value::View(View::Keys, dict) => {
                Ok(dict.get(&Key::of(budget, item)?).is_some())
            }
            Value::Range(range) if item.as_index().is_some() => {
                let number = item.as_index().unwrap_or_default();
                let distance = number.saturating_sub(range.start);
                let place = if distance % range.step == 0 { distance / range.step } else { -1 };
                Ok((0..range.len as i128).contains(&place))
            }
            Value::Object(_, id) => match self.object(*id)? {
                // What was looked at is used up.
                Object::Generator { .. } => {
                    while let Some(next) = self.first(container)? {
                        if equal(budget, &next, item)? {
                            return Ok(true);
                        }
                    }
                    Ok(false)
                }
                _ => Err(not_a_container(container)),
            },
            Value::List(_) | Value::Tuple(_) | Value::Undefined(_) | Value::View(..) | Value::Range(_) => {
                let items = self.iterate(container)?;
                for other in items.items() {
                    if other.is_same(item) || equal(budget, other, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Err(not_a_container(container)),
        }
    }
}

fn not_a_container(value: &Value) -> Error {
    Error::operation(format!("argument of type '{}' is not iterable", value.type_name()))
}
