//! Who gets the logits of a step: one closure in the order of the rows, or takers, one for each feed, on all threads at once.
//!
//! Invariants: a feed's logits come in rising order of its tokens, each wanted row once; two threads are never at the same taker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnetc_ir::Entity;

use super::call::BoundPrograms;
use super::feeds::{Row, WantedRow};
use super::team::Team;
use crate::error::SessionError;
use crate::model::Model;
use crate::sequence::Spoiled;

/// What takes the logits of the feeds of a step, on the threads of the machine.
///
/// Logits come in batches, as many rows as the model's head computes at a time. A batch is opened, taken and closed before
/// anything else is computed.
pub trait Takers {
    /// Takes the logits of one feed.
    type Taker: Send;

    /// A batch is there. The takers, one for each feed of the step, in their order; without one, logits are dropped.
    /// Called on the thread that calls the machine, as [`Takers::close`] is.
    fn open(&mut self) -> &mut [Self::Taker];

    /// Takes the logits after the token with this index of the taker's feed, or why there are none. Called on any of
    /// the machine's threads. A panic goes on in the call of the machine, when no other taker is at work.
    fn take(taker: &mut Self::Taker, token: u32, logits: Result<&[f32], SessionError>);

    /// The batch has been taken.
    fn close(&mut self);
}

/// Rows of logits that have been computed.
pub(super) struct Batch<'m> {
    /// Whose they are.
    pub(super) rows: &'m [WantedRow],
    /// The rows of logits, `stride` numbers apart, of which the first `vocab` count.
    pub(super) logits: &'m [f32],
    pub(super) stride: usize,
    pub(super) model: &'m Model,
    /// For each feed of the step: the first token whose embedding is not finite, and whether any of its logits were refused.
    pub(super) spoiled: &'m [Option<Spoiled>],
    pub(super) failed: &'m [AtomicBool],
}

impl Batch<'_> {
    /// The logits of row `at`; an error, after which the feed has failed, where they are NaN or would be.
    fn logits(&self, at: usize) -> Result<&[f32], SessionError> {
        let WantedRow { row, position, .. } = self.rows[at];
        let feed = row.feed.index();
        let refused = match self.spoiled[feed].filter(|spoiled| spoiled.position <= position) {
            Some(spoiled) => self.model.not_finite(spoiled),
            None => {
                let start = at * self.stride;
                let logits = &self.logits[start..start + self.model.vocab() as usize];
                match first_nan(logits) {
                    None => return Ok(logits),
                    Some(index) => SessionError::NotANumber { position, index },
                }
            }
        };
        self.failed[feed].store(true, Ordering::Relaxed);
        Err(refused)
    }
}

/// What becomes of a batch.
pub(super) trait HandOut {
    /// Hands out all rows.
    fn hand_out(&mut self, team: &mut Team<BoundPrograms<Arc<Model>>>, batch: &Batch<'_>);
}

/// One row after the other, to a closure.
pub(super) struct InOrder<F>(pub(super) F);

impl<F: FnMut(Row, Result<&[f32], SessionError>)> HandOut for InOrder<F> {
    fn hand_out(&mut self, _: &mut Team<BoundPrograms<Arc<Model>>>, batch: &Batch<'_>) {
        for (at, wanted) in batch.rows.iter().enumerate() {
            (self.0)(wanted.row, batch.logits(at));
        }
    }
}

/// To takers, on all threads.
pub(super) struct AtOnce<'t, T>(pub(super) &'t mut T);

impl<T: Takers> HandOut for AtOnce<'_, T> {
    fn hand_out(&mut self, team: &mut Team<BoundPrograms<Arc<Model>>>, batch: &Batch<'_>) {
        let rows = batch.rows;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
        let (first, last) = (first.row.feed.index(), last.row.feed.index());
        let takers = self.0.open();
        let end = takers.len().min(last + 1);
        let takers = takers.get_mut(first..end).unwrap_or_default();
        team.share(takers, |index, taker| {
            let feed = first + index;
            // Rows are in the order of the feeds.
            let of_earlier = rows.partition_point(|wanted| wanted.row.feed.index() < feed);
            let own = rows[of_earlier..].iter().take_while(|wanted| wanted.row.feed.index() == feed);
            for (at, wanted) in (of_earlier..).zip(own) {
                T::take(taker, wanted.row.token, batch.logits(at));
            }
        });
        self.0.close();
    }
}

/// Index of the first NaN.
fn first_nan(values: &[f32]) -> Option<u32> {
    // A vectorisable look at everything first: almost always there is none.
    let any = values.iter().fold(false, |any, x| any | x.is_nan());
    if any { values.iter().position(|x| x.is_nan()).map(|i| i as u32) } else { None }
}
