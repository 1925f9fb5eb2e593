//! Keywords that make one part of a schema depend on another: `not`, `if`, `dependentRequired`, `dependentSchemas`.
//!
//! The engine knows alternatives and no negation, so a condition is supported as far as its negation can be written down.

use serde_json::{Map, Value, json};

use super::index::Located;
use super::lower::{Lowering, TYPES, nothing};
use super::{ORIGIN, Pointer, SchemaError};

/// Adds what the conditions of a schema mean to `also`.
pub(super) fn lower<'s>(
    lowering: &mut Lowering<'_, 's>,
    located: &Located<'s>,
    map: &'s Map<String, Value>,
    also: &mut Vec<Value>,
) -> Result<(), SchemaError> {
    let at = &located.at;
    if let Some(schema) = map.get("not") {
        let at = at.child("not");
        let lowered = lowering.child(located, at.clone(), schema)?;
        also.push(negation(&lowered, &at)?);
    }
    if map.contains_key("then") || map.contains_key("else") {
        also.extend(lower_if(lowering, located, map)?);
    }
    for key in ["dependentRequired", "dependentSchemas", "dependencies"] {
        let Some(entries) = map.get(key) else { continue };
        let at = at.child(key);
        let entries = entries.as_object().ok_or_else(|| at.wrong(format!("{key} must be an object")))?;
        for (name, value) in entries {
            let without = json!({ "properties": { name: false } });
            let with = match value {
                Value::Array(names) if names.iter().all(Value::is_string) => {
                    let mut names = names.clone();
                    names.push(Value::from(name.as_str()));
                    json!({ "required": names })
                }
                _ => {
                    let lowered = lowering.child(located, at.child(name), value)?;
                    json!({ "allOf": [{ "required": [name] }, lowered] })
                }
            };
            lowering.charge(3)?;
            also.push(json!({ "anyOf": [without, with] }));
        }
    }
    Ok(())
}

fn lower_if<'s>(
    lowering: &mut Lowering<'_, 's>,
    located: &Located<'s>,
    map: &'s Map<String, Value>,
) -> Result<Option<Value>, SchemaError> {
    let Some(condition) = map.get("if") else { return Ok(None) };
    let mut part = |key: &str, schema: Option<&'s Value>| match schema {
        Some(schema) => lowering.child(located, located.at.child(key), schema),
        None => Ok(Value::Bool(true)),
    };
    let condition = part("if", Some(condition))?;
    let (then, otherwise) = (part("then", map.get("then"))?, part("else", map.get("else"))?);
    lowering.charge(4)?;
    let not = negation(&condition, &located.at.child("if"))?;
    Ok(Some(json!({ "anyOf": [{ "allOf": [condition, then] }, { "allOf": [not, otherwise] }] })))
}

/// What a schema forbids.
fn negation(schema: &Value, at: &Pointer) -> Result<Value, SchemaError> {
    let unsupported = || {
        let what = "the negation of a schema is supported for true, false, type, enum and const of true, false and null, \
                    required, and properties with these: say what is allowed instead";
        Err(at.unsupported(what))
    };
    let map = match schema {
        Value::Bool(all) => return Ok(Value::Bool(!all)),
        Value::Object(map) => map,
        _ => return unsupported(),
    };
    let mut against = Vec::new();
    for (key, value) in map.iter().filter(|(key, _)| *key != ORIGIN) {
        match (key.as_str(), value) {
            ("type", types) => match other_types(types) {
                Some(others) => against.push(others),
                None => return unsupported(),
            },
            ("const", Value::Null | Value::Bool(_)) => against.push(other_constants(std::slice::from_ref(value))),
            ("enum", Value::Array(values)) if values.iter().all(|value| value.is_null() || value.is_boolean()) => {
                against.push(other_constants(values));
            }
            ("required", Value::Array(names)) => {
                for name in names.iter().filter_map(Value::as_str) {
                    against.push(json!({ "type": "object", "properties": { name: false } }));
                }
            }
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    let not = negation(property, at)?;
                    if not != nothing() {
                        against.push(json!({ "type": "object", "properties": { name: not }, "required": [name] }));
                    }
                }
            }
            ("allOf", Value::Array(all)) => {
                for schema in all {
                    against.push(negation(schema, at)?);
                }
            }
            ("anyOf", Value::Array(any)) => {
                let all: Result<Vec<Value>, _> = any.iter().map(|schema| negation(schema, at)).collect();
                against.push(json!({ "allOf": all? }));
            }
            _ => return unsupported(),
        }
    }
    against.retain(|schema| *schema != nothing());
    Ok(match against.len() {
        0 => nothing(),
        _ => json!({ "anyOf": against }),
    })
}

/// All types but these. There is no way to say "a number that is no integer".
fn other_types(types: &Value) -> Option<Value> {
    let named = |name: &str| super::lower::names_type(types, name);
    if named("integer") && !named("number") {
        return None;
    }
    let others = TYPES.into_iter().filter(|&name| !named(name) && name != "integer");
    let others: Vec<&str> = others.collect();
    Some(match others.is_empty() {
        true => nothing(),
        false => json!({ "type": others }),
    })
}

/// All values but these, which are null, true or false.
fn other_constants(values: &[Value]) -> Value {
    let rest = [Value::Null, Value::Bool(true), Value::Bool(false)];
    let rest: Vec<Value> = rest.into_iter().filter(|value| !values.contains(value)).collect();
    let mut any = vec![json!({ "type": ["number", "string", "array", "object"] })];
    if !rest.is_empty() {
        any.push(json!({ "enum": rest }));
    }
    json!({ "anyOf": any })
}
