//! One text in the making among several: its sampler, its tokens so far, and when it ends.
//!
//! Invariant: the tokens and the text are those that [`crate::generate::generate`] makes from the same logits.

use bitnetc_runtime::sampling::Sampler;
use bitnetc_runtime::tokenizer::{StreamDecoder, Tokenize};

use super::many::{Finish, Generation};
use crate::error::Error;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sequence {
    sampler: Sampler,
    decoder: StreamDecoder,
    limit: Option<u64>,
    ignore_end: bool,
    stops: Vec<String>,
    /// The new tokens, without the end token.
    pub(crate) tokens: Vec<u32>,
    /// The new text, without a stop string.
    pub(crate) text: String,
}

impl Sequence {
    /// A text at its beginning. The generation's settings have been validated.
    pub(crate) fn new(generation: Generation) -> Result<(Self, Vec<u32>), Error> {
        let Generation { prompt, params, options, stops } = generation;
        let mut sampler = Sampler::new(params)?;
        for &id in &prompt {
            sampler.accept(id);
        }
        let sequence = Self {
            sampler,
            decoder: StreamDecoder::new(),
            limit: options.limit,
            ignore_end: options.ignore_end,
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            tokens: Vec::new(),
            text: String::new(),
        };
        Ok((sequence, prompt))
    }

    /// Whether the text may have no token at all.
    pub(crate) fn is_empty_by_limit(&self) -> bool {
        self.limit == Some(0)
    }

    /// Chooses the next token. `masked` is memory to work in; `ends` are the model's end tokens; `full` says that the context
    /// has no room for the token. Returns why the text ends, if it does.
    pub(crate) fn next(
        &mut self,
        logits: &[f32],
        tokenizer: &dyn Tokenize,
        ends: &[u32],
        masked: &mut Vec<f32>,
        full: bool,
    ) -> Result<Option<Finish>, Error> {
        let id = match self.ignore_end {
            false => self.sampler.sample(logits)?,
            true => {
                masked.clear();
                masked.extend_from_slice(logits);
                for &end in ends {
                    masked[end as usize] = f32::NEG_INFINITY;
                }
                self.sampler.sample(masked)?
            }
        };
        if tokenizer.is_end(id) && !self.ignore_end {
            self.decoder.finish(&mut self.text);
            return Ok(Some(Finish::EndToken(id)));
        }
        self.tokens.push(id);
        let before = self.text.len();
        self.decoder.push(tokenizer.piece(id, false), &mut self.text);
        let limit = self.limit.is_some_and(|n| self.tokens.len() as u64 >= n);
        if limit || full {
            self.decoder.finish(&mut self.text);
        }
        if let Some(at) = self.stop_string(before) {
            self.text.truncate(at);
            return Ok(Some(Finish::StopString));
        }
        Ok(match (limit, full) {
            (true, _) => Some(Finish::Limit),
            (false, true) => Some(Finish::ContextFull),
            (false, false) => None,
        })
    }

    /// The text that no later token takes back: all of it at the end, else without what may be the beginning of a stop string.
    pub(crate) fn certain_text(&self, ended: bool) -> &str {
        let bytes = self.text.as_bytes();
        let begins = |stop: &String| {
            let longest = (stop.len() - 1).min(bytes.len());
            (1..=longest).rev().find(|&n| bytes.ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
        };
        let held = if ended { 0 } else { self.stops.iter().map(begins).max().unwrap_or(0) };
        // A stop string begins with a character, so this is the border of one.
        &self.text[..self.text.len() - held]
    }

    /// Where the earliest stop string begins, of which there was none in the first `before` bytes.
    fn stop_string(&self, before: usize) -> Option<usize> {
        let find = |stop: &String| {
            // One that ends behind `before` begins at most its own length less one before it.
            let mut from = (before + 1).saturating_sub(stop.len());
            while !self.text.is_char_boundary(from) {
                from -= 1;
            }
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        };
        self.stops.iter().filter_map(find).min()
    }
}
