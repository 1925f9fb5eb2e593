//! How Python writes values: what `{{ value }}`, `~` and `tojson` give in the templates that models come with.

use std::fmt::Write;

use minijinja::Value;
use minijinja::value::ValueKind;

/// Deepest nesting that is written; what lies deeper is left out.
const MAX_DEPTH: usize = 64;

/// Takes text, and refuses more than it has room for.
pub(super) trait Sink {
    /// Appends, or fails when there is no room.
    fn put(&mut self, text: &str) -> Result<(), minijinja::Error>;
}

/// Writes as Python's `str`.
pub(super) fn write_str(value: &Value, out: &mut dyn Sink) -> Result<(), minijinja::Error> {
    match value.as_str() {
        Some(text) => out.put(text),
        None if value.is_undefined() => Ok(()),
        None => write_repr(value, out, 0),
    }
}

/// Writes as Python's `repr`.
fn write_repr(value: &Value, out: &mut dyn Sink, depth: usize) -> Result<(), minijinja::Error> {
    if depth > MAX_DEPTH {
        return out.put("...");
    }
    match value.kind() {
        ValueKind::Undefined => out.put("Undefined"),
        ValueKind::None => out.put("None"),
        ValueKind::Bool => out.put(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.put(&number(value)),
        ValueKind::String => out.put(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Map => {
            out.put("{")?;
            for (at, key) in value.try_iter()?.enumerate() {
                out.put(if at > 0 { ", " } else { "" })?;
                write_repr(&key, out, depth + 1)?;
                out.put(": ")?;
                write_repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.put("}")
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.put("[")?;
            for (at, item) in value.try_iter()?.enumerate() {
                out.put(if at > 0 { ", " } else { "" })?;
                write_repr(&item, out, depth + 1)?;
            }
            out.put("]")
        }
        _ => out.put(&value.to_string()),
    }
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(number) => float(number),
        Err(_) => value.to_string(),
    }
}

/// Python's `repr` of a float.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = number.abs();
    if number != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = number.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for ch in text.chars() {
        match ch {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if ch == quote => out.extend(['\\', ch]),
            _ if (ch as u32) < 0x20 || ch == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", ch as u32);
            }
            _ => out.push(ch),
        }
    }
    out.push(quote);
    out
}

/// How `tojson` writes.
#[derive(Debug, Clone)]
pub(super) struct JsonStyle {
    /// Spaces a level; `None`: all in one line.
    pub(super) indent: Option<usize>,
    /// Between items.
    pub(super) item_separator: String,
    /// Between key and value.
    pub(super) key_separator: String,
    /// Whether everything but ASCII is escaped.
    pub(super) ensure_ascii: bool,
    /// Whether keys are sorted.
    pub(super) sort_keys: bool,
}

impl JsonStyle {
    /// The style of Python's `json.dumps` with this indent, but with characters as they are (transformers' `tojson`).
    pub(super) fn new(indent: Option<usize>) -> Self {
        let item_separator = if indent.is_some() { "," } else { ", " };
        Self {
            indent,
            item_separator: item_separator.to_owned(),
            key_separator: ": ".to_owned(),
            ensure_ascii: false,
            sort_keys: false,
        }
    }
}

/// Writes as Python's `json.dumps`.
pub(super) fn write_json(
    value: &Value,
    style: &JsonStyle,
    depth: usize,
    out: &mut dyn Sink,
) -> Result<(), minijinja::Error> {
    let error = |text: String| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, text);
    if depth > MAX_DEPTH {
        return Err(error(format!("tojson: nested deeper than {MAX_DEPTH}")));
    }
    let line = |out: &mut dyn Sink, depth: usize| match style.indent {
        Some(indent) => out.put(&format!("\n{}", " ".repeat(indent.min(64) * depth))),
        None => Ok(()),
    };
    match value.kind() {
        ValueKind::None => out.put("null"),
        ValueKind::Bool => out.put(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.put(&match number(value).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            finite => finite.to_owned(),
        }),
        ValueKind::String => json_string(value.as_str().unwrap_or_default(), style.ensure_ascii, out),
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            out.put("{")?;
            for (at, key) in keys.iter().enumerate() {
                out.put(if at > 0 { &style.item_separator } else { "" })?;
                line(out, depth + 1)?;
                match key.as_str() {
                    Some(text) => json_string(text, style.ensure_ascii, out)?,
                    None => json_string(&key.to_string(), style.ensure_ascii, out)?,
                }
                out.put(&style.key_separator)?;
                write_json(&value.get_item(key)?, style, depth + 1, out)?;
            }
            if !keys.is_empty() {
                line(out, depth)?;
            }
            out.put("}")
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.put("[")?;
            let mut any = false;
            for item in value.try_iter()? {
                out.put(if any { &style.item_separator } else { "" })?;
                line(out, depth + 1)?;
                write_json(&item, style, depth + 1, out)?;
                any = true;
            }
            if any {
                line(out, depth)?;
            }
            out.put("]")
        }
        kind => Err(error(format!("tojson: a value of kind {kind} cannot be written as JSON"))),
    }
}

fn json_string(text: &str, ensure_ascii: bool, out: &mut dyn Sink) -> Result<(), minijinja::Error> {
    let mut escaped = String::with_capacity(text.len() + 2);
    escaped.push('"');
    for ch in text.chars() {
        match ch {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\u{8}' => escaped.push_str("\\b"),
            '\u{c}' => escaped.push_str("\\f"),
            _ if (ch as u32) < 0x20 => {
                let _ = write!(escaped, "\\u{:04x}", ch as u32);
            }
            _ if ensure_ascii && !ch.is_ascii() => {
                for unit in ch.encode_utf16(&mut [0; 2]) {
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
            _ => escaped.push(ch),
        }
    }
    escaped.push('"');
    out.put(&escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Sink for String {
        fn put(&mut self, text: &str) -> Result<(), minijinja::Error> {
            self.push_str(text);
            Ok(())
        }
    }

    fn written(json: &str) -> (String, String, String) {
        let value =
            Value::from(minijinja::value::Serde(serde_json::from_str::<serde_json::Value>(json).unwrap()));
        let (mut text, mut line, mut lines) = (String::new(), String::new(), String::new());
        write_str(&value, &mut text).unwrap();
        write_json(&value, &JsonStyle::new(None), 0, &mut line).unwrap();
        write_json(&value, &JsonStyle::new(Some(2)), 0, &mut lines).unwrap();
        (text, line, lines)
    }

    #[test]
    fn as_python_writes() {
        let (text, line, lines) = written(r#"{"b":[true,null,1,2.0],"a":"it's \"é\"\n"}"#);
        assert_eq!(text, r#"{'b': [True, None, 1, 2.0], 'a': 'it\'s "é"\n'}"#);
        assert_eq!(line, r#"{"b": [true, null, 1, 2.0], "a": "it's \"é\"\n"}"#);
        assert_eq!(
            lines,
            "{\n  \"b\": [\n    true,\n    null,\n    1,\n    2.0\n  ],\n  \"a\": \"it's \\\"é\\\"\\n\"\n}"
        );
        assert_eq!(written("[]").2, "[]");
        assert_eq!(written("\"a'b\"").0, "a'b");
        assert_eq!(written("[\"a'b\"]").0, "[\"a'b\"]");
    }

    #[test]
    fn floats_as_python_writes_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (-1.5, "-1.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e-7, "1.25e-07"),
            (1e-4, "0.0001"),
            (1e300, "1e+300"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}
