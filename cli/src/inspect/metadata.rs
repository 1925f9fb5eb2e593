//! The metadata of a GGUF: every key with its type and its value, as JSON in full or as text in which long values are shortened.

use bitnetc_frontend_gguf::{Array, Entry, Value};
use serde_json::{Value as Json, json};

use super::safe;

/// Elements of an array that the text shows.
const ELEMENTS: usize = 6;
/// Characters of a string that the text shows.
const CHARACTERS: usize = 100;
/// Characters of a string in an array that the text shows.
const ELEMENT_CHARACTERS: usize = 24;

/// A float as JSON has it; infinities and NaN, which it lacks, as strings.
fn float(x: f64, text: String) -> Json {
    if x.is_finite() { json!(x) } else { Json::String(text) }
}

fn value(value: &Value<'_>) -> Json {
    match value {
        Value::U8(n) => json!(n),
        Value::I8(n) => json!(n),
        Value::U16(n) => json!(n),
        Value::I16(n) => json!(n),
        Value::U32(n) => json!(n),
        Value::I32(n) => json!(n),
        Value::U64(n) => json!(n),
        Value::I64(n) => json!(n),
        // The shortest decimal that is this f32, not the one of the f64 that it becomes.
        Value::F32(x) => float(x.to_string().parse().unwrap_or_else(|_| f64::from(*x)), x.to_string()),
        Value::F64(x) => float(*x, x.to_string()),
        Value::Bool(b) => json!(b),
        Value::String(text) => json!(text),
        Value::Array(array) => array.values().map(|element| self::value(&element)).collect(),
    }
}

/// All entries in full, in file order.
pub(super) fn json(entries: &[Entry<'_>]) -> Json {
    let one = |entry: &Entry<'_>| json!({ "key": entry.key, "type": entry.value.type_name(), "value": value(&entry.value) });
    entries.iter().map(one).collect()
}

/// At most `most` characters of a string in quotation marks, escaped.
fn string(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => format!("\"{}\"", safe(text)),
        Some((end, _)) => {
            format!("\"{}…\" ({} bytes)", safe(text.get(..end).unwrap_or_default()), text.len())
        }
    }
}

fn shown(value: &Value<'_>, most: usize) -> String {
    match value {
        Value::String(text) => string(text, most),
        Value::Array(array) => list(array),
        other => match self::value(other) {
            Json::String(text) => text,
            number => number.to_string(),
        },
    }
}

/// The first elements of an array, and how many there are.
fn list(array: &Array<'_>) -> String {
    let mut parts: Vec<String> =
        array.values().take(ELEMENTS).map(|element| shown(&element, ELEMENT_CHARACTERS)).collect();
    if array.len() > ELEMENTS {
        parts.push("…".to_owned());
    }
    let number = match array.len() {
        0..=ELEMENTS => String::new(),
        n => format!(" ({n} elements)"),
    };
    format!("[{}]{number}", parts.join(", "))
}

/// A line for each entry, in file order: key, type, shortened value.
pub(super) fn short(entries: &[Entry<'_>]) -> Json {
    let keys: Vec<String> = entries.iter().map(|entry| safe(entry.key)).collect();
    let types: Vec<String> = entries.iter().map(|entry| entry.value.type_name()).collect();
    let widest = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).min(48);
    let (key_width, type_width) = (widest(&keys), widest(&types));
    let mut text = String::new();
    for ((entry, key), ty) in entries.iter().zip(&keys).zip(&types) {
        let value = shown(&entry.value, CHARACTERS);
        text += &format!("  {key:<key_width$}  {ty:<type_width$}  {value}\n");
    }
    Json::String(text)
}
