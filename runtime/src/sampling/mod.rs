//! Choosing the next token from the logits.
//!
//! The stages and their order are those of llama.cpp's sampler chain: logit biases, penalties, top-k, typical-p, top-p,
//! min-p, temperature, and a draw from what is left; or Mirostat 2. `params` holds the settings and checks them,
//! `candidates` the stages, `sampler` the state (recent tokens, random numbers), `mask` the tokens that a grammar allows,
//! `logprobs` what the model thought of the tokens, `stop` the strings that end a text.
//!
//! Invariants:
//! - equal settings, seed, prompt and logits give equal tokens on every machine: the random numbers are ChaCha8,
//!   sums are taken in one fixed order, `exp` and `ln` come from `libm`, and equal logits are ordered by token id;
//! - the vocabulary is never sorted as a whole unless the settings make every token of it a candidate;
//! - after the first call nothing is allocated.

mod candidates;
mod logprobs;
mod mask;
mod params;
mod sampler;
mod stop;

pub use logprobs::{TokenLogprob, TokenLogprobs};
pub use mask::TokenMask;
pub use params::{Mirostat, ParamError, SamplingParams, Stage};
pub use sampler::{SampleError, Sampler};
pub use stop::{StopList, StopStrings};
