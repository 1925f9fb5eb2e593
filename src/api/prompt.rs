//! The prompts of a completion: text, token ids, or several of either.

use std::sync::Arc;

use bitnetc_runtime::tokenizer::{TokenId, Tokenize};
use serde_json::Value;

use super::body::{Body, token_id};
use super::fields::PROMPT;
use super::{Refusal, Service};
use crate::model::prompt_tokens;

/// A prompt that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    /// Its tokens.
    pub(super) tokens: Arc<[TokenId]>,
    /// The text that an echo repeats; `None`: that of the tokens.
    pub(super) text: Option<Arc<str>>,
    /// Strings that end the text besides those of the request.
    pub(super) stop: Vec<String>,
}

impl Prompt {
    /// Of tokens.
    pub(super) fn of_tokens(tokens: Vec<TokenId>) -> Self {
        Self { tokens: tokens.into(), ..Self::default() }
    }

    /// The text that an echo repeats.
    pub(super) fn echo(&self, tokenizer: &dyn Tokenize) -> String {
        self.text.as_deref().map(str::to_owned).unwrap_or_else(|| {
            let bytes: Vec<u8> =
                self.tokens.iter().flat_map(|&id| tokenizer.piece(id, true)).copied().collect();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
}

fn wrong() -> Refusal {
    Refusal::field("prompt", format!("prompt must be {}, and not empty", PROMPT.kind.describe()))
}

/// Bytes of a character, which a token for unknown ones may stand for.
const CHARACTER: usize = 4;

/// Refuses a text that cannot fit the context whatever its tokens are, before any work is done for it: no token has more bytes
/// than the longest one of the vocabulary.
///
/// # Errors
/// The text is that long; `field` is where it comes from.
pub(super) fn check_length(text: &str, service: &Service, field: &str) -> Result<(), Refusal> {
    let (bytes, context) = (text.len() as u64, service.context);
    if bytes <= u64::from(context) {
        return Ok(());
    }
    let tokenizer = service.model.tokenizer();
    let longest = (0..service.vocab()).map(|id| tokenizer.token_bytes(id).len()).max();
    let least = bytes.div_ceil(longest.unwrap_or(0).max(CHARACTER) as u64);
    match least > u64::from(context) {
        true => Err(Refusal { param: Some(field.to_owned()), ..Refusal::text_length(bytes, least, context) }),
        false => Ok(()),
    }
}

/// The tokens of a text, in which control tokens that are spelled out become these tokens.
fn of_text(text: &str, service: &Service) -> Result<Prompt, Refusal> {
    check_length(text, service, "prompt")?;
    let tokens = prompt_tokens(service.model.tokenizer(), text);
    let tokens = tokens.map_err(|why| Refusal::field("prompt", why.to_string()))?;
    Ok(Prompt { text: Some(text.into()), ..Prompt::of_tokens(tokens) })
}

/// The tokens with these ids. Whether the model has them is checked with everything else of the prompt.
fn of_ids(ids: &[Value]) -> Result<Prompt, Refusal> {
    let id = |value: &Value| {
        let id = value.as_u64().ok_or_else(wrong)?;
        let message = || format!("prompt: token id {id} is not in the vocabulary of any model");
        token_id(value).ok_or_else(|| Refusal::field("prompt", message()))
    };
    match ids.is_empty() {
        true => Err(wrong()),
        false => ids.iter().map(id).collect::<Result<_, _>>().map(Prompt::of_tokens),
    }
}

/// One of several prompts.
fn of_value(value: &Value, service: &Service) -> Result<Prompt, Refusal> {
    match value {
        Value::String(text) => of_text(text, service),
        Value::Array(ids) => of_ids(ids),
        _ => Err(wrong()),
    }
}

/// The prompts of a request.
///
/// # Errors
/// No prompt, one that is none, more of them than there may be, text that has no tokens.
pub(super) fn of_body(body: Body<'_>, service: &Service) -> Result<Vec<Prompt>, Refusal> {
    let list = match body.get(&PROMPT) {
        None => {
            let message = "prompt is missing: send a text, or \"\" for the beginning of one";
            return Err(Refusal::field("prompt", message));
        }
        Some(Value::String(text)) => return Ok(vec![of_text(text, service)?]),
        Some(value) => value.as_array().ok_or_else(wrong)?,
    };
    match list.first() {
        None => Err(wrong()),
        Some(Value::String(_) | Value::Array(_)) if list.len() > service.limits.prompts => {
            let most = service.limits.prompts;
            Err(Refusal::field("prompt", format!("prompt: a request may have at most {most} prompts")))
        }
        Some(Value::String(_) | Value::Array(_)) => {
            list.iter().map(|value| of_value(value, service)).collect()
        }
        Some(_) => Ok(vec![of_ids(list)?]),
    }
}
