//! The fields of requests: one table for reading and checking them, for the documentation and for the description of the API.
//!
//! A field that would change an answer is read or refused, on every route: one that only other routes read is refused where it asks for
//! something. A field that is not in the table, or that the table says is ignored, changes nothing. `null` is the same as an absent
//! field.

use serde_json::Value;

use super::Route;
use super::form::{self, Reader};

/// What a field may hold.
#[derive(Clone, Copy)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Whole {
        /// The smallest.
        min: i64,
        /// The largest.
        max: u64,
    },
    /// A number.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// A string.
    Text {
        /// Most characters; 0: any number.
        max: usize,
    },
    /// A string or a list of strings.
    Texts,
    /// A list of token ids.
    Tokens,
    /// An object.
    Object,
    /// A string, a list of strings, a list of token ids, or a list of such lists.
    Prompt,
    /// A list of messages.
    Messages,
    /// An object of token ids with numbers from -100 to 100, or a list of pairs.
    Biases,
    /// What the text has to follow, read by this function.
    Form(Reader),
    /// What these words say; its reader knows more.
    Described(&'static str),
    /// Anything.
    Any,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Kind {
    /// What is expected, for messages and tables.
    pub fn describe(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Whole { min, max: u64::MAX } => format!("a whole number from {min} up"),
            Self::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number { min, max } => match (min == f64::MIN, max == f64::MAX) {
                (true, true) => "a number".to_owned(),
                (false, true) => format!("a number from {min} up"),
                _ => format!("a number from {min} to {max}"),
            },
            Self::Text { max: 0 } => "a string".to_owned(),
            Self::Text { max } => format!("a string of 1 to {max} characters"),
            Self::Texts => "a string or a list of strings".to_owned(),
            Self::Tokens => "a list of token ids".to_owned(),
            Self::Object => "an object".to_owned(),
            Self::Prompt => {
                "a string, a list of strings, a list of token ids, or a list of such lists".to_owned()
            }
            Self::Messages => "a list of messages".to_owned(),
            Self::Biases => "an object of token ids with numbers from -100 to 100".to_owned(),
            Self::Described(words) => words.to_owned(),
            Self::Form(_) => "a form".to_owned(),
            Self::Any => "anything".to_owned(),
        }
    }
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is followed.
    Read,
    /// It changes nothing.
    Ignored,
    /// It is refused unless it is empty or off; with what to do instead.
    Refused(&'static str),
}

/// Some routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routes(u16);

impl Routes {
    /// OpenAI's chats, and the count of their tokens.
    pub const CHAT: Self = Self::of(Route::ChatCompletions).and(Self::of(Route::ChatTokens));
    /// OpenAI's completions of text.
    pub const COMPLETIONS: Self = Self::of(Route::Completions);
    /// Both.
    pub const OPENAI: Self = Self::CHAT.and(Self::COMPLETIONS);
    /// OpenAI's responses, and the count of their tokens.
    pub const RESPONSES: Self = Self::of(Route::Responses).and(Self::of(Route::ResponseTokens));
    /// Anthropic's messages, and the count of their tokens.
    pub const MESSAGES: Self = Self::of(Route::Messages).and(Self::of(Route::CountTokens));
    /// llama.cpp's completions.
    pub const LLAMA: Self = Self::of(Route::LlamaCompletion);
    /// ollama's chats.
    pub const OLLAMA_CHAT: Self = Self::of(Route::OllamaChat);
    /// ollama's completions.
    pub const OLLAMA_GENERATE: Self = Self::of(Route::OllamaGenerate);
    /// Both of ollama's.
    pub const OLLAMA: Self = Self::OLLAMA_CHAT.and(Self::OLLAMA_GENERATE);
    /// All chats.
    pub const CHATS: Self = Self::CHAT.and(Self::RESPONSES).and(Self::MESSAGES).and(Self::OLLAMA_CHAT);
    /// All that continue texts.
    pub const TEXTS: Self = Self::COMPLETIONS.and(Self::LLAMA);
    /// All routes.
    pub const ALL: Self =
        Self::OPENAI.and(Self::RESPONSES).and(Self::MESSAGES).and(Self::LLAMA).and(Self::OLLAMA);

    /// One route.
    pub const fn of(route: Route) -> Self {
        Self(1 << route as u16)
    }

    /// The routes of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The routes of these that are not among others.
    #[must_use]
    pub const fn but(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether a route is one of them.
    pub const fn has(self, route: Route) -> bool {
        self.0 & Self::of(route).0 != 0
    }
}

/// The paths of the routes, but for those that only count tokens.
impl std::fmt::Display for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = Route::ALL.into_iter().filter(|route| self.has(*route) && !route.counts());
        f.write_str(&of.map(Route::path).collect::<Vec<_>>().join(", "))
    }
}

/// A field of request bodies.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Other names of the same.
    pub aliases: &'static [&'static str],
    /// What it may hold.
    pub kind: Kind,
    /// What counts where it is absent, which therefore asks for nothing; empty: nothing.
    pub default: &'static str,
    /// Where it is known.
    pub routes: Routes,
    /// What it does, in one sentence.
    pub meaning: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
}

impl Field {
    /// All names that it may have.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Whether a value, which is not null, asks for anything: for something other than an absent field, as far as can be told without
    /// reading it.
    pub fn asks(&self, name: &str, value: &Value) -> bool {
        match (self.default, value) {
            ("", Value::Bool(_)) if matches!(self.kind, Kind::Bool) => true,
            ("", value) => asks(name, value),
            (default, Value::String(text)) => default != text,
            (default, Value::Number(number)) => default.parse::<f64>().ok() != number.as_f64(),
            (default, value) => {
                let written = value.to_string();
                default != written
            }
        }
    }

    const fn read(name: &'static str, kind: Kind, routes: Routes, meaning: &'static str) -> Self {
        Self { name, aliases: &[], kind, default: "", routes, meaning, treatment: Treatment::Read }
    }

    const fn refused(name: &'static str, routes: Routes, instead: &'static str) -> Self {
        let treatment = Treatment::Refused(instead);
        Self { name, aliases: &[], kind: Kind::Any, default: "", routes, meaning: instead, treatment }
    }

    const fn ignored(name: &'static str, routes: Routes, meaning: &'static str) -> Self {
        let treatment = Treatment::Ignored;
        Self { name, aliases: &[], kind: Kind::Any, default: "", routes, meaning, treatment }
    }

    const fn form(name: &'static str, read: Reader, meaning: &'static str) -> Self {
        Self::read(name, Kind::Form(read), Routes::ALL, meaning)
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }
}

const ALL: Routes = Routes::ALL;
const BOTH: Routes = Routes::OPENAI;
const CHAT: Routes = Routes::CHAT;
const TEXT: Routes = Routes::COMPLETIONS;

/// Whether a field without a default asks for anything: values that are empty or off do not.
pub(super) fn asks(name: &str, value: &Value) -> bool {
    match value {
        Value::Bool(on) => *on,
        Value::Array(list) if name == "modalities" => list.iter().any(|one| one != "text"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) if matches!(name, "tool_choice" | "function_call") => {
            !matches!(text.as_str(), "" | "none" | "auto")
        }
        Value::String(text) => !text.is_empty(),
        // Below 0 these are off, too.
        Value::Number(number) if matches!(name, "top_n_sigma" | "t_max_predict_ms" | "adaptive_target") => {
            number.as_f64().is_none_or(|number| number > 0.0)
        }
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Null => false,
    }
}

/// A share of a whole.
const SHARE: Kind = Kind::Number { min: 0.0, max: 1.0 };
/// A number that scales something.
const SCALE: Kind = Kind::Number { min: 0.0, max: 100.0 };
/// What is taken from logits.
const PENALTY: Kind = Kind::Number { min: -2.0, max: 2.0 };
/// A whole number from 0 up.
const COUNT: Kind = Kind::Whole { min: 0, max: u64::MAX };
/// Most tokens that are listed with each token.
const TOP: Kind = Kind::Whole { min: 0, max: 20 };

/// Declares the fields that are read as constants, and the table of all fields.
macro_rules! fields {
    ($($id:ident = $field:expr;)* ; $($other:expr;)*) => {
        $(pub(super) const $id: Field = $field;)*
        /// All fields.
        pub const FIELDS: &[Field] = &[$($id,)* $($other,)*];
    };
}

fields! {
    MODEL = Field::read("model", Kind::Text { max: 0 }, ALL,
        "any name is accepted and the answer has the real one; a server with several models chooses by it");
    MESSAGES = Field::read("messages", Kind::Messages, CHAT.and(Routes::MESSAGES).and(Routes::OLLAMA_CHAT),
        "the conversation: `role` and `content`, a string or parts of type `text`; `developer` is `system`; images, audio, video, \
         files and `function_call` in a message are refused");
    PROMPT = Field::read("prompt", Kind::Prompt, Routes::TEXTS,
        "what the text continues (needed; it may be empty); several prompts have choices of their own");
    MAX_TOKENS = Field::read("max_tokens", Kind::Whole { min: -2, max: u64::MAX }, ALL,
        "tokens at most; -1 and -2 are as absent; with 0 the prompt is computed, and kept for the next one, and nothing is made").default("the server's")
        .aliases(&["max_output_tokens", "n_predict", "num_predict"]);
    MAX_COMPLETION_TOKENS = Field::read("max_completion_tokens", Kind::Whole { min: -2, max: u64::MAX }, ALL,
        "the same; of both the smaller counts").default("the server's");
    TEMPERATURE = Field::read("temperature", Kind::Number { min: -1.0, max: 100.0 }, ALL,
        "divides the logits; 0 or less takes the likeliest token").default("0.8");
    TOP_P = Field::read("top_p", SHARE, ALL, "probability mass to keep; 1 keeps all").default("0.95");
    TOP_K = Field::read("top_k", Kind::Whole { min: -1, max: u64::MAX }, ALL,
        "likeliest tokens to keep; 0 and -1 keep all").default("40");
    MIN_P = Field::read("min_p", SHARE, ALL, "least probability relative to the likeliest token").default("0.05");
    TYPICAL_P = Field::read("typical_p", SHARE, ALL, "mass of the most typical tokens to keep; 1 keeps all")
        .default("1");
    REPEAT_PENALTY = Field::read("repeat_penalty", SCALE, ALL,
        "above 0: divides the positive logits of recent tokens; 1 changes nothing").default("1").aliases(&["repetition_penalty"]);
    REPEAT_LAST_N = Field::read("repeat_last_n", Kind::Whole { min: -1, max: 1 << 20 }, ALL,
        "tokens that count as recent; -1 is all, 0 none").default("64");
    PRESENCE_PENALTY = Field::read("presence_penalty", PENALTY, ALL,
        "is taken once from the logit of a recent token").default("0");
    FREQUENCY_PENALTY = Field::read("frequency_penalty", PENALTY, ALL,
        "is taken from the logit of a recent token for each of its occurrences").default("0");
    MIROSTAT = Field::read("mirostat", Kind::Whole { min: 0, max: 2 }, ALL, "2 turns Mirostat 2 on; there is no version 1")
        .default("0");
    MIROSTAT_TAU = Field::read("mirostat_tau", SCALE, ALL, "the surprise that Mirostat keeps, in bits").default("5");
    MIROSTAT_ETA = Field::read("mirostat_eta", SCALE, ALL, "how fast Mirostat corrects").default("0.1");
    LOGIT_BIAS = Field::read("logit_bias", Kind::Biases, ALL,
        "is added to the logits of tokens; -100 and false forbid a token");
    SEED = Field::read("seed", Kind::Whole { min: -1, max: u64::MAX }, ALL,
        "of the random numbers; -1 is a random one; the header `x-seed` names it, and choice i has `seed` + i").default("-1");
    N = Field::read("n", Kind::Whole { min: 1, max: u64::MAX }, BOTH.and(Routes::LLAMA), "choices for each prompt, up to the server's limit")
        .default("1").aliases(&["n_cmpl"]);
    BEST_OF = Field::read("best_of", Kind::Whole { min: 1, max: u64::MAX }, BOTH.and(Routes::LLAMA), "the same number as `n`").default("n");
    STOP = Field::read("stop", Kind::Texts, ALL, "up to 64 strings before which the text ends").aliases(&["stop_sequences"]);
    STOP_TOKEN_IDS = Field::read("stop_token_ids", Kind::Tokens, ALL, "up to 64 tokens before which the text ends");
    INCLUDE_STOP = Field::read("include_stop_str_in_output", Kind::Bool, ALL,
        "whether the string or token that ended the text is part of it").default("false");
    IGNORE_EOS = Field::read("ignore_eos", Kind::Bool, ALL, "never end by an end token").default("false");
    MIN_TOKENS = Field::read("min_tokens", COUNT, ALL, "tokens before which nothing but a form ends the text").default("0");
    LOGPROBS = Field::read("logprobs", TOP, TEXT,
        "the probability of each token, and this number of the likeliest at its place");
    CHAT_LOGPROBS = Field::read("logprobs", Kind::Bool, CHAT, "the probability of each token").default("false");
    TOP_LOGPROBS = Field::read("top_logprobs", TOP, CHAT, "only with `logprobs`: the likeliest tokens at each place").default("0");
    PROMPT_LOGPROBS = Field::read("prompt_logprobs", TOP, BOTH,
        "the probability of each token of the prompt, and this number of the likeliest; in streams with the first token");
    ECHO = Field::read("echo", Kind::Bool, TEXT,
        "the prompt in front of the text, and with `logprobs` its tokens in front of the new ones").default("false");
    STREAM = Field::read("stream", Kind::Bool, ALL, "the answer as server-sent events").default("false");
    STREAM_OPTIONS = Field::read("stream_options", Kind::Object, BOTH,
        "`include_usage`: one more event with the usage at the end");
    CONTINUE_FINAL_MESSAGE = Field::read("continue_final_message", Kind::Bool, CHAT,
        "whether the answer continues a last message of the assistant").default("true if there is one");
    ADD_GENERATION_PROMPT = Field::read("add_generation_prompt", Kind::Bool, CHAT,
        "whether the answer begins a new turn").default("true unless a message is continued");
    CHAT_TEMPLATE_KWARGS = Field::read("chat_template_kwargs", Kind::Object, Routes::CHATS,
        "further variables for the chat template, such as `enable_thinking`");
    CACHE_PROMPT = Field::read("cache_prompt", Kind::Bool, ALL, "whether computed beginnings of prompts are reused")
        .default("true");
    CACHE_SALT = Field::read("cache_salt", Kind::Text { max: 1024 }, ALL,
        "prompts are reused only among requests with the same one");
    ID_SLOT = Field::read("id_slot", Kind::Whole { min: -1, max: u32::MAX as u64 }, ALL,
        "the sequence to take if it is free, below the number of sequences; -1 is any").default("-1");
    RETURN_TOKEN_IDS = Field::read("return_token_ids", Kind::Bool, BOTH.and(Routes::LLAMA),
        "`token_ids` in each choice and chunk, and `prompt_token_ids`").default("false").aliases(&["return_tokens"]);
    TIMINGS_PER_TOKEN = Field::read("timings_per_token", Kind::Bool, BOTH.and(Routes::LLAMA), "`timings` in each chunk of a stream")
        .default("false");
    RETURN_PROGRESS = Field::read("return_progress", Kind::Bool, BOTH.and(Routes::LLAMA),
        "in streams: `prompt_progress` (`total`, `cache`, `processed`, `time_ms`) after every step that reads the prompt").default("false");
    TOOLS = Field::read("tools", Kind::Described("a list of functions"), Routes::CHATS,
        "functions that the model may call, if its template shows them to it");
    TOOL_CHOICE = Field::read("tool_choice", Kind::Described("a word, or an object that names a function"), Routes::CHATS,
        "`auto`, `none`, `required` (a call is enforced), or a function by name").default("auto");
    PARALLEL_TOOL_CALLS = Field::read("parallel_tool_calls", Kind::Bool, Routes::CHATS.but(Routes::MESSAGES),
        "whether an answer may have more than one call").default("true");
    REASONING_FORMAT = Field::read("reasoning_format", Kind::Text { max: 0 }, CHAT,
        "`none`: thoughts stay in the text; `deepseek` and `auto`: they are `reasoning_content`").default("auto");
    REASONING_EFFORT = Field::read("reasoning_effort", Kind::Text { max: 32 }, CHAT,
        "handed to the template; `none` turns `enable_thinking` off");
    ENABLE_THINKING = Field::read("enable_thinking", Kind::Bool, CHAT, "handed to the template");
    INPUT = Field::read("input", Kind::Described("a string or a list of items"), Routes::RESPONSES,
        "what the user says, or the conversation: messages, calls and their results");
    INSTRUCTIONS = Field::read("instructions", Kind::Text { max: 0 }, Routes::RESPONSES, "a system message in front of the input");
    TEXT_FORMAT = Field::read("text", Kind::Object, Routes::RESPONSES,
        "`format`: `text`, `json_object`, or `json_schema` with a `schema`");
    REASONING = Field::read("reasoning", Kind::Object, Routes::RESPONSES, "`effort`: handed to the template");
    SYSTEM = Field::read("system", Kind::Described("a string or a list of blocks"), Routes::MESSAGES.and(Routes::OLLAMA_GENERATE),
        "a system message: a string, or on `/v1/messages` blocks of type `text`");
    THINKING = Field::read("thinking", Kind::Object, Routes::MESSAGES,
        "`type`: `enabled`, `adaptive` or `disabled`, handed to the template; a budget changes nothing");
    N_PROBS = Field::read("n_probs", TOP, Routes::LLAMA, "likeliest tokens to list at each place").default("0");
    OLLAMA_PROMPT = Field::read("prompt", Kind::Text { max: 0 }, Routes::OLLAMA_GENERATE,
        "what the user says, or with `raw` what the text continues; without one the model is loaded and no text is made");
    KEEP_ALIVE = Field::read("keep_alive", Kind::Described("a duration"), Routes::OLLAMA,
        "without a prompt or messages, 0 unloads the model unless it is in use; otherwise the server decides how long a model stays loaded");
    OPTIONS = Field::read("options", Kind::Object, Routes::OLLAMA,
        "settings of the sampler by the names above, `num_predict` and `num_ctx` (at most the server's)");
    NUM_CTX = Field::read("num_ctx", COUNT, Routes::OLLAMA, "in `options`: tokens of the context; more than the server's are refused");
    RAW = Field::read("raw", Kind::Bool, Routes::OLLAMA_GENERATE, "whether the prompt is given to the model without its template")
        .default("false");
    THINK = Field::read("think", Kind::Described("true, false or a level"), Routes::OLLAMA,
        "handed to the template; false leaves thoughts in the text");
    ;
    Field::form("response_format", form::response_format,
        "`{\"type\": \"json_schema\", \"json_schema\": {\"schema\": S}}`, `{\"type\": \"json_schema\", \"schema\": S}`, \
         `{\"type\": \"json_object\", \"schema\": S}`, `{\"type\": \"json_object\"}` (any object), `{\"type\": \"grammar\", \
         \"grammar\": G}`, `{\"type\": \"regex\", \"pattern\": R}`, `{\"type\": \"text\"}` (free text, even if the command \
         line sets a constraint)");
    Field::form("grammar", form::grammar, "a grammar in GBNF or Lark").aliases(&["guided_grammar", "ebnf"]);
    Field::form("json_schema", form::json_schema, "a schema, as an object or as JSON in a string")
        .aliases(&["guided_json"]);
    Field::form("guided_choice", form::choice, "a list of strings; the text is one of them");
    Field::form("guided_regex", form::regex, "a regular expression").aliases(&["regex"]);
    Field::form("guided_json_object", form::json_object, "true: any object");
    Field::form("structured_outputs", form::structured_outputs,
        "an object with one of `json`, `regex`, `choice`, `grammar`, `json_object`");
    Field::form("format", form::format, "`\"json\"`, or a schema");
    Field::form("grammar_lazy", form::lazy, "refused, unless it is false or empty")
        .aliases(&["grammar_triggers", "grammar_trigger_patterns", "trigger_words"]);
    Field::form("guided_whitespace_pattern", form::white_space, "refused: spaces are as described below");
    Field::form("structural_tag", form::structural_tag, "refused: use a grammar with the tags in it");
    Field::form("extra_body", form::nested, "refused if it holds one of these fields, which belong into the body itself")
        .aliases(&["nvext", "guided_decoding", "sampling_params"]);
    Field::refused("tools", ALL.but(Routes::CHATS), "use a route for chats");
    Field::refused("tool_choice", ALL.but(Routes::CHATS), "use a route for chats");
    Field::refused("functions", ALL, "use a route for chats and `tools`");
    Field::refused("function_call", ALL, "use a route for chats and `tool_choice`");
    Field::refused("previous_response_id", ALL, "nothing is stored, so send the whole conversation")
        .aliases(&["conversation", "context"]);
    Field::refused("background", ALL, "answers are made while the client waits, so leave it out");
    Field::refused("prompt", Routes::RESPONSES, "there are no stored prompts, so use `input`");
    Field::refused("template", ALL, "templates are chosen where the server is started").aliases(&["chat_template"]);
    Field::refused("images", ALL, "only text is read").aliases(&["image_data", "multimodal_data", "documents"]);
    Field::refused("mcp_servers", ALL, "declare functions as `tools`").aliases(&["container"]);
    Field::refused("top_logprobs", Routes::RESPONSES, "use `/v1/chat/completions` for probabilities");
    Field::refused("echo", ALL.but(TEXT), "use `/v1/completions` for the prompt in front of the text");
    Field::refused("suffix", ALL, "texts are continued and not filled in, so leave it out").aliases(&["input_prefix", "input_suffix", "input_extra"]);
    Field::refused("response_schema", ALL, "ask for a form with `response_format`")
        .aliases(&["responseSchema", "response_mime_type", "output_format"]);
    Field::refused("text", ALL.but(Routes::RESPONSES), "ask for a form with `response_format`");
    Field::refused("dry_multiplier", ALL, "use `repeat_penalty`");
    Field::refused("xtc_probability", ALL, "use `temperature` and `min_p`");
    Field::refused("dynatemp_range", ALL, "use `temperature`");
    Field::refused("top_n_sigma", ALL, "use `min_p`").aliases(&["adaptive_target"]);
    Field::refused("tfs_z", ALL, "use `top_p` or `min_p`").default("1");
    Field::refused("samplers", ALL, "leave it out, or give the order of samplers where the server is started");
    Field::refused("t_max_predict_ms", ALL, "use `max_tokens`");
    Field::refused("post_sampling_probs", ALL, "probabilities are those of the model, before samplers change them");
    Field::refused("response_fields", ALL, "answers are whole, so leave it out");
    Field::refused("n_indent", ALL, "use a grammar");
    Field::refused("options", ALL.but(Routes::OLLAMA), "write its fields into the body itself");
    Field::refused("use_beam_search", ALL, "texts are sampled, so leave it out");
    Field::refused("allowed_token_ids", ALL, "use `guided_choice` or a grammar").aliases(&["bad_words", "logits_processors"]);
    Field::refused("truncate_prompt_tokens", ALL, "no prompt is cut, so shorten it");
    Field::refused("skip_special_tokens", ALL, "texts have no control tokens; `return_token_ids` lists them").default("true");
    Field::refused("modalities", ALL, "only text is made, so leave it out or send `[\"text\"]`");
    Field::refused("audio", ALL, "only text is made");
    Field::refused("web_search_options", ALL, "there is no search");
    Field::refused("lora", ALL, "load the model that has it");
    Field::ignored("user", ALL, "labels of clients change nothing")
        .aliases(&["metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "anthropic_version"]);
    Field::ignored("include", ALL, "there is nothing more to include; on `/v1/responses` probabilities are refused");
    Field::ignored("truncation", ALL, "no prompt is cut").aliases(&["context_management", "n_keep", "n_discard", "num_keep"]);
    Field::ignored("max_tool_calls", ALL, "it bounds calls of tools that a server has itself, and there are none");
    Field::ignored("verbosity", ALL, "how long answers are is up to the model");
    Field::ignored("prediction", ALL, "a hint for speed only");
    Field::ignored("stream_options", ALL.but(BOTH), "streams of this API have the usage at their end");
    Field::ignored("keep_alive", ALL.but(Routes::OLLAMA), "the server decides how long a model stays loaded");
    Field::ignored("dry_base", ALL, "the stage that it belongs to is off")
        .aliases(&["dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold", "dynatemp_exponent", "adaptive_decay"]);
    Field::ignored("penalize_nl", ALL, "line ends are treated like other tokens").aliases(&["penalize_newline"]);
    Field::ignored("num_thread", ALL, "the command line sets it, and texts do not depend on it")
        .aliases(&["num_gpu", "main_gpu", "num_batch", "low_vram", "f16_kv", "use_mmap", "use_mlock", "numa", "priority"]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_of_one_field_on_each_route() {
        for route in Route::ALL {
            let mut seen = BTreeSet::new();
            for name in FIELDS.iter().filter(|field| field.routes.has(route)).flat_map(Field::names) {
                assert!(seen.insert(name), "{name} on {route:?}");
            }
        }
        assert_eq!(Routes::ALL.but(Routes::CHATS).and(Routes::CHATS), Routes::ALL);
        assert!(FIELDS.iter().all(|field| !field.meaning.is_empty() && field.routes.0 != 0));
    }
    #[test]
    fn values_that_are_empty_or_off_ask_for_nothing() {
        let field = |name: &str| FIELDS.iter().find(|field| field.name == name).unwrap();
        for (name, off, on) in [
            ("dry_multiplier", json!(0), json!(0.8)),
            ("top_n_sigma", json!(-1.0), json!(1)),
            ("tfs_z", json!(1.0), json!(0)),
            ("skip_special_tokens", json!(true), json!(false)),
            ("lora", json!([]), json!([{ "id": 0 }])),
            ("modalities", json!(["text"]), json!(["audio"])),
            ("n", json!(1), json!(2)),
            ("n_probs", json!(0), json!(3)),
            ("reasoning_format", json!("auto"), json!("none")),
            ("parallel_tool_calls", json!(true), json!(false)),
            ("suffix", json!(""), json!("x")),
        ] {
            assert!(!field(name).asks(name, &off), "{name} {off}");
            assert!(field(name).asks(name, &on), "{name} {on}");
        }
        // Neither is as absent.
        assert!(
            [true, false].map(|on| field("enable_thinking").asks("enable_thinking", &json!(on))) == [true; 2]
        );
    }
}
