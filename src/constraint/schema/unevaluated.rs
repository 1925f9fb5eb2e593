//! `unevaluatedProperties` and `unevaluatedItems`: what no other keyword of a schema has looked at.
//!
//! Which properties these are depends on the text where alternatives stand beside them. Where nothing but `allOf` and `$ref`
//! does, they are known from the schema, and a closed list of names says the same.

use serde_json::{Map, Value, json};

use super::index::Located;
use super::lower::Lowering;
use super::{MAX_SCHEMAS, Pointer, SchemaError};

/// Keywords whose parts count or not, depending on the text.
const DEPENDS: [&str; 8] =
    ["anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef", "contains"];

/// What a schema and those that hold besides look at.
#[derive(Default)]
struct Seen {
    names: Map<String, Value>,
    patterns: Map<String, Value>,
    /// Items from the first on.
    items: usize,
    all_properties: bool,
    all_items: bool,
}

/// Rewrites both keywords of a schema.
pub(super) fn lower<'s>(
    lowering: &mut Lowering<'_, 's>,
    located: &Located<'s>,
    map: &'s Map<String, Value>,
    out: &mut Map<String, Value>,
    also: &mut Vec<Value>,
) -> Result<(), SchemaError> {
    for (key, kind) in [("unevaluatedProperties", "object"), ("unevaluatedItems", "array")] {
        let Some(schema) = map.get(key).filter(|schema| **schema != Value::Bool(true)) else { continue };
        if out.get("type").is_some_and(|types| !super::lower::names_type(types, kind)) {
            continue;
        }
        let at = located.at.child(key);
        let schema = lowering.child(located, at.clone(), schema)?;
        let mut seen = Seen::default();
        let mut visits = 0;
        collect(lowering, located, &mut seen, &at, &mut visits)?;
        if key == "unevaluatedProperties" && !seen.all_properties {
            let Seen { names, patterns, .. } = seen;
            let mut closed = Map::new();
            for (keyword, schemas) in [("properties", names), ("patternProperties", patterns)] {
                if !schemas.is_empty() {
                    closed.insert(keyword.to_owned(), Value::Object(schemas));
                }
            }
            closed.insert("additionalProperties".to_owned(), schema);
            also.push(Value::Object(closed));
        } else if key == "unevaluatedItems" && !seen.all_items {
            let prefix = vec![Value::Bool(true); seen.items];
            also.push(match prefix.is_empty() {
                true => json!({ "items": schema }),
                false => json!({ "prefixItems": prefix, "items": schema }),
            });
        }
    }
    Ok(())
}

fn collect<'s>(
    lowering: &Lowering<'_, 's>,
    located: &Located<'s>,
    seen: &mut Seen,
    at: &Pointer,
    visits: &mut usize,
) -> Result<(), SchemaError> {
    *visits += 1;
    if *visits > MAX_SCHEMAS.min(500) {
        return Err(at.unsupported("too many schemas hold besides"));
    }
    let Some(map) = located.schema.as_object() else { return Ok(()) };
    if let Some(key) = DEPENDS.into_iter().find(|key| map.contains_key(*key)) {
        return Err(
            at.unsupported(format!("it is not supported together with {key}: name all properties or items"))
        );
    }
    for (key, into) in [("properties", &mut seen.names), ("patternProperties", &mut seen.patterns)] {
        for name in map.get(key).and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            into.insert(name.clone(), Value::Bool(true));
        }
    }
    let nested = visits > &mut 1;
    seen.all_properties |=
        map.contains_key("additionalProperties") || (nested && map.contains_key("unevaluatedProperties"));
    seen.all_items |= map.get("items").is_some_and(|items| !items.is_array())
        || map.contains_key("additionalItems")
        || (nested && map.contains_key("unevaluatedItems"));
    for key in ["prefixItems", "items"] {
        seen.items = seen.items.max(map.get(key).and_then(Value::as_array).map_or(0, Vec::len));
    }
    if let Some(target) =
        map.get("$ref").and_then(Value::as_str).and_then(|to| lowering.index.find(located, to))
    {
        collect(lowering, &target, seen, at, visits)?;
    }
    for (number, schema) in map.get("allOf").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let inner = located.inside(located.at.child("allOf").item(number), schema);
        collect(lowering, &inner, seen, at, visits)?;
    }
    Ok(())
}
