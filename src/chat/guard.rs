//! Keeping users from control tokens: where a text spells one out, a mark is put inside, which the template carries along
//! as a character like any other and which is taken out again before tokenising, leaving a place that no control token
//! may span.
//!
//! Also marked are an end of a text that could begin a control token and a start that could end one, so that nothing
//! comes of two texts side by side. A control token all of whose characters but a word in the middle stand in the
//! template is the template's doing.

/// The control tokens of a model, and a mark that none of the texts contains.
#[derive(Debug)]
pub(super) struct Guard<'t> {
    controls: &'t [String],
    mark: char,
}

/// The mark that is used unless a text contains it: the last private-use character of Unicode.
const LAST_MARK: u32 = 0x10_fffd;
/// The first private-use character of the last plane.
const FIRST_MARK: u32 = 0x10_0000;

impl<'t> Guard<'t> {
    /// A guard with a mark that occurs in none of `texts`, which are searched once for each mark that does occur.
    pub(super) fn new<'a>(controls: &'t [String], texts: impl Iterator<Item = &'a str>) -> Self {
        let mut used: Vec<u32> = texts
            .flat_map(str::chars)
            .map(u32::from)
            .filter(|code| (FIRST_MARK..=LAST_MARK).contains(code))
            .collect();
        used.sort_unstable();
        used.dedup();
        let free = (FIRST_MARK..=LAST_MARK).rev().find(|code| used.binary_search(code).is_err());
        // A text with all 65,534 of them has none left; the character then is a space, and stays.
        Self { controls, mark: free.and_then(char::from_u32).unwrap_or(' ') }
    }

    /// The text with marks where a control token is, begins or ends.
    pub(super) fn protect(&self, text: &str) -> String {
        let mut places = Vec::new();
        for control in self.controls {
            let Some(first) = control.chars().next() else { continue };
            let step = first.len_utf8();
            places.extend(text.match_indices(control.as_str()).map(|(at, _)| at + step));
            // Of every prefix that the text ends with.
            let prefixes = (step..control.len()).filter(|&n| control.is_char_boundary(n));
            places.extend(prefixes.filter(|&n| text.ends_with(&control[..n])).map(|n| text.len() - n + step));
            let starts = (1..control.len()).filter(|&n| control.is_char_boundary(n));
            if starts.into_iter().any(|n| text.starts_with(&control[n..])) {
                places.push(0);
            }
        }
        if places.is_empty() {
            return text.to_owned();
        }
        places.sort_unstable();
        places.dedup();
        let mut marked = String::with_capacity(text.len() + places.len() * self.mark.len_utf8());
        let mut done = 0;
        for place in places {
            marked.push_str(&text[done..place]);
            marked.push(self.mark);
            done = place;
        }
        marked.push_str(&text[done..]);
        marked
    }

    /// Takes the marks out of a rendered text: the text, and the places where they were, rising.
    pub(super) fn unmark(&self, rendered: &str) -> (String, Vec<usize>) {
        let mut text = String::with_capacity(rendered.len());
        let mut breaks = Vec::new();
        if self.mark == ' ' {
            return (rendered.to_owned(), breaks);
        }
        for part in rendered.split_inclusive(self.mark) {
            match part.strip_suffix(self.mark) {
                Some(part) => {
                    text.push_str(part);
                    breaks.push(text.len());
                }
                None => text.push_str(part),
            }
        }
        (text, breaks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn controls() -> Vec<String> {
        ["<|end|>", "<|end|>x", "<s>", "[INST]"].map(String::from).to_vec()
    }

    #[test]
    fn texts_without_control_tokens_stay_as_they_are() {
        let controls = controls();
        let guard = Guard::new(&controls, ["\u{10fffd} a"].into_iter());
        assert_eq!(guard.mark, '\u{10fffc}');
        for text in ["", "a < b", "> quoted?", "<end>", "[1]", "x"] {
            let (clean, breaks) = guard.unmark(&guard.protect(text));
            assert_eq!(clean, text);
            assert!(breaks.is_empty() || text.starts_with(['>', 'x']), "{text}");
        }
    }

    proptest! {
        /// Whatever two users write side by side, with a part of a token by the template between or around: no
        /// control token is there that does not span a break or lie in the template's part.
        #[test]
        fn no_control_token_escapes(
            a in "(<\\||end|\\|>|x|<s>|\\[INST|\\]|<|s|>|\\|){0,6}",
            b in "(<\\||end|\\|>|x|<s>|\\[INST|\\]|<|s|>|\\|){0,6}",
        ) {
            let controls = controls();
            let guard = Guard::new(&controls, [a.as_str(), b.as_str()].into_iter());
            let rendered = format!("{}{}", guard.protect(&a), guard.protect(&b));
            let (text, breaks) = guard.unmark(&rendered);
            prop_assert_eq!(&text, &format!("{a}{b}"));
            for control in &controls {
                for (at, _) in text.match_indices(control.as_str()) {
                    prop_assert!(
                        breaks.iter().any(|&place| at < place && place < at + control.len()),
                        "{} at {} of {:?} with {:?}", control, at, text, breaks
                    );
                }
            }
        }
    }
}
