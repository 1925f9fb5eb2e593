//! From a model's name on the Hub to a model that runs: fetched if it is not cached, compiled once, then opened by its plan.

use super::{Hub, HubRef, HubSettings, PlanCache, Progress, Pulled, Used};
use crate::error::Error;
use crate::load::{LoadOptions, Loaded};

/// What is being done to open a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A file is being fetched.
    Fetching(Progress),
    /// All files are in the cache, some of them new.
    Fetched(Pulled),
    /// The plan is being made.
    Compiling {
        /// Bytes of weights that are packed.
        done: u64,
        /// Of how many.
        total: u64,
    },
}

/// Opens the model `name` of the Hub. `watch` is told what is being done, and stops the work by returning false.
///
/// # Errors
/// A model that cannot be fetched, opened or compiled; a plan that cannot be written.
pub fn open(
    name: &HubRef,
    hub: &Hub,
    plans: &PlanCache,
    options: &LoadOptions,
    watch: &mut dyn FnMut(&Opening) -> bool,
) -> Result<(Loaded, Used), Error> {
    let pulled = hub.get(name, &mut |progress| watch(&Opening::Fetching(progress.clone())))?;
    if pulled.fetched > 0 && !watch(&Opening::Fetched(pulled.clone())) {
        return Err(Error::Interrupted);
    }
    plans.load(&pulled.path, options, |done, total| watch(&Opening::Compiling { done, total }))
}

/// As [`open`], with the Hub and the caches of this process's environment.
///
/// # Errors
/// As [`open`], and no folder for the caches.
pub fn open_from_env(
    name: &HubRef,
    options: &LoadOptions,
    watch: &mut dyn FnMut(&Opening) -> bool,
) -> Result<(Loaded, Used), Error> {
    let variable = |name: &str| std::env::var_os(name);
    let hub = Hub::new(HubSettings::from_env(&variable)?);
    open(name, &hub, &PlanCache::from_env(&variable)?, options, watch)
}
