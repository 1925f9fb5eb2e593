//! The model that comes with the binary, so that `bitnetc run` works at once.

/// A BitNet b1.58 model of 5 million parameters, trained on the works of Shakespeare: see `models/shakespeare/README.md`.
pub static GGUF: &[u8] = include_bytes!("../models/shakespeare/shakespeare-5m-i2_s.gguf");

/// Its name in messages.
pub const NAME: &str = "shakespeare-5m (built in)";

/// Its name on a command line.
pub const SHORT_NAME: &str = "shakespeare-5m";
