//! What the body of a request asks its text to look like, in the spellings of all servers that clients know.
//!
//! The fields stand in the table of all fields ([`FIELDS`]): each is followed, or refused with what to use instead; none is dropped. A
//! body may ask for one form.

use serde_json::{Map, Value};

use super::fields::{FIELDS, Field, Kind, Treatment};
use crate::constraint::GrammarSource;

/// A form, and the field that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The field, with a dot before what stands inside of it.
    pub field: &'static str,
    /// What the text has to follow; nothing where the field says that it is free.
    pub source: Option<GrammarSource>,
}

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FormError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it, and what to do.
    pub message: String,
    /// Whether the field is known and not supported, or has a value that it cannot have.
    pub unsupported: bool,
}

/// How a field is read; nothing where it asks for nothing.
pub type Reader = fn(&'static str, &Value) -> Result<Option<Form>, FormError>;

/// The fields of the table that ask for forms, by every name, with their readers.
fn fields() -> impl Iterator<Item = (&'static str, Reader)> {
    FIELDS.iter().flat_map(|field| {
        let read = match field.kind {
            Kind::Form(read) => Some(read),
            _ => None,
        };
        field.names().filter_map(move |name| Some((name, read?)))
    })
}

/// What a body asks for: nothing, where it does not speak of forms.
///
/// # Errors
/// A field with a value that it cannot have, or that is not supported; two fields that ask for a form.
pub(super) fn of_body(body: &Map<String, Value>) -> Result<Option<Form>, FormError> {
    let mut found: Option<Form> = None;
    for (field, read) in fields() {
        let Some(value) = body.get(field).filter(|value| !value.is_null()) else { continue };
        let Some(form) = read(field, value)? else { continue };
        found = match found {
            Some(first) if first.source.is_some() && form.source.is_some() => {
                return Err(wrong(
                    field,
                    format!("{} already sets a constraint: omit one of the two", first.field),
                ));
            }
            Some(first) if first.source.is_some() => Some(first),
            _ => Some(form),
        };
    }
    Ok(found)
}

fn wrong(field: &'static str, what: impl std::fmt::Display) -> FormError {
    FormError { field, message: format!("{field}: {what}"), unsupported: false }
}

fn unsupported(field: &'static str, what: &str) -> FormError {
    FormError { field, message: format!("`{field}` is not supported: {what}"), unsupported: true }
}

fn followed(field: &'static str, source: GrammarSource) -> Result<Option<Form>, FormError> {
    Ok(Some(Form { field, source: Some(source) }))
}

fn any_object() -> GrammarSource {
    GrammarSource::JsonSchema(r#"{"type":"object"}"#.to_owned())
}

/// A schema as an object, or as JSON in a string; OpenAI's object around one (`name`, `strict`, `schema`) too.
pub(super) fn json_schema(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    let around = |map: &Map<String, Value>| {
        map.keys().all(|key| matches!(key.as_str(), "name" | "strict" | "description" | "schema"))
    };
    match value {
        Value::Object(map) if map.contains_key("schema") && around(map) => {
            json_schema(field, map.get("schema").unwrap_or(&Value::Null))
        }
        Value::Object(_) | Value::Bool(_) => followed(field, GrammarSource::JsonSchema(value.to_string())),
        Value::String(text) if text.trim_start().starts_with('{') => {
            followed(field, GrammarSource::JsonSchema(text.clone()))
        }
        Value::String(text) if text.is_empty() => Ok(None),
        _ => Err(wrong(field, "a JSON schema must be an object")),
    }
}

fn text<'v>(field: &'static str, value: &'v Value) -> Result<Option<&'v str>, FormError> {
    let text = value.as_str().ok_or_else(|| wrong(field, "expected a string"))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A grammar, in GBNF or Lark; TGI's object with a type and a value.
pub(super) fn grammar(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    if let Value::Object(map) = value {
        return typed(field, map);
    }
    match text(field, value)? {
        None => Ok(None),
        Some(text) => followed(field, GrammarSource::of_grammar(text.to_owned())),
    }
}

pub(super) fn regex(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    match text(field, value)? {
        None => Ok(None),
        Some(text) => followed(field, GrammarSource::Regex(text.to_owned())),
    }
}

pub(super) fn choice(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    let texts = value.as_array().filter(|texts| !texts.is_empty()).and_then(|texts| {
        texts.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    followed(field, GrammarSource::Choice(texts.ok_or_else(|| wrong(field, "expected a list of strings"))?))
}

pub(super) fn json_object(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    match value {
        Value::Bool(true) => followed(field, any_object()),
        Value::Bool(false) => Ok(None),
        _ => Err(wrong(field, "expected true or false")),
    }
}

/// A grammar that begins in the middle of a text.
pub(super) fn lazy(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    let nothing = match value {
        Value::Bool(lazy) => !lazy,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match nothing {
        true => Ok(None),
        false => Err(unsupported(
            field,
            "a grammar applies from the first token: include the free text in the grammar",
        )),
    }
}

pub(super) fn white_space(field: &'static str, _: &Value) -> Result<Option<Form>, FormError> {
    Err(unsupported(
        field,
        "leave it out; between the parts of JSON there is at most a space, or a line break and its indentation",
    ))
}

pub(super) fn structural_tag(field: &'static str, _: &Value) -> Result<Option<Form>, FormError> {
    Err(unsupported(field, "use a grammar with the tags in it"))
}

/// Fields that hold others, which are to stand in the body itself.
pub(super) fn nested(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    let counts = |field: &&Field| field.treatment != Treatment::Ignored;
    let inside = |name: &str| {
        ["json", "choice", "json_object"].contains(&name)
            || FIELDS.iter().filter(counts).flat_map(Field::names).any(|field| field == name)
    };
    let map = value.as_object();
    match map.and_then(|map| map.keys().find(|name| inside(name))) {
        Some(name) => Err(unsupported(
            field,
            &format!("write {name} into the body itself, under its name in the table of fields"),
        )),
        None => Ok(None),
    }
}

/// ollama's: `"json"`, or a schema.
pub(super) fn format(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    match value.as_str() {
        Some("") => Ok(None),
        Some("json") => followed(field, any_object()),
        Some(_) => Err(wrong(field, "\"json\" or a JSON schema is expected")),
        None => json_schema(field, value),
    }
}

pub(super) fn response_format(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    let map = value.as_object().filter(|map| map.get("type").is_some_and(Value::is_string));
    typed(field, map.ok_or_else(|| wrong(field, TYPES))?)
}

/// What is expected of an object with a type.
const TYPES: &str = "expected an object with the type \"text\", \"json_object\", \"json_schema\" with a schema, \
                     \"grammar\" with a grammar, or \"regex\" with a pattern";

/// An object that says by its type what it asks for.
fn typed(field: &'static str, map: &Map<String, Value>) -> Result<Option<Form>, FormError> {
    let given = |keys: &[&str]| {
        let mut given = keys.iter().filter_map(|key| map.get(*key)).filter(|value| !value.is_null());
        match (given.next(), given.next()) {
            (_, Some(_)) => Err(wrong(field, "it sets two constraints: omit one of the two")),
            (one, None) => Ok(one),
        }
    };
    let needed = |keys: &[&str]| given(keys)?.ok_or_else(|| wrong(field, TYPES));
    match map.get("type").and_then(Value::as_str) {
        Some("text") => Ok(Some(Form { field, source: None })),
        Some("json_object" | "json") => match given(&["schema", "value", "json_schema"])? {
            None => followed(field, any_object()),
            Some(schema) => json_schema(
                field,
                schema.get("schema").filter(|_| map.contains_key("json_schema")).unwrap_or(schema),
            ),
        },
        Some("json_schema") => {
            let schema = needed(&["json_schema", "schema", "value"])?;
            match map.contains_key("json_schema") {
                true => json_schema(field, schema.get("schema").ok_or_else(|| wrong(field, TYPES))?),
                false => json_schema(field, schema),
            }
        }
        Some("grammar" | "ebnf" | "lark") => grammar_text(field, needed(&["grammar", "value"])?),
        Some("regex") => regex(field, needed(&["regex", "pattern", "value"])?),
        Some("structural_tag") => structural_tag(field, &Value::Null),
        _ => Err(wrong(field, TYPES)),
    }
}

fn grammar_text(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    match value.is_string() {
        true => grammar(field, value),
        false => Err(wrong(field, TYPES)),
    }
}

/// vLLM's object of one constraint and its options.
pub(super) fn structured_outputs(field: &'static str, value: &Value) -> Result<Option<Form>, FormError> {
    let map = value.as_object().ok_or_else(|| wrong(field, "expected an object"))?;
    let mut found = None;
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let form = match name.as_str() {
            "json" => json_schema(field, value)?,
            "regex" => regex(field, value)?,
            "choice" => choice(field, value)?,
            "grammar" => grammar(field, value)?,
            "json_object" => json_object(field, value)?,
            "disable_fallback" | "disable_any_whitespace" | "disable_additional_properties"
                if *value == Value::Bool(false) =>
            {
                None
            }
            _ => {
                let name: String = name.chars().take(40).collect();
                let what = format!(
                    "{name} in it is not known or not supported: use json, regex, choice, grammar or json_object"
                );
                return Err(FormError { unsupported: true, ..wrong(field, what) });
            }
        };
        if form.is_some() && found.is_some() {
            return Err(wrong(field, "it sets two constraints: omit one of the two"));
        }
        found = found.or(form);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_spelling_is_followed() {
        let schema = || Some(GrammarSource::JsonSchema("{\"type\":\"boolean\"}".to_owned()));
        let s = json!({ "type": "boolean" });
        let object = || Some(any_object());
        let gbnf = "root ::= \"yes\"";
        let grammar = || Some(GrammarSource::Gbnf(gbnf.to_owned()));
        let lark = || Some(GrammarSource::Lark("start: \"yes\"".to_owned()));
        let regex = || Some(GrammarSource::Regex("a+".to_owned()));
        let choice = || Some(GrammarSource::Choice(vec!["a".to_owned(), "b".to_owned()]));
        for (body, expected) in [
            (json!({ "response_format": { "type": "json_object", "schema": s } }), schema()),
            (json!({ "response_format": { "type": "json_object" } }), object()),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": s, "strict": true } } }),
                schema(),
            ),
            (json!({ "response_format": { "type": "json_schema", "schema": s } }), schema()),
            (json!({ "response_format": { "type": "json", "value": s } }), schema()),
            (json!({ "response_format": { "type": "grammar", "grammar": gbnf } }), grammar()),
            (json!({ "response_format": { "type": "regex", "value": "a+" } }), regex()),
            (json!({ "response_format": { "type": "text" } }), None),
            (json!({ "grammar": gbnf }), grammar()),
            (json!({ "grammar": "start: \"yes\"" }), lark()),
            (json!({ "grammar": { "type": "regex", "value": "a+" } }), regex()),
            (json!({ "json_schema": s }), schema()),
            (json!({ "guided_json": s }), schema()),
            (json!({ "guided_json": s.to_string() }), schema()),
            (json!({ "guided_regex": "a+" }), regex()),
            (json!({ "guided_choice": ["a", "b"] }), choice()),
            (json!({ "guided_grammar": gbnf }), grammar()),
            (json!({ "guided_json_object": true }), object()),
            (json!({ "structured_outputs": { "json": s, "regex": null } }), schema()),
            (json!({ "structured_outputs": { "regex": "a+" } }), regex()),
            (json!({ "structured_outputs": { "choice": ["a", "b"] } }), choice()),
            (json!({ "structured_outputs": { "grammar": gbnf } }), grammar()),
            (json!({ "regex": "a+" }), regex()),
            (json!({ "ebnf": gbnf }), grammar()),
            (json!({ "format": "json" }), object()),
            (json!({ "format": s }), schema()),
            (
                json!({ "grammar": gbnf, "response_format": { "type": "text" }, "grammar_lazy": false, "grammar_triggers": [] }),
                grammar(),
            ),
        ] {
            assert_eq!(of_body(body.as_object().unwrap()).unwrap().unwrap().source, expected, "{body}");
        }
        for body in [
            json!({}),
            json!({ "response_format": null, "grammar": "", "format": "", "guided_json": null, "extra_body": { "user": 1 } }),
        ] {
            assert_eq!(of_body(body.as_object().unwrap()), Ok(None), "{body}");
        }
    }

    #[test]
    fn what_is_not_followed_is_refused_by_name() {
        for (field, body) in [
            ("response_format", json!({ "response_format": "json_object" })),
            ("response_format", json!({ "response_format": { "type": 123 } })),
            ("response_format", json!({ "response_format": { "type": "yaml" } })),
            ("response_format", json!({ "response_format": { "type": "json_schema", "json_schema": {} } })),
            (
                "response_format",
                json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": {} }, "schema": {} } }),
            ),
            ("response_format", json!({ "response_format": { "type": "structural_tag", "structures": [] } })),
            ("grammar", json!({ "grammar": 1 })),
            ("guided_json", json!({ "guided_json": [] })),
            ("guided_regex", json!({ "guided_regex": {} })),
            ("guided_choice", json!({ "guided_choice": "a" })),
            ("guided_choice", json!({ "guided_choice": [] })),
            ("guided_whitespace_pattern", json!({ "guided_whitespace_pattern": " ?" })),
            ("structured_outputs", json!({ "structured_outputs": { "structural_tag": "x" } })),
            ("structured_outputs", json!({ "structured_outputs": { "regex": "a", "choice": ["a"] } })),
            ("structural_tag", json!({ "structural_tag": {} })),
            ("grammar_lazy", json!({ "grammar": "root ::= \"a\"", "grammar_lazy": true })),
            ("grammar_triggers", json!({ "grammar_triggers": [{ "type": 0 }] })),
            ("format", json!({ "format": "yaml" })),
            ("extra_body", json!({ "extra_body": { "guided_json": {} } })),
            ("guided_json", json!({ "response_format": { "type": "json_object" }, "guided_json": {} })),
            ("regex", json!({ "guided_choice": ["a"], "regex": "a" })),
        ] {
            let refused = of_body(body.as_object().unwrap()).unwrap_err();
            assert_eq!(refused.field, field, "{body}");
            assert!(refused.message.trim_start_matches('`').starts_with(field), "{}", refused.message);
        }
    }
}
