//! HTML: escapes and texts that carry them, as the filters `escape`, `safe` and `striptags` have it.

use crate::budget::Budget;
use crate::error::Result;
use crate::text::{Text, TextBuilder};

/// A text with the characters of HTML replaced, as markup; markup stays as it is.
pub(crate) fn escape(budget: &Budget, text: &Text) -> Result<Text> {
    if text.is_markup() {
        return Ok(text.clone());
    }
    let mut escaped = TextBuilder::new(budget);
    for (ch, origin) in text.chars() {
        match ch {
            '&' => escaped.push("&amp;", origin)?,
            '<' => escaped.push("&lt;", origin)?,
            '>' => escaped.push("&gt;", origin)?,
            '\'' => escaped.push("&#39;", origin)?,
            '"' => escaped.push("&#34;", origin)?,
            ch => escaped.push_char(ch, origin)?,
        }
    }
    Ok(escaped.finish_as(true))
}
