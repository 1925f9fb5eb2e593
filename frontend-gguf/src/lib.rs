//! bitnetc crate.
