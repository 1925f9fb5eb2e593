//! The messages of a chat: read, checked, and made into the tokens of a prompt by the model's template.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::body::Body;
use super::fields::{ADD_GENERATION_PROMPT, CHAT_TEMPLATE_KWARGS, CONTINUE_FINAL_MESSAGE, MESSAGES, asks};
use super::prompt::{Prompt, check_length};
use super::utilities::check_text;
use super::{Refusal, Service};
use crate::chat::{ChatEncoder, Message, RenderInput, Role};

/// Longest message that a template gives, in characters.
const MAX_WORDS: usize = 400;

/// Fields of messages that ask for what is not read, with what to do instead. All others are for the template.
const REFUSED: [(&str, &str); 9] = [
    ("images", "only text is read"),
    ("image", "only text is read"),
    ("image_url", "only text is read"),
    ("audio", "only text is read"),
    ("input_audio", "only text is read"),
    ("videos", "only text is read"),
    ("files", "only text is read"),
    ("attachments", "only text is read"),
    ("function_call", "use `tool_calls`"),
];

/// Whether a message of any API asks for nothing that is not read.
///
/// # Errors
/// The field that does.
pub(super) fn check_fields(message: &Value) -> Result<(), String> {
    let asked = |(name, _): &&(&str, &str)| message.get(name).is_some_and(|value| asks(name, value));
    match REFUSED.iter().find(asked) {
        Some((name, instead)) => Err(format!("`{name}` is not supported: {instead}")),
        None => Ok(()),
    }
}

/// A chat as a template is given it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chat {
    /// The messages, without one that is continued.
    pub(super) messages: Vec<Message>,
    /// Tools that the model may call.
    pub(super) tools: Option<Vec<Value>>,
    /// Further variables for the template.
    pub(super) variables: Map<String, Value>,
    /// Whether the answer begins a turn.
    pub(super) opens_turn: bool,
    /// What the answer continues: the text of a last message of the assistant.
    pub(super) begun: Option<String>,
}

/// A message of the OpenAI API, whose content may be a list of texts: they are lines then.
fn message(value: &Value) -> Result<Message, String> {
    let mut value = value.clone();
    // What is null is absent, as templates ask for it.
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, value| name == "content" || !value.is_null());
    }
    if !value.get("role").is_some_and(Value::is_string) {
        return Err("a message must be an object with role and content".to_owned());
    }
    check_fields(&value)?;
    if let Some(parts) = value.get("content").and_then(Value::as_array) {
        let kind = |part: &Value| part.get("type").and_then(Value::as_str).unwrap_or("?").to_owned();
        let text = |part: &Value| match kind(part).as_str() {
            "text" => part.get("text").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| kind(part)),
            other => Err(other.to_owned()),
        };
        let texts: Result<Vec<String>, String> = parts.iter().map(text).collect();
        let texts = texts.map_err(|kind| {
            let kind: String = kind.chars().take(40).collect();
            format!("`content` can only have parts of type \"text\" with a text, not of type {kind:?}")
        })?;
        value["content"] = Value::String(texts.join("\n"));
    }
    let calls = value.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    if value.get("content").is_none_or(Value::is_null) && !calls {
        return Err("a message needs `content`, unless it calls tools".to_owned());
    }
    let message: Message = serde_json::from_value(value).map_err(|error| error.to_string())?;
    // The name that newer clients give to system messages; templates know the older one.
    Ok(match message.role.name() {
        "developer" => Message { role: Role::system(), ..message },
        _ => message,
    })
}

/// Roles that every template is given; others only where the template names them.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// The message, if its role is one that the template can know.
fn check_role(message: Message, service: &Service) -> Result<Message, String> {
    let role = message.role.name();
    let names = |chat: &ChatEncoder| {
        let source = chat.template().source();
        ['\'', '"'].iter().any(|quote| source.contains(&format!("{quote}{role}{quote}")))
    };
    match ROLES.contains(&role) || service.chat.as_ref().is_ok_and(names) {
        true => Ok(message),
        false => Err(format!("role {role:?} is unknown: use {}", ROLES.join(", "))),
    }
}

/// The messages of a list.
///
/// # Errors
/// An empty list, one of too many, a message that is none.
pub(super) fn of_list(list: &[Value], service: &Service) -> Result<Vec<Message>, Refusal> {
    let most = service.limits.messages;
    if list.is_empty() || list.len() > most {
        let message = format!("messages must be a list of 1 to {most} objects with role and content");
        return Err(Refusal::field("messages", message));
    }
    let read = |(number, value)| {
        message(value).and_then(|message| check_role(message, service)).map_err(|why| {
            let why: String = why.chars().take(300).collect();
            Refusal::field("messages", format!("messages: message {}: {why}", number + 1))
        })
    };
    list.iter().enumerate().map(read).collect()
}

/// Takes a last message of the assistant, which the answer continues, from the messages; `asked` is what the request says of it.
///
/// # Errors
/// Two messages of the assistant at the end; a last message of another that is to be continued.
fn take_begun(messages: &mut Vec<Message>, asked: Option<bool>) -> Result<Option<String>, Refusal> {
    let is_assistant = |message: &Message| message.role == Role::assistant();
    let at_end = messages.iter().rev().take_while(|message| is_assistant(message)).count();
    match (at_end, asked) {
        (0, Some(true)) => {
            let message = "continue_final_message: the last message is not of the assistant";
            Err(Refusal::field("continue_final_message", message))
        }
        (0, _) | (1, Some(false)) => Ok(None),
        (1, _) => Ok(messages.pop().map(|message| message.content.unwrap_or_default())),
        _ => {
            let message = "messages: there are two messages of the assistant at the end: join them";
            Err(Refusal::field("messages", message))
        }
    }
}

impl Chat {
    /// The chat of a request.
    ///
    /// # Errors
    /// What is wrong with the messages, or with what is asked of the last one.
    pub(super) fn of_body(body: Body<'_>, service: &Service) -> Result<Self, Refusal> {
        let list = body.list(&MESSAGES).unwrap_or_default();
        let mut messages = of_list(list, service)?;
        let (continues, opens) = (body.bool(&CONTINUE_FINAL_MESSAGE), body.bool(&ADD_GENERATION_PROMPT));
        if continues == Some(true) && opens == Some(true) {
            let message = "add_generation_prompt and continue_final_message exclude each other";
            return Err(Refusal::field("add_generation_prompt", message));
        }
        // A turn that is asked for begins after the last message, whoever speaks it.
        let asked = continues.or((opens == Some(true)).then_some(false));
        let begun = take_begun(&mut messages, asked)?;
        Ok(Self {
            messages,
            tools: None,
            variables: body.object(&CHAT_TEMPLATE_KWARGS).cloned().unwrap_or_default(),
            opens_turn: begun.is_some() || opens.unwrap_or(true),
            begun,
        })
    }

    /// A chat of messages in OpenAI's form, whose last one is continued if it is of the assistant.
    ///
    /// # Errors
    /// What is wrong with the messages.
    pub(super) fn of_messages(list: &[Value], body: Body<'_>, service: &Service) -> Result<Self, Refusal> {
        let mut messages = of_list(list, service)?;
        let calls = messages.last().is_some_and(|message| message.fields.contains_key("tool_calls"));
        let begun = take_begun(&mut messages, calls.then_some(false))?;
        let variables = body.object(&CHAT_TEMPLATE_KWARGS).cloned().unwrap_or_default();
        Ok(Self { messages, tools: None, variables, opens_turn: true, begun })
    }

    /// The text that the model is given, and its tokens.
    ///
    /// # Errors
    /// A model without chats, messages that its template refuses; with `fits`, a text that is longer than any that the context holds.
    pub(super) fn render(&self, service: &Service, fits: bool) -> Result<(String, Prompt), Refusal> {
        let encoder = encoder(service)?;
        let mut messages = Cow::Borrowed(&self.messages);
        if messages.iter().any(|message| message.fields.contains_key("tool_calls")) {
            let history = encoder.abilities().history;
            messages.to_mut().iter_mut().for_each(|message| history.adapt(message));
        }
        let input = RenderInput {
            messages: &messages,
            tools: self.tools.as_deref(),
            add_generation_prompt: self.opens_turn,
            variables: self.variables.clone(),
        };
        // Templates repeat what they are given.
        let refused =
            |why: String| Refusal::field("messages", why.chars().take(MAX_WORDS).collect::<String>());
        let mut rendered = encoder.render(&input).map_err(|why| refused(why.to_string()))?;
        if let Some(begun) = &self.begun {
            rendered = encoder.continued(rendered, begun);
        }
        match fits {
            true => check_length(&rendered.text, service, "messages")?,
            false => check_text(rendered.text.len(), "messages")?,
        }
        let tokens = encoder.encode(&rendered).map_err(|why| refused(why.to_string()))?;
        Ok((rendered.text, Prompt { stop: encoder.stop().to_vec(), ..Prompt::of_tokens(tokens) }))
    }
}

/// What makes prompts of messages.
pub(super) fn encoder(service: &Service) -> Result<&ChatEncoder, Refusal> {
    service.chat.as_ref().map_err(|why| {
        let message = format!(
            "there are no chats with this model: {why}, or use /v1/completions with the whole prompt"
        );
        Refusal::unsupported("messages", message)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_of_clients_are_read() {
        let parts = json!({ "role": "user", "name": null, "content": [
            { "type": "text", "text": "one" }, { "type": "text", "text": "two" },
        ]});
        assert_eq!(message(&parts).unwrap(), Message::new(Role::user(), "one\ntwo"));
        let developer = json!({ "role": "developer", "content": "Be brief." });
        assert_eq!(message(&developer).unwrap(), Message::new(Role::system(), "Be brief."));
        let call = json!({ "role": "assistant", "content": null, "tool_calls": [1] });
        assert_eq!(message(&call).unwrap().fields["tool_calls"], json!([1]));
        let nothing =
            json!({ "role": "user", "content": "Hi", "images": [], "audio": null, "function_call": "none" });
        assert_eq!(message(&nothing).unwrap().content.as_deref(), Some("Hi"));
        for wrong in [
            json!({ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }),
            json!({ "role": "user", "content": [{ "type": "text" }] }),
            json!({ "role": "user", "content": [1] }),
            json!({ "role": "<|x|>", "content": "" }),
            json!({ "role": 1, "content": "" }),
            json!({ "role": "user", "content": 1 }),
            json!({ "role": "user", "content": null }),
            json!({ "role": "assistant", "tool_calls": [] }),
            json!({ "content": "" }),
            json!({ "role": "user", "content": "What is this?", "images": ["aGk="] }),
            json!({ "role": "assistant", "content": "", "audio": { "id": "a" } }),
            json!({ "role": "assistant", "content": "", "function_call": { "name": "f", "arguments": "{}" } }),
            json!("user"),
        ] {
            assert!(message(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_last_message_of_the_assistant_is_continued() {
        let of = |roles: &[&str], asked| {
            let mut messages: Vec<Message> =
                roles.iter().map(|role| Message::new(Role::new(role).unwrap(), *role)).collect();
            take_begun(&mut messages, asked).map(|begun| (messages.len(), begun))
        };
        let begun = Some("assistant".to_owned());
        assert_eq!(of(&["user", "assistant"], None), Ok((1, begun.clone())));
        assert_eq!(of(&["user", "assistant"], Some(true)), Ok((1, begun.clone())));
        assert_eq!(of(&["user", "assistant"], Some(false)), Ok((2, None)));
        assert_eq!(of(&["assistant"], None), Ok((0, begun)));
        assert_eq!(of(&["assistant", "user"], None), Ok((2, None)));
        assert!(of(&["user"], Some(true)).is_err());
        assert!(of(&["user", "assistant", "assistant"], None).is_err());
    }
}
