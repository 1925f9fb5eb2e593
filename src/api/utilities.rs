//! What is answered without the engine: tokens of texts and texts of tokens, prompts of chats, and what a client may know of the
//! model.

use bitnetc_runtime::tokenizer::{TokenId, Tokenize};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::body::{self, Body, token_id};
use super::chat::ChatRequest;
use super::messages::{self, Chat};
use super::settings::of_sampler;
use super::{Defaults, Reading, Refusal, Route, Service, read};
use crate::chat::RenderInput;

/// The name of the model in a body. Of several fields of this name the last one counts, as of all fields.
struct Named(Option<Box<RawValue>>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Named;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
                let mut model = None;
                while let Some(name) = map.next_key::<String>()? {
                    match name == "model" {
                        true => model = Some(map.next_value()?),
                        false => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Named(model))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The model that a body names; the rest of it is looked at, but not kept. `None`: it names none.
///
/// # Errors
/// What is no JSON object; a name that is no string.
pub fn model_of(body: &[u8]) -> Result<Option<String>, Refusal> {
    let Named(name) = body::parse_as(body)?;
    let name = name.map(|name| serde_json::from_str::<Option<String>>(name.get())).transpose();
    name.map(Option::flatten).map_err(|_| Refusal::field("model", "model must be a string"))
}

/// Longest text that is tokenized for its tokens alone, in bytes: about a second's work.
const MAX_TEXT: usize = 1 << 20;
/// Longest text that is made of tokens, in bytes.
const MAX_DETOKENIZED: usize = 8 << 20;

/// Refuses a text that would be tokenized for long.
pub(super) fn check_text(bytes: usize, field: &str) -> Result<(), Refusal> {
    match bytes > MAX_TEXT {
        true => {
            let message = format!(
                "{field} has {bytes} bytes of text, but at most {MAX_TEXT} are tokenized at once: send the text in parts"
            );
            Err(Refusal::field(field, message))
        }
        false => Ok(()),
    }
}

/// The object of a body.
fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match body::parse(body)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(Refusal::request("invalid_json", "the request is not a JSON object")),
    }
}

/// A field that is there and not null.
fn given<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// A field that is true or false.
fn flag(fields: &Map<String, Value>, name: &str, default: bool) -> Result<bool, Refusal> {
    let wrong = || Refusal::field(name, format!("{name} must be true or false"));
    given(fields, name).map_or(Ok(default), |value| value.as_bool().ok_or_else(wrong))
}

fn encode(
    service: &Service,
    text: &str,
    special: bool,
    parse: bool,
    field: &str,
) -> Result<Vec<TokenId>, Refusal> {
    check_text(text.len(), field)?;
    let ids = service.model.tokenizer().encode(text, special, parse);
    ids.map_err(|why| Refusal::field(field, format!("{field}: {why}")))
}

/// The tokens of a text, or of the parts of a list of texts and token ids.
fn content(service: &Service, value: &Value, special: bool, parse: bool) -> Result<Vec<TokenId>, Refusal> {
    let wrong = || Refusal::field("content", "content must be a string, or a list of strings and token ids");
    let parts = match value {
        Value::String(text) => return encode(service, text, special, parse, "content"),
        value => value.as_array().ok_or_else(wrong)?,
    };
    check_text(parts.iter().filter_map(Value::as_str).map(str::len).sum(), "content")?;
    let mut ids = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        match part {
            Value::String(text) => {
                ids.extend(encode(service, text, special && number == 0, parse, "content")?);
            }
            part => ids.push(token_id(part).filter(|&id| id < service.vocab()).ok_or_else(wrong)?),
        }
    }
    Ok(ids)
}

/// The tokens of a text as the answer has them. It is written token by token: as values of JSON, the tokens of a megabyte would take
/// hundreds of megabytes.
pub struct Tokenized<'s> {
    tokens: Vec<TokenId>,
    tokenizer: &'s dyn Tokenize,
    dialect: Dialect,
}

impl std::fmt::Debug for Tokenized<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenized").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

/// What the tokens are told with.
#[derive(Clone, Copy)]
enum Dialect {
    /// llama.cpp's: with the text of each token, or without.
    Content { pieces: bool },
    /// vLLM's: with the number of tokens and the context, and perhaps with their texts.
    Prompt { context: u32, texts: bool },
}

/// A token with its text, or its bytes where they are no text.
struct Piece<'s>(&'s dyn Tokenize, TokenId);

impl Serialize for Piece<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.piece(self.1, true);
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("id", &self.1)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => map.serialize_entry("piece", text)?,
            Err(_) => map.serialize_entry("piece", bytes)?,
        }
        map.end()
    }
}

/// Something for each of some tokens, as a list.
struct Each<'t, F>(&'t [TokenId], F);

impl<T: Serialize, F: Fn(TokenId) -> T> Serialize for Each<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|&id| (self.1)(id)))
    }
}

impl Serialize for Tokenized<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { tokens, tokenizer, dialect } = self;
        let mut map = serializer.serialize_map(None)?;
        match dialect {
            Dialect::Content { pieces: true } => {
                map.serialize_entry("tokens", &Each(tokens, |id| Piece(*tokenizer, id)))?;
            }
            Dialect::Content { pieces: false } => map.serialize_entry("tokens", tokens)?,
            Dialect::Prompt { context, texts } => {
                map.serialize_entry("tokens", tokens)?;
                map.serialize_entry("count", &tokens.len())?;
                map.serialize_entry("max_model_len", context)?;
                if *texts {
                    let text = |id| super::reply::logprobs::token_text(*tokenizer, id);
                    map.serialize_entry("token_strs", &Each(tokens, text))?;
                }
            }
        }
        map.end()
    }
}

/// Bytes of a body whose tokens are given with their texts.
const SPELLED_OUT: usize = 2 << 20;

/// The tokens of a text, in llama.cpp's dialect (`content`) or vLLM's (`prompt` or `messages`).
///
/// # Errors
/// What is wrong with the body.
pub fn tokenize<'s>(service: &'s Service, body: &[u8]) -> Result<Tokenized<'s>, Refusal> {
    let fields = object(body)?;
    for name in ["with_pieces", "return_token_strs"] {
        if body.len() > SPELLED_OUT && flag(&fields, name, false)? {
            let message = format!(
                "{name} is for bodies of at most {SPELLED_OUT} bytes: leave it out, or send the text in parts"
            );
            return Err(Refusal::field(name, message));
        }
    }
    let tokenizer = service.model.tokenizer();
    if let Some(value) = given(&fields, "content") {
        let (special, parse) = (flag(&fields, "add_special", false)?, flag(&fields, "parse_special", true)?);
        let tokens = content(service, value, special, parse)?;
        let dialect = Dialect::Content { pieces: flag(&fields, "with_pieces", false)? };
        return Ok(Tokenized { tokens, tokenizer, dialect });
    }
    let tokens = match (given(&fields, "prompt"), given(&fields, "messages")) {
        (Some(Value::String(text)), None) => {
            encode(service, text, flag(&fields, "add_special_tokens", true)?, true, "prompt")?
        }
        (Some(_), None) => return Err(Refusal::field("prompt", "prompt must be a string")),
        (None, Some(Value::Array(list))) => {
            let chat = Chat {
                messages: messages::of_list(list, service)?,
                opens_turn: flag(&fields, "add_generation_prompt", true)?,
                ..Chat::default()
            };
            chat.render(service, false)?.1.tokens.to_vec()
        }
        (None, Some(_)) => return Err(Refusal::field("messages", "messages must be a list of messages")),
        (Some(_), Some(_)) => {
            return Err(Refusal::field("messages", "prompt and messages exclude each other"));
        }
        (None, None) => {
            return Err(Refusal::field("content", "content, prompt or messages is needed"));
        }
    };
    let dialect =
        Dialect::Prompt { context: service.context, texts: flag(&fields, "return_token_strs", false)? };
    Ok(Tokenized { tokens, tokenizer, dialect })
}

/// The text of tokens, under the names of both dialects.
///
/// # Errors
/// What is wrong with the body.
pub fn detokenize(service: &Service, body: &[u8]) -> Result<Value, Refusal> {
    let fields = object(body)?;
    let wrong = || {
        let message = format!("tokens must be a list of token ids below {}", service.vocab());
        Refusal::field("tokens", message)
    };
    let list = given(&fields, "tokens").and_then(Value::as_array).ok_or_else(wrong)?;
    let id = |value: &Value| token_id(value).filter(|&id| id < service.vocab());
    let ids: Vec<TokenId> = list.iter().map(id).collect::<Option<_>>().ok_or_else(wrong)?;
    let tokenizer = service.model.tokenizer();
    let bytes: usize = ids.iter().map(|&id| tokenizer.piece(id, true).len()).sum();
    if bytes > MAX_DETOKENIZED {
        let message = format!(
            "tokens have {bytes} bytes of text, but an answer may have {MAX_DETOKENIZED}: send them in parts"
        );
        return Err(Refusal::field("tokens", message));
    }
    let text = tokenizer.decode_lossy(&ids, true);
    Ok(json!({ "content": text, "prompt": text }))
}

/// The text of a special token.
fn special(tokenizer: &dyn Tokenize, id: Option<TokenId>) -> Value {
    id.map_or(Value::Null, |id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into())
}

/// The chat template that is in use.
fn template(service: &Service) -> Value {
    service.chat.as_ref().map_or(Value::Null, |chat| chat.template().source().into())
}

/// What programs need to know of the tokenizer.
pub fn tokenizer_info(service: &Service) -> Value {
    let tokenizer = service.model.tokenizer();
    let eos = special(tokenizer, tokenizer.eos());
    json!({
        "tokenizer_class": "bitnetc",
        "bos_token": special(tokenizer, tokenizer.bos()),
        "eos_token": eos,
        "pad_token": null,
        "bos_token_id": tokenizer.bos(),
        "eos_token_id": tokenizer.eos(),
        "vocab_size": tokenizer.vocab_size(),
        "model_max_length": service.context,
        "chat_template": template(service),
    })
}

/// The text that a chat becomes: of a body for `/v1/chat/completions`.
///
/// # Errors
/// What is wrong with the body.
pub fn apply_template(service: &Service, body: &[u8]) -> Result<Value, Refusal> {
    let value = body::parse(body)?;
    let body = Body::new(Route::ChatCompletions, &value)?;
    let (text, _) = ChatRequest::of_openai(body, &value, service)?.render(service, false)?;
    Ok(json!({ "prompt": text }))
}

/// How many tokens the prompt of a request has; `route` is one that counts.
///
/// # Errors
/// What is wrong with the body.
pub fn count_tokens(service: &Service, route: Route, body: &[u8]) -> Result<Value, Refusal> {
    let how = Reading { forms: false, fits: false, ..Reading::of(service, None) };
    let call = read(service, route, &body::parse(body)?, &how)?;
    let tokens = call.choices.first().map_or(0, super::Prepared::prompt_tokens);
    Ok(match route {
        Route::CountTokens => json!({ "input_tokens": tokens }),
        _ => json!({ "object": "response.input_tokens", "input_tokens": tokens }),
    })
}

/// The model as an entry of `/v1/models`.
pub fn model_card(service: &Service) -> Value {
    let loaded = service.model.loaded();
    json!({
        "id": service.id,
        "object": "model",
        "created": service.created,
        "owned_by": "bitnetc",
        "max_model_len": service.context,
        "meta": {
            "n_vocab": service.vocab(),
            "n_ctx_train": loaded.context,
            "n_ctx": service.context,
            "n_params": loaded.parameters(),
            "n_embd": loaded.hidden(),
            "size": loaded.model.weight_bytes(),
            "architecture": loaded.architecture,
        },
    })
}

/// The last part of a path.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or_default()
}

/// What a client may know of the model and of its defaults; what concerns the server as a whole is added by it. No prompt, path or key
/// is among it.
pub fn props(service: &Service) -> Value {
    let tokenizer = service.model.tokenizer();
    let supports_system = service.chat.as_ref().is_ok_and(|chat| {
        let messages = [crate::chat::Message::new(crate::chat::Role::system(), "")];
        chat.render(&RenderInput { messages: &messages, ..RenderInput::default() }).is_ok()
    });
    json!({
        "default_generation_settings": default_settings(&service.defaults, Some(service.context)),
        "model_alias": service.id,
        "model_path": file_name(&service.model.loaded().name),
        "chat_template": template(service),
        "chat_template_caps": { "supports_system_role": supports_system },
        "bos_token": special(tokenizer, tokenizer.bos()),
        "eos_token": special(tokenizer, tokenizer.eos()),
        "modalities": { "vision": false, "audio": false },
        "system_fingerprint": service.fingerprint(),
        "is_loaded": true,
    })
}

/// What a client may know of a model that is not loaded.
pub fn props_of_unloaded(
    id: &str,
    defaults: &Defaults,
    context: Option<u32>,
    chat_template: Option<String>,
) -> Value {
    json!({
        "default_generation_settings": default_settings(defaults, context),
        "model_alias": id,
        "chat_template": chat_template,
        "modalities": { "vision": false, "audio": false },
        "is_loaded": false,
    })
}

/// What a request asks for where it says nothing, in llama.cpp's form.
fn default_settings(defaults: &Defaults, context: Option<u32>) -> Value {
    let Defaults { params, options, seed, .. } = defaults;
    let mut settings = of_sampler(params);
    let others = [
        ("seed", seed.map_or(json!(-1), |seed| json!(seed))),
        ("max_tokens", options.limit.map_or(json!(-1), |limit| json!(limit))),
        ("ignore_eos", json!(options.ignore_end)),
        ("stop", json!(options.stop.iter().collect::<Vec<_>>())),
    ];
    settings.extend(others.map(|(name, value)| (name.to_owned(), value)));
    json!({ "n_ctx": context, "params": settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_path_the_name_is_told() {
        for (path, name) in [
            ("/srv/models/tiny.gguf", "tiny.gguf"),
            ("C:\\models\\tiny.gguf", "tiny.gguf"),
            ("tiny.gguf", "tiny.gguf"),
            ("shakespeare-5m (built in)", "shakespeare-5m (built in)"),
        ] {
            assert_eq!(file_name(path), name);
        }
    }
}
