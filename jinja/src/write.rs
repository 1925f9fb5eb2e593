//! Values as Python's `str` and `repr` write them.

use std::fmt::Write;

use crate::error::Result;
use crate::machine::{Machine, Object};
use crate::text::{Origin, Text, TextBuilder};
use crate::value::{Dict, ObjectId, Value, View};

/// `str(value)`.
pub(crate) fn to_text(machine: &Machine<'_>, value: &Value) -> Result<Text> {
    if let Value::Text(text) = value {
        return Ok(text.clone());
    }
    let mut text = TextBuilder::new(machine.budget);
    write_str(machine, value, &mut text)?;
    Ok(text.finish())
}

/// `repr(value)`.
pub(crate) fn to_repr(machine: &Machine<'_>, value: &Value) -> Result<Text> {
    let mut text = TextBuilder::new(machine.budget);
    write_repr(machine, value, &mut text)?;
    Ok(text.finish())
}

/// Appends `str(value)`.
pub(crate) fn write_str(machine: &Machine<'_>, value: &Value, out: &mut TextBuilder<'_>) -> Result<()> {
    match value {
        Value::Text(text) => out.push_text(text),
        Value::Undefined(_) => Ok(()),
        _ => write_repr(machine, value, out),
    }
}

fn write_repr(machine: &Machine<'_>, value: &Value, out: &mut TextBuilder<'_>) -> Result<()> {
    machine.budget.steps(1)?;
    machine.budget.deeper()?;
    let program = Origin::Program;
    match value {
        Value::Undefined(_) => out.push("Undefined", program)?,
        Value::None => out.push("None", program)?,
        Value::Bool(true) => out.push("True", program)?,
        Value::Bool(false) => out.push("False", program)?,
        Value::Int(number, origin) => out.push(&number.to_string(), *origin)?,
        Value::Float(number, origin) => out.push(&float(*number), *origin)?,
        Value::Text(text) => write_quoted(text, out)?,
        Value::List(list) => write_items(machine, "[", list.items(), "]", out)?,
        Value::Tuple(list) => {
            let end = if list.items().len() == 1 { ",)" } else { ")" };
            write_items(machine, "(", list.items(), end, out)?;
        }
        Value::Dict(dict) => write_dict(machine, dict, out)?,
        Value::View(view, dict) => write_view(machine, *view, dict, out)?,
        Value::Range(range) => {
            let mut text = format!("range({}, {}", range.start, range.stop);
            if range.step != 1 {
                let _ = write!(text, ", {}", range.step);
            }
            out.push(&text, program)?;
            out.push(")", program)?;
        }
        Value::Object(_, id) => write_object(machine, *id, out)?,
        Value::Macro(value) => match value.tree.name {
            Some(name) => out.push(&format!("<Macro '{}'>", machine.name(name)), program)?,
            None => out.push("<Macro 'caller'>", program)?,
        },
        Value::Function(_) => out.push("<function>", program)?,
        Value::Method(method) => {
            out.push("<built-in method ", program)?;
            out.push_text(&method.name)?;
            out.push(&format!(" of {} object>", method.receiver.type_name()), program)?;
        }
    }
    machine.budget.shallower();
    Ok(())
}

fn write_items(
    machine: &Machine<'_>,
    start: &str,
    items: &[Value],
    end: &str,
    out: &mut TextBuilder<'_>,
) -> Result<()> {
    out.push(start, Origin::Program)?;
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push(", ", Origin::Program)?;
        }
        write_repr(machine, item, out)?;
    }
    out.push(end, Origin::Program)
}

fn write_pairs<'v>(
    machine: &Machine<'_>,
    pairs: impl Iterator<Item = (Option<&'v Text>, Option<&'v Value>, &'v Value)>,
    out: &mut TextBuilder<'_>,
) -> Result<()> {
    out.push("{", Origin::Program)?;
    for (number, (name, key, value)) in pairs.enumerate() {
        if number > 0 {
            out.push(", ", Origin::Program)?;
        }
        if let Some(name) = name {
            write_quoted(name, out)?;
        }
        if let Some(key) = key {
            write_repr(machine, key, out)?;
        }
        out.push(": ", Origin::Program)?;
        write_repr(machine, value, out)?;
    }
    out.push("}", Origin::Program)
}

fn write_dict(machine: &Machine<'_>, dict: &Dict, out: &mut TextBuilder<'_>) -> Result<()> {
    write_pairs(machine, dict.entries().iter().map(|(key, value)| (None, Some(key), value)), out)
}

fn write_view(machine: &Machine<'_>, view: View, dict: &Dict, out: &mut TextBuilder<'_>) -> Result<()> {
    out.push(["dict_keys([", "dict_values([", "dict_items(["][view as usize], Origin::Program)?;
    for (number, (key, value)) in dict.entries().iter().enumerate() {
        if number > 0 {
            out.push(", ", Origin::Program)?;
        }
        match view {
            View::Keys => write_repr(machine, key, out)?,
            View::Values => write_repr(machine, value, out)?,
            View::Items => {
                out.push("(", Origin::Program)?;
                write_repr(machine, key, out)?;
                out.push(", ", Origin::Program)?;
                write_repr(machine, value, out)?;
                out.push(")", Origin::Program)?;
            }
        }
    }
    out.push("])", Origin::Program)
}

fn write_object(machine: &Machine<'_>, id: ObjectId, out: &mut TextBuilder<'_>) -> Result<()> {
    let program = Origin::Program;
    match machine.object(id)? {
        Object::Namespace(namespace) => {
            out.push("<Namespace ", program)?;
            write_pairs(machine, namespace.attributes.iter().map(|(name, v)| (Some(name), None, v)), out)?;
            out.push(">", program)
        }
        Object::Cycler { .. } => out.push("<Cycler>", program),
        Object::Joiner { .. } => out.push("<Joiner>", program),
        Object::Generator { .. } => out.push("<generator object>", program),
        Object::Loop(state) => {
            out.push(&format!("<LoopContext {}/{}>", state.index + 1, state.items.items().len()), program)
        }
    }
}

/// Whether Python shows a character as it is within quotes.
pub(crate) fn is_printable(ch: char) -> bool {
    match ch {
        ' '..='~' => true,
        _ if ch.is_ascii() => false,
        // Behind another character, because combining ones are escaped at the start of a text.
        _ => ['a', ch].iter().collect::<String>().escape_debug().nth(1) == Some(ch),
    }
}

/// A text in quotes.
fn write_quoted(text: &Text, out: &mut TextBuilder<'_>) -> Result<()> {
    let quote = if text.as_str().contains('\'') && !text.as_str().contains('"') { '"' } else { '\'' };
    out.push_char(quote, Origin::Program)?;
    for (ch, origin) in text.chars() {
        match ch {
            '\\' => out.push("\\\\", origin)?,
            '\n' => out.push("\\n", origin)?,
            '\r' => out.push("\\r", origin)?,
            '\t' => out.push("\\t", origin)?,
            ch if ch == quote => {
                out.push("\\", origin)?;
                out.push_char(ch, origin)?;
            }
            ch if is_printable(ch) => out.push_char(ch, origin)?,
            ch => {
                let code = u32::from(ch);
                let escaped = match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                };
                out.push(&escaped, origin)?;
            }
        }
    }
    out.push_char(quote, Origin::Program)
}

/// A float as `repr` writes it: the shortest digits that give it back.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
