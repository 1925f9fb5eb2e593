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
    /// llama.cpp's count of the tokens of OpenAI's chats.
    ChatTokens,
    /// OpenAI's count of the tokens of responses.
    ResponseTokens,
}

impl Route {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Responses,
        Self::Messages,
        Self::CountTokens,
        Self::LlamaCompletion,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::ChatTokens,
        Self::ResponseTokens,
    ];

    /// The paths that it is reached by; the first is the usual one.
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Self::ChatCompletions => &["/v1/chat/completions", "/chat/completions"],
            Self::ChatTokens => &["/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"],
            Self::Completions => &["/v1/completions"],
            Self::Responses => &["/v1/responses", "/responses"],
            Self::ResponseTokens => &["/v1/responses/input_tokens", "/responses/input_tokens"],
            Self::Messages => &["/v1/messages"],
            Self::CountTokens => &["/v1/messages/count_tokens"],
            Self::LlamaCompletion => &["/completion", "/completions"],
            Self::OllamaChat => &["/api/chat"],
            Self::OllamaGenerate => &["/api/generate"],
        }
    }

    /// The usual path.
    pub fn path(self) -> &'static str {
        self.paths()[0]
    }

    /// Whether it counts the tokens of a prompt and makes no text.
    pub fn counts(self) -> bool {
        matches!(self, Self::ChatTokens | Self::ResponseTokens | Self::CountTokens)
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
        // As in llama.cpp's server.
        assert_eq!(Route::of_path("/completions"), Some(Route::LlamaCompletion));
    }
}
