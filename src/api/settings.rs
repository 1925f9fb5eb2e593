//! Settings of the sampler as answers name them.

use bitnetc_runtime::sampling::SamplingParams;
use serde_json::{Map, Value, json};

/// A number with no more digits than tell it from its neighbours, as clients write it: 0.7, not 0.699999988079071. Nothing where it
/// is infinite.
pub(super) fn decimal(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, |number| json!(number))
}

/// The settings under llama.cpp's names, but for the seed.
pub(super) fn of_sampler(params: &SamplingParams) -> Map<String, Value> {
    let samplers: Vec<&str> = params.stages.iter().map(|stage| stage.name()).collect();
    let pairs = [
        ("temperature", decimal(params.temperature)),
        ("top_k", json!(params.top_k)),
        ("top_p", decimal(params.top_p)),
        ("min_p", decimal(params.min_p)),
        ("typical_p", decimal(params.typical_p)),
        ("repeat_last_n", json!(params.repeat_last_n)),
        ("repeat_penalty", decimal(params.repeat_penalty)),
        ("presence_penalty", decimal(params.presence_penalty)),
        ("frequency_penalty", decimal(params.frequency_penalty)),
        ("mirostat", json!(if params.mirostat.is_some() { 2 } else { 0 })),
        ("samplers", json!(samplers)),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        let written = [0.7, 0.8, 1.0, 0.05, -2.5, 100.0, 1e-7].map(|x: f32| decimal(x).to_string());
        assert_eq!(written, ["0.7", "0.8", "1.0", "0.05", "-2.5", "100.0", "1e-7"]);
        assert_eq!(decimal(f32::NEG_INFINITY), Value::Null);
        assert_eq!(of_sampler(&SamplingParams::default())["top_p"], json!(0.95));
    }
}
