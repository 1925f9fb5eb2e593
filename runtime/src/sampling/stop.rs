//! Stop strings in a stream of text, wherever tokens cut them.

/// Lets text through up to the first stop string, holding back only what may be the start of one.
///
/// The result does not depend on how the text is cut: it ends at the stop string that is complete first, and of those
/// that are complete at the same place at the longest.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopStrings {
    /// Stops at these strings; empty ones never occur.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops: Vec<String> = stops.into_iter().collect();
        let longest = stops.iter().map(String::len).max();
        // What is held back is shorter than a stop string, and a token's text is added to it.
        let held = longest.map_or_else(String::new, |longest| String::with_capacity(longest + 256));
        Self { stops, held, found: None }
    }

    /// Takes `text` and appends to `out` all that cannot be part of a stop string. Returns the index of the stop string
    /// that has been found, which is not appended, nor is anything behind it.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.found.is_some() {
            return self.found;
        }
        if self.stops.is_empty() {
            out.push_str(text);
            return None;
        }
        self.held.push_str(text);
        let ends = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str()).filter(|_| !stop.is_empty())?;
            Some((start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = ends.min() {
            out.push_str(&self.held[..start]);
            self.held.clear();
            self.found = Some(index);
            return self.found;
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        out.push_str(&self.held[..self.held.len() - keep]);
        self.held.drain(..self.held.len() - keep);
        None
    }

    /// Ends the text: appends what was held back.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

/// Length of the longest proper prefix of `stop` that `text` ends with.
fn overlap(text: &str, stop: &str) -> usize {
    let most = text.len().min(stop.len().saturating_sub(1));
    (1..=most).rev().find(|&n| text.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
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
