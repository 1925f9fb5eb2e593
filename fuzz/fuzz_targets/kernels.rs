//! Random functions run by generated code between guard pages, and kernels of any shape. Prints now and then how many inputs ran a
//! function.
//!
//! In `fuzz/`: `cargo +nightly fuzz run kernels corpus/kernels seeds/kernels -- -max_len=64`.
#![no_main]

#[path = "../checks/kernels.rs"]
mod kernels;
#[path = "../checks/one_thread.rs"]
mod one_thread;
#[path = "../checks/rate.rs"]
mod rate;

static RAN: rate::Rate = rate::Rate::new("run");

libfuzzer_sys::fuzz_target!(init: one_thread::one_thread(), |bytes: &[u8]| {
    RAN.count(kernels::check(bytes));
});
