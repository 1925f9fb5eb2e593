//! Classes of characters, as Python's `str.is…` methods ask for them.

use crate::lexer::is_space;
use crate::strings::{has_case, is_title};
use crate::write::is_printable;

/// The answer of a method, if it is one of these.
pub(super) fn answer(text: &str, name: &str) -> Option<bool> {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    Some(match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(|ch| is_decimal(ch) || is_raised_digit(ch)),
        "isidentifier" => {
            let first = text.chars().next().is_some_and(|ch| ch == '_' || ch.is_alphabetic());
            first && text.chars().all(|ch| ch == '_' || ch.is_alphanumeric())
        }
        "islower" => has_case(text, char::is_lowercase),
        "isnumeric" => all(char::is_numeric),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        "istitle" => is_title(text),
        "isupper" => has_case(text, char::is_uppercase),
        _ => return None,
    })
}

/// Digits of the scripts in use; they come in rows of ten.
fn is_decimal(ch: char) -> bool {
    const ZEROS: [u32; 14] =
        [0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xe50, 0xed0, 0xf20, 0xff10];
    let code = u32::from(ch);
    ZEROS.iter().any(|&zero| (zero..zero + 10).contains(&code)) || (0x1d7ce..=0x1d7ff).contains(&code)
}

/// Digits that are raised, lowered or in circles.
fn is_raised_digit(ch: char) -> bool {
    matches!(ch, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪')
}
