//! Random models with changed structure and damaged bytes. The property behind the fuzz target `gguf_struct`.

use super::check::{Outcome, check_parse};
use super::damage;
use super::rng_of;

/// Bytes that an input has at most: eight for the model, one for the number of changes, the others for what is changed.
pub const INPUT_BYTES: usize = 24;

/// A model with up to three changes of its structure and up to two corruptions of its bytes, all drawn from the input.
/// The model and what is done to it are drawn apart, so that one can be changed without the other.
///
/// # Panics
/// As [`check_parse`].
pub fn check_struct(input: &[u8]) -> Outcome {
    let (shape, rest) = input.split_at(input.len().min(8));
    let (&damages, rest) = rest.split_first().unwrap_or((&0, &[]));
    let mut w = damage::random_model(&mut rng_of(shape));
    let mut rng = rng_of(rest);
    (0..damages % 4).for_each(|_| damage::change(&mut w, &mut rng));
    let mut bytes = w.build();
    (0..damages / 4 % 3).for_each(|_| damage::corrupt(&mut bytes, &mut rng));
    check_parse(&bytes)
}
