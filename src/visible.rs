//! Characters that would not be shown as what they are: a terminal obeys control characters, and an editor shows nothing for others.

use std::borrow::Cow;

/// The text with an escape for each character that `hidden` names.
pub fn with_escapes(
    text: &str,
    hidden: impl Fn(char) -> bool,
    escape: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hidden(c) {
            true => escape(c, &mut out),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Writes a character as an escape of JSON, `\u001b`, which means the same inside of its strings.
pub fn escape_json(c: char, out: &mut String) {
    let mut units = [0; 2];
    c.encode_utf16(&mut units).iter().for_each(|unit| *out += &format!("\\u{unit:04x}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hidden_characters_are_escaped() {
        let controls = |text| with_escapes(text, char::is_control, escape_json);
        assert!(matches!(controls("aé\u{a0}"), Cow::Borrowed("aé\u{a0}")));
        assert_eq!(controls("a\u{1b}[31m\n"), "a\\u001b[31m\\u000a");
        assert_eq!(with_escapes("😀", |_| true, escape_json), "\\ud83d\\ude00");
    }
}
