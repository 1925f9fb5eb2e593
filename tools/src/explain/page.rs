//! The page: one HTML file with the document, its style and its script inside; it asks no network for anything.
//!
//! Invariants: what comes from a model stands in the document only, as JSON in which no character can end the element that it
//! is in, or in the title, escaped; the script makes text nodes of it. A content security policy admits this script and this style
//! by their hashes, and nothing else.

use sha2::{Digest, Sha256};

use super::document::Document;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script, in pieces by what they show.
const SCRIPT: &str = concat!(
    "(() => {\n\"use strict\";\n",
    include_str!("page/base.js"),
    include_str!("page/overview.js"),
    include_str!("page/graph.js"),
    include_str!("page/memory.js"),
    include_str!("page/schedule.js"),
    include_str!("page/kernels.js"),
    include_str!("page/stages.js"),
    include_str!("page/main.js"),
    "})();\n"
);

/// The page that shows `document`.
///
/// # Errors
/// None for a document that [`super::explain`] made.
pub fn page(document: &Document) -> Result<String, serde_json::Error> {
    let data = inert(&serde_json::to_string(document)?);
    let title = escaped(&document.model.name);
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'",
        base64(&Sha256::digest(SCRIPT)),
        base64(&Sha256::digest(STYLE))
    );
    let mut page = String::with_capacity(TEMPLATE.len() + STYLE.len() + SCRIPT.len() + data.len());
    // What is filled in is never looked at again, so it cannot name another place.
    for (i, piece) in TEMPLATE.split("{{").enumerate() {
        let (name, rest) = if i == 0 { ("", piece) } else { piece.split_once("}}").unwrap_or((piece, "")) };
        page += match name {
            "title" => &title,
            "policy" => &policy,
            "style" => STYLE,
            "script" => SCRIPT,
            "data" => &data,
            _ => "",
        };
        page += rest;
    }
    Ok(page)
}

/// JSON without a character that HTML or JavaScript could take for an end.
fn inert(json: &str) -> String {
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
fn escaped(text: &str) -> String {
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
    }

    #[test]
    fn nothing_of_a_text_ends_its_element() {
        let evil = "</script><script>alert(1)</script>\u{2028}&lt;";
        let json = inert(&serde_json::to_string(evil).unwrap());
        assert!(!json.contains(['<', '>', '&', '\u{2028}']));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), evil);
        assert_eq!(escaped("<b a=\"x\" b='y'>&\u{7}"), "&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp; ");
    }

    #[test]
    fn the_template_has_every_place_once_and_the_script_makes_text_only() {
        for place in ["{{title}}", "{{policy}}", "{{style}}", "{{script}}", "{{data}}"] {
            assert_eq!(TEMPLATE.matches(place).count(), 1, "{place}");
        }
        assert_eq!(TEMPLATE.matches("{{").count(), 5);
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "http:",
            "https:",
        ] {
            let allowed = way == "http:" && SCRIPT.matches(way).count() == 1;
            assert!(allowed || !SCRIPT.contains(way), "{way}");
        }
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
    }
}
