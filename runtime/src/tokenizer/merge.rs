//! The merge loop of byte-pair encoding: of all pairs of neighbours the best is joined, until none can be.
//!
//! Symbols are a doubly linked list over one piece of text; candidate pairs wait in a heap. A pair whose symbols have
//! changed since it was found is recognised by its length and skipped. At most one pair is pushed for every pair of
//! initial neighbours and two for every join, and joins are fewer than symbols: O(n log n), whatever the text is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::TokenId;

/// No symbol.
const NONE: u32 = u32::MAX;

/// A stretch of the piece that is one token, or that has none yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// First byte in the piece.
    pub(super) start: u32,
    /// Bytes; 0 once the symbol has been joined to its left neighbour.
    pub(super) length: u32,
    /// Its token.
    pub(super) token: Option<TokenId>,
    previous: u32,
    next: u32,
}

/// How well two neighbours join: the lower rank first, among equals the leftmost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Join {
    pub(super) rank: u32,
    pub(super) token: TokenId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    length: u32,
    token: TokenId,
}

/// The memory of the loop, kept from piece to piece.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
    /// Pairs looked at: what linear time is tested by.
    #[cfg(test)]
    pub(super) work: u64,
}

impl Merger {
    /// Forgets the last piece.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends an initial symbol of `length` bytes.
    pub(super) fn push(&mut self, length: u32, token: Option<TokenId>) {
        let index = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |last| last.start + last.length);
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        self.symbols.push(Symbol { start, length, token, previous: index.wrapping_sub(1), next: NONE });
    }

    /// Joins until nothing joins any more. `join` says whether, and how well, two neighbouring symbols join.
    pub(super) fn run(&mut self, join: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        for right in 1..self.symbols.len() as u32 {
            self.offer(right - 1, right, &join);
        }
        while let Some(Reverse(candidate)) = self.heap.pop() {
            #[cfg(test)]
            {
                self.work += 1;
            }
            let (left, right) =
                (self.symbols[candidate.left as usize], self.symbols[candidate.right as usize]);
            if left.length == 0 || right.length == 0 || left.length + right.length != candidate.length {
                continue;
            }
            let next = right.next;
            self.symbols[candidate.right as usize].length = 0;
            let joined = &mut self.symbols[candidate.left as usize];
            joined.length = candidate.length;
            joined.token = Some(candidate.token);
            joined.next = next;
            if next != NONE {
                self.symbols[next as usize].previous = candidate.left;
                self.offer(candidate.left, next, &join);
            }
            if left.previous != NONE {
                self.offer(left.previous, candidate.left, &join);
            }
        }
    }

    fn offer(&mut self, left: u32, right: u32, join: &impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        #[cfg(test)]
        {
            self.work += 1;
        }
        let (a, b) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some(Join { rank, token }) = join(a, b) {
            let length = a.length + b.length;
            self.heap.push(Reverse(Candidate { rank, left, right, length, token }));
        }
    }

    /// The symbols that are left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.length > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Tokens are numbers up to 40; two that sum to at most 40 join, the smaller sum first.
    fn rule(a: u32, b: u32) -> Option<Join> {
        let sum = a + b;
        (sum <= 40).then_some(Join { rank: (sum * 7) % 11, token: sum })
    }

    /// The definition: look at all neighbours, join the best, start again.
    fn by_definition(mut tokens: Vec<u32>) -> Vec<u32> {
        loop {
            let best = tokens
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| Some((rule(pair[0], pair[1])?, at)))
                .min_by_key(|&(join, at)| (join.rank, at));
            let Some((join, at)) = best else { return tokens };
            tokens.splice(at..at + 2, [join.token]);
        }
    }

    proptest! {
        #[test]
        fn joins_in_the_defined_order(tokens in proptest::collection::vec(1u32..9, 0..60)) {
            let mut merger = Merger::default();
            for &token in &tokens {
                merger.push(token, Some(token));
            }
            merger.run(|a, b| rule(a.token?, b.token?));
            let joined: Vec<u32> = merger.symbols().filter_map(|symbol| symbol.token).collect();
            prop_assert_eq!(&joined, &by_definition(tokens.clone()));
            let lengths: Vec<u32> = merger.symbols().map(|symbol| symbol.length).collect();
            prop_assert_eq!(&lengths, &joined, "a token is as long as its number");
        }
    }

    #[test]
    fn work_is_linear_in_the_length() {
        let work = |n: u32| {
            let mut merger = Merger::default();
            (0..n).for_each(|_| merger.push(1, Some(1)));
            merger.run(|a, b| rule(a.token?, b.token?));
            merger.work
        };
        let (short, long) = (work(10_000), work(80_000));
        assert!(long <= short * 8 + 1000 && short <= 10_000 * 6, "{short} {long}");
    }
}
