//! A checkpoint: refused, or made a file that the front-end accepts.
//!
//! In `fuzz/`: `cargo +nightly fuzz run import corpus/import seeds/import -- -max_len=16384`.
#![no_main]

#[allow(dead_code, reason = "the test that replays the seeds uses the rest")]
#[path = "../checks/import.rs"]
mod import;
#[path = "../checks/rate.rs"]
mod rate;

static IMPORTED: rate::Rate = rate::Rate::new("imported");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    IMPORTED.count(import::check(bytes));
});
