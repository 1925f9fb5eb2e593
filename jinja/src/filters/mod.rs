//! The filters of Jinja2 3.1, but for those that need the world (`random`) or lay out for a width of lines (`pprint`,
//! `urlize`, `wordwrap`), which fail by name.

mod list;
mod number;
mod select;
mod text;

use crate::arguments::{Argument, Arguments};
use crate::error::{Error, Result};
use crate::json::{Style, to_json};
use crate::machine::Machine;
use crate::strings;
use crate::text::{Origin, Text};
use crate::value::{DictBuilder, List, Value};
use crate::write::to_text;

type Filter = fn(&mut Machine<'_>, Value, Arguments) -> Result<Value>;

/// The filter of a name.
fn named(name: &str) -> Option<Filter> {
    Some(match name {
        "abs" => number::abs,
        "attr" => attr,
        "batch" => list::batch,
        "capitalize" => text::capitalize,
        "center" => text::center,
        "count" | "length" => length,
        "d" | "default" => default,
        "dictsort" => list::dictsort,
        "e" | "escape" => text::escape,
        "filesizeformat" => number::filesizeformat,
        "first" => list::first,
        "float" => number::float,
        "forceescape" => text::forceescape,
        "format" => text::format,
        "groupby" => list::groupby,
        "indent" => text::indent,
        "int" => number::int,
        "items" => list::items,
        "join" => text::join,
        "last" => list::last,
        "list" => list::list,
        "lower" => text::lower,
        "map" => select::map,
        "max" => list::max,
        "min" => list::min,
        "reject" => select::reject,
        "rejectattr" => select::rejectattr,
        "replace" => text::replace,
        "reverse" => list::reverse,
        "round" => number::round,
        "safe" => text::safe,
        "select" => select::select,
        "selectattr" => select::selectattr,
        "slice" => list::slice,
        "sort" => list::sort,
        "string" => text::string,
        "striptags" => text::striptags,
        "sum" => list::sum,
        "title" => text::title,
        "tojson" => tojson,
        "trim" => text::trim,
        "truncate" => text::truncate,
        "unique" => list::unique,
        "upper" => text::upper,
        "urlencode" => text::urlencode,
        "wordcount" => text::wordcount,
        "xmlattr" => text::xmlattr,
        _ => return None,
    })
}

/// Whether there is a filter of this name.
pub(crate) fn exists(name: &str) -> bool {
    named(name).is_some()
}

pub(crate) fn apply(
    machine: &mut Machine<'_>,
    name: &str,
    value: Value,
    arguments: Arguments,
) -> Result<Value> {
    let filter = named(name).ok_or_else(|| Error::operation(format!("No filter named '{name}'.")))?;
    machine.budget.steps(1)?;
    filter(machine, value, arguments)
}

/// The path of `attribute` arguments: `a.0.b`, or a number.
struct Path(Vec<Value>);

impl Path {
    fn of(machine: &Machine<'_>, attribute: &Value) -> Result<Self> {
        let Value::Text(text) = attribute else { return Ok(Self(vec![attribute.clone()])) };
        let pieces = strings::split(machine.budget, text, Some(&Text::from(".")), None, false)?;
        let part = |range| {
            let part = text.slice(machine.budget, range)?;
            Ok(match part.as_str().parse::<u64>() {
                Ok(number) if part.as_str().bytes().all(|byte| byte.is_ascii_digit()) => {
                    Value::Int(i128::from(number), Origin::Program)
                }
                _ => Value::Text(part),
            })
        };
        Ok(Self(pieces.into_iter().map(part).collect::<Result<_>>()?))
    }

    fn maybe(machine: &Machine<'_>, attribute: Option<&Value>) -> Result<Self> {
        attribute.map_or(Ok(Self(Vec::new())), |attribute| Self::of(machine, attribute))
    }

    fn follow(&self, machine: &Machine<'_>, item: &Value, default: Option<&Value>) -> Result<Value> {
        let mut value = item.clone();
        for part in &self.0 {
            machine.budget.steps(1)?;
            value = machine.item(&value, part)?;
            if let (true, Some(default)) = (value.is_undefined(), default) {
                value = default.clone();
            }
        }
        Ok(value)
    }
}

/// What texts are compared by where case does not matter.
fn ignoring_case(machine: &Machine<'_>, value: Value, case_sensitive: bool) -> Result<Value> {
    match value {
        Value::Text(text) if !case_sensitive => Ok(Value::Text(strings::lower(machine.budget, &text)?)),
        value => Ok(value),
    }
}

fn attr(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [name] = arguments.bind("attr", ["name"], 1)?;
    let name = name.text("the name of an attribute")?.cloned().unwrap_or_else(|| Text::from(""));
    // Items do not count: a dictionary without its entries has the attributes.
    let probe = match &value {
        Value::Dict(_) => Value::Dict(DictBuilder::default().finish()?),
        other => other.clone(),
    };
    match machine.attribute(&probe, &name)? {
        Value::Method(_) => machine.attribute(&value, &name),
        other => Ok(other),
    }
}

/// How many items, characters or entries.
pub(crate) fn len(machine: &Machine<'_>, value: &Value) -> Result<usize> {
    Ok(match value {
        Value::Undefined(_) => 0,
        Value::Text(text) => {
            machine.budget.scan(text.len())?;
            text.as_str().chars().count()
        }
        Value::List(list) | Value::Tuple(list) => list.items().len(),
        Value::Dict(dict) | Value::View(_, dict) => dict.entries().len(),
        Value::Range(range) => range.len,
        Value::Object(crate::value::ObjectKind::Loop, id) => match machine.object(*id)? {
            crate::machine::Object::Loop(state) => state.items.items().len(),
            _ => 0,
        },
        other => {
            return Err(Error::operation(format!("object of type '{}' has no len()", other.type_name())));
        }
    })
}

fn length(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("length")?;
    Ok(Value::Int(len(machine, &value)? as i128, value.origin()))
}

fn default(_: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [default, boolean] = arguments.bind("default", ["default_value", "boolean"], 0)?;
    let replaced = value.is_undefined() || boolean.truth() && !value.is_true();
    Ok(if replaced { default.unwrap_or_else(|| Value::from("")) } else { value })
}

fn tojson(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = arguments.bind("tojson", names, 0)?;
    let indent = match indent.given() {
        None => None,
        Some(Value::Text(text)) => Some(text.clone()),
        Some(_) => {
            let spaces = usize::try_from(indent.int("indent")?.unwrap_or(0).max(0)).unwrap_or(usize::MAX);
            let empty = Text::from("");
            Some(strings::padded(machine.budget, &empty, spaces, 0, (' ', Origin::Program))?)
        }
    };
    let (item_separator, key_separator) = match separators.given() {
        None => (Text::from(if indent.is_some() { "," } else { ", " }), Text::from(": ")),
        Some(pair) => match &machine.texts(pair)?[..] {
            [item, key] => (item.clone(), key.clone()),
            _ => return Err(Error::operation("tojson: separators is a pair of texts")),
        },
    };
    let style = Style {
        indent,
        item_separator,
        key_separator,
        ensure_ascii: ensure_ascii.truth(),
        sort_keys: sort_keys.truth(),
    };
    Ok(Value::Text(to_json(machine, &value, &style)?))
}

/// A text as it is, of anything else what `str` gives.
fn soft_text(machine: &Machine<'_>, value: &Value) -> Result<Text> {
    to_text(machine, value)
}

/// A list of texts.
fn list_of(machine: &Machine<'_>, items: Vec<Value>) -> Result<Value> {
    Ok(Value::List(List::new(machine.budget, items)?))
}
