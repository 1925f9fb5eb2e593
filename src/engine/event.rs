//! The events of a request: its tokens as they are generated, and its end.

use std::time::Duration;

use bitnetc_runtime::sampling::TokenLogprobs;
use bitnetc_runtime::tokenizer::TokenId;

use super::slots::SeatIndex;
use super::text::{Stop, Text};
use crate::error::Error;

/// Something that happened to a request.
#[derive(Debug)]
pub enum Event {
    /// A part of the prompt was read, if [`Request::progress`](super::Request::progress) asked for it.
    Progress(PromptProgress),
    /// The probabilities of the tokens of the prompt after the first are known, if
    /// [`Request::prompt_logprobs`](super::Request::prompt_logprobs) asked for them and every token is an event. They are in the
    /// completion too.
    Scored(Vec<TokenLogprobs>),
    /// A token was made.
    Token(Token),
    /// The text has ended. The last event.
    Done(Box<Completion>),
    /// The text cannot go on. The last event.
    Failed(Error),
}

/// How far a prompt has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptProgress {
    /// Tokens of the prompt.
    pub total: usize,
    /// Of these, tokens that were not computed, because a sequence held them already.
    pub cached: usize,
    /// Tokens that are in the sequence, the cached ones among them.
    pub processed: usize,
    /// Time since the request was given its sequence.
    pub time: Duration,
}

/// A token that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// The text that is certain with it: perhaps none, where a character or a stop string may go on.
    pub text: String,
    /// Its probability and the likeliest tokens at its place, if they were asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// A text that has ended.
#[derive(Debug)]
pub struct Completion {
    /// The new text, without a stop string.
    pub text: String,
    /// The end of `text` that came with no token: what was held back until it was certain that no stop string follows.
    pub tail: String,
    /// The new tokens, without the end token.
    pub tokens: Vec<TokenId>,
    /// Why it ended.
    pub finish: Stop,
    /// Probabilities of `tokens`, if they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Probabilities of the tokens of the prompt after the first, if
    /// [`Request::prompt_logprobs`](super::Request::prompt_logprobs) asked for them: those of a text that is interrupted
    /// may be fewer.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens that a sequence held already, which were not computed: the text went on in that sequence, or they
    /// were copied from it.
    pub reused_tokens: usize,
    /// The sequence that the text had last; `None` where it ended before it had one.
    pub seat: Option<SeatIndex>,
    /// How long each part took.
    pub timings: Timings,
    /// The text's state, if [`Request::keep_state`](super::Request::keep_state) asked for it: its sampler, and, where
    /// the context was full, all that [`Request::resume`](super::Request::resume) needs.
    pub state: Option<Box<Text>>,
}

impl Completion {
    /// Tokens of the prompt that were computed.
    pub fn computed_tokens(&self) -> usize {
        self.prompt_tokens.saturating_sub(self.reused_tokens)
    }
}

/// How long the parts of a text took. A step that several texts share counts for each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission until the request first had a sequence, the time in which an engine's thread computed the step under
    /// way among it.
    pub queue: Duration,
    /// Steps with rows of the prompt, the first time that it is read.
    pub prompt: Duration,
    /// Steps after the prompt.
    pub decode_steps: usize,
    /// Time of these steps, without sampling.
    pub decode: Duration,
    /// Time for sampling.
    pub sample: Duration,
    /// Of each token after the first: the time of its steps and of its sampling.
    pub tokens: Vec<Duration>,
}

/// Percentiles of how long single tokens took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Half of them.
    pub p50: Duration,
    /// 90 of a hundred.
    pub p90: Duration,
    /// 99 of a hundred.
    pub p99: Duration,
    /// All of them.
    pub max: Duration,
}

impl Latency {
    /// Of these times; `None` if there are none. A percentile is one of the times (nearest rank).
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { p50: rank(50)?, p90: rank(90)?, p99: rank(99)?, max: *sorted.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = |ms: &[u64]| ms.iter().map(|&n| Duration::from_millis(n)).collect::<Vec<_>>();
        assert_eq!(Latency::of(&[]), None);
        let of = |all: &[u64]| {
            Latency::of(&times(all)).map(|l| [l.p50, l.p90, l.p99, l.max].map(|d| d.as_millis()))
        };
        assert_eq!(of(&[3]), Some([3, 3, 3, 3]));
        assert_eq!(of(&[4, 1, 3, 2]), Some([2, 4, 4, 4]));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), Some([50, 90, 99, 100]));
    }
}
