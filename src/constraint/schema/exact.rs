//! Integers beyond 2^53, which the engine's JSON schemas round.
//!
//! A schema that has one is written as a grammar instead, in Lark: the parts on the way to such integers by their structure,
//! everything else as the schemas that they are. On the way there may be objects, lists, alternatives and references.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use serde_json::{Map, Number, Value, json};

use super::inside::inner;
use super::{MAX_TEXT, ORIGIN, Pointer, SchemaError, WHITE_SPACE};

/// Integers up to here are the same in floating point.
const EXACT: i128 = 1 << 53;

/// A number as an integer, if it is one.
pub(super) fn integer(number: &Number) -> Option<i128> {
    let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 1e38).then_some(x as i128);
    number.as_i64().map(i128::from).or(number.as_u64().map(i128::from)).or(number.as_f64().and_then(whole))
}

/// Whether a number is an integer that the engine would round.
pub(super) fn is_large(number: &Number) -> bool {
    let written = number.is_i64() || number.is_u64();
    written && integer(number).is_some_and(|n| n.abs() > EXACT)
}

/// Whether a constant has such a number anywhere inside.
pub(super) fn has_large(value: &Value) -> bool {
    match value {
        Value::Number(number) => is_large(number),
        Value::Array(list) => list.iter().any(has_large),
        Value::Object(map) => map.values().any(has_large),
        _ => false,
    }
}

const BOUNDS: [&str; 4] = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"];

/// Whether a schema itself asks for integers beyond 2^53.
fn is_exact(schema: &Value) -> bool {
    let Some(map) = schema.as_object() else { return false };
    let bound = |key: &&str| matches!(map.get(*key), Some(Value::Number(n)) if integer(n).is_some_and(|n| n.abs() > EXACT));
    let typed = map.get("type").is_some_and(|types| super::lower::names_type(types, "integer"));
    (typed && BOUNDS.iter().any(bound))
        || ["const", "enum"].iter().any(|key| map.get(*key).is_some_and(has_large))
}

/// The document as a grammar, where it has integers beyond 2^53.
pub(super) fn lark(document: &Value, escapes: &str) -> Result<Option<String>, SchemaError> {
    let none = Map::new();
    let definitions = document.get("$defs").and_then(Value::as_object).unwrap_or(&none);
    let mut exact: HashSet<&str> = HashSet::new();
    loop {
        let more = definitions
            .iter()
            .filter(|(_, schema)| leads_there(schema, &exact))
            .map(|(name, _)| name.as_str());
        let more: Vec<&str> = more.collect();
        let before = exact.len();
        exact.extend(more);
        if exact.len() == before {
            break;
        }
    }
    if !leads_there(document, &exact) {
        return Ok(None);
    }
    let mut writer = Writer {
        out: format!("%llguidance {{\"ignore_once\": true}}\n%ignore /{WHITE_SPACE}/\n"),
        definitions,
        exact,
        rules: 0,
        keys: BTreeMap::new(),
        options: json!({ "whitespace_pattern": WHITE_SPACE, "json_allowed_escapes": escapes }),
    };
    let mut root = document.clone();
    if let Some(root) = root.as_object_mut() {
        root.shift_remove("$defs");
    }
    let root = writer.value(&root, "#")?;
    let _ = writeln!(writer.out, "start: {root}");
    for (name, schema) in
        definitions.iter().filter(|(name, _)| writer.exact.contains(name.as_str())).collect::<Vec<_>>()
    {
        let body = writer.value(schema, "#")?;
        let _ = writeln!(writer.out, "def_{name}: {body}");
    }
    Ok(Some(writer.out))
}

fn target(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// Whether integers beyond 2^53 are somewhere inside of a schema.
fn leads_there(schema: &Value, exact: &HashSet<&str>) -> bool {
    let mut stack = vec![schema];
    while let Some(schema) = stack.pop() {
        if is_exact(schema) || target(schema).is_some_and(|name| exact.contains(name)) {
            return true;
        }
        stack.extend(inner(schema));
    }
    false
}

/// Whether a schema has references inside.
fn refers(schema: &Value) -> bool {
    let mut stack = vec![schema];
    while let Some(schema) = stack.pop() {
        if target(schema).is_some() {
            return true;
        }
        stack.extend(inner(schema));
    }
    false
}

struct Writer<'d> {
    out: String,
    definitions: &'d Map<String, Value>,
    exact: HashSet<&'d str>,
    rules: usize,
    /// Terminals of keys by their text.
    keys: BTreeMap<String, usize>,
    options: Value,
}

impl Writer<'_> {
    /// A rule or terminal of its own.
    fn rule(&mut self, name: &str, body: &str) -> String {
        self.rules += 1;
        let name = format!("{name}{}", self.rules);
        let _ = writeln!(self.out, "{name}: {body}");
        name
    }

    /// A terminal for a text.
    fn text(&mut self, text: &str) -> String {
        let pattern: String = text.chars().map(|c| format!("\\x{{{:X}}}", c as u32)).collect();
        let next = self.keys.len();
        let id = *self.keys.entry(text.to_owned()).or_insert(next);
        if id == next {
            let _ = writeln!(self.out, "K{id}: /{pattern}/");
        }
        format!("K{id}")
    }

    /// What stands for a schema in a rule.
    fn value(&mut self, schema: &Value, origin: &str) -> Result<String, SchemaError> {
        if self.out.len() > MAX_TEXT {
            return Err(SchemaError::TooLarge { unit: "bytes, written as a grammar", most: MAX_TEXT });
        }
        if !leads_there(schema, &self.exact) {
            if *schema == Value::Bool(false) {
                return Err(SchemaError::Empty { what: format!("{origin} is false") });
            }
            let mut leaf = schema.as_object().cloned().unwrap_or_default();
            if refers(schema) {
                leaf.insert("$defs".to_owned(), Value::Object(self.definitions.clone()));
            }
            leaf.insert("x-guidance".to_owned(), self.options.clone());
            let leaf = Value::Object(leaf).to_string();
            return Ok(self.rule("leaf", &format!("%json {leaf}")));
        }
        let none = Map::new();
        let map = schema.as_object().unwrap_or(&none);
        let origin = map.get(ORIGIN).and_then(Value::as_str).unwrap_or(origin).to_owned();
        let at = Pointer(origin.trim_start_matches('#').to_owned());
        if let Some(name) = target(schema) {
            only(map, &["$ref"], &at)?;
            return Ok(format!("def_{name}"));
        }
        if let Some(options) = map.get("anyOf").and_then(Value::as_array) {
            only(map, &["anyOf"], &at)?;
            let options = options.iter().filter(|option| **option != Value::Bool(false));
            let options: Result<Vec<String>, _> = options.map(|option| self.value(option, &origin)).collect();
            return Ok(self.rule("any", &options?.join(" | ")));
        }
        let constants = map.get("enum").and_then(Value::as_array).cloned();
        if let Some(constants) = constants.or_else(|| map.get("const").map(|one| vec![one.clone()])) {
            only(map, &["enum", "const", "type"], &at)?;
            let fits = |value: &&Value| {
                let name = super::alternatives::type_of(value);
                let named = |types: &Value, name| super::lower::names_type(types, name);
                let whole = |value: &Value| matches!(value, Value::Number(n) if integer(n).is_some());
                map.get("type")
                    .is_none_or(|types| named(types, name) || (named(types, "integer") && whole(value)))
            };
            let texts: Vec<String> =
                constants.iter().filter(fits).map(|value| self.text(&value.to_string())).collect();
            if texts.is_empty() {
                return Err(SchemaError::Empty { what: format!("no constant at {origin} has its type") });
            }
            return Ok(self.rule("one", &texts.join(" | ")));
        }
        match map.get("type") {
            Some(Value::String(name)) if name == "integer" => self.integers(map, &at),
            Some(Value::String(name)) if name == "object" => self.object(map, &at),
            Some(Value::String(name)) if name == "array" => self.array(map, &at),
            Some(Value::Array(types)) => {
                let each = types.iter().map(|one| {
                    let mut map = map.clone();
                    map.insert("type".to_owned(), one.clone());
                    if one != "integer" && one != "number" {
                        BOUNDS.iter().for_each(|key| drop(map.shift_remove(*key)));
                    }
                    self.value(&Value::Object(map), &origin)
                });
                let each: Result<Vec<String>, _> = each.collect();
                Ok(self.rule("any", &each?.join(" | ")))
            }
            _ => Err(at
                .unsupported("integers beyond 2^53 are supported where every schema around them has a type")),
        }
    }

    fn integers(&mut self, map: &Map<String, Value>, at: &Pointer) -> Result<String, SchemaError> {
        only(map, &["type", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"], at)?;
        let bound = |key: &str, exclusive: i128, up: bool| match map.get(key) {
            Some(Value::Number(n)) => match integer(n) {
                Some(n) => Ok(Some(n + exclusive)),
                None if n.as_f64().is_some_and(|x| x.abs() < 1e38) => {
                    let x = n.as_f64().unwrap_or(0.0);
                    Ok(Some(if up { x.ceil() } else { x.floor() } as i128))
                }
                None => Err(at.unsupported(format!("the bound {n} is too large: leave it out"))),
            },
            _ => Ok(None),
        };
        let least = bound("minimum", 0, true)?.into_iter().chain(bound("exclusiveMinimum", 1, true)?).max();
        let most = bound("maximum", 0, false)?.into_iter().chain(bound("exclusiveMaximum", -1, false)?).min();
        let pattern = range(least, most);
        match pattern.is_empty() {
            true => {
                Err(SchemaError::Empty { what: format!("no integer is within the bounds at {}", at.shown()) })
            }
            false => Ok(self.rule("INT", &format!("/{pattern}/"))),
        }
    }

    fn object(&mut self, map: &Map<String, Value>, at: &Pointer) -> Result<String, SchemaError> {
        only(map, &["type", "properties", "required", "additionalProperties"], at)?;
        let none = Map::new();
        let properties = map.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required = map.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let more = map.get("additionalProperties").cloned().unwrap_or(Value::Bool(true));
        let mut items = Vec::new();
        for (name, schema) in properties.iter().filter(|(_, schema)| **schema != Value::Bool(false)) {
            let value = self.value(schema, &at.shown())?;
            items.push((
                format!("{} \":\" {value}", self.text(&Value::from(name.as_str()).to_string())),
                required.iter().any(|one| one == name),
            ));
        }
        for name in required.iter().filter_map(Value::as_str).filter(|name| !properties.contains_key(*name)) {
            let value = self.value(&more, &at.shown())?;
            items.push((format!("{} \":\" {value}", self.text(&Value::from(name).to_string())), true));
        }
        // What may stand after the named properties: first in the object, or after a comma.
        let (mut first, mut next) = ("\"\"".to_owned(), "\"\"".to_owned());
        if more != Value::Bool(false) {
            let value = self.value(&more, &at.shown())?;
            let names =
                properties.keys().map(String::as_str).chain(required.iter().filter_map(Value::as_str));
            let taken: Vec<String> = names.map(|name| self.text(&Value::from(name).to_string())).collect();
            let string = r#"/"([^"\\\x00-\x1F\x7F]|\\["\\bfnrt])*"/"#;
            let key = match taken.is_empty() {
                true => self.rule("KEY", string),
                false => self.rule("KEY", &format!("{string} & ~({})", taken.join(" | "))),
            };
            let item = self.rule("more", &format!("{key} \":\" {value}"));
            next = self.rule("rest", &format!("(\",\" {item})*"));
            first = self.rule("rest", &format!("({item} (\",\" {item})*)?"));
        }
        for (item, needed) in items.into_iter().rev() {
            let item = self.rule("item", &item);
            (first, next) = match needed {
                true => (
                    self.rule("rest", &format!("{item} {next}")),
                    self.rule("rest", &format!("\",\" {item} {next}")),
                ),
                false => (
                    self.rule("rest", &format!("{item} {next} | {first}")),
                    self.rule("rest", &format!("(\",\" {item})? {next}")),
                ),
            };
        }
        Ok(self.rule("object", &format!("\"{{\" {first} \"}}\"")))
    }

    fn array(&mut self, map: &Map<String, Value>, at: &Pointer) -> Result<String, SchemaError> {
        only(map, &["type", "items", "minItems", "maxItems"], at)?;
        let item = self.value(map.get("items").unwrap_or(&Value::Bool(true)), &at.shown())?;
        let count = |key: &str| map.get(key).and_then(Value::as_u64);
        let (min, max) = (count("minItems").unwrap_or(0), count("maxItems"));
        if max == Some(0) {
            return Ok(self.rule("list", "\"[\" \"]\""));
        }
        let more = match max {
            Some(1) => String::new(),
            Some(max) if max <= i32::MAX as u64 => {
                format!("(\",\" {item}){{{},{}}}", min.saturating_sub(1), max - 1)
            }
            _ => format!("(\",\" {item}){{{},}}", min.saturating_sub(1)),
        };
        let optional = if min == 0 { "?" } else { "" };
        Ok(self.rule("list", &format!("\"[\" ({item} {more}){optional} \"]\"")))
    }
}

/// Refuses keywords besides those that are written.
fn only(map: &Map<String, Value>, known: &[&str], at: &Pointer) -> Result<(), SchemaError> {
    match map.keys().find(|key| *key != ORIGIN && !known.contains(&key.as_str())) {
        Some(key) => {
            Err(at.unsupported(format!("integers beyond 2^53 are not supported together with {key}")))
        }
        None => Ok(()),
    }
}

/// An expression for the integers of a range; an empty one for none.
fn range(least: Option<i128>, most: Option<i128>) -> String {
    let mut forms = Vec::new();
    // Below zero: the same range of absolute values, with a sign.
    if least.is_none_or(|least| least < 0) {
        let nearest = most.map_or(1, |most| (-most).max(1));
        let inner = not_negative(nearest, least.map(|least| -least));
        if !inner.is_empty() {
            forms.push(format!("-(?:{inner})"));
        }
    }
    if most.is_none_or(|most| most >= 0) {
        forms.push(not_negative(least.unwrap_or(0).max(0), most));
    }
    forms.retain(|form| !form.is_empty());
    forms.join("|")
}

/// An expression for the integers from `least`, which is not negative.
fn not_negative(least: i128, most: Option<i128>) -> String {
    if most.is_some_and(|most| most < least) {
        return String::new();
    }
    let from = least.to_string();
    let to = most.map(|most| most.to_string());
    let longest = to.as_ref().map_or(from.len(), String::len);
    let mut forms = Vec::new();
    for length in from.len()..=longest {
        let low = if length == from.len() { from.clone() } else { format!("1{}", "0".repeat(length - 1)) };
        let high = to.as_ref().filter(|to| to.len() == length).cloned().unwrap_or_else(|| "9".repeat(length));
        forms.push(same_length(&low, &high));
    }
    if to.is_none() {
        forms.push(format!("[1-9][0-9]{{{longest},}}"));
    }
    forms.join("|")
}

/// An expression for the decimal numbers between two of the same length.
fn same_length(low: &str, high: &str) -> String {
    let digits = |n: usize| match n {
        0 => String::new(),
        n => format!("[0-9]{{{n}}}"),
    };
    let (Some((a, low_rest)), Some((b, high_rest))) = (low.split_at_checked(1), high.split_at_checked(1))
    else {
        return String::new();
    };
    if low.is_empty() {
        return String::new();
    }
    let rest = low_rest.len();
    let (zeros, nines) = (low_rest.bytes().all(|d| d == b'0'), high_rest.bytes().all(|d| d == b'9'));
    if a == b {
        return match rest {
            0 => a.to_owned(),
            _ => format!("{a}(?:{})", same_length(low_rest, high_rest)),
        };
    }
    let step = |digit: &str, by: i8| {
        digit.bytes().next().map_or(0, |d| d.saturating_add_signed(by)).clamp(b'0', b'9')
    };
    let (mut first, mut last) = (step(a, 0), step(b, 0));
    let mut forms = Vec::new();
    if !zeros {
        forms.push(format!("{a}(?:{})", same_length(low_rest, &"9".repeat(rest))));
        first = first.saturating_add(1);
    }
    if !nines {
        forms.push(format!("{b}(?:{})", same_length(&"0".repeat(rest), high_rest)));
        last = last.saturating_sub(1);
    }
    if first <= last {
        forms.push(format!("[{}-{}]{}", char::from(first), char::from(last), digits(rest)));
    }
    forms.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an expression of digits, classes, groups and counts matches a text, by trying everything.
    fn matches(pattern: &str, text: &str) -> bool {
        ends_of(pattern.as_bytes(), text.as_bytes()).contains(&text.len())
    }

    /// The ends of the matches of `pattern` at the start of `text`.
    fn ends_of(pattern: &[u8], text: &[u8]) -> Vec<usize> {
        let mut depth = 0;
        for (at, byte) in pattern.iter().enumerate() {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'|' if depth == 0 => {
                    return [ends_of(&pattern[..at], text), ends_of(&pattern[at + 1..], text)].concat();
                }
                _ => {}
            }
        }
        let Some(&first) = pattern.first() else { return vec![0] };
        let close = |open: u8, close: u8| {
            let mut depth = 0;
            pattern.iter().position(|&byte| {
                depth += i32::from(byte == open) - i32::from(byte == close);
                depth == 0
            })
        };
        let (atom, rest) = match first {
            b'(' => pattern.split_at(close(b'(', b')').unwrap() + 1),
            b'[' => pattern.split_at(close(b'[', b']').unwrap() + 1),
            _ => pattern.split_at(1),
        };
        let once = |text: &[u8]| -> Vec<usize> {
            match atom {
                [b'(', b'?', b':', inner @ .., b')'] => ends_of(inner, text),
                [b'[', low, b'-', high, b']'] => {
                    text.first().filter(|c| (low..=high).contains(c)).map(|_| 1).into_iter().collect()
                }
                [one] => text.first().filter(|&c| c == one).map(|_| 1).into_iter().collect(),
                _ => panic!("{atom:?}"),
            }
        };
        let (mut min, mut max, mut after) = (1, 1, rest);
        if rest.first() == Some(&b'{') {
            let end = rest.iter().position(|&byte| byte == b'}').unwrap();
            let count = std::str::from_utf8(&rest[1..end]).unwrap();
            let (low, high) = count.split_once(',').unwrap_or((count, count));
            (min, max) = (low.parse().unwrap(), high.parse().unwrap_or(text.len()));
            after = &rest[end + 1..];
        }
        let (mut at, mut ends) = (vec![0], Vec::new());
        for round in 0..=max {
            if round >= min {
                ends.extend(at.iter().copied());
            }
            at = at.iter().flat_map(|&from| once(&text[from..]).into_iter().map(move |n| from + n)).collect();
        }
        ends.iter()
            .flat_map(|&from| ends_of(after, &text[from..]).into_iter().map(move |n| from + n))
            .collect()
    }

    #[test]
    fn ranges_are_exact() {
        let small: Vec<i128> = (-130..=130).collect();
        for least in [
            None,
            Some(-120),
            Some(-101),
            Some(-10),
            Some(-1),
            Some(0),
            Some(1),
            Some(9),
            Some(95),
            Some(107),
        ] {
            for most in [
                None,
                Some(-107),
                Some(-11),
                Some(-1),
                Some(0),
                Some(7),
                Some(10),
                Some(99),
                Some(100),
                Some(123),
            ] {
                let pattern = range(least, most);
                for &n in &small {
                    let expected = least.is_none_or(|least| n >= least) && most.is_none_or(|most| n <= most);
                    let found = !pattern.is_empty() && matches(&pattern, &n.to_string());
                    assert_eq!(found, expected, "{least:?} {most:?} {n}: {pattern}");
                }
            }
        }
        let pattern = range(Some((1 << 53) + 1), Some(u64::MAX.into()));
        for (text, expected) in [
            ("9007199254740992", false),
            ("9007199254740993", true),
            ("18446744073709551615", true),
            ("18446744073709551616", false),
        ] {
            assert_eq!(matches(&pattern, text), expected, "{text}");
        }
    }
}
