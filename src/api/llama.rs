//! Requests of llama.cpp's `/completion`.

use serde_json::{Value, json};

use super::asked::Asked;
use super::body::Body;
use super::fields::{N_PROBS, RETURN_TOKEN_IDS, TIMINGS_PER_TOKEN};
use super::openai::check_model;
use super::reply::llama::LlamaShape;
use super::reply::{Reply, Shown};
use super::settings::{decimal, of_sampler};
use super::{Call, Reading, Refusal, Route, Service, prompt};

/// Reads a request.
///
/// # Errors
/// What is wrong with it.
pub(super) fn accept(service: &Service, value: &Value, how: &Reading<'_>) -> Result<Call, Refusal> {
    let body = Body::new(Route::LlamaCompletion, value)?;
    check_model(body, service)?;
    let prompts = prompt::of_body(body, service)?;
    let logprobs = body.count(&N_PROBS).filter(|&n| n > 0).map(|n| n as usize);
    let asked = Asked::of_body(body, service, prompts, logprobs, how)?;
    let shown = Shown {
        logprobs: asked.options.logprobs,
        token_ids: body.is_on(&RETURN_TOKEN_IDS),
        timings_per_token: body.is_on(&TIMINGS_PER_TOKEN),
        measured: how.measured,
        ..Shown::default()
    };
    let choices = asked.prepare(service, how)?;
    let stops = asked.options.stop.clone();
    let shape = Box::new(LlamaShape::new(
        settings(&asked, service),
        stops,
        value.get("prompt").is_some_and(Value::is_array),
    ));
    let reply = Reply::new(service, shape, &asked, shown, how, asked.stream);
    Ok(Call { choices, reply })
}

/// The settings that the answer names.
fn settings(asked: &Asked, service: &Service) -> Value {
    let (params, options) = (&asked.params, &asked.options);
    let biases: Vec<Value> =
        params.logit_bias.iter().map(|&(id, bias)| json!({ "token": id, "bias": decimal(bias) })).collect();
    let mut all = of_sampler(params);
    let others = json!({
        "n_ctx": service.context,
        "seed": params.seed,
        "logit_bias": biases,
        "n_predict": options.limit.map_or(json!(-1), |limit| json!(limit)),
        "max_tokens": options.limit.map_or(json!(-1), |limit| json!(limit)),
        "ignore_eos": options.ignore_end,
        "stop": options.stop.iter().collect::<Vec<_>>(),
        "n_probs": options.logprobs.unwrap_or(0),
        "stream": asked.stream,
    });
    if let Value::Object(others) = others {
        all.extend(others);
    }
    Value::Object(all)
}
