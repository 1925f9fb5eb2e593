//! `config.json`: hyper-parameters as GGUF metadata, and how the linear layers are stored.
//!
//! Names and defaults are those of `transformers`: `models/bitnet/configuration_bitnet.py`,
//! `models/llama/configuration_llama.py`, `models/qwen3/configuration_qwen3.py`, `BitNetQuantConfig` in
//! `utils/quantization_config.py`. Ranges are checked by the GGUF front-end, which reads the metadata back; what is
//! refused here is what GGUF has no key for.

use bitnetc_frontend_gguf::printable;
use bitnetc_frontend_gguf::write::MetaValue;
use serde::Deserialize;

use crate::error::ImportError;
use crate::rope::{self, Rope};
use crate::{json, limits};

const FILE: &str = "config.json";

/// A class of models in transformers.
#[derive(Debug)]
pub(crate) struct Class {
    /// Its name in `architectures`.
    name: &'static str,
    /// Architectures in GGUF, by activation.
    activations: &'static [(&'static str, &'static str)],
    /// `rope_theta` where the file has none.
    theta: f64,
    /// Whether models of this class are always trained with ternary layers.
    pub(crate) always_ternary: bool,
}

static CLASSES: &[Class] = &[
    Class {
        name: "BitNetForCausalLM",
        activations: &[("relu2", "bitnet-b1.58"), ("silu", "bitnet")],
        theta: 500_000.0,
        always_ternary: true,
    },
    Class {
        name: "LlamaForCausalLM",
        activations: &[("silu", "llama")],
        theta: 10_000.0,
        always_ternary: false,
    },
    Class {
        name: "Qwen3ForCausalLM",
        activations: &[("silu", "qwen3")],
        theta: 10_000.0,
        always_ternary: false,
    },
];

/// How the weights of the linear layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing is said.
    Unsaid,
    /// Ternary, with a scale; `inverse` if results are divided by it.
    Offline {
        /// Class `BitLinear` of transformers, not `AutoBitLinear`.
        inverse: bool,
    },
    /// Master weights, to be made ternary by their mean magnitude.
    Online,
}

/// What `config.json` says.
#[derive(Debug)]
pub(crate) struct Config {
    /// The class.
    pub(crate) class: &'static Class,
    /// GGUF metadata.
    pub(crate) entries: Vec<(String, MetaValue)>,
    /// Divisors of the rotary frequencies, for the tensor `rope_freqs.weight`.
    pub(crate) rope_divisors: Option<Vec<f32>>,
    /// Rows of the embedding.
    pub(crate) vocab: usize,
    /// Whether the head is the embedding, if the file says so.
    pub(crate) tied: Option<bool>,
    /// How linear layers are stored.
    pub(crate) stored: Stored,
    /// Modules that are no ternary layers.
    pub(crate) unconverted: Vec<String>,
    /// Begin-of-sequence token.
    pub(crate) bos: Option<i64>,
    /// Tokens that end a text.
    pub(crate) eos: Vec<i64>,
    /// Padding token.
    pub(crate) pad: Option<i64>,
    /// Defaults that were used.
    pub(crate) notes: Vec<String>,
}

#[derive(Deserialize)]
struct Json {
    architectures: Option<Vec<String>>,
    vocab_size: Option<u64>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<u64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<Quantization>,
    #[serde(flatten)]
    special: Special,
}

/// The ids of special tokens, in `config.json` and in `generation_config.json`.
#[derive(Deserialize, Default)]
pub(crate) struct Special {
    bos_token_id: Option<i64>,
    eos_token_id: Option<Ids>,
    pad_token_id: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(i64),
    Some(Vec<i64>),
}

#[derive(Deserialize)]
struct Quantization {
    quant_method: Option<String>,
    linear_class: Option<String>,
    quantization_mode: Option<String>,
    use_rms_norm: Option<bool>,
    modules_to_not_convert: Option<Vec<String>>,
}

/// Refuses a value of `config.json`.
pub(crate) fn refuse<T>(key: &str, found: impl AsRef<str>, why: &str) -> Result<T, ImportError> {
    Err(ImportError::config(key, format!("is {}: {why}", printable(found.as_ref()))))
}

impl Config {
    /// Reads `config.json`, and `generation_config.json` for the tokens that end a text.
    pub(crate) fn read(config: &[u8], generation: Option<&[u8]>) -> Result<Self, ImportError> {
        let json: Json = json::parse(FILE, config, limits::MAX_CONFIG_BYTES)?;
        let names = json.architectures.as_deref().unwrap_or_default();
        let Some(class) = CLASSES.iter().find(|class| names.first().is_some_and(|n| n == class.name)) else {
            let known: Vec<&str> = CLASSES.iter().map(|c| c.name).collect();
            let why = format!("{} are imported", known.join(", "));
            return refuse("architectures", names.first().map_or("absent", String::as_str), &why);
        };
        let mut notes = Vec::new();
        let activation = json.hidden_act.as_deref().unwrap_or(class.activations[0].0);
        let Some(&(activation, arch)) = class.activations.iter().find(|(name, _)| *name == activation) else {
            return refuse("hidden_act", activation, "models of this class have another activation");
        };
        for (key, set) in [
            ("attention_bias", json.attention_bias),
            ("mlp_bias", json.mlp_bias),
            ("use_sliding_window", json.use_sliding_window),
        ] {
            if set == Some(true) {
                return refuse(key, "true", "this variant of the model is not supported");
            }
        }
        rope::check_partial(json.partial_rotary_factor)?;
        if let Some(other) = json.layer_types.iter().flatten().find(|ty| *ty != "full_attention") {
            return refuse("layer_types", other, "all layers have full attention here");
        }
        let required = |key: &'static str, value: Option<u64>| {
            let value = value.ok_or_else(|| ImportError::config(key, "is missing, and has no default"))?;
            u32::try_from(value)
                .map_err(|_| ImportError::config(key, format!("is {value}, which is too large")))
        };
        let key = |suffix: &str| format!("{arch}.{suffix}");
        let vocab = required("vocab_size", json.vocab_size)?;
        let hidden = required("hidden_size", json.hidden_size)?;
        let heads = required("num_attention_heads", json.num_attention_heads)?;
        let context = required("max_position_embeddings", json.max_position_embeddings)?;
        let kv_heads = match json.num_key_value_heads {
            Some(_) => required("num_key_value_heads", json.num_key_value_heads)?,
            None => {
                notes.push(format!(
                    "num_key_value_heads is absent; {heads} is used, as many as attention heads"
                ));
                heads
            }
        };
        let head_dim = match json.head_dim {
            Some(_) => required("head_dim", json.head_dim)?,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return refuse("num_attention_heads", heads.to_string(), "it does not divide hidden_size");
            }
        };
        let Some(eps) = json.rms_norm_eps else {
            return Err(ImportError::config("rms_norm_eps", "is missing, and has no default"));
        };
        let mut entries = vec![
            ("general.architecture".to_owned(), MetaValue::String(arch.to_owned())),
            (key("hidden_activation"), MetaValue::String(activation.to_owned())),
            (key("attention.layer_norm_rms_epsilon"), MetaValue::F32(eps as f32)),
        ];
        for (suffix, value) in [
            ("vocab_size", vocab),
            ("context_length", context),
            ("embedding_length", hidden),
            ("block_count", required("num_hidden_layers", json.num_hidden_layers)?),
            ("feed_forward_length", required("intermediate_size", json.intermediate_size)?),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv_heads),
            ("attention.key_length", head_dim),
            ("attention.value_length", head_dim),
            ("rope.dimension_count", head_dim),
        ] {
            entries.push((key(suffix), MetaValue::U32(value)));
        }
        let rope = Rope::of(json.rope_scaling, json.rope_parameters)?;
        let theta = match (json.rope_theta, rope.as_ref().and_then(|rope| rope.rope_theta)) {
            (Some(outer), Some(inner)) if outer != inner => {
                let why =
                    "the one in rope_parameters differs, and versions of transformers take one or the other";
                return refuse("rope_theta", outer.to_string(), why);
            }
            (Some(theta), _) | (None, Some(theta)) => theta,
            (None, None) => {
                notes
                    .push(format!("rope_theta is absent; {} is used, the default of the class", class.theta));
                class.theta
            }
        };
        entries.push((key("rope.freq_base"), MetaValue::F32(theta as f32)));
        let rope_divisors = match &rope {
            Some(rope) => rope.entries(arch, head_dim, theta as f32, &mut entries)?,
            None => None,
        };
        let (stored, unconverted) = match json.quantization_config {
            Some(quantization) => quantization.read()?,
            None => (Stored::Unsaid, Vec::new()),
        };
        let generation: Special = match generation {
            Some(bytes) => json::parse("generation_config.json", bytes, limits::MAX_CONFIG_BYTES)?,
            None => Special::default(),
        };
        let mut eos = Vec::new();
        for id in json
            .special
            .eos()
            .chain(generation.eos())
            .filter_map(|id| special_id("eos_token_id", id, &mut notes))
        {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        let bos = json.special.bos_token_id.or(generation.bos_token_id);
        let pad = json.special.pad_token_id.or(generation.pad_token_id);
        Ok(Self {
            class,
            entries,
            rope_divisors,
            vocab: vocab as usize,
            tied: json.tie_word_embeddings,
            stored,
            unconverted,
            bos: bos.and_then(|id| special_id("bos_token_id", id, &mut notes)),
            eos,
            pad: pad.and_then(|id| special_id("pad_token_id", id, &mut notes)),
            notes,
        })
    }

    /// Whether a module is listed among those that are no ternary layers, in the way of transformers: by the start or
    /// the end of its name.
    pub(crate) fn is_unconverted(&self, module: &str) -> bool {
        self.unconverted
            .iter()
            .any(|name| module.starts_with(name.as_str()) || module.ends_with(name.as_str()))
    }
}

/// A token id; `None`, with a note, for the numbers by which writers say that there is none. Whether the vocabulary has it
/// is checked by the front-end.
fn special_id(key: &str, id: i64, notes: &mut Vec<String>) -> Option<i64> {
    let none = bitnetc_frontend_gguf::tokenizer_meta::is_none(id.into());
    if none {
        notes.push(format!("{key} is {id}, which is taken for none"));
    }
    (!none).then_some(id)
}

impl Special {
    /// The ids that end a text; models have one to three, and no more than 16 are looked at.
    fn eos(&self) -> impl Iterator<Item = i64> {
        const MOST: usize = 16;
        let ids: &[i64] = match &self.eos_token_id {
            Some(Ids::One(id)) => std::slice::from_ref(id),
            Some(Ids::Some(ids)) => ids,
            None => &[],
        };
        ids.iter().copied().take(MOST)
    }
}

impl Quantization {
    fn read(self) -> Result<(Stored, Vec<String>), ImportError> {
        const KEY: &str = "quantization_config";
        if self.quant_method.as_deref() != Some("bitnet") {
            let found = self.quant_method.as_deref().unwrap_or("without a method").to_owned();
            return refuse(KEY, found, "only \"bitnet\" makes ternary layers");
        }
        if self.use_rms_norm == Some(true) {
            return refuse(KEY, "with use_rms_norm", "norms inside of linear layers are not supported");
        }
        let inverse = match self.linear_class.as_deref() {
            None | Some("bitlinear") => true,
            Some("autobitlinear") => false,
            Some(other) => return refuse("linear_class", other, "bitlinear and autobitlinear are known"),
        };
        let stored = match self.quantization_mode.as_deref() {
            Some("online") if !inverse => Stored::Online,
            None | Some("offline" | "online") => Stored::Offline { inverse },
            Some(other) => return refuse("quantization_mode", other, "online and offline are known"),
        };
        Ok((stored, self.modules_to_not_convert.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":300,"hidden_size":128,"intermediate_size":256,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":512,
        "rms_norm_eps":1e-5,"rope_theta":500000.0,"hidden_act":"silu""#;

    fn read(more: &str) -> Result<Config, ImportError> {
        Config::read(format!("{BASE}{more}}}").as_bytes(), None)
    }

    fn value(config: &Config, key: &str) -> Option<MetaValue> {
        config.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
    }

    #[test]
    fn linear_layers_are_stored_as_the_class_says() {
        let stored = |q: &str| read(&format!(",\"quantization_config\":{{\"quant_method\":\"bitnet\"{q}}}"));
        assert_eq!(stored("").unwrap().stored, Stored::Offline { inverse: true });
        let auto = ",\"linear_class\":\"autobitlinear\"";
        assert_eq!(stored(auto).unwrap().stored, Stored::Offline { inverse: false });
        let online =
            format!("{auto},\"quantization_mode\":\"online\",\"modules_to_not_convert\":[\"lm_head\"]");
        let config = stored(&online).unwrap();
        assert_eq!(config.stored, Stored::Online);
        assert!(config.is_unconverted("lm_head") && !config.is_unconverted("model.layers.0.mlp.up_proj"));
        assert_eq!(read("").unwrap().stored, Stored::Unsaid);
        for (bad, text) in [
            (",\"use_rms_norm\":true", "use_rms_norm"),
            (",\"linear_class\":\"x\\u001b\"", "x\\u{1b}"),
            (",\"quantization_mode\":\"later\"", "later"),
        ] {
            let error = stored(bad).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(read(",\"quantization_config\":{\"quant_method\":\"gptq\"}").is_err());
    }

    #[test]
    fn rotary_scaling_is_carried_over_or_refused() {
        let config = read(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}").unwrap();
        assert_eq!(value(&config, "llama.rope.scaling.factor"), Some(MetaValue::F32(4.0)));
        let llama3 = ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\
                      \"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}";
        let divisors = read(llama3).unwrap().rope_divisors.unwrap();
        assert_eq!((divisors.len(), divisors[0], divisors[15]), (16, 1.0, 8.0));
        let new = ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":500000.0}";
        assert_eq!(value(&read(new).unwrap(), "llama.rope.freq_base"), Some(MetaValue::F32(500_000.0)));
        let without = BASE.replace(",\"rope_theta\":500000.0", "") + &new.replace("500000.0", "7.0") + "}";
        let config = Config::read(without.as_bytes(), None).unwrap();
        assert_eq!(value(&config, "llama.rope.freq_base"), Some(MetaValue::F32(7.0)));
        let differs = read(&new.replace("500000.0", "7.0")).unwrap_err().to_string();
        assert!(differs.contains("rope_theta"), "{differs}");
        for bad in [
            "{\"type\":\"linear\"}",
            "{\"type\":\"linear\",\"factor\":-1}",
            "{\"type\":\"longrope\"}",
            "{\"type\":\"yarn\",\"factor\":2.0,\"mscale\":1.0}",
            "{\"factor\":2.0}",
            "{\"type\":\"linear\",\"factor\":2.0,\"truncate\":false}",
            "{\"type\":\"linear\",\"factor\":2.0,\"partial_rotary_factor\":0.5}",
        ] {
            assert!(read(&format!(",\"rope_scaling\":{bad}")).is_err(), "{bad}");
        }
    }

    /// transformers writes older and newer names side by side.
    #[test]
    fn what_is_said_twice_has_to_be_the_same() {
        let scaling = |text: &str| read(&format!(",\"rope_scaling\":{{{text}}}"));
        for (kind, more) in [
            ("linear", "\"factor\":2.0"),
            ("yarn", "\"factor\":2.0,\"truncate\":true"),
            (
                "llama3",
                "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64",
            ),
        ] {
            let once = scaling(&format!("\"type\":\"{kind}\",{more}")).unwrap();
            let both =
                format!("\"type\":\"{kind}\",\"rope_type\":\"{kind}\",\"partial_rotary_factor\":1.0,{more}");
            for config in [
                scaling(&both).unwrap(),
                read(&format!(
                    ",\"rope_scaling\":{{{both}}},\"rope_parameters\":{{{both},\"rope_theta\":500000.0}}"
                ))
                .unwrap(),
            ] {
                assert_eq!(
                    (config.entries, config.rope_divisors),
                    (once.entries.clone(), once.rope_divisors.clone())
                );
            }
            let differ = scaling(&format!("\"type\":\"{kind}\",\"rope_type\":\"default\",{more}"));
            let error = differ.unwrap_err().to_string();
            assert!(error.contains(kind) && error.contains("default"), "{error}");
            let other =
                format!(",\"rope_scaling\":{{{both}}},\"rope_parameters\":{{\"rope_type\":\"default\"}}");
            assert!(read(&other).unwrap_err().to_string().contains("rope_parameters"));
        }
        assert!(read(",\"partial_rotary_factor\":1.0,\"layer_types\":[\"full_attention\"]").is_ok());
    }

    #[test]
    fn ids_that_stand_for_none_are_absent() {
        let config =
            read(",\"bos_token_id\":-1,\"pad_token_id\":4294967295,\"eos_token_id\":[-1,7]").unwrap();
        assert_eq!((config.bos, config.pad, &config.eos[..]), (None, None, &[7][..]));
        assert_eq!(config.notes.iter().filter(|note| note.contains("taken for none")).count(), 3);
    }

    #[test]
    fn variants_that_gguf_has_no_key_for_are_refused() {
        for bad in [
            ",\"attention_bias\":true",
            ",\"mlp_bias\":true",
            ",\"partial_rotary_factor\":0.5",
            ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]",
            ",\"head_dim\":99999999999",
            ",\"vocab_size\":2",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let other = BASE.replace("Llama", "Gemma");
        let error = Config::read(format!("{other}}}").as_bytes(), None).unwrap_err().to_string();
        assert!(error.contains("GemmaForCausalLM") && error.contains("BitNetForCausalLM"), "{error}");
        let ends = Config::read(
            format!("{BASE},\"bos_token_id\":1,\"eos_token_id\":2}}").as_bytes(),
            Some(b"{\"eos_token_id\":[2,5]}"),
        );
        assert_eq!(ends.unwrap().eos, [2, 5]);
    }
}
