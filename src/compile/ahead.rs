//! Packing ahead of writing: one thread writes weights, the caller packs the next ones meanwhile.
//!
//! Invariants: weights are written in the order in which they are pushed, and all of them before [`write_ahead`] returns
//! without an error; what waits after the weight that is being written takes at most [`BYTES_AHEAD`], or is one weight. The thread that writes has
//! no work for a pool of threads, so the caller may be one of its threads.

use std::borrow::Cow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bitnetc_codegen::pack::PackedWeight;
use bitnetc_runtime::plan::PlanError;

use crate::error::Error;

/// Bytes of packed weights that wait to be written.
pub(super) const BYTES_AHEAD: usize = 256 << 20;

/// A weight and its name.
type Named<'p> = (&'p str, PackedWeight<'p>);

/// The way from packing to writing.
pub(super) struct Ahead<'p, 'r> {
    weights: Sender<Named<'p>>,
    room: &'r Room,
}

/// How much waits.
#[derive(Default)]
struct Room {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: usize,
    /// Nothing more is written.
    ended: bool,
}

impl<'p> Ahead<'p, '_> {
    /// Hands a weight over, when there is room. False if writing has ended because of an error.
    pub(super) fn push(&self, name: &'p str, packed: PackedWeight<'p>) -> bool {
        let bytes = owned_bytes(&packed);
        let full = |waiting: &mut Waiting| {
            !waiting.ended && waiting.bytes > 0 && waiting.bytes.saturating_add(bytes) > BYTES_AHEAD
        };
        let waiting = self.room.changed.wait_while(self.room.lock(), full);
        waiting.unwrap_or_else(PoisonError::into_inner).bytes += bytes;
        self.weights.send((name, packed)).is_ok()
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Memory that a weight takes: none if it is borrowed from the file.
fn owned_bytes(packed: &PackedWeight<'_>) -> usize {
    match packed.bytes {
        Cow::Borrowed(_) => 0,
        Cow::Owned(_) => packed.bytes.len(),
    }
}

/// Runs `pack`, which pushes weights, and gives each of them to `write` on a thread of its own.
///
/// # Errors
/// The first error of either; that of `write` if both have one.
pub(super) fn write_ahead<'p>(
    pack: impl FnOnce(&Ahead<'p, '_>) -> Result<(), Error>,
    write: impl FnMut(&str, &PackedWeight<'p>) -> Result<(), PlanError> + Send,
) -> Result<(), Error> {
    let (weights, pushed) = channel();
    let room = Room::default();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("bitnetc-write".to_owned());
        let writing = thread
            .spawn_scoped(scope, || write_all(pushed, &room, write))
            .map_err(|source| Error::Thread { what: "to write the plan", source })?;
        let packed = pack(&Ahead { weights, room: &room });
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.map_err(Error::from).and(packed)
    })
}

fn write_all<'p>(
    pushed: Receiver<Named<'p>>,
    room: &Room,
    mut write: impl FnMut(&str, &PackedWeight<'p>) -> Result<(), PlanError>,
) -> Result<(), PlanError> {
    let _ended = Ended(room);
    pushed.iter().try_for_each(|(name, packed)| {
        room.change(|waiting| waiting.bytes -= owned_bytes(&packed));
        write(name, &packed)
    })
}

/// Tells who waits for room that there will be none, also where writing panics.
struct Ended<'r>(&'r Room);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.change(|waiting| waiting.ended = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(bytes: usize) -> PackedWeight<'static> {
        PackedWeight { bytes: vec![7; bytes].into(), scales: Vec::new() }
    }

    /// More than may wait, weights larger than that among them.
    #[test]
    fn all_are_written_in_order() {
        let sizes = [1, BYTES_AHEAD + 1, 5, BYTES_AHEAD / 2, BYTES_AHEAD / 2, BYTES_AHEAD / 2, 3];
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let mut written = Vec::new();
        let pack = |ahead: &Ahead<'static, '_>| {
            names.iter().zip(sizes).for_each(|(name, size)| assert!(ahead.push(name, weight(size))));
            Ok(())
        };
        write_ahead(pack, |name, packed| {
            written.push((name.to_owned(), packed.bytes.len()));
            Ok(())
        })
        .unwrap();
        assert!(written.iter().map(|(n, s)| (n.as_str(), *s)).eq(names.into_iter().zip(sizes)));
    }

    /// An error of the disk ends the packing, also where that waits for room, and is the one that is told.
    #[test]
    fn errors_of_writing_end_the_packing() {
        let mut pushed = 0;
        let pack = |ahead: &Ahead<'static, '_>| {
            while ahead.push("w", weight(BYTES_AHEAD / 2)) {
                pushed += 1;
                assert!(pushed < 10, "packing goes on");
            }
            Err(Error::Interrupted)
        };
        let result = write_ahead(pack, |_, _| Err(PlanError::UnnamedWeight));
        assert!(matches!(result, Err(Error::Plan(PlanError::UnnamedWeight))), "{result:?}");
        let result = write_ahead(|_| Err(Error::Interrupted), |_, _| Ok(()));
        assert!(matches!(result, Err(Error::Interrupted)));
    }
}
