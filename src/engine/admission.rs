//! Admission: assigns sequences to waiting requests, and reuses what the sequences contain.
//!
//! Requests are admitted in the order of their arrival, except for two kinds, which later ones overtake: those whose clients must read
//! first, and those that share the beginning of a prompt under way. The latter would compute the same rows at the same time. They
//! get a sequence, and a copy of the shared beginning, as soon as the other request has computed it. The request that they wait for
//! is determined again before every step, and always has a sequence and rows in the steps to come.
//!
//! Before a prompt overwrites the contents of a sequence, they are saved to the store if they may be of use.

use bitnetc_runtime::tokenizer::TokenId;

use super::prefix::{Ask, Choice, Held, SHORTEST_MATCH, Source, choose, common_prefix};
use super::request::Salt;
use super::running::Running;
use super::scheduler::{Scheduler, Waiting};
use super::slots::SeatIndex;
use super::stepper::Stepper;

/// A prompt waits for another one if they share this number of tokens, or all but the last of its own.
const WORTH_WAITING: usize = 64;

/// The number of tokens that a sequence must lose for its contents to be stored. Storing copies all of its tokens, which takes longer
/// than computing fewer than these again.
const LEAST_LOST: usize = 16;

/// If the store has no room for a whole text, it keeps a beginning whose length is a multiple of this number of tokens.
const STORED_PART: usize = 64;

impl<S: Stepper> Scheduler<S> {
    /// Gives free sequences to the requests that wait longest; those of clients that do not read, if there are no others.
    pub(super) fn admit(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            let is_free = self.places.iter().any(Option::is_none);
            if !is_free && self.blocked().is_none() {
                return;
            }
            if !self.waiting[at].running.outlet.has_room() || self.waits_for_another(at) {
                at += 1;
            } else if !is_free {
                self.park();
                // The one that was parked waits in its old place.
                at = 0;
            } else {
                let choice = self.choose_for(at);
                match self.waiting.remove(at).zip(choice) {
                    Some((waiting, choice)) => self.begin(waiting, choice),
                    None => return,
                }
            }
        }
    }

    /// The sequence for a request that waits.
    fn choose_for(&self, at: usize) -> Option<Choice> {
        let Waiting { running, tokens } = &self.waiting[at];
        let cache = running.cache;
        let prompt = if running.may_reuse() { &tokens[..] } else { &[] };
        let seat = cache.seat.map(|seat| seat.0 as usize);
        let ask = Ask { prompt, stored: self.store.longest(cache.salt, prompt), seat };
        choose(ask, self.held(cache.salt))
    }

    /// What the sequences hold, for a prompt of this salt.
    fn held(&self, salt: Option<Salt>) -> impl Iterator<Item = Held<'_>> {
        self.seats.iter().zip(&self.places).enumerate().map(move |(index, (seat, place))| Held {
            index,
            free: place.is_none(),
            shared: seat.salt == salt,
            tokens: S::tokens(&seat.sequence),
            used: seat.used,
        })
    }

    /// Whether a prompt that is being computed brings more of the beginning of this one than there is yet.
    fn waits_for_another(&self, at: usize) -> bool {
        let Waiting { running, tokens } = &self.waiting[at];
        let prompt = &tokens[..tokens.len().saturating_sub(1)];
        if !running.may_reuse() || prompt.is_empty() {
            return false;
        }
        let salt = running.cache.salt;
        let (mut there, mut coming) = (0, 0);
        for (seat, place) in self.seats.iter().zip(&self.places).filter(|(seat, _)| seat.salt == salt) {
            let held = S::tokens(&seat.sequence);
            let shared = common_prefix(prompt, held);
            there = there.max(shared);
            let goes_on = |place: &Running| !place.decoding && !place.outlet.is_blocked();
            if shared == held.len() && place.as_ref().is_some_and(goes_on) {
                coming = coming.max(shared + common_prefix(&prompt[shared..], &seat.pending[seat.fed..]));
            }
        }
        if coming < WORTH_WAITING.min(prompt.len()) {
            return false;
        }
        there = there.max(self.store.longest(salt, prompt));
        coming >= there + SHORTEST_MATCH.min(prompt.len())
    }

    /// Gives a request its sequence, which then holds what need not be computed.
    fn begin(&mut self, waiting: Waiting, choice: Choice) {
        let Waiting { mut running, tokens } = waiting;
        let now = self.now();
        let kept = self.fill(running.cache.salt, &tokens, choice);
        let index = choice.index;
        let model = (&*self.tokenizer, self.stepper.vocab(), self.stepper.context());
        let begun = running.begin(&tokens, model, (SeatIndex(index as u32), kept), now, &self.metrics);
        let seat = &mut self.seats[index];
        seat.pending.clear();
        seat.pending.extend_from_slice(&tokens);
        seat.fed = kept;
        self.places[index] = Some(running);
        self.touch(index);
        if let Err(panic) = begun {
            self.end(index, Err(panic.into()));
        }
    }

    /// Makes a sequence hold the beginning of these tokens that is there already; the length of that.
    fn fill(&mut self, salt: Option<Salt>, tokens: &[TokenId], choice: Choice) -> usize {
        let Choice { index, source, keep } = choice;
        let stored = match source {
            Source::Store => self.store.take(salt, &tokens[..keep]),
            Source::Same | Source::Seat(_) => None,
        };
        let of_this_salt = self.seats[index].salt == salt;
        let left = match (source, of_this_salt) {
            (Source::Same, _) => keep,
            (_, true) => common_prefix(&tokens[..keep], S::tokens(&self.seats[index].sequence)),
            (_, false) => 0,
        };
        self.put_away(index, left);
        let left = S::truncate(&mut self.seats[index].sequence, left);
        self.seats[index].salt = salt;
        match (source, stored) {
            (Source::Seat(of), _) => match self.seats.get_disjoint_mut([index, of]) {
                Ok([seat, of]) => S::copy_prefix(&of.sequence, &mut seat.sequence, keep),
                Err(_) => left,
            },
            (_, Some(prefix)) => self.stepper.restore(&prefix, &mut self.seats[index].sequence, keep),
            (Source::Same | Source::Store, None) => left,
        }
    }

    /// Stores what a sequence holds before all but the first `left` tokens of it are forgotten, unless it is little, or somebody
    /// else has it.
    pub(super) fn put_away(&mut self, index: usize, left: usize) {
        let seat = &self.seats[index];
        let (tokens, salt) = (S::tokens(&seat.sequence), seat.salt);
        if self.store.limit() == 0 || tokens.len() < left + LEAST_LOST {
            return;
        }
        let mut others =
            self.seats.iter().enumerate().filter(|&(other, seat)| other != index && seat.salt == salt);
        let elsewhere = others.any(|(_, other)| S::tokens(&other.sequence).starts_with(tokens));
        if elsewhere || self.store.longest(salt, tokens) == tokens.len() {
            return;
        }
        let length = self.storable(tokens.len());
        if length < left + LEAST_LOST || self.store.longest(salt, &tokens[..length]) == length {
            return;
        }
        // The memory is never more than the store's, not even while the copy is made.
        let size = self.stepper.prefix_format().bytes(length as u64) + 4 * length as u64;
        self.store.make_room(salt, &tokens[..length], size);
        // Memory that cannot be had is no reason to refuse a prompt.
        if let Ok(prefix) = self.stepper.save(&seat.sequence, length) {
            self.store.insert(salt, prefix);
        }
    }

    /// How many of so many tokens the store has room for at most.
    fn storable(&self, tokens: usize) -> usize {
        let format = self.stepper.prefix_format();
        let fits = |&count: &usize| format.bytes(count as u64) + 4 * count as u64 <= self.store.limit();
        if fits(&tokens) {
            return tokens;
        }
        let mut beginnings = (1..=tokens / STORED_PART).rev().map(|parts| parts * STORED_PART);
        beginnings.find(fits).unwrap_or(0)
    }

    /// The text that would be parked: of those whose clients do not read, the one that came last; its arrival and its seat.
    fn blocked(&self) -> Option<(u64, usize)> {
        let blocked = self.places.iter().enumerate().filter_map(|(index, place)| {
            let running = place.as_ref().filter(|running| running.outlet.is_blocked())?;
            Some((running.arrival, index))
        });
        blocked.max()
    }

    /// Takes the sequence of a text whose client does not read.
    fn park(&mut self) {
        let Some((arrival, index)) = self.blocked() else { return };
        let Some(mut running) = self.places[index].take() else { return };
        running.park();
        let seat = &self.seats[index];
        let tokens = [S::tokens(&seat.sequence), &seat.pending[seat.fed..]].concat().into();
        let at = self.waiting.partition_point(|waiting| waiting.running.arrival < arrival);
        self.waiting.insert(at, Waiting { running, tokens });
        self.touch(index);
        self.stats.parked += 1;
        self.metrics.preemptions.add(1);
    }
}
