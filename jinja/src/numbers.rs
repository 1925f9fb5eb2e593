//! Numbers written in texts, as Python's `int` and `float` read them.

use crate::lexer::is_space;

/// The digits without the underscores between them; `None` if one stands elsewhere.
fn without_underscores(text: &str) -> Option<String> {
    let fits = |(at, _): (usize, &str)| {
        let around = [text[..at].chars().next_back(), text[at + 1..].chars().next()];
        around.iter().all(|ch| ch.is_some_and(|ch| ch.is_ascii_alphanumeric()))
    };
    text.match_indices('_').all(fits).then(|| text.replace('_', ""))
}

/// A whole number in a base from 2 to 36, or in the one that its prefix says (0).
pub(crate) fn int_of_text(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        Some("0b") => Some(2),
        _ => None,
    };
    let (radix, digits) = match (base, prefixed) {
        (0, Some(radix)) => (radix, digits[2..].strip_prefix('_').unwrap_or(&digits[2..])),
        (16 | 8 | 2, Some(radix)) if radix == base => {
            (radix, digits[2..].strip_prefix('_').unwrap_or(&digits[2..]))
        }
        (0, None) if digits.starts_with('0') && digits.bytes().any(|byte| matches!(byte, b'1'..=b'9')) => {
            return None;
        }
        (0, None) => (10, digits),
        (base, _) => (base, digits),
    };
    let digits = without_underscores(digits)?;
    let digits: String = digits.chars().map(decimal_digit).collect();
    if !digits.starts_with(|ch: char| ch.is_ascii_alphanumeric()) {
        return None;
    }
    i128::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// The ASCII digit of a decimal digit of another script, where the script has its digits in one row.
fn decimal_digit(ch: char) -> char {
    const ZEROS: [u32; 10] = [0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xe50, 0xff10, 0x1d7ce];
    let code = u32::from(ch);
    let zero = ZEROS.into_iter().find(|&zero| (zero..zero + 10).contains(&code));
    zero.and_then(|zero| char::from_digit(code - zero, 10)).unwrap_or(ch)
}

/// A float.
pub(crate) fn float_of_text(text: &str) -> Option<f64> {
    let text = without_underscores(text.trim_matches(is_space))?;
    let text: String = text.chars().map(decimal_digit).collect();
    let bare = text.strip_prefix(['+', '-']).unwrap_or(&text).to_ascii_lowercase();
    let named = matches!(bare.as_str(), "inf" | "infinity" | "nan");
    if !named && !bare.starts_with(|ch: char| ch.is_ascii_digit() || ch == '.') {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_python_reads() {
        for (text, base, number) in [
            (" 42 ", 10, Some(42)),
            ("-1_000", 10, Some(-1000)),
            ("0x1F", 16, Some(31)),
            ("0x1F", 0, Some(31)),
            ("012", 0, None),
            ("012", 10, Some(12)),
            ("1__0", 10, None),
            ("_1", 10, None),
            ("", 10, None),
            ("-", 10, None),
            ("--1", 10, None),
            ("٣", 10, Some(3)),
            ("zz", 36, Some(1295)),
        ] {
            assert_eq!(int_of_text(text, base), number, "{text}");
        }
        assert_eq!(float_of_text(" 1_0.5e1 "), Some(105.0));
        assert_eq!(float_of_text("-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(float_of_text("1e"), None);
        assert_eq!(float_of_text(".5"), Some(0.5));
        assert_eq!(float_of_text("e5"), None);
    }
}
