//! What references can mean: the resources (`$id`) and anchors of a document.

use std::collections::HashMap;

use serde_json::Value;

use super::uri::{resolve, unescape};
use super::{MAX_SCHEMAS, Pointer, SchemaError};

/// Keywords with one schema.
const ONE: [&str; 12] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords with a list of schemas.
const LIST: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
/// Keywords with schemas by name.
const MAP: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

/// A schema in its document.
#[derive(Debug, Clone)]
pub(super) struct Located<'s> {
    pub(super) schema: &'s Value,
    pub(super) at: Pointer,
    /// What relative references are relative to.
    pub(super) base: String,
}

impl<'s> Located<'s> {
    /// A schema right inside of this one. Its base is its own where it has an `$id`.
    pub(super) fn inside(&self, at: Pointer, schema: &'s Value) -> Self {
        let id = schema.get("$id").and_then(Value::as_str).map(|id| id.split('#').next().unwrap_or_default());
        let base = match id {
            Some(id) if !id.is_empty() => resolve(&self.base, id),
            _ => self.base.clone(),
        };
        Self { schema, at, base }
    }
}

/// The schemas that references can name.
#[derive(Debug)]
pub(super) struct Index<'s> {
    root: Located<'s>,
    resources: HashMap<String, Located<'s>>,
    /// By base and name.
    anchors: HashMap<(String, String), Located<'s>>,
    /// How many schemas have a dynamic anchor of a name.
    dynamic: HashMap<String, usize>,
    bases: HashMap<Pointer, String>,
}

impl<'s> Index<'s> {
    pub(super) fn new(root: &'s Value) -> Result<Self, SchemaError> {
        let outside = Located { schema: root, at: Pointer::default(), base: String::new() };
        let root = outside.inside(Pointer::default(), root);
        let mut index = Self {
            root: root.clone(),
            resources: HashMap::from([(String::new(), root.clone()), (root.base.clone(), root.clone())]),
            anchors: HashMap::new(),
            dynamic: HashMap::new(),
            bases: HashMap::new(),
        };
        let mut waiting = vec![root];
        while let Some(located) = waiting.pop() {
            if index.bases.len() > MAX_SCHEMAS {
                return Err(SchemaError::TooLarge { unit: "schemas inside of it", most: MAX_SCHEMAS });
            }
            index.enter(&located);
            for (at, schema) in subschemas(&located) {
                waiting.push(located.inside(at, schema));
            }
        }
        Ok(index)
    }

    fn enter(&mut self, located: &Located<'s>) {
        self.bases.insert(located.at.clone(), located.base.clone());
        if located.schema.get("$id").is_some_and(Value::is_string) {
            self.resources.entry(located.base.clone()).or_insert_with(|| located.clone());
        }
        for keyword in ["$anchor", "$dynamicAnchor"] {
            if let Some(name) = located.schema.get(keyword).and_then(Value::as_str) {
                self.anchors.insert((located.base.clone(), name.to_owned()), located.clone());
                if keyword == "$dynamicAnchor" {
                    *self.dynamic.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
    }

    /// The whole document.
    pub(super) fn root(&self) -> Located<'s> {
        self.root.clone()
    }

    /// How many schemas have a dynamic anchor of this name.
    pub(super) fn dynamic_anchors(&self, name: &str) -> usize {
        self.dynamic.get(name).copied().unwrap_or(0)
    }

    /// What a reference of a schema names; nothing where there is no such schema in this document.
    pub(super) fn find(&self, from: &Located<'_>, reference: &str) -> Option<Located<'s>> {
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let resource = self.resources.get(&resolve(&from.base, uri))?;
        let fragment = unescape(fragment)?;
        if fragment.is_empty() {
            return Some(resource.clone());
        }
        match fragment.strip_prefix('/') {
            Some(pointer) => self.walk(resource, pointer),
            None => self.anchors.get(&(resource.base.clone(), fragment)).cloned(),
        }
    }

    fn walk(&self, resource: &Located<'s>, pointer: &str) -> Option<Located<'s>> {
        let mut here = resource.clone();
        for segment in pointer.split('/') {
            let key = segment.replace("~1", "/").replace("~0", "~");
            let (schema, at) = match here.schema {
                Value::Object(map) => (map.get(&key)?, here.at.child(&key)),
                Value::Array(list) => {
                    let index: usize = key.parse().ok()?;
                    (list.get(index)?, here.at.item(index))
                }
                _ => return None,
            };
            let base = self.bases.get(&at).cloned().unwrap_or(here.base);
            here = Located { schema, at, base };
        }
        Some(here)
    }
}

/// The schemas right inside of a schema, wherever a keyword has them.
fn subschemas<'s>(located: &Located<'s>) -> Vec<(Pointer, &'s Value)> {
    let mut found = Vec::new();
    let Some(map) = located.schema.as_object() else { return found };
    for (key, value) in map {
        let at = located.at.child(key);
        match value {
            Value::Array(list) if LIST.contains(&key.as_str()) => {
                found.extend(list.iter().enumerate().map(|(number, schema)| (at.item(number), schema)));
            }
            Value::Object(map) if MAP.contains(&key.as_str()) => {
                found.extend(map.iter().map(|(name, schema)| (at.child(name), schema)));
            }
            Value::Object(_) | Value::Bool(_) if ONE.contains(&key.as_str()) => found.push((at, value)),
            _ => {}
        }
    }
    found.retain(|(_, schema)| schema.is_object() || schema.is_boolean());
    found
}
