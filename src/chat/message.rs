//! Messages of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ChatError;

/// The role of the speaker: a short word that templates know, such as `user`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Role(String);

impl Role {
    /// A role with this name.
    ///
    /// # Errors
    /// A name that is not a word of up to 32 small letters, `_` and `-`: it goes into the text of the template.
    pub fn new(name: &str) -> Result<Self, ChatError> {
        let fits = (1..=32).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'-');
        if fits { Ok(Self(name.to_owned())) } else { Err(ChatError::Role { name: name.to_owned() }) }
    }

    /// The person.
    pub fn user() -> Self {
        Self("user".to_owned())
    }

    /// The model.
    pub fn assistant() -> Self {
        Self("assistant".to_owned())
    }

    /// Instructions for the model.
    pub fn system() -> Self {
        Self("system".to_owned())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Role {
    type Error = ChatError;
    fn try_from(name: String) -> Result<Self, ChatError> {
        Self::new(&name)
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        role.0
    }
}

/// A message, with the fields of the OpenAI API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The role of the speaker.
    pub role: Role,
    /// The text; absent where a message only calls tools.
    #[serde(default)]
    pub content: Option<String>,
    /// All other fields, handed to the template as they are: `name`, `tool_calls`, `tool_call_id`, …
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Message {
    /// A message of text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: Some(content.into()), fields: Map::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_words() {
        assert_eq!(Role::new("user").unwrap(), Role::user());
        assert!(Role::new("tool_use-2").is_err());
        for bad in ["", "User", "us er", "a|>", "é", &"x".repeat(33)] {
            assert!(Role::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_fields_are_kept() {
        let json = r#"{"role":"tool","content":null,"tool_call_id":"c1"}"#;
        let message: Message = serde_json::from_str(json).unwrap();
        assert_eq!(message.fields["tool_call_id"], "c1");
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
        assert!(serde_json::from_str::<Message>(r#"{"role":"<|x|>","content":""}"#).is_err());
    }
}
