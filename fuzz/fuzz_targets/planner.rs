//! What sequences wait for and what a machine costs, from bytes: the plan of a step keeps its rules.
//!
//! In `fuzz/`: `cargo +nightly fuzz run planner corpus/planner seeds/planner`.
#![no_main]

#[path = "../checks/planner.rs"]
mod planner;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = planner::check(bytes);
});
