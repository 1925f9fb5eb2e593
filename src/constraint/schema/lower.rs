//! The rewriting itself: keyword by keyword, references to definitions.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::super::{MAX_REPETITIONS, repetitions};
use super::index::{Index, Located};
use super::pattern::from_ecma;
use super::{MAX_SCHEMAS, ORIGIN, Pointer, SchemaError, conditions, format, number, unevaluated};

/// What a value can be.
pub(super) const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
/// Counts above this bound nothing: no text gets there.
const MAX_COUNT: u64 = u32::MAX as u64;

/// The state of a rewriting.
pub(super) struct Lowering<'i, 's> {
    pub(super) index: &'i Index<'s>,
    /// Names of definitions by place.
    names: HashMap<Pointer, String>,
    /// Definitions that are still to be made.
    wanted: Vec<(String, Located<'s>)>,
    schemas: usize,
    steps: Vec<f64>,
    repetitions: usize,
}

/// A schema that forbids everything.
pub(super) fn nothing() -> Value {
    Value::Bool(false)
}

impl<'i, 's> Lowering<'i, 's> {
    pub(super) fn new(index: &'i Index<'s>) -> Self {
        Self {
            index,
            names: HashMap::new(),
            wanted: Vec::new(),
            schemas: 0,
            steps: Vec::new(),
            repetitions: 0,
        }
    }

    /// The whole document.
    pub(super) fn document(mut self, schema: &'s Value) -> Result<Value, SchemaError> {
        if let Some(options) = schema.get("x-guidance") {
            let what =
                format!("x-guidance ({options}) is not supported: its options would loosen the schema");
            return Err(Pointer::default().child("x-guidance").unsupported(what));
        }
        let root = self.lower(&self.index.root())?;
        let mut definitions = Map::new();
        while let Some((name, located)) = self.wanted.pop() {
            definitions.insert(name, self.lower(&located)?);
        }
        number::check_steps(&self.steps, &Pointer::default())?;
        let mut document = match root {
            Value::Object(map) => map,
            Value::Bool(false) => return Err(SchemaError::Empty { what: "it is false".to_owned() }),
            _ => Map::new(),
        };
        document.insert("$defs".to_owned(), Value::Object(definitions));
        Ok(Value::Object(document))
    }

    /// A schema inside of another one.
    pub(super) fn child(
        &mut self,
        parent: &Located<'s>,
        at: Pointer,
        schema: &'s Value,
    ) -> Result<Value, SchemaError> {
        self.lower(&parent.inside(at, schema))
    }

    /// A schema.
    pub(super) fn lower(&mut self, located: &Located<'s>) -> Result<Value, SchemaError> {
        self.charge(1)?;
        match located.schema {
            Value::Bool(all) => Ok(Value::Bool(*all)),
            Value::Object(map) => self.lower_object(located, map),
            _ => Err(located.at.wrong("a schema must be an object, true or false")),
        }
    }

    /// Counts schemas that are made.
    pub(super) fn charge(&mut self, schemas: usize) -> Result<(), SchemaError> {
        self.schemas += schemas;
        match self.schemas > MAX_SCHEMAS {
            true => Err(SchemaError::TooLarge { unit: "schemas inside of it", most: MAX_SCHEMAS }),
            false => Ok(()),
        }
    }

    /// Counts repetitions in patterns.
    fn charge_patterns(&mut self, map: &Map<String, Value>) -> Result<(), SchemaError> {
        let names = map.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
        let patterns =
            map.get("pattern").and_then(Value::as_str).into_iter().chain(names.map(String::as_str));
        let counted = ["minLength", "maxLength"].iter().filter(|key| map.contains_key(**key)).count();
        self.repetitions += counted + patterns.map(repetitions).sum::<usize>();
        match self.repetitions > MAX_REPETITIONS {
            true => Err(SchemaError::TooLarge { unit: "repetitions in its patterns", most: MAX_REPETITIONS }),
            false => Ok(()),
        }
    }

    fn lower_object(
        &mut self,
        located: &Located<'s>,
        map: &'s Map<String, Value>,
    ) -> Result<Value, SchemaError> {
        let at = &located.at;
        let mut out = Map::new();
        // All that has to hold besides.
        let mut also: Vec<Value> = Vec::new();
        lower_types(map, at, &mut out)?;
        lower_constants(map, at, &mut out)?;
        number::lower(map, at, &mut out)?;
        self.steps.extend(out.get("multipleOf").and_then(Value::as_f64));
        lower_counts(map, at, &mut out, &mut also)?;
        lower_strings(map, at, &mut out, &mut also)?;
        self.charge_patterns(map)?;
        self.lower_arrays(located, map, &mut out)?;
        self.lower_objects(located, map, &mut out, &mut also)?;
        self.lower_references(located, map, &mut also)?;
        for key in ["anyOf", "oneOf"] {
            if let Some(list) = self.lower_list(located, map, key)? {
                out.insert(key.to_owned(), Value::Array(list));
            }
        }
        conditions::lower(self, located, map, &mut also)?;
        unevaluated::lower(self, located, map, &mut out, &mut also)?;
        let all = self.lower_list(located, map, "allOf")?.unwrap_or_default();
        also.splice(0..0, all);
        Ok(finish(out, also, at))
    }

    /// The schemas of a keyword that has a list of them.
    fn lower_list(
        &mut self,
        located: &Located<'s>,
        map: &'s Map<String, Value>,
        key: &str,
    ) -> Result<Option<Vec<Value>>, SchemaError> {
        let Some(list) = map.get(key) else { return Ok(None) };
        let at = located.at.child(key);
        let list = list.as_array().filter(|list| !list.is_empty() || key == "prefixItems");
        let list = list.ok_or_else(|| at.wrong(format!("{key} must be a list of schemas")))?;
        let lowered =
            list.iter().enumerate().map(|(number, schema)| self.child(located, at.item(number), schema));
        lowered.collect::<Result<_, _>>().map(Some)
    }

    /// The schemas of a keyword that has them by name.
    fn lower_map(
        &mut self,
        located: &Located<'s>,
        map: &'s Map<String, Value>,
        key: &str,
    ) -> Result<Option<Map<String, Value>>, SchemaError> {
        let Some(schemas) = map.get(key) else { return Ok(None) };
        let at = located.at.child(key);
        let schemas =
            schemas.as_object().ok_or_else(|| at.wrong(format!("{key} must be an object of schemas")))?;
        let lowered = schemas
            .iter()
            .map(|(name, schema)| Ok((name.clone(), self.child(located, at.child(name), schema)?)));
        lowered.collect::<Result<_, _>>().map(Some)
    }

    fn lower_arrays(
        &mut self,
        located: &Located<'s>,
        map: &'s Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), SchemaError> {
        let at = &located.at;
        // Up to 2019-09 `items` could be a list, and what came after it was in `additionalItems`.
        let (prefix, rest) = match map.get("items") {
            Some(Value::Array(_)) => ("items", "additionalItems"),
            _ => ("prefixItems", "items"),
        };
        if let Some(list) = self.lower_list(located, map, prefix)?.filter(|list| !list.is_empty()) {
            out.insert("prefixItems".to_owned(), Value::Array(list));
        }
        if let Some(schema) = map.get(rest) {
            out.insert("items".to_owned(), self.child(located, at.child(rest), schema)?);
        }
        let few = |key: &str| map.get(key).and_then(Value::as_u64).is_some_and(|n| n <= 1);
        let no_array =
            |out: &Map<String, Value>| out.get("type").is_some_and(|types| !names_type(types, "array"));
        match map.get("uniqueItems") {
            None | Some(Value::Bool(false)) => {}
            Some(Value::Bool(true)) if few("maxItems") || no_array(out) => {}
            Some(Value::Bool(true)) => {
                let what =
                    "uniqueItems is not supported: leave it out and check the result, or set maxItems to 1";
                return Err(at.child("uniqueItems").unsupported(what));
            }
            Some(_) => return Err(at.child("uniqueItems").wrong("uniqueItems must be true or false")),
        }
        if map.contains_key("contains")
            && map.get("minContains").and_then(Value::as_f64) == Some(0.0)
            && !map.contains_key("maxContains")
        {
            return Ok(());
        }
        if map.contains_key("contains") && !no_array(out) {
            let what = "contains is not supported: say with prefixItems or items what the items are";
            return Err(at.child("contains").unsupported(what));
        }
        Ok(())
    }

    fn lower_objects(
        &mut self,
        located: &Located<'s>,
        map: &'s Map<String, Value>,
        out: &mut Map<String, Value>,
        also: &mut Vec<Value>,
    ) -> Result<(), SchemaError> {
        let at = &located.at;
        for key in ["properties", "patternProperties"] {
            let schemas = self.lower_map(located, map, key)?.filter(|schemas| !schemas.is_empty());
            if let Some(mut schemas) = schemas {
                if key == "patternProperties" {
                    schemas = schemas.into_iter().map(|(name, schema)| (from_ecma(&name), schema)).collect();
                }
                out.insert(key.to_owned(), Value::Object(schemas));
            }
        }
        if let Some(schema) = map.get("additionalProperties") {
            let key = "additionalProperties";
            out.insert(key.to_owned(), self.child(located, at.child(key), schema)?);
        }
        if let Some(required) = map.get("required") {
            let names = required.as_array().filter(|names| names.iter().all(Value::is_string));
            let names =
                names.ok_or_else(|| at.child("required").wrong("required must be a list of names"))?;
            if !names.is_empty() {
                out.insert("required".to_owned(), Value::Array(names.clone()));
            }
        }
        if let Some(names) = map.get("propertyNames") {
            also.extend(self.lower_names(located, names)?);
        }
        Ok(())
    }

    /// `propertyNames`, where it can be said by patterns.
    fn lower_names(&mut self, located: &Located<'s>, names: &'s Value) -> Result<Option<Value>, SchemaError> {
        let at = located.at.child("propertyNames");
        let lowered = self.child(located, at.clone(), names)?;
        let unsupported = || {
            let what =
                "propertyNames is supported with pattern, minLength, maxLength, format, enum and const";
            Err(at.unsupported(what))
        };
        let map = match &lowered {
            Value::Bool(true) => return Ok(None),
            Value::Bool(false) => return Ok(Some(json!({ "maxProperties": 0 }))),
            Value::Object(map) => map,
            _ => return unsupported(),
        };
        let mut keys: Vec<&str> = map.keys().map(String::as_str).collect();
        keys.retain(|key| {
            *key != ORIGIN && !(*key == "type" && map.get("type").is_some_and(|t| names_type(t, "string")))
        });
        let constants = match map.get("enum") {
            Some(Value::Array(values)) => values.clone(),
            _ => map.get("const").cloned().into_iter().collect(),
        };
        match keys[..] {
            [] => Ok(None),
            ["enum" | "const"] => {
                let known = constants.iter().filter_map(Value::as_str);
                let known: Map<String, Value> =
                    known.map(|name| (name.to_owned(), Value::Bool(true))).collect();
                Ok(Some(json!({ "properties": known, "additionalProperties": false })))
            }
            ["pattern"] => Ok(Some(
                json!({ "patternProperties": { map["pattern"].as_str().unwrap_or_default(): true }, "additionalProperties": false }),
            )),
            [..] if keys.iter().all(|key| ["minLength", "maxLength"].contains(key)) => {
                let count = |key: &str| map.get(key).and_then(Value::as_u64).map(|n| n.to_string());
                let (min, max) = (
                    count("minLength").unwrap_or_else(|| "0".to_owned()),
                    count("maxLength").unwrap_or_default(),
                );
                let pattern = format!("^(?s:.{{{min},{max}}})$");
                Ok(Some(json!({ "patternProperties": { pattern: true }, "additionalProperties": false })))
            }
            _ => unsupported(),
        }
    }

    fn lower_references(
        &mut self,
        located: &Located<'s>,
        map: &'s Map<String, Value>,
        also: &mut Vec<Value>,
    ) -> Result<(), SchemaError> {
        for key in ["$ref", "$dynamicRef", "$recursiveRef"] {
            let Some(reference) = map.get(key) else { continue };
            let at = located.at.child(key);
            let reference = reference.as_str().ok_or_else(|| at.wrong(format!("{key} must be a string")))?;
            let anchor = reference.rsplit_once('#').map_or("", |(_, anchor)| anchor);
            if key == "$dynamicRef" && self.index.dynamic_anchors(anchor) > 1 {
                return Err(at.unsupported("several schemas have this $dynamicAnchor: use $ref"));
            }
            let target = self.index.find(located, reference).ok_or_else(|| {
                let shown: String = reference.chars().take(100).collect();
                let what =
                    format!("there is no schema {shown:?} in this document, and others are not fetched");
                at.unsupported(what)
            })?;
            also.push(json!({ "$ref": format!("#/$defs/{}", self.name(target)) }));
        }
        Ok(())
    }

    /// The name of the definition that a schema becomes.
    pub(super) fn name(&mut self, target: Located<'s>) -> String {
        let next = format!("d{}", self.names.len());
        match self.names.get(&target.at) {
            Some(name) => name.clone(),
            None => {
                self.names.insert(target.at.clone(), next.clone());
                self.wanted.push((next.clone(), target));
                next
            }
        }
    }
}

/// Whether a `type` includes a name.
pub(super) fn names_type(types: &Value, name: &str) -> bool {
    match types {
        Value::String(one) => one == name,
        Value::Array(list) => list.iter().any(|one| one == name),
        _ => false,
    }
}

/// A schema of its keywords and all that has to hold besides. A reference that stands alone stays one.
fn finish(mut out: Map<String, Value>, mut also: Vec<Value>, at: &Pointer) -> Value {
    also.retain(|schema| {
        !matches!(schema, Value::Bool(true)) && schema.as_object().is_none_or(|map| !map.is_empty())
    });
    if also.contains(&nothing()) {
        return nothing();
    }
    if let (true, [Value::Object(one)]) = (out.is_empty(), &also[..]) {
        out = one.clone();
    } else if !also.is_empty() {
        out.insert("allOf".to_owned(), Value::Array(also));
    }
    if out.is_empty() {
        return Value::Bool(true);
    }
    out.entry(ORIGIN).or_insert_with(|| Value::String(at.shown()));
    Value::Object(out)
}

fn lower_types(
    map: &Map<String, Value>,
    at: &Pointer,
    out: &mut Map<String, Value>,
) -> Result<(), SchemaError> {
    let Some(types) = map.get("type") else { return Ok(()) };
    let at = at.child("type");
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let unknown =
        |value: &Value| at.wrong(format!("there is no type {value}; known are {}", TYPES.join(", ")));
    match types {
        Value::String(_) if known(types) => {}
        Value::Array(list) if !list.is_empty() => {
            if let Some(value) = list.iter().find(|value| !known(value)) {
                return Err(unknown(value));
            }
        }
        _ => return Err(unknown(types)),
    }
    out.insert("type".to_owned(), types.clone());
    Ok(())
}

fn lower_constants(
    map: &Map<String, Value>,
    at: &Pointer,
    out: &mut Map<String, Value>,
) -> Result<(), SchemaError> {
    for key in ["const", "enum"] {
        let Some(value) = map.get(key) else { continue };
        let at = at.child(key);
        if key == "enum" && value.as_array().is_none_or(Vec::is_empty) {
            return Err(at.wrong("enum must be a list of values"));
        }
        out.insert(key.to_owned(), value.clone());
    }
    Ok(())
}

/// Counts of characters, items and properties.
fn lower_counts(
    map: &Map<String, Value>,
    at: &Pointer,
    out: &mut Map<String, Value>,
    also: &mut Vec<Value>,
) -> Result<(), SchemaError> {
    for key in ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"] {
        let Some(value) = map.get(key) else { continue };
        let whole = value.as_f64().filter(|count| *count >= 0.0 && count.fract() == 0.0);
        let count = value.as_u64().or(whole.map(|count| count as u64));
        let count =
            count.ok_or_else(|| at.child(key).wrong(format!("{key} must be a whole number from 0 up")))?;
        match (count > MAX_COUNT, key.starts_with("max")) {
            (true, true) => {}
            (true, false) => also.push(nothing()),
            (false, _) => drop(out.insert(key.to_owned(), Value::from(count))),
        }
    }
    Ok(())
}

fn lower_strings(
    map: &Map<String, Value>,
    at: &Pointer,
    out: &mut Map<String, Value>,
    also: &mut Vec<Value>,
) -> Result<(), SchemaError> {
    if let Some(pattern) = map.get("pattern") {
        let pattern =
            pattern.as_str().ok_or_else(|| at.child("pattern").wrong("pattern must be a string"))?;
        out.insert("pattern".to_owned(), Value::from(from_ecma(pattern)));
    }
    let Some(name) = map.get("format") else { return Ok(()) };
    let name = name.as_str().ok_or_else(|| at.child("format").wrong("format must be a string"))?;
    if name == "hostname" {
        also.push(json!({ "maxLength": 253 }));
    }
    if let Some(pattern) = format::pattern(name) {
        match out.contains_key("pattern") {
            true => also.push(json!({ "pattern": pattern })),
            false => drop(out.insert("pattern".to_owned(), Value::from(pattern))),
        }
    }
    Ok(())
}
