//! Filters, functions and methods of chat templates, as Jinja2 with transformers' settings has them.
//!
//! What copies its argument charges the budget for the copy and is then the engine's own; what can make more than it was
//! given is written here. Filters that no chat template uses and that grow are taken away.

use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::bounded::{Budget, Text, failed};
use super::python::{JsonStyle, Sink, write_json, write_str};

/// Filters of the engine whose results are no larger than their arguments.
fn copying() -> [(&'static str, Value); 27] {
    [
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("items", Value::from_function(filters::items)),
        ("reverse", Value::from_function(filters::reverse)),
        ("trim", Value::from_function(filters::trim)),
        ("split", Value::from_function(filters::split)),
        ("default", Value::from_function(filters::default)),
        ("d", Value::from_function(filters::default)),
        ("int", Value::from_function(filters::int)),
        ("float", Value::from_function(filters::float)),
        ("attr", Value::from_function(filters::attr)),
        ("first", Value::from_function(filters::first)),
        ("last", Value::from_function(filters::last)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sort", Value::from_function(filters::sort)),
        ("list", Value::from_function(filters::list)),
        ("bool", Value::from_function(filters::bool)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("map", Value::from_function(filters::map)),
        ("unique", Value::from_function(filters::unique)),
    ]
}

/// Filters of the engine that grow and that are not replaced.
const REMOVED: [&str; 12] = [
    "escape",
    "e",
    "lines",
    "batch",
    "slice",
    "sum",
    "groupby",
    "chain",
    "zip",
    "pprint",
    "format",
    "urlencode",
];

/// Adds everything, with `now` as the time that `strftime_now` gives.
pub(super) fn add(environment: &mut Environment<'_>, budget: &Arc<Budget>, now: Option<jiff::Zoned>) {
    for name in REMOVED {
        environment.remove_filter(name);
    }
    environment.remove_global("debug");
    for (name, inner) in copying() {
        let own = Arc::clone(budget);
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            own.charge_copies(&arguments)?;
            inner.call(state, &arguments)
        });
    }
    let own = Arc::clone(budget);
    environment.add_filter("string", move |value: Value| text(&own, |out| write_str(&value, out)));
    let own = Arc::clone(budget);
    environment.add_filter("join", move |list: Value, separator: Option<Value>, options: Kwargs| {
        let attribute = options.get::<Option<String>>("attribute")?;
        options.assert_all_used()?;
        join(&own, &list, separator.as_ref(), attribute.as_deref())
    });
    let own = Arc::clone(budget);
    environment.add_filter("replace", move |value: Value, from: String, to: String, count: Option<i64>| {
        let value = text(&own, |out| write_str(&value, out))?;
        replace(&own, value.as_str().unwrap_or_default(), &from, &to, count)
    });
    let own = Arc::clone(budget);
    environment.add_filter(
        "indent",
        move |value: Value,
              width: Option<Value>,
              first: Option<bool>,
              blank: Option<bool>,
              options: Kwargs| {
            let width = match width {
                Some(width) => Some(width),
                None => options.get::<Option<Value>>("width")?,
            };
            let first = first.or(options.get::<Option<bool>>("first")?).unwrap_or(false);
            let blank = blank.or(options.get::<Option<bool>>("blank")?).unwrap_or(false);
            options.assert_all_used()?;
            indent(&own, &value, width.as_ref(), first, blank)
        },
    );
    let own = Arc::clone(budget);
    environment.add_filter("tojson", move |value: Value, ensure_ascii: Option<bool>, options: Kwargs| {
        let indent = options.get::<Option<usize>>("indent")?;
        let mut style = JsonStyle::new(indent);
        style.ensure_ascii = ensure_ascii.or(options.get::<Option<bool>>("ensure_ascii")?).unwrap_or(false);
        style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
        if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
            let [item, key] = <[String; 2]>::try_from(separators)
                .map_err(|_| failed("tojson: separators is a pair of texts"))?;
            (style.item_separator, style.key_separator) = (item, key);
        }
        options.assert_all_used()?;
        text(&own, |out| write_json(&value, &style, 0, out))
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(failed(format!("the template refuses these messages: {message}")))
    });
    environment.add_function("strftime_now", move |format: String| -> Result<Value, Error> {
        let now = now.clone().unwrap_or_else(jiff::Zoned::now);
        if format.len() > 256 {
            return Err(failed("strftime_now: the format is too long"));
        }
        jiff::fmt::strtime::format(&format, &now)
            .map(Value::from)
            .map_err(|error| failed(format!("strftime_now: {error}")))
    });
    let own = Arc::clone(budget);
    environment.set_unknown_method_callback(move |state, value, method, arguments| {
        call_method(&own, state, value, method, arguments)
    });
}

fn text(budget: &Budget, write: impl FnOnce(&mut dyn Sink) -> Result<(), Error>) -> Result<Value, Error> {
    let mut text = Text { text: String::new(), budget };
    write(&mut text)?;
    Ok(Value::from(text.text))
}

fn join(
    budget: &Budget,
    list: &Value,
    separator: Option<&Value>,
    attribute: Option<&str>,
) -> Result<Value, Error> {
    let items = list.try_iter()?;
    text(budget, |out| {
        for (at, item) in items.enumerate() {
            if let Some(separator) = separator.filter(|_| at > 0) {
                write_str(separator, out)?;
            }
            match attribute {
                Some(name) => write_str(&item.get_attr(name)?, out)?,
                None => write_str(&item, out)?,
            }
        }
        Ok(())
    })
}

fn replace(budget: &Budget, value: &str, from: &str, to: &str, count: Option<i64>) -> Result<Value, Error> {
    // A negative count is no limit, as in Python.
    let most = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let times = if from.is_empty() { value.len() + 1 } else { value.len() / from.len() };
    let times = if to.len() > from.len() { value.matches(from).take(most).count() } else { times.min(most) };
    let grown = times.saturating_mul(to.len().saturating_sub(from.len()));
    budget.charge(value.len().saturating_add(grown))?;
    Ok(Value::from(value.replacen(from, to, most)))
}

/// The lines of a text, as Python's `splitlines` gives them for the text with a line break behind it.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let is_break = |ch: char| {
        matches!(
            ch,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(at) = text.find(is_break) else {
            rest = None;
            return Some(text);
        };
        let (line, behind) = text.split_at(at);
        let mut broken = behind.chars();
        if broken.next() == Some('\r') {
            let behind = broken.as_str();
            // The break behind the text would belong to it.
            rest = (!behind.is_empty()).then(|| behind.strip_prefix('\n').unwrap_or(behind));
        } else {
            rest = Some(broken.as_str());
        }
        Some(line)
    })
}

fn indent(
    budget: &Budget,
    value: &Value,
    width: Option<&Value>,
    first: bool,
    blank: bool,
) -> Result<Value, Error> {
    let margin = match width {
        None => "    ".to_owned(),
        Some(width) => match width.as_str() {
            Some(margin) => margin.to_owned(),
            None => {
                let width = width.as_usize().filter(|&width| width <= 1 << 20);
                " ".repeat(width.ok_or_else(|| failed("indent: the width is a number up to 1048576"))?)
            }
        },
    };
    let value = text(budget, |out| write_str(value, out))?;
    text(budget, |out| {
        for (at, line) in lines(value.as_str().unwrap_or_default()).enumerate() {
            if at > 0 {
                out.put("\n")?;
            }
            if if at == 0 { first } else { blank || !line.is_empty() } {
                out.put(&margin)?;
            }
            out.put(line)?;
        }
        Ok(())
    })
}

/// The methods of Python's texts, lists and dictionaries.
fn call_method(
    budget: &Budget,
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    budget.charge_copies(arguments)?;
    match (value.as_str(), method) {
        (Some(separator), "join") => {
            let [list] = arguments else { return Err(failed("join takes one list")) };
            join(budget, list, Some(&Value::from(separator)), None)
        }
        (Some(value), "replace") => {
            let texts = (arguments.first().and_then(Value::as_str), arguments.get(1).and_then(Value::as_str));
            let (Some(from), Some(to)) = texts else { return Err(failed("replace takes two texts")) };
            replace(budget, value, from, to, arguments.get(2).and_then(Value::as_i64))
        }
        // A format can ask for any width.
        (Some(_), "format") => Err(Error::from(ErrorKind::UnknownMethod)),
        (Some(value), "removeprefix" | "removesuffix") => {
            let Some(part) = arguments.first().and_then(Value::as_str) else {
                return Err(failed(format!("{method} takes a text")));
            };
            budget.charge(value.len())?;
            let rest =
                if method == "removeprefix" { value.strip_prefix(part) } else { value.strip_suffix(part) };
            Ok(Value::from(rest.unwrap_or(value)))
        }
        (text, _) => {
            // Parts of a text each take a place of their own.
            let parts = if method.starts_with("split") { 8 } else { 1 };
            budget.charge(text.map_or(0, |text| text.len().saturating_mul(parts)))?;
            if text.is_none() && matches!(value.kind(), ValueKind::Map | ValueKind::Seq) {
                budget.charge_copies(std::slice::from_ref(value))?;
            }
            minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_splitlines() {
        for (text, expected) in [
            ("", &[""][..]),
            ("a", &["a"]),
            ("a\n", &["a", ""]),
            ("a\r", &["a"]),
            ("a\r\nb\rc", &["a", "b", "c"]),
            ("a\u{2028}b\u{b}\n", &["a", "b", "", ""]),
        ] {
            assert_eq!(lines(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }
}
