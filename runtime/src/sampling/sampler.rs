//! The sampler: settings, recent tokens and random numbers of one sequence.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::candidates::{Candidate, Candidates};
use super::mask::TokenMask;
use super::params::{Mirostat, ParamError, SamplingParams, Stage};
use crate::tokenizer::TokenId;

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A logit is not a number or is +∞.
    #[error("logit {index} is {value}; the weights or the computation are wrong, and no token can be chosen")]
    NotFinite {
        /// Position of the first such logit, which is its token id.
        index: usize,
        /// NaN or +∞.
        value: f32,
    },
    /// A bias for a token that the model does not have.
    #[error("logit bias for token {id}: the model has only {count} tokens")]
    BiasOutOfRange {
        /// The token id.
        id: TokenId,
        /// Number of logits.
        count: usize,
    },
    /// There are no logits, or all are −∞.
    #[error(
        "none of the {count} logits allows a token; if tokens are forbidden by a bias or a grammar, allow some"
    )]
    NothingToSample {
        /// Number of logits.
        count: usize,
    },
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    stages: Vec<Stage>,
    random: ChaCha8Rng,
    /// The latest tokens, at most `repeat_last_n`, oldest first; empty if there are no penalties.
    recent: VecDeque<TokenId>,
    counts: Vec<(TokenId, u32)>,
    candidates: Candidates,
    /// Memory of typical sampling.
    distances: Vec<(f64, Candidate)>,
    /// The surprise that Mirostat lets pass, in bits.
    mu: f64,
}

/// Where Mirostat starts (Basu et al.: twice the target).
fn first_mu(params: &SamplingParams) -> f64 {
    params.mirostat.map_or(0.0, |mirostat| 2.0 * f64::from(mirostat.tau))
}

impl Sampler {
    /// A sampler at the start of a sequence.
    pub fn new(params: SamplingParams) -> Result<Self, ParamError> {
        params.validate()?;
        let remembered = if params.penalises() { params.repeat_last_n } else { 0 };
        Ok(Self {
            stages: params.effective_stages(),
            random: ChaCha8Rng::seed_from_u64(params.seed),
            recent: VecDeque::with_capacity(remembered),
            counts: Vec::with_capacity(remembered),
            candidates: Candidates::default(),
            distances: Vec::new(),
            mu: first_mu(&params),
            params,
        })
    }

    /// The settings.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Goes back to the start of a sequence: no recent tokens, random numbers from the seed.
    pub fn reset(&mut self) {
        self.recent.clear();
        self.random = ChaCha8Rng::seed_from_u64(self.params.seed);
        self.mu = first_mu(&self.params);
    }

    /// Forgets the recent tokens, but neither the random numbers nor Mirostat's state.
    pub fn forget_recent(&mut self) {
        self.recent.clear();
    }

    /// Notes a token that was not chosen here, such as one of the prompt, for the penalties.
    pub fn accept(&mut self, token: TokenId) {
        if !self.params.penalises() {
            return;
        }
        if self.recent.len() == self.params.repeat_last_n {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    /// Chooses the next token from its logits (position = token id) and notes it for the penalties.
    ///
    /// A random number is used up only where more than one token is left. After an error the state is unchanged.
    ///
    /// # Errors
    /// Logits that are broken, or no token that is allowed.
    pub fn sample(&mut self, logits: &[f32]) -> Result<TokenId, SampleError> {
        self.sample_allowed(logits, None)
    }

    /// As [`Sampler::sample`], among the tokens of `mask` only.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn sample_allowed(
        &mut self,
        logits: &[f32],
        mask: Option<&TokenMask>,
    ) -> Result<TokenId, SampleError> {
        // Without a way out of the middle, which vectors allow; where it is, is asked for only if there is one.
        let broken = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
        if logits.iter().fold(false, |found, &logit| found | broken(logit))
            && let Some(index) = logits.iter().position(|&logit| broken(logit))
        {
            return Err(SampleError::NotFinite { index, value: logits[index] });
        }
        let count = logits.len();
        if let Some(&(id, _)) = self.params.logit_bias.iter().find(|&&(id, _)| id as usize >= count) {
            return Err(SampleError::BiasOutOfRange { id, count });
        }
        let unchanged = self.params.logit_bias.is_empty();
        let first = match self.stages.first() {
            Some(Stage::TopK) if unchanged => {
                self.candidates.fill_best(logits, mask, self.params.top_k);
                1
            }
            // Of the best alone, the temperature leaves the best.
            Some(Stage::Temperature) if unchanged && self.params.temperature <= 0.0 => {
                self.candidates.fill_best(logits, mask, 1);
                0
            }
            _ => {
                self.candidates.fill(logits, mask);
                self.candidates.add_biases(&self.params.logit_bias);
                0
            }
        };
        for at in first..self.stages.len() {
            match self.stages[at] {
                Stage::Penalties => {
                    self.count_recent();
                    self.candidates.penalise(&self.counts, &self.params);
                }
                Stage::TopK => self.candidates.top_k(self.params.top_k),
                Stage::TypicalP => self.candidates.typical_p(self.params.typical_p, &mut self.distances),
                Stage::TopP => self.candidates.top_p(self.params.top_p),
                Stage::MinP => self.candidates.min_p(self.params.min_p),
                Stage::Temperature => self.candidates.temperature(self.params.temperature),
            }
        }
        if self.params.mirostat.is_some() {
            self.candidates.bound_surprise(self.mu);
        }
        let token = match self.candidates.list() {
            [] => None,
            [only] => Some(only.id),
            _ => {
                // 53 random bits: every multiple of 2^-53 in [0, 1) is equally likely.
                let u = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                self.candidates.draw(u)
            }
        };
        let token = token.ok_or(SampleError::NothingToSample { count })?;
        if let Some(Mirostat { tau, eta }) = self.params.mirostat
            && let Some(surprise) = self.candidates.surprise(token)
        {
            self.mu -= f64::from(eta) * (surprise - f64::from(tau));
        }
        self.accept(token);
        Ok(token)
    }

    /// Recent tokens and how often each occurs, by rising id.
    fn count_recent(&mut self) {
        self.counts.clear();
        self.counts.extend(self.recent.iter().map(|&token| (token, 1)));
        self.counts.sort_unstable();
        self.counts.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Logits of a made-up model: a function of the previous token.
    fn model(previous: TokenId, vocabulary: u32) -> Vec<f32> {
        (0..vocabulary)
            .map(|id| {
                let mixed = (previous.wrapping_mul(2_654_435_761) ^ id).wrapping_mul(2_246_822_519);
                (mixed >> 8) as f32 / (1 << 24) as f32 * 12.0
            })
            .collect()
    }

    fn run(params: &SamplingParams, n: usize) -> Vec<TokenId> {
        let mut sampler = Sampler::new(params.clone()).unwrap();
        let mut tokens = vec![0];
        for _ in 0..n {
            let logits = model(tokens[tokens.len() - 1], 700);
            tokens.push(sampler.sample(&logits).unwrap());
        }
        tokens
    }

    #[test]
    fn greedy_takes_the_first_maximum() {
        let mut sampler = Sampler::new(SamplingParams::greedy()).unwrap();
        assert_eq!(sampler.sample(&[0.0, 3.0, 3.0, -1.0]), Ok(1));
        assert_eq!(sampler.sample(&[-0.0, 0.0]), Ok(0));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -7.0]), Ok(1));
    }

    #[test]
    fn broken_logits_are_named() {
        let mut sampler = Sampler::new(SamplingParams::default()).unwrap();
        assert!(matches!(
            sampler.sample(&[0.0, 1.0, f32::NAN, f32::NAN]),
            Err(SampleError::NotFinite { index: 2, value }) if value.is_nan()
        ));
        assert_eq!(
            sampler.sample(&[f32::INFINITY]),
            Err(SampleError::NotFinite { index: 0, value: f32::INFINITY })
        );
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3]), Err(SampleError::NothingToSample { count: 3 }));
        assert_eq!(sampler.sample(&[]), Err(SampleError::NothingToSample { count: 0 }));
    }

    #[test]
    fn seeds_reproduce_and_differ() {
        let params = |seed| SamplingParams { seed, repeat_penalty: 1.1, ..SamplingParams::default() };
        let first = run(&params(7), 200);
        assert_eq!(first, run(&params(7), 200));
        assert_ne!(first, run(&params(8), 200));
    }

    /// Pins the stream of random numbers, the order of sums and the mathematics. The value changes only if seeds
    /// are meant to give other texts from then on.
    #[test]
    fn tokens_of_a_seed_are_fixed() {
        let params = SamplingParams { seed: 42, temperature: 1.3, ..SamplingParams::default() };
        assert_eq!(run(&params, 12), FIXED);
    }

    #[test]
    fn mirostat_keeps_the_surprise_near_its_target() {
        let vocabulary = 700;
        for tau in [1.5, 4.0] {
            let mirostat = Some(Mirostat { tau, eta: 0.1 });
            let params = SamplingParams { mirostat, temperature: 1.0, ..SamplingParams::default() };
            let mut sampler = Sampler::new(params.clone()).unwrap();
            let mut previous = 0;
            let mut total = 0.0;
            let n = 2000;
            for _ in 0..n {
                let logits = model(previous, vocabulary);
                previous = sampler.sample(&logits).unwrap();
                total += sampler.candidates.surprise(previous).unwrap();
            }
            let mean = total / f64::from(n);
            assert!((mean - f64::from(tau)).abs() < 0.1, "{mean} {tau}");
            assert_eq!(run(&params, 50), run(&params, 50));
        }
    }

    #[test]
    fn biases_and_masks_decide() {
        let logits = [3.0, 2.0, 1.0, 0.0];
        let params = SamplingParams {
            logit_bias: [(3, 9.0), (0, f32::NEG_INFINITY)].into(),
            ..SamplingParams::greedy()
        };
        let mut sampler = Sampler::new(params).unwrap();
        assert_eq!(sampler.sample(&logits), Ok(3));
        let mut mask = TokenMask::all(4);
        mask.forbid(3);
        assert_eq!(sampler.sample_allowed(&logits, Some(&mask)), Ok(1));
        assert_eq!(sampler.sample(&logits[..3]), Err(SampleError::BiasOutOfRange { id: 3, count: 3 }));
        let nothing = TokenMask::none(4);
        assert_eq!(
            sampler.sample_allowed(&logits, Some(&nothing)),
            Err(SampleError::NothingToSample { count: 4 })
        );
    }

    const FIXED: [TokenId; 13] = [0, 539, 622, 497, 31, 616, 102, 370, 340, 670, 442, 417, 65];

    #[test]
    fn reset_starts_over() {
        let params = SamplingParams { repeat_penalty: 1.3, ..SamplingParams::default() };
        let mut sampler = Sampler::new(params).unwrap();
        let logits = model(3, 700);
        let first: Vec<_> = (0..50).map(|_| sampler.sample(&logits).unwrap()).collect();
        sampler.reset();
        let again: Vec<_> = (0..50).map(|_| sampler.sample(&logits).unwrap()).collect();
        assert_eq!(first, again);
    }

    #[test]
    fn penalties_forget_after_last_n() {
        let params = SamplingParams { presence_penalty: 10.0, repeat_last_n: 2, ..SamplingParams::greedy() };
        let mut sampler = Sampler::new(params).unwrap();
        let logits = [5.0, 4.0, 3.0, 2.0];
        let tokens: Vec<_> = (0..6).map(|_| sampler.sample(&logits).unwrap()).collect();
        assert_eq!(tokens, [0, 1, 2, 0, 1, 2]);
        sampler.reset();
        sampler.accept(0);
        assert_eq!(sampler.sample(&logits), Ok(1));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let params = SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params).unwrap();
        let probabilities = [0.5f32, 0.3, 0.15, 0.05];
        let logits = probabilities.map(libm::logf);
        let mut counts = [0u32; 4];
        let n = 20_000;
        for _ in 0..n {
            counts[sampler.sample(&logits).unwrap() as usize] += 1;
        }
        for (count, p) in counts.into_iter().zip(probabilities) {
            let deviation = (p * (1.0 - p) / n as f32).sqrt();
            assert!((count as f32 / n as f32 - p).abs() < 5.0 * deviation, "{counts:?}");
        }
    }

    #[test]
    fn nothing_is_allocated_after_the_first_token() {
        let params = SamplingParams {
            repeat_penalty: 1.1,
            repeat_last_n: 16,
            typical_p: 0.9,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params).unwrap();
        sampler.sample(&model(0, 700)).unwrap();
        let storage = |sampler: &Sampler| {
            let list = sampler.candidates.list().as_ptr() as usize;
            (list, sampler.recent.capacity(), sampler.counts.as_ptr() as usize, sampler.counts.capacity())
        };
        let before = storage(&sampler);
        for token in 1..100 {
            sampler.sample(&model(token, 700)).unwrap();
        }
        assert_eq!(storage(&sampler), before);
    }

    #[test]
    fn filters_at_their_ends_keep_the_best_token() {
        let logits = [0.5, 2.0, 1.0, 1.9];
        for seed in 0..20 {
            let usual = SamplingParams { seed, temperature: 5.0, ..SamplingParams::default() };
            for params in [
                SamplingParams { top_p: 0.0, ..usual.clone() },
                SamplingParams { min_p: 1.0, ..usual.clone() },
                SamplingParams { min_p: 7.0, ..usual.clone() },
            ] {
                assert_eq!(Sampler::new(params).unwrap().sample(&logits), Ok(1));
            }
            // The most typical one is not the best, but it is one.
            let typical = SamplingParams { typical_p: 0.0, ..usual.clone() };
            let chosen = Sampler::new(typical.clone()).unwrap().sample(&logits).unwrap();
            let greedy = SamplingParams { temperature: 0.0, ..typical };
            assert_eq!(Sampler::new(greedy).unwrap().sample(&logits), Ok(chosen));
        }
    }

    proptest! {
        #[test]
        fn greedy_is_argmax_whatever_the_filters(
            logits in vec(-30.0f32..30.0, 1..500), top_k in 0usize..50, top_p in 0.01f32..1.2, min_p in 0.0f32..1.0
        ) {
            let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::greedy() };
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let argmax = logits.iter().position(|&logit| logit == max).unwrap();
            prop_assert_eq!(Sampler::new(params).unwrap().sample(&logits), Ok(argmax as TokenId));
        }

        #[test]
        fn chosen_tokens_pass_the_filters(logits in vec(-9.0f32..9.0, 1..500), top_k in 1usize..20, seed: u64) {
            let params = SamplingParams { top_k, seed, temperature: 2.0, ..SamplingParams::default() };
            let token = Sampler::new(params).unwrap().sample(&logits).unwrap() as usize;
            let better = logits.iter().filter(|&&logit| logit > logits[token]).count();
            prop_assert!(better < top_k);
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert!(logits[token] >= max + libm::logf(0.05) - 1e-4);
        }
    }
}
