//! The alphabet of byte-level BPE (GPT-2): every byte is one printable character.
//!
//! The bytes 21–7E, A1–AC and AE–FF stand for themselves (as Unicode scalar values); the other 68 are, in rising order,
//! U+0100 and following. Source: `bytes_to_unicode` of GPT-2's `encoder.py`.

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The character that stands for a byte.
pub fn char_of_byte(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let rank = match byte {
        0x00..=0x20 => u32::from(byte),
        // 7F–A0 follow the first 33; AD is the last of the 68.
        0x7f..=0xa0 => 33 + u32::from(byte - 0x7f),
        _ => 67,
    };
    char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for; `None` for a character outside the alphabet.
pub fn byte_of_char(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|&b| is_printable(b)),
        code @ 0x100..=0x143 => u8::try_from(match code - 0x100 {
            rank @ 0..=32 => rank,
            rank @ 33..=66 => rank - 33 + 0x7f,
            _ => 0xad,
        })
        .ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let mut unprintable = 0x100;
        for byte in 0..=255u8 {
            let c = char_of_byte(byte);
            assert_eq!(byte_of_char(c), Some(byte));
            if !is_printable(byte) {
                assert_eq!(u32::from(c), unprintable, "{byte:#x}");
                unprintable += 1;
            }
        }
        assert_eq!(unprintable, 0x144);
        assert_eq!((char_of_byte(b' '), char_of_byte(b'\n')), ('Ġ', 'Ċ'));
        for outside in [' ', '\u{ad}', '\u{144}', '中'] {
            assert_eq!(byte_of_char(outside), None);
        }
    }
}
