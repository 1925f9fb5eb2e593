//! A configuration of a model of any architecture: refused, or lowered to a module that the verifier accepts, whose text
//! reads back, and whose parameters have the bytes that their types say. Prints now and then how many are lowered.
//!
//! In `fuzz/`: `cargo +nightly fuzz run lower corpus/lower seeds/lower -- -max_len=256`.
#![no_main]

#[path = "../checks/one_thread.rs"]
mod one_thread;
#[path = "../checks/rate.rs"]
mod rate;

use bitnetc_frontend_gguf::testing::{Outcome, check_lower};

static LOWERED: rate::Rate = rate::Rate::new("lowered");

libfuzzer_sys::fuzz_target!(init: one_thread::one_thread(), |bytes: &[u8]| {
    LOWERED.count(matches!(check_lower(bytes), Outcome::Model(_) | Outcome::Complete));
});
