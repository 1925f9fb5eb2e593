//! `bitnetc models`: models by name, and what every command does with the name of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bitnetc::load::{LoadOptions, Loaded, load};
use bitnetc::store::{
    self, ALIASES, CachedFile, Hub, HubRef, HubSettings, ModelRef, Opening, PlanCache, Progress, Pulled,
    StoreError, Used,
};
use bitnetc::{CheckState, Error, HeldCheck, builtin};
use bitnetc_runtime::map;
use bitnetc_runtime::memory::in_units;
use clap::{Args, Subcommand};
use indicatif::ProgressBar;

use super::failure::Failure;
use super::interrupt::Patience;
use super::{Outcome, config, input_file, interrupt, output, progress};
use crate::exit;

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Fetch a model from the Hugging Face Hub into its cache
    Pull(PullArgs),
    /// List cached models and plans, and aliases
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Remove a model with its compiled plans, or all plans, from the caches
    Rm(RmArgs),
    /// Print the path of a cached model
    #[command(after_help = "Example:\n  bitnetc models path 2b-4t")]
    Path(PathArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc pull 2b-4t\n  bitnetc pull org/repo\n  bitnetc pull hf:microsoft/bitnet-b1.58-2B-4T-gguf:ggml-model-i2_s.gguf\n  bitnetc pull hf:org/repo@v1.0\n  bitnetc pull https://huggingface.co/org/repo/blob/main/model.gguf"
)]
pub(crate) struct PullArgs {
    /// org/repo, hf:org/repo:file.gguf, hf:org/repo@revision:file.gguf, the address of its page, or an alias
    #[arg(value_name = "NAME")]
    pub(crate) name: PathBuf,
    /// Do not use the network: succeed only if the model is cached
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc rm org/repo               the whole repository, and what was compiled of it\n  bitnetc rm hf:org/repo:a.gguf     one file\n  bitnetc rm --plans                all compiled plans"
)]
pub(crate) struct RmArgs {
    /// org/repo, hf:org/repo:file.gguf, the address of its page, or an alias
    #[arg(value_name = "NAME", required_unless_present = "plans")]
    pub(crate) name: Option<PathBuf>,
    /// Remove all compiled plans; they are compiled again when needed
    #[arg(long, conflicts_with = "name")]
    pub(crate) plans: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PathArgs {
    /// org/repo, hf:org/repo:file.gguf, hf:org/repo@revision:file.gguf, the address of its page, or an alias
    #[arg(value_name = "NAME")]
    pub(crate) name: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// A variable of the environment.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn hub(offline: bool) -> Result<Hub, StoreError> {
    let settings = HubSettings::from_env(&variable)?;
    Ok(Hub::new(HubSettings { offline: settings.offline || offline, ..settings }))
}

/// The model of the Hub that `org/repo[:file]` without a scheme would be.
fn bare_hub_name(text: &str) -> Option<HubRef> {
    let looks_like_a_path = text.starts_with(['.', '/', '~']) || text.contains('\\');
    let name = (!looks_like_a_path).then(|| format!("hf:{text}").parse::<HubRef>().ok())??;
    // Models in folders have names of this form too.
    let file = [".gguf", ".plan", ".safetensors"].iter().any(|end| name.repo.name.ends_with(end));
    (!file).then_some(name)
}

/// The aliases that there are, for messages.
fn known_aliases() -> String {
    all_aliases().into_keys().collect::<Vec<_>>().join(", ")
}

/// All aliases with what they stand for; those of the configuration count before those that are always there.
pub(crate) fn all_aliases() -> BTreeMap<String, String> {
    let always = ALIASES.iter().map(|(alias, meaning)| ((*alias).to_owned(), (*meaning).to_owned()));
    always.chain(config::aliases().clone()).collect()
}

/// The names of models that need no path: the built-in one, aliases, and cached models of the Hub.
pub(crate) fn names() -> Vec<String> {
    let mut names: BTreeSet<String> = all_aliases().into_keys().collect();
    names.insert(builtin::SHORT_NAME.to_owned());
    // A cache that cannot be read offers no names.
    let cached = hub(true).and_then(|hub| hub.cache().list()).unwrap_or_default();
    names.extend(cached.iter().filter(|file| is_model(file)).map(|m| format!("hf:{}:{}", m.repo, m.file)));
    names.into_iter().collect()
}

/// What the name of a model stands for.
enum Named {
    BuiltIn,
    File(PathBuf),
    Hub(HubRef),
}

impl Named {
    /// A file, and an alias of the configuration, count before the built-in model of the same name.
    fn parse(name: &Path) -> Result<Self, Failure> {
        let is_builtin =
            [builtin::SHORT_NAME, builtin::NAME, "builtin"].iter().any(|own| name == Path::new(own));
        Ok(match ModelRef::parse(name, config::aliases())? {
            ModelRef::File(path) if is_builtin && path == name && !name.exists() => Self::BuiltIn,
            ModelRef::File(path) => Self::File(path),
            ModelRef::Hub(name) => Self::Hub(name),
        })
    }
}

/// The Hub's model that a name, without `hf:` too, or an alias stands for.
fn hub_name(name: &Path) -> Result<HubRef, Failure> {
    let path = match Named::parse(name)? {
        Named::Hub(hub) => return Ok(hub),
        Named::File(path) => path,
        Named::BuiltIn => {
            let message =
                format!("{} is built in: there is nothing to fetch or to remove", builtin::SHORT_NAME);
            return Err(Failure::new(exit::USAGE, message));
        }
    };
    path.to_str().and_then(bare_hub_name).filter(|_| !path.exists()).ok_or_else(|| {
        if path != name {
            let message = format!(
                "{} is an alias of the file {}, not of a model of the Hugging Face Hub: this command works on \
                 models in its cache",
                name.display(),
                path.display()
            );
            return Failure::new(exit::USAGE, message);
        }
        if path.exists() {
            let message = format!(
                "{} is a file of yours: this command works on models in the cache of the Hugging Face Hub",
                path.display()
            );
            return Failure::new(exit::USAGE, message);
        }
        let message = format!(
            "{} is neither org/repo[:file] nor an alias; the aliases are {}",
            path.display(),
            known_aliases()
        );
        Failure::new(exit::USAGE, message)
    })
}

/// The path of a model file, if there can be a model at it; else what its name seems to mean, and the command for that.
fn model_file(path: PathBuf) -> Result<PathBuf, Failure> {
    if path.is_dir() {
        return Err(of_directory(&path));
    }
    let text = path.to_str().filter(|_| !path.exists());
    let Some(text) = text else { return Ok(path) };
    if text == input_file::STANDARD {
        let message = "a model is not read from standard input: give its file";
        return Err(Failure::new(exit::USAGE, message));
    }
    if text.contains("://") {
        let message = format!("{text}: models are fetched from the Hugging Face Hub only");
        let hint = "fetch it with another tool, such as curl -L -O, and give the file".to_owned();
        return Err(Failure::with_hint(exit::FAILURE, message, Some(hint)));
    }
    let absent = format!("cannot open {path:?}: No such file or directory");
    if let Some(name) = bare_hub_name(text) {
        let hint = format!(
            "a model of the Hugging Face Hub is named {name} here, and fetched when it is first used"
        );
        return Err(Failure::with_hint(exit::FAILURE, absent, Some(hint)));
    }
    if !text.contains(['/', '.', '\\']) {
        let hint = format!("the aliases are {}; a prompt goes after the model, or after -p", known_aliases());
        return Err(Failure::with_hint(exit::FAILURE, absent, Some(hint)));
    }
    Ok(path)
}

/// Most models of a directory that a hint lists.
const MODELS_SHOWN: usize = 10;

/// What to do with a directory in the place of a model.
fn of_directory(path: &Path) -> Failure {
    let names: Vec<String> = std::fs::read_dir(path)
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    let ends = |name: &String, end: &str| name.to_ascii_lowercase().ends_with(end);
    let mut models: Vec<&String> =
        names.iter().filter(|name| ends(name, ".gguf") || ends(name, ".plan")).collect();
    models.sort();
    let checkpoint = names.iter().any(|name| ends(name, ".safetensors"));
    let hint = match (&models[..], checkpoint) {
        ([model], _) => format!("give the file: {}", path.join(model).display()),
        ([_, ..], _) => {
            let shown = models.iter().take(MODELS_SHOWN).map(|model| path.join(model).display().to_string());
            let more = match models.len().saturating_sub(MODELS_SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("give one of its models: {}{more}", shown.collect::<Vec<_>>().join(", "))
        }
        ([], true) => {
            let stem = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_owned()));
            let gguf = PathBuf::from(stem.unwrap_or_else(|| "model".into())).with_added_extension("gguf");
            format!(
                "it holds a checkpoint: `bitnetc import {} -o {}` makes a model of it",
                path.display(),
                gguf.display()
            )
        }
        ([], false) => "give a .gguf file, a plan, or hf:org/repo".to_owned(),
    };
    Failure::with_hint(exit::MODEL, format!("{} is a directory, not a model", path.display()), Some(hint))
}

/// Shows on a bar how far files are; stops on Ctrl-C.
struct Fetching {
    bar: Option<ProgressBar>,
    file: String,
    quiet: bool,
}

impl Fetching {
    fn new(quiet: bool) -> Self {
        Self { bar: None, file: String::new(), quiet }
    }

    fn tell(&mut self, progress: &Progress) -> bool {
        if let Progress::File { file, done, total } = progress {
            if self.bar.is_none() || self.file != *file {
                self.finish();
                self.file.clone_from(file);
                self.bar = Some(progress::bytes("fetching", *total, self.quiet));
            }
            if let Some(bar) = &self.bar {
                bar.set_position(*done);
            }
        }
        !interrupt::requested()
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn fetch(hub: &Hub, name: &HubRef, newest: bool, quiet: bool) -> Result<Pulled, StoreError> {
    interrupt::listen();
    let mut fetching = Fetching::new(quiet);
    let mut tell = |progress: &Progress| fetching.tell(progress);
    let pulled = if newest { hub.pull(name, &mut tell) } else { hub.get(name, &mut tell) };
    fetching.finish();
    let pulled = pulled?;
    warn_of_unchecked(&pulled.unchecked, quiet);
    Ok(pulled)
}

fn warn_of_unchecked(files: &[String], quiet: bool) {
    for file in files {
        let name = file.escape_debug();
        output::say(
            quiet,
            format!("warning: the server states no hash for {name}: its integrity was not checked"),
        );
    }
}

/// The file that a command's model argument stands for: fetched if it is a model of the Hub that is not cached.
pub(crate) fn resolve(model: Option<&Path>, quiet: bool) -> Result<Option<PathBuf>, Failure> {
    let Some(name) = model else { return Ok(None) };
    match Named::parse(name)? {
        Named::BuiltIn => Ok(None),
        Named::File(path) => model_file(path).map(Some),
        Named::Hub(name) => Ok(Some(fetch(&hub(false)?, &name, false, quiet)?.path)),
    }
}

/// What is known of a model before it is opened.
#[cfg(feature = "serve")]
#[derive(Debug, Default)]
pub(crate) struct ModelFacts {
    /// Its file; `None` for the built-in model, and for one that has to be fetched.
    pub(crate) path: Option<PathBuf>,
    pub(crate) is_builtin: bool,
    /// Bytes of the file, 0 for one that has to be fetched.
    pub(crate) bytes: u64,
    pub(crate) modified: Option<std::time::SystemTime>,
    /// What to say of a model that has to be fetched.
    pub(crate) note: Option<String>,
}

/// What is known of the file that a command's model argument stands for. Nothing is fetched or opened.
#[cfg(feature = "serve")]
pub(crate) fn model_facts(model: Option<&Path>) -> Result<ModelFacts, Failure> {
    let path = match model.map(Named::parse).transpose()? {
        None | Some(Named::BuiltIn) => {
            let bytes = builtin::GGUF.len() as u64;
            return Ok(ModelFacts { is_builtin: true, bytes, ..ModelFacts::default() });
        }
        Some(Named::File(path)) => model_file(path)?,
        Some(Named::Hub(name)) => {
            let is_offline = HubSettings::from_env(&variable)?.offline;
            let Some(cached) = hub(true)?.find(&name)? else {
                let note = match is_offline {
                    true => format!(
                        "warning: {name} is not in the cache, and HF_HUB_OFFLINE is set: it cannot be loaded"
                    ),
                    false => format!(
                        "note: {name} is not in the cache: the first request for it waits for the download"
                    ),
                };
                return Ok(ModelFacts { note: Some(note), ..ModelFacts::default() });
            };
            cached.path
        }
    };
    let metadata = std::fs::metadata(&path);
    let failed = |error| Failure::new(exit::FAILURE, format!("cannot open {path:?}: {error}"));
    let metadata = metadata.map_err(failed)?;
    let (bytes, modified) = (metadata.len(), metadata.modified().ok());
    Ok(ModelFacts { path: Some(path), bytes, modified, ..ModelFacts::default() })
}

/// Opens a model file, or the built-in model.
pub(crate) fn load_file(path: Option<&Path>, options: &LoadOptions, quiet: bool) -> Result<Loaded, Failure> {
    Ok(progress::working("loading", quiet, || load(path, options))?)
}

/// Opens the model that a command's argument stands for. A model of the Hub is compiled once and then opened by its plan.
pub(crate) fn open(model: Option<&Path>, options: &LoadOptions, quiet: bool) -> Result<Loaded, Failure> {
    let name = match model.map(Named::parse).transpose()? {
        None | Some(Named::BuiltIn) => return load_file(None, options, quiet),
        Some(Named::File(path)) => return load_file(Some(&model_file(path)?), options, quiet),
        Some(Named::Hub(name)) => name,
    };
    interrupt::listen();
    let (mut fetching, mut bar, mut patience) = (Fetching::new(quiet), None, None);
    let plans = PlanCache::from_env(&variable)?;
    let opened = store::open(&name, &hub(false)?, &plans, options, &mut |step| match step {
        Opening::Fetching(progress) => fetching.tell(progress),
        Opening::Fetched(pulled) => {
            fetching.finish();
            warn_of_unchecked(&pulled.unchecked, quiet);
            !interrupt::requested()
        }
        Opening::Compiling { done, total } => {
            fetching.finish();
            // Nothing is left of a plan that is not finished.
            patience.get_or_insert_with(Patience::new);
            let bar = bar.get_or_insert_with(|| progress::bytes("compiling", *total, quiet));
            bar.set_position(*done);
            !interrupt::requested()
        }
    });
    fetching.finish();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    drop(patience);
    let (loaded, used) = opened?;
    if used == Used::Compiled {
        output::say(quiet, format!("compiled {name} once, to {}", loaded.name));
    }
    if let Some(check) = loaded.hold_check() {
        CHECKS.lock().unwrap_or_else(PoisonError::into_inner).push(check);
    }
    Ok(loaded)
}

/// The checks of the weights of the models that were opened.
static CHECKS: Mutex<Vec<HeldCheck>> = Mutex::new(Vec::new());

/// The outcome of a command that has ended, unless a model file was cut short meanwhile, which makes errors of other names. A
/// command waits for the check of the cached plan: what it has computed, or why it failed, counts only if the weights are sound.
pub(crate) fn settle(outcome: Outcome, quiet: bool) -> Outcome {
    if map::any_lost() {
        let message = "a file was truncated, or became unreadable, while it was in use: discard all results";
        return Err(Failure::new(exit::FAILURE, message));
    }
    let checks = std::mem::take(&mut *CHECKS.lock().unwrap_or_else(PoisonError::into_inner));
    let damaged = |held: &HeldCheck| held.check().wait(&|| !interrupt::requested()) == CheckState::Damaged;
    if !checks.is_empty() && progress::working("checking the weights", quiet, || checks.iter().any(damaged)) {
        let message = "the weights of the cached plan do not match their hash: discard all results; \
                       the plan has been removed, run the command again";
        return Err(Failure::new(exit::MODEL, message));
    }
    outcome
}

/// Runs the command.
pub(crate) fn run(command: &ModelsCommand, quiet: bool) -> Outcome {
    match command {
        ModelsCommand::Pull(args) => pull(args, quiet),
        ModelsCommand::List(args) => list(args),
        ModelsCommand::Rm(args) => remove(args, quiet),
        ModelsCommand::Path(args) => path(args),
    }
}

fn pull(args: &PullArgs, quiet: bool) -> Outcome {
    let name = hub_name(&args.name)?;
    let pulled = fetch(&hub(args.offline)?, &name, true, quiet).map_err(|error| match error {
        StoreError::Offline { .. } if args.offline => {
            let hint = "omit --offline to download it".to_owned();
            Failure::with_hint(exit::FAILURE, &error, Some(hint))
        }
        error => error.into(),
    })?;
    if args.json {
        output::print_json(&serde_json::json!({
            "schema": "bitnetc.models-pull/2",
            "name": name.to_string(),
            "path": pulled.path.display().to_string(),
            "commit": pulled.commit,
            "file_bytes": pulled.bytes,
            "files_fetched": pulled.fetched,
            "files_unchecked": pulled.unchecked,
        }))?;
    } else {
        if pulled.fetched == 0 {
            output::say(quiet, format!("{name} is up to date"));
        }
        output::print(&format!("{}\n", pulled.path.display()))?;
    }
    Ok(exit::OK)
}

fn path(args: &PathArgs) -> Outcome {
    let name = hub_name(&args.name)?;
    let hub = hub(true)?;
    let missing = || StoreError::NotCached { what: name.to_string(), cache: hub.cache().root().to_owned() };
    let found = hub.find(&name)?.ok_or_else(missing)?;
    match args.json {
        true => output::print_json(&serde_json::json!({
            "schema": "bitnetc.models-path/1",
            "name": name.to_string(),
            "path": found.path.display().to_string(),
        }))?,
        false => output::print(&format!("{}\n", found.path.display()))?,
    }
    Ok(exit::OK)
}

/// Reports what was removed: a model, or all plans.
fn removed(
    args: &RmArgs,
    name: Option<&HubRef>,
    (plans, bytes): (usize, u64),
    quiet: bool,
) -> Result<(), Failure> {
    if args.json {
        return output::print_json(&serde_json::json!({
            "schema": "bitnetc.models-rm/1",
            "name": name.map(ToString::to_string),
            "plans_removed": plans,
            "freed_bytes": bytes,
        }));
    }
    let plans_text = output::count(plans as u64, "plan");
    let what = match name {
        None => plans_text,
        Some(name) if plans > 0 => format!("{name} and {plans_text}"),
        Some(name) => name.to_string(),
    };
    output::say(quiet, format!("removed {what}: {} free again", in_units(bytes)));
    Ok(())
}

fn remove(args: &RmArgs, quiet: bool) -> Outcome {
    let plans = PlanCache::from_env(&variable)?;
    let Some(name) = &args.name else {
        removed(args, None, plans.remove_all()?, quiet)?;
        return Ok(exit::OK);
    };
    let name = hub_name(name)?;
    let hub = hub(true)?;
    let files: Vec<CachedFile> =
        hub.cache().list()?.into_iter().filter(|file| file.repo == name.repo).collect();
    let file = name.file.as_ref().map(|piece| match file_of_piece(&files, piece) {
        Some(file) => file.file.clone(),
        None => piece.clone(),
    });
    let of_plans =
        remove_plans(&plans, files.iter().filter(|f| file.as_ref().is_none_or(|name| *name == f.file)));
    let freed = hub.cache().remove(&name.repo, file.as_deref())?;
    let (count, bytes) = of_plans?;
    removed(args, Some(&name), (count, freed + bytes), quiet)?;
    Ok(exit::OK)
}

/// The file of a repository that a piece of its name means.
fn file_of_piece<'f>(files: &'f [CachedFile], piece: &str) -> Option<&'f CachedFile> {
    let like = |f: &&CachedFile| is_model(f) && f.file.to_lowercase().contains(&piece.to_lowercase());
    files.iter().find(|f| f.file == *piece).or_else(|| files.iter().find(like))
}

/// Removes what was compiled of models. Returns how many plans there were, and their bytes.
fn remove_plans<'f>(
    plans: &PlanCache,
    models: impl Iterator<Item = &'f CachedFile>,
) -> Result<(usize, u64), Failure> {
    let (mut count, mut bytes) = (0, 0);
    for model in models.filter(|file| is_model(file)) {
        match plans.remove_of(&model.path) {
            Ok((plans, freed)) => (count, bytes) = (count + plans, bytes + freed),
            Err(error @ Error::Store(_)) => return Err(error.into()),
            // Nothing was ever compiled of a file that is no model.
            Err(_) => {}
        }
    }
    Ok((count, bytes))
}

/// Whether a cached file is one that can be run.
fn is_model(file: &CachedFile) -> bool {
    file.file.to_ascii_lowercase().ends_with(".gguf")
}

fn list(args: &ListArgs) -> Outcome {
    let hub = hub(true)?;
    let models: Vec<CachedFile> = hub.cache().list()?.into_iter().filter(is_model).collect();
    let plan_cache = PlanCache::from_env(&variable)?;
    let plans = plan_cache.list()?;
    let aliases = all_aliases();
    if args.json {
        output::print_json(&serde_json::json!({
            "schema": "bitnetc.models-list/2",
            "built_in": { "name": builtin::SHORT_NAME, "file_bytes": builtin::GGUF.len() },
            "cache": hub.cache().root().display().to_string(),
            "models": models.iter().map(|m| serde_json::json!({
                "name": format!("hf:{}:{}", m.repo, m.file),
                "commit": m.commit,
                "file_bytes": m.bytes,
                "path": m.path.display().to_string(),
            })).collect::<Vec<_>>(),
            "plan_cache": plan_cache.root().display().to_string(),
            "plans": plans.iter().map(|p| serde_json::json!({
                "path": p.path.display().to_string(),
                "file_bytes": p.bytes,
            })).collect::<Vec<_>>(),
            "aliases": aliases,
        }))?;
        return Ok(exit::OK);
    }
    let mut text = format!(
        "built in\n  {:>9}  {}\nmodels in {}\n",
        in_units(builtin::GGUF.len() as u64),
        builtin::SHORT_NAME,
        hub.cache().root().display()
    );
    let none = |is_empty: bool| if is_empty { format!("  {}\n", output::NONE) } else { String::new() };
    text += &none(models.is_empty());
    for model in &models {
        text += &format!("  {:>9}  hf:{}:{}\n", in_units(model.bytes), model.repo, model.file);
    }
    text += &format!("plans in {}\n{}", plan_cache.root().display(), none(plans.is_empty()));
    for plan in &plans {
        let name = plan.path.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("  {:>9}  {name}\n", in_units(plan.bytes));
    }
    text += "aliases\n";
    for (alias, meaning) in &aliases {
        text += &format!("  {alias} = {meaning}\n");
    }
    output::print(&text)?;
    Ok(exit::OK)
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}
