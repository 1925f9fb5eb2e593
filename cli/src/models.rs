//! `bitnetc models`: models by name, and what every command does with the name of a model.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bitnetc::Error;
use bitnetc::load::{LoadOptions, Loaded, load};
use bitnetc::store::{
    self, ALIASES, CachedFile, Hub, HubRef, HubSettings, ModelRef, Opening, PlanCache, Progress, Pulled,
    StoreError, Used,
};
use bitnetc::{CheckState, WeightsCheck};
use bitnetc_runtime::map;
use clap::{Args, Subcommand};
use indicatif::ProgressBar;

use super::failure::Failure;
use super::{Outcome, config, interrupt, output, progress};
use crate::exit;

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Fetch a model from the Hugging Face Hub into its cache
    #[command(
        after_help = "Examples:\n  bitnetc models pull 2b-4t\n  bitnetc models pull hf:microsoft/bitnet-b1.58-2B-4T-gguf:ggml-model-i2_s.gguf\n  bitnetc models pull hf:org/repo@v1.0"
    )]
    Pull(PullArgs),
    /// List the models and the compiled plans that are cached, and the aliases
    List(ListArgs),
    /// Remove a model, or all compiled plans, from the caches
    #[command(
        after_help = "Examples:\n  bitnetc models rm hf:org/repo            the whole repository\n  bitnetc models rm hf:org/repo:a.gguf     one file\n  bitnetc models rm --plans                all compiled plans"
    )]
    Rm(RmArgs),
    /// Print where a cached model is
    #[command(after_help = "Example:\n  bitnetc models path 2b-4t")]
    Path(PathArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// hf:org/repo, hf:org/repo:file.gguf, hf:org/repo@revision:file.gguf, or an alias
    #[arg(value_name = "NAME")]
    pub(crate) name: PathBuf,
    /// Ask nobody: succeed only if the model is cached
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
pub(crate) struct RmArgs {
    /// hf:org/repo, hf:org/repo:file.gguf, or an alias
    #[arg(value_name = "NAME", required_unless_present = "plans")]
    pub(crate) name: Option<PathBuf>,
    /// Remove all compiled plans; they are made again when they are needed
    #[arg(long, conflicts_with = "name")]
    pub(crate) plans: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PathArgs {
    /// hf:org/repo, hf:org/repo:file.gguf, hf:org/repo@revision:file.gguf, or an alias
    #[arg(value_name = "NAME")]
    pub(crate) name: PathBuf,
}

/// A variable of the environment.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn hub(offline: bool) -> Result<Hub, StoreError> {
    let settings = HubSettings::from_env(&variable)?;
    Ok(Hub::new(HubSettings { offline: settings.offline || offline, ..settings }))
}

/// The Hub's model that a name or an alias stands for.
fn hub_name(name: &Path) -> Result<HubRef, Failure> {
    match ModelRef::parse(name, config::aliases())? {
        ModelRef::Hub(hub) => Ok(hub),
        ModelRef::File(path) => {
            let known: Vec<&str> = ALIASES
                .iter()
                .map(|(alias, _)| *alias)
                .chain(config::aliases().keys().map(String::as_str))
                .collect();
            let message = format!(
                "{} is neither hf:org/repo[:file] nor an alias; there are the aliases {}",
                path.display(),
                known.join(", ")
            );
            Err(Failure::new(exit::USAGE, message))
        }
    }
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
        if self.bar.is_none() || self.file != progress.file {
            self.finish();
            self.file.clone_from(&progress.file);
            self.bar = Some(progress::bytes("fetching", progress.total, self.quiet));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(progress.done);
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
    pulled
}

/// The file that a command's model argument stands for: fetched if it is a model of the Hub that is not cached.
pub(crate) fn resolve(model: Option<&Path>, quiet: bool) -> Result<Option<PathBuf>, Failure> {
    let Some(name) = model else { return Ok(None) };
    match ModelRef::parse(name, config::aliases())? {
        ModelRef::File(path) => Ok(Some(path)),
        ModelRef::Hub(name) => Ok(Some(fetch(&hub(false)?, &name, false, quiet)?.path)),
    }
}

/// Opens the model that a command's argument stands for. A model of the Hub is compiled once and then opened by its plan.
pub(crate) fn open(model: Option<&Path>, options: &LoadOptions, quiet: bool) -> Result<Loaded, Failure> {
    let by_name = model.map(|name| ModelRef::parse(name, config::aliases())).transpose()?;
    let Some(ModelRef::Hub(name)) = by_name else {
        let path = match by_name {
            Some(ModelRef::File(path)) => Some(path),
            _ => None,
        };
        return Ok(load(path.as_deref(), options)?);
    };
    interrupt::listen();
    let (mut fetching, mut bar) = (Fetching::new(quiet), None);
    let plans = PlanCache::from_env(&variable)?;
    let opened = store::open(&name, &hub(false)?, &plans, options, &mut |step| match step {
        Opening::Fetching(progress) => fetching.tell(progress),
        Opening::Compiling { done, total } => {
            fetching.finish();
            let bar = bar.get_or_insert_with(|| progress::bytes("compiling", *total, quiet));
            bar.set_position(*done);
            !interrupt::requested()
        }
    });
    fetching.finish();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let (loaded, used) = opened?;
    if used == Used::Compiled {
        output::say(quiet, format!("compiled {name} once, to {}", loaded.name));
    }
    if let Some(check) = loaded.weights_check() {
        // A command opens one model.
        let _ = CHECK.set(Arc::clone(check));
    }
    Ok(loaded)
}

/// The check of the weights of the model that was opened.
static CHECK: OnceLock<Arc<WeightsCheck>> = OnceLock::new();

/// The outcome of a command that has ended, unless a model file was cut short meanwhile, which makes errors of other names. A
/// command that worked waits for the check of the cached plan: what it has computed counts only if the weights are sound.
pub(crate) fn settle(outcome: Outcome) -> Outcome {
    if map::any_lost() {
        let message = "a file was cut short, or could not be read any more, while it was in use: nothing computed from it counts";
        return Err(Failure::new(exit::FAILURE, message));
    }
    let code = outcome?;
    match CHECK.get().map(|check| check.wait(&|| !interrupt::requested())) {
        Some(CheckState::Damaged) => {
            let message = "the weights of the cached plan do not match their hash: nothing computed with them counts; \
                           the plan has been removed, run the command again";
            Err(Failure::new(exit::MODEL, message))
        }
        _ => Ok(code),
    }
}

/// Runs the command.
pub(crate) fn run(args: &ModelsArgs, quiet: bool) -> Outcome {
    match &args.command {
        ModelsCommand::Pull(args) => pull(args, quiet),
        ModelsCommand::List(args) => list(args),
        ModelsCommand::Rm(args) => remove(args, quiet),
        ModelsCommand::Path(args) => path(args),
    }
}

fn pull(args: &PullArgs, quiet: bool) -> Outcome {
    let name = hub_name(&args.name)?;
    let pulled = fetch(&hub(args.offline)?, &name, true, quiet)?;
    if args.json {
        output::print_json(&serde_json::json!({
            "schema": "bitnetc.models.pull/1",
            "name": name.to_string(),
            "path": pulled.path.display().to_string(),
            "commit": pulled.commit,
            "bytes": pulled.bytes,
            "files_fetched": pulled.fetched,
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
    output::print(&format!("{}\n", found.path.display()))?;
    Ok(exit::OK)
}

fn remove(args: &RmArgs, quiet: bool) -> Outcome {
    match &args.name {
        Some(name) => {
            let name = hub_name(name)?;
            let hub = hub(true)?;
            let file = match &name.file {
                // A piece of a name, as it can be pulled by.
                Some(piece) => {
                    let files = hub.cache().list()?;
                    let of_repo = || files.iter().filter(|f| f.repo == name.repo);
                    let exact = of_repo().find(|f| f.file == *piece);
                    let like = || {
                        of_repo()
                            .find(|f| is_model(f) && f.file.to_lowercase().contains(&piece.to_lowercase()))
                    };
                    Some(exact.or_else(like).map_or(piece.clone(), |f| f.file.clone()))
                }
                None => None,
            };
            let freed = hub.cache().remove(&name.repo, file.as_deref())?;
            output::say(quiet, format!("removed {name}: {} are free again", output::bytes(freed)));
        }
        None => {
            let (plans, freed) = PlanCache::from_env(&variable)?.remove("")?;
            output::say(quiet, format!("removed {plans} plans: {} are free again", output::bytes(freed)));
        }
    }
    Ok(exit::OK)
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
    let built_in = ALIASES.iter().map(|(alias, meaning)| ((*alias).to_owned(), (*meaning).to_owned()));
    let mut aliases: std::collections::BTreeMap<String, String> = built_in.collect();
    aliases.extend(config::aliases().clone());
    if args.json {
        output::print_json(&serde_json::json!({
            "schema": "bitnetc.models.list/1",
            "cache": hub.cache().root().display().to_string(),
            "models": models.iter().map(|m| serde_json::json!({
                "name": format!("hf:{}:{}", m.repo, m.file),
                "commit": m.commit,
                "bytes": m.bytes,
                "path": m.path.display().to_string(),
            })).collect::<Vec<_>>(),
            "plan_cache": plan_cache.root().display().to_string(),
            "plans": plans.iter().map(|p| serde_json::json!({
                "path": p.path.display().to_string(),
                "bytes": p.bytes,
            })).collect::<Vec<_>>(),
            "aliases": aliases,
        }))?;
        return Ok(exit::OK);
    }
    let mut text = format!("models in {}\n", hub.cache().root().display());
    for model in &models {
        text += &format!("  {:>9}  hf:{}:{}\n", output::bytes(model.bytes), model.repo, model.file);
    }
    text += &format!("plans in {}\n", plan_cache.root().display());
    for plan in &plans {
        let name = plan.path.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("  {:>9}  {name}\n", output::bytes(plan.bytes));
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
