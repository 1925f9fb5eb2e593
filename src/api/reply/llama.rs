//! Answers of llama.cpp's `/completion`.

use bitnetc_runtime::sampling::StopList;
use serde_json::{Value, json};

use super::frame::Frame;
use super::logprobs::nested;
use super::usage::{prompt_progress, timings, timings_so_far};
use super::{About, Choice, ChoiceIndex, Piece, Shape};
use crate::api::Refusal;
use crate::engine::{PromptProgress, Stop};

/// The shape of llama.cpp's completions.
#[derive(Debug)]
pub(in crate::api) struct LlamaShape {
    settings: Value,
    /// The strings that the request ends at.
    stops: StopList,
    /// Whether the answer is a list, as the prompts are.
    is_list: bool,
}

impl LlamaShape {
    /// For answers that name these settings, end before `stops`, and are a list where their prompts are.
    pub(in crate::api) fn new(settings: Value, stops: StopList, is_list: bool) -> Self {
        Self { settings, stops, is_list }
    }

    /// What all parts of an answer have.
    fn part(about: &About, index: ChoiceIndex, choice: &Choice, text: &str, tokens: &[u32]) -> Value {
        let evaluated = about.prompts.get(choice.prompt).map_or(0, |prompt| prompt.tokens.len());
        json!({
            "index": index.index(),
            "content": text,
            "tokens": if about.shown.token_ids { tokens } else { &[] },
            "stop": false,
            "model": about.model,
            "tokens_predicted": choice.made(),
            "tokens_evaluated": evaluated,
        })
    }

    /// Probabilities as llama.cpp lists them: those of `/v1/chat/completions`, with the ids of tokens.
    fn probabilities(about: &About, piece: &Piece) -> Option<Value> {
        let n = about.shown.logprobs?;
        let mut list = nested(about.tokenizer(), &piece.logprobs, n)["content"].take();
        for (entry, logprobs) in list.as_array_mut().into_iter().flatten().zip(&piece.logprobs) {
            entry["id"] = json!(logprobs.token.id);
            let top = entry["top_logprobs"].as_array_mut();
            for (top, token) in top.into_iter().flatten().zip(&logprobs.top) {
                top["id"] = json!(token.id);
            }
        }
        Some(list)
    }

    /// The end of an answer.
    fn last(&self, about: &About, index: ChoiceIndex, choice: &Choice, text: &str, tokens: &[u32]) -> Value {
        let mut value = Self::part(about, index, choice, text, tokens);
        let Some(end) = &choice.end else { return value };
        let (kind, word) = match end.finish {
            Stop::EndToken(_) | Stop::StopToken(_) | Stop::Grammar => ("eos", ""),
            Stop::StopString(index) => ("word", self.stops.get(index).unwrap_or_default()),
            Stop::Limit | Stop::ContextFull => ("limit", ""),
            Stop::Interrupted => ("none", ""),
        };
        value["id_slot"] = end.seat.map_or(json!(-1), |seat| json!(seat.0));
        value["stop"] = json!(true);
        value["stop_type"] = json!(kind);
        value["stopping_word"] = json!(word);
        value["truncated"] = json!(false);
        value["has_new_line"] = json!(end.text.contains('\n'));
        value["tokens_cached"] = json!(end.prompt_tokens + end.tokens.len());
        let mut settings = self.settings.clone();
        settings["seed"] = json!(about.seed.wrapping_add(index.index() as u64));
        value["generation_settings"] = settings;
        if let Some(prompt) = about.prompts.get(choice.prompt) {
            value["prompt"] = json!(prompt.echo(about.tokenizer()));
        }
        if about.shown.measured {
            value["timings"] = timings(end);
        }
        value
    }
}

impl Shape for LlamaShape {
    fn begin(&mut self, _: &About, _: &[Choice]) -> Vec<Frame> {
        Vec::new()
    }

    fn progress(
        &mut self,
        about: &About,
        index: ChoiceIndex,
        choice: &Choice,
        progress: PromptProgress,
    ) -> Vec<Frame> {
        let mut value = Self::part(about, index, choice, "", &[]);
        value["prompt_progress"] = prompt_progress(progress);
        vec![Frame::Data(value)]
    }

    fn piece(&mut self, about: &About, index: ChoiceIndex, choice: &Choice, piece: Piece) -> Vec<Frame> {
        let mut value = Self::part(about, index, choice, &piece.text, &piece.tokens);
        if let Some(list) = Self::probabilities(about, &piece) {
            value["completion_probabilities"] = list;
        }
        if about.shown.timings_per_token {
            value["timings"] = timings_so_far(choice);
        }
        vec![Frame::Data(value)]
    }

    fn ended(&mut self, about: &About, index: ChoiceIndex, choice: &Choice) -> Vec<Frame> {
        vec![Frame::Data(self.last(about, index, choice, "", &[]))]
    }

    fn end(&mut self, _: &About, _: &[Choice]) -> Vec<Frame> {
        Vec::new()
    }

    fn fail(&mut self, _: &About, refusal: &Refusal) -> Vec<Frame> {
        vec![Frame::Data(refusal.to_openai())]
    }

    fn body(&mut self, about: &About, choices: &[Choice]) -> Value {
        let of = |(index, choice): (usize, &Choice)| {
            let end = choice.end.as_ref()?;
            let mut value = self.last(about, ChoiceIndex::new(index), choice, &end.text, &end.tokens);
            let piece = Piece { logprobs: end.logprobs.clone(), ..Piece::default() };
            if let Some(list) = Self::probabilities(about, &piece) {
                value["completion_probabilities"] = list;
            }
            Some(value)
        };
        let mut all: Vec<Value> = choices.iter().enumerate().filter_map(of).collect();
        match (all.len(), self.is_list) {
            (1, false) => all.remove(0),
            _ => json!(all),
        }
    }
}
