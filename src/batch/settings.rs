//! What the answers of a batch depend on besides its requests: kept with each result, and compared when a batch goes on.
//!
//! A result names the model that made it (by the hash of its file, the same for a GGUF and for its plans), what that computes
//! with (head, KV cache, activations), and every setting that is not the default. A setting that is absent is the default, so that a line
//! says what is special about it and little else.
//!
//! Invariant: two runs with equal [`Settings`] give the same answer to a request that has the same line and a seed.

use bitnetc_frontend_gguf::ActivationFormat;
use bitnetc_runtime::sampling::{SamplingParams, Stage};
use serde_json::{Map, Value, json};

use super::{Format, Lines};
use crate::api::Defaults;
use crate::chat::Wish;
use crate::compile::activations_of;
use crate::constraint::GrammarSource;
use crate::engine::GenerateOptions;
use crate::load::Loaded;

/// The settings of a batch, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(Map<String, Value>);

/// First 64 bits of the BLAKE3 hash of a text, in hexadecimal.
fn short_hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

/// The number whose shortest decimal form is that of `value`.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

impl Settings {
    /// Of a batch that `loaded` answers; `lines` says what lines of text are. `context` is what was asked for, 0 for what the requests need; `template` is the chat
    /// template.
    pub fn new(
        loaded: &Loaded,
        (format, lines): (Format, &Lines),
        defaults: &Defaults,
        template: &Wish,
        context: u32,
    ) -> Self {
        let hash: String = loaded.source_hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut all = Map::new();
        all.insert("model".to_owned(), json!(hash));
        all.insert("head".to_owned(), json!(loaded.head));
        all.insert("kv_type".to_owned(), json!(loaded.cache_type().map(|dtype| dtype.name())));
        all.insert("format".to_owned(), json!(format.name()));
        let mut settings = Self(all);
        let int8 = json!(ActivationFormat::Int8Token.name());
        let activations = activations_of(&loaded.module).map_or(int8.clone(), |format| json!(format.name()));
        settings.add("activations", activations, int8);
        settings.add_sampling(&defaults.params);
        settings.add_options(&defaults.options);
        settings.add("seed", json!(defaults.seed), Value::Null);
        settings.add("ctx_size", json!(context), json!(0));
        if let Some(form) = &defaults.form {
            settings.add_form(form);
        }
        if let Lines::Chat { system } = lines {
            settings.0.insert("chat".to_owned(), json!(true));
            settings.add("system_prompt", json!(system), Value::Null);
        }
        match template {
            Wish::Model => {}
            Wish::NameOrText(text) | Wish::Text { text, .. } => {
                settings.0.insert("chat_template".to_owned(), json!(short_hash(text)));
            }
        }
        settings
    }

    /// Keeps a setting that is not the default.
    fn add(&mut self, name: &str, value: Value, default: Value) {
        if value != default {
            self.0.insert(name.to_owned(), value);
        }
    }

    fn add_sampling(&mut self, params: &SamplingParams) {
        let usual = SamplingParams::default();
        for (name, value, default) in [
            ("temperature", params.temperature, usual.temperature),
            ("top_p", params.top_p, usual.top_p),
            ("typical_p", params.typical_p, usual.typical_p),
            ("min_p", params.min_p, usual.min_p),
            ("repeat_penalty", params.repeat_penalty, usual.repeat_penalty),
            ("frequency_penalty", params.frequency_penalty, usual.frequency_penalty),
            ("presence_penalty", params.presence_penalty, usual.presence_penalty),
        ] {
            self.add(name, number(value), number(default));
        }
        self.add("top_k", json!(params.top_k), json!(usual.top_k));
        self.add("repeat_last_n", json!(params.repeat_last_n), json!(usual.repeat_last_n));
        let biases = |biases: &[(u32, f32)]| -> Value {
            biases.iter().map(|(id, bias)| Value::from(format!("{id}{bias:+}"))).collect()
        };
        self.add("logit_bias", biases(&params.logit_bias), biases(&usual.logit_bias));
        let names = |stages: &[Stage]| -> Value { stages.iter().map(|stage| stage.name()).collect() };
        self.add("samplers", names(&params.stages), names(&usual.stages));
        if let Some(mirostat) = params.mirostat {
            self.0.insert("mirostat_ent".to_owned(), number(mirostat.tau));
            self.0.insert("mirostat_lr".to_owned(), number(mirostat.eta));
        }
    }

    fn add_options(&mut self, options: &GenerateOptions) {
        let GenerateOptions {
            limit,
            ignore_end,
            min_tokens,
            stop,
            stop_tokens,
            include_stop,
            visible,
            logprobs,
        } = options;
        self.add("n_predict", json!(limit), Value::Null);
        self.add("ignore_eos", json!(ignore_end), json!(false));
        self.add("reverse_prompt", json!(stop.iter().collect::<Vec<_>>()), json!([]));
        self.add("min_tokens", json!(min_tokens), json!(0));
        self.add("stop_token_ids", json!(stop_tokens), json!([]));
        self.add("include_stop", json!(include_stop), json!(false));
        self.add("visible_tokens", json!(visible), json!([]));
        self.add("logprobs", json!(logprobs), Value::Null);
    }

    fn add_form(&mut self, form: &GrammarSource) {
        let (name, text) = match form {
            GrammarSource::JsonSchema(text) => ("json_schema", text.clone()),
            GrammarSource::Lark(text) | GrammarSource::Gbnf(text) => ("grammar", text.clone()),
            GrammarSource::Regex(text) => ("regex", text.clone()),
            GrammarSource::Choice(texts) => ("choice", json!(texts).to_string()),
            GrammarSource::Parts { lark, schemas } => ("grammar", json!([lark, schemas]).to_string()),
        };
        self.0.insert(name.to_owned(), json!(short_hash(&text)));
    }

    /// As it stands in results.
    pub(super) fn to_json(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// The settings of a result.
    pub(super) fn from_json(value: Value) -> Option<Self> {
        match value {
            Value::Object(settings) => Some(Self(settings)),
            _ => None,
        }
    }

    /// The first setting that differs: its name, and both values for a message.
    pub(super) fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        let names = self.0.keys().chain(other.0.keys());
        let shown = |settings: &Self, name: &str| match settings.0.get(name) {
            None => "the default".to_owned(),
            Some(Value::String(text)) => super::printable(text),
            Some(value) => super::printable(&value.to_string()),
        };
        let differs = |name: &&String| self.0.get(*name) != other.0.get(*name);
        names.clone().find(differs).map(|name| (name.clone(), shown(self, name), shown(other, name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    fn defaults() -> Defaults {
        Defaults {
            params: SamplingParams::default(),
            seed: None,
            options: GenerateOptions::default(),
            form: None,
        }
    }

    #[test]
    fn every_setting_counts_and_survives_its_file() {
        let model = Model::builtin().unwrap();
        let of = |defaults: &Defaults, template: &Wish, context| {
            Settings::new(model.loaded(), (Format::Text, &Lines::Prompts), defaults, template, context)
        };
        let usual = of(&defaults(), &Wish::Model, 0);
        let names: Vec<&String> = usual.0.keys().collect();
        assert_eq!(names, ["model", "head", "kv_type", "format"], "what is the default is left out");
        type Change = fn(&mut Defaults);
        let changes: [(&str, Change); 19] = [
            ("temperature", |d| d.params.temperature = 0.1),
            ("top_p", |d| d.params.top_p = 0.5),
            ("typical_p", |d| d.params.typical_p = 0.5),
            ("min_p", |d| d.params.min_p = 0.5),
            ("repeat_penalty", |d| d.params.repeat_penalty = 1.5),
            ("frequency_penalty", |d| d.params.frequency_penalty = 1.5),
            ("presence_penalty", |d| d.params.presence_penalty = 1.5),
            ("top_k", |d| d.params.top_k = 7),
            ("repeat_last_n", |d| d.params.repeat_last_n = 7),
            ("logit_bias", |d| d.params.logit_bias = [(7, f32::NEG_INFINITY)].into()),
            ("samplers", |d| d.params.stages = vec![Stage::TopK]),
            ("n_predict", |d| d.options.limit = Some(3)),
            ("ignore_eos", |d| d.options.ignore_end = true),
            ("reverse_prompt", |d| d.options.stop = vec!["x".to_owned()].into()),
            ("seed", |d| d.seed = Some(3)),
            ("grammar", |d| d.form = Some(GrammarSource::Lark("start: \"a\"".to_owned()))),
            ("min_tokens", |d| d.options.min_tokens = 2),
            ("stop_token_ids", |d| d.options.stop_tokens = vec![2]),
            ("include_stop", |d| d.options.include_stop = true),
        ];
        for (name, change) in changes {
            let mut changed = defaults();
            change(&mut changed);
            let settings = of(&changed, &Wish::Model, 0);
            let (found, was, is) = usual.difference(&settings).unwrap();
            assert_eq!((found.as_str(), was.as_str()), (name, "the default"), "{is}");
            let read = serde_json::from_str(&settings.to_json().to_string()).unwrap();
            assert_eq!(Settings::from_json(read), Some(settings));
        }
        let lines = Lines::Chat { system: None };
        let chat = Settings::new(model.loaded(), (Format::Text, &lines), &defaults(), &Wish::Model, 0);
        assert_eq!(usual.difference(&chat).unwrap().0, "chat");
        let template = of(&defaults(), &Wish::NameOrText("llama3".to_owned()), 0);
        assert_eq!(usual.difference(&template).unwrap().0, "chat_template");
        assert_eq!(usual.difference(&of(&defaults(), &Wish::Model, 64)).unwrap().0, "ctx_size");
        assert_eq!(usual.difference(&usual), None);
    }
}
