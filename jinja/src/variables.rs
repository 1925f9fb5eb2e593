//! What a template is given.

use serde_json::Value as Json;

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::text::{Origin, Text};
use crate::value::{DictBuilder, List, VALUE_BYTES, Value};

/// The time in a format of `strftime`, or why that cannot be said.
pub type FormatTime<'h> = &'h (dyn Fn(&str) -> std::result::Result<String, String> + Sync);

/// Whether the text of a field is the program's, given the name of the variable, the field and its text.
type Vouch = fn(&str, &str) -> bool;

/// Variables and who wrote their texts.
#[derive(Debug, Default)]
pub struct Variables {
    variables: Vec<(String, Json, Source)>,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    All(Origin),
    /// A user's, but for fields of the outermost objects that the program vouches for.
    Fields(Vouch),
}

impl Variables {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable all of whose texts and numbers are of one origin; a later one of a name replaces an earlier.
    pub fn insert(&mut self, name: impl Into<String>, value: Json, origin: Origin) {
        self.variables.push((name.into(), value, Source::All(origin)));
    }

    /// Adds a list of objects that a user wrote, but for the fields, by name and text, that the program vouches for.
    pub fn insert_objects(&mut self, name: impl Into<String>, value: Json, vouch: fn(&str, &str) -> bool) {
        self.variables.push((name.into(), value, Source::Fields(vouch)));
    }

    pub(crate) fn values(&self, budget: &Budget) -> Result<Vec<(String, Value)>> {
        let value = |(name, json, source): &(String, Json, Source)| {
            let value = match (source, json) {
                (Source::All(origin), json) => value(budget, json, *origin)?,
                (Source::Fields(vouch), Json::Array(items)) => {
                    let items =
                        items.iter().map(|item| fields(budget, item, *vouch)).collect::<Result<_>>()?;
                    Value::List(List::new(budget, items)?)
                }
                (Source::Fields(_), json) => value(budget, json, Origin::User)?,
            };
            Ok((name.clone(), value))
        };
        self.variables.iter().map(value).collect()
    }
}

fn fields(budget: &Budget, json: &Json, vouch: Vouch) -> Result<Value> {
    let Json::Object(map) = json else { return value(budget, json, Origin::User) };
    let mut dict = DictBuilder::default();
    for (key, json) in map {
        let known = json.as_str().is_some_and(|text| vouch(key, text));
        let origin = if known { Origin::Program } else { Origin::User };
        dict.insert(budget, text(budget, key, Origin::User)?, value(budget, json, origin)?)?;
    }
    Ok(Value::Dict(dict.finish()?))
}

fn text(budget: &Budget, text: &str, origin: Origin) -> Result<Value> {
    budget.bytes(text.len() + 2 * VALUE_BYTES)?;
    Ok(Value::Text(Text::new(text, origin)))
}

fn value(budget: &Budget, json: &Json, origin: Origin) -> Result<Value> {
    budget.steps(1)?;
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Value::Int(i128::from(number), origin),
            (None, Some(number), _) => Value::Int(i128::from(number), origin),
            (None, None, Some(number)) => Value::Float(number, origin),
            (None, None, None) => return Err(Error::limit("a number is too large")),
        },
        Json::String(string) => text(budget, string, origin)?,
        Json::Array(items) => {
            let items = items.iter().map(|item| value(budget, item, origin)).collect::<Result<_>>()?;
            Value::List(List::new(budget, items)?)
        }
        Json::Object(map) => {
            let mut dict = DictBuilder::default();
            for (key, json) in map {
                dict.insert(budget, text(budget, key, origin)?, value(budget, json, origin)?)?;
            }
            Value::Dict(dict.finish()?)
        }
    })
}
