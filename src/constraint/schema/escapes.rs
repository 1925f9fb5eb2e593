//! Which escapes strings may have.
//!
//! With `\u` a name has several spellings, and one that the engine does not compare: a further property may then be a
//! second spelling of a named one, which has a schema of its own. Without it a control character cannot be written. So
//! `\u` is for schemas whose objects are all closed, and others may not ask for control characters.

use serde_json::{Map, Value};

use super::inside::inner;
use super::pattern::{has_control, is_control};
use super::{ORIGIN, Pointer, SchemaError};

const WITH_U: &str = "nrbtf\\\"u";
const WITHOUT_U: &str = "nrbtf\\\"";

/// The escapes for a rewritten schema, in the engine's notation.
pub(super) fn choose(document: &Value) -> Result<&'static str, SchemaError> {
    let (mut open, mut control) = (false, None);
    let mut stack = vec![(document, "#")];
    while let Some((schema, origin)) = stack.pop() {
        let Some(map) = schema.as_object() else { continue };
        let origin = map.get(ORIGIN).and_then(Value::as_str).unwrap_or(origin);
        let named = ["properties", "patternProperties", "required"].iter().any(|key| map.contains_key(*key));
        open |= named && map.get("additionalProperties") != Some(&Value::Bool(false));
        let patterns = map.get("patternProperties").and_then(Value::as_object);
        let patterns = patterns.into_iter().flat_map(|patterns| patterns.keys().map(String::as_str));
        let mut patterns = patterns.chain(map.get("pattern").and_then(Value::as_str));
        let constants = ["const", "enum"].iter().filter_map(|key| map.get(*key));
        if patterns.any(has_control) || constants.into_iter().any(spells_control) {
            control.get_or_insert(origin);
        }
        let definitions = map.get("$defs").and_then(Value::as_object);
        stack.extend(
            inner(schema).chain(definitions.into_iter().flat_map(Map::values)).map(|inner| (inner, origin)),
        );
    }
    match (open, control) {
        (false, _) => Ok(WITH_U),
        (true, None) => Ok(WITHOUT_U),
        (true, Some(origin)) => {
            let what = "control characters are supported where all objects with properties have additionalProperties: false";
            Err(Pointer(origin.trim_start_matches('#').to_owned()).unsupported(what))
        }
    }
}

/// Whether a constant has a control character without a short escape.
fn spells_control(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(is_control),
        Value::Array(list) => list.iter().any(spells_control),
        // Names are written as they are.
        Value::Object(map) => map.values().any(spells_control),
        _ => false,
    }
}
