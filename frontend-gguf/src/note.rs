//! Things about an accepted file that its user should hear of: defaults that were used, oddities that were let pass.

use std::fmt;

/// How much a [`Note`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoteLevel {
    /// A value was absent from the file and a documented default took its place.
    Default,
    /// What the file leaves open was told from what surrounds it.
    Inferred,
    /// Something is unusual, but cannot make results wrong.
    Warning,
}

/// One remark about an accepted file. Its text is safe to print: file text in it is escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What kind of remark it is.
    pub level: NoteLevel,
    /// The metadata key or tensor concerned, or the part of the file.
    pub subject: String,
    /// What was found and what was done about it.
    pub text: String,
}

impl Note {
    pub(crate) fn default_used(
        subject: impl Into<String>,
        value: impl fmt::Display,
        why: impl fmt::Display,
    ) -> Self {
        Self {
            level: NoteLevel::Default,
            subject: subject.into(),
            text: format!("is absent; {value} is used ({why})"),
        }
    }

    pub(crate) fn inferred(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: NoteLevel::Inferred, subject: subject.into(), text: text.into() }
    }

    pub(crate) fn warning(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: NoteLevel::Warning, subject: subject.into(), text: text.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            NoteLevel::Default => "default",
            NoteLevel::Inferred => "inferred",
            NoteLevel::Warning => "warning",
        };
        write!(f, "{level}: {} {}", self.subject, self.text)
    }
}
