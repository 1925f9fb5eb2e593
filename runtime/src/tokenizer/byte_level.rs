//! The printable alphabet of byte-level BPE: one character for each of the 256 byte values.
//!
//! Vocabularies in the style of GPT-2 spell tokens in this alphabet: the printable Latin-1 characters
//! 0x21–0x7E, 0xA1–0xAC and 0xAE–0xFF stand for themselves, and the 68 other bytes, in rising order, for U+0100,
//! U+0101 and so on (so `Ġ` is a space and `Ċ` a line feed).

/// First character used for bytes that do not stand for themselves.
const FIRST_SUBSTITUTE: u32 = 0x100;

/// The bytes of the characters of the alphabet.
#[derive(Debug, Clone)]
pub(super) struct ByteAlphabet {
    /// Byte of the character U+0100 + index.
    substitutes: Vec<u8>,
}

fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

impl ByteAlphabet {
    pub(super) fn new() -> Self {
        Self { substitutes: (0..=u8::MAX).filter(|&byte| !stands_for_itself(byte)).collect() }
    }

    /// The character of a byte.
    #[cfg(test)]
    pub(super) fn char(&self, byte: u8) -> char {
        match self.substitutes.binary_search(&byte) {
            Ok(at) => char::from_u32(FIRST_SUBSTITUTE + at as u32).unwrap_or(char::REPLACEMENT_CHARACTER),
            Err(_) => char::from(byte),
        }
    }

    /// The byte of a character; `None` if the character is not of the alphabet.
    fn byte(&self, ch: char) -> Option<u8> {
        let code = u32::from(ch);
        match u8::try_from(code) {
            Ok(byte) => stands_for_itself(byte).then_some(byte),
            Err(_) => self.substitutes.get(code.checked_sub(FIRST_SUBSTITUTE)? as usize).copied(),
        }
    }

    /// Appends the bytes that `token` spells. A token with any character outside the alphabet is taken as it is, and
    /// the answer is that it is none of the alphabet's.
    pub(super) fn decode_into(&self, token: &str, bytes: &mut Vec<u8>) -> bool {
        let start = bytes.len();
        for ch in token.chars() {
            match self.byte(ch) {
                Some(byte) => bytes.push(byte),
                None => {
                    bytes.truncate(start);
                    bytes.extend_from_slice(token.as_bytes());
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_a_bijection() {
        let alphabet = ByteAlphabet::new();
        for byte in 0..=u8::MAX {
            assert_eq!(alphabet.byte(alphabet.char(byte)), Some(byte));
        }
        assert_eq!(alphabet.char(b' '), 'Ġ');
        assert_eq!(alphabet.char(b'\n'), 'Ċ');
        assert_eq!(alphabet.char(0xad), '\u{143}');
        assert_eq!(alphabet.byte('\u{144}'), None);
        assert_eq!(alphabet.byte(' '), None);
    }

    #[test]
    fn foreign_characters_make_the_token_raw() {
        let alphabet = ByteAlphabet::new();
        let mut bytes = Vec::new();
        assert!(alphabet.decode_into("Ġhé", &mut bytes));
        assert_eq!(bytes, [b' ', b'h', 0xe9]);
        bytes.clear();
        assert!(!alphabet.decode_into("é<|日|>", &mut bytes));
        assert_eq!(bytes, "é<|日|>".as_bytes());
    }
}
