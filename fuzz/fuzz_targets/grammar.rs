//! Any text as a grammar in GBNF and as a JSON schema: translated or refused.
//!
//! In `fuzz/`: `cargo +nightly fuzz run grammar corpus/grammar seeds/grammar`.
#![no_main]

#[path = "../checks/grammar.rs"]
mod grammar;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = grammar::check(bytes);
});
