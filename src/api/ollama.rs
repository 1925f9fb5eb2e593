//! Requests of ollama's `/api/chat` and `/api/generate`, and what else its clients ask for: which models there are.
//!
//! Differences from ollama: a prompt that the context has no room for is refused, never cut; a `template` is refused; the
//! server decides how long a model stays loaded, whatever `keep_alive` says; answers of `/api/generate` have no `context`, which
//! is refused in requests.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::answer::AnswerForm;
use super::asked::Asked;
use super::body::Body;
use super::chat::{ChatRequest, set, set_effort};
use super::fields::{KEEP_ALIVE, MESSAGES, NUM_CTX, OLLAMA_PROMPT, RAW, Routes, STREAM, SYSTEM, THINK};
use super::messages::Chat;
use super::openai::check_model;
use super::reply::ollama::{OllamaShape, Residence};
use super::reply::{Reply, Shown};
use super::{Call, Reading, Refusal, Route, Service, prompt};
use crate::describe::Description;
use crate::tools::Tools;

/// Reads a request of one of both routes.
///
/// # Errors
/// What is wrong with it.
pub(super) fn accept(
    service: &Service,
    route: Route,
    value: &Value,
    how: &Reading<'_>,
) -> Result<Call, Refusal> {
    let value = flat(value);
    let body = Body::new(route, &value)?;
    check_model(body, service)?;
    if let Some(context) = body.count(&NUM_CTX).filter(|&context| context > u64::from(service.context)) {
        let message = format!(
            "options.num_ctx is {context}, but the server's context has {} tokens: start it with a larger one",
            service.context
        );
        return Err(Refusal::field("num_ctx", message));
    }
    if let Some(residence) = residence(route, body) {
        return resident(service, route, body, residence, how);
    }
    let (mut asked, form) = match (route, body.is_on(&RAW)) {
        (Route::OllamaGenerate, true) => {
            let prompts = prompt::of_body(body, service)?;
            (Asked::of_body(body, service, prompts, None, how)?, AnswerForm::default())
        }
        _ => chat(route, body, &value, service)?.ask(body, service, how)?,
    };
    asked.choices = 1;
    asked.prompts.truncate(1);
    asked.stream = body.bool(&STREAM).unwrap_or(true);
    let choices = asked.prepare(service, how)?;
    let shown = Shown { measured: how.measured, ..Shown::default() };
    let shape = Box::new(OllamaShape::new(form, route == Route::OllamaChat));
    let reply = Reply::new(service, shape, &asked, shown, how, asked.stream);
    Ok(Call { choices, reply })
}

/// A request to unload a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unload {
    route: Route,
    stream: bool,
}

impl Unload {
    /// The request with this body, if it is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(route: Route, body: &[u8]) -> Result<Option<Self>, Refusal> {
        if !Routes::OLLAMA.has(route) {
            return Ok(None);
        }
        let value = flat(&super::parse(body)?);
        let body = Body::new(route, &value)?;
        let stream = body.bool(&STREAM).unwrap_or(true);
        Ok((residence(route, body) == Some(Residence::Unload)).then_some(Self { route, stream }))
    }

    /// Whether its answer is a stream: of one line.
    pub fn is_stream(self) -> bool {
        self.stream
    }

    /// Its answer for the model `id`, which is unloaded, or is in use and stays.
    pub fn answer(self, id: &str, is_unloaded: bool) -> Value {
        let residence = if is_unloaded { Residence::Unload } else { Residence::Load };
        OllamaShape::resident(residence, self.route == Route::OllamaChat).alone(id)
    }
}

/// What a request asks for that has nothing to answer: ollama's clients load and unload models so.
fn residence(route: Route, body: Body<'_>) -> Option<Residence> {
    let is_empty = match route {
        Route::OllamaChat => body.list(&MESSAGES).is_none_or(<[Value]>::is_empty),
        _ => body.text(&OLLAMA_PROMPT).is_none_or(str::is_empty),
    };
    is_empty.then(|| match body.get(&KEEP_ALIVE).is_some_and(is_zero) {
        true => Residence::Unload,
        false => Residence::Load,
    })
}

/// Whether a duration, a number of seconds or a text such as `0s`, is zero.
fn is_zero(time: &Value) -> bool {
    match time {
        Value::Number(seconds) => seconds.as_f64() == Some(0.0),
        Value::String(text) => text.contains('0') && !text.contains(|ch| matches!(ch, '1'..='9')),
        _ => false,
    }
}

/// The call of a request that no text is made for.
fn resident(
    service: &Service,
    route: Route,
    body: Body<'_>,
    residence: Residence,
    how: &Reading<'_>,
) -> Result<Call, Refusal> {
    let asked = Asked::of_body(body, service, Vec::new(), None, how)?;
    let shape = Box::new(OllamaShape::resident(residence, route == Route::OllamaChat));
    let shown = Shown { measured: how.measured, ..Shown::default() };
    let stream = body.bool(&STREAM).unwrap_or(true);
    let reply = Reply::new(service, shape, &asked, shown, how, stream);
    Ok(Call { choices: Vec::new(), reply })
}

/// The body with its `options` beside its other fields, which count where both name the same.
fn flat(value: &Value) -> Value {
    let mut fields = value.clone();
    let options = value.get("options").and_then(Value::as_object);
    if let (Value::Object(fields), Some(options)) = (&mut fields, options) {
        for (name, option) in options {
            fields.entry(name.as_str()).or_insert_with(|| option.clone());
        }
    }
    fields
}

/// The chat of a request: its messages, or one of the user with the prompt.
fn chat(route: Route, body: Body<'_>, value: &Value, service: &Service) -> Result<ChatRequest, Refusal> {
    let messages = match route {
        Route::OllamaChat => {
            let list = body.list(&MESSAGES).unwrap_or_default();
            list.iter().enumerate().map(|(number, message)| called(number, message)).collect()
        }
        _ => {
            let system = body.get(&SYSTEM).filter(|system| *system != "");
            let system = system.map(|system| json!({ "role": "system", "content": system }));
            let user = json!({ "role": "user", "content": body.text(&OLLAMA_PROMPT).unwrap_or_default() });
            system.into_iter().chain([user]).collect::<Vec<_>>()
        }
    };
    let mut chat = Chat::of_messages(&messages, body, service)?;
    let thoughts = match body.get(&THINK) {
        None => true,
        Some(Value::Bool(thinks)) => {
            set(&mut chat.variables, "enable_thinking", json!(thinks));
            *thinks
        }
        Some(Value::String(effort)) => {
            set_effort(&mut chat.variables, effort);
            true
        }
        Some(_) => return Err(Refusal::field("think", "think must be true, false or a level")),
    };
    let tools = if route == Route::OllamaChat { Tools::read(value)? } else { None };
    Ok(ChatRequest { chat, tools, thoughts, logprobs: None })
}

/// A message in OpenAI's form: calls have ids, which ollama's have not, and thoughts their name there.
fn called(number: usize, message: &Value) -> Value {
    let mut message = message.clone();
    let Some(fields) = message.as_object_mut() else { return message };
    if let Some(thoughts) = fields.remove("thinking") {
        fields.insert("reasoning_content".to_owned(), thoughts);
    }
    if let Some(name) = fields.remove("tool_name") {
        fields.insert("name".to_owned(), name);
    }
    let calls = fields.get_mut("tool_calls").and_then(Value::as_array_mut);
    for (place, call) in calls.into_iter().flatten().enumerate() {
        if let Some(call) = call.as_object_mut() {
            call.entry("type").or_insert_with(|| json!("function"));
            call.entry("id").or_insert_with(|| json!(format!("c{number:04}{place:04}")));
        }
    }
    message
}

/// A time as ollama writes it.
pub(super) fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.unwrap_or_default().to_string()
}

/// A time in UTC to the millisecond, in the form of RFC 3339.
pub fn rfc3339(time: SystemTime) -> String {
    let milliseconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let time = i64::try_from(milliseconds).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", time.unwrap_or_default())
}

/// A model in ollama's lists, loaded or not.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Its name.
    pub name: &'a str,
    /// Bytes of its file.
    pub bytes: u64,
    /// When its file was written, in seconds since 1970.
    pub modified: u64,
    /// What identifies it, as far as it is known.
    pub hash: Option<[u8; 32]>,
    /// What its file says of it; `None` where there is no file yet.
    pub about: Option<&'a Description>,
}

/// A number of parameters, as ollama writes it.
fn size(parameters: u64) -> String {
    match parameters {
        0..1_000_000 => format!("{:.1}K", parameters as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", parameters as f64 / 1e6),
        _ => format!("{:.1}B", parameters as f64 / 1e9),
    }
}

/// What a model is.
fn details(about: Option<&Description>) -> Value {
    let architecture = about.map_or("", |about| &about.architecture);
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": architecture,
        "families": [architecture],
        "parameter_size": about.map_or_else(String::new, |about| size(about.parameters)),
        "quantization_level": about.map_or("", |about| &about.weights),
    })
}

/// A model in a list.
fn entry(model: Listed<'_>) -> Map<String, Value> {
    let entry = json!({
        "name": model.name,
        "model": model.name,
        "modified_at": time(model.modified),
        "size": model.bytes,
        "digest": model.hash.map_or_else(String::new, |hash| hex(&hash)),
        "details": details(model.about),
    });
    match entry {
        Value::Object(entry) => entry,
        _ => Map::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The answer of `/api/tags`: these models.
pub fn ollama_tags(models: &[Listed<'_>]) -> Value {
    json!({ "models": models.iter().map(|&model| entry(model)).collect::<Vec<_>>() })
}

/// The answer of `/api/ps`: these models, which are loaded.
pub fn ollama_ps(loaded: &[(Listed<'_>, &Service)]) -> Value {
    let shown = |(model, service): &(Listed<'_>, &Service)| {
        let mut entry = entry(*model);
        entry.remove("modified_at");
        entry.insert("size".to_owned(), json!(service.model.loaded().model.weight_bytes()));
        entry.insert("size_vram".to_owned(), json!(0));
        entry.insert("context_length".to_owned(), json!(service.context));
        // No time is set at which it is unloaded.
        entry.insert("expires_at".to_owned(), json!("9999-12-31T23:59:59Z"));
        entry
    };
    json!({ "models": loaded.iter().map(shown).collect::<Vec<_>>() })
}

/// The answer of `/api/show` for a model: what its file says, and, where it is loaded, what its chat template can do.
pub fn ollama_show(model: Listed<'_>, service: Option<&Service>) -> Value {
    let chat = service.and_then(|service| service.chat.as_ref().ok());
    let abilities = chat.map(crate::chat::ChatEncoder::abilities);
    let mut capabilities = vec!["completion"];
    if abilities.is_some_and(|abilities| abilities.tools) {
        capabilities.push("tools");
    }
    if abilities.is_some_and(|abilities| abilities.thinking.is_some()) {
        capabilities.push("thinking");
    }
    let mut info = Map::new();
    if let Some(about) = model.about {
        let architecture = &about.architecture;
        info.insert("general.architecture".to_owned(), json!(architecture));
        info.insert("general.parameter_count".to_owned(), json!(about.parameters));
        info.insert(format!("{architecture}.context_length"), json!(about.context));
        info.insert(format!("{architecture}.embedding_length"), json!(about.hidden));
        if let Some(service) = service {
            info.insert(format!("{architecture}.vocab_size"), json!(service.vocab()));
        }
    }
    let of_file = model.about.and_then(|about| about.chat_template.as_deref());
    let template = chat.map(|chat| chat.template().source()).or(of_file);
    json!({
        "modelfile": "",
        "parameters": "",
        "template": template.unwrap_or_default(),
        "details": details(model.about),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": time(model.modified),
    })
}

/// The answer of `/api/version`. Clients compare it with ollama's.
pub fn ollama_version() -> Value {
    json!({ "version": env!("CARGO_PKG_VERSION") })
}
