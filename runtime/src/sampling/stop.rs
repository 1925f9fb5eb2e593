//! Stop strings in a stream of text, wherever tokens cut them.
//!
//! The text is looked at once, byte by byte: of each stop string it is known how much of its beginning the text ends with
//! (Knuth, Morris, Pratt), so that a byte costs the same however long the strings are and however much is held back.

use std::sync::Arc;

/// Strings that end a text, with what it takes to find them. Clones share all of it, so that any number of texts may end at the same
/// strings. Empty ones, and those of 4 GiB and more, never occur.
#[derive(Clone, Default)]
pub struct StopList(Arc<[StopString]>);

impl StopList {
    /// Their number.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The string with this index.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(|stop| &*stop.text)
    }

    /// The strings in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|stop| &*stop.text)
    }

    /// These and `more`; shared with this list if there are no more.
    #[must_use]
    pub fn with<'s>(&'s self, more: impl IntoIterator<Item = &'s str>) -> Self {
        let mut more = more.into_iter().peekable();
        match more.peek() {
            None => self.clone(),
            Some(_) => self.iter().chain(more).map(str::to_owned).collect(),
        }
    }
}

impl FromIterator<String> for StopList {
    fn from_iter<I: IntoIterator<Item = String>>(stops: I) -> Self {
        Self(stops.into_iter().map(StopString::new).collect())
    }
}

impl From<Vec<String>> for StopList {
    fn from(stops: Vec<String>) -> Self {
        stops.into_iter().collect()
    }
}

impl std::fmt::Debug for StopList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for StopList {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for StopList {}

/// Lets text through up to the first stop string, holding back only what may be the start of one.
///
/// The result does not depend on how the text is cut: it ends at the stop string that is complete first, and of those
/// that are complete at the same place at the longest.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    list: StopList,
    /// Of each string, bytes of its beginning that the text ends with, fewer than all.
    matched: Box<[u32]>,
    held: String,
    found: Option<usize>,
}

impl StopStrings {
    /// Stops at these strings.
    pub fn new(list: StopList) -> Self {
        let longest = list.iter().map(str::len).max();
        // What is held back is shorter than a stop string, and a token's text is added to it.
        let held = longest.map_or_else(String::new, |longest| String::with_capacity(longest + 256));
        Self { matched: vec![0; list.len()].into(), list, held, found: None }
    }

    /// Takes `text` and appends to `out` all that cannot be part of a stop string. Returns the index of the stop string
    /// that has been found, which is not appended, nor is anything after it.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.found.is_some() {
            return self.found;
        }
        if self.list.is_empty() {
            out.push_str(text);
            return None;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            let mut complete: Option<(usize, usize)> = None;
            for (index, (stop, matched)) in self.list.0.iter().zip(&mut self.matched).enumerate() {
                let length = stop.text.len();
                if stop.advance(matched, byte) && complete.is_none_or(|(longest, _)| length > longest) {
                    complete = Some((length, index));
                }
            }
            if let Some((length, index)) = complete {
                out.push_str(&self.held[..before + at + 1 - length]);
                self.held.clear();
                self.found = Some(index);
                return self.found;
            }
        }
        let keep = self.matched.iter().copied().max().unwrap_or(0) as usize;
        out.push_str(&self.held[..self.held.len() - keep]);
        self.held.drain(..self.held.len() - keep);
        None
    }

    /// Ends the text: appends what was held back.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.matched.fill(0);
    }
}

/// A stop string.
struct StopString {
    text: Box<str>,
    /// For each of its beginnings, one byte and longer: the longest shorter beginning that it ends with. None where the string never
    /// occurs.
    borders: Box<[u32]>,
}

impl StopString {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut borders = Vec::new();
        if u32::try_from(bytes.len()).is_ok() {
            borders.reserve_exact(bytes.len());
            for at in 0..bytes.len() {
                let border = if at == 0 { 0 } else { extended(bytes, &borders, borders[at - 1], bytes[at]) };
                borders.push(border);
            }
        }
        Self { borders: borders.into(), text: text.into() }
    }

    /// Takes the next byte of the text, which ended with `matched` bytes of the string; says whether the string is complete with it.
    fn advance(&self, matched: &mut u32, byte: u8) -> bool {
        if self.borders.is_empty() {
            return false;
        }
        *matched = extended(self.text.as_bytes(), &self.borders, *matched, byte);
        *matched as usize == self.text.len()
    }
}

/// The longest beginning of `bytes` that a text ends with, which ended with `matched` of them before `byte`.
fn extended(bytes: &[u8], borders: &[u32], mut matched: u32, byte: u8) -> u32 {
    while bytes.get(matched as usize) != Some(&byte) {
        if matched == 0 {
            return 0;
        }
        matched = borders[matched as usize - 1];
    }
    matched + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cuts at the first place where a stop string is complete.
    fn by_definition(text: &str, stops: &[String]) -> (String, bool) {
        for end in 0..=text.len() {
            let Some(front) = text.get(..end) else { continue };
            let longest = stops.iter().filter(|stop| front.ends_with(stop.as_str())).map(String::len).max();
            if let Some(length) = longest {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn held_back_no_longer_than_needed() {
        let mut stops = StopStrings::new(StopList::from(vec!["\nUser:".to_owned(), "END".to_owned()]));
        let mut out = String::new();
        for (text, so_far) in [("one\nUs", "one"), ("e the E", "one\nUse the "), ("N", "one\nUse the ")] {
            assert_eq!(stops.push(text, &mut out), None);
            assert_eq!(out, so_far);
        }
        assert_eq!(stops.push("D of it", &mut out), Some(1));
        assert_eq!(out, "one\nUse the ");
        assert_eq!(stops.push("more", &mut out), Some(1));
        stops.finish(&mut out);
        assert_eq!(out, "one\nUse the ");
    }

    #[test]
    fn long_stop_strings_cost_no_more_than_short_ones() {
        // Looking for each of these in what is held back, at every token, would take hours.
        let stop = "ab".repeat(1 << 20) + "c";
        let text = "ab".repeat(1 << 19);
        let mut stops = StopStrings::new(StopList::from(vec![stop.clone(), "aab".to_owned()]));
        let mut out = String::new();
        for piece in 0..text.len() / 2 {
            assert_eq!(stops.push(&text[2 * piece..][..2], &mut out), None);
        }
        assert!(out.is_empty());
        stops.finish(&mut out);
        assert_eq!(out, text);
        let mut stops = StopStrings::new(StopList::from(vec![stop.clone()]));
        out.clear();
        assert_eq!(stops.push("xab", &mut out), None);
        assert_eq!(stops.push(&stop, &mut out), Some(0));
        assert_eq!(out, "xab");
    }

    #[test]
    fn empty_strings_never_occur_and_clones_share_their_strings() {
        let list = StopList::from(vec![String::new(), "b".to_owned()]);
        let mut out = String::new();
        assert_eq!(StopStrings::new(list.clone()).push("ab", &mut out), Some(1));
        assert_eq!(out, "a");
        assert!(Arc::ptr_eq(&list.with([]).0, &list.0));
        let more = list.with(["c"]);
        assert_eq!(more.iter().collect::<Vec<_>>(), ["", "b", "c"]);
        assert!(more != list && more.get(2) == Some("c") && more.len() == 3);
    }

    proptest! {
        #[test]
        fn equals_the_definition_for_any_cuts(
            pieces in proptest::collection::vec("[abé]{0,4}", 0..12),
            stops in proptest::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let mut finder = StopStrings::new(StopList::from(stops.clone()));
            let mut out = String::new();
            let mut found = false;
            for piece in &pieces {
                found |= finder.push(piece, &mut out).is_some();
            }
            finder.finish(&mut out);
            prop_assert_eq!((out, found), by_definition(&pieces.concat(), &stops));
        }
    }
}
