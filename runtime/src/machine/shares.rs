//! How threads divide a step: everybody owns a contiguous share of the units and takes it from the front, half of what is
//! left at a time; who is done takes from the back of what others have left.
//!
//! On an idle machine with equal cores everybody does their own share in a few pieces. Where a core is slower, or is taken
//! away for a while, the others do what it has not come to, instead of waiting at the barrier. What a unit computes does
//! not depend on who computes it, so no bit depends on how the pieces fell.
//!
//! A share is one word: a tag, the first unit that is left and the first after the last one. The tag is the number of the
//! divided step, modulo 2^16, counted by every thread for itself; a word with another tag is a share that nobody has
//! touched yet.
//!
//! Invariants: all threads divide the same steps in the same order, and a barrier stands after each, so that the words
//! that a thread meets have its own tag or the one before; the owner of a word writes it in every divided step, so no tag
//! is older than that. Each unit is handed out once.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of a number of units.
const UNIT_BITS: u32 = 24;
/// Units of a step that can be divided.
pub(crate) const MOST_UNITS: u64 = (1 << UNIT_BITS) - 1;

/// A cache line of its own (two, since they are fetched in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

/// What is left of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    tag: u16,
    front: u64,
    back: u64,
}

impl Left {
    fn unpack(word: u64) -> Self {
        let front = word >> UNIT_BITS & MOST_UNITS;
        Self { tag: (word >> (2 * UNIT_BITS)) as u16, front, back: word & MOST_UNITS }
    }

    fn pack(self) -> u64 {
        u64::from(self.tag) << (2 * UNIT_BITS) | self.front << UNIT_BITS | self.back
    }

    /// Half of it in whole grains, but at least one grain, or all.
    fn piece(self, grain: u64) -> u64 {
        let left = self.back - self.front;
        left.div_ceil(2).next_multiple_of(grain.max(1)).min(left)
    }
}

/// The shares of all threads in the step that they are at.
#[derive(Debug)]
pub(crate) struct Shares {
    left: Vec<Line<AtomicU64>>,
    /// How many steps each thread has divided.
    steps: Vec<Line<AtomicU32>>,
}

/// One divided step, as one thread sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Division {
    tag: u16,
    thread: u32,
    /// Pieces are multiples of so many units where there are enough.
    grain: u64,
}

impl Shares {
    pub(crate) fn new(threads: u32) -> Self {
        let threads = threads.max(1);
        Self {
            left: (0..threads).map(|_| Line::default()).collect(),
            steps: (0..threads).map(|_| Line::default()).collect(),
        }
    }

    /// Thread `thread` begins the next divided step.
    pub(crate) fn begin(&self, thread: u32, grain: u64) -> Division {
        let steps = &self.steps[thread as usize].0;
        let step = steps.load(Ordering::Relaxed).wrapping_add(1);
        steps.store(step, Ordering::Relaxed);
        Division { tag: step as u16, thread, grain }
    }

    /// The next units for the thread, where `share` says what each one owns; `None` when nothing is left with anybody.
    pub(crate) fn next(&self, division: Division, share: impl Fn(u32) -> Range<u64>) -> Option<Range<u64>> {
        let threads = self.left.len() as u32;
        (0..threads).find_map(|i| self.take(division, (division.thread + i) % threads, &share))
    }

    /// A piece of what is left with `owner`.
    fn take(&self, division: Division, owner: u32, share: &impl Fn(u32) -> Range<u64>) -> Option<Range<u64>> {
        let place = &self.left[owner as usize].0;
        let mut word = place.load(Ordering::Relaxed);
        loop {
            let mut left = Left::unpack(word);
            if left.tag != division.tag {
                let Range { start, end } = share(owner);
                left = Left { tag: division.tag, front: start.min(MOST_UNITS), back: end.min(MOST_UNITS) };
            }
            let own = owner == division.thread;
            let taken = match left.front < left.back {
                true => left.piece(division.grain),
                // The owner marks the step as seen even if there is nothing in it.
                false if own && left.pack() != word => 0,
                false => return None,
            };
            let range = match own {
                true => left.front..left.front + taken,
                false => left.back - taken..left.back,
            };
            match own {
                true => left.front = range.end,
                false => left.back = range.start,
            }
            match place.compare_exchange_weak(word, left.pack(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return (taken > 0).then_some(range),
                Err(seen) => word = seen,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn split(units: u64, threads: u32) -> impl Fn(u32) -> Range<u64> {
        move |t| units * u64::from(t) / u64::from(threads)..units * u64::from(t + 1) / u64::from(threads)
    }

    #[test]
    fn words_keep_what_they_hold() {
        for (tag, front, back) in [(0, 0, 0), (u16::MAX, MOST_UNITS, MOST_UNITS), (7, 1, 1 << 23)] {
            let left = Left { tag, front, back };
            assert_eq!(Left::unpack(left.pack()), left);
        }
    }

    #[test]
    fn pieces_are_halves_in_grains() {
        let piece = |front, back, grain| Left { tag: 0, front, back }.piece(grain);
        assert_eq!(piece(0, 80, 8), 40);
        assert_eq!(piece(40, 80, 8), 24);
        assert_eq!(piece(0, 9, 8), 8);
        assert_eq!(piece(3, 8, 8), 5);
        assert_eq!(piece(0, 1, 0), 1);
    }

    #[test]
    fn one_thread_alone_does_everything() {
        let shares = Shares::new(3);
        for step in 0..70_000u64 {
            // Steps of all sizes, so that tags wrap around; the others come too late for anything.
            let units = step % 50;
            let mut seen = 0;
            let division = shares.begin(1, 4);
            while let Some(range) = shares.next(division, split(units, 3)) {
                seen += range.end - range.start;
            }
            assert_eq!(seen, units);
            for late in [0, 2] {
                let division = shares.begin(late, 4);
                assert_eq!(shares.next(division, split(units, 3)), None);
            }
        }
    }

    #[test]
    fn units_are_handed_out_once() {
        for threads in 2..=5u32 {
            let shares = Shares::new(threads);
            let barrier = Barrier::new(threads as usize);
            let counts: Vec<AtomicU32> = (0..997).map(|_| AtomicU32::new(0)).collect();
            let rounds = 400;
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (shares, barrier, counts) = (&shares, &barrier, &counts);
                    scope.spawn(move || {
                        for round in 0..rounds {
                            let units = 1 + round * 7 % 997;
                            let division = shares.begin(thread, 8);
                            while let Some(range) = shares.next(division, split(units, threads)) {
                                for unit in range {
                                    counts[unit as usize].fetch_add(1, Ordering::Relaxed);
                                }
                                // A slow thread, whose share the others help with.
                                if thread == 0 && round % 16 == 0 {
                                    std::thread::yield_now();
                                }
                            }
                            barrier.wait();
                        }
                    });
                }
            });
            for (unit, count) in counts.iter().enumerate() {
                let expected = (0..rounds).filter(|round| unit as u64 <= round * 7 % 997).count();
                assert_eq!(
                    count.load(Ordering::Relaxed) as usize,
                    expected,
                    "{threads} threads, unit {unit}"
                );
            }
        }
    }
}
