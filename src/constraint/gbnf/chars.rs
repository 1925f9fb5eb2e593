//! Sets of characters as sorted ranges of code points.
//!
//! Invariant: ranges are in order, do not touch, and hold no surrogate, so that equal sets are equal values.

use std::fmt::Write;

/// The largest code point.
const LAST: u32 = char::MAX as u32;
/// The code points that are no characters.
const SURROGATES: (u32, u32) = (0xd800, 0xdfff);

/// A set of characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct CharSet(Vec<(u32, u32)>);

impl CharSet {
    /// Every character.
    pub(super) fn any() -> Self {
        Self::of_ranges(vec![(0, LAST)])
    }

    /// A single character.
    pub(super) fn one(c: char) -> Self {
        Self(vec![(c as u32, c as u32)])
    }

    /// The characters of inclusive ranges of code points.
    pub(super) fn of_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len() + 1);
        let parts = ranges.into_iter().flat_map(|(from, to)| {
            [(from, to.min(SURROGATES.0 - 1)), (from.max(SURROGATES.1 + 1), to.min(LAST))]
        });
        let mut parts: Vec<_> = parts.filter(|(from, to)| from <= to).collect();
        parts.sort_unstable();
        for (from, to) in parts {
            match joined.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    /// The characters that are not in the set.
    pub(super) fn complement(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.0.len() + 1);
        let mut next = 0;
        for &(from, to) in &self.0 {
            if from > next {
                ranges.push((next, from - 1));
            }
            next = to + 1;
        }
        if next <= LAST {
            ranges.push((next, LAST));
        }
        Self::of_ranges(ranges)
    }

    /// Whether no character is in the set.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges the set has: the cost of an operation on it.
    pub(super) fn ranges(&self) -> usize {
        self.0.len()
    }

    /// Whether `c` is in the set.
    #[cfg(test)]
    pub(super) fn contains(&self, c: char) -> bool {
        self.0.iter().any(|&(from, to)| (from..=to).contains(&(c as u32)))
    }

    /// Whether both sets have a character in common.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            if x.1 < y.0 {
                a.next();
            } else if y.1 < x.0 {
                b.next();
            } else {
                return true;
            }
        }
        false
    }

    /// Adds the characters of `other`; whether there were new ones.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        if other.0.is_empty() {
            return false;
        }
        let joined = Self::of_ranges([&self.0[..], &other.0[..]].concat());
        let grown = joined != *self;
        *self = joined;
        grown
    }

    /// Writes the set as a class of a regular expression; a class without a character matches nothing.
    pub(super) fn write_class(&self, out: &mut String) {
        let plain = |code: u32| char::from_u32(code).filter(char::is_ascii_alphanumeric);
        let one = |out: &mut String, code: u32| match plain(code) {
            Some(c) => out.push(c),
            None => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\x{{{code:X}}}");
            }
        };
        if let [(from, to)] = self.0[..]
            && from == to
        {
            return one(out, from);
        }
        out.push('[');
        for &(from, to) in &self.0 {
            one(out, from);
            if to > from {
                out.push('-');
                one(out, to);
            }
        }
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_in_one_form() {
        let set = CharSet::of_ranges(vec![(98, 100), (97, 98), (101, 101), (0xd000, 0xe000)]);
        assert_eq!(set.0, [(97, 101), (0xd000, 0xd7ff), (0xe000, 0xe000)]);
        assert_eq!(set.complement().complement(), set);
        assert!(CharSet::any().complement().is_empty() && !set.meets(&set.complement()));
        assert!(set.contains('a') && !set.contains('f') && set.meets(&CharSet::one('c')));
        let mut class = String::new();
        set.write_class(&mut class);
        assert_eq!(class, r"[a-e\x{D000}-\x{D7FF}\x{E000}]");
    }
}
