//! Tool calls: what a request declares, how a chat template writes a call, and the calls of a text.
//!
//! A template has a form of its own for calls: JSON between marks, a name and JSON, tags for each parameter, or calls as in Python. [`CallForm`]
//! is found in what the template writes, never by the name of a model. It serves two ways: [`CallParser`] takes the calls
//! out of a text as it is made, and [`grammar`] makes a text that is a call in this form, with arguments that follow the
//! schema of the tool.
//!
//! Invariants: how a text is cut into pieces changes nothing of the calls that are found; a call is one of a declared tool,
//! all else stays text; text is held back only while it may still become a call; nothing here panics, whatever a model
//! writes or a client declares.

mod declare;
mod form;
mod grammar;
mod json;
mod keywords;
mod parser;
mod tagged;

pub use declare::{MAX_TOOLS, Tool, ToolChoice, ToolError, Tools};
pub use form::{CallForm, Listed, Named, Objects, Shape, Tagged};
pub(crate) use grammar::schema_after_thinking;
pub use grammar::{Markers, grammar};
pub use parser::{CallEvent, CallParser};

/// The id of a call: the same for the same prompt, seed and place, so that an answer can be had again to the letter; and another in
/// the next turn of a conversation, whose prompt is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallIds {
    /// What tells the prompt from others.
    pub prompt: u64,
    /// The seed of the text.
    pub seed: u64,
    /// How long the template wants ids to be.
    pub style: IdStyle,
}

/// What ids of calls look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdStyle {
    /// `call_` and 24 hexadecimal digits.
    #[default]
    Call,
    /// Nine letters and digits, the only ones that templates of Mistral take in a history.
    Nine,
}

impl CallIds {
    /// The id of the call with this number in its answer.
    pub fn id(self, index: u32) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.prompt.to_le_bytes());
        hasher.update(&self.seed.to_le_bytes()).update(&index.to_le_bytes());
        let hex = hasher.finalize().to_hex();
        match self.style {
            IdStyle::Call => format!("call_{}", hex.get(..24).unwrap_or_default()),
            IdStyle::Nine => hex.get(..9).unwrap_or_default().to_owned(),
        }
    }
}

/// The longest end of `text` that one of `marks` may begin with.
pub(crate) fn may_become<'m>(text: &str, marks: impl Iterator<Item = &'m str>) -> usize {
    let longest = |mark: &str| {
        let ends = mark.char_indices().map(|(at, _)| at).rev();
        ends.into_iter().find(|&at| at < mark.len() && text.ends_with(mark.get(..at).unwrap_or_default()))
    };
    marks.filter_map(longest).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_prompt_seed_and_place() {
        let ids = CallIds { prompt: 1, seed: 7, style: IdStyle::Call };
        assert_eq!(ids.id(0), CallIds { prompt: 1, seed: 7, style: IdStyle::Call }.id(0));
        assert_ne!(ids.id(0), CallIds { prompt: 2, ..ids }.id(0));
        assert_ne!(ids.id(0), ids.id(1));
        assert_ne!(ids.id(0), CallIds { seed: 8, ..ids }.id(0));
        assert_eq!(ids.id(0).len(), 29);
        let nine = CallIds { style: IdStyle::Nine, ..ids }.id(3);
        assert!(nine.len() == 9 && nine.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{nine}");
    }
}
