//! Pages: one HTML file with data, style and script inside, which asks no network for anything.
//!
//! Invariants: what comes from a model or a file stands in the data only, as JSON in which no character can end the element that
//! it is in, or in the title, escaped; scripts make text nodes of it. A content security policy admits this script and this
//! style by their hashes, and nothing else.

use bitnetc_page::{escaped, filled, inert, source};
use serde::Serialize;

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
        let style = format!("{STYLE}{}", self.style);
        let script = bitnetc_page::script(&[BASE, self.script]);
        let policy =
            format!("default-src 'none'; script-src {}; style-src {}", source(&script), source(&style));
        let places = [
            ("title", &*escaped(self.title)),
            ("command", &escaped(self.command)),
            ("policy", &policy),
            ("style", &style),
            ("script", &script),
            ("data", &data),
        ];
        Ok(filled(TEMPLATE, &places))
    }
}

/// What every script and style has to keep to, for the tests of those who have one.
#[cfg(test)]
pub(crate) fn assert_makes_text_only(page: &Page<'_>) {
    let script = format!("{BASE}{}", page.script);
    for way in bitnetc_page::WAYS_TO_MARKUP.into_iter().chain(["https:"]) {
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
    fn nothing_of_a_text_ends_its_element() {
        let evil = "</script><script>alert(1)</script>\u{2028}&lt;{{script}}";
        let json = inert(&serde_json::to_string(evil).unwrap());
        assert!(!json.contains(['<', '>', '&', '\u{2028}']));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), evil);
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
