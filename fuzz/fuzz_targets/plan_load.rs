//! Arbitrary bytes as a plan file: no panic, no large allocation, and nothing accepted that lies outside the file.
//!
//! Random bytes do not get past the hashes, so each input is tried as it is and once more with magics, lengths and
//! hashes put right.

#![no_main]

use bitnetc_runtime::plan::{LoadOptions, PlanIndex};
use bitnetc_runtime::tokenizer::{Tokenizer, Tokenize};
use libfuzzer_sys::fuzz_target;

const RECORD: usize = 64;

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Some(sealed) = seal(data) {
        check(&sealed);
    }
});

fn check(file: &[u8]) {
    let options = LoadOptions { verify_weights: true, ..LoadOptions::default() };
    let Ok(index) = PlanIndex::parse(file, &options) else { return };
    for entry in index.weights() {
        let (_, range) = index.weight(&entry.name).expect("a listed weight is found");
        assert!(file.get(range).is_some_and(|bytes| bytes.len() as u64 == entry.length));
    }
    if let Ok(Some(spec)) = index.tokenizer(file)
        && let Ok(tokenizer) = Tokenizer::new(&spec)
        && let Ok(ids) = tokenizer.encode("It's  a test \u{e9} 123\n", false, true)
    {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    }
}

/// A copy of `data` with the fixed fields and all hashes as a writer would leave them; `None` if it is too short or
/// its places make no sense.
fn seal(data: &[u8]) -> Option<Vec<u8>> {
    let mut file = data.to_vec();
    let trailer = file.len().checked_sub(RECORD)?;
    if trailer < RECORD {
        return None;
    }
    let length = file.len() as u64;
    file[..12].copy_from_slice(b"BNPLAN\0\x01\x01\0\0\0");
    file[16..RECORD].fill(0);
    file[trailer..trailer + 8].copy_from_slice(b"BNPLEND\x01");
    file[trailer + 24..trailer + 32].copy_from_slice(&length.to_le_bytes());
    let settings_end = RECORD.checked_add(number(&file, 12, 4)?)?;
    let table = number(&file, trailer + 8, 8)?;
    if settings_end > trailer || table > trailer || !(trailer - table).is_multiple_of(RECORD) {
        return None;
    }
    for row in (table..trailer).step_by(RECORD) {
        let start = number(&file, row + 8, 8)?;
        let end = start.checked_add(number(&file, row + 16, 8)?)?;
        let hash = blake3::hash(file.get(start..end)?);
        file[row + 32..row + RECORD].copy_from_slice(hash.as_bytes());
    }
    let mut frame = blake3::Hasher::new();
    frame.update(&file[..settings_end]).update(&file[table..trailer + 32]);
    file[trailer + 32..].copy_from_slice(frame.finalize().as_bytes());
    Some(file)
}

fn number(file: &[u8], at: usize, bytes: usize) -> Option<usize> {
    let mut word = [0; 8];
    word[..bytes].copy_from_slice(file.get(at..at + bytes)?);
    usize::try_from(u64::from_le_bytes(word)).ok()
}
