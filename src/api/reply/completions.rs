//! Answers of `/v1/completions`.

use serde_json::{Value, json};

use super::chat::{
    closing, complete, envelope, failing, last_chunk, with_ids, with_prompt_logprobs, with_timings,
    with_usage,
};
use super::frame::Frame;
use super::logprobs::{Lists, Place, hidden_characters};
use super::usage::prompt_progress;
use super::{About, Choice, ChoiceIndex, Piece, Shape};
use crate::api::Refusal;
use crate::engine::PromptProgress;

/// The shape of completions.
#[derive(Debug, Default)]
pub(in crate::api) struct CompletionShape {
    /// Of each choice, where in its text the tokens that went out end.
    places: Vec<Place>,
}

const OBJECT: &str = "text_completion";
const PREFIX: &str = "cmpl";

/// The text in front of a choice: its prompt, if that is echoed.
fn echo(about: &About, choice: &Choice) -> String {
    let prompt = about.prompts.get(choice.prompt).filter(|_| about.shown.echo);
    prompt.map(|prompt| prompt.echo(about.tokenizer())).unwrap_or_default()
}

/// The tokens of an echoed prompt with their probabilities: the first has none.
fn echo_lists(lists: &mut Lists, about: &About, choice: &Choice, n: usize) {
    let prompt = about.prompts.get(choice.prompt).filter(|_| about.shown.echo);
    if let Some(&first) = prompt.and_then(|prompt| prompt.tokens.first()) {
        lists.echo(about.tokenizer(), first, &choice.scored, n);
    }
}

/// Where the text of a choice begins among its tokens.
fn start(about: &About, choice: &Choice) -> Place {
    let prompt =
        about.prompts.get(choice.prompt).filter(|_| about.shown.echo && about.shown.logprobs.is_some());
    let hidden = prompt.and_then(|prompt| {
        let text = prompt.text.as_ref()?;
        Some(hidden_characters(about.tokenizer(), &prompt.tokens, text))
    });
    Place::after_hidden(hidden.unwrap_or(0))
}

impl CompletionShape {
    fn chunk(about: &About, index: ChoiceIndex, text: &str) -> Value {
        let choice = json!({ "index": index.index(), "text": text, "logprobs": null, "finish_reason": null });
        envelope(about, PREFIX, OBJECT, json!([choice]))
    }
}

impl Shape for CompletionShape {
    fn begin(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame> {
        self.places = choices.iter().map(|choice| start(about, choice)).collect();
        Vec::new()
    }

    fn progress(
        &mut self,
        about: &About,
        index: ChoiceIndex,
        _: &Choice,
        progress: PromptProgress,
    ) -> Vec<Frame> {
        let mut chunk = Self::chunk(about, index, "");
        chunk["prompt_progress"] = prompt_progress(progress);
        vec![with_usage(chunk, about, None)]
    }

    fn piece(&mut self, about: &About, index: ChoiceIndex, choice: &Choice, piece: Piece) -> Vec<Frame> {
        let before = if piece.first { echo(about, choice) } else { String::new() };
        let mut chunk = Self::chunk(about, index, &(before + &piece.text));
        let value = &mut chunk["choices"][0];
        if let (Some(n), Some(place)) = (about.shown.logprobs, self.places.get_mut(index.index())) {
            let mut lists = Lists::from_place(std::mem::take(place));
            if piece.first {
                echo_lists(&mut lists, about, choice, n);
            }
            lists.extend(about.tokenizer(), &piece.logprobs, n);
            *place = std::mem::take(&mut lists.place);
            value["logprobs"] = lists.into_json();
        }
        *value = with_ids(value.take(), about, &piece.tokens, piece.first.then_some(choice));
        if piece.first {
            *value = with_prompt_logprobs(value.take(), about, choice);
        }
        vec![with_usage(with_timings(chunk, about, choice), about, None)]
    }

    fn ended(&mut self, about: &About, index: ChoiceIndex, choice: &Choice) -> Vec<Frame> {
        let mut chunk = Self::chunk(about, index, "");
        chunk["choices"][0]["finish_reason"] = json!(choice.finish_reason());
        chunk["choices"][0]["stop_reason"] = choice.stop_reason();
        vec![last_chunk(chunk, about, choice)]
    }

    fn end(&mut self, about: &About, choices: &[Choice]) -> Vec<Frame> {
        closing(about, choices, PREFIX, OBJECT)
    }

    fn fail(&mut self, _: &About, refusal: &Refusal) -> Vec<Frame> {
        failing(refusal)
    }

    fn body(&mut self, about: &About, choices: &[Choice]) -> Value {
        let of = |(index, choice): (usize, &Choice)| {
            let end = choice.end.as_ref()?;
            let logprobs = about.shown.logprobs.map(|n| {
                let mut lists = Lists::from_place(start(about, choice));
                echo_lists(&mut lists, about, choice, n);
                lists.extend(about.tokenizer(), &end.logprobs, n);
                lists.into_json()
            });
            let value = json!({
                "index": index,
                "text": echo(about, choice) + &end.text,
                "logprobs": logprobs,
                "finish_reason": choice.finish_reason(),
                "stop_reason": choice.stop_reason(),
            });
            let value = with_ids(value, about, &end.tokens, Some(choice));
            Some(with_prompt_logprobs(value, about, choice))
        };
        let all: Vec<Value> = choices.iter().enumerate().filter_map(of).collect();
        complete(envelope(about, PREFIX, OBJECT, all.into()), about, choices)
    }
}
