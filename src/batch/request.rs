//! One request: what a line of the input asks for.
//!
//! A line of text is a prompt, with the settings of the command line. A line of JSONL is a request of OpenAI's batch files, for
//! `/v1/completions` or `/v1/chat/completions`; what its body does not say is taken from the command line. Fields that change
//! what would be generated and that are not supported are refused by name; others are ignored.
//!
//! Invariants: nothing here panics or allocates by a number from the line; a refusal names the field.

use bitnetc_frontend_gguf::text as input_text;
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::{SampleError, SamplingParams};
use bitnetc_runtime::tokenizer::Tokenize;
use serde_json::Value;

use super::Format;
use super::body::Body;
use super::input::MAX_LINE;
use crate::constraint::form::Form;
use crate::constraint::{Compiling, ConstraintError, GrammarSource, MakeConstraint};
use crate::engine::{self, GenerateOptions};
use crate::error::Error;
use crate::model::prompt_tokens;

/// What a request asks for where it says nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Settings of the sampler; the seed is that of `seed`.
    pub params: SamplingParams,
    /// The seed of every request; if there is nothing, each has one of its own, from `params.seed` on.
    pub seed: Option<u64>,
    /// When to end.
    pub options: GenerateOptions,
    /// The form that texts have to have.
    pub form: Option<GrammarSource>,
    /// How lines of text become prompts.
    pub lines: Lines,
}

/// How lines of text become prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lines {
    /// As they are.
    #[default]
    Prompts,
    /// Each is what the user says in a chat of its own.
    Chat {
        /// The system message.
        system: Option<String>,
    },
}

impl Lines {
    /// The route and the prompt of a line.
    fn prompt(&self, line: &str) -> (Endpoint, Prompt) {
        let Self::Chat { system } = self else {
            return (Endpoint::Completions, Prompt::Text(line.to_owned()));
        };
        let message = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
        let system = system.iter().map(|text| message("system", text));
        (Endpoint::Chat, Prompt::Messages(system.chain([message("user", line)]).collect()))
    }
}

/// Which of OpenAI's routes a request is for: the shape of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
}

/// The prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, in which control tokens that are spelled out become these tokens.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// The messages of a chat.
    Messages(Vec<Value>),
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its route.
    pub endpoint: Endpoint,
    /// The prompt.
    pub prompt: Prompt,
    /// Settings of the sampler, with the seed.
    pub params: SamplingParams,
    /// When to end.
    pub options: GenerateOptions,
    /// The form that the text has to have.
    pub form: Option<Form>,
}

/// Why a request is not answered: in the form of OpenAI's errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status that a server would give.
    pub status: u16,
    /// What is wrong and what to do.
    pub message: String,
    /// The field.
    pub param: Option<String>,
    /// A word for programs.
    pub code: &'static str,
}

impl Refusal {
    /// A refusal of a field.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into(), param: Some(param.to_owned()), code: "invalid_value" }
    }

    /// The refusal of a request that was begun and could not be completed; `form` is the field that asked for a form.
    pub fn of_error(error: &Error, form: Option<&'static str>) -> Self {
        let message = error.to_string();
        match error {
            Error::Constraint(why) => Self::of_form(why, form),
            // No token is left where all are forbidden, which only the request itself can do.
            Error::Param(_) | Error::Sample(SampleError::NothingToSample { .. }) => {
                Self::request("invalid_value", message)
            }
            Error::Session(why) => Self::of_session(why),
            _ => Self { status: 500, ..Self::request("generation_failed", message) },
        }
    }

    /// The refusal of a prompt that cannot be fed, or of logits that are no numbers.
    fn of_session(why: &SessionError) -> Self {
        match why {
            SessionError::Empty => Self::field("prompt", "the prompt has no tokens"),
            SessionError::Token { id, vocab, .. } => {
                Self::field("prompt", format!("token id {id} is not in the vocabulary of {vocab} tokens"))
            }
            SessionError::ContextFull { tokens, context, .. } => {
                let message = format!(
                    "the prompt has {tokens} tokens but the context holds {context}: shorten it or use a larger context"
                );
                Self { code: "context_length_exceeded", ..Self::field("prompt", message) }
            }
            SessionError::NotANumber { .. } => {
                Self { status: 500, ..Self::request("nan_logits", why.to_string()) }
            }
            _ => Self { status: 500, ..Self::request("generation_failed", why.to_string()) },
        }
    }

    /// The refusal of a form that cannot be followed.
    fn of_form(why: &ConstraintError, field: Option<&'static str>) -> Self {
        let code = match why {
            ConstraintError::Limit { .. } => "grammar_limit",
            _ => "invalid_value",
        };
        let refusal = match field {
            Some(field) => Self::field(field, format!("{field}: {why}")),
            None => Self::request(code, why.to_string()),
        };
        let status = if matches!(why, ConstraintError::Thread(_)) { 503 } else { 400 };
        Self { code, status, ..refusal }
    }

    /// A refusal of the request as a whole.
    pub fn request(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into(), param: None, code }
    }
}

/// A chat as a model is given it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The messages and the opening of the model's turn.
    pub tokens: Vec<u32>,
    /// Strings that end the answer, besides the model's end tokens.
    pub stop: Vec<String>,
}

/// Makes the prompt of a chat.
pub trait RenderChat {
    /// The prompt for messages (objects with `role` and `content`); `body` is the request that they stand in.
    ///
    /// # Errors
    /// What is wrong with the messages, or why there are no chats with this model.
    fn render(&self, messages: &[Value], body: &Value) -> Result<ChatPrompt, String>;
}

/// Where the tokens of prompts come from.
#[derive(Clone, Copy)]
pub struct TextSource<'a> {
    /// Of the model.
    pub tokenizer: &'a dyn Tokenize,
    /// Of the model, if it can chat.
    pub chat: Option<&'a dyn RenderChat>,
    /// What makes texts follow a form, if there is such a thing.
    pub forms: Option<&'a dyn MakeConstraint>,
}

impl std::fmt::Debug for TextSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextSource")
            .field("chat", &self.chat.is_some())
            .field("forms", &self.forms.is_some())
            .finish_non_exhaustive()
    }
}

/// A form that the options of the command ask for.
fn of_options(source: GrammarSource) -> Form {
    Form { field: "the form of the command's options", source: Some(source) }
}

/// What to generate, with its form still being compiled.
#[derive(Debug)]
pub struct Prepared {
    request: engine::Request,
    form: Option<(&'static str, Compiling)>,
}

impl Prepared {
    /// Whether [`Prepared::finish`] returns at once.
    pub fn is_ready(&mut self) -> bool {
        self.form.as_mut().is_none_or(|(_, compiling)| compiling.is_done())
    }

    /// The seed of its random numbers.
    pub fn seed(&self) -> u64 {
        self.request.seed()
    }

    /// The field that asked for a form.
    pub fn form(&self) -> Option<&'static str> {
        self.form.as_ref().map(|(field, _)| *field)
    }

    /// The request, once its form is compiled.
    ///
    /// # Errors
    /// A form that cannot be followed.
    pub fn finish(self) -> Result<engine::Request, Refusal> {
        let Some((field, compiling)) = self.form else { return Ok(self.request) };
        let constraint = compiling.wait().map_err(|why| Refusal::of_form(&why, Some(field)))?;
        Ok(self.request.with_constraint(constraint))
    }
}

impl Request {
    /// Reads the request of line number `line`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8], format: Format, line: u64, defaults: &Defaults) -> Result<Self, Refusal> {
        let seed = defaults.seed.unwrap_or_else(|| defaults.params.seed.wrapping_add(line) & 0xffff_ffff);
        let params = SamplingParams { seed, ..defaults.params.clone() };
        let text = || {
            std::str::from_utf8(bytes).map_err(|e| {
                let at = e.valid_up_to();
                Refusal::request("invalid_utf8", format!("the line is not UTF-8 at byte {at}"))
            })
        };
        match format {
            Format::Text => {
                let (endpoint, prompt) = defaults.lines.prompt(text()?);
                let (options, form) = (defaults.options.clone(), defaults.form.clone().map(of_options));
                Ok(Self { endpoint, prompt, params, options, form })
            }
            Format::Jsonl => {
                let value: Value = serde_json::from_slice(&input_text::json(text()?.as_bytes()))
                    .map_err(|e| Refusal::request("invalid_json", format!("the line is no JSON: {e}")))?;
                Self::from_line(&value, params, defaults)
            }
        }
    }

    /// The refusal of a line that is longer than any request.
    pub fn too_long() -> Refusal {
        let message = format!("the line has more than {} MiB: split the request", MAX_LINE >> 20);
        Refusal { status: 413, ..Refusal::request("request_too_large", message) }
    }

    fn from_line(line: &Value, params: SamplingParams, defaults: &Defaults) -> Result<Self, Refusal> {
        if !line.is_object() {
            return Err(Refusal::request("invalid_json", "the line is no JSON object"));
        }
        match line.get("custom_id") {
            None | Some(Value::String(_)) => {}
            Some(_) => return Err(Refusal::field("custom_id", "custom_id must be a string")),
        }
        match line.get("method").map(Value::as_str) {
            None | Some(Some("POST")) => {}
            Some(_) => return Err(Refusal::field("method", "method must be \"POST\"")),
        }
        let endpoint = match line.get("url").map(Value::as_str) {
            Some(Some("/v1/completions")) => Endpoint::Completions,
            Some(Some("/v1/chat/completions")) => Endpoint::Chat,
            _ => {
                let message = "url must be \"/v1/completions\" or \"/v1/chat/completions\"";
                return Err(Refusal::field("url", message));
            }
        };
        let body = line.get("body").filter(|body| body.is_object());
        let body = Body(body.ok_or_else(|| Refusal::field("body", "body must be an object"))?);
        body.refuse_unsupported()?;
        let prompt = match endpoint {
            Endpoint::Completions => body.prompt()?,
            Endpoint::Chat => body.messages()?,
        };
        let params = body.sampling(params)?;
        let limit = body.limit()?.or(defaults.options.limit);
        let ignore_end = body.bool("ignore_eos")?.unwrap_or(defaults.options.ignore_end);
        let stop = body.stops()?.unwrap_or_else(|| defaults.options.stop.clone());
        let logprobs = body.logprobs(endpoint)?.or(defaults.options.logprobs);
        let options = GenerateOptions { limit, ignore_end, stop, logprobs };
        let form = body.form()?.or_else(|| defaults.form.clone().map(of_options));
        Ok(Self { endpoint, prompt, params, options, form })
    }

    /// What to generate, with the prompt as tokens, while its form begins to be compiled. `bytes` is the line of JSON that the
    /// request was read from, and empty for a line of text.
    ///
    /// # Errors
    /// A prompt that cannot be made into tokens, that has unknown ones, or that does not fit in `context`; a bias for an
    /// unknown token; a form where there are none.
    pub fn prepare(
        self,
        bytes: &[u8],
        source: &TextSource<'_>,
        vocab: u32,
        context: u32,
    ) -> Result<Prepared, Refusal> {
        let mut options = self.options;
        let prompt = match self.prompt {
            Prompt::Text(text) => {
                let ids = prompt_tokens(source.tokenizer, &text);
                ids.map_err(|why| Refusal::field("prompt", why.to_string()))?
            }
            Prompt::Tokens(ids) => ids,
            Prompt::Messages(messages) => {
                let renderer = source.chat.ok_or_else(|| {
                    let message =
                        "chats cannot be rendered for this model: use /v1/completions with the whole prompt";
                    Refusal { code: "unsupported", ..Refusal::field("url", message) }
                })?;
                let line: Value = serde_json::from_slice(&input_text::json(bytes)).unwrap_or_default();
                let rendered = renderer.render(&messages, &line["body"]);
                let rendered = rendered.map_err(|why| Refusal::field("messages", why))?;
                options.stop.extend(rendered.stop);
                rendered.tokens
            }
        };
        if let Some((id, _)) = self.params.logit_bias.iter().find(|&&(id, _)| id >= vocab) {
            let message = format!("logit_bias: there is no token {id}; the vocabulary has {vocab}");
            return Err(Refusal::field("logit_bias", message));
        }
        let request = engine::Request::new(prompt, self.params, options);
        let request = request.map_err(|why| Refusal::of_error(&why.into(), None))?;
        request.check(vocab, context).map_err(|why| Refusal::of_session(&why))?;
        let form = match self.form {
            Some(Form { field, source: Some(grammar) }) => {
                let forms = source.forms.ok_or_else(|| {
                    let message = format!("{field} cannot be followed: this build has no grammars");
                    Refusal { code: "unsupported", ..Refusal::field(field, message) }
                })?;
                Some((field, forms.compile(&grammar)))
            }
            _ => None,
        };
        Ok(Prepared { request, form })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn defaults() -> Defaults {
        Defaults {
            params: SamplingParams { seed: 5, ..SamplingParams::default() },
            seed: Some(5),
            options: GenerateOptions {
                limit: Some(9),
                stop: vec!["END".to_owned()],
                ..GenerateOptions::default()
            },
            form: None,
            lines: Lines::Prompts,
        }
    }

    fn parse(line: &Value) -> Result<Request, Refusal> {
        Request::parse(line.to_string().as_bytes(), Format::Jsonl, 3, &defaults())
    }

    fn completion(body: Value) -> Result<Request, Refusal> {
        parse(&json!({ "custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body }))
    }

    #[test]
    fn what_a_request_does_not_say_is_the_default() {
        let request = completion(json!({ "model": "any", "prompt": "Hello", "user": "u" })).unwrap();
        assert_eq!(request.prompt, Prompt::Text("Hello".to_owned()));
        assert_eq!((request.params, request.options), (defaults().params, defaults().options));
        let text = Request::parse(b"Hello", Format::Text, 3, &defaults()).unwrap();
        assert_eq!(text.prompt, request.prompt);
        let chat = Defaults { lines: Lines::Chat { system: Some("S".to_owned()) }, ..defaults() };
        let text = Request::parse(b"Hello", Format::Text, 3, &chat).unwrap();
        let messages =
            vec![json!({ "role": "system", "content": "S" }), json!({ "role": "user", "content": "Hello" })];
        assert_eq!((text.endpoint, text.prompt), (Endpoint::Chat, Prompt::Messages(messages)));
        let seeds = |line| {
            let defaults = Defaults { seed: None, ..defaults() };
            Request::parse(b"Hello", Format::Text, line, &defaults).unwrap().params.seed
        };
        assert_ne!(seeds(1), seeds(2));
    }

    #[test]
    fn what_a_request_says_counts() {
        let request = completion(json!({
            "prompt": [1, 2], "max_tokens": 3, "temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0,
            "seed": 11, "stop": ["a", "b"], "presence_penalty": 0.5, "frequency_penalty": null, "ignore_eos": true,
        }));
        let request = request.unwrap();
        assert_eq!(request.prompt, Prompt::Tokens(vec![1, 2]));
        let stop = vec!["a".to_owned(), "b".to_owned()];
        let options =
            GenerateOptions { limit: Some(3), ignore_end: true, stop, ..GenerateOptions::default() };
        assert_eq!(request.options, options);
        let p = &request.params;
        assert_eq!((p.temperature, p.top_p, p.top_k, p.min_p, p.seed), (0.0, 0.5, 7, 0.0, 11));
        assert_eq!((p.presence_penalty, p.frequency_penalty), (0.5, 0.0));
        let chat = json!({ "url": "/v1/chat/completions", "body": {
            "messages": [{ "role": "user", "content": "Hi" }], "max_completion_tokens": 4, "max_tokens": 3,
        }});
        let chat = parse(&chat).unwrap();
        let form =
            |format: Value| completion(json!({ "response_format": format })).unwrap().form.unwrap().source;
        let schema =
            json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": { "enum": [1] } } });
        assert_eq!(form(schema), Some(GrammarSource::JsonSchema("{\"enum\":[1]}".to_owned())));
        assert!(
            form(json!({ "type": "json_object" })).is_some() && form(json!({ "type": "text" })).is_none()
        );
        let biased = completion(json!({ "logit_bias": { "7": -100, "9": 1.5 }, "logprobs": 2 })).unwrap();
        assert_eq!(biased.params.logit_bias, [(7, f32::NEG_INFINITY), (9, 1.5)]);
        assert_eq!(biased.options.logprobs, Some(2));
        assert_eq!((chat.endpoint, chat.options.limit), (Endpoint::Chat, Some(4)));
    }

    #[test]
    fn refusals_name_the_field() {
        for (field, body) in [
            ("prompt", json!({ "prompt": ["a", "b"] })),
            ("prompt", json!({ "prompt": [] })),
            ("prompt", json!({ "prompt": [-1] })),
            ("prompt", json!({ "prompt": {} })),
            ("max_tokens", json!({ "max_tokens": -1 })),
            ("max_tokens", json!({ "max_tokens": 1.5 })),
            ("temperature", json!({ "temperature": "hot" })),
            ("temperature", json!({ "temperature": 1e-9 })),
            ("top_p", json!({ "top_p": -0.1 })),
            ("n", json!({ "n": 2 })),
            ("stream", json!({ "stream": true })),
            ("logprobs", json!({ "logprobs": 21 })),
            ("logprobs", json!({ "logprobs": true })),
            ("logit_bias", json!({ "logit_bias": { "x": 1 } })),
            ("logit_bias", json!({ "logit_bias": { "1": 101 } })),
            ("logit_bias", json!({ "logit_bias": [1] })),
            ("tools", json!({ "tools": [{}] })),
            ("stop", json!({ "stop": [1] })),
            ("stop", json!({ "stop": vec!["x"; 65] })),
            ("stop", json!({ "stop": "x".repeat(4097) })),
            ("stop", json!({ "stop": ["x".repeat(4097)] })),
            ("prompt", json!({ "prompt": [4_294_967_296_u64] })),
            (
                "logit_bias",
                json!({ "logit_bias": (0..70_000).map(|id| (id.to_string(), json!(1))).collect::<serde_json::Map<_, _>>() }),
            ),
            ("response_format", json!({ "response_format": { "type": "yaml" } })),
            ("response_format", json!({ "response_format": { "type": "json_schema", "json_schema": {} } })),
            ("response_format", json!({ "response_format": "json_object" })),
        ] {
            let refusal = completion(body.clone()).unwrap_err();
            assert_eq!((refusal.param.as_deref(), refusal.status), (Some(field), 400), "{body}");
            assert!(refusal.message.contains(field), "{}", refusal.message);
        }
        for (field, line) in [
            ("url", json!({ "url": "/v1/embeddings", "body": {} })),
            ("url", json!({ "body": {} })),
            ("method", json!({ "url": "/v1/completions", "method": "GET", "body": {} })),
            ("body", json!({ "url": "/v1/completions" })),
            ("custom_id", json!({ "custom_id": 1, "url": "/v1/completions", "body": {} })),
            ("messages", json!({ "url": "/v1/chat/completions", "body": { "messages": [] } })),
            ("messages", json!({ "url": "/v1/chat/completions", "body": { "messages": ["Hi"] } })),
        ] {
            assert_eq!(parse(&line).unwrap_err().param.as_deref(), Some(field), "{line}");
        }
        let refused = |bytes: &[u8]| Request::parse(bytes, Format::Jsonl, 1, &defaults()).unwrap_err().code;
        assert_eq!(
            (refused(b"{"), refused(b"[1]"), refused(b"\xff")),
            ("invalid_json", "invalid_json", "invalid_utf8")
        );
        let half = br#"{"url":"/v1/completions","body":{"prompt":"a\ud800"}}"#;
        let request = Request::parse(half, Format::Jsonl, 1, &defaults()).unwrap();
        assert_eq!(request.prompt, Prompt::Text("a\u{fffd}".to_owned()));
        // What is too large for our numbers is no other kind of thing.
        let message = |body| completion(body).unwrap_err().message;
        assert!(message(json!({ "prompt": [7, 4_294_967_296_u64] })).contains("4294967296"));
        assert!(message(json!({ "repeat_penalty": -1e308 })).contains("above 0"));
        assert_eq!(completion(json!({ "temperature": 1e308 })).unwrap().params.temperature, f32::MAX);
        let all_banned = Error::Sample(SampleError::NothingToSample { count: 9 });
        assert_eq!(Refusal::of_error(&all_banned, None).status, 400);
        // Fields that ask for nothing are no reason.
        let nothing = json!({ "prompt": "a", "n": 1, "stream": false, "tools": [], "logprobs": null, "logit_bias": {},
            "response_format": { "type": "text" } });
        completion(nothing).unwrap();
    }
}
