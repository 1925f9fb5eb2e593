//! The routes that make text.

/// A route that makes text, or counts the tokens of a prompt for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// OpenAI's chats.
    ChatCompletions,
    /// OpenAI's completions of text.
    Completions,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Anthropic's count of the tokens of messages.
    CountTokens,
    /// llama.cpp's completions of text.
    LlamaCompletion,
    /// ollama's chats.
    OllamaChat,
    /// ollama's completions of text.
    OllamaGenerate,
}

impl Route {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Responses,
        Self::Messages,
        Self::CountTokens,
        Self::LlamaCompletion,
        Self::OllamaChat,
        Self::OllamaGenerate,
    ];

    /// The paths that it is reached by; the first is the usual one.
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Self::ChatCompletions => &["/v1/chat/completions", "/chat/completions"],
            Self::Completions => &["/v1/completions", "/completions"],
            Self::Responses => &["/v1/responses", "/responses"],
            Self::Messages => &["/v1/messages"],
            Self::CountTokens => &["/v1/messages/count_tokens"],
            Self::LlamaCompletion => &["/completion"],
            Self::OllamaChat => &["/api/chat"],
            Self::OllamaGenerate => &["/api/generate"],
        }
    }

    /// The usual path.
    pub fn path(self) -> &'static str {
        self.paths()[0]
    }

    /// The route of a path.
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|route| route.paths().contains(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_one_route() {
        for route in Route::ALL {
            for path in route.paths() {
                assert_eq!(Route::of_path(path), Some(route));
            }
        }
        assert_eq!(Route::of_path("/v1/embeddings"), None);
    }
}
