//! Templates that come with the program, for files that have none, or a wrong one.

/// A template with a name.
#[derive(Debug, Clone, Copy)]
pub struct BuiltinTemplate {
    /// The name for `--chat-template`.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// The template.
    pub source: &'static str,
    /// Strings that end an answer where the format has no token for that.
    pub stop: &'static [&'static str],
}

macro_rules! templates {
    ($($name:literal: $purpose:literal, $stop:expr;)+) => {
        &[$(BuiltinTemplate {
            name: $name,
            purpose: $purpose,
            source: include_str!(concat!("templates/", $name, ".jinja")),
            stop: $stop,
        },)+]
    };
}

/// All of them.
pub const TEMPLATES: &[BuiltinTemplate] = templates! {
    "bitnet": "BitNet b1.58 2B-4T", &[];
    "chatml": "Qwen and many others: <|im_start|>", &[];
    "falcon3": "Falcon 3 and Falcon-E", &[];
    "gemma": "Gemma: <start_of_turn>", &[];
    "hermes": "Hermes, Qwen 2.5 and others: ChatML with tools", &["<|im_end|>"];
    "llama2": "LLaMA 2: [INST] with <<SYS>>", &[];
    "llama3": "LLaMA 3: <|start_header_id|>", &[];
    "mistral": "Mistral: [INST]", &[];
    "phi3": "Phi 3: <|user|> … <|end|>", &[];
    "plain": "User: … Assistant: …, for models that were not trained on conversations",
        &["\nUser:", "\nSystem:", "\nAssistant:"];
    "vicuna": "Vicuna: USER: … ASSISTANT: …", &["\nUSER:"];
    "zephyr": "Zephyr: <|user|> … </s>", &[];
};

impl BuiltinTemplate {
    /// The template with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TEMPLATES.iter().find(|template| template.name == name)
    }

    /// All names, for messages.
    pub fn names() -> String {
        TEMPLATES.iter().map(|template| template.name).collect::<Vec<_>>().join(", ")
    }
}
