//! How a model is opened and served, from Python's options, which the Python layer has checked for their kinds and ranges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitnetc::api::{Defaults, Limits, Service};
use bitnetc::chat::{ChatEncoder, Wish};
use bitnetc::codegen::features::restrict;
use bitnetc::load::{LoadOptions, Source, load_source};
use bitnetc::store::{self, Hub, HubSettings, ModelRef, Opening, Progress};
use bitnetc::{
    BuildOptions, CacheType, Codegen, Cpus, EngineOptions, Error, GenerateOptions, MapMode, Model, builtin,
};
use pyo3::prelude::*;

use crate::signals::Abandoned;

/// Tokens of a text whose request does not say: those of the server.
const MAX_TOKENS: u64 = 2048;

/// What Python says about a model.
#[derive(Clone, Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Options {
    context: Option<u32>,
    parallel: u32,
    threads: Option<u32>,
    head: Option<String>,
    kv_type: Option<String>,
    weights: Option<String>,
    codegen: Option<String>,
    cpu_features: Option<String>,
    mmap: bool,
    verify: bool,
    chat_template: Option<String>,
    name: Option<String>,
    max_step_ms: u32,
    cache_ram: Option<u64>,
}

/// A model that can be opened again as it was.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// As it was named.
    named: Option<PathBuf>,
    /// What that is; `None`: the built-in model.
    of: Option<ModelRef>,
    load: LoadOptions,
    options: Options,
}

/// Why a model cannot be opened.
pub(crate) enum Refused {
    /// An option has a value that means nothing.
    Option { name: &'static str, why: String },
    /// The model itself.
    Model(Box<Error>),
}

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Model(Box::new(error.into()))
    }
}

/// Reads an option that is a word.
fn word<T, E: std::fmt::Display>(
    name: &'static str,
    text: Option<&str>,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Refused> {
    let refused = |why: E| Refused::Option { name, why: why.to_string() };
    text.map(|text| read(text).map_err(refused)).transpose()
}

/// One of these values by its name.
fn one_of<T: Copy>(known: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    let names = || known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("unknown value {text:?}: known are {}", names()))
}

impl Options {
    fn build(&self) -> Result<BuildOptions, Refused> {
        let cache = |text: &str| one_of(&[("f16", CacheType::F16), ("f32", CacheType::F32)], text);
        let selectors = [("auto", Codegen::Auto), ("cranelift", Codegen::Cranelift), ("x64", Codegen::X64)];
        let mut target = BuildOptions::default().target()?;
        let restricted = word("cpu_features", self.cpu_features.as_deref(), |list| restrict(&target, list))?;
        target = restricted.unwrap_or(target);
        target.threads = self.threads();
        Ok(BuildOptions {
            cache: word("kv_type", self.kv_type.as_deref(), cache)?,
            head: word("head", self.head.as_deref(), str::parse)?,
            weights: word("weights", self.weights.as_deref(), str::parse)?,
            codegen: word("codegen", self.codegen.as_deref(), |text| one_of(&selectors, text))?
                .unwrap_or_default(),
            target: Some(target),
            ..BuildOptions::default()
        })
    }

    /// Threads that compute.
    pub(crate) fn threads(&self) -> u32 {
        self.threads.unwrap_or_else(|| Cpus::probe().threads())
    }

    fn template(&self) -> Wish {
        self.chat_template.clone().map_or(Wish::Model, Wish::NameOrText)
    }
}

impl Origin {
    /// The model at `path` or of this name, the built-in one without.
    pub(crate) fn new(path: Option<PathBuf>, options: Options) -> Result<Self, Refused> {
        // A file of that name counts before the built-in model.
        let is_file = |path: &&PathBuf| **path != Path::new(builtin::SHORT_NAME) || path.exists();
        let named = path.as_ref().filter(is_file);
        let of = named.map(|path| ModelRef::parse(path, &BTreeMap::new())).transpose()?;
        let map_mode = if options.mmap { MapMode::Mapped } else { MapMode::Copied };
        let load = LoadOptions {
            build: options.build()?,
            map_mode,
            verify: options.verify,
            ..LoadOptions::default()
        };
        options
            .template()
            .check()
            .map_err(|why| Refused::Option { name: "chat_template", why: why.to_string() })?;
        Ok(Self { named: path, of, load, options })
    }

    /// How it is compiled.
    pub(crate) fn build(&self) -> &BuildOptions {
        &self.load.build
    }

    /// Threads that compute.
    pub(crate) fn threads(&self) -> u32 {
        self.options.threads()
    }

    /// The file: of a model of the Hub the one in its cache, from which its plan was compiled.
    pub(crate) fn source(&self) -> Result<Source, Error> {
        let path = match &self.of {
            None => None,
            Some(ModelRef::File(path)) => Some(path.clone()),
            Some(ModelRef::Hub(name)) => {
                let settings = HubSettings::from_env(&|name| std::env::var_os(name))?;
                Some(Hub::new(settings).get(name, &mut |_| true)?.path)
            }
        };
        Ok(Source::open(path.as_deref(), self.load.map_mode)?.with_options(self.load.model))
    }

    /// Opens it. `note` is told what takes long.
    pub(crate) fn open(&self, abandoned: &Abandoned, note: &mut dyn FnMut(String)) -> Result<Model, Error> {
        let Some(ModelRef::Hub(name)) = &self.of else {
            return Ok(load_source(self.source()?, &self.load)?.into());
        };
        let mut said = String::new();
        let (loaded, _) = store::open_from_env(name, &self.load, &mut |step| {
            let text = match step {
                Opening::Fetching(Progress::File { file, total, .. }) => {
                    format!("fetching {} ({total} bytes)", file.escape_debug())
                }
                Opening::Compiling { total, .. } => format!("compiling {name} ({total} bytes)"),
                _ => String::new(),
            };
            if !text.is_empty() && text != said {
                note(text.clone());
                said = text;
            }
            !abandoned.is_set()
        })?;
        Ok(loaded.into())
    }

    /// What answers requests for it, with remarks on what was chosen.
    pub(crate) fn serve(&self, model: Model) -> (Service, EngineOptions, Vec<String>) {
        let loaded = model.loaded();
        let mut notes = loaded.notes.clone();
        let context = self.options.context.unwrap_or_else(|| loaded.default_context());
        if context > loaded.context {
            notes.push(format!(
                "the context of {context} tokens is more than the {} that the model was trained for",
                loaded.context
            ));
        }
        let chat = ChatEncoder::for_model(loaded, &self.options.template()).map(|(encoder, note)| {
            notes.extend(note);
            encoder
        });
        let engine = EngineOptions {
            max_step: Some(Duration::from_millis(u64::from(self.options.max_step_ms))),
            cache_ram: self.options.cache_ram.unwrap_or_else(EngineOptions::default_cache_ram),
            ..EngineOptions::of(context, self.threads(), self.options.parallel)
        };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let options = GenerateOptions { limit: Some(MAX_TOKENS), ..GenerateOptions::default() };
        let id = self.options.name.clone().unwrap_or_else(|| Service::name_of(self.named.as_deref()));
        let defaults = Defaults { options, ..Defaults::default() };
        let limits = Limits::default();
        let service = Service {
            chat,
            id,
            created,
            context,
            defaults,
            limits,
            strict_model: false,
            model: model.clone(),
        };
        (service, engine, notes)
    }
}
