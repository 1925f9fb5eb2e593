//! What a test gave, and what follows from it.

use std::time::Duration;

use bitnetc_ir::work::Work;
use bitnetc_runtime::profile::Profile;

use super::limits::{LimitKind, Limits};
use super::run::Test;

/// A measured test.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was measured.
    pub test: Test,
    /// Tokens per second of each repetition, in order; at least one.
    pub samples: Vec<f64>,
    /// The machine's limits before each repetition and after the last one: one more than there are samples. Each is the
    /// median of a few passes.
    pub limits: Vec<Limits>,
    /// What one repetition needs.
    pub work: Work,
    /// How long each step of the generation took, which gives a token to each sequence, repetition after repetition; empty where
    /// the test generates none.
    pub token_times: Vec<Duration>,
    /// How long the prompts took in each repetition; empty where the test has none.
    pub prompt_times: Vec<Duration>,
    /// Where the time of a run after the samples went, if it was asked for.
    pub profile: Option<Profile>,
}

impl Outcome {
    /// Tokens of a repetition, of all sequences together.
    pub fn tokens(&self) -> u64 {
        self.test.prompt_tokens() + self.test.generated_tokens()
    }

    /// Tokens of prompts per second over all repetitions; none where the test has no prompt.
    pub fn prompt_rate(&self) -> Option<f64> {
        rate(self.test.prompt_tokens() * self.prompt_times.len() as u64, &self.prompt_times)
    }

    /// Generated tokens per second over all repetitions; none where the test generates none.
    pub fn generation_rate(&self) -> Option<f64> {
        rate(u64::from(self.test.sequences) * self.token_times.len() as u64, &self.token_times)
    }

    /// Mean of the samples.
    pub fn mean(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len().max(1) as f64
    }

    /// Standard deviation of the samples (over n − 1); 0 for a single one.
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.samples.iter().map(|x| (x - mean) * (x - mean)).sum();
        if self.samples.len() > 1 { (squares / (self.samples.len() - 1) as f64).sqrt() } else { 0.0 }
    }

    /// The best sample.
    pub fn best(&self) -> f64 {
        self.samples.iter().copied().fold(0.0, f64::max)
    }

    /// Bytes that a token needs, on average over the test.
    pub fn bytes_per_token(&self) -> u64 {
        self.work.bytes() / self.tokens().max(1)
    }

    /// Multiply-adds that a token needs, on average over the test.
    pub fn macs_per_token(&self) -> u64 {
        self.work.macs() / self.tokens().max(1)
    }

    /// The greatest of each limit over all rounds: what the machine has shown that it can do.
    pub fn machine(&self) -> Limits {
        self.limits.iter().copied().fold(Limits::default(), Limits::max)
    }

    /// The limit that counts, and its rate in bytes or multiply-adds per second.
    pub fn limit(&self) -> (LimitKind, f64) {
        let kind = self.machine().least_time(&self.work).0;
        (kind, self.machine().rate(kind))
    }

    /// The time that the limit needs over the time that was measured (mean of the samples).
    pub fn share_of_limit(&self) -> f64 {
        self.share(self.machine(), self.mean())
    }

    /// As [`Outcome::share_of_limit`], each sample beside the better of the two rounds around it; the median of these.
    /// On a machine whose speed drifts it compares like with like.
    pub fn share_paired(&self) -> f64 {
        let around = self.limits.windows(2).map(|pair| pair[0].max(pair[1]));
        let mut shares: Vec<f64> = around.zip(&self.samples).map(|(l, &s)| self.share(l, s)).collect();
        shares.sort_by(f64::total_cmp);
        shares.get(shares.len() / 2).copied().unwrap_or(0.0)
    }

    fn share(&self, limits: Limits, tokens_per_second: f64) -> f64 {
        let measured = self.tokens() as f64 / tokens_per_second;
        limits.least_time(&self.work).1 / measured
    }
}

/// Tokens per second.
fn rate(tokens: u64, times: &[Duration]) -> Option<f64> {
    let seconds = times.iter().sum::<Duration>().as_secs_f64();
    (seconds > 0.0).then(|| tokens as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let limits = |gb: f64| Limits { bandwidth: gb * 1e9, int8: 1e12 };
        Outcome {
            test: Test { prompt: 0, generate: 10, depth: 0, sequences: 1, shared_prompt: false, threads: 1 },
            samples: vec![8.0, 12.0, 10.0],
            limits: [20.0, 10.0, 15.0, 20.0].map(limits).to_vec(),
            work: Work { weight_bytes: 9_000_000_000, kv_bytes: 1_000_000_000, ..Work::default() },
            token_times: Vec::new(),
            prompt_times: Vec::new(),
            profile: None,
        }
    }

    #[test]
    fn shares_follow_from_the_samples() {
        let o = outcome();
        assert_eq!((o.mean(), o.deviation(), o.best()), (10.0, 2.0, 12.0));
        assert_eq!(o.bytes_per_token(), 1_000_000_000);
        assert_eq!(o.limit(), (LimitKind::Bandwidth, 20e9));
        // 10 GB at 20 GB/s take 0.5 s, measured was 1 s.
        assert!((o.share_of_limit() - 0.5).abs() < 1e-12);
        // 8/20, 12/15, 10/20.
        assert!((o.share_paired() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_limit_that_takes_longer_counts() {
        let mut o = outcome();
        o.work.ternary_macs = 1_000_000_000_000;
        assert_eq!(o.limit(), (LimitKind::Int8, 1e12));
        assert!((o.share_of_limit() - 1.0).abs() < 1e-12);
        o.samples = vec![5.0];
        assert_eq!(o.deviation(), 0.0);
    }

    #[test]
    fn prompts_and_generation_have_rates_of_their_own() {
        let mut o = outcome();
        o.test = Test { prompt: 100, generate: 10, sequences: 4, ..o.test };
        assert_eq!((o.tokens(), o.prompt_rate(), o.generation_rate()), (440, None, None));
        o.prompt_times = vec![Duration::from_secs(2), Duration::from_secs(2)];
        o.token_times = vec![Duration::from_millis(100); 20];
        assert_eq!((o.prompt_rate(), o.generation_rate()), (Some(200.0), Some(40.0)));
        // A shared prompt is computed once.
        o.test.shared_prompt = true;
        assert_eq!((o.tokens(), o.prompt_rate(), o.generation_rate()), (140, Some(50.0), Some(40.0)));
        assert_eq!(o.test.name(), "pps100+tg10x4");
    }
}
