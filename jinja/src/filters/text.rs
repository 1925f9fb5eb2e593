//! Filters on texts.

use super::{Path, soft_text};
use crate::arguments::{Argument, Arguments};
use crate::error::{Error, Result};
use crate::format::percent;
use crate::machine::Machine;
use crate::markup;
use crate::strings::{self, Ends};
use crate::text::{Origin, Text, TextBuilder};
use crate::value::{DictBuilder, List, Value};
use crate::write::to_text;

/// A filter that maps a text.
fn mapped(
    machine: &Machine<'_>,
    name: &str,
    value: &Value,
    arguments: Arguments,
    map: fn(&crate::budget::Budget, &Text) -> Result<Text>,
) -> Result<Value> {
    arguments.none(name)?;
    Ok(Value::Text(map(machine.budget, &soft_text(machine, value)?)?))
}

pub(super) fn lower(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    mapped(machine, "lower", &value, arguments, strings::lower)
}

pub(super) fn upper(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    mapped(machine, "upper", &value, arguments, strings::upper)
}

pub(super) fn capitalize(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    mapped(machine, "capitalize", &value, arguments, strings::capitalize)
}

pub(super) fn title(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    mapped(machine, "title", &value, arguments, |budget, text| {
        strings::title_filter(budget, text)?.marked(budget, false)
    })
}

pub(super) fn string(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("string")?;
    Ok(Value::Text(soft_text(machine, &value)?))
}

pub(super) fn safe(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("safe")?;
    Ok(Value::Text(to_text(machine, &value)?.marked(machine.budget, true)?))
}

pub(super) fn escape(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("escape")?;
    Ok(Value::Text(markup::escape(machine.budget, &to_text(machine, &value)?)?))
}

pub(super) fn forceescape(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("forceescape")?;
    let plain = to_text(machine, &value)?.marked(machine.budget, false)?;
    Ok(Value::Text(markup::escape(machine.budget, &plain)?))
}

pub(super) fn center(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [width] = arguments.bind("center", ["width"], 0)?;
    let width = width.int("width")?.unwrap_or(80);
    let text = soft_text(machine, &value)?;
    Ok(Value::Text(strings::center(machine.budget, &text, width, (' ', Origin::Program))?))
}

pub(super) fn trim(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [chars] = arguments.bind("trim", ["chars"], 0)?;
    let chars = chars.given().cloned();
    let text = soft_text(machine, &value)?;
    Ok(Value::Text(strings::strip(machine.budget, &text, chars.text("chars")?, Ends::Both)?))
}

pub(super) fn replace(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [old, new, count] = arguments.bind("replace", ["old", "new", "count"], 2)?;
    let text = to_text(machine, &value)?.marked(machine.budget, false)?;
    let old = to_text(machine, &old.unwrap_or(Value::None))?;
    let new = to_text(machine, &new.unwrap_or(Value::None))?;
    let count = count.given().cloned().int("count")?;
    Ok(Value::Text(strings::replace(machine.budget, &text, &old, &new, count)?))
}

pub(super) fn join(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [separator, attribute] = arguments.bind("join", ["d", "attribute"], 0)?;
    let separator = to_text(machine, &separator.unwrap_or_else(|| Value::from("")))?;
    let path = Path::maybe(machine, attribute.given())?;
    let items = machine.iterate(&value)?;
    let mut out = TextBuilder::new(machine.budget);
    for (number, item) in items.items().iter().enumerate() {
        if number > 0 {
            out.push_text(&separator)?;
        }
        let item = path.follow(machine, item, None)?;
        crate::write::write_str(machine, &item, &mut out)?;
    }
    Ok(Value::Text(out.finish()))
}

pub(super) fn indent(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"], 0)?;
    let budget = machine.budget;
    let indention = match &width {
        Some(Value::Text(text)) => text.clone(),
        width => {
            let width = usize::try_from(width.int("width")?.unwrap_or(4).max(0)).unwrap_or(usize::MAX);
            strings::padded(budget, &Text::from(""), width, 0, (' ', Origin::Program))?
        }
    };
    let Value::Text(text) = value.defined()? else {
        return Err(Error::operation(format!("indent wants a text, not {}", value.type_name())));
    };
    let mut whole = TextBuilder::new(budget);
    whole.push_text(text)?;
    // Python's splitlines leaves out an empty last line.
    whole.push("\n", Origin::Program)?;
    let whole = whole.finish();
    let mut out = TextBuilder::new(budget);
    for (number, line) in strings::lines(budget, whole.as_str(), false)?.into_iter().enumerate() {
        if number > 0 {
            out.push("\n", Origin::Program)?;
        }
        let indented = if number == 0 { first.truth() } else { blank.truth() || !line.is_empty() };
        if indented {
            out.push_text(&indention)?;
        }
        out.push_slice(&whole, line)?;
    }
    Ok(Value::Text(out.finish_as(text.is_markup())))
}

pub(super) fn truncate(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, killwords, end, leeway] = arguments.bind("truncate", names, 0)?;
    let length = length.int("length")?.unwrap_or(255);
    let leeway = leeway.given().cloned().int("leeway")?.unwrap_or(5);
    let end = end.text("end")?.cloned().unwrap_or_else(|| Text::from("..."));
    let Value::Text(text) = value.defined()? else {
        return Err(Error::operation(format!("object of type '{}' has no len()", value.type_name())));
    };
    let budget = machine.budget;
    budget.scan(text.len() + end.len())?;
    let end_len = end.as_str().chars().count() as i128;
    if length < end_len || leeway < 0 {
        return Err(Error::operation(format!("expected length >= {end_len}, got {length}")));
    }
    if text.as_str().chars().count() as i128 <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let keep = usize::try_from(length - end_len).unwrap_or(usize::MAX);
    let mut cut = text.as_str().char_indices().nth(keep).map_or(text.len(), |(at, _)| at);
    if !killwords.truth() {
        cut = text.as_str()[..cut].rfind(' ').unwrap_or(cut);
    }
    let mut out = TextBuilder::new(budget);
    out.push_slice(text, 0..cut)?;
    out.push_text(&end)?;
    Ok(Value::Text(out.finish_as(text.is_markup())))
}

pub(super) fn wordcount(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("wordcount")?;
    let text = soft_text(machine, &value)?;
    machine.budget.scan(text.len())?;
    let words = text.as_str().split(|ch: char| !(ch.is_alphanumeric() || ch == '_'));
    Ok(Value::Int(words.filter(|word| !word.is_empty()).count() as i128, text.origin()))
}

pub(super) fn format(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let text = soft_text(machine, &value)?;
    let Arguments { positional, named } = arguments;
    let values = if named.is_empty() {
        Value::Tuple(List::new(machine.budget, positional)?)
    } else if positional.is_empty() {
        let mut dict = DictBuilder::default();
        for (name, value) in named {
            dict.insert(machine.budget, Value::Text(name), value)?;
        }
        Value::Dict(dict.finish()?)
    } else {
        return Err(Error::operation("can't handle positional and keyword arguments at the same time"));
    };
    Ok(Value::Text(percent(machine, &text, &values)?))
}

pub(super) fn striptags(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("striptags")?;
    let text = to_text(machine, &value)?;
    Ok(Value::Text(markup::strip_tags(machine.budget, &text)?))
}

pub(super) fn xmlattr(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    let [autospace] = arguments.bind("xmlattr", ["autospace"], 0)?;
    let Value::Dict(dict) = value.defined()? else {
        return Err(Error::operation(format!("'{}' object has no attribute 'items'", value.type_name())));
    };
    let budget = machine.budget;
    let mut out = TextBuilder::new(budget);
    let mut first = autospace.is_some() && !autospace.truth();
    for (key, value) in dict.entries() {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let Value::Text(key) = key else {
            return Err(Error::operation("expected string or bytes-like object"));
        };
        let ends = |ch: char| matches!(ch, ' ' | '\t'..='\r' | '/' | '>' | '=');
        if key.as_str().contains(ends) {
            return Err(Error::operation(format!("Invalid character in attribute name: '{}'", key.as_str())));
        }
        if !std::mem::replace(&mut first, false) {
            out.push(" ", Origin::Program)?;
        }
        out.push_text(&markup::escape(budget, key)?)?;
        out.push("=\"", Origin::Program)?;
        out.push_text(&markup::escape(budget, &to_text(machine, value)?)?)?;
        out.push("\"", Origin::Program)?;
    }
    Ok(Value::Text(out.finish()))
}

/// Percent signs for all bytes but letters, digits and a few signs.
fn quoted(out: &mut TextBuilder<'_>, text: &Text, in_query: bool) -> Result<()> {
    for (ch, origin) in text.chars() {
        match ch {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' | '~' => out.push_char(ch, origin)?,
            '/' if !in_query => out.push_char(ch, origin)?,
            ' ' if in_query => out.push("+", origin)?,
            ch => {
                for byte in ch.encode_utf8(&mut [0; 4]).bytes() {
                    out.push(&format!("%{byte:02X}"), origin)?;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn urlencode(machine: &mut Machine<'_>, value: Value, arguments: Arguments) -> Result<Value> {
    arguments.none("urlencode")?;
    let mut out = TextBuilder::new(machine.budget);
    if matches!(value, Value::Text(_)) || !Machine::is_iterable(&value) {
        quoted(&mut out, &to_text(machine, &value)?, false)?;
        return Ok(Value::Text(out.finish()));
    }
    let pairs = match value {
        Value::Dict(dict) => Value::View(crate::value::View::Items, dict),
        other => other,
    };
    for (number, pair) in machine.iterate(&pairs)?.items().iter().enumerate() {
        let pair = machine.iterate(pair)?;
        let [key, value] = pair.items() else { return Err(Error::operation("urlencode wants pairs")) };
        if number > 0 {
            out.push("&", Origin::Program)?;
        }
        quoted(&mut out, &to_text(machine, key)?, true)?;
        out.push("=", Origin::Program)?;
        quoted(&mut out, &to_text(machine, value)?, true)?;
    }
    Ok(Value::Text(out.finish()))
}
