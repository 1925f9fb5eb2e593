//! `'{}'.format(value)`.

use super::{Align, Spec, cut};
use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::markup::escape;
use crate::text::{Origin, Text, TextBuilder};
use crate::value::Value;
use crate::write::{to_repr, to_text};

/// How fields without a number are counted; mixing both is an error.
enum Numbering {
    Unknown,
    Automatic(usize),
    Manual,
}

struct Formatter<'m, 'b> {
    machine: &'m mut Machine<'b>,
    arguments: Arguments,
    numbering: Numbering,
    markup: bool,
}

/// A format string with its values.
pub(crate) fn braces(machine: &mut Machine<'_>, format: &Text, arguments: Arguments) -> Result<Text> {
    let markup = format.is_markup();
    let mut formatter = Formatter { machine, arguments, numbering: Numbering::Unknown, markup };
    let text = formatter.format(format, 2)?;
    text.marked(formatter.machine.budget, markup)
}

fn bad(reason: &str) -> Error {
    Error::operation(reason)
}

impl Formatter<'_, '_> {
    /// Fields may be nested in the layout of another.
    fn format(&mut self, format: &Text, levels: usize) -> Result<Text> {
        let Some(levels) = levels.checked_sub(1) else { return Err(bad("Max string recursion exceeded")) };
        let budget = self.machine.budget;
        budget.scan(format.len())?;
        let string = format.as_str();
        let mut out = TextBuilder::new(budget);
        let mut at = 0;
        while let Some(found) = string[at..].find(['{', '}']) {
            out.push_slice(format, at..at + found)?;
            at += found;
            let brace = &string[at..=at];
            if string[at + 1..].starts_with(brace) {
                out.push_slice(format, at..at + 1)?;
                at += 2;
                continue;
            }
            if brace == "}" {
                return Err(bad("Single '}' encountered in format string"));
            }
            let len = field_len(&string[at + 1..])?;
            let field = format.slice(budget, at + 1..at + 1 + len)?;
            self.field(&field, levels, &mut out)?;
            at += len + 2;
        }
        out.push_slice(format, at..string.len())?;
        Ok(out.finish())
    }

    fn field(&mut self, field: &Text, levels: usize, out: &mut TextBuilder<'_>) -> Result<()> {
        let budget = self.machine.budget;
        budget.steps(1)?;
        let string = field.as_str();
        let name_end = name_len(string);
        let value = self.value(&field.slice(budget, 0..name_end)?)?;
        let mut rest = name_end;
        let mut value = value;
        if string[rest..].starts_with('!') {
            value = match string[rest + 1..].chars().next() {
                Some('r' | 'a') => Value::Text(to_repr(self.machine, &value)?),
                Some('s') => Value::Text(to_text(self.machine, &value)?),
                _ => return Err(bad("Unknown conversion specifier")),
            };
            rest += 2;
        }
        let layout = match string[rest..].chars().next() {
            Some(':') => {
                let layout = field.slice(budget, rest + 1..string.len())?;
                self.format(&layout, levels)?
            }
            Some(_) => return Err(bad("expected ':' after conversion specifier")),
            None => Text::from(""),
        };
        self.lay_out(&value, &layout, out)
    }

    /// The value of a name such as `0`, `name.attribute` or `[key]`.
    fn value(&mut self, name: &Text) -> Result<Value> {
        let budget = self.machine.budget;
        let string = name.as_str();
        let first = string.find(['.', '[']).unwrap_or(string.len());
        let mut value = self.first(&string[..first])?;
        let mut at = first;
        while at < string.len() {
            if string[at..].starts_with('.') {
                let len = string[at + 1..].find(['.', '[']).unwrap_or(string.len() - at - 1);
                value = self.machine.attribute(&value, &name.slice(budget, at + 1..at + 1 + len)?)?;
                at += 1 + len;
            } else {
                let len = string[at..].find(']').ok_or_else(|| bad("Missing ']' in format string"))?;
                let key = name.slice(budget, at + 1..at + len)?;
                let key = match key.as_str().parse() {
                    Ok(number) => Value::Int(number, Origin::Program),
                    Err(_) => Value::Text(key),
                };
                value = self.machine.item(&value, &key)?;
                at += len + 1;
                if !string[at..].is_empty() && !string[at..].starts_with(['.', '[']) {
                    return Err(bad("Only '.' or '[' may follow ']' in format field specifier"));
                }
            }
        }
        Ok(value)
    }

    fn first(&mut self, name: &str) -> Result<Value> {
        let index = if name.is_empty() {
            let (Numbering::Unknown | Numbering::Automatic(_)) = self.numbering else {
                return Err(bad(
                    "cannot switch from manual field specification to automatic field numbering",
                ));
            };
            let next = if let Numbering::Automatic(next) = self.numbering { next } else { 0 };
            self.numbering = Numbering::Automatic(next + 1);
            next
        } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
            if let Numbering::Automatic(_) = self.numbering {
                return Err(bad(
                    "cannot switch from automatic field numbering to manual field specification",
                ));
            }
            self.numbering = Numbering::Manual;
            name.parse().unwrap_or(usize::MAX)
        } else {
            self.machine.budget.steps(self.arguments.named.len())?;
            let found = self.arguments.named.iter().find(|(known, _)| known.as_str() == name);
            return match found {
                Some((_, value)) => Ok(value.clone()),
                None => Err(Error::operation(format!("'{name}'"))),
            };
        };
        let value = self.arguments.positional.get(index).cloned();
        value.ok_or_else(|| {
            Error::operation(format!("Replacement index {index} out of range for positional args tuple"))
        })
    }

    fn lay_out(&mut self, value: &Value, layout: &Text, out: &mut TextBuilder<'_>) -> Result<()> {
        let machine = &*self.machine;
        let escaped = |text: Text| if self.markup { escape(machine.budget, &text) } else { Ok(text) };
        if layout.is_empty() {
            return out.push_text(&escaped(to_text(machine, value)?)?);
        }
        let spec = parse(layout.as_str())?;
        let fill = layout.origin();
        if let Value::Text(text) = value {
            if !matches!(spec.kind, None | Some('s')) {
                return Err(bad("Unknown format code for object of type 'str'"));
            }
            if spec.sign.is_some() || spec.align == Some(Align::BehindSign) && spec.fill != Some('0') {
                return Err(bad("Sign or '=' not allowed in string format specifier"));
            }
            let mut spec = spec;
            // `0` before the width only fills.
            spec.align = spec.align.filter(|align| *align != Align::BehindSign);
            let text = escaped(cut(machine.budget, text, spec.precision)?)?;
            return spec.pad(out, "", &text, Align::Left, fill);
        }
        if let (Some('c'), Some(code)) = (spec.kind, value.as_index()) {
            let ch = u32::try_from(code).ok().and_then(char::from_u32);
            let ch = ch.ok_or_else(|| bad("%c arg not in range(0x110000)"))?;
            return spec.pad(out, "", &Text::new(ch, value.origin()), Align::Left, fill);
        }
        let written = spec.number(out, value, fill)?;
        written.ok_or_else(|| {
            let kind = value.type_name();
            Error::operation(format!("unsupported format string passed to {kind}.__format__"))
        })
    }
}

/// The length of a field up to its closing brace.
fn field_len(text: &str) -> Result<usize> {
    let mut depth = 0_usize;
    for (at, ch) in text.char_indices() {
        match ch {
            '{' => depth += 1,
            '}' if depth == 0 => return Ok(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    Err(bad("expected '}' before end of string"))
}

/// The length of the name in front of `!` or `:`, neither of which ends it within brackets.
fn name_len(field: &str) -> usize {
    let mut within = false;
    for (at, ch) in field.char_indices() {
        match ch {
            '[' => within = true,
            ']' => within = false,
            '!' | ':' if !within => return at,
            _ => {}
        }
    }
    field.len()
}

fn align(ch: char) -> Option<Align> {
    Some(match ch {
        '<' => Align::Left,
        '>' => Align::Right,
        '^' => Align::Center,
        '=' => Align::BehindSign,
        _ => return None,
    })
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][kind]`.
fn parse(layout: &str) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut chars = layout.chars().peekable();
    let mut ahead = layout.chars();
    let (first, second) = (ahead.next(), ahead.next());
    if let Some(found) = second.and_then(align) {
        (spec.fill, spec.align) = (first, Some(found));
        chars.nth(1);
    } else if let Some(found) = first.and_then(align) {
        spec.align = Some(found);
        chars.next();
    }
    if let Some(sign) = chars.next_if(|ch| matches!(ch, '+' | '-' | ' ')) {
        spec.sign = Some(sign).filter(|sign| *sign != '-');
    }
    spec.alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() {
        spec.fill = spec.fill.or(Some('0'));
        spec.align = spec.align.or(Some(Align::BehindSign));
    }
    let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        let mut text = String::new();
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            text.push(digit);
        }
        match text.as_str() {
            "" => Ok(None),
            _ => text.parse::<usize>().map(Some).map_err(|_| Error::limit("a width is too large")),
        }
    };
    spec.width = digits(&mut chars)?.unwrap_or(0);
    spec.grouping = chars.next_if(|ch| matches!(ch, ',' | '_'));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = Some(digits(&mut chars)?.ok_or_else(|| bad("Format specifier missing precision"))?);
    }
    spec.kind = chars.next();
    if chars.next().is_some() {
        return Err(bad("Invalid format specifier"));
    }
    spec.check()
}
