//! Masks of constraints within the time of a step.
//!
//! The mask of a grammar is computed where its text is sampled, within a step, and may take much longer than a row. All of a step's
//! masks together get a share of its time: texts whose masks would exceed it miss the step, and one whose mask took longer by itself
//! misses as many steps as its time is shares, so that others decode in between. When a token is made depends on that, which token it
//! is does not.
//!
//! Invariant: where nothing else can be computed, one of them is not held back.

use std::time::Duration;

/// Part of the time of a step that masks get.
const SHARE: u32 = 4;

/// Steps in a row that a text misses, at most.
const MOST_MISSED: u32 = 32;

/// What all masks of a step of `time` may take together.
pub(super) fn share_of(time: Duration) -> Duration {
    // A share that is nothing would never be made up for.
    (time / SHARE).max(Duration::from_millis(1))
}

/// What the mask of a text takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MaskTurn {
    /// The latest one, as far as is known.
    latest: Duration,
    /// Beyond its share, and not yet made up for by steps that were missed.
    owed: Duration,
}

impl MaskTurn {
    /// Takes note of how long a mask took, where all of a step's get `share`.
    pub(super) fn took(&mut self, time: Duration, share: Duration) {
        (self.latest, self.owed) = (time, time.saturating_sub(share).min(share * MOST_MISSED));
    }

    /// Whether the text has a part in the step whose masks take `used` of `share` so far; takes its time of it then.
    pub(super) fn is_due(&mut self, used: &mut Duration, share: Duration) -> bool {
        if !self.owed.is_zero() {
            self.owed = self.owed.saturating_sub(share);
            return false;
        }
        if !used.is_zero() && *used + self.latest > share {
            return false;
        }
        *used += self.latest;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_a_step_stay_within_their_share() {
        let ms = Duration::from_millis;
        let share = ms(60);
        let mut turns = [MaskTurn::default(); 4];
        for (turn, time) in turns.iter_mut().zip([ms(1), ms(40), ms(40), ms(1)]) {
            turn.took(time, share);
        }
        let mut used = Duration::ZERO;
        assert_eq!(turns.each_mut().map(|turn| turn.is_due(&mut used, share)), [true, true, false, true]);
        assert_eq!(used, ms(42));
        // One that takes five shares has a part in every fifth step.
        let mut long = MaskTurn::default();
        let mut steps = Vec::new();
        for step in 0..11 {
            if long.is_due(&mut Duration::default(), share) {
                steps.push(step);
                long.took(ms(300), share);
            }
        }
        assert_eq!(steps, [0, 5, 10]);
        long.took(ms(600_000), share);
        let missed = (0..).take_while(|_| !long.is_due(&mut Duration::default(), share)).count();
        assert_eq!(missed, MOST_MISSED as usize);
    }
}
