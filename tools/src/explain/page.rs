//! The page of a [`Document`]: one HTML file with views of it.

use super::document::Document;
use crate::page::Page;

/// One script, in pieces by what they show.
const SCRIPT: &str = concat!(
    include_str!("page/base.js"),
    include_str!("page/overview.js"),
    include_str!("page/graph.js"),
    include_str!("page/memory.js"),
    include_str!("page/schedule.js"),
    include_str!("page/kernels.js"),
    include_str!("page/stages.js"),
    include_str!("page/main.js"),
);
const STYLE: &str = include_str!("page/page.css");

fn kind(title: &str) -> Page<'_> {
    Page { title, command: "bitnetc explain --json", style: STYLE, script: SCRIPT }
}

/// The page that shows `document`.
///
/// # Errors
/// None for a document that [`super::explain`] made.
pub fn page(document: &Document) -> Result<String, serde_json::Error> {
    kind(&format!("{} – bitnetc explain", document.model.name)).render(document)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_script_makes_text_only() {
        crate::page::assert_makes_text_only(&super::kind(""));
    }
}
