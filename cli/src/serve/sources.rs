//! The models of the command line, as the server loads them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bitnetc::api::Service;
use bitnetc::describe::Description;
use bitnetc::load::Source;
use bitnetc::{MapMode, Model};
use bitnetc_serve::ModelSource;

use super::ServeArgs;
use crate::exit;
use crate::failure::Failure;
use crate::run::announce;
use crate::sampling::check_biases;
use crate::startup::is_plan;
use crate::{models, output};

/// Why a model could not be loaded, as a command says it.
#[derive(Clone, Default)]
pub(super) struct LastFailure(Arc<Mutex<Option<Failure>>>);

impl LastFailure {
    fn set(&self, failure: Failure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take(&self) -> Failure {
        let failure = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.unwrap_or_else(|| Failure::new(exit::FAILURE, "a model cannot be loaded"))
    }
}

/// The models of a server.
pub(super) struct Sources {
    pub(super) models: Vec<ModelSource>,
    pub(super) names: Vec<String>,
    pub(super) failure: LastFailure,
}

impl Sources {
    /// Those of the command line. A file that is not there is found now, not when it is asked for.
    pub(super) fn of(args: &ServeArgs, quiet: bool) -> Result<Self, Failure> {
        let given: Vec<Option<&Path>> = match args.models.models.as_slice() {
            [] => vec![None],
            all => all.iter().map(|model| Some(model.as_path())).collect(),
        };
        if args.alias.len() > given.len() {
            let message = format!(
                "--alias has {} names for {}",
                args.alias.len(),
                output::count(given.len() as u64, "model")
            );
            return Err(Failure::new(exit::USAGE, message));
        }
        args.template.wish()?.check().map_err(bitnetc::Error::from)?;
        let failure = LastFailure::default();
        let sources = given.iter().enumerate().map(|(at, model)| {
            source(args, *model, args.alias.get(at).map(String::as_str), quiet, failure.clone())
        });
        let models = sources.collect::<Result<Vec<ModelSource>, Failure>>()?;
        let names = models.iter().map(|model| model.name.clone()).collect();
        Ok(Self { models, names, failure })
    }
}

fn source(
    args: &ServeArgs,
    model: Option<&Path>,
    alias: Option<&str>,
    quiet: bool,
    failure: LastFailure,
) -> Result<ModelSource, Failure> {
    let file = models::model_facts(model)?;
    if let Some(note) = &file.note {
        output::say(quiet, note);
    }
    let usual = Service::name_of(model);
    let name = alias.map_or(usual.clone(), str::to_owned);
    let aliases = (name != usual).then_some(usual).into_iter().collect();
    let options = args.engine.load_options()?;
    let path: Option<PathBuf> = model.map(Path::to_owned);
    let facts_of = path.clone();
    let describe = move || {
        let file = models::model_facts(facts_of.as_deref()).ok()?;
        let source = match (&file.path, facts_of.is_none() || file.is_builtin) {
            (Some(path), _) => Source::open(Some(path), MapMode::Mapped),
            (None, true) => Source::open(None, MapMode::Mapped),
            (None, false) => return None,
        };
        Description::of(&source.ok()?).ok()
    };
    let is_compiled = file.path.as_deref().is_some_and(is_compiled_at_start);
    let (params, _) = args.sampling.params()?;
    let open = move || {
        if is_compiled {
            let message =
                "it is compiled now, in memory: `bitnetc compile` makes a plan, which is loaded at once";
            output::say(quiet, format!("note: {}: {message}", Service::name_of(path.as_deref())));
        }
        let opened = models::open(path.as_deref(), &options, quiet).and_then(|loaded| {
            announce(&loaded, path.is_some(), quiet);
            check_biases(&params, loaded.model.vocab())?;
            Ok(Model::from(loaded))
        });
        opened.map_err(|why| {
            let message = why.message();
            failure.set(why);
            message
        })
    };
    Ok(ModelSource {
        name,
        aliases,
        bytes: file.bytes,
        modified: file.modified,
        template: args.template.wish()?,
        describe: Box::new(describe),
        open: Box::new(open),
    })
}

/// Whether a file is a GGUF, which takes its time to become a model.
fn is_compiled_at_start(path: &Path) -> bool {
    path.is_file() && !is_plan(path)
}
