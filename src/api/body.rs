//! The body of a request: checked once against the table of fields, then read by field.
//!
//! Invariant: a [`Body`] holds no field of its route with a value that the table does not allow, so that reading one cannot fail.

use std::borrow::Cow;

use bitnetc_frontend_gguf::text as input_text;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::fields::{FIELDS, Field, Kind, Treatment};
use super::form::{self, Form};
use super::{Refusal, Route};

/// Longest words of another's error that are repeated.
const MAX_WORDS: usize = 200;

/// Reads JSON that others wrote: a byte order mark and halves of surrogate pairs are no errors.
///
/// # Errors
/// What is empty, is no JSON, or is nested too deeply.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    parse_as(bytes)
}

/// As [`parse`], for a type that keeps what it needs.
///
/// # Errors
/// As [`parse`]; JSON that is not of this type.
pub(super) fn parse_as<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Refusal::request("invalid_utf8", format!("the request is not UTF-8 at byte {at}"))
    })?;
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        return Err(Refusal::request("invalid_json", "the body is empty: send a JSON object"));
    }
    // Its parser bounds the depth.
    serde_json::from_slice(&input_text::json(text.as_bytes())).map_err(|error| {
        Refusal::request(
            "invalid_json",
            format!("the request is not valid JSON: {}", words(&error.to_string())),
        )
    })
}

/// Bytes of memory that an object and its first field take, a list and its first element, and each further field or element:
/// tables and vectors grow by doubling, and their old memory is there until it has been copied.
const OBJECT: usize = 576;
const LIST: usize = 352;
const FURTHER: usize = 256;

/// The memory that reading the body of a request for `route` takes at its worst moment, at most: what its values take, as often as
/// there are copies of them at a time. Found by looking at each byte once, without reading the body.
pub fn reading_bytes(route: Route, body: &[u8]) -> usize {
    let mut bytes = body.len();
    let mut rest = body;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        bytes += match first {
            b'{' => OBJECT,
            b'[' => LIST,
            b',' => FURTHER,
            b'"' => {
                rest = after_string(after);
                0
            }
            _ => 0,
        };
    }
    bytes.saturating_mul(copies(route))
}

/// What follows a string whose first quotation mark has been read.
fn after_string(mut rest: &[u8]) -> &[u8] {
    loop {
        let Some(at) = rest.iter().position(|byte| b"\"\\".contains(byte)) else { return &[] };
        let is_end = rest[at] == b'"';
        // A backslash takes the next byte with it.
        rest = rest.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
        if is_end {
            return rest;
        }
    }
}

/// Copies of a body's values that there are at a time: the body, messages as they are read and as a template is given them. ollama's
/// bodies are put into the form of the others first.
fn copies(route: Route) -> usize {
    match route {
        Route::Completions | Route::LlamaCompletion => 2,
        Route::ChatCompletions
        | Route::ChatTokens
        | Route::Responses
        | Route::ResponseTokens
        | Route::Messages
        | Route::CountTokens => 5,
        Route::OllamaChat | Route::OllamaGenerate => 7,
    }
}

/// Another's words, in bounds.
fn words(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// The body of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'v> {
    fields: &'v Map<String, Value>,
}

impl<'v> Body<'v> {
    /// Checks the body of a request for `route`.
    ///
    /// # Errors
    /// What is no object; a field with a value that it cannot have, or that is not supported and asks for something.
    pub(super) fn new(route: Route, value: &'v Value) -> Result<Self, Refusal> {
        let fields = value
            .as_object()
            .ok_or_else(|| Refusal::request("invalid_json", "the request is not a JSON object"))?;
        for field in FIELDS {
            for name in field.names() {
                if let Some(value) = fields.get(name).filter(|value| !value.is_null()) {
                    check(route, field, name, value)?;
                }
            }
        }
        Ok(Self { fields })
    }

    /// A field that is there and not null, by the first of its names.
    pub(super) fn get(self, field: &Field) -> Option<&'v Value> {
        field.names().find_map(|name| self.fields.get(name).filter(|value| !value.is_null()))
    }

    pub(super) fn bool(self, field: &Field) -> Option<bool> {
        self.get(field)?.as_bool()
    }

    pub(super) fn is_on(self, field: &Field) -> bool {
        self.bool(field) == Some(true)
    }

    /// A whole number; nothing where it is negative, which stands for the default.
    pub(super) fn count(self, field: &Field) -> Option<u64> {
        u64::try_from(whole(self.get(field)?)?).ok()
    }

    /// Whether a whole number is negative.
    pub(super) fn is_negative(self, field: &Field) -> bool {
        self.get(field).and_then(whole).is_some_and(|n| n < 0)
    }

    /// A number; what no f32 holds is as good as the largest.
    pub(super) fn number(self, field: &Field) -> Option<f32> {
        Some((self.get(field)?.as_f64()? as f32).clamp(f32::MIN, f32::MAX))
    }

    pub(super) fn text(self, field: &Field) -> Option<&'v str> {
        self.get(field)?.as_str()
    }

    /// The strings of a field that holds one or a list.
    pub(super) fn texts(self, field: &Field) -> Option<Vec<String>> {
        match self.get(field)? {
            Value::String(text) => Some(vec![text.clone()]),
            value => value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        }
    }

    pub(super) fn tokens(self, field: &Field) -> Option<Vec<u32>> {
        self.get(field)?.as_array()?.iter().map(token_id).collect()
    }

    pub(super) fn object(self, field: &Field) -> Option<&'v Map<String, Value>> {
        self.get(field)?.as_object()
    }

    pub(super) fn list(self, field: &Field) -> Option<&'v [Value]> {
        self.get(field)?.as_array().map(Vec::as_slice)
    }

    /// The form that the text has to have, if the body speaks of forms.
    ///
    /// # Errors
    /// As [`form::of_body`].
    pub(super) fn form(self) -> Result<Option<Form>, Refusal> {
        form::of_body(self.fields).map_err(|refused| match refused.unsupported {
            true => Refusal::unsupported(refused.field, refused.message),
            false => Refusal::field(refused.field, refused.message),
        })
    }
}

/// Whether a field may have its value on a route.
fn check(route: Route, field: &Field, name: &'static str, value: &Value) -> Result<(), Refusal> {
    match field.treatment {
        Treatment::Ignored => Ok(()),
        // Its value counts for nothing here.
        _ if !field.routes.has(route) && (is_known(route, name) || !field.asks(name, value)) => Ok(()),
        Treatment::Refused(instead) if field.asks(name, value) => {
            Err(Refusal::unsupported(name, format!("`{name}` is not supported: {instead}")))
        }
        Treatment::Refused(_) => Ok(()),
        Treatment::Read if !field.routes.has(route) => {
            let here = route.path();
            let message = format!("`{name}` is not supported on {here}: it is a field of {}", field.routes);
            Err(Refusal::unsupported(name, message))
        }
        Treatment::Read if allows(field.kind, value) => Ok(()),
        Treatment::Read => Err(Refusal::field(name, format!("{name} must be {}", field.kind.describe()))),
    }
}

/// Whether a field of this name is one of a route.
fn is_known(route: Route, name: &str) -> bool {
    FIELDS.iter().any(|field| field.routes.has(route) && field.names().any(|own| own == name))
}

/// A whole number, also one that is written with a fraction of 0.
fn whole(value: &Value) -> Option<i128> {
    let exact = value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from));
    // Up to here, numbers with fractions are exact.
    let is_whole = |x: &f64| x.fract() == 0.0 && x.abs() <= 9_007_199_254_740_992.0;
    exact.or_else(|| value.as_f64().filter(is_whole).map(|x| x as i128))
}

/// A token id.
pub(super) fn token_id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// Whether a kind allows a value. What only its reader knows is left to it.
fn allows(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Bool => value.is_boolean(),
        Kind::Whole { min, max } => {
            whole(value).is_some_and(|n| (i128::from(min)..=i128::from(max)).contains(&n))
        }
        Kind::Number { min, max } => value.as_f64().is_some_and(|n| (min..=max).contains(&n)),
        Kind::Text { max } => {
            value.as_str().is_some_and(|text| max == 0 || !text.is_empty() && text.chars().count() <= max)
        }
        Kind::Texts => {
            value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string))
        }
        Kind::Tokens => value.as_array().is_some_and(|list| list.iter().all(|id| token_id(id).is_some())),
        Kind::Object => value.is_object(),
        Kind::Messages => value.is_array(),
        Kind::Biases => value.is_object() || value.is_array(),
        Kind::Prompt => value.is_string() || value.is_array(),
        Kind::Form(_) | Kind::Described(_) | Kind::Any => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_cost_their_bytes_and_everything_else_more() {
        let cost = |body: &str| reading_bytes(Route::Completions, body.as_bytes()) / 2 - body.len();
        assert_eq!(cost(r#""{[,\"{[,""#), 0);
        assert_eq!(cost(r#"{"a,":[1,2,{}]}"#), OBJECT + LIST + 2 * FURTHER + OBJECT);
        assert_eq!(cost(r#""\\",[]"#), FURTHER + LIST);
        // What is no JSON has a price too.
        for broken in ["\"", "\"\\", "\"a\\"] {
            assert_eq!(cost(broken), 0, "{broken}");
        }
    }
}
