//! The HTTP server of bitnetc.
#![forbid(unsafe_code)]

pub mod page;
