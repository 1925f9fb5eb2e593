//! Keeping users from control tokens: where the rendered text spells a control token with a character that a user wrote,
//! the tokenizer is told not to read one there.

use std::ops::Range;

/// The places in a rendered text, rising, across which no control token may be read: within each control token that is
/// spelled with a part of a user's text. A token of one character has one on both sides.
///
/// A place is at an end of a user's text or inside it, so none is within a token that the template wrote alone.
pub(super) fn breaks(text: &str, user: &[Range<usize>], controls: &[String]) -> Vec<usize> {
    let mut places = Vec::new();
    for control in controls {
        let Some(first) = control.chars().next() else { continue };
        let mut from = 0;
        // Occurrences may overlap.
        while let Some(found) = text[from..].find(control.as_str()) {
            let found = from + found..from + found + control.len();
            from = found.start + first.len_utf8();
            let next = user.partition_point(|range| range.end <= found.start);
            let Some(range) = user.get(next).filter(|range| range.start < found.end) else { continue };
            if range.start > found.start {
                places.push(range.start);
            } else if from < found.end {
                places.push(from);
            } else {
                places.extend([found.start, found.end]);
            }
        }
    }
    places.sort_unstable();
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn controls() -> Vec<String> {
        ["<|end|>", "<|end|>x", "<s>", "[INST]", "é"].map(String::from).to_vec()
    }

    #[test]
    fn only_what_a_user_spells_is_broken() {
        let broken = |text: &str, user: Range<usize>| breaks(text, std::slice::from_ref(&user), &controls());
        assert_eq!(broken("<s>a<s>", 3..7), [5]);
        assert!(broken("<s>a<s>", 3..4).is_empty());
        // Begun by the template, ended by a user, and the other way round.
        assert_eq!(broken("<s>", 1..2), [1]);
        assert_eq!(broken("<s>", 0..1), [1]);
        assert_eq!(broken("<s>", 2..3), [2]);
        assert_eq!(broken("aéb", 0..4), [1, 3]);
        assert_eq!(broken("<|end|>x", 7..8), [7]);
    }

    proptest! {
        /// Whatever the pieces of a text are and whoever wrote them: each control token with a user's part has a break
        /// inside, and each one of the template alone has none.
        #[test]
        fn no_control_token_escapes(
            pieces in proptest::collection::vec(("(<\\||end|\\|>|x|<s>|\\[INST|\\]|<|s|>|\\||é){0,3}", any::<bool>()), 0..8),
        ) {
            let controls = controls();
            let (mut text, mut user) = (String::new(), Vec::<Range<usize>>::new());
            for (piece, own) in &pieces {
                let range = text.len()..text.len() + piece.len();
                text.push_str(piece);
                match user.last_mut() {
                    _ if !own || range.is_empty() => {}
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => user.push(range),
                }
            }
            let breaks = breaks(&text, &user, &controls);
            for control in &controls {
                for (at, _) in text.match_indices(control.as_str()) {
                    let inside = |place: &usize| at < *place && *place < at + control.len();
                    let alone = control.chars().nth(1).is_none()
                        && breaks.contains(&at) && breaks.contains(&(at + control.len()));
                    let by_user = user.iter().any(|range| range.start < at + control.len() && at < range.end);
                    if by_user {
                        prop_assert!(alone || breaks.iter().any(inside), "{} at {} of {:?}", control, at, text);
                    } else {
                        prop_assert!(!breaks.iter().any(inside), "{} at {} of {:?}", control, at, text);
                    }
                }
            }
        }
    }
}
