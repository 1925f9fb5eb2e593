//! A random template of all that chat templates can do: it ends within its limits, and origins of texts are kept.
//!
//! In `fuzz/`: `cargo +nightly fuzz run template corpus/template seeds/template`.
#![no_main]

#[path = "../checks/template.rs"]
mod template;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = template::check(bytes);
});
