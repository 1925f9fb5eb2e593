//! HTML documents in one file: a template whose places are filled in, with style and script inside and a content security policy that
//! admits these two by their hashes and no others.
//!
//! Invariants: what is filled in is never searched for places; [`escaped`] and [`inert`] leave no character that could end the element
//! or the script that the text is in.
#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

/// The script of a page: its parts in one scope of their own, in strict mode.
pub fn script(parts: &[&str]) -> String {
    format!("(() => {{\n\"use strict\";\n{}}})();\n", parts.concat())
}

/// The source expression that admits an inline style or script of exactly this text.
pub fn source(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
}

/// The template with the text of each place `{{name}}`; a place without a text becomes empty.
pub fn filled(template: &str, places: &[(&str, &str)]) -> String {
    let length: usize = places.iter().map(|(_, text)| text.len()).sum();
    let mut page = String::with_capacity(template.len() + length);
    for (i, piece) in template.split("{{").enumerate() {
        let (name, rest) = if i == 0 { ("", piece) } else { piece.split_once("}}").unwrap_or((piece, "")) };
        page += places.iter().find(|(place, _)| *place == name).map_or("", |(_, text)| text);
        page += rest;
    }
    page
}

/// JSON without a character that HTML or JavaScript could take for an end.
pub fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text += &format!("\\u{:04x}", u32::from(c)),
            c => text.push(c),
        }
    }
    text
}

/// Text for the content of an element.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '&' => safe += "&amp;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Ways in which a script can turn text into markup or code, for the tests of scripts that must not.
pub const WAYS_TO_MARKUP: [&str; 6] =
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("];

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            match digit <= three.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (bytes, text) in pairs {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
        assert_eq!(source("alert(1)"), "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='");
    }

    #[test]
    fn what_is_filled_in_names_no_place() {
        let page = filled("a{{x}}b{{y}}c{{absent}}d", &[("x", "{{y}}"), ("y", "2")]);
        assert_eq!(page, "a{{y}}b2cd");
    }

    #[test]
    fn nothing_of_a_text_ends_its_element() {
        assert!(!inert("\"</script>\u{2028}&\u{2029}\"").contains(['<', '>', '&', '\u{2028}', '\u{2029}']));
        assert_eq!(inert("<"), "\\u003c");
        assert_eq!(escaped("<b a=\"x\" b='y'>&\u{7}"), "&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp; ");
    }
}
