//! A service of the built-in model, and what holds whatever is sent to it.

#[path = "../../fuzz/checks/api.rs"]
mod checks;

pub(crate) use checks::{builtin, check};
