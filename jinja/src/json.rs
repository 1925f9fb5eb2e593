//! `tojson` as transformers defines it: Python's `json.dumps`, without escapes for HTML.

use std::fmt::Write;

use crate::compare::sort;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::text::{Origin, Text, TextBuilder};
use crate::value::{Dict, Value};
use crate::write::float;

/// How JSON is laid out.
pub(crate) struct Style {
    /// What a level is indented by; none for one line.
    pub(crate) indent: Option<Text>,
    pub(crate) item_separator: Text,
    pub(crate) key_separator: Text,
    pub(crate) ensure_ascii: bool,
    pub(crate) sort_keys: bool,
}

/// The JSON of a value.
pub(crate) fn to_json(machine: &Machine<'_>, value: &Value, style: &Style) -> Result<Text> {
    let mut out = TextBuilder::new(machine.budget);
    write(machine, value, style, 0, &mut out)?;
    Ok(out.finish())
}

fn line(style: &Style, depth: usize, out: &mut TextBuilder<'_>) -> Result<()> {
    let Some(indent) = &style.indent else { return Ok(()) };
    out.push("\n", Origin::Program)?;
    out.push_repeated(indent, depth)
}

fn write(
    machine: &Machine<'_>,
    value: &Value,
    style: &Style,
    depth: usize,
    out: &mut TextBuilder<'_>,
) -> Result<()> {
    machine.budget.steps(1)?;
    match value {
        Value::Text(text) => write_text(text, style.ensure_ascii, out),
        Value::List(list) | Value::Tuple(list) => {
            out.push("[", Origin::Program)?;
            for (number, item) in list.items().iter().enumerate() {
                if number > 0 {
                    out.push_text(&style.item_separator)?;
                }
                line(style, depth + 1, out)?;
                write(machine, item, style, depth + 1, out)?;
            }
            if !list.items().is_empty() {
                line(style, depth, out)?;
            }
            out.push("]", Origin::Program)
        }
        Value::Dict(dict) => write_dict(machine, dict, style, depth, out),
        _ => match scalar(value) {
            Some(text) => out.push(&text, value.origin()),
            None => Err(Error::operation(format!(
                "Object of type {} is not JSON serializable",
                value.type_name()
            ))),
        },
    }
}

fn write_dict(
    machine: &Machine<'_>,
    dict: &Dict,
    style: &Style,
    depth: usize,
    out: &mut TextBuilder<'_>,
) -> Result<()> {
    let mut entries: Vec<&(Value, Value)> = dict.entries().iter().collect();
    if style.sort_keys {
        let mut keyed = Vec::with_capacity(entries.len());
        for (place, (key, _)) in dict.entries().iter().enumerate() {
            keyed.push((key.clone(), Value::count(place)));
        }
        let sorted = sort(machine.budget, keyed, false)?;
        let place = |place: &Value| dict.entries().get(place.as_index()? as usize);
        entries = sorted.iter().filter_map(place).collect();
    }
    out.push("{", Origin::Program)?;
    for (number, (key, value)) in entries.iter().enumerate() {
        if number > 0 {
            out.push_text(&style.item_separator)?;
        }
        line(style, depth + 1, out)?;
        match key {
            Value::Text(text) => write_text(text, style.ensure_ascii, out)?,
            key => {
                let text = scalar(key).ok_or_else(|| {
                    Error::operation(format!(
                        "keys must be str, int, float, bool or None, not {}",
                        key.type_name()
                    ))
                })?;
                out.push(&format!("\"{text}\""), key.origin())?;
            }
        }
        out.push_text(&style.key_separator)?;
        write(machine, value, style, depth + 1, out)?;
    }
    if !entries.is_empty() {
        line(style, depth, out)?;
    }
    out.push("}", Origin::Program)
}

fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::None => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number, _) => number.to_string(),
        Value::Float(number, _) if number.is_nan() => "NaN".to_owned(),
        Value::Float(number, _) if number.is_infinite() => {
            if *number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
        }
        Value::Float(number, _) => float(*number),
        _ => return None,
    })
}

fn write_text(text: &Text, ensure_ascii: bool, out: &mut TextBuilder<'_>) -> Result<()> {
    out.push("\"", Origin::Program)?;
    for (ch, origin) in text.chars() {
        match ch {
            '"' => out.push("\\\"", origin)?,
            '\\' => out.push("\\\\", origin)?,
            '\n' => out.push("\\n", origin)?,
            '\r' => out.push("\\r", origin)?,
            '\t' => out.push("\\t", origin)?,
            '\u{8}' => out.push("\\b", origin)?,
            '\u{c}' => out.push("\\f", origin)?,
            ch if u32::from(ch) < 0x20 || ensure_ascii && !(' '..='~').contains(&ch) => {
                let mut escaped = String::new();
                for unit in ch.encode_utf16(&mut [0; 2]) {
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
                out.push(&escaped, origin)?;
            }
            ch => out.push_char(ch, origin)?,
        }
    }
    out.push("\"", Origin::Program)
}
