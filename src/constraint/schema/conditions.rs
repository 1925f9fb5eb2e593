//! Keywords that make one part of a schema depend on another: `not`, `if`, `dependentRequired`, `dependentSchemas`.
//!
//! The engine knows alternatives and no negation, so a condition is supported as far as its negation can be written down.

use serde_json::{Map, Value, json};

use super::index::Located;
use super::lower::{Lowering, TYPES, nothing};
use super::{ORIGIN, Pointer, SchemaError};

/// Longest text that a pattern for all others is made of.
const MAX_TEXT: usize = 40;

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
pub(super) fn negation(schema: &Value, at: &Pointer) -> Result<Value, SchemaError> {
    let unsupported = || {
        let what = "this cannot be negated: conditions are supported with type, const, enum, required, limits, and properties, \
                    allOf and anyOf of these";
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
            ("const", _) => match other_constants(std::slice::from_ref(value)) {
                Some(others) => against.push(others),
                None => return unsupported(),
            },
            ("enum", Value::Array(values)) => match other_constants(values) {
                Some(others) => against.push(others),
                None => return unsupported(),
            },
            (_, Value::Number(limit)) => match beyond(key, limit) {
                Some(others) => against.push(others),
                None => return unsupported(),
            },
            ("required", Value::Array(names)) => {
                for name in names.iter().filter_map(Value::as_str) {
                    against.push(json!({ "type": "object", "properties": { name: false } }));
                }
            }
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    let not = negation(property, at)?;
                    if not != nothing() {
                        against.push(
                            json!({ "type": "object", "properties": { name: not }, "required": [name] }),
                        );
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

/// All values but these. Constants that are lists or objects have no negation.
fn other_constants(values: &[Value]) -> Option<Value> {
    if values.iter().any(|value| value.is_array() || value.is_object()) {
        return None;
    }
    let rest = [Value::Null, Value::Bool(true), Value::Bool(false)];
    let rest: Vec<Value> = rest.into_iter().filter(|value| !values.contains(value)).collect();
    let mut any = vec![json!({ "type": ["array", "object"] })];
    if !rest.is_empty() {
        any.push(json!({ "enum": rest }));
    }
    let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
    any.push(match texts.is_empty() {
        true => json!({ "type": "string" }),
        false => json!({ "type": "string", "pattern": format!("^(?:{})$", other_texts(&texts, 0)?) }),
    });
    let mut numbers: Vec<&Value> = values.iter().filter(|value| value.is_number()).collect();
    numbers.sort_by(|a, b| a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(std::cmp::Ordering::Equal));
    let ends = std::iter::once(None).chain(numbers.iter().copied().map(Some)).chain([None]);
    let ends: Vec<Option<&Value>> = ends.collect();
    for between in ends.windows(2) {
        let mut range = json!({ "type": "number" });
        for (key, limit) in ["exclusiveMinimum", "exclusiveMaximum"].into_iter().zip(between) {
            if let Some(limit) = limit {
                range[key] = (*limit).clone();
            }
        }
        any.push(range);
    }
    Some(json!({ "anyOf": any }))
}

/// A pattern for all texts but these.
fn other_texts(texts: &[&str], depth: usize) -> Option<String> {
    if depth > MAX_TEXT {
        return None;
    }
    let mut firsts: Vec<char> = texts.iter().filter_map(|text| text.chars().next()).collect();
    firsts.sort_unstable();
    firsts.dedup();
    let class: String = firsts.iter().map(|&c| format!("\\x{{{:X}}}", c as u32)).collect();
    let mut forms = Vec::new();
    if !texts.iter().any(|text| text.is_empty()) {
        forms.push(String::new());
    }
    forms.push(match class.is_empty() {
        true => "(?s:.+)".to_owned(),
        false => format!("[^{class}](?s:.*)"),
    });
    for first in firsts {
        let rests: Vec<&str> = texts.iter().filter_map(|text| text.strip_prefix(first)).collect();
        forms.push(format!("\\x{{{:X}}}(?:{})", first as u32, other_texts(&rests, depth + 1)?));
    }
    Some(forms.join("|"))
}

/// What is beyond a limit.
fn beyond(key: &str, limit: &serde_json::Number) -> Option<Value> {
    let over = |kind: &str, key: &str, limit: Value| Some(json!({ "type": kind, key: limit }));
    let exact = || Value::Number(limit.clone());
    let count = limit.as_u64();
    let under = |kind: &str, key: &str| match count? {
        0 => Some(nothing()),
        n => over(kind, key, Value::from(n - 1)),
    };
    let above = |kind: &str, key: &str| over(kind, key, Value::from(count? + 1));
    match key {
        "minimum" => over("number", "exclusiveMaximum", exact()),
        "maximum" => over("number", "exclusiveMinimum", exact()),
        "exclusiveMinimum" => over("number", "maximum", exact()),
        "exclusiveMaximum" => over("number", "minimum", exact()),
        "minLength" => under("string", "maxLength"),
        "maxLength" => above("string", "minLength"),
        "minItems" => under("array", "maxItems"),
        "maxItems" => above("array", "minItems"),
        "minProperties" => under("object", "maxProperties"),
        "maxProperties" => above("object", "minProperties"),
        _ => None,
    }
}
