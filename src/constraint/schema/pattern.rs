//! Patterns: from ECMA-262, which JSON Schema uses, to the dialect of the engine.
//!
//! Both agree but for some escapes. What the engine lacks (look-around, back references, word boundaries) is its refusal.

/// What ECMA-262 calls white space, inside of a class.
const SPACE: &str =
    r"\t\n\x0B\x0C\r\x20\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}";

/// The pattern in the dialect of the engine.
pub(super) fn from_ecma(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('s') => out.extend(["[", SPACE, "]"]),
                Some('S') => out.extend(["[^", SPACE, "]"]),
                Some('/') => out.push('/'),
                Some('c') if chars.peek().is_some_and(char::is_ascii_alphabetic) => {
                    let control = chars.next().map_or(0, |letter| letter as u32 % 32);
                    out.push_str(&format!("\\x{control:02X}"));
                }
                Some('0') if !chars.peek().is_some_and(char::is_ascii_digit) => out.push_str("\\x00"),
                Some('u') => escape_u(&mut chars, &mut out),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if chars.peek() == Some(&']') => {
                chars.next();
                // A class without a character.
                out.push_str("[^\\x00-\\x{10FFFF}]");
            }
            c => out.push(c),
        }
    }
    out
}

/// `\uXXXX`, where two may make one character, and `\u{X}`, after the `u`.
fn escape_u(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    let four = |rest: &str| rest.get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let rest: String = chars.clone().take(10).collect();
    let Some(first) = four(&rest) else { return out.push_str("\\u") };
    let second = rest.get(4..).and_then(|rest| rest.strip_prefix("\\u")).and_then(four);
    let code = match (first, second) {
        (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
            chars.nth(9);
            0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00)
        }
        _ => {
            chars.nth(3);
            first
        }
    };
    out.push_str(&format!("\\x{{{code:X}}}"));
}

/// Whether JSON has no short escape for a control character.
pub(super) fn is_control(c: char) -> bool {
    (c < ' ' || c == '\u{7f}') && !matches!(c, '\u{8}' | '\u{c}' | '\n' | '\r' | '\t')
}

/// Whether a pattern spells out a control character that JSON has no short escape for.
pub(super) fn has_control(pattern: &str) -> bool {
    // White space is a class, in which nothing depends on a single character.
    let pattern = pattern.replace(SPACE, "");
    let spelled = |prefix: &str| {
        pattern.match_indices(prefix).any(|(at, _)| {
            let digits = pattern[at + prefix.len()..].trim_start_matches(['{', '0']);
            let hex = digits.chars().take_while(char::is_ascii_hexdigit).take(2).collect::<String>();
            let code = u32::from_str_radix(&hex, 16).unwrap_or(0);
            code < 0x20 || code == 0x7f
        })
    };
    pattern.contains(is_control) || pattern.contains(r"\v") || spelled(r"\x") || spelled(r"\u")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_translated() {
        assert_eq!(from_ecma(r"^\cA\/\\s\0\d$"), r"^\x01/\\s\x00\d$");
        assert_eq!(from_ecma(r"\ud83d\udc32\u0041\u{1F432}"), r"\x{1F432}\x{41}\u{1F432}");
        assert!(from_ecma(r"[\s]").contains("FEFF") && from_ecma("[]") != "[]");
        assert!(
            has_control(r"a\x01")
                && has_control("a\u{1}")
                && has_control(r"\x{7F}")
                && !has_control(r"\x41\n\x{A0}")
        );
    }
}
