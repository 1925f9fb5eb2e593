//! A random model with changes of its structure and damage to its bytes: the property of `gguf_parse`, on files of which
//! at least a third are accepted. Prints now and then how many.
//!
//! In `fuzz/`: `cargo +nightly fuzz run gguf_struct corpus/gguf_struct seeds/gguf_struct -- -malloc_limit_mb=64`.
#![no_main]

#[path = "../checks/one_thread.rs"]
mod one_thread;
#[path = "../checks/rate.rs"]
mod rate;

use bitnetc_frontend_gguf::testing::{Outcome, STRUCT_BYTES, check_struct};

static ACCEPTED: rate::Rate = rate::Rate::new("accepted");

libfuzzer_sys::fuzz_target!(init: one_thread::one_thread(), |input: &[u8]| {
    let input = &input[..input.len().min(STRUCT_BYTES)];
    ACCEPTED.count(matches!(check_struct(input), Outcome::Model(_) | Outcome::Complete));
});
