//! Texts that know which of their characters a user wrote.
//!
//! Every operation on texts copies pieces of texts, with their origins, or adds characters whose origin it states; so the
//! origin of a character survives slicing, joining, replacing and changes of case. [`TextBuilder`] is the only way to make
//! a text that is not wholly of one origin, and charges the budget for what it makes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use crate::budget::Budget;
use crate::error::Result;

/// The origin of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The template, or the program that renders it.
    Program,
    /// The authors of the conversation.
    User,
}

impl Origin {
    /// The origin of what is made of two: a user's if either is.
    pub(crate) fn and(self, other: Self) -> Self {
        if self == Self::User { self } else { other }
    }
}

/// A text, cheap to clone.
#[derive(Clone)]
pub(crate) struct Text(Arc<Inner>);

struct Inner {
    string: String,
    /// Rising ranges of bytes that a user wrote, none empty, no two adjacent.
    user: Vec<Range<u32>>,
    /// Whether it is markup, which is not escaped again.
    markup: bool,
}

impl Text {
    /// A text of one origin; charging for it is up to the caller.
    pub(crate) fn new(string: impl Into<String>, origin: Origin) -> Self {
        let string = string.into();
        let user = match origin {
            Origin::User if !string.is_empty() => std::iter::once(0..string.len() as u32).collect(),
            _ => Vec::new(),
        };
        Self(Arc::new(Inner { string, user, markup: false }))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0.string
    }

    pub(crate) fn len(&self) -> usize {
        self.0.string.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.string.is_empty()
    }

    pub(crate) fn is_markup(&self) -> bool {
        self.0.markup
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The origin of the whole: a user's if any character is.
    pub(crate) fn origin(&self) -> Origin {
        if self.0.user.is_empty() { Origin::Program } else { Origin::User }
    }

    /// The origin of the character at a byte.
    pub(crate) fn origin_at(&self, at: usize) -> Origin {
        let after = self.0.user.partition_point(|range| range.start as usize <= at);
        match after.checked_sub(1).and_then(|last| self.0.user.get(last)) {
            Some(range) if at < range.end as usize => Origin::User,
            _ => Origin::Program,
        }
    }

    /// The pieces of one origin within a range of bytes.
    fn pieces(&self, within: Range<usize>) -> impl Iterator<Item = (&str, Origin)> {
        let first = self.0.user.partition_point(|range| range.end as usize <= within.start);
        let mut ranges = self.0.user.get(first..).unwrap_or_default().iter();
        let mut pending: Option<Range<usize>> = None;
        let mut at = within.start;
        std::iter::from_fn(move || {
            if at >= within.end {
                return None;
            }
            let next = pending.take().or_else(|| ranges.next().map(|r| r.start as usize..r.end as usize));
            let (end, origin) = match next {
                Some(range) if range.start <= at => (range.end.min(within.end), Origin::User),
                Some(range) => {
                    let end = range.start.min(within.end);
                    pending = Some(range);
                    (end, Origin::Program)
                }
                None => (within.end, Origin::Program),
            };
            let piece = self.0.string.get(at..end)?;
            at = end;
            Some((piece, origin))
        })
    }

    /// All characters with their origins.
    pub(crate) fn chars(&self) -> impl Iterator<Item = (char, Origin)> {
        self.pieces(0..self.len()).flat_map(|(piece, origin)| piece.chars().map(move |ch| (ch, origin)))
    }

    /// A piece of the text.
    pub(crate) fn slice(&self, budget: &Budget, range: Range<usize>) -> Result<Self> {
        if range == (0..self.len()) {
            return Ok(self.clone());
        }
        let mut piece = TextBuilder::new(budget);
        piece.push_slice(self, range)?;
        Ok(piece.finish_as(self.0.markup))
    }

    /// The same text as markup, or not.
    pub(crate) fn marked(&self, budget: &Budget, markup: bool) -> Result<Self> {
        if self.0.markup == markup {
            return Ok(self.clone());
        }
        let mut copy = TextBuilder::new(budget);
        copy.push_text(self)?;
        Ok(copy.finish_as(markup))
    }

    /// The ranges that a user wrote.
    pub(crate) fn user_ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.user.iter().map(|range| range.start as usize..range.end as usize)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.same(other) || self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of users {:?}", self.as_str(), self.0.user)
    }
}

impl From<&str> for Text {
    /// A text of the program.
    fn from(text: &str) -> Self {
        Self::new(text, Origin::Program)
    }
}

/// What a text takes besides its bytes.
const TEXT_BYTES: usize = 88;
/// What each piece costs besides its bytes: the time to put it there.
const PIECE_BYTES: usize = 8;

/// A text in the making.
pub(crate) struct TextBuilder<'b> {
    string: String,
    user: Vec<Range<u32>>,
    budget: &'b Budget,
}

impl<'b> TextBuilder<'b> {
    pub(crate) fn new(budget: &'b Budget) -> Self {
        Self { string: String::new(), user: Vec::new(), budget }
    }

    pub(crate) fn len(&self) -> usize {
        self.string.len()
    }

    /// Appends text of one origin.
    pub(crate) fn push(&mut self, text: &str, origin: Origin) -> Result<()> {
        self.charge(text.len())?;
        self.append(text, origin);
        Ok(())
    }

    /// Takes a piece, and the text itself with the first of them.
    fn charge(&self, bytes: usize) -> Result<()> {
        let own = if self.string.is_empty() { TEXT_BYTES } else { 0 };
        self.budget.bytes(own + bytes + PIECE_BYTES)
    }

    fn append(&mut self, text: &str, origin: Origin) {
        let start = self.string.len() as u32;
        self.string.push_str(text);
        let end = self.string.len() as u32;
        if origin == Origin::User && end > start {
            match self.user.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => self.user.push(start..end),
            }
        }
    }

    pub(crate) fn push_char(&mut self, ch: char, origin: Origin) -> Result<()> {
        self.push(ch.encode_utf8(&mut [0; 4]), origin)
    }

    pub(crate) fn push_chars(&mut self, chars: impl IntoIterator<Item = char>, origin: Origin) -> Result<()> {
        chars.into_iter().try_for_each(|ch| self.push_char(ch, origin))
    }

    pub(crate) fn push_text(&mut self, text: &Text) -> Result<()> {
        self.push_slice(text, 0..text.len())
    }

    /// Appends a piece of a text.
    pub(crate) fn push_slice(&mut self, text: &Text, range: Range<usize>) -> Result<()> {
        self.charge(range.len())?;
        for (number, (piece, origin)) in text.pieces(range).enumerate() {
            if number > 0 {
                self.budget.bytes(PIECE_BYTES)?;
            }
            self.append(piece, origin);
        }
        Ok(())
    }

    /// Appends a text as often as said.
    pub(crate) fn push_repeated(&mut self, text: &Text, times: usize) -> Result<()> {
        if text.is_empty() || times == 0 {
            return Ok(());
        }
        self.push_text(text)?;
        let pieces = 1 + 2 * text.0.user.len();
        self.budget.bytes((text.len() + pieces * PIECE_BYTES).saturating_mul(times - 1))?;
        for _ in 1..times {
            for (piece, origin) in text.pieces(0..text.len()) {
                self.append(piece, origin);
            }
        }
        Ok(())
    }

    /// Appends a character as often as said.
    pub(crate) fn push_fill(&mut self, ch: char, times: usize, origin: Origin) -> Result<()> {
        self.push_repeated(&Text::new(ch, origin), times)
    }

    pub(crate) fn finish(self) -> Text {
        self.finish_as(false)
    }

    pub(crate) fn finish_as(self, markup: bool) -> Text {
        Text(Arc::new(Inner { string: self.string, user: self.user, markup }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;

    #[test]
    fn origins_follow_the_pieces() {
        let budget = Budget::new(&Limits::default());
        let mut builder = TextBuilder::new(&budget);
        builder.push("ab", Origin::Program).unwrap();
        builder.push("ñd", Origin::User).unwrap();
        builder.push("e", Origin::User).unwrap();
        builder.push("f", Origin::Program).unwrap();
        builder.push("", Origin::User).unwrap();
        let text = builder.finish();
        assert!(text.user_ranges().eq(std::iter::once(2..6)));
        assert_eq!(text.origin_at(1), Origin::Program);
        assert_eq!(text.origin_at(2), Origin::User);
        assert_eq!(text.origin_at(6), Origin::Program);
        let piece = text.slice(&budget, 1..4).unwrap();
        assert_eq!(piece.as_str(), "bñ");
        assert!(piece.user_ranges().eq(std::iter::once(1..3)));
        let chars: Vec<_> = text.chars().map(|(ch, origin)| (ch, origin == Origin::User)).collect();
        assert_eq!(chars, [('a', false), ('b', false), ('ñ', true), ('d', true), ('e', true), ('f', false)]);
        let mut twice = TextBuilder::new(&budget);
        twice.push_repeated(&piece, 2).unwrap();
        assert_eq!(twice.finish().user_ranges().collect::<Vec<_>>(), [1..3, 4..6]);
    }
}
