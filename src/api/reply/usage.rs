//! What an answer took: tokens and times.

use std::time::Duration;

use serde_json::{Value, json};

use super::{About, Choice};
use crate::engine::{Completion, PromptProgress};

/// Tokens that an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompts; a prompt with several choices counts once.
    pub prompt_tokens: usize,
    /// Of these, tokens that were not computed, because a sequence held them already.
    pub cached_tokens: usize,
    /// Tokens of the choices.
    pub completion_tokens: usize,
}

impl Usage {
    /// Of the choices as far as they have come.
    pub(super) fn of(about: &About, choices: &[Choice]) -> Self {
        let cached = |prompt: usize| {
            let of_prompt = choices.iter().filter(|choice| choice.prompt == prompt);
            // What one choice computed, the others reused: it counts as computed.
            of_prompt.filter_map(|choice| Some(choice.end.as_ref()?.reused_tokens)).min().unwrap_or(0)
        };
        Self {
            prompt_tokens: about.prompts.iter().map(|prompt| prompt.tokens.len()).sum(),
            cached_tokens: (0..about.prompts.len()).map(cached).sum(),
            completion_tokens: choices.iter().map(Choice::made).sum(),
        }
    }

    /// In OpenAI's form; what was reused differs from run to run, so a file of results leaves it out.
    pub(in crate::api) fn to_openai(self, measured: bool) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        });
        if measured {
            usage["prompt_tokens_details"] = json!({ "cached_tokens": self.cached_tokens });
        }
        usage
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Tokens per second; `None` where there are no tokens, or no time that they took.
fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// How far a prompt has been read, in llama.cpp's form.
pub(in crate::api) fn prompt_progress(progress: PromptProgress) -> Value {
    json!({
        "total": progress.total,
        "cache": progress.cached,
        "processed": progress.processed,
        "time_ms": milliseconds(progress.time),
    })
}

/// How long a text took, in llama.cpp's form. The first token belongs to the time of the prompt, so one token has no rate: null.
pub(in crate::api) fn timings(end: &Completion) -> Value {
    let (prompt, made) = (end.computed_tokens(), end.tokens.len());
    let (reading, writing) = (end.timings.prompt, end.timings.decode + end.timings.sample);
    json!({
        "cache_n": end.reused_tokens,
        "prompt_n": prompt,
        "prompt_ms": milliseconds(reading),
        "prompt_per_second": rate(prompt, reading),
        "predicted_n": made,
        "predicted_ms": milliseconds(writing),
        "predicted_per_second": rate(made.saturating_sub(1), writing),
    })
}

/// The times of a choice so far: those of its end, or what a client sees of them.
pub(in crate::api) fn timings_so_far(choice: &Choice) -> Value {
    if let Some(end) = &choice.end {
        return timings(end);
    }
    let time = choice.first_token().map_or(Duration::ZERO, |first| first.elapsed());
    // The first token belongs to the prompt's time.
    let after = choice.made().saturating_sub(1);
    json!({
        "predicted_n": choice.made(),
        "predicted_ms": milliseconds(time),
        "predicted_per_second": rate(after, time),
    })
}
