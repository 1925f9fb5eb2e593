//! Methods of texts.

use super::classes;
use crate::arguments::{Argument, Arguments};
use crate::error::{Error, Result};
use crate::format::braces;
use crate::machine::{Machine, indices};
use crate::markup::escape;
use crate::strings::{self, Ends};
use crate::text::{Origin, Text};
use crate::value::{List, Value};

const NAMES: [&str; 43] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name) || name == "zfill"
}

pub(super) fn call(
    machine: &mut Machine<'_>,
    text: &Text,
    name: &str,
    arguments: Arguments,
) -> Result<Value> {
    let budget = machine.budget;
    budget.scan(text.len())?;
    if let Some(answer) = classes::answer(text.as_str(), name) {
        arguments.none(name)?;
        return Ok(Value::Bool(answer));
    }
    let mapped = match name {
        "capitalize" => Some(strings::capitalize as fn(&_, &_) -> _),
        "casefold" => Some(casefold as fn(&_, &_) -> _),
        "lower" => Some(strings::lower as fn(&_, &_) -> _),
        "swapcase" => Some(strings::swap_case as fn(&_, &_) -> _),
        "title" => Some(strings::title_words as fn(&_, &_) -> _),
        "upper" => Some(strings::upper as fn(&_, &_) -> _),
        _ => None,
    };
    if let Some(map) = mapped {
        arguments.none(name)?;
        return Ok(Value::Text(map(budget, text)?));
    }
    match name {
        "center" | "ljust" | "rjust" | "zfill" => padded(machine, text, name, arguments),
        "count" | "find" | "index" | "rfind" | "rindex" => found(machine, text, name, arguments),
        "startswith" | "endswith" => affix(machine, text, name, arguments),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = arguments.bind(name, ["chars"], 0)?;
            let ends = match name {
                "lstrip" => Ends::Left,
                "rstrip" => Ends::Right,
                _ => Ends::Both,
            };
            let chars = chars.given().cloned();
            Ok(Value::Text(strings::strip(budget, text, chars.text("chars")?, ends)?))
        }
        "split" | "rsplit" => {
            let [separator, most] = arguments.bind(name, ["sep", "maxsplit"], 0)?;
            let separator = separator.given().cloned();
            let most = most.int("maxsplit")?;
            let pieces = strings::split(budget, text, separator.text("sep")?, most, name == "rsplit")?;
            slices(machine, text, pieces)
        }
        "splitlines" => {
            let [keep] = arguments.bind(name, ["keepends"], 0)?;
            slices(machine, text, strings::lines(budget, text.as_str(), keep.truth())?)
        }
        "partition" | "rpartition" => partition(machine, text, name, arguments),
        "removeprefix" | "removesuffix" => {
            let [affix] = arguments.bind(name, ["affix"], 1)?;
            let affix = affix.text("the argument")?.map_or("", Text::as_str);
            let string = text.as_str();
            let rest = if name == "removeprefix" {
                string.strip_prefix(affix).map(|rest| string.len() - rest.len()..string.len())
            } else {
                string.strip_suffix(affix).map(|rest| 0..rest.len())
            };
            Ok(Value::Text(text.slice(budget, rest.unwrap_or(0..string.len()))?))
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, ["old", "new", "count"], 2)?;
            let (Some(old), Some(new)) = (old.text("old")?, new.text("new")?) else {
                return Err(Error::operation("replace wants two texts"));
            };
            let new = if text.is_markup() { escape(budget, new)? } else { new.clone() };
            Ok(Value::Text(strings::replace(budget, text, old, &new, count.int("count")?)?))
        }
        "join" => {
            let [items] = arguments.bind(name, ["iterable"], 1)?;
            let mut items = machine.texts(&items.unwrap_or(Value::None))?;
            if text.is_markup() {
                items = items.iter().map(|item| escape(budget, item)).collect::<Result<_>>()?;
            }
            Ok(Value::Text(strings::join(budget, text, &items)?))
        }
        "expandtabs" => expand_tabs(machine, text, arguments),
        "format_map" => {
            let [map] = arguments.bind(name, ["mapping"], 1)?;
            let Some(Value::Dict(map)) = map else {
                return Err(Error::operation("format_map() wants a mapping"));
            };
            let mut arguments = Arguments::default();
            for (key, value) in map.entries() {
                budget.bytes(crate::value::VALUE_BYTES)?;
                if let Value::Text(key) = key {
                    arguments.named.push((key.clone(), value.clone()));
                }
            }
            Ok(Value::Text(braces(machine, text, arguments)?))
        }
        _ => Ok(Value::Text(braces(machine, text, arguments)?)),
    }
}

fn casefold(budget: &crate::budget::Budget, text: &Text) -> Result<Text> {
    let mut out = crate::text::TextBuilder::new(budget);
    for (ch, origin) in text.chars() {
        match ch {
            'ß' | 'ẞ' => out.push("ss", origin)?,
            'ς' => out.push_char('σ', origin)?,
            ch => out.push_chars(ch.to_lowercase(), origin)?,
        }
    }
    Ok(out.finish_as(text.is_markup()))
}

fn slices(machine: &Machine<'_>, text: &Text, pieces: Vec<std::ops::Range<usize>>) -> Result<Value> {
    let piece = |range| Ok(Value::Text(text.slice(machine.budget, range)?));
    let items = pieces.into_iter().map(piece).collect::<Result<Vec<_>>>()?;
    Ok(Value::List(List::new(machine.budget, items)?))
}

fn padded(machine: &Machine<'_>, text: &Text, name: &str, arguments: Arguments) -> Result<Value> {
    let budget = machine.budget;
    if name == "zfill" {
        let [width] = arguments.bind(name, ["width"], 1)?;
        let missing = strings::missing(text, width.int("width")?.unwrap_or(0))?;
        let sign = usize::from(text.as_str().starts_with(['+', '-']));
        let mut out = crate::text::TextBuilder::new(budget);
        out.push_slice(text, 0..sign)?;
        out.push_fill('0', missing, Origin::Program)?;
        out.push_slice(text, sign..text.len())?;
        return Ok(Value::Text(out.finish_as(text.is_markup())));
    }
    let [width, fill] = arguments.bind(name, ["width", "fillchar"], 1)?;
    let width = width.int("width")?.unwrap_or(0);
    let fill = match fill.text("fillchar")? {
        None => (' ', Origin::Program),
        Some(fill) => {
            let mut chars = fill.as_str().chars();
            match (chars.next(), chars.next()) {
                (Some(ch), None) => (ch, fill.origin()),
                _ => return Err(Error::operation("The fill character must be exactly one character long")),
            }
        }
    };
    let missing = strings::missing(text, width)?;
    Ok(Value::Text(match name {
        "center" => strings::center(budget, text, width, fill)?,
        "ljust" => strings::padded(budget, text, 0, missing, fill)?,
        _ => strings::padded(budget, text, missing, 0, fill)?,
    }))
}

/// The bytes between two places that are counted in characters, and how many characters are before them; `None` if the
/// first is after the end.
fn window(text: &str, start: Option<i128>, stop: Option<i128>) -> Option<(std::ops::Range<usize>, usize)> {
    let count = text.chars().count();
    // Slices begin at the end at the latest; what is searched for after it is not found.
    if start.is_some_and(|start| start > count as i128) {
        return None;
    }
    let (first, len) = indices(count, start, stop, 1);
    let place = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(place, _)| place);
    let (first, stop) = (
        first as usize,
        stop.map_or(count as i128, |stop| if stop < 0 { stop + count as i128 } else { stop }),
    );
    if len == 0 && stop < first as i128 {
        return None;
    }
    Some((place(first)..place(first + len), first))
}

fn found(machine: &Machine<'_>, text: &Text, name: &str, arguments: Arguments) -> Result<Value> {
    let [part, start, stop] = arguments.bind(name, ["sub", "start", "end"], 1)?;
    let Some(part) = part.text("the argument")? else { return Err(Error::operation("a text is missing")) };
    machine.budget.scan(part.len())?;
    let (start, stop) = (start.given().cloned().int("start")?, stop.given().cloned().int("end")?);
    let string = text.as_str();
    let window = window(string, start, stop);
    let inside = window.as_ref().map(|(range, _)| &string[range.clone()]);
    let origin = text.origin();
    if name == "count" {
        let count = inside.map_or(0, |inside| inside.matches(part.as_str()).count());
        return Ok(Value::Int(count as i128, origin));
    }
    let at = inside.and_then(|inside| match name {
        "find" | "index" => inside.find(part.as_str()),
        _ => inside.rfind(part.as_str()),
    });
    match (at, inside, window) {
        (Some(at), Some(inside), Some((_, before))) => {
            Ok(Value::Int((before + inside[..at].chars().count()) as i128, origin))
        }
        _ if name.ends_with("index") => Err(Error::operation("substring not found")),
        _ => Ok(Value::Int(-1, origin)),
    }
}

fn affix(machine: &Machine<'_>, text: &Text, name: &str, arguments: Arguments) -> Result<Value> {
    let [affixes, start, stop] = arguments.bind(name, ["affix", "start", "end"], 1)?;
    let (start, stop) = (start.given().cloned().int("start")?, stop.given().cloned().int("end")?);
    let string = text.as_str();
    let Some((range, _)) = window(string, start, stop) else { return Ok(Value::Bool(false)) };
    let inside = &string[range];
    let one = |affix: &Value| match affix {
        Value::Text(affix) => {
            machine.budget.scan(affix.len())?;
            Ok(match name {
                "startswith" => inside.starts_with(affix.as_str()),
                _ => inside.ends_with(affix.as_str()),
            })
        }
        other => Err(Error::operation(format!(
            "{name} first arg must be str or a tuple of str, not {}",
            other.type_name()
        ))),
    };
    match affixes {
        Some(Value::Tuple(list)) => {
            for affix in list.items() {
                machine.budget.steps(1)?;
                if one(affix)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        affix => Ok(Value::Bool(one(&affix.unwrap_or(Value::None))?)),
    }
}

fn partition(machine: &Machine<'_>, text: &Text, name: &str, arguments: Arguments) -> Result<Value> {
    let [separator] = arguments.bind(name, ["sep"], 1)?;
    let Some(separator) = separator.text("sep")?.filter(|separator| !separator.is_empty()) else {
        return Err(Error::operation("empty separator"));
    };
    let string = text.as_str();
    let (len, width) = (string.len(), separator.len());
    let ranges = if name == "partition" {
        string
            .find(separator.as_str())
            .map_or([0..len, len..len, len..len], |at| [0..at, at..at + width, at + width..len])
    } else {
        string
            .rfind(separator.as_str())
            .map_or([0..0, 0..0, 0..len], |at| [0..at, at..at + width, at + width..len])
    };
    let Value::List(items) = slices(machine, text, ranges.to_vec())? else { return Ok(Value::None) };
    Ok(Value::Tuple(items))
}

fn expand_tabs(machine: &Machine<'_>, text: &Text, arguments: Arguments) -> Result<Value> {
    let [size] = arguments.bind("expandtabs", ["tabsize"], 0)?;
    let size = usize::try_from(size.int("tabsize")?.unwrap_or(8).max(0)).unwrap_or(usize::MAX);
    let mut out = crate::text::TextBuilder::new(machine.budget);
    let mut column = 0;
    for (ch, origin) in text.chars() {
        match ch {
            '\t' if size > 0 => {
                let blanks = size - column % size;
                out.push_fill(' ', blanks, origin)?;
                column += blanks;
            }
            '\t' => {}
            ch => {
                column = if matches!(ch, '\n' | '\r') { 0 } else { column + 1 };
                out.push_char(ch, origin)?;
            }
        }
    }
    Ok(Value::Text(out.finish_as(text.is_markup())))
}
