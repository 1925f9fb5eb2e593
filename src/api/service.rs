//! What answers requests: a model with the settings of its server, made once and shared by all requests.

use std::path::Path;

use bitnetc_frontend_gguf::ActivationFormat;
use bitnetc_runtime::sampling::SamplingParams;

use crate::builtin;
use crate::chat::{ChatEncoder, ChatError};
use crate::compile::activations_of;
use crate::constraint::GrammarSource;
use crate::engine::GenerateOptions;
use crate::model::Model;

/// A model that answers requests.
#[derive(Debug)]
pub struct Service {
    /// The model.
    pub model: Model,
    /// What makes prompts of messages, or why there are no chats with this model.
    pub chat: Result<ChatEncoder, ChatError>,
    /// The name of the model in answers.
    pub id: String,
    /// When the model was loaded, in seconds since 1970.
    pub created: u64,
    /// Tokens that a text has room for, prompt included.
    pub context: u32,
    /// What a request asks for where it says nothing.
    pub defaults: Defaults,
    /// What a request may ask for.
    pub limits: Limits,
    /// Whether a request that names another model is refused.
    pub strict_model: bool,
}

/// What a request asks for where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    /// Settings of the sampler; the seed is that of `seed`.
    pub params: SamplingParams,
    /// The seed of every request; `None`: each has a random one.
    pub seed: Option<u64>,
    /// When to end.
    pub options: GenerateOptions,
    /// The form that texts have to have.
    pub form: Option<GrammarSource>,
}

/// How much a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Choices of a prompt.
    pub choices: usize,
    /// Prompts.
    pub prompts: usize,
    /// Messages of a chat.
    pub messages: usize,
    /// Probabilities and tokens of an answer in one piece: choices × tokens × (1 + the likeliest that are listed with each).
    pub entries: u64,
    /// Strings, and tokens, that end a text.
    pub stops: usize,
    /// Bytes of such a string.
    pub stop_bytes: usize,
    /// Bytes of all of them together.
    pub all_stop_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            choices: 8,
            prompts: 64,
            messages: 4096,
            entries: 1 << 18,
            stops: 64,
            stop_bytes: 4096,
            all_stop_bytes: 64 << 10,
        }
    }
}

impl Service {
    /// The name of a model that nobody named: of a file its name without the ending, else what it is opened by.
    pub fn name_of(model: Option<&Path>) -> String {
        let Some(path) = model else { return builtin::SHORT_NAME.to_owned() };
        let text = path.to_string_lossy();
        match path.extension().and_then(|end| end.to_str()) {
            Some("gguf" | "plan") if !text.starts_with("hf:") => {
                path.file_stem().map_or(text.to_string(), |stem| stem.to_string_lossy().into_owned())
            }
            _ => text.into_owned(),
        }
    }

    /// Tokens of the model's vocabulary, as its logits count them.
    pub(super) fn vocab(&self) -> u32 {
        self.model.loaded().model.vocab()
    }

    /// What answers depend on besides requests, in a word: equal ones give equal texts.
    pub(super) fn fingerprint(&self) -> String {
        let loaded = self.model.loaded();
        let mut hasher = blake3::Hasher::new();
        hasher.update(env!("CARGO_PKG_VERSION").as_bytes()).update(&loaded.source_hash);
        hasher.update(loaded.head.as_bytes());
        hasher.update(loaded.cache_type().map_or("", |dtype| dtype.name()).as_bytes());
        // Of the first format there is no word, so that models which have it keep their fingerprints.
        let format = activations_of(&loaded.module).filter(|&format| format != ActivationFormat::Int8Token);
        hasher.update(format.map_or("", |format| format.name()).as_bytes());
        format!("fp_{}", &hasher.finalize().to_hex()[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_as_their_files_are() {
        for (model, name) in [
            ("models/a.b.gguf", "a.b"),
            ("/x/model.plan", "model"),
            ("2b-4t", "2b-4t"),
            ("hf:org/repo:file.gguf", "hf:org/repo:file.gguf"),
        ] {
            assert_eq!(Service::name_of(Some(Path::new(model))), name);
        }
        assert_eq!(Service::name_of(None), builtin::SHORT_NAME);
    }
}
