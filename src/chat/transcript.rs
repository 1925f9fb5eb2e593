//! Conversations in files: JSON with the messages in the form of the OpenAI API.

use std::io::Write;
use std::path::Path;

use bitnetc_runtime::whole_file::{WholeFile, WholeFileError};
use serde::{Deserialize, Serialize};

use super::{ChatError, Message};

/// A conversation as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// [`Transcript::SCHEMA`].
    pub schema: String,
    /// The model's name, for people.
    #[serde(default)]
    pub model: String,
    /// What was said.
    pub messages: Vec<Message>,
}

impl Transcript {
    /// The name of the format.
    pub const SCHEMA: &'static str = "bitnetc.chat/1";
    /// Longest file that is read, in bytes.
    pub const MAX_BYTES: u64 = 64 << 20;

    /// A conversation with a model.
    pub fn new(model: &str, messages: &[Message]) -> Self {
        Self { schema: Self::SCHEMA.to_owned(), model: model.to_owned(), messages: messages.to_vec() }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn save(&self, path: &Path) -> Result<(), ChatError> {
        let file = WholeFile::create(path)?;
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| bad(error.to_string()))?;
        json.push(b'\n');
        file.file().write_all(&json).map_err(|source| WholeFileError::Io {
            operation: "write",
            path: path.to_owned(),
            source,
        })?;
        file.commit()?;
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, is too long, or is not a conversation.
    pub fn load(path: &Path) -> Result<Self, ChatError> {
        use std::io::Read;
        let failed = |error: std::io::Error| bad(format!("{}: {error}", path.display()));
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(Self::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > Self::MAX_BYTES {
            return Err(bad(format!("{} has more than {} bytes", path.display(), Self::MAX_BYTES)));
        }
        let transcript: Self = serde_json::from_slice(&bitnetc_frontend_gguf::text::json(&bytes))
            .map_err(|error| bad(format!("{}: {error}", path.display())))?;
        if transcript.schema != Self::SCHEMA {
            let found = transcript.schema.escape_debug();
            return Err(bad(format!("{} has the format {found}, not {}", path.display(), Self::SCHEMA)));
        }
        Ok(transcript)
    }
}

fn bad(reason: String) -> ChatError {
    ChatError::Transcript { reason }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;

    #[test]
    fn conversations_round_trip_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.json");
        let messages = [Message::new(Role::user(), "Grüße\n"), Message::new(Role::assistant(), "")];
        let transcript = Transcript::new("m", &messages);
        transcript.save(&path).unwrap();
        assert_eq!(Transcript::load(&path).unwrap(), transcript);
        for bad in ["", "[]", r#"{"schema":"x","messages":[]}"#, r#"{"schema":"bitnetc.chat/1"}"#] {
            std::fs::write(&path, bad).unwrap();
            let error = Transcript::load(&path).unwrap_err().to_string();
            assert!(error.contains("chat.json"), "{error}");
        }
        assert!(Transcript::load(&folder.path().join("absent")).is_err());
    }
}
