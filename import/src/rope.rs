//! `rope_scaling` and `rope_parameters` of `config.json`: the scaling of rotary frequencies.
//!
//! transformers has changed the names over time and writes old and new ones side by side: `type` and `rope_type`,
//! `rope_scaling` and `rope_parameters`. What is said twice has to be the same.

use std::collections::BTreeMap;

use bitnetc_frontend_gguf::write::MetaValue;
use bitnetc_ir::rope::{RopeScaling, Theta, frequency};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::refuse;
use crate::error::ImportError;

const KEY: &str = "rope_scaling";

/// What `config.json` says about rotary embeddings, beside `rope_theta`.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    older_type: Option<String>,
    pub(crate) rope_theta: Option<f64>,
    factor: Option<f64>,
    original_max_position_embeddings: Option<u64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    partial_rotary_factor: Option<f64>,
    /// Whether YaRN rounds its bounds, as it does here.
    truncate: Option<bool>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// Refuses a model of which only a part of each head is rotated.
pub(crate) fn check_partial(factor: Option<f64>) -> Result<(), ImportError> {
    match factor {
        None | Some(1.0) => Ok(()),
        Some(x) => refuse("partial_rotary_factor", x.to_string(), "heads are rotated as a whole"),
    }
}

impl Rope {
    /// The one that stands for both.
    pub(crate) fn of(scaling: Option<Self>, parameters: Option<Self>) -> Result<Option<Self>, ImportError> {
        let scaling = scaling.map(Self::checked).transpose()?;
        let parameters = parameters.map(Self::checked).transpose()?;
        if let (Some(scaling), Some(parameters)) = (&scaling, &parameters) {
            // Only the newer one has the base.
            let same = Self { rope_theta: parameters.rope_theta, ..scaling.clone() } == *parameters;
            if !same {
                return Err(ImportError::config(KEY, "says something else than \"rope_parameters\""));
            }
        }
        Ok(parameters.or(scaling))
    }

    /// Refuses what is not supported, whatever the type is, and leaves one name of the type.
    fn checked(mut self) -> Result<Self, ImportError> {
        if let Some(other) = self.others.keys().next() {
            return refuse(KEY, format!("with \"{other}\""), "this variant is not supported");
        }
        check_partial(self.partial_rotary_factor.take())?;
        if self.truncate.take() == Some(false) {
            return refuse(KEY, "with \"truncate\": false", "this variant is not supported");
        }
        let older = self.older_type.take();
        if let (Some(new), Some(old)) = (&self.rope_type, &older)
            && new != old
        {
            let found = format!("of the \"rope_type\" {new} and of the \"type\" {old}");
            return refuse(KEY, found, "both mean the same; leave the wrong one out");
        }
        self.rope_type = self.rope_type.take().or(older);
        Ok(self)
    }

    /// Writes the scaling as GGUF metadata; returns the divisors where it is written as a tensor.
    pub(crate) fn entries(
        &self,
        arch: &str,
        head_dim: u32,
        theta: f32,
        entries: &mut Vec<(String, MetaValue)>,
    ) -> Result<Option<Vec<f32>>, ImportError> {
        let needed = |name: &str, value: Option<f64>| match value {
            Some(x) if x > 0.0 && (x as f32).is_finite() => Ok(x as f32),
            _ => Err(ImportError::config(KEY, format!("needs \"{name}\", a number above zero"))),
        };
        let mut set = |suffix: &str, value: MetaValue| entries.push((format!("{arch}.{suffix}"), value));
        match self.rope_type.as_deref() {
            None | Some("default") => {
                if self.factor.is_some() {
                    return Err(ImportError::config(
                        KEY,
                        "has a factor, but does not say of which type it is",
                    ));
                }
                Ok(None)
            }
            Some("linear") => {
                set("rope.scaling.type", MetaValue::String("linear".into()));
                set("rope.scaling.factor", MetaValue::F32(needed("factor", self.factor)?));
                Ok(None)
            }
            Some("yarn") => {
                let factor = needed("factor", self.factor)?;
                set("rope.scaling.type", MetaValue::String("yarn".into()));
                set("rope.scaling.factor", MetaValue::F32(factor));
                if let Some(n) = self.original_max_position_embeddings {
                    let n = u32::try_from(n);
                    let n =
                        n.map_err(|_| ImportError::config(KEY, "has an original length that is too large"))?;
                    set("rope.scaling.original_context_length", MetaValue::U32(n));
                }
                if self.attention_factor.is_some() {
                    // GGUF has the part of the factor that YaRN does not give by itself.
                    let own = 1.0 + 0.1 * factor.ln();
                    let factor = needed("attention_factor", self.attention_factor)? / own;
                    set("rope.scaling.attn_factor", MetaValue::F32(factor));
                }
                for (suffix, name, value) in [
                    ("rope.scaling.yarn_beta_fast", "beta_fast", self.beta_fast),
                    ("rope.scaling.yarn_beta_slow", "beta_slow", self.beta_slow),
                ] {
                    if value.is_some() {
                        set(suffix, MetaValue::F32(needed(name, value)?));
                    }
                }
                Ok(None)
            }
            Some("llama3") => {
                let scaling = RopeScaling::Llama3 {
                    factor: needed("factor", self.factor)?,
                    low: needed("low_freq_factor", self.low_freq_factor)?,
                    high: needed("high_freq_factor", self.high_freq_factor)?,
                    original: needed(
                        "original_max_position_embeddings",
                        self.original_max_position_embeddings.map(|n| n as f64),
                    )?,
                };
                if head_dim > bitnetc_frontend_gguf::limits::MAX_WIDTH as u32 {
                    return refuse("head_dim", head_dim.to_string(), "it is too large");
                }
                let turned = |scaling, j| frequency(Theta { base: theta, scaling }, head_dim, j);
                let divisor = |j| (turned(RopeScaling::None, j) / turned(scaling, j)) as f32;
                Ok(Some((0..head_dim / 2).map(divisor).collect()))
            }
            Some(other) => refuse(KEY, other, "linear, yarn and llama3 are supported"),
        }
    }
}
