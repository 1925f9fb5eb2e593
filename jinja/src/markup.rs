//! HTML: escapes and texts that carry them, as the filters `escape`, `safe` and `striptags` have it.

use crate::budget::Budget;
use crate::error::Result;
use crate::strings;
use crate::text::{Origin, Text, TextBuilder};

/// A text with the characters of HTML replaced, as markup; markup stays as it is.
pub(crate) fn escape(budget: &Budget, text: &Text) -> Result<Text> {
    if text.is_markup() {
        return Ok(text.clone());
    }
    let mut escaped = TextBuilder::new(budget);
    for (ch, origin) in text.chars() {
        match ch {
            '&' => escaped.push("&amp;", origin)?,
            '<' => escaped.push("&lt;", origin)?,
            '>' => escaped.push("&gt;", origin)?,
            '\'' => escaped.push("&#39;", origin)?,
            '"' => escaped.push("&#34;", origin)?,
            ch => escaped.push_char(ch, origin)?,
        }
    }
    Ok(escaped.finish_as(true))
}

/// A text without comments and tags, in one line, with its entities resolved.
pub(crate) fn strip_tags(budget: &Budget, text: &Text) -> Result<Text> {
    let without_comments = without(budget, text, "<!--", "-->")?;
    let without_tags = without(budget, &without_comments, "<", ">")?;
    let pieces = strings::split(budget, &without_tags, None, None, false)?;
    let mut line = TextBuilder::new(budget);
    for (number, piece) in pieces.into_iter().enumerate() {
        if number > 0 {
            line.push(" ", Origin::Program)?;
        }
        line.push_slice(&without_tags, piece)?;
    }
    unescape(budget, &line.finish())
}

/// A text without what stands between two signs.
fn without(budget: &Budget, text: &Text, start: &str, end: &str) -> Result<Text> {
    budget.scan(text.len())?;
    let string = text.as_str();
    let mut out = TextBuilder::new(budget);
    let mut at = 0;
    while let Some(found) = string[at..].find(start) {
        let Some(len) = string[at + found..].find(end) else { break };
        out.push_slice(text, at..at + found)?;
        at += found + len + end.len();
    }
    out.push_slice(text, at..string.len())?;
    Ok(out.finish())
}

/// A text with the entities of [`escape`] and numbered ones as characters.
fn unescape(budget: &Budget, text: &Text) -> Result<Text> {
    let string = text.as_str();
    let mut out = TextBuilder::new(budget);
    let mut at = 0;
    while let Some(found) = string[at..].find('&') {
        let start = at + found;
        out.push_slice(text, at..start)?;
        let entity = string[start + 1..]
            .find(';')
            .filter(|len| *len <= 8)
            .map(|len| &string[start + 1..start + 1 + len]);
        let ch = entity.and_then(|entity| match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some('\u{a0}'),
            _ => {
                let number = entity.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                code.ok().and_then(char::from_u32)
            }
        });
        match (ch, entity) {
            (Some(ch), Some(entity)) => {
                let end = start + entity.len() + 2;
                let user = text.user_ranges().any(|range| range.start < end && start < range.end);
                out.push_char(ch, if user { Origin::User } else { Origin::Program })?;
                at = end;
            }
            _ => {
                out.push_slice(text, start..start + 1)?;
                at = start + 1;
            }
        }
    }
    out.push_slice(text, at..string.len())?;
    Ok(out.finish())
}
