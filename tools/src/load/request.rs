//! One request: what is sent, and when each piece of its answer came.

use std::time::{Duration, Instant};

use bitnetc_ir::random::SplitMix;
use serde_json::{Value, json};

use super::LoadError;
use super::http::Target;
use super::stream::{Event, Events};

/// What prompts consist of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// Random token ids below this number: prompts have exactly the tokens that are asked for.
    Ids(u32),
    /// Random words, for servers that do not say how many tokens there are: about a token each.
    Words,
}

/// Words that most vocabularies have as a token.
const WORDS: [&str; 16] = [
    "time", "house", "water", "light", "world", "hand", "night", "king", "name", "day", "love", "good",
    "long", "first", "great", "part",
];

/// What an answer took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// From the request to the first piece of text.
    pub ttft: Duration,
    /// Between two pieces of text, in order.
    pub gaps: Vec<Duration>,
    /// From the request to the end of the answer.
    pub total: Duration,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens that were in the server's cache.
    pub cached_tokens: u64,
    /// Tokens that were generated.
    pub generated_tokens: u64,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The answer is complete.
    Answered(Answer),
    /// The server refused.
    Refused {
        /// The status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// No complete answer came, for this reason.
    Failed(String),
    /// The measurement was interrupted.
    Interrupted,
}

/// What requests have in common.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) vocabulary: Vocabulary,
    pub(super) model: String,
    pub(super) temperature: f64,
    pub(super) seed: u64,
    /// Tokens at the beginning of every prompt that all of them share.
    pub(super) shared_prefix: u32,
}

impl Template {
    /// What the server says about its model, for requests with these options.
    pub(super) fn of(
        target: &Target,
        model: Option<&str>,
        (temperature, seed, shared_prefix): (f64, u64, u32),
    ) -> Result<Self, LoadError> {
        let models = target.json("/v1/models", None)?;
        let listed = models["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = listed.iter().find(|m| model.is_none_or(|name| m["id"] == name));
        let name = model.or_else(|| found.and_then(|m| m["id"].as_str()));
        let Some(name) = name else { return Err(target.protocol("/v1/models lists no model")) };
        let vocabulary = found.and_then(|m| m["meta"]["n_vocab"].as_u64());
        let vocabulary = vocabulary.and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
        let vocabulary = vocabulary.map_or(Vocabulary::Words, Vocabulary::Ids);
        Ok(Self { vocabulary, model: name.to_owned(), temperature, seed, shared_prefix })
    }

    /// The random numbers of a request; `stream` keeps those of different tests apart.
    pub(super) fn random(&self, stream: u64, request: u64) -> SplitMix {
        let mut rng = SplitMix::new(self.seed ^ stream.rotate_left(32));
        SplitMix::new(rng.next_u64() ^ request)
    }

    fn prompt(&self, tokens: u32, rng: &mut SplitMix) -> Value {
        let mut shared = SplitMix::new(self.seed);
        let draws: Vec<u64> = (0..tokens)
            .map(|i| if i < self.shared_prefix { shared.next_u64() } else { rng.next_u64() })
            .collect();
        match self.vocabulary {
            Vocabulary::Ids(n) => draws.iter().map(|draw| draw % u64::from(n)).collect(),
            Vocabulary::Words => {
                let word =
                    |draw: &u64| WORDS.get((draw % WORDS.len() as u64) as usize).copied().unwrap_or("time");
                json!(draws.iter().map(word).collect::<Vec<_>>().join(" "))
            }
        }
    }

    /// The body of a request.
    pub(super) fn body(&self, prompt: u32, answer: u32, rng: &mut SplitMix) -> Value {
        json!({
            "model": self.model,
            "prompt": self.prompt(prompt, rng),
            "max_tokens": answer,
            "ignore_eos": true,
            "temperature": self.temperature,
            "seed": rng.next_u64() >> 33,
            "stream": true,
            "stream_options": { "include_usage": true },
        })
    }
}

/// Sends a request and reads its answer. `piece` is called for every piece of text with the time at which it came; where it answers
/// false the connection is closed.
pub(super) fn ask(target: &Target, body: &Value, piece: &mut dyn FnMut(Instant) -> bool) -> Ending {
    match try_ask(target, body, piece) {
        Ok(ending) => ending,
        Err(LoadError::Interrupted) => Ending::Interrupted,
        Err(LoadError::Refused { status, message, .. }) => Ending::Refused { status, message },
        Err(error) => Ending::Failed(error.to_string()),
    }
}

fn count(usage: &Value) -> u64 {
    usage.as_u64().unwrap_or(0)
}

fn try_ask(
    target: &Target,
    body: &Value,
    piece: &mut dyn FnMut(Instant) -> bool,
) -> Result<Ending, LoadError> {
    let begun = Instant::now();
    let response = target.send("/v1/completions", Some(body))?;
    if response.status != 200 {
        let status = response.status;
        return Err(target.refused(status, &response.body()?));
    }
    let (mut answer, mut last, mut finished) = (Answer::default(), None, false);
    let mut events = Events::of(response);
    while let Some(event) = events.next()? {
        let Event::Data(value) = event else {
            finished = true;
            break;
        };
        let now = Instant::now();
        if let Some(message) = value["error"]["message"].as_str() {
            return Err(target.protocol(format!("an answer failed: {}", message.escape_debug())));
        }
        let choice = &value["choices"][0];
        if choice["text"].as_str().is_some_and(|text| !text.is_empty()) {
            match last {
                None => answer.ttft = now - begun,
                Some(before) => answer.gaps.push(now - before),
            }
            last = Some(now);
            if !piece(now) {
                return Ok(Ending::Interrupted);
            }
        }
        finished |= choice["finish_reason"].is_string();
        let usage = &value["usage"];
        if usage.is_object() {
            answer.prompt_tokens = count(&usage["prompt_tokens"]);
            answer.generated_tokens = count(&usage["completion_tokens"]);
            answer.cached_tokens = count(&usage["prompt_tokens_details"]["cached_tokens"]);
        }
    }
    if !finished {
        return Err(target.protocol("a stream ended before the answer was complete"));
    }
    answer.total = begun.elapsed();
    if last.is_none() {
        // Tokens without text, such as the first half of a character.
        answer.ttft = answer.total;
    }
    Ok(Ending::Answered(answer))
}
