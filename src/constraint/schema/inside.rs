//! The schemas right inside of a rewritten schema, where only some keywords are left.

use serde_json::{Map, Value};

/// To read them.
pub(super) fn inner(schema: &Value) -> impl Iterator<Item = &Value> {
    let entries = schema.as_object().into_iter().flatten();
    entries.flat_map(|(key, value)| -> Box<dyn Iterator<Item = &Value>> {
        match (key.as_str(), value) {
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(list)) => Box::new(list.iter()),
            ("properties" | "patternProperties", Value::Object(schemas)) => Box::new(schemas.values()),
            ("items" | "additionalProperties", schema) => Box::new(std::iter::once(schema)),
            _ => Box::new(std::iter::empty()),
        }
    })
}

/// To change them.
pub(super) fn inner_mut(map: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    map.iter_mut().flat_map(|(key, value)| -> Box<dyn Iterator<Item = &mut Value>> {
        match (key.as_str(), value) {
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(list)) => Box::new(list.iter_mut()),
            ("properties" | "patternProperties", Value::Object(schemas)) => Box::new(schemas.values_mut()),
            ("items" | "additionalProperties", schema) => Box::new(std::iter::once(schema)),
            _ => Box::new(std::iter::empty()),
        }
    })
}
