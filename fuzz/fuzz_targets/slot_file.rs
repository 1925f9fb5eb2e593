//! Any bytes as a saved sequence, as they are and with the hash put right: refused, or what it says.
//!
//! In `fuzz/`: `cargo +nightly fuzz run slot_file corpus/slot_file seeds/slot_file`.
#![no_main]

#[path = "../checks/slot_file.rs"]
mod slot_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = slot_file::check(bytes);
});
