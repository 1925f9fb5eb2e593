//! Stop strings in a stream of text, wherever tokens cut them.
//!
//! The text is looked at once, byte by byte: of each stop string it is known how much of its beginning the text ends with
//! (Knuth, Morris, Pratt), so that a byte costs the same however long the strings are and however much is held back.

/// Lets text through up to the first stop string, holding back only what may be the start of one.
///
/// The result does not depend on how the text is cut: it ends at the stop string that is complete first, and of those
/// that are complete at the same place at the longest.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<StopString>,
    held: String,
    found: Option<usize>,
}

impl StopStrings {
    /// Stops at these strings; empty ones never occur.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops: Vec<StopString> = stops.into_iter().map(StopString::new).collect();
        let longest = stops.iter().map(|stop| stop.bytes.len()).max();
        // What is held back is shorter than a stop string, and a token's text is added to it.
        let held = longest.map_or_else(String::new, |longest| String::with_capacity(longest + 256));
        Self { stops, held, found: None }
    }

    /// Takes `text` and appends to `out` all that cannot be part of a stop string. Returns the index of the stop string
    /// that has been found, which is not appended, nor is anything after it.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.found.is_some() {
            return self.found;
        }
        if self.stops.is_empty() {
            out.push_str(text);
            return None;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            let mut complete: Option<(usize, usize)> = None;
            for (index, stop) in self.stops.iter_mut().enumerate() {
                let length = stop.bytes.len();
                if stop.advance(byte) && complete.is_none_or(|(longest, _)| length > longest) {
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
        let keep = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        out.push_str(&self.held[..self.held.len() - keep]);
        self.held.drain(..self.held.len() - keep);
        None
    }

    /// Ends the text: appends what was held back.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
    }
}

/// A stop string, and how much of it the text ends with.
#[derive(Debug, Clone)]
struct StopString {
    bytes: Vec<u8>,
    /// For each of its beginnings, one byte and longer: the longest shorter beginning that it ends with.
    borders: Vec<usize>,
    /// Bytes of its beginning that the text ends with, fewer than all.
    matched: usize,
}

impl StopString {
    fn new(text: String) -> Self {
        let bytes = text.into_bytes();
        let mut borders = Vec::with_capacity(bytes.len());
        for at in 0..bytes.len() {
            let border = if at == 0 { 0 } else { extended(&bytes, &borders, borders[at - 1], bytes[at]) };
            borders.push(border);
        }
        Self { bytes, borders, matched: 0 }
    }

    /// Takes the next byte of the text; says whether the string is complete with it.
    fn advance(&mut self, byte: u8) -> bool {
        self.matched = extended(&self.bytes, &self.borders, self.matched, byte);
        self.matched == self.bytes.len() && !self.bytes.is_empty()
    }
}

/// The longest beginning of `bytes` that a text ends with, which ended with `matched` of them before `byte`.
fn extended(bytes: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    while bytes.get(matched) != Some(&byte) {
        if matched == 0 {
            return 0;
        }
        matched = borders[matched - 1];
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
        let mut stops = StopStrings::new(["\nUser:".to_owned(), "END".to_owned()]);
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
        let mut stops = StopStrings::new([stop.clone(), "aab".to_owned()]);
        let mut out = String::new();
        for piece in 0..text.len() / 2 {
            assert_eq!(stops.push(&text[2 * piece..][..2], &mut out), None);
        }
        assert!(out.is_empty());
        stops.finish(&mut out);
        assert_eq!(out, text);
        let mut stops = StopStrings::new([stop.clone()]);
        out.clear();
        assert_eq!(stops.push("xab", &mut out), None);
        assert_eq!(stops.push(&stop, &mut out), Some(0));
        assert_eq!(out, "xab");
    }

    proptest! {
        #[test]
        fn equals_the_definition_for_any_cuts(
            pieces in proptest::collection::vec("[abé]{0,4}", 0..12),
            stops in proptest::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let mut finder = StopStrings::new(stops.clone());
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
