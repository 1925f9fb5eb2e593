//! Checks of a rewritten schema as a whole: references that lead back to themselves, and parts without a finite text.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::alternatives::inner_mut;
use super::{ORIGIN, SchemaError};

/// Where a rewritten schema comes from.
fn origin(schema: &Value) -> String {
    schema.get(ORIGIN).and_then(Value::as_str).unwrap_or("#").to_owned()
}

/// The name of the definition that a schema refers to.
fn target(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// The schemas that hold for the same value as this one.
fn in_place(schema: &Value) -> impl Iterator<Item = &Value> {
    ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten()
}

/// Makes definitions that no finite text satisfies false.
///
/// # Errors
/// References in a circle with nothing between them; a schema without any finite text.
pub(super) fn cut_empty(document: &mut Value) -> Result<(), SchemaError> {
    let definitions = document.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    refuse_circles(&definitions)?;
    let mut finite: HashMap<&str, bool> = definitions.keys().map(|name| (name.as_str(), false)).collect();
    loop {
        let before = finite.clone();
        for (name, schema) in &definitions {
            let ends = before[name.as_str()] || is_finite(schema, &finite);
            finite.insert(name.as_str(), ends);
        }
        if before == finite {
            break;
        }
    }
    if !is_finite(document, &finite) {
        let what = format!("what {} requires never comes to an end", origin(document));
        return Err(SchemaError::Empty { what });
    }
    let empty: Vec<&str> = finite.iter().filter(|(_, ends)| !**ends).map(|(name, _)| *name).collect();
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

/// Refuses definitions that hold for the same value as themselves.
fn refuse_circles(definitions: &Map<String, Value>) -> Result<(), SchemaError> {
    let mut names: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, schema) in definitions {
        let (mut stack, mut found) = (vec![schema], Vec::new());
        while let Some(schema) = stack.pop() {
            found.extend(target(schema));
            stack.extend(in_place(schema));
        }
        names.insert(name, found);
    }
    // Definitions that lead to nothing are taken away until none is left, or all that are left lead to each other.
    loop {
        let left = names.len();
        let known: Vec<&str> = names.keys().copied().collect();
        names.retain(|_, to| to.iter().any(|name| known.contains(name)));
        if names.is_empty() {
            return Ok(());
        }
        if names.len() == left {
            let first = definitions.iter().find(|(name, _)| names.contains_key(name.as_str()));
            let at = first.map_or_else(|| "#".to_owned(), |(_, schema)| origin(schema));
            let what = "its references lead back to itself with nothing between them".to_owned();
            return Err(SchemaError::Unsupported { at, what });
        }
    }
}

/// Whether a schema has a finite text, as far as is known of the definitions. Only what a text must have counts.
fn is_finite(schema: &Value, finite: &HashMap<&str, bool>) -> bool {
    let Some(map) = schema.as_object() else { return *schema != Value::Bool(false) };
    if target(schema).is_some_and(|name| !finite.get(name).copied().unwrap_or(false)) {
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
