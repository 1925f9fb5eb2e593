//! `oneOf`: exactly one of its schemas holds.
//!
//! Where no two of them can hold at once, `anyOf` says the same. Otherwise each is put together with the negation of the
//! others, as far as that can be written down.

use serde_json::{Map, Value, json};

use super::conditions::negation;
use super::inside::inner_mut;
use super::lower::names_type;
use super::{ORIGIN, Pointer, SchemaError};

/// How deep schemas are compared.
const MAX_DEPTH: u32 = 8;
/// Most alternatives that are put together with the negation of the others.
const MAX_NEGATED: usize = 16;

/// Rewrites every `oneOf` of a document.
pub(super) fn rewrite(document: &mut Value) -> Result<(), SchemaError> {
    let definitions = document.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    for schema in
        document.get_mut("$defs").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
    {
        rewrite_schema(schema, &definitions)?;
    }
    rewrite_schema(document, &definitions)
}

fn rewrite_schema(schema: &mut Value, definitions: &Map<String, Value>) -> Result<(), SchemaError> {
    let Value::Object(map) = schema else { return Ok(()) };
    inner_mut(map).try_for_each(|inner| rewrite_schema(inner, definitions))?;
    let Some(Value::Array(options)) = map.shift_remove("oneOf") else { return Ok(()) };
    let apart = options
        .iter()
        .enumerate()
        .all(|(number, a)| options.iter().skip(number + 1).all(|b| disjoint(a, b, definitions, MAX_DEPTH)));
    let any = if apart { options } else { without_the_others(&options, map)? };
    // `anyOf` may be there already.
    match map.get("anyOf") {
        None => drop(map.insert("anyOf".to_owned(), Value::Array(any))),
        Some(_) => {
            let mut all = match map.shift_remove("allOf") {
                Some(Value::Array(all)) => all,
                _ => Vec::new(),
            };
            all.push(json!({ "anyOf": any }));
            map.insert("allOf".to_owned(), Value::Array(all));
        }
    }
    Ok(())
}

fn without_the_others(options: &[Value], map: &Map<String, Value>) -> Result<Vec<Value>, SchemaError> {
    let origin = map.get(ORIGIN).and_then(Value::as_str).unwrap_or("#");
    let at = Pointer(format!("{}/oneOf", origin.trim_start_matches('#')));
    let refuse = |_| {
        let what = "its alternatives may hold at once, which is not supported: use anyOf, or give each a required property \
                    with a const of its own";
        at.unsupported(what)
    };
    if options.len() > MAX_NEGATED {
        return Err(refuse(()));
    }
    let not: Result<Vec<Value>, SchemaError> = options.iter().map(|option| negation(option, &at)).collect();
    let not = not.map_err(|_| refuse(()))?;
    let one = |number: usize| {
        let others = not.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, not)| not);
        let all: Vec<&Value> = std::iter::once(&options[number]).chain(others).collect();
        json!({ "allOf": all })
    };
    Ok((0..options.len()).map(one).collect())
}

/// Follows references that stand alone.
fn resolved<'v>(mut schema: &'v Value, definitions: &'v Map<String, Value>) -> &'v Value {
    for _ in 0..MAX_DEPTH {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix("#/$defs/"));
        match target.and_then(|name| definitions.get(name)) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

/// The values that a schema allows by name.
fn constants(schema: &Value) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(one), _) => Some(vec![one]),
        (None, Some(Value::Array(list))) => Some(list.iter().collect()),
        _ => None,
    }
}

/// The name of a value's type in a schema; that of numbers is `number`, whole ones too.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether values of a type may satisfy a schema.
fn may_be(schema: &Value, name: &str) -> bool {
    let named = schema
        .get("type")
        .is_none_or(|types| names_type(types, name) || (name == "number" && names_type(types, "integer")));
    named && constants(schema).is_none_or(|values| values.iter().any(|value| type_of(value) == name))
}

/// Whether two values are certainly not the same. Numbers are compared as numbers.
fn differ(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() != b.as_f64(),
        (Value::String(a), Value::String(b)) => a != b,
        _ => type_of(a) != type_of(b) || (!a.is_array() && !a.is_object() && a != b),
    }
}

/// Whether no value can satisfy both schemas, as far as that is seen easily.
fn disjoint(a: &Value, b: &Value, definitions: &Map<String, Value>, depth: u32) -> bool {
    let (a, b) = (resolved(a, definitions), resolved(b, definitions));
    if *a == Value::Bool(false) || *b == Value::Bool(false) {
        return true;
    }
    if depth == 0 {
        return false;
    }
    let shared: Vec<&str> = ["null", "boolean", "number", "string", "array", "object"]
        .into_iter()
        .filter(|name| may_be(a, name) && may_be(b, name))
        .collect();
    if shared.is_empty() {
        return true;
    }
    if let (Some(a), Some(b)) = (constants(a), constants(b))
        && a.iter().all(|a| b.iter().all(|b| differ(a, b)))
    {
        return true;
    }
    let inside = |x: &Value, y: &Value| {
        let list = |key: &str| x.get(key).and_then(Value::as_array).map(Vec::as_slice);
        list("allOf").unwrap_or_default().iter().any(|part| disjoint(part, y, definitions, depth - 1))
            || list("anyOf")
                .is_some_and(|any| any.iter().all(|part| disjoint(part, y, definitions, depth - 1)))
    };
    if inside(a, b) || inside(b, a) {
        return true;
    }
    let told = |x: &Value, y: &Value| {
        let required = x.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        required.iter().filter_map(Value::as_str).any(|name| {
            let property = |schema: &Value| schema.get("properties").and_then(|all| all.get(name)).cloned();
            match (property(x), property(y)) {
                (Some(x), Some(y)) => disjoint(&x, &y, definitions, depth - 1),
                (None, Some(y)) => y == Value::Bool(false),
                (_, None) => {
                    y.get("additionalProperties") == Some(&Value::Bool(false))
                        && y.get("patternProperties").is_none()
                }
            }
        })
    };
    shared == ["object"] && (told(a, b) || told(b, a))
}
