//! What a request asks of the engine, whatever API it speaks: the common part of all of them.
//!
//! Choice `i` of a prompt has the seed of the request plus `i`, so that each can be had alone; what stands beside a prompt in
//! a list changes nothing for it.

use std::sync::Arc;

use bitnetc_runtime::sampling::{Mirostat, SamplingParams, StopList};
use bitnetc_runtime::tokenizer::TokenId;
use serde_json::Value;

use super::body::{Body, token_id};
use super::fields::*;
use super::form::Form;
use super::prepared::{Prepared, SharedForm};
use super::prompt::Prompt;
use super::utilities::check_text;
use super::{Reading, Refusal, Service};
use crate::constraint::{GrammarSource, MakeConstraint};
use crate::engine::{CacheUse, GenerateOptions, Request, Salt, SeatIndex};

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The prompts, each with as many choices.
    pub(super) prompts: Vec<Prompt>,
    /// Choices of each.
    pub(super) choices: usize,
    /// Settings of the sampler, with the seed of the first choice.
    pub(super) params: SamplingParams,
    /// When texts end.
    pub(super) options: GenerateOptions,
    /// What they have to follow.
    pub(super) form: Option<Form>,
    /// Whether the tokens of the prompt are scored, and how many of the likeliest are listed.
    pub(super) prompt_logprobs: Option<usize>,
    /// Whether streams say how far their prompts have been read.
    pub(super) progress: bool,
    /// What may be reused for prompts.
    pub(super) cache: CacheUse,
    /// Whether every token is an event.
    pub(super) stream: bool,
    /// The field that the prompts come from.
    pub(super) prompt_field: &'static str,
}

/// A random seed. Of 32 bits, which every client's numbers hold.
pub fn random_seed() -> u64 {
    random_bits() & 0xffff_ffff
}

/// Bits that nobody can foresee.
pub(super) fn random_bits() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The hasher of a new map is keyed by the system's random source.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// The biases by token id: an object, or llama.cpp's list of pairs, whose tokens may be given as text.
fn biases(value: &Value, service: &Service) -> Result<Arc<[(TokenId, f32)]>, Refusal> {
    let wrong = || {
        let message = "logit_bias must be an object of token ids with numbers from -100 to 100, or a list of pairs [token \
                       id or text, number or false]";
        Refusal::field("logit_bias", message)
    };
    let bias = |value: &Value| match value {
        Value::Bool(false) => Some(f32::NEG_INFINITY),
        value => {
            let bias = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
            // What OpenAI calls a ban is one.
            Some(if bias == -100.0 { f32::NEG_INFINITY } else { bias as f32 })
        }
    };
    let pair = |pair: &Value| -> Option<Vec<(TokenId, f32)>> {
        let [token, value] = &pair.as_array()?[..] else { return None };
        let bias = bias(value)?;
        let ids = match token {
            Value::String(text) => service.model.tokenizer().encode(text, false, true).ok()?,
            id => vec![token_id(id)?],
        };
        Some(ids.into_iter().map(|id| (id, bias)).collect())
    };
    let texts: usize = match value {
        Value::Array(list) => list.iter().filter_map(|pair| pair.get(0)?.as_str()).map(str::len).sum(),
        _ => 0,
    };
    check_text(texts, "logit_bias")?;
    let too_many = |count: usize| count > SamplingParams::MAX_BIASES;
    let biases: Option<Vec<(TokenId, f32)>> = match value {
        Value::Object(map) if too_many(map.len()) => None,
        Value::Object(map) => map.iter().map(|(id, value)| Some((id.parse().ok()?, bias(value)?))).collect(),
        Value::Array(list) if too_many(list.len()) => None,
        Value::Array(list) => list.iter().map(pair).collect::<Option<Vec<_>>>().map(|pairs| pairs.concat()),
        _ => None,
    };
    let biases = biases.ok_or_else(wrong)?;
    match biases.iter().find(|&&(id, _)| id >= service.vocab()) {
        Some((id, _)) => {
            let message =
                format!("logit_bias: there is no token {id}; the vocabulary has {}", service.vocab());
            Err(Refusal::field("logit_bias", message))
        }
        None => Ok(biases.into()),
    }
}

/// Settings of the sampler; what the body does not say is that of `params`.
fn sampling(body: Body<'_>, service: &Service, seed: Option<u64>) -> Result<SamplingParams, Refusal> {
    let mut params = service.defaults.params.clone();
    let set = |field: &Field, place: &mut f32| {
        if let Some(value) = body.number(field) {
            *place = value;
        }
    };
    set(&TEMPERATURE, &mut params.temperature);
    set(&TOP_P, &mut params.top_p);
    set(&MIN_P, &mut params.min_p);
    set(&TYPICAL_P, &mut params.typical_p);
    set(&REPEAT_PENALTY, &mut params.repeat_penalty);
    set(&PRESENCE_PENALTY, &mut params.presence_penalty);
    set(&FREQUENCY_PENALTY, &mut params.frequency_penalty);
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    match body.count(&TOP_K) {
        Some(k) => params.top_k = size(k),
        None if body.is_negative(&TOP_K) => params.top_k = 0,
        None => {}
    }
    match body.count(&REPEAT_LAST_N) {
        Some(n) => params.repeat_last_n = size(n),
        None if body.is_negative(&REPEAT_LAST_N) => params.repeat_last_n = SamplingParams::MAX_LAST_N,
        None => {}
    }
    match body.count(&MIROSTAT) {
        Some(0) => params.mirostat = None,
        Some(1) => {
            return Err(Refusal::unsupported(
                "mirostat",
                "mirostat must be 0 (off) or 2: there is no version 1",
            ));
        }
        Some(_) => params.mirostat = params.mirostat.or(Some(Mirostat::default())),
        None => {}
    }
    if let Some(mirostat) = &mut params.mirostat {
        set(&MIROSTAT_TAU, &mut mirostat.tau);
        set(&MIROSTAT_ETA, &mut mirostat.eta);
    }
    if let Some(value) = body.get(&LOGIT_BIAS) {
        params.logit_bias = biases(value, service)?;
    }
    let random = body.is_negative(&SEED);
    params.seed = body.count(&SEED).or(seed.filter(|_| !random)).unwrap_or_else(random_seed);
    params.validate().map_err(|e| Refusal::field(e.name, e.to_string()))?;
    Ok(params)
}

/// Tokens at most: the smaller of both fields, else what is the default.
fn limit(body: Body<'_>, service: &Service) -> Option<u64> {
    let given = [&MAX_TOKENS, &MAX_COMPLETION_TOKENS].into_iter().filter_map(|field| body.count(field));
    given.min().or(service.defaults.options.limit)
}

/// The stop strings of the body, or the default ones.
fn stops(body: Body<'_>, service: &Service) -> Result<StopList, Refusal> {
    let limits = &service.limits;
    let Some(stops) = body.texts(&STOP) else { return Ok(service.defaults.options.stop.clone()) };
    let all: usize = stops.iter().map(String::len).sum();
    if stops.len() > limits.stops
        || stops.iter().any(|stop| stop.len() > limits.stop_bytes)
        || all > limits.all_stop_bytes
    {
        let message = format!(
            "stop must be a string or at most {} strings, of at most {} bytes each and {} bytes together",
            limits.stops, limits.stop_bytes, limits.all_stop_bytes
        );
        return Err(Refusal::field("stop", message));
    }
    Ok(stops.into())
}

/// The tokens that end a text.
fn stop_tokens(body: Body<'_>, service: &Service) -> Result<Vec<TokenId>, Refusal> {
    let Some(ids) = body.tokens(&STOP_TOKEN_IDS) else { return Ok(Vec::new()) };
    if ids.len() > service.limits.stops {
        let message = format!("stop_token_ids may have at most {} tokens", service.limits.stops);
        return Err(Refusal::field("stop_token_ids", message));
    }
    match ids.iter().find(|&&id| id >= service.vocab()) {
        Some(id) => {
            let message =
                format!("stop_token_ids: there is no token {id}; the vocabulary has {}", service.vocab());
            Err(Refusal::field("stop_token_ids", message))
        }
        None => Ok(ids),
    }
}

/// When texts end.
fn options(body: Body<'_>, service: &Service, logprobs: Option<usize>) -> Result<GenerateOptions, Refusal> {
    let defaults = &service.defaults.options;
    let (limit, min_tokens) = (limit(body, service), body.count(&MIN_TOKENS).unwrap_or(defaults.min_tokens));
    if limit.is_some_and(|limit| min_tokens > limit) {
        let message =
            format!("min_tokens is {min_tokens}, more than the {} tokens at most", limit.unwrap_or(0));
        return Err(Refusal::field("min_tokens", message));
    }
    Ok(GenerateOptions {
        limit,
        min_tokens,
        ignore_end: body.bool(&IGNORE_EOS).unwrap_or(defaults.ignore_end),
        stop: stops(body, service)?,
        stop_tokens: stop_tokens(body, service)?,
        include_stop: body.bool(&INCLUDE_STOP).unwrap_or(defaults.include_stop),
        visible: defaults.visible.clone(),
        logprobs: logprobs.or(defaults.logprobs),
    })
}

/// Choices of each prompt.
fn choices(body: Body<'_>, service: &Service) -> Result<usize, Refusal> {
    let (n, most) = (body.count(&N).unwrap_or(1), service.limits.choices);
    let best = body.count(&BEST_OF).unwrap_or(n);
    if best != n {
        let message = format!("best_of is {best}, but must be n ({n}): all choices are returned");
        return Err(Refusal::unsupported("best_of", message));
    }
    let n = usize::try_from(n).ok().filter(|&n| n <= most);
    n.ok_or_else(|| Refusal::field("n", format!("n must be at most {most}")))
}

/// A form that the options of the command ask for.
fn of_options(source: GrammarSource) -> Form {
    Form { field: "the form of the command's options", source: Some(source) }
}

impl Asked {
    /// Reads the fields that the routes of OpenAI share. `logprobs` is how many of the likeliest tokens are listed with each token.
    ///
    /// # Errors
    /// What is wrong with a field.
    pub(super) fn of_body(
        body: Body<'_>,
        service: &Service,
        prompts: Vec<Prompt>,
        logprobs: Option<usize>,
        how: &Reading<'_>,
    ) -> Result<Self, Refusal> {
        let form = body.form()?.or_else(|| service.defaults.form.clone().map(of_options));
        let seat = body.count(&ID_SLOT).and_then(|id| u32::try_from(id).ok()).map(SeatIndex);
        Ok(Self {
            prompts,
            choices: choices(body, service)?,
            params: sampling(body, service, how.seed)?,
            options: options(body, service, logprobs)?,
            form,
            prompt_logprobs: body.count(&PROMPT_LOGPROBS).map(|n| n as usize),
            progress: body.is_on(&STREAM) && body.is_on(&RETURN_PROGRESS),
            cache: CacheUse {
                read: body.bool(&CACHE_PROMPT).unwrap_or(true),
                salt: body.text(&CACHE_SALT).map(Salt::of),
                seat,
            },
            stream: body.is_on(&STREAM),
            prompt_field: "prompt",
        })
    }

    /// The strings that end the texts of a prompt.
    pub(super) fn stops_of(&self, prompt: &Prompt) -> StopList {
        self.options.stop.with(prompt.stop.iter().map(String::as_str))
    }

    /// The choices as the engine takes them, in the order of their indices, while their form begins to be compiled.
    ///
    /// # Errors
    /// A prompt that has unknown tokens, or that the context has no room for.
    pub(super) fn prepare(&self, service: &Service, how: &Reading<'_>) -> Result<Vec<Prepared>, Refusal> {
        self.prompts.iter().try_for_each(|prompt| self.check(prompt, service, how.fits))?;
        self.check_entries(service)?;
        self.reserve(service, how)?;
        let form = match &self.form {
            Some(Form { field, source: Some(grammar) }) if how.forms => {
                Some((*field, SharedForm::new(service.model.compile(grammar))))
            }
            _ => None,
        };
        let mut prepared = Vec::with_capacity(self.prompts.len() * self.choices);
        for prompt in &self.prompts {
            let stop = self.stops_of(prompt);
            for choice in 0..self.choices {
                let seed = self.params.seed.wrapping_add(choice as u64);
                let params = SamplingParams { seed, ..self.params.clone() };
                let options = GenerateOptions { stop: stop.clone(), ..self.options.clone() };
                let request = Request::new(Arc::clone(&prompt.tokens), params, options);
                let mut request = request.map_err(|why| Refusal::of_error(&why.into(), None))?;
                request.stream = self.stream;
                request.progress = self.progress;
                request.prompt_logprobs = self.prompt_logprobs;
                request.cache = self.cache;
                prepared.push(Prepared::new(request, form.clone()));
            }
        }
        Ok(prepared)
    }

    /// Takes places for all texts of the request.
    fn reserve(&self, service: &Service, how: &Reading<'_>) -> Result<(), Refusal> {
        let Some(reserve) = how.reserve else { return Ok(()) };
        let context = u64::from(service.context);
        let tokens = |prompt: &Prompt| {
            let prompt = prompt.tokens.len() as u64;
            prompt + self.options.limit.unwrap_or(context).min(context.saturating_sub(prompt))
        };
        let tokens: u64 = self.prompts.iter().map(tokens).sum();
        reserve(self.prompts.len() * self.choices, tokens.saturating_mul(self.choices as u64))
    }

    /// Whether an answer in one piece stays within its bounds, however long its texts become.
    fn check_entries(&self, service: &Service) -> Result<(), Refusal> {
        let (context, most) = (u64::from(service.context), service.limits.entries);
        let listed = |top: usize| (top as u64).saturating_add(1);
        let of_prompt = |prompt: &Prompt| {
            let tokens = prompt.tokens.len() as u64;
            let made = self.options.limit.unwrap_or(context).min(context.saturating_sub(tokens));
            let scored = self.prompt_logprobs.map_or(0, listed).saturating_mul(tokens);
            made.saturating_mul(self.options.logprobs.map_or(1, listed)).saturating_add(scored)
        };
        let entries: u64 = self.prompts.iter().map(of_prompt).fold(0, u64::saturating_add);
        let entries = entries.saturating_mul(self.choices as u64);
        if self.stream || entries <= most {
            return Ok(());
        }
        let field = if self.options.logprobs.is_some() { "logprobs" } else { "max_tokens" };
        let message = format!(
            "{field}: the answer could have {entries} entries (choices × tokens × (1 + logprobs)), and an answer in one piece may \
             have {most}: ask for fewer prompts, choices, tokens or logprobs, or for a stream"
        );
        Err(Refusal::field(field, message))
    }

    /// Whether a prompt can be answered: known tokens, and room for one more.
    fn check(&self, prompt: &Prompt, service: &Service, fits: bool) -> Result<(), Refusal> {
        let (tokens, context, vocab) = (prompt.tokens.len() as u64, service.context, service.vocab());
        let of_field = |refusal: Refusal| Refusal { param: Some(self.prompt_field.to_owned()), ..refusal };
        if tokens == 0 {
            return Err(of_field(Refusal::field("prompt", "the prompt has no tokens")));
        }
        if let Some(id) = prompt.tokens.iter().find(|&&id| id >= vocab) {
            let message = format!("prompt: token id {id} is not in the vocabulary of {vocab} tokens");
            return Err(of_field(Refusal::field("prompt", message)));
        }
        let made = u64::from(self.options.limit != Some(0));
        match fits && tokens + made > u64::from(context) {
            true => Err(of_field(Refusal::context_length(tokens, context))),
            false => Ok(()),
        }
    }
}
