//! What can go wrong in a chat.

use bitnetc_runtime::whole_file::WholeFileError;

use crate::visible::with_escapes;

/// Why a template is refused or a turn cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is larger than any in use.
    #[error("the chat template has {bytes} bytes, more than the limit of {limit}")]
    TemplateTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The template is not valid, or fails on these messages.
    #[error("the chat template of {name} fails: {reason}")]
    Template {
        /// Where the template comes from.
        name: String,
        /// What and where.
        reason: String,
    },
    /// No template has this name.
    #[error("unknown chat template {name:?}: known are {known}")]
    UnknownTemplate {
        /// As given.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// The conversation does not fit the context.
    #[error("the conversation has {tokens} tokens, but the context holds {context}")]
    ContextFull {
        /// Tokens of the conversation.
        tokens: usize,
        /// Room.
        context: u32,
    },
    /// A role that no template can know.
    #[error("invalid role {name:?}: use 1 to 32 characters from a-z, _ and -")]
    Role {
        /// As given.
        name: String,
    },
    /// A saved conversation cannot be read.
    #[error("cannot read the conversation: {reason}")]
    Transcript {
        /// Why.
        reason: String,
    },
    /// A conversation cannot be saved.
    #[error(transparent)]
    Save(#[from] WholeFileError),
}

impl ChatError {
    /// A template that fails. Names of files may have control characters; the reason has none.
    pub(super) fn template(name: &str, error: &bitnetc_jinja::Error) -> Self {
        let name = with_escapes(name, char::is_control, |c, out| out.extend(c.escape_default()));
        Self::Template { name: name.into_owned(), reason: error.to_string() }
    }
}
