//! Reuse of prefixes: which free sequence a prompt is given.
//!
//! Free sequences keep their tokens and caches. A prompt takes the one that holds the longest beginning of it, and computes
//! only the rest; the same bits come out, because a token's cache depends on the tokens before it alone.

/// A beginning that is shorter is no reason to give up what another sequence holds: nearly all prompts of a model begin with
/// the same token, and computing a few tokens costs no more than one.
const SHORTEST_MATCH: usize = 16;

/// A free sequence as a prompt sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Free<'a> {
    /// Which one.
    pub(super) index: usize,
    /// The tokens that it holds.
    pub(super) tokens: &'a [u32],
    /// Rising numbers: when its last request ended; 0 if it never had one.
    pub(super) used: u64,
}

/// A sequence for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Which one.
    pub(super) index: usize,
    /// Tokens of the prompt that it holds and that need not be computed: at most all but the last, whose logits are
    /// wanted.
    pub(super) keep: usize,
}

/// The free sequence with the longest match; of several, the one that loses the fewest tokens. Without a match worth the
/// name, the least recently used one.
pub(super) fn choose<'a>(prompt: &[u32], free: impl Iterator<Item = Free<'a>>) -> Option<Choice> {
    let all_but_last = &prompt[..prompt.len().saturating_sub(1)];
    free.map(|seat| (common_prefix(all_but_last, seat.tokens), seat))
        .max_by_key(|&(keep, seat)| {
            let (matched, lost) = match keep >= SHORTEST_MATCH {
                true => (keep, seat.tokens.len() - keep),
                false => (0, 0),
            };
            (matched, std::cmp::Reverse(lost), std::cmp::Reverse(seat.used), std::cmp::Reverse(seat.index))
        })
        .map(|(keep, seat)| Choice { index: seat.index, keep })
}

/// Length of the longest common prefix.
pub(super) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(prompt: &[u32], seats: &[(&[u32], u64)]) -> Option<(usize, usize)> {
        let free = seats.iter().enumerate().map(|(index, &(tokens, used))| Free { index, tokens, used });
        choose(prompt, free).map(|choice| (choice.index, choice.keep))
    }

    #[test]
    fn the_longest_match_wins_and_else_the_longest_unused() {
        let long: Vec<u32> = (0..40).collect();
        let other: Vec<u32> = [&long[..30], &[99; 20][..]].concat();
        assert_eq!(chosen(&long, &[]), None);
        assert_eq!(chosen(&long, &[(&long[..20], 1), (&other, 2), (&[], 0)]), Some((1, 30)));
        // The same prompt again: its last token is computed for its logits.
        assert_eq!(chosen(&long, &[(&[], 0), (&long, 9)]), Some((1, 39)));
        // Equal matches: the one that loses less.
        assert_eq!(chosen(&long, &[(&other, 1), (&long[..30], 2)]), Some((1, 30)));
        // A few tokens are no match, but are kept where the sequence is taken anyway.
        assert_eq!(chosen(&long, &[(&long[..5], 3), (&[7], 4)]), Some((0, 5)));
        assert_eq!(chosen(&long, &[(&long[..5], 3), (&[], 0)]), Some((1, 0)));
        assert_eq!(chosen(&[4], &[(&[4], 3)]), Some((0, 0)));
    }
}
