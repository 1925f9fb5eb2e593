//! Choosing the next token from the logits.
//!
//! The stages and their order are those of llama.cpp's sampler chain: penalties, top-k, top-p, min-p, temperature,
//! and a draw from what is left. `params` holds the settings and checks them, `candidates` the stages, `sampler`
//! the state (recent tokens, random numbers).
//!
//! Invariants:
//! - equal settings, seed, prompt and logits give equal tokens on every machine: the random numbers are ChaCha8,
//!   sums are taken in one fixed order, `exp` and `ln` come from `libm`, and equal logits are ordered by token id;
//! - the vocabulary is never sorted as a whole unless the settings make every token of it a candidate;
//! - after the first call nothing is allocated.

mod candidates;
mod params;
mod sampler;

pub use params::{ParamError, SamplingParams, Stage};
pub use sampler::{SampleError, Sampler};
