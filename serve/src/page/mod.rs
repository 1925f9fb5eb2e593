//! The chat page at `/`: one document with its style and script, which talks to this server and to nobody else.
//!
//! Invariants: the script makes text nodes of what models and people write, never markup ([`bitnetc_page::WAYS_TO_MARKUP`]); the
//! policy admits this script and this style by their hashes, requests to this server, and nothing else. Conversations stay in the
//! browser.
//!
//! | file | job |
//! |---|---|
//! | `dom.js` | elements, clipboard, downloads |
//! | `markdown.js` | Markdown as elements, in linear time |
//! | `store.js` | what the browser keeps |
//! | `api.js` | requests, streams, failures in words |
//! | `view.js` | one message |
//! | `main.js` | conversations, settings, keys |

use std::sync::LazyLock;

/// The page and the policy that its response must have.
#[derive(Debug)]
pub struct Document {
    /// The page.
    pub html: String,
    /// The value of `content-security-policy`: that of the page, and that no other page may show it in a frame.
    pub policy: String,
}

const TEMPLATE: &str = include_str!("index.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: [&str; 6] = [
    include_str!("dom.js"),
    include_str!("markdown.js"),
    include_str!("store.js"),
    include_str!("api.js"),
    include_str!("view.js"),
    include_str!("main.js"),
];

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let script = bitnetc_page::script(&SCRIPT);
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'",
        bitnetc_page::source(&script),
        bitnetc_page::source(STYLE),
    );
    let places = [("policy", &*policy), ("style", STYLE), ("script", &script)];
    let html = bitnetc_page::filled(TEMPLATE, &places);
    Document { html, policy: policy + "; frame-ancestors 'none'" }
});

/// The page.
pub fn document() -> &'static Document {
    &DOCUMENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_makes_text_only_and_names_no_other_server() {
        let script = SCRIPT.concat();
        for way in bitnetc_page::WAYS_TO_MARKUP {
            assert!(!script.contains(way), "{way}");
        }
        // Addresses are recognised in texts, and none is asked for.
        assert!(!script.contains("https://") && !script.contains("http://"));
        assert!(!script.contains("</script") && !STYLE.contains("</style") && !STYLE.contains("url("));
        for handler in ["onclick=", "onerror=", "onload=", "style="] {
            assert!(!TEMPLATE.contains(handler), "{handler}");
        }
    }

    #[test]
    fn the_template_has_every_place_once() {
        for place in ["policy", "style", "script"] {
            assert_eq!(TEMPLATE.matches(&format!("{{{{{place}}}}}")).count(), 1, "{place}");
        }
        assert_eq!(TEMPLATE.matches("{{").count(), 3);
        let page = document();
        assert_eq!(page.html.matches("</script>").count(), 1);
        assert!(page.html.contains(page.policy.split("; frame-ancestors").next().unwrap()));
    }
}
