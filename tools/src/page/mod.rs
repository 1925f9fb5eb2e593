//! Pages: one HTML file with data, style and script inside, which asks no network for anything.
//!
//! Invariants: what comes from a model or a file stands in the data only, as JSON in which no character can end the element that
//! it is in, or in the title, escaped; scripts make text nodes of it. A content security policy admits this script and this
//! style by their hashes, and nothing else.

use serde::Serialize;
use sha2::{Digest, Sha256};

const TEMPLATE: &str = include_str!("page.html");
/// Colours, cards, tables, tooltips.
const STYLE: &str = include_str!("base.css");
/// Elements, numbers, tooltips, the switch between light and dark.
const BASE: &str = include_str!("base.js");

/// A page of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'a> {
    /// What the browser shows as its title; escaped here.
    pub(crate) title: &'a str,
    /// What a reader without scripts can call instead.
    pub(crate) command: &'a str,
    /// Style beside what all pages share.
    pub(crate) style: &'a str,
    /// Script that runs after what all pages share, in its scope.
    pub(crate) script: &'a str,
}

impl Page<'_> {
    /// The page that shows `data`, which its script finds as `doc`.
    ///
    /// # Errors
    /// Data that cannot be written as JSON, such as a map whose keys are no strings.
    pub(crate) fn render(&self, data: &impl Serialize) -> Result<String, serde_json::Error> {
        let data = inert(&serde_json::to_string(data)?);
        let (title, command) = (escaped(self.title), escaped(self.command));
        let style = format!("{STYLE}{}", self.style);
        let script = format!("(() => {{\n\"use strict\";\n{BASE}{}}})();\n", self.script);
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'",
            base64(&Sha256::digest(&script)),
            base64(&Sha256::digest(&style))
        );
        let mut page = String::with_capacity(TEMPLATE.len() + style.len() + script.len() + data.len());
        // What is filled in is never looked at again, so it cannot name another place.
        for (i, piece) in TEMPLATE.split("{{").enumerate() {
            let (name, rest) =
                if i == 0 { ("", piece) } else { piece.split_once("}}").unwrap_or((piece, "")) };
            page += match name {
                "title" => &title,
                "command" => &command,
                "policy" => &policy,
                "style" => &style,
                "script" => &script,
                "data" => &data,
                _ => "",
            };
            page += rest;
        }
        Ok(page)
    }
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

/// What every script and style has to keep to, for the tests of those who have one.
#[cfg(test)]
pub(crate) fn assert_makes_text_only(page: &Page<'_>) {
    let script = format!("{BASE}{}", page.script);
    let ways =
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "https:"];
    for way in ways {
        assert!(!script.contains(way), "{way}");
    }
    // The name space of SVG.
    assert_eq!(script.matches("http:").count(), 1);
    assert!(!script.contains("</script") && !page.style.contains("</style") && !STYLE.contains("</style"));
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
        let evil = "</script><script>alert(1)</script>\u{2028}&lt;{{script}}";
        let json = inert(&serde_json::to_string(evil).unwrap());
        assert!(!json.contains(['<', '>', '&', '\u{2028}']));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), evil);
        assert_eq!(escaped("<b a=\"x\" b='y'>&\u{7}"), "&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp; ");
        let page = Page { title: evil, command: evil, style: "", script: "" }.render(&evil).unwrap();
        assert_eq!(page.matches("</script>").count(), 2);
        assert_eq!(page.matches("{{script}}").count(), 3);
    }

    #[test]
    fn the_template_has_every_place_once() {
        for place in ["title", "command", "policy", "style", "script", "data"] {
            assert_eq!(TEMPLATE.matches(&format!("{{{{{place}}}}}")).count(), 1, "{place}");
        }
        assert_eq!(TEMPLATE.matches("{{").count(), 6);
    }
}
