//! Messages to the tokens of a prompt: a template with the model's tokenizer.

use std::sync::{Arc, OnceLock};

use bitnetc_runtime::tokenizer::{TokenId, Tokenize, Tokenizer};
use serde_json::{Map, Value};

use super::select::ModelFacts;
use super::{
    Abilities, ChatError, ChatTemplate, Message, RenderInput, Rendered, Role, Selected, SpecialTexts, Wish,
    select,
};
use crate::batch::{ChatPrompt, RenderChat};
use crate::error::Error;
use crate::load::Loaded;

/// Makes prompts of messages for one model.
#[derive(Clone)]
pub struct ChatEncoder {
    tokenizer: Arc<dyn Tokenize>,
    special: SpecialTexts,
    template: ChatTemplate,
    stop: Vec<String>,
    abilities: Arc<OnceLock<Abilities>>,
}

impl std::fmt::Debug for ChatEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatEncoder")
            .field("template", &self.template.name())
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

impl ChatEncoder {
    /// With this template, and strings that end an answer besides the model's end tokens.
    pub fn new(tokenizer: Arc<dyn Tokenize>, template: ChatTemplate, stop: Vec<String>) -> Self {
        let special = SpecialTexts::of(&*tokenizer);
        Self { special, tokenizer, template, stop, abilities: Arc::default() }
    }

    /// With the template that [`select`](super::select()) chooses for a model, and the remark that goes with the choice.
    ///
    /// # Errors
    /// As [`select`](super::select()).
    pub fn for_model(loaded: &Loaded, wish: &Wish) -> Result<(Self, Option<String>), ChatError> {
        let special = SpecialTexts::of(&*loaded.tokenizer);
        let facts = ModelFacts {
            name: &loaded.name,
            architecture: &loaded.architecture,
            template: loaded.chat_template.as_deref(),
            special: &special,
        };
        let Selected { template, stop, note } = select(wish, facts)?;
        let tokenizer: Arc<dyn Tokenize> = Arc::<Tokenizer>::clone(&loaded.tokenizer);
        Ok((Self { tokenizer, special, template, stop, abilities: Arc::default() }, note))
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &dyn Tokenize {
        &*self.tokenizer
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// What the template can do, found out when it is first asked.
    pub fn abilities(&self) -> &Abilities {
        self.abilities.get_or_init(|| Abilities::of(&self.template, &self.special, &*self.tokenizer))
    }

    /// Strings that end an answer, besides the model's end tokens.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// The text that the model is given.
    ///
    /// # Errors
    /// What the template refuses.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<Rendered, ChatError> {
        self.template.render(input, &self.special)
    }

    /// The tokens of a text from [`ChatEncoder::render`].
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode(&self, rendered: &Rendered) -> Result<Vec<TokenId>, Error> {
        Ok(self.tokenizer.encode_template(&rendered.text, &rendered.breaks, true)?)
    }
}

/// The variables for the template that a request asks for.
fn variables(body: &Value) -> Result<Map<String, Value>, String> {
    match body.get("chat_template_kwargs") {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(variables)) => Ok(variables.clone()),
        Some(_) => Err("chat_template_kwargs must be an object".to_owned()),
    }
}

/// A message of the OpenAI API, whose content may be a list of texts: they are lines then.
fn message(value: &Value) -> Result<Message, String> {
    let mut value = value.clone();
    if let Some(parts) = value.get("content").and_then(Value::as_array) {
        let text = |part: &Value| match part.get("type").and_then(Value::as_str) {
            Some("text") => part.get("text").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        let texts: Option<Vec<String>> = parts.iter().map(text).collect();
        let texts = texts.ok_or("a content can have parts of type \"text\" only")?;
        value["content"] = Value::String(texts.join("\n"));
    }
    let message: Message = serde_json::from_value(value).map_err(|error| error.to_string())?;
    // The name that newer clients give to system messages; templates know the older one.
    Ok(match message.role.name() {
        "developer" => Message { role: Role::system(), ..message },
        _ => message,
    })
}

impl RenderChat for ChatEncoder {
    fn render(&self, messages: &[Value], body: &Value) -> Result<ChatPrompt, String> {
        let parsed = messages.iter().enumerate().map(|(number, value)| {
            message(value).map_err(|why| format!("messages: message {}: {why}", number + 1))
        });
        let messages = parsed.collect::<Result<Vec<Message>, String>>()?;
        let input = RenderInput {
            messages: &messages,
            add_generation_prompt: true,
            variables: variables(body)?,
            ..RenderInput::default()
        };
        let rendered = self.render(&input).map_err(|error| error.to_string())?;
        let tokens = self.encode(&rendered).map_err(|error| error.to_string())?;
        Ok(ChatPrompt { tokens, stop: self.stop.clone() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_of_clients_are_read() {
        let parts = json!({ "role": "user", "content": [
            { "type": "text", "text": "one" }, { "type": "text", "text": "two" },
        ]});
        assert_eq!(message(&parts).unwrap(), Message::new(Role::user(), "one\ntwo"));
        let developer = json!({ "role": "developer", "content": "Be brief." });
        assert_eq!(message(&developer).unwrap(), Message::new(Role::system(), "Be brief."));
        let call = json!({ "role": "assistant", "content": null, "tool_calls": [1] });
        assert_eq!(message(&call).unwrap().fields["tool_calls"], json!([1]));
        for wrong in [
            json!({ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }),
            json!({ "role": "user", "content": [{ "type": "text" }] }),
            json!({ "role": "<|x|>", "content": "" }),
            json!({ "role": "user", "content": 1 }),
            json!({ "content": "" }),
        ] {
            assert!(message(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_are_an_object() {
        assert!(variables(&json!({})).unwrap().is_empty());
        let given = json!({ "chat_template_kwargs": { "enable_thinking": false } });
        assert_eq!(variables(&given).unwrap()["enable_thinking"], json!(false));
        assert!(variables(&json!({ "chat_template_kwargs": [] })).is_err());
    }
}
