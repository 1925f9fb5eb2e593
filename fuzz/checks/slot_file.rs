//! The property behind the fuzz target `slot_file`, shared with the tests that replay its seeds: bytes are refused as a saved
//! sequence, or are one that fits what it is for, and is written to the same bytes.

use bitnetc_runtime::prefix::{Prefix, PrefixFormat, read_from, write_to};

const HASH: usize = 32;
const CONTEXT: u32 = 1000;
const VOCAB: u32 = 500;

fn format() -> PrefixFormat {
    PrefixFormat::new([7; 32], 3, 16)
}

/// A file that is accepted, with so many tokens.
pub(crate) fn good(tokens: u32, tag: Option<[u8; 32]>) -> Vec<u8> {
    let ids: Vec<u32> = (0..tokens).map(|id| id * 7 % VOCAB).collect();
    let bytes = (0..format().bytes(u64::from(tokens))).map(|n| n as u8).collect();
    let prefix = Prefix::new(format(), &ids, bytes).expect("as many bytes as the format has");
    let mut file = Vec::new();
    write_to(&mut file, &prefix, tag.as_ref()).expect("memory takes all");
    file
}

fn check_as_it_is(bytes: &[u8]) -> bool {
    let Ok((prefix, tag)) = read_from(bytes, bytes.len() as u64, &format(), CONTEXT, VOCAB) else {
        return false;
    };
    assert!(prefix.tokens().len() <= CONTEXT as usize && prefix.tokens().iter().all(|&id| id < VOCAB));
    assert_eq!(prefix.bytes().len() as u64, format().bytes(prefix.tokens().len() as u64));
    let mut again = Vec::new();
    write_to(&mut again, &prefix, tag.as_ref()).expect("memory takes all");
    assert_eq!(again, bytes);
    true
}

/// As they are, and with the hash put right; whether one of them is accepted. A length that is not theirs is refused.
pub(crate) fn check(bytes: &[u8]) -> bool {
    for length in [0, 1, u64::MAX, bytes.len() as u64 + 1] {
        let found = read_from(bytes, length, &format(), u32::MAX, u32::MAX);
        assert!(found.is_err() || length == bytes.len() as u64);
    }
    let Some(end) = bytes.len().checked_sub(HASH) else { return check_as_it_is(bytes) };
    let hash = blake3::hash(&bytes[..end]);
    let sealed = [&bytes[..end], hash.as_bytes()].concat();
    let accepted = check_as_it_is(bytes);
    check_as_it_is(&sealed) || accepted
}
