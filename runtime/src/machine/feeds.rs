//! What a step is asked for: tokens for some sequences, and which logits are wanted.

use bitnetc_ir::Entity;

use crate::sequence::Sequence;

/// Tokens for one sequence.
#[derive(Debug)]
pub struct Feed<'a> {
    /// The sequence, which grows by the tokens.
    pub sequence: &'a mut Sequence,
    /// At least one token.
    pub tokens: &'a [u32],
    /// Which logits are computed.
    pub logits: Wanted,
}

/// After which tokens of a feed logits are wanted. The head is half of the bytes of a step, so what is not wanted is not
/// computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: the tokens are a part of a prompt.
    None,
    /// Those after the last token, from which the next one is chosen.
    Last,
    /// Those after each token, to score a text.
    All,
}

/// One of the feeds of a step: its index in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeedIndex(u32);

impl FeedIndex {
    /// Counted from 1, for messages.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.0) + 1
    }
}

impl Entity for FeedIndex {
    fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer than 2^32 feeds"))
    }
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Whose logits a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The feed.
    pub feed: FeedIndex,
    /// Index of the token in the feed's tokens that the logits come after.
    pub token: u32,
}

/// The rows of a chunk that is being put together.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Rows so far.
    pub(super) rows: u32,
    /// Segments so far.
    pub(super) segments: u32,
    /// Position of the first row of segment 0.
    pub(super) first: u32,
    /// The first position that no row has reached.
    pub(super) end: u32,
    /// Rows whose logits are wanted, in rising order.
    pub(super) wanted: Vec<WantedRow>,
}

/// A row of a chunk whose logits are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantedRow {
    /// The row.
    pub(super) at: u32,
    /// Whose it is.
    pub(super) row: Row,
    /// Position of its token in the sequence.
    pub(super) position: u32,
}

impl Chunk {
    /// An empty chunk with capacity for this number of rows.
    pub(super) fn with_room(rows: u32) -> Self {
        let wanted = Vec::with_capacity(rows as usize);
        Self { rows: 0, segments: 0, first: 0, end: 0, wanted }
    }

    /// Forgets all rows.
    pub(super) fn clear(&mut self) {
        self.wanted.clear();
        (self.rows, self.segments, self.first, self.end) = (0, 0, 0, 0);
    }

    /// Adds a segment: the tokens from index `done` on of a feed, `count` of its `of`, at `position` and after.
    pub(super) fn add(
        &mut self,
        feed: FeedIndex,
        wanted: Wanted,
        done: u32,
        count: u32,
        of: u32,
        position: u32,
    ) {
        if self.segments == 0 {
            self.first = position;
        }
        let first = match wanted {
            Wanted::All => 0,
            Wanted::Last if done + count == of => count - 1,
            Wanted::Last | Wanted::None => count,
        };
        for i in first..count {
            let row = Row { feed, token: done + i };
            self.wanted.push(WantedRow { at: self.rows + i, row, position: position + i });
        }
        self.rows += count;
        self.segments += 1;
        self.end = self.end.max(position + count);
    }
}
