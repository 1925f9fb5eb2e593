//! Perplexity: exp of the mean negative log-likelihood of the tokens of a text, in non-overlapping windows.
//!
//! Every token but the first of its window is scored, each with only its window before it. Sums are f64 in token order
//! and logarithms come from the `libm` crate, so the figure is the same on every machine.

use bitnetc_runtime::session::Session;

use crate::error::Error;

/// A perplexity and what it was computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Sum of the negative log-likelihoods, in nats.
    pub nll_sum: f64,
    /// Tokens scored.
    pub tokens: u64,
    /// Windows.
    pub windows: u64,
}

impl Perplexity {
    /// Mean negative log-likelihood, in nats.
    pub fn nll(&self) -> f64 {
        self.nll_sum / self.tokens.max(1) as f64
    }
    /// exp of the mean.
    pub fn perplexity(&self) -> f64 {
        libm::exp(self.nll())
    }
}

/// −log softmax(logits)\[target\], in nats. The target must be an index of `logits`.
pub fn negative_log_likelihood(logits: &[f32], target: u32) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let sum: f64 = logits.iter().map(|&x| libm::exp(f64::from(x) - f64::from(max))).sum();
    libm::log(sum) + f64::from(max) - f64::from(logits[target as usize])
}

/// The perplexity of `ids` in windows of `window` tokens; the last window may be shorter. `progress` is told the tokens
/// that are done, and stops the work by returning false.
///
/// # Errors
/// What the session refuses: an unknown id, a window larger than its context, NaN.
pub fn perplexity(
    session: &mut Session,
    ids: &[u32],
    window: usize,
    mut progress: impl FnMut(usize) -> bool,
) -> Result<Perplexity, Error> {
    let mut total = Perplexity { nll_sum: 0.0, tokens: 0, windows: 0 };
    let mut done = 0;
    for part in ids.chunks(window.max(2)) {
        if part.len() >= 2 {
            session.truncate(0);
            session.score(part, |i, logits| {
                if let Some(&next) = part.get(i + 1) {
                    total.nll_sum += negative_log_likelihood(logits, next);
                    total.tokens += 1;
                }
                true
            })?;
            total.windows += 1;
        }
        done += part.len();
        if !progress(done) {
            break;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_logits_cost_the_log_of_the_vocabulary() {
        let nll = negative_log_likelihood(&[0.5; 8], 3);
        assert!((nll - 8f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn a_certain_token_costs_nothing() {
        assert!(negative_log_likelihood(&[0.0, 100.0], 1) < 1e-12);
        assert!((negative_log_likelihood(&[0.0, 100.0], 0) - 100.0).abs() < 1e-9);
    }
}
