//! Any bytes as the body of a request of the APIs: refused, or accepted within the limits. The first byte chooses the route.
//!
//! In `fuzz/`: `cargo +nightly fuzz run api corpus/api seeds/api`.
#![no_main]

#[path = "../checks/api.rs"]
mod api;

use std::sync::OnceLock;

use bitnetc::api::{Route, Service};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static SERVICE: OnceLock<Service> = OnceLock::new();
    let Some((&first, body)) = bytes.split_first() else { return };
    let route = Route::ALL[usize::from(first) % Route::ALL.len()];
    api::check(SERVICE.get_or_init(|| api::builtin(512)), route, body);
});
