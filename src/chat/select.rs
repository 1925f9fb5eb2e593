//! Which chat template a model gets: what the user asks for, else the file's, else one for its architecture.

use super::{BuiltinTemplate, ChatError, ChatTemplate, SpecialTexts};

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Wish {
    /// The model's own.
    #[default]
    Model,
    /// A built-in one by name, or the text of one.
    NameOrText(String),
    /// The text of a file.
    Text {
        /// The file's name.
        name: String,
        /// Its contents.
        text: String,
    },
}

impl Wish {
    /// Whether the template that is asked for exists and is valid, as far as that does not depend on the model.
    ///
    /// # Errors
    /// A name that no built-in template has; a template that is not valid.
    pub fn check(&self) -> Result<(), ChatError> {
        self.asked().map(drop)
    }

    /// The template that is asked for; `None`: the model's own.
    fn asked(&self) -> Result<Option<Selected>, ChatError> {
        match self {
            Self::Model => Ok(None),
            Self::Text { name, text } => Selected::own(name, text).map(Some),
            Self::NameOrText(text) => {
                if let Some(builtin) = BuiltinTemplate::named(text) {
                    return Selected::builtin(builtin, None).map(Some);
                }
                // Every template has a tag; what has none is a name.
                if !text.contains("{{") && !text.contains("{%") {
                    let (name, known) = (text.clone(), BuiltinTemplate::names());
                    return Err(ChatError::UnknownTemplate { name, known });
                }
                Selected::own("the given text", text).map(Some)
            }
        }
    }
}

/// A template and what goes with it.
#[derive(Debug, Clone)]
pub struct Selected {
    /// The template.
    pub template: ChatTemplate,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Why it is not the file's, if the user did not ask.
    pub note: Option<String>,
}

impl Selected {
    fn builtin(template: &BuiltinTemplate, note: Option<String>) -> Result<Self, ChatError> {
        Ok(Self {
            template: ChatTemplate::new(template.name, template.source)?,
            stop: template.stop.iter().map(|&stop| stop.to_owned()).collect(),
            note,
        })
    }

    fn own(name: &str, text: &str) -> Result<Self, ChatError> {
        Ok(Self { template: ChatTemplate::new(name, text)?, stop: Vec::new(), note: None })
    }
}

/// What is known of a model.
#[derive(Debug, Clone, Copy)]
pub struct ModelFacts<'a> {
    /// The file, for messages.
    pub name: &'a str,
    /// Its architecture.
    pub architecture: &'a str,
    /// Its template.
    pub template: Option<&'a str>,
    /// Its special tokens.
    pub special: &'a SpecialTexts,
}

/// A part of the template in the published 2B-4T files, which leaves out the system message, has other roles than the
/// model was trained with, and expects the answer after an end token, so that answers never end.
const PUBLISHED_2B_4T: &str = "BITNETAssistant";

/// Chooses the template.
///
/// # Errors
/// A name that no built-in template has; a template that is not valid.
pub fn select(wish: &Wish, model: ModelFacts<'_>) -> Result<Selected, ChatError> {
    if let Some(selected) = wish.asked()? {
        return Ok(selected);
    }
    let why = match model.template {
        Some(text) if text.contains(PUBLISHED_2B_4T) => {
            "the model's chat template is the faulty one of the first 2B-4T files"
        }
        Some(text) => return Selected::own(model.name, text),
        None => "the model has no chat template",
    };
    let template = default_for(model.architecture, model.special);
    let note = format!("{why}; using `{}` ({})", template.name, template.purpose);
    Selected::builtin(template, Some(note))
}

fn default_for(architecture: &str, special: &SpecialTexts) -> &'static BuiltinTemplate {
    let has = |token: &str| special.controls.iter().any(|control| control == token);
    let name = match architecture {
        "bitnet-b1.58" | "bitnet-25" if has("<|eot_id|>") => "bitnet",
        _ if has("<|im_start|>") => "chatml",
        _ if has("<|start_header_id|>") => "llama3",
        _ if has("<start_of_turn>") => "gemma",
        _ if has("<|assistant|>") && has("<|end|>") => "phi3",
        _ if has("<|assistant|>") => "falcon3",
        _ => "plain",
    };
    // Every name above is one of the built-in ones; the tests say so.
    BuiltinTemplate::named(name).unwrap_or(&super::TEMPLATES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(wish: &Wish, template: Option<&str>, architecture: &str, tokens: &[&str]) -> Selected {
        let special = SpecialTexts {
            controls: tokens.iter().map(|&token| token.to_owned()).collect(),
            ..SpecialTexts::default()
        };
        select(wish, ModelFacts { name: "m.gguf", architecture, template, special: &special }).unwrap()
    }

    #[test]
    fn the_users_wish_comes_first() {
        let named = choose(&Wish::NameOrText("gemma".to_owned()), Some("{{ 1 }}"), "llama", &[]);
        assert_eq!((named.template.name(), named.note), ("gemma", None));
        let text = choose(&Wish::NameOrText("{{ 2 }}".to_owned()), Some("{{ 1 }}"), "llama", &[]);
        assert_eq!(text.template.source(), "{{ 2 }}");
        let file = Wish::Text { name: "f.jinja".to_owned(), text: "plain text".to_owned() };
        assert_eq!(choose(&file, None, "llama", &[]).template.source(), "plain text");
        let facts =
            ModelFacts { name: "m", architecture: "x", template: None, special: &SpecialTexts::default() };
        let error = select(&Wish::NameOrText("gema".to_owned()), facts).unwrap_err();
        assert!(error.to_string().contains("gemma"), "{error}");
    }

    #[test]
    fn files_without_a_usable_template_get_one_and_are_told() {
        let own = choose(&Wish::Model, Some("{{ 1 }}"), "llama", &[]);
        assert_eq!((own.template.name(), own.note), ("m.gguf", None));
        let eot = ["<|eot_id|>", "<|start_header_id|>"];
        let wrong = "{{ 'BITNETAssistant: ' }}";
        for (template, architecture, tokens, name) in [
            (Some(wrong), "bitnet-b1.58", &eot[..], "bitnet"),
            (None, "bitnet-25", &eot[..], "bitnet"),
            (None, "llama", &eot[..], "llama3"),
            (None, "qwen3", &["<|im_start|>"], "chatml"),
            (None, "llama", &["<start_of_turn>"], "gemma"),
            (None, "llama", &["<|assistant|>"], "falcon3"),
            (None, "llama", &["<|assistant|>", "<|end|>"], "phi3"),
            (None, "bitnet", &["</s>"], "plain"),
        ] {
            let chosen = choose(&Wish::Model, template, architecture, tokens);
            assert_eq!(chosen.template.name(), name);
            assert!(chosen.note.unwrap().contains(name));
            assert_eq!(chosen.stop.is_empty(), name != "plain");
        }
    }
}
