//! What the model thought of a token: the logarithm of its probability, and the likeliest others.
//!
//! Probabilities are those of the model, before any stage of the sampler (as llama.cpp and OpenAI report them).

use crate::tokenizer::TokenId;

/// A token and the natural logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: TokenId,
    /// At most 0.
    pub logprob: f64,
}

/// A token of a text with the likeliest tokens at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was taken.
    pub token: TokenLogprob,
    /// The likeliest, best first; equal ones by rising id.
    pub top: Vec<TokenLogprob>,
}

impl TokenLogprobs {
    /// For the token `id` (below the number of logits) and the `n` likeliest.
    pub fn of(logits: &[f32], id: TokenId, n: usize) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - f64::from(max))).sum();
        let log_total = libm::log(sum) + f64::from(max);
        let logprob = |id: TokenId| {
            let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
            TokenLogprob { id, logprob: f64::from(logit) - log_total }
        };
        let better = |a: &TokenId, b: &TokenId| {
            logits[*b as usize].total_cmp(&logits[*a as usize]).then_with(|| a.cmp(b))
        };
        let mut top: Vec<TokenId> = Vec::with_capacity(n.min(logits.len()) + 1);
        for id in 0..logits.len() as TokenId {
            if top.len() == n && top.last().is_none_or(|last| better(last, &id).is_lt()) {
                continue;
            }
            let at = top.partition_point(|other| better(other, &id).is_lt());
            top.insert(at, id);
            top.truncate(n);
        }
        Self { token: logprob(id), top: top.into_iter().map(logprob).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn probabilities_sum_to_one_and_the_top_is_the_top(
            logits in proptest::collection::vec((-9i8..9).prop_map(f32::from), 1..80), n in 0usize..12
        ) {
            let chosen = (logits.len() / 2) as TokenId;
            let all = TokenLogprobs::of(&logits, chosen, logits.len());
            let sum: f64 = all.top.iter().map(|token| token.logprob.exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
            let mut ids: Vec<TokenId> = (0..logits.len() as TokenId).collect();
            ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
            prop_assert_eq!(all.top.iter().map(|token| token.id).collect::<Vec<_>>(), ids);
            let some = TokenLogprobs::of(&logits, chosen, n);
            prop_assert_eq!(&some.top[..], &all.top[..n.min(logits.len())]);
            prop_assert!(all.top.contains(&some.token));
        }
    }
}
