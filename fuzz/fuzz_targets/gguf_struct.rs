//! A random model with up to three changes of its structure and up to two corruptions of its bytes, all drawn from the
//! input: the property of `gguf_parse`, on files of which at least a third are accepted (printed now and then).
//!
//! In `fuzz/`: `cargo +nightly fuzz run gguf_struct -- -malloc_limit_mb=64`.
#![no_main]

use std::sync::atomic::{AtomicU64, Ordering};

use bitnetc_frontend_gguf::testing::{Outcome, Rng, check_parse, damage};

static RUNS: AtomicU64 = AtomicU64::new(0);
static ACCEPTED: AtomicU64 = AtomicU64::new(0);

libfuzzer_sys::fuzz_target!(|input: [u8; 9]| {
    let [shape @ .., damages] = input;
    let mut rng = Rng::new(u64::from_le_bytes(shape));
    let mut w = damage::random_model(&mut rng);
    (0..damages % 4).for_each(|_| damage::change(&mut w, &mut rng));
    let mut bytes = w.build();
    (0..damages / 4 % 3).for_each(|_| damage::corrupt(&mut bytes, &mut rng));
    if matches!(check_parse(&bytes), Outcome::Model(_) | Outcome::Complete) {
        ACCEPTED.fetch_add(1, Ordering::Relaxed);
    }
    let runs = RUNS.fetch_add(1, Ordering::Relaxed) + 1;
    if runs.is_power_of_two() {
        eprintln!("accepted {} of {runs}", ACCEPTED.load(Ordering::Relaxed));
    }
});
