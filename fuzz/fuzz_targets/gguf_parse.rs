//! Any bytes as a GGUF file: no panic, bounded memory, and what is accepted survives being written and parsed again.
//! The property itself is in the front-end's test support, where stable Rust replays the seeds.
//!
//! In `fuzz/`: `cargo +nightly fuzz run gguf_parse corpus/gguf_parse seeds/gguf_parse -- -malloc_limit_mb=64` (new
//! inputs go to the first folder, which has to exist).
#![no_main]

use bitnetc_frontend_gguf::testing::check_parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check_parse(bytes);
});
