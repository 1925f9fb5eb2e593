//! Settings of the sampler.

use std::sync::Arc;

use crate::tokenizer::TokenId;

/// A stage of the sampler chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Makes recent tokens less likely; see [`SamplingParams::repeat_penalty`].
    Penalties,
    /// Keeps the `top_k` best tokens.
    TopK,
    /// Keeps the tokens whose surprise is nearest to what is to be expected, up to `typical_p` of probability.
    TypicalP,
    /// Keeps the fewest best tokens that together have probability `top_p`.
    TopP,
    /// Keeps the tokens at least `min_p` times as likely as the best.
    MinP,
    /// Divides the logits by `temperature`, or keeps only the best token.
    Temperature,
}

impl Stage {
    /// The order of llama.cpp.
    pub const DEFAULT_ORDER: [Self; 6] =
        [Self::Penalties, Self::TopK, Self::TypicalP, Self::TopP, Self::MinP, Self::Temperature];

    /// The name in llama.cpp's `--samplers`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::TopK => "top_k",
            Self::TypicalP => "typ_p",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Temperature => "temperature",
        }
    }

    /// The stage with this name, or one of the other names that llama.cpp takes for it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "penalties" => Self::Penalties,
            "top_k" | "top-k" => Self::TopK,
            "typ_p" | "typ-p" | "typ" | "typical" | "typical_p" | "typical-p" => Self::TypicalP,
            "top_p" | "top-p" | "nucleus" => Self::TopP,
            "min_p" | "min-p" => Self::MinP,
            "temperature" | "temp" => Self::Temperature,
            _ => return None,
        })
    }
}

/// Settings of Mirostat 2, which keeps the surprise of the text near a target (Basu et al., arXiv 2007.14966).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mirostat {
    /// The surprise to keep, in bits a token (llama.cpp: `--mirostat-ent`, 5).
    pub tau: f32,
    /// How fast to correct (llama.cpp: `--mirostat-lr`, 0.1).
    pub eta: f32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Self { tau: 5.0, eta: 0.1 }
    }
}

/// Settings of the sampler, with the defaults of llama.cpp.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divisor of the logits; 0 or less takes the most likely token (greedy). Default 0.8.
    pub temperature: f32,
    /// Number of best tokens to keep; 0 keeps all. Default 40.
    pub top_k: usize,
    /// Probability mass to keep; 1 or more keeps all, 0 the best token. Default 0.95.
    pub top_p: f32,
    /// Probability mass of the most typical tokens to keep; 1 or more keeps all, 0 the most typical one. Default 1.
    pub typical_p: f32,
    /// Least probability relative to the best token; 0 keeps all, 1 or more the best. Default 0.05.
    pub min_p: f32,
    /// Positive logits of recent tokens are divided by this, the others multiplied. 1 changes nothing. Default 1.
    pub repeat_penalty: f32,
    /// Taken from the logit of a recent token for each of its occurrences. Default 0.
    pub frequency_penalty: f32,
    /// Taken once from the logit of a recent token. Default 0.
    pub presence_penalty: f32,
    /// How many of the latest tokens, prompt included, count as recent; 0 turns the penalties off. Default 64.
    pub repeat_last_n: usize,
    /// Added to the logits of these tokens before everything else; −∞ forbids a token. Shared by the clones of the settings.
    pub logit_bias: Arc<[(TokenId, f32)]>,
    /// Mirostat 2 in place of the filters: of the stages, only penalties and temperature are applied. Default: no.
    pub mirostat: Option<Mirostat>,
    /// Seed of the random numbers. Default 0.
    pub seed: u64,
    /// Stages in the order in which they are applied. Default [`Stage::DEFAULT_ORDER`].
    pub stages: Vec<Stage>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            typical_p: 1.0,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            logit_bias: Arc::default(),
            mirostat: None,
            seed: 0,
            stages: Stage::DEFAULT_ORDER.to_vec(),
        }
    }
}

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but must be {range}")]
#[non_exhaustive]
pub struct ParamError {
    /// The setting.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// The values that it may have.
    pub range: &'static str,
}

impl SamplingParams {
    /// Largest value of `repeat_last_n`.
    pub const MAX_LAST_N: usize = 1 << 20;
    /// Most entries of `logit_bias`.
    pub const MAX_BIASES: usize = 1 << 16;

    /// The settings for always taking the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every setting. Temperatures below 1e-5 that are not 0 or less are refused: dividing by them overflows.
    pub fn validate(&self) -> Result<(), ParamError> {
        let check = |name, value: f32, ok: bool, range| {
            if ok { Ok(()) } else { Err(ParamError { name, value: f64::from(value), range }) }
        };
        let t = self.temperature;
        check("temperature", t, t.is_finite() && (t <= 0.0 || t >= 1e-5), "0 (greedy), or from 0.00001 up")?;
        check(
            "top_p",
            self.top_p,
            self.top_p >= 0.0,
            "0 (the likeliest token), or more (1 keeps all tokens)",
        )?;
        let typical_p = self.typical_p;
        check(
            "typical_p",
            typical_p,
            typical_p >= 0.0,
            "0 (the most typical token), or more (1 keeps all tokens)",
        )?;
        check("min_p", self.min_p, self.min_p >= 0.0, "0 (all tokens), or more (1 keeps the likeliest)")?;
        let r = self.repeat_penalty;
        check("repeat_penalty", r, r.is_finite() && r > 0.0, "above 0 (1 changes nothing)")?;
        let penalties =
            [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)];
        for (name, value) in penalties {
            check(name, value, value.is_finite(), "a finite number (0 changes nothing)")?;
        }
        for &(_, bias) in &*self.logit_bias {
            check("logit_bias", bias, bias < f32::INFINITY, "a number, or -inf to forbid a token")?;
        }
        if self.logit_bias.len() > Self::MAX_BIASES {
            let value = self.logit_bias.len() as f64;
            let range = "a list of at most 65536 tokens";
            return Err(ParamError { name: "logit_bias", value, range });
        }
        if let Some(Mirostat { tau, eta }) = self.mirostat {
            check("mirostat_ent", tau, tau.is_finite() && tau > 0.0, "above 0")?;
            check("mirostat_lr", eta, eta.is_finite() && eta >= 0.0, "0 or more")?;
        }
        if self.repeat_last_n > Self::MAX_LAST_N {
            let value = self.repeat_last_n as f64;
            return Err(ParamError { name: "repeat_last_n", value, range: "at most 1048576" });
        }
        Ok(())
    }

    /// Whether the temperature asks for the most likely token.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 && self.stages.contains(&Stage::Temperature)
    }

    pub(super) fn penalises(&self) -> bool {
        self.repeat_last_n > 0
            && (self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0)
    }

    /// The stages that change anything. Where the most likely token is wanted, the filters in front of that choice
    /// are left out, because they keep it; unless penalties, which may change it, come after one of them. Typical
    /// sampling does not keep it, so what stands in front of it stays too.
    pub(super) fn effective_stages(&self) -> Vec<Stage> {
        let mut stages = self.stages.clone();
        stages.retain(|stage| match stage {
            Stage::Penalties => self.penalises(),
            Stage::TopK => self.top_k > 0,
            Stage::TypicalP => self.typical_p < 1.0,
            Stage::TopP => self.top_p < 1.0,
            Stage::MinP => self.min_p > 0.0,
            Stage::Temperature => self.temperature != 1.0,
        });
        if self.mirostat.is_some() {
            stages.retain(|stage| matches!(stage, Stage::Penalties | Stage::Temperature));
        }
        let last_penalty = stages.iter().rposition(|&stage| stage == Stage::Penalties).map_or(0, |at| at + 1);
        let typical = stages.contains(&Stage::TypicalP);
        if self.is_greedy() && last_penalty <= 1 && !typical {
            stages.retain(|stage| matches!(stage, Stage::Penalties | Stage::Temperature));
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_those_of_llama_cpp() {
        let params = SamplingParams::default();
        assert_eq!(params.validate(), Ok(()));
        assert_eq!(params.effective_stages(), [Stage::TopK, Stage::TopP, Stage::MinP, Stage::Temperature]);
        assert_eq!(SamplingParams::greedy().effective_stages(), [Stage::Temperature]);
    }

    #[test]
    fn bad_settings_are_named() {
        let bad = |change: fn(&mut SamplingParams)| {
            let mut params = SamplingParams::default();
            change(&mut params);
            params.validate().unwrap_err().name
        };
        assert_eq!(bad(|params| params.temperature = f32::NAN), "temperature");
        assert_eq!(bad(|params| params.temperature = f32::INFINITY), "temperature");
        assert_eq!(bad(|params| params.temperature = 1e-20), "temperature");
        assert_eq!(bad(|params| params.top_p = -0.1), "top_p");
        assert_eq!(bad(|params| params.top_p = f32::NAN), "top_p");
        assert_eq!(bad(|params| params.min_p = f32::NAN), "min_p");
        assert_eq!(bad(|params| params.min_p = -0.1), "min_p");
        assert_eq!(bad(|params| params.repeat_penalty = 0.0), "repeat_penalty");
        assert_eq!(bad(|params| params.frequency_penalty = f32::NAN), "frequency_penalty");
        assert_eq!(bad(|params| params.presence_penalty = f32::INFINITY), "presence_penalty");
        assert_eq!(bad(|params| params.repeat_last_n = usize::MAX), "repeat_last_n");
        assert_eq!(bad(|params| params.typical_p = -1.0), "typical_p");
        assert_eq!(bad(|params| params.logit_bias = [(1, f32::NAN)].into()), "logit_bias");
        assert_eq!(bad(|params| params.logit_bias = [(1, f32::INFINITY)].into()), "logit_bias");
        assert_eq!(bad(|params| params.logit_bias = vec![(1, 0.0); 1 << 17].into()), "logit_bias");
        assert_eq!(bad(|params| params.mirostat = Some(Mirostat { tau: 0.0, eta: 0.1 })), "mirostat_ent");
        assert_eq!(bad(|params| params.mirostat = Some(Mirostat { tau: 5.0, eta: -1.0 })), "mirostat_lr");
    }

    #[test]
    fn stages_have_the_names_of_llama_cpp() {
        for stage in Stage::DEFAULT_ORDER {
            assert_eq!(Stage::named(stage.name()), Some(stage));
        }
        assert_eq!(Stage::named("temp"), Some(Stage::Temperature));
        assert_eq!(Stage::named("typical"), Some(Stage::TypicalP));
        assert_eq!(Stage::named("dry"), None);
    }

    #[test]
    fn filters_stay_where_penalties_follow_them() {
        let params = SamplingParams {
            repeat_penalty: 1.5,
            stages: vec![Stage::TopK, Stage::Penalties, Stage::Temperature],
            ..SamplingParams::greedy()
        };
        assert_eq!(params.effective_stages(), params.stages);
    }
}
