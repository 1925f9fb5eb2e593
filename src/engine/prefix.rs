//! Reuse of prefixes: chooses the free sequence for a prompt, and the sequence whose beginning it reuses.
//!
//! All sequences keep their tokens and caches, including free ones. The longest beginning of a prompt that is in any sequence (also
//! one whose text is being generated) or in the [store](super::store) is not computed: the prompt continues in the sequence that
//! contains it, or the keys and values are copied to another one. Results are bit-identical, because the cache of a token depends only
//! on the tokens before it. Sequences of a different salt are never reused.
//!
//! Invariant: a prompt never destroys more than it saves, except in the least recently used sequence.

use std::cmp::Reverse;

/// A beginning that is shorter is not looked for in other sequences, unless it is all of the prompt or of the sequence: nearly
/// all prompts of a model begin with the same token, and computing a few tokens costs no more than one.
pub(super) const SHORTEST_MATCH: usize = 16;

/// While there is an empty sequence, a prompt goes on in a used one only if it keeps at least this many times what it
/// destroys: the end of an answer that the next prompt leaves out, but not the conversation of somebody with the same system
/// message.
const KEPT_TO_LOST: usize = 8;

/// A sequence as a prompt sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    /// Which one.
    pub(super) index: usize,
    /// Whether it can be given to the prompt.
    pub(super) free: bool,
    /// Whether the prompt may reuse what it holds.
    pub(super) shared: bool,
    /// The tokens that it holds.
    pub(super) tokens: &'a [u32],
    /// Rising numbers: when a request last began or ended in it; 0 if it never had one.
    pub(super) used: u64,
}

/// What a prompt asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Its tokens, as far as they may be reused: none where nothing may.
    pub(super) prompt: &'a [u32],
    /// Tokens of it that the store has kept.
    pub(super) stored: usize,
    /// The sequence that it wishes for.
    pub(super) seat: Option<usize>,
}

/// Who holds the beginning of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The sequence that it is given.
    Same,
    /// Another one, to copy it from.
    Seat(usize),
    /// The store.
    Store,
}

/// A sequence for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Which one.
    pub(super) index: usize,
    /// Who holds the beginning of the prompt.
    pub(super) source: Source,
    /// Tokens of the prompt that need not be computed: at most all but the last, whose logits are wanted.
    pub(super) keep: usize,
}

/// A sequence, and how much of the prompt it holds.
#[derive(Clone, Copy, Debug)]
struct Match<'a> {
    keep: usize,
    held: Held<'a>,
}

impl Match<'_> {
    /// Tokens that are destroyed if the prompt is given this sequence.
    fn lost(&self) -> usize {
        self.held.tokens.len() - self.keep
    }

    /// Whether the prompt goes on in this sequence: it continues all of it, or nearly all.
    fn goes_on(&self, weight: usize) -> bool {
        let is_long = self.keep >= SHORTEST_MATCH || self.keep > 0 && self.lost() == 0;
        self.held.free && is_long && self.lost().saturating_mul(weight) <= self.keep
    }
}

/// The sequence for a prompt; `None` if none is free. It is the one that is wished for, if it is free. If not, the prompt goes on
/// in the free sequence with the longest match that is worth what it destroys (of several, the one that loses least). Without one
/// it is given an empty sequence, or else the least recently used one. What another sequence or the store holds beyond that is
/// copied.
pub(super) fn choose<'a>(ask: Ask<'_>, held: impl Iterator<Item = Held<'a>>) -> Option<Choice> {
    let all_but_last = &ask.prompt[..ask.prompt.len().saturating_sub(1)];
    let keep = |held: &Held<'_>| if held.shared { common_prefix(all_but_last, held.tokens) } else { 0 };
    let matches: Vec<Match<'_>> = held.map(|held| Match { keep: keep(&held), held }).collect();
    let free = || matches.iter().filter(|of| of.held.free);
    let weight = if free().any(|of| of.held.tokens.is_empty()) { KEPT_TO_LOST } else { 1 };
    let going_on = free().filter(|of| of.goes_on(weight));
    let going_on = going_on.max_by_key(|of| (of.keep, Reverse((of.lost(), of.held.used, of.held.index))));
    let unused = || free().min_by_key(|of| (!of.held.tokens.is_empty(), of.held.used, of.held.index));
    let wished = || free().find(|of| Some(of.held.index) == ask.seat);
    let target = wished().or(going_on).or_else(unused)?;
    let (index, own) = (target.held.index, target.keep);
    let longest = matches.iter().max_by_key(|of| (of.keep, Reverse(of.held.index)));
    // A prompt that is held as a whole is short or long.
    let is_worth_it = |keep: usize| keep >= SHORTEST_MATCH || keep == all_but_last.len();
    let copied = longest.filter(|of| of.keep > own && is_worth_it(of.keep));
    let (source, keep) = copied.map_or((Source::Same, own), |of| (Source::Seat(of.held.index), of.keep));
    let stored = ask.stored.min(all_but_last.len());
    match stored > keep && is_worth_it(stored) {
        true => Some(Choice { index, source: Source::Store, keep: stored }),
        false => Some(Choice { index, source, keep }),
    }
}

/// Length of the longest common prefix.
pub(super) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seats: tokens, when they were used, whether they are free. Gives index, source and tokens kept.
    fn chosen(prompt: &[u32], seats: &[(&[u32], u64, bool)]) -> Option<(usize, usize, usize)> {
        with(Ask { prompt, stored: 0, seat: None }, seats, true).map(|Choice { index, source, keep }| {
            let source = if let Source::Seat(of) = source { of } else { index };
            (index, source, keep)
        })
    }

    fn with(ask: Ask<'_>, seats: &[(&[u32], u64, bool)], shared: bool) -> Option<Choice> {
        let held = |(index, &(tokens, used, free))| Held { index, free, shared, tokens, used };
        choose(ask, seats.iter().enumerate().map(held))
    }

    #[test]
    fn wishes_the_store_and_other_salts() {
        let long = numbers(0, 100);
        let seats = [(&long[..40], 1, true), (&[][..], 0, true), (&long[..90], 2, false)];
        let ask = Ask { prompt: &long, stored: 0, seat: None };
        let of = |index, source, keep| Some(Choice { index, source, keep });
        // The free one that holds some of it, and the rest from the one that holds more.
        assert_eq!(with(ask, &seats, true), of(0, Source::Seat(2), 90));
        assert_eq!(with(Ask { stored: 95, ..ask }, &seats, true), of(0, Source::Store, 95));
        assert_eq!(with(Ask { stored: 80, ..ask }, &seats, true), of(0, Source::Seat(2), 90));
        // The last token is computed, whatever is kept.
        assert_eq!(with(Ask { stored: 100, ..ask }, &seats, true), of(0, Source::Store, 99));
        // A wish is granted if it can be.
        assert_eq!(with(Ask { seat: Some(1), ..ask }, &seats, true), of(1, Source::Seat(2), 90));
        assert_eq!(with(Ask { seat: Some(2), ..ask }, &seats, true), of(0, Source::Seat(2), 90));
        assert_eq!(with(Ask { seat: Some(9), ..ask }, &seats, true), of(0, Source::Seat(2), 90));
        // What others hold is nothing to this one; nor is anything to a prompt that reuses nothing.
        assert_eq!(with(ask, &seats, false), of(1, Source::Same, 0));
        assert_eq!(with(Ask { prompt: &[], stored: 50, ..ask }, &seats, true), of(1, Source::Same, 0));
    }

    fn numbers(from: u32, count: u32) -> Vec<u32> {
        (from..from + count).collect()
    }

    #[test]
    fn a_text_goes_on_where_it_is_and_others_lose_nothing() {
        let system = numbers(0, 50);
        let turn = |of: u32, count| [&system[..], &numbers(1000 * of, count)].concat();
        let (first, second) = (turn(1, 9_000), turn(2, 30));
        let empty = (&[][..], 0, true);
        assert_eq!(chosen(&second, &[]), None);
        assert_eq!(chosen(&second, &[(&first, 1, false)]), None);
        // The same beginning as a long conversation: copied to a sequence that is empty, or was not used for longer.
        assert_eq!(chosen(&second, &[(&first, 1, true), empty, empty]), Some((1, 0, 50)));
        let other = numbers(500_000, 20);
        assert_eq!(chosen(&second, &[(&first, 2, true), (&other, 1, true)]), Some((1, 0, 50)));
        // Even from one whose text is being made.
        assert_eq!(chosen(&second, &[(&first, 2, false), (&other, 1, true)]), Some((1, 0, 50)));
        // The least recently used one may be the one that holds the beginning.
        assert_eq!(chosen(&second, &[(&first, 1, true), (&other, 2, true)]), Some((0, 0, 50)));
        // The next turn goes on in place, also where the end of the answer is left out, whatever else is free.
        assert_eq!(chosen(&turn(1, 9_100), &[empty, (&first, 1, true)]), Some((1, 1, 9_050)));
        let left_out = [&first[..9_000], &numbers(77, 9)].concat();
        assert_eq!(chosen(&left_out, &[empty, (&first, 1, true)]), Some((1, 1, 9_000)));
        // Half of a sequence is destroyed only where none is empty.
        let half = [&first[..5_000], &numbers(77, 9)].concat();
        assert_eq!(chosen(&half, &[(&first, 2, true), empty]), Some((1, 0, 5_000)));
        assert_eq!(chosen(&half, &[(&first, 2, true), (&other, 1, true)]), Some((0, 0, 5_000)));
    }

    #[test]
    fn the_longest_match_wins_and_else_the_longest_unused() {
        let long = numbers(0, 40);
        // The same prompt again: its last token is computed for its logits.
        assert_eq!(chosen(&long, &[(&[], 0, true), (&long, 9, true)]), Some((1, 1, 39)));
        // The longer match; of equal ones the one that loses less.
        assert_eq!(chosen(&long, &[(&long[..20], 1, true), (&long[..30], 2, true)]), Some((1, 1, 30)));
        let more = [&long[..30], &[99; 2][..]].concat();
        assert_eq!(chosen(&long, &[(&more, 1, true), (&long[..30], 2, true)]), Some((1, 1, 30)));
        // A few tokens are no match, but are kept where the sequence is taken anyway.
        assert_eq!(chosen(&long, &[(&long[..5], 3, true), (&[7], 4, true)]), Some((0, 0, 5)));
        let other = [&long[..5], &[99][..]].concat();
        assert_eq!(chosen(&long, &[(&other, 3, true), (&[], 0, true)]), Some((1, 1, 0)));
        // Unless they are all that the sequence holds, or all of the prompt.
        assert_eq!(chosen(&long, &[(&[], 0, true), (&long[..5], 3, true)]), Some((1, 1, 5)));
        assert_eq!(chosen(&long[..6], &[(&other, 3, true), (&[], 0, true)]), Some((1, 0, 5)));
        assert_eq!(chosen(&[4], &[(&[4], 3, true)]), Some((0, 0, 0)));
        assert_eq!(chosen(&[], &[(&[4], 3, true)]), Some((0, 0, 0)));
    }
}
