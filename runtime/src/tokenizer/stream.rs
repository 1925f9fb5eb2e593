//! Text from a stream of bytes that may break characters anywhere.

/// Turns the bytes of successive tokens into text, holding back at most three bytes of an incomplete character.
///
/// Whatever the cuts, the text of all calls joined equals `String::from_utf8_lossy` of all bytes joined: a byte
/// sequence that cannot become a character gives one U+FFFD as soon as that is certain.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new() -> Self {
        // As long as most tokens, so that texts are decoded without further allocation.
        Self { pending: Vec::with_capacity(256) }
    }

    /// Takes `bytes` and appends to `text` all characters that are now complete.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = tail;
                    match error.error_len() {
                        Some(invalid) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[invalid..];
                        }
                        None => break,
                    }
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
    }

    /// Ends the text: an incomplete character becomes U+FFFD. The decoder is then at the start of a new text.
    pub fn finish(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    /// Whether bytes of an incomplete character are held back.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn stream<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut decoder = StreamDecoder::new();
        let mut text = String::new();
        for chunk in chunks {
            decoder.push(chunk, &mut text);
            assert!(decoder.pending.len() <= 3);
        }
        decoder.finish(&mut text);
        assert!(!decoder.has_pending());
        text
    }

    #[test]
    fn characters_come_out_when_complete() {
        let mut decoder = StreamDecoder::new();
        let mut text = String::new();
        for (byte, expected) in "é日".bytes().zip(["", "é", "é", "é", "é日"]) {
            decoder.push(&[byte], &mut text);
            assert_eq!(text, expected);
        }
        decoder.push(&[0xf0, 0x9f], &mut text);
        decoder.push(b"x", &mut text);
        assert_eq!(text, "é日\u{fffd}x");
    }

    proptest! {
        #[test]
        fn equals_decoding_the_whole(
            chunks in vec(vec(prop_oneof![
                any::<u8>(),
                proptest::sample::select(vec![b'a', 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xed, 0xa0]),
            ], 0..5), 0..20)
        ) {
            let whole = chunks.concat();
            prop_assert_eq!(stream(chunks.iter().map(Vec::as_slice)), String::from_utf8_lossy(&whole));
        }

        #[test]
        fn text_cut_anywhere_survives(text in "\\PC*", cuts in vec(any::<prop::sample::Index>(), 0..10)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            prop_assert_eq!(&stream(cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]])), &text);
        }
    }
}
