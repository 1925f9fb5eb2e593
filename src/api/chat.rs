//! What every API of chats has in common: tools, thoughts, and the prompt that the template makes of both.

use std::sync::Arc;

use bitnetc_runtime::tokenizer::TokenId;
use serde_json::{Map, Value, json};

use super::answer::AnswerForm;
use super::asked::Asked;
use super::body::Body;
use super::fields::{ENABLE_THINKING, REASONING_EFFORT, REASONING_FORMAT};
use super::form::Form;
use super::messages::{Chat, encoder};
use super::prompt::Prompt;
use super::{Reading, Refusal, Service};
use crate::chat::{Abilities, ThinkForm};
use crate::tools::{ToolError, Tools, grammar, schema_after_thinking};

impl From<ToolError> for Refusal {
    fn from(error: ToolError) -> Self {
        match error.unsupported {
            true => Self::unsupported(error.field, error.message),
            false => Self::field(error.field, error.message),
        }
    }
}

/// A chat, and what its request asks for besides sampling.
#[derive(Debug)]
pub(super) struct ChatRequest {
    /// The messages.
    pub(super) chat: Chat,
    /// What may be called.
    pub(super) tools: Option<Tools>,
    /// Whether thoughts are told from the answer.
    pub(super) thoughts: bool,
    /// How many of the likeliest tokens are listed with each token.
    pub(super) logprobs: Option<usize>,
}

/// Whether thoughts are told from the answer, by the word for it that llama.cpp has.
///
/// # Errors
/// Another word.
pub(super) fn reasoning_format(word: Option<&str>) -> Result<bool, Refusal> {
    match word {
        None | Some("auto" | "deepseek") => Ok(true),
        Some("none") => Ok(false),
        Some(_) => {
            let message = "reasoning_format must be \"auto\", \"deepseek\" or \"none\"";
            Err(Refusal::field("reasoning_format", message))
        }
    }
}

/// Puts a variable for the template beside those that the request gives itself.
pub(super) fn set(variables: &mut Map<String, Value>, name: &str, value: Value) {
    variables.entry(name).or_insert(value);
}

/// Whether and how hard to think, as templates take it.
pub(super) fn set_effort(variables: &mut Map<String, Value>, effort: &str) {
    set(variables, "reasoning_effort", json!(effort));
    set(variables, "enable_thinking", json!(effort != "none"));
}

/// The form in which the template shows tools and writes calls.
fn check_tools(tools: &Tools, abilities: &Abilities) -> Result<(), Refusal> {
    if !abilities.tools {
        let message = "tools: the chat template of this model does not show tools to the model: leave tools out, or use a template that does, such as the built-in `hermes`";
        return Err(Refusal::unsupported("tools", message));
    }
    if tools.is_forced() && abilities.calls.is_none() {
        let message = "tool_choice: the form in which this model writes calls is not known, so that none can be required: use \"auto\" and read the text";
        return Err(Refusal::unsupported("tool_choice", message));
    }
    Ok(())
}

/// Whether an answer goes on with thoughts that its prompt has begun.
fn has_opened(form: ThinkForm, prompt: &str, begun: Option<&str>) -> bool {
    match begun.and_then(|begun| begun.rsplit_once(form.open)) {
        Some((_, thoughts)) => !thoughts.contains(form.close),
        None => form.is_open(prompt),
    }
}

/// What tells a prompt from others.
fn hash(tokens: &[TokenId]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for id in tokens {
        hasher.update(&id.to_le_bytes());
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl ChatRequest {
    /// The request of OpenAI's chats whose body, checked, is `body`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of_openai(body: Body<'_>, value: &Value, service: &Service) -> Result<Self, Refusal> {
        let mut chat = Chat::of_body(body, service)?;
        if let Some(effort) = body.text(&REASONING_EFFORT) {
            set_effort(&mut chat.variables, effort);
        }
        if let Some(thinks) = body.bool(&ENABLE_THINKING) {
            set(&mut chat.variables, "enable_thinking", json!(thinks));
        }
        let thoughts = reasoning_format(body.text(&REASONING_FORMAT))?;
        Ok(Self { chat, tools: Tools::read(value)?, thoughts, logprobs: None })
    }

    /// The text that the model is given, and its tokens.
    ///
    /// # Errors
    /// Tools that the template does not show; what the template refuses.
    pub(super) fn render(&mut self, service: &Service, fits: bool) -> Result<(String, Prompt), Refusal> {
        if let Some(tools) = &self.tools {
            check_tools(tools, encoder(service)?.abilities())?;
            self.chat.tools = Some(tools.to_json());
        }
        self.chat.render(service, fits)
    }

    /// What is asked of the engine, and how its text is read.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub(super) fn ask(
        mut self,
        body: Body<'_>,
        service: &Service,
        how: &Reading<'_>,
    ) -> Result<(Asked, AnswerForm), Refusal> {
        let (text, prompt) = self.render(service, how.fits)?;
        let abilities = encoder(service)?.abilities();
        let thinking = abilities.thinking.filter(|_| self.thoughts);
        let thinking = thinking.map(|form| (form, has_opened(form, &text, self.chat.begun.as_deref())));
        let is_off = self.chat.variables.get("enable_thinking") == Some(&Value::Bool(false));
        // A form is for what follows thoughts, where there may be any.
        let before_form =
            thinking.filter(|(form, opened)| *opened || !is_off && !text.trim_end().ends_with(form.close));
        let hash = hash(&prompt.tokens);
        let mut asked = Asked::of_body(body, service, vec![prompt], self.logprobs, how)?;
        asked.prompt_field = "messages";
        let mut form = AnswerForm { thinking, ids: abilities.history.ids, prompt: hash, calls: None };
        if let (Some(calls), Some(tools)) = (abilities.calls, self.tools.take()) {
            if tools.is_forced() {
                if asked.form.as_ref().is_some_and(|form| form.source.is_some()) {
                    let message = "tool_choice: a call is required, and the request asks for a form too: leave out one of the two";
                    return Err(Refusal::field("tool_choice", message));
                }
                let thinking = before_form.as_ref().map(|(form, opened)| (form, *opened));
                let source = grammar(calls, &tools, &abilities.markers, thinking)?;
                asked.form = Some(Form { field: "tools", source: Some(source) });
            }
            form.calls = Some((calls, Arc::new(tools)));
        }
        let is_forced = form.calls.as_ref().is_some_and(|(_, tools)| tools.is_forced());
        if let (false, Some((think, opened)), Some(wanted)) = (is_forced, before_form, &mut asked.form)
            && let Some(source) = wanted.source.take()
        {
            // A form that is not one for the answer alone is one for the whole text, in which there are no thoughts.
            wanted.source = Some(match schema_after_thinking(source, &abilities.markers, &think, opened) {
                Ok(source) => source,
                Err(source) => {
                    form.thinking = None;
                    source
                }
            });
        }
        if !form.is_plain() {
            asked.options.visible = abilities.markers.ids();
        }
        Ok((asked, form))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_may_have_begun_in_the_prompt() {
        let form = ThinkForm { open: "<think>", close: "</think>" };
        assert!(has_opened(form, "assistant\n<think>\n", None));
        assert!(has_opened(form, "assistant\n<think>\nI", Some("<think>\nI")));
        assert!(!has_opened(form, "assistant\n<think>\nI</think>\nSo", Some("<think>\nI</think>\nSo")));
        assert!(!has_opened(form, "user: <think>\nassistant: ", None));
        assert_eq!(reasoning_format(Some("none")), Ok(false));
        assert!(reasoning_format(None).unwrap() && reasoning_format(Some("x")).is_err());
    }
}
