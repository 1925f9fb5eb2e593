//! The body of a request of OpenAI's API: typed access to the fields that count.

use bitnetc_runtime::sampling::SamplingParams;
use serde_json::Value;

use super::request::{Endpoint, Prompt, Refusal};
use crate::constraint::form::{self, Form};

/// Most stop strings of a request.
const MAX_STOPS: usize = 64;
/// Most bytes of each.
const MAX_STOP_BYTES: usize = 4096;
/// Most tokens that are listed with each token of the answer.
const MAX_LOGPROBS: u64 = 20;

/// Fields of other servers that change an answer and that are read from the command line only, or not at all.
const OF_OTHERS: [&str; 9] = [
    "min_tokens",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "dry_multiplier",
    "xtc_probability",
    "chat_template",
    "samplers",
    "options",
];

/// The body of a request, with typed access to its fields.
pub(super) struct Body<'v>(pub(super) &'v Value);

impl<'v> Body<'v> {
    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<&'v Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn bool(&self, name: &str) -> Result<Option<bool>, Refusal> {
        let wrong = || Refusal::field(name, format!("{name} must be true or false"));
        self.get(name).map(|value| value.as_bool().ok_or_else(wrong)).transpose()
    }

    fn number(&self, name: &str) -> Result<Option<f32>, Refusal> {
        let wrong = || Refusal::field(name, format!("{name} must be a number"));
        // What no f32 holds is as good as the largest.
        let number = |value: &Value| value.as_f64().map(|x| (x as f32).clamp(f32::MIN, f32::MAX));
        self.get(name).map(|value| number(value).ok_or_else(wrong)).transpose()
    }

    fn whole(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let wrong = || Refusal::field(name, format!("{name} must be a whole number from 0 up"));
        self.get(name).map(|value| value.as_u64().ok_or_else(wrong)).transpose()
    }

    /// Fields that ask for something that there is not, unless they ask for nothing.
    pub(super) fn refuse_unsupported(&self) -> Result<(), Refusal> {
        let unsupported = |name: &str, instead: &str| {
            let message = format!("{name} is not supported in batches: {instead}");
            Err(Refusal { code: "unsupported", ..Refusal::field(name, message) })
        };
        for name in ["n", "best_of"] {
            if self.whole(name)?.is_some_and(|n| n != 1) {
                return unsupported(name, "write one request for each answer, with other seeds");
            }
        }
        for name in ["stream", "echo"] {
            if self.bool(name)? == Some(true) {
                return unsupported(name, "leave it out");
            }
        }
        let asks = |value: &Value| match value {
            Value::Bool(on) => *on,
            Value::Array(list) => !list.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            Value::String(text) => !text.is_empty(),
            Value::Number(_) | Value::Null => true,
        };
        for name in ["suffix", "tools", "functions"] {
            if self.get(name).is_some_and(asks) {
                return unsupported(name, "leave it out");
            }
        }
        if self.get("tool_choice").is_some_and(|choice| choice != "none" && choice != "auto") {
            return unsupported("tool_choice", "leave it out");
        }
        for name in ["response_schema", "responseSchema", "response_mime_type", "output_format", "text"] {
            if self.get(name).is_some_and(asks) {
                return unsupported(name, "ask for a form with response_format");
            }
        }
        for name in OF_OTHERS {
            if self.get(name).is_some_and(asks) {
                return unsupported(
                    name,
                    "leave it out, or give the option on the command line for all requests",
                );
            }
        }
        Ok(())
    }

    /// The form that the text has to have, if the body speaks of forms.
    pub(super) fn form(&self) -> Result<Option<Form>, Refusal> {
        form::of_body(self.0).map_err(|refused| {
            let refusal = Refusal::field(refused.field, refused.message);
            match refused.unsupported {
                true => Refusal { code: "unsupported", ..refusal },
                false => refusal,
            }
        })
    }

    /// How many of the likeliest tokens are listed with each token of the answer; nothing if probabilities are not asked
    /// for.
    pub(super) fn logprobs(&self, endpoint: Endpoint) -> Result<Option<usize>, Refusal> {
        let (name, n) = match endpoint {
            Endpoint::Completions => ("logprobs", self.whole("logprobs")?),
            Endpoint::Chat => {
                let n = self.whole("top_logprobs")?;
                ("top_logprobs", (self.bool("logprobs")? == Some(true)).then(|| n.unwrap_or(0)))
            }
        };
        match n {
            Some(n) if n > MAX_LOGPROBS => {
                Err(Refusal::field(name, format!("{name} must be at most {MAX_LOGPROBS}")))
            }
            n => Ok(n.map(|n| n as usize)),
        }
    }

    /// The biases by token id.
    fn biases(&self) -> Result<Option<Vec<(u32, f32)>>, Refusal> {
        let wrong = || {
            Refusal::field(
                "logit_bias",
                "logit_bias must be an object of token ids with numbers from -100 to 100",
            )
        };
        let Some(biases) = self.get("logit_bias") else { return Ok(None) };
        let entry = |(id, bias): (&String, &Value)| {
            let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
            // What OpenAI calls a ban is one.
            let bias = if bias == -100.0 { f32::NEG_INFINITY } else { bias as f32 };
            Some((id.parse().ok()?, bias))
        };
        let biases = biases.as_object().ok_or_else(wrong)?.iter().map(entry);
        biases.collect::<Option<Vec<_>>>().map(Some).ok_or_else(wrong)
    }

    pub(super) fn prompt(&self) -> Result<Prompt, Refusal> {
        let expected = "prompt must be a string, or an array of token ids; write one request for each prompt";
        let wrong = || Refusal::field("prompt", expected);
        match self.get("prompt") {
            None => Ok(Prompt::Text(String::new())),
            Some(Value::String(text)) => Ok(Prompt::Text(text.clone())),
            Some(Value::Array(list)) => match &list[..] {
                [Value::String(text)] => Ok(Prompt::Text(text.clone())),
                [] => Err(wrong()),
                ids => {
                    let id = |value: &Value| {
                        let id = value.as_u64().ok_or_else(wrong)?;
                        let message =
                            || format!("prompt: token id {id} is not in the vocabulary of any model");
                        u32::try_from(id).map_err(|_| Refusal::field("prompt", message()))
                    };
                    ids.iter().map(id).collect::<Result<_, _>>().map(Prompt::Tokens)
                }
            },
            Some(_) => Err(wrong()),
        }
    }

    pub(super) fn messages(&self) -> Result<Prompt, Refusal> {
        let wrong =
            || Refusal::field("messages", "messages must be an array of objects with role and content");
        let messages = self.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
        let messages = messages.ok_or_else(wrong)?;
        let role = |message: &Value| message.get("role").is_some_and(Value::is_string);
        match messages.iter().all(role) {
            true => Ok(Prompt::Messages(messages.clone())),
            false => Err(wrong()),
        }
    }

    pub(super) fn sampling(&self, mut params: SamplingParams) -> Result<SamplingParams, Refusal> {
        let set = |name: &str, place: &mut f32| -> Result<(), Refusal> {
            if let Some(value) = self.number(name)? {
                *place = value;
            }
            Ok(())
        };
        set("temperature", &mut params.temperature)?;
        set("top_p", &mut params.top_p)?;
        set("min_p", &mut params.min_p)?;
        set("repeat_penalty", &mut params.repeat_penalty)?;
        set("presence_penalty", &mut params.presence_penalty)?;
        set("frequency_penalty", &mut params.frequency_penalty)?;
        if let Some(k) = self.whole("top_k")? {
            params.top_k = usize::try_from(k).unwrap_or(usize::MAX);
        }
        if let Some(seed) = self.whole("seed")? {
            params.seed = seed;
        }
        if let Some(biases) = self.biases()? {
            params.logit_bias = biases;
        }
        params.validate().map_err(|e| Refusal::field(e.name, e.to_string()))?;
        Ok(params)
    }

    pub(super) fn limit(&self) -> Result<Option<u64>, Refusal> {
        Ok(self.whole("max_completion_tokens")?.or(self.whole("max_tokens")?))
    }

    pub(super) fn stops(&self) -> Result<Option<Vec<String>>, Refusal> {
        let wrong = || {
            let message = format!(
                "stop must be a string or at most {MAX_STOPS} strings, of at most {MAX_STOP_BYTES} bytes each"
            );
            Refusal::field("stop", message)
        };
        let text =
            |stop: &Value| stop.as_str().filter(|text| text.len() <= MAX_STOP_BYTES).map(str::to_owned);
        match self.get("stop") {
            None => Ok(None),
            Some(stop @ Value::String(_)) => Ok(Some(vec![text(stop).ok_or_else(wrong)?])),
            Some(Value::Array(list)) if list.len() <= MAX_STOPS => {
                let texts = list.iter().map(text);
                texts.collect::<Option<Vec<_>>>().map(Some).ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }
}
