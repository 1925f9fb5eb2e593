//! `'%s' % value`.

use super::{Align, Spec, cut};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::markup::escape;
use crate::text::{Text, TextBuilder};
use crate::value::{Key, List, Value};
use crate::write::{to_repr, to_text};

/// What is formatted: one after the other, or by name.
struct Values<'v> {
    all: &'v [Value],
    used: usize,
    whole: &'v Value,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value> {
        let value = self.all.get(self.used).cloned();
        self.used += 1;
        value.ok_or_else(|| Error::operation("not enough arguments for format string"))
    }

    fn named(&self, machine: &Machine<'_>, name: &Text) -> Result<Value> {
        let Value::Dict(dict) = self.whole else { return Err(Error::operation("format requires a mapping")) };
        let found = dict.get(&Key::of(machine.budget, &Value::Text(name.clone()))?);
        found.cloned().ok_or_else(|| Error::operation(format!("'{}'", name.as_str())))
    }
}

/// A format string with its values: a tuple of several, a mapping, or one.
pub(crate) fn percent(machine: &mut Machine<'_>, format: &Text, values: &Value) -> Result<Text> {
    let single = std::slice::from_ref(values);
    let all = if let Value::Tuple(list) = values { List::items(list) } else { single };
    let mut values = Values { all, used: 0, whole: values };
    let mut out = TextBuilder::new(machine.budget);
    machine.budget.scan(format.len())?;
    let string = format.as_str();
    let mut at = 0;
    while let Some(found) = string[at..].find('%') {
        out.push_slice(format, at..at + found)?;
        at += found + 1;
        at += conversion(machine, format, at, &mut values, &mut out)?;
    }
    out.push_slice(format, at..string.len())?;
    // What has items by key or index need not be used.
    let is_mapping =
        matches!(values.whole, Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_));
    if values.used < values.all.len() && !is_mapping {
        return Err(Error::operation("not all arguments converted during string formatting"));
    }
    Ok(out.finish_as(format.is_markup()))
}

/// Formats one value, given what follows its `%`: how long that is.
fn conversion(
    machine: &mut Machine<'_>,
    format: &Text,
    start: usize,
    values: &mut Values<'_>,
    out: &mut TextBuilder<'_>,
) -> Result<usize> {
    machine.budget.steps(1)?;
    let rest = &format.as_str()[start..];
    let mut at = 0;
    let mut named = None;
    if rest.starts_with('(') {
        let end = rest.find(')').ok_or_else(|| Error::operation("incomplete format key"))?;
        let name = format.slice(machine.budget, start + 1..start + end)?;
        named = Some(values.named(machine, &name)?);
        at = end + 1;
    }
    let mut spec = Spec::default();
    let mut zero = false;
    while let Some(flag) = rest[at..].chars().next().filter(|ch| "-+ #0".contains(*ch)) {
        match flag {
            '-' => spec.align = Some(Align::Left),
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '#' => spec.alternate = true,
            _ => zero = true,
        }
        at += 1;
    }
    let width = length(rest, &mut at, values)?.unwrap_or(0);
    if width < 0 {
        spec.align = Some(Align::Left);
    }
    spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    if rest[at..].starts_with('.') {
        at += 1;
        let precision = length(rest, &mut at, values)?.unwrap_or(0);
        spec.precision = Some(usize::try_from(precision).unwrap_or(0));
    }
    at += rest[at..].bytes().take_while(|byte| b"hlL".contains(byte)).count();
    let Some(kind) = rest[at..].chars().next() else { return Err(Error::operation("incomplete format")) };
    at += kind.len_utf8();
    if kind == '%' {
        out.push("%", format.origin_at(start + at - 1))?;
        return Ok(at);
    }
    let value = match named {
        Some(value) => value,
        None => values.next()?,
    };
    if zero && spec.align.is_none() && !matches!(kind, 's' | 'r' | 'a' | 'c') {
        (spec.fill, spec.align) = (Some('0'), Some(Align::BehindSign));
    }
    spec.kind = Some(kind);
    one(machine, spec, &value, format, out)?;
    Ok(at)
}

/// A width or precision: digits, or `*` for a value.
fn length(rest: &str, at: &mut usize, values: &mut Values<'_>) -> Result<Option<i128>> {
    if rest[*at..].starts_with('*') {
        *at += 1;
        let value = values.next()?;
        return value.as_index().map(Some).ok_or_else(|| Error::operation("* wants int"));
    }
    let digits = rest[*at..].bytes().take_while(u8::is_ascii_digit).count();
    let number = &rest[*at..*at + digits];
    *at += digits;
    match number {
        "" => Ok(None),
        _ => number.parse().map(Some).map_err(|_| Error::limit("a width is too large")),
    }
}

fn one(
    machine: &mut Machine<'_>,
    spec: Spec,
    value: &Value,
    format: &Text,
    out: &mut TextBuilder<'_>,
) -> Result<()> {
    let kind = spec.kind.unwrap_or('s');
    let fill = format.origin();
    let budget = machine.budget;
    match kind {
        's' | 'r' | 'a' => {
            let mut text = if kind == 's' { to_text(machine, value)? } else { to_repr(machine, value)? };
            if format.is_markup() {
                text = escape(budget, &text)?;
            }
            spec.pad(out, "", &cut(budget, &text, spec.precision)?, Align::Right, fill)
        }
        'c' => {
            let text = match value {
                Value::Text(text) if text.as_str().chars().count() == 1 => text.clone(),
                _ => {
                    let code = value.as_index().and_then(|code| u32::try_from(code).ok());
                    let ch = code.and_then(char::from_u32);
                    let ch = ch.ok_or_else(|| Error::operation("%c requires an int or a char"))?;
                    Text::new(ch, value.origin())
                }
            };
            spec.pad(out, "", &text, Align::Right, fill)
        }
        'd' | 'i' | 'u' => {
            let whole = match value {
                Value::Float(number, origin) if number.is_finite() && number.abs() < 1e38 => {
                    Value::Int(number.trunc() as i128, *origin)
                }
                _ if value.as_index().is_some() => value.clone(),
                other => {
                    let given = other.type_name();
                    return Err(Error::operation(format!(
                        "%{kind} format: a real number is required, not {given}"
                    )));
                }
            };
            digits(spec, 'd', &whole, fill, out)
        }
        'x' | 'X' | 'o' => digits(spec, kind, value, fill, out),
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let spec = spec.check()?;
            spec.number(out, value, fill)?
                .ok_or_else(|| Error::operation(format!("must be real number, not {}", value.type_name())))
        }
        _ => Err(Error::operation(format!("unsupported format character '{kind}'"))),
    }
}

/// Whole numbers, whose precision is the least number of digits.
fn digits(
    mut spec: Spec,
    kind: char,
    value: &Value,
    fill: crate::Origin,
    out: &mut TextBuilder<'_>,
) -> Result<()> {
    spec = spec.check()?;
    spec.kind = Some(kind);
    let least = spec.precision.take().unwrap_or(0);
    let shortest = spec.whole_len(value);
    if least > shortest {
        // Zeros in front of the digits, and blanks in front of those.
        let Some(number) = value.as_index() else { return bad_int(kind, value) };
        let sign = if number < 0 { "-" } else { "" };
        let zeros = "0".repeat(least - shortest);
        let text = match kind {
            'x' => format!("{sign}{zeros}{:x}", number.unsigned_abs()),
            'X' => format!("{sign}{zeros}{:X}", number.unsigned_abs()),
            'o' => format!("{sign}{zeros}{:o}", number.unsigned_abs()),
            _ => format!("{sign}{zeros}{}", number.unsigned_abs()),
        };
        return spec.pad(out, "", &Text::new(text, value.origin()), Align::Right, fill);
    }
    match spec.number(out, value, fill)? {
        Some(()) => Ok(()),
        None => bad_int(kind, value),
    }
}

fn bad_int(kind: char, value: &Value) -> Result<()> {
    Err(Error::operation(format!("%{kind} format: an integer is required, not {}", value.type_name())))
}

impl Spec {
    /// How many digits a whole number has in this kind.
    fn whole_len(&self, value: &Value) -> usize {
        let number = value.as_index().unwrap_or(0).unsigned_abs();
        match self.kind {
            Some('x' | 'X') => format!("{number:x}").len(),
            Some('o') => format!("{number:o}").len(),
            _ => number.to_string().len(),
        }
    }
}
