//! A small vocabulary and a text: ids and back, and a word against BPE in the slowest way.
//!
//! In `fuzz/`: `cargo +nightly fuzz run tokenizer corpus/tokenizer seeds/tokenizer`.
#![no_main]

#[path = "../checks/tokenizer.rs"]
mod tokenizer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tokenizer::check(bytes);
});
