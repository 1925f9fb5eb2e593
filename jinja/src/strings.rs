//! Operations on texts that filters and methods share. All of them copy pieces or map characters, so that origins stay.

use std::collections::HashSet;
use std::ops::Range;

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::lexer::is_space;
use crate::text::{Origin, Text, TextBuilder};

/// Whether a character has case.
fn is_cased(ch: char) -> bool {
    ch.is_lowercase() || ch.is_uppercase() || is_titlecase(ch)
}

fn is_titlecase(ch: char) -> bool {
    matches!(ch, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

/// The small letters of a character between two others: a sigma at the end of a word has a form of its own.
fn push_lower(
    out: &mut TextBuilder<'_>,
    (ch, origin): (char, Origin),
    before: Option<char>,
    after: Option<char>,
) -> Result<()> {
    if ch == 'Σ' && before.is_some_and(is_cased) && !after.is_some_and(is_cased) {
        return out.push_char('ς', origin);
    }
    out.push_chars(ch.to_lowercase(), origin)
}

/// The form of a character at the start of a word.
fn push_title(out: &mut TextBuilder<'_>, (ch, origin): (char, Origin)) -> Result<()> {
    let title = match ch {
        'Ǆ' | 'ǅ' | 'ǆ' => 'ǅ',
        'Ǉ' | 'ǈ' | 'ǉ' => 'ǈ',
        'Ǌ' | 'ǋ' | 'ǌ' => 'ǋ',
        'Ǳ' | 'ǲ' | 'ǳ' => 'ǲ',
        'ა'..='ჿ' => ch,
        _ => {
            let mut letters = ch.to_uppercase();
            if let Some(first) = letters.next() {
                out.push_char(first, origin)?;
            }
            return letters.try_for_each(|letter| out.push_chars(letter.to_lowercase(), origin));
        }
    };
    out.push_char(title, origin)
}

/// Maps each character, given those before and after it.
fn mapped(
    budget: &Budget,
    text: &Text,
    mut map: impl FnMut(&mut TextBuilder<'_>, (char, Origin), Option<char>, Option<char>) -> Result<()>,
) -> Result<Text> {
    let mut out = TextBuilder::new(budget);
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(next) = chars.next() {
        let after = chars.peek().map(|&(ch, _)| ch);
        map(&mut out, next, before, after)?;
        before = Some(next.0);
    }
    Ok(out.finish_as(text.is_markup()))
}

pub(crate) fn lower(budget: &Budget, text: &Text) -> Result<Text> {
    mapped(budget, text, push_lower)
}

pub(crate) fn upper(budget: &Budget, text: &Text) -> Result<Text> {
    mapped(budget, text, |out, (ch, origin), _, _| out.push_chars(ch.to_uppercase(), origin))
}

pub(crate) fn capitalize(budget: &Budget, text: &Text) -> Result<Text> {
    mapped(budget, text, |out, next, before, after| match before {
        None => push_title(out, next),
        Some(_) => push_lower(out, next, before, after),
    })
}

pub(crate) fn swap_case(budget: &Budget, text: &Text) -> Result<Text> {
    mapped(budget, text, |out, (ch, origin), before, after| match ch {
        ch if ch.is_uppercase() => push_lower(out, (ch, origin), before, after),
        ch if ch.is_lowercase() => out.push_chars(ch.to_uppercase(), origin),
        ch => out.push_char(ch, origin),
    })
}

/// Python's `str.title`: words are runs of letters that have case.
pub(crate) fn title_words(budget: &Budget, text: &Text) -> Result<Text> {
    mapped(budget, text, |out, next, before, after| match before.is_some_and(is_cased) {
        false => push_title(out, next),
        true => push_lower(out, next, before, after),
    })
}

/// Jinja2's filter `title`: words begin after white space and a few signs.
pub(crate) fn title_filter(budget: &Budget, text: &Text) -> Result<Text> {
    let separates = |ch: char| is_space(ch) || matches!(ch, '-' | '(' | '{' | '[' | '<');
    // The first letter of a word is not looked at for the form of the second.
    let mut first = true;
    mapped(budget, text, |out, (ch, origin), before, after| {
        let starts = before.is_none_or(separates);
        let before = before.filter(|_| !std::mem::replace(&mut first, starts));
        match starts {
            true => out.push_chars(ch.to_uppercase(), origin),
            false => push_lower(out, (ch, origin), before, after.filter(|ch| !separates(*ch))),
        }
    })
}

/// Whether all letters that have case are of one, and there are some; title case where neither is asked for.
pub(crate) fn has_case(text: &str, wanted: fn(char) -> bool) -> bool {
    let mut cased = text.chars().filter(|ch| is_cased(*ch)).peekable();
    cased.peek().is_some() && cased.all(wanted)
}

pub(crate) fn is_title(text: &str) -> bool {
    let mut before = false;
    let mut any = false;
    for ch in text.chars() {
        let (upper, lower) = (ch.is_uppercase() || is_titlecase(ch), ch.is_lowercase());
        if upper && before || lower && !before {
            return false;
        }
        before = upper || lower;
        any |= before;
    }
    any
}

/// Which ends are stripped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    Left,
    Right,
    Both,
}

/// The text without white space, or the given characters, at its ends.
pub(crate) fn strip(budget: &Budget, text: &Text, chars: Option<&Text>, ends: Ends) -> Result<Text> {
    budget.scan(text.len() + chars.map_or(0, Text::len))?;
    let set: Option<HashSet<char>> = chars.map(|chars| chars.as_str().chars().collect());
    let goes = |ch: char| set.as_ref().map_or_else(|| is_space(ch), |set| set.contains(&ch));
    let string = text.as_str();
    let start = if ends == Ends::Right { 0 } else { string.len() - string.trim_start_matches(goes).len() };
    let rest = &string[start..];
    let end = if ends == Ends::Left { rest.len() } else { rest.trim_end_matches(goes).len() };
    text.slice(budget, start..start + end)
}

pub(crate) fn replace(
    budget: &Budget,
    text: &Text,
    from: &Text,
    to: &Text,
    count: Option<i128>,
) -> Result<Text> {
    let most = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    budget.scan(text.len())?;
    let mut out = TextBuilder::new(budget);
    let mut done = 0;
    for (at, found) in text.as_str().match_indices(from.as_str()).take(most) {
        out.push_slice(text, done..at)?;
        out.push_text(to)?;
        done = at + found.len();
    }
    out.push_slice(text, done..text.len())?;
    Ok(out.finish_as(text.is_markup()))
}

/// Where the pieces of a text are between separators, or between white space.
pub(crate) fn split(
    budget: &Budget,
    text: &Text,
    separator: Option<&Text>,
    most: Option<i128>,
    from_right: bool,
) -> Result<Vec<Range<usize>>> {
    budget.scan(text.len())?;
    let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let string = text.as_str();
    let Some(separator) = separator else { return split_at_space(budget, string, most, from_right) };
    if separator.is_empty() {
        return Err(Error::operation("empty separator"));
    }
    let width = separator.len();
    let mut cuts: Vec<usize> = if from_right {
        string.rmatch_indices(separator.as_str()).take(most).map(|(at, _)| at).collect()
    } else {
        string.match_indices(separator.as_str()).take(most).map(|(at, _)| at).collect()
    };
    if from_right {
        cuts.reverse();
    }
    budget.bytes(cuts.len() * 24)?;
    let mut pieces = Vec::with_capacity(cuts.len() + 1);
    let mut start = 0;
    for cut in cuts {
        pieces.push(start..cut);
        start = cut + width;
    }
    pieces.push(start..string.len());
    Ok(pieces)
}

fn split_at_space(budget: &Budget, string: &str, most: usize, from_right: bool) -> Result<Vec<Range<usize>>> {
    let mut pieces = Vec::new();
    let (mut start, mut end) = (0, string.len());
    loop {
        budget.bytes(24)?;
        start += string[start..end].len() - string[start..end].trim_start_matches(is_space).len();
        end = start + string[start..end].trim_end_matches(is_space).len();
        if pieces.len() == most && start < end {
            // The rest keeps the white space at its far end.
            let rest = if from_right { 0..end } else { start..string.len() };
            let far = &string[rest.clone()];
            let rest = if from_right {
                rest.end - far.trim_end_matches(is_space).len()..rest.end
            } else {
                rest.start..rest.start + far.len()
            };
            pieces.push(rest);
            break;
        }
        if start >= end {
            break;
        }
        let inside = &string[start..end];
        if from_right {
            let at =
                inside.char_indices().rfind(|&(_, ch)| is_space(ch)).map_or(0, |(at, ch)| at + ch.len_utf8());
            pieces.push(start + at..end);
            end = start + at;
        } else {
            let at = inside.find(is_space).unwrap_or(inside.len());
            pieces.push(start..start + at);
            start += at;
        }
    }
    if from_right {
        pieces.reverse();
    }
    Ok(pieces)
}

/// Whether Python's `splitlines` breaks at a character.
fn breaks_line(ch: char) -> bool {
    matches!(ch, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Where the lines of a text are, with or without what ends them.
pub(crate) fn lines(budget: &Budget, text: &str, keep: bool) -> Result<Vec<Range<usize>>> {
    budget.scan(text.len())?;
    let mut lines = Vec::new();
    let mut start = 0;
    while start < text.len() {
        budget.bytes(24)?;
        let rest = &text[start..];
        let end = rest.find(breaks_line).unwrap_or(rest.len());
        let mut following = rest[end..].chars();
        let mut width = following.next().map_or(0, char::len_utf8);
        if rest[end..].starts_with("\r\n") {
            width = 2;
        }
        lines.push(start..start + end + if keep { width } else { 0 });
        start += end + width;
    }
    Ok(lines)
}

/// The texts with a separator between.
pub(crate) fn join(budget: &Budget, separator: &Text, items: &[Text]) -> Result<Text> {
    let mut out = TextBuilder::new(budget);
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push_text(separator)?;
        }
        out.push_text(item)?;
    }
    Ok(out.finish_as(separator.is_markup()))
}

/// The text without a number of characters on both sides.
pub(crate) fn padded(
    budget: &Budget,
    text: &Text,
    left: usize,
    right: usize,
    fill: (char, Origin),
) -> Result<Text> {
    let mut out = TextBuilder::new(budget);
    out.push_fill(fill.0, left, fill.1)?;
    out.push_text(text)?;
    out.push_fill(fill.0, right, fill.1)?;
    Ok(out.finish_as(text.is_markup()))
}

/// The text in the middle of a width, as CPython divides what is missing.
pub(crate) fn center(budget: &Budget, text: &Text, width: i128, fill: (char, Origin)) -> Result<Text> {
    let missing = missing(text, width)?;
    let width = usize::try_from(width).unwrap_or(0);
    let left = missing / 2 + (missing & width & 1);
    padded(budget, text, left, missing - left, fill)
}

/// How many characters a text lacks for a width.
pub(crate) fn missing(text: &Text, width: i128) -> Result<usize> {
    let missing = width.saturating_sub(text.as_str().chars().count() as i128).max(0);
    usize::try_from(missing).map_err(|_| Error::limit("a width is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;

    #[test]
    fn cases() {
        let budget = Budget::new(&Limits::default());
        let text = Text::from("ΑΣ ß ǆo's they're-(x");
        assert_eq!(lower(&budget, &text).unwrap().as_str(), "ας ß ǆo's they're-(x");
        assert_eq!(upper(&budget, &text).unwrap().as_str(), "ΑΣ SS ǄO'S THEY'RE-(X");
        assert_eq!(title_words(&budget, &text).unwrap().as_str(), "Ας Ss ǅo'S They'Re-(X");
        assert_eq!(title_filter(&budget, &text).unwrap().as_str(), "Ασ SS Ǆo's They're-(X");
        assert_eq!(capitalize(&budget, &Text::from("ßA")).unwrap().as_str(), "Ssa");
        assert!(is_title("Aa Bb") && !is_title("aA") && !is_title("1"));
    }

    #[test]
    fn pieces() {
        let budget = Budget::new(&Limits::default());
        let pieces = |text: &str, separator: Option<&str>, most: i128, right: bool| -> Vec<String> {
            let text = Text::from(text);
            let ranges =
                split(&budget, &text, separator.map(Text::from).as_ref(), Some(most), right).unwrap();
            ranges.into_iter().map(|range| text.as_str()[range].to_owned()).collect()
        };
        assert_eq!(pieces("  a b  c ", None, -1, false), ["a", "b", "c"]);
        assert_eq!(pieces("  a b  c ", None, 1, false), ["a", "b  c "]);
        assert_eq!(pieces("  a b  c ", None, 1, true), ["  a b", "c"]);
        assert_eq!(pieces("a,b,,c", Some(","), -1, false), ["a", "b", "", "c"]);
        assert_eq!(pieces("a,b,,c", Some(","), 2, true), ["a,b", "", "c"]);
        assert!(pieces("  ", None, -1, false).is_empty());
        assert_eq!(lines(&budget, "a\r\nb\n\nc\u{2028}", false).unwrap(), [0..1, 3..4, 5..5, 6..7]);
        assert_eq!(lines(&budget, "a\r\nb", true).unwrap(), [0..3, 3..4]);
    }
}
