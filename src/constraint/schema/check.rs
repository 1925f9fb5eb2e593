//! Checks of a rewritten schema as a whole: references that lead back to themselves, and parts without a finite text.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::inside::{inner, inner_mut};
use super::{SchemaError, origin};

/// Where a schema comes from, for messages.
fn shown(schema: &Value) -> String {
    origin(schema).unwrap_or("#").to_owned()
}

/// The name of the definition that a schema refers to.
fn target(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// The schemas that hold for the same value as this one.
fn in_place(schema: &Value) -> impl Iterator<Item = &Value> {
    ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten()
}

/// The definitions that a schema refers to: all of them, or those that hold for the same value.
fn targets(schema: &Value, only_in_place: bool) -> Vec<&str> {
    let (mut stack, mut found) = (vec![schema], Vec::new());
    while let Some(schema) = stack.pop() {
        found.extend(target(schema));
        match only_in_place {
            true => stack.extend(in_place(schema)),
            false => stack.extend(inner(schema)),
        }
    }
    found
}

/// Makes definitions that no finite text satisfies false.
///
/// # Errors
/// References in a circle with nothing between them; a schema without any finite text.
pub(super) fn cut_empty(document: &mut Value) -> Result<(), SchemaError> {
    let definitions = document.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    let settled = settle(&definitions, true, |schema, settled| {
        targets(schema, true).iter().all(|name| settled.contains(name))
    });
    if let Some((_, schema)) = definitions.iter().find(|(name, _)| !settled.contains(name.as_str())) {
        let what = "its references lead back to itself with nothing between them".to_owned();
        return Err(SchemaError::Unsupported { at: shown(schema), what });
    }
    let finite = settle(&definitions, false, |schema, finite| is_finite(schema, finite));
    if !is_finite(document, &finite) {
        let what = format!("what {} requires never comes to an end", shown(document));
        return Err(SchemaError::Empty { what });
    }
    let empty: Vec<&str> =
        definitions.keys().map(String::as_str).filter(|name| !finite.contains(name)).collect();
    if empty.is_empty() {
        return Ok(());
    }
    if let Some(known) = document.get_mut("$defs").and_then(Value::as_object_mut) {
        known.retain(|name, _| !empty.contains(&name.as_str()));
        known.values_mut().for_each(|schema| cut(schema, &empty));
    }
    cut(document, &empty);
    Ok(())
}

/// The definitions of which `holds` says so, given those of which it has. Each is asked again when one that it refers to
/// is found.
fn settle<'d>(
    definitions: &'d Map<String, Value>,
    only_in_place: bool,
    holds: impl Fn(&Value, &HashSet<&'d str>) -> bool,
) -> HashSet<&'d str> {
    let mut named_by: HashMap<&str, Vec<&'d str>> = HashMap::new();
    for (name, schema) in definitions {
        for target in targets(schema, only_in_place) {
            named_by.entry(target).or_default().push(name);
        }
    }
    let mut settled = HashSet::new();
    let mut waiting: Vec<&'d str> = definitions.keys().map(String::as_str).collect();
    while let Some(name) = waiting.pop() {
        let Some(schema) = definitions.get(name).filter(|_| !settled.contains(name)) else { continue };
        if holds(schema, &settled) {
            settled.insert(name);
            waiting.extend(named_by.get(name).into_iter().flatten());
        }
    }
    settled
}

/// Puts false in the place of references to what has no finite text, and takes out alternatives that become false.
fn cut(schema: &mut Value, empty: &[&str]) {
    if target(schema).is_some_and(|name| empty.contains(&name)) {
        *schema = Value::Bool(false);
    }
    let Value::Object(map) = schema else { return };
    inner_mut(map).for_each(|inner| cut(inner, empty));
    let mut none = matches!(map.get("allOf"), Some(Value::Array(all)) if all.contains(&Value::Bool(false)));
    for key in ["anyOf", "oneOf"] {
        if let Some(Value::Array(any)) = map.get_mut(key) {
            any.retain(|option| *option != Value::Bool(false));
            none |= any.is_empty();
        }
    }
    if none {
        *schema = Value::Bool(false);
    }
}

/// Whether a schema has a finite text, as far as is known of the definitions. Only what a text must have counts.
fn is_finite(schema: &Value, finite: &HashSet<&str>) -> bool {
    let Some(map) = schema.as_object() else { return *schema != Value::Bool(false) };
    if target(schema).is_some_and(|name| !finite.contains(name)) {
        return false;
    }
    let list = |key: &str| map.get(key).and_then(Value::as_array).map(Vec::as_slice);
    let all = list("allOf").unwrap_or_default().iter().all(|schema| is_finite(schema, finite));
    let any = ["anyOf", "oneOf"].into_iter().filter_map(list);
    if !all || !any.into_iter().all(|list| list.iter().any(|schema| is_finite(schema, finite))) {
        return false;
    }
    match map.get("type").and_then(Value::as_str) {
        Some("object") => {
            let properties = map.get("properties");
            let required = list("required").unwrap_or_default().iter().filter_map(Value::as_str);
            required.filter_map(|name| properties?.get(name)).all(|schema| is_finite(schema, finite))
        }
        Some("array") => {
            let min = map.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
            let prefix = list("prefixItems").unwrap_or_default();
            let more = map.get("items").filter(|_| min > prefix.len());
            prefix.iter().take(min).chain(more).all(|schema| is_finite(schema, finite))
        }
        _ => true,
    }
}
