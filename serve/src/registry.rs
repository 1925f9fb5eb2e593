//! The models of a server: loaded on first use, unloaded if memory is short.
//!
//! One model is loaded at a time, on a separate thread, so that memory is counted once. Before that, unused models are unloaded, least
//! recently used first, until there is room. A request holds a [`Lease`] on its model until its answer is complete, and a model with
//! a lease stays loaded.
//!
//! If the maximum number of models is loaded and all are in use, the least recently used one is *closed*: later requests for it wait
//! until it has been unloaded and loaded again. So a model that is always in use does not keep out the others.
//!
//! Invariants: if a model cannot be loaded, only the requests that name it fail; models are never loaded on a thread that answers
//! requests; a request that was received before its model was closed gets the model before it is unloaded.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use bitnetc::Model;
use bitnetc::api::{self, Listed, Service};
use bitnetc::chat::{ChatEncoder, Wish};
use bitnetc::describe::Description;
use bitnetc::engine::{Engine, EngineOptions, Metrics};
use bitnetc::runtime::error::SessionError;
use bitnetc::runtime::memory::{Memory, in_units};
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};

use crate::Note;
use crate::admission::Admission;
use crate::failure::Failure;
use crate::log::cut;
use crate::options::Options;
use crate::shutdown::Shutdown;

/// A model that a server can load.
pub struct ModelSource {
    /// Its name in requests and answers.
    pub name: String,
    /// Other names that it answers to.
    pub aliases: Vec<String>,
    /// The expected size in memory, in bytes (0: unknown).
    pub bytes: u64,
    /// When its file was written; `None` where there is no file.
    pub modified: Option<SystemTime>,
    /// The choice of its chat template.
    pub template: Wish,
    /// What its file says of it, without loading it; `None` where there is no file yet, or none that can be read.
    pub describe: Box<dyn Fn() -> Option<Description> + Send + Sync>,
    /// Opens the model, on a thread that may block; the error is the reason for the user.
    pub open: Box<dyn Fn() -> Result<Model, String> + Send + Sync>,
}

impl std::fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelSource").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) service: Arc<Service>,
    pub(crate) engine: Engine,
    pub(crate) admission: Arc<Admission>,
    /// Bytes of weights, and of all sequences at full context.
    pub(crate) bytes: u64,
    pub(crate) sequences: u32,
}

/// What holds a loaded model.
pub(crate) type Lease = Arc<Running>;

/// What has become of a model.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Idle,
    Loading,
    Ready(Lease),
    /// Why not, and when that was.
    Failed(String, Instant),
}

/// A model of the server.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) source: ModelSource,
    state: watch::Sender<State>,
    /// Rising numbers: when it was last asked for.
    used: AtomicU64,
    /// Requests that wait for it, by these numbers.
    waiting: std::sync::Mutex<BTreeSet<u64>>,
    /// Requests from this number on wait until it was put away.
    closed: AtomicU64,
    /// What its engines have counted, one after the other.
    pub(crate) metrics: Arc<Metrics>,
    /// What its file says, once that has been read.
    description: OnceLock<Description>,
    /// What identifies it, once it has been loaded.
    hash: OnceLock<[u8; 32]>,
}

/// How long the error of a model that cannot be loaded stands before it is tried again.
const COOLING: Duration = Duration::from_secs(10);

/// What no request is late for.
const OPEN: u64 = u64::MAX;

/// How often it is looked whether one of the most models that may be loaded is unused.
const BUSY: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Registry {
    pub(crate) entries: Vec<Arc<Entry>>,
    options: Arc<Options>,
    note: Note,
    shutdown: Shutdown,
    uses: AtomicU64,
    /// Held while a model is loaded.
    loading: Mutex<()>,
    /// Whether what must be there from the start is there, or could not be loaded.
    begun: AtomicBool,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl Entry {
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The model, if it is loaded.
    pub(crate) fn running(&self) -> Option<Lease> {
        match &*self.state.borrow() {
            State::Ready(running) => Some(Arc::clone(running)),
            _ => None,
        }
    }

    /// What its file says of it. Reads the file: not for threads that serve others.
    fn describe(&self) -> Option<&Description> {
        if self.description.get().is_none()
            && let Some(description) = (self.source.describe)()
        {
            return Some(self.description.get_or_init(|| description));
        }
        self.description.get()
    }

    /// The model as ollama lists it. Reads its file: not for threads that serve others.
    pub(crate) fn listed(&self, started: u64) -> Listed<'_> {
        let about = self.describe();
        let modified = self.source.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Listed {
            name: &self.source.name,
            bytes: self.source.bytes,
            modified: modified.map_or(started, |time| time.as_secs()),
            hash: self.hash.get().copied().or(about.and_then(|about| about.source_hash)),
            about,
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        [&self.source.name].into_iter().chain(&self.source.aliases).any(|own| api::is_name_of(name, own))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is loaded in this state, and nobody uses it or is about to.
    fn is_unused(&self, state: &State) -> bool {
        let is_wanted =
            || self.waiting().first().is_some_and(|&first| first < self.closed.load(Ordering::SeqCst));
        matches!(state, State::Ready(running) if Arc::strong_count(running) == 1 && !is_wanted())
    }

    /// Takes the model away if nobody uses it.
    fn put_away(&self) -> Option<Lease> {
        let mut taken = None;
        self.state.send_if_modified(|state| {
            if !self.is_unused(state) {
                return false;
            }
            self.closed.store(OPEN, Ordering::SeqCst);
            if let State::Ready(running) = std::mem::replace(state, State::Idle) {
                taken = Some(running);
            }
            true
        });
        taken
    }

    /// Lets requests that come from now on wait.
    fn close(&self, uses: &AtomicU64) {
        // With the lock, so that each request is in the list of those that wait or comes later.
        let _waiting = self.waiting();
        self.closed.store(uses.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    /// Lets requests that wait have it after all.
    fn reopen(&self) {
        self.closed.store(OPEN, Ordering::SeqCst);
        self.state.send_modify(|_| {});
    }
}

/// A request that waits for a model.
struct Turn<'e> {
    entry: &'e Entry,
    number: u64,
}

impl<'e> Turn<'e> {
    fn new(entry: &'e Entry, uses: &AtomicU64) -> Self {
        let mut waiting = entry.waiting();
        let number = uses.fetch_add(1, Ordering::SeqCst) + 1;
        waiting.insert(number);
        entry.used.store(number, Ordering::SeqCst);
        Self { entry, number }
    }

    /// Whether the model was closed before the request came.
    fn is_late(&self) -> bool {
        self.number >= self.entry.closed.load(Ordering::SeqCst)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.entry.waiting().remove(&self.number);
    }
}

impl Registry {
    pub(crate) fn new(
        sources: Vec<ModelSource>,
        options: Arc<Options>,
        shutdown: Shutdown,
        note: Note,
    ) -> Self {
        let entry = |source| {
            Arc::new(Entry {
                source,
                state: watch::Sender::new(State::Idle),
                used: AtomicU64::new(0),
                waiting: std::sync::Mutex::default(),
                closed: AtomicU64::new(OPEN),
                metrics: Arc::default(),
                description: OnceLock::new(),
                hash: OnceLock::new(),
            })
        };
        let entries = sources.into_iter().map(entry).collect();
        Self {
            entries,
            options,
            note,
            shutdown,
            uses: AtomicU64::new(0),
            loading: Mutex::new(()),
            begun: AtomicBool::new(false),
        }
    }

    /// Bytes per second that the threads of the models read from memory, where that was measured.
    pub(crate) fn bandwidth(&self) -> Option<f64> {
        self.options.models.bandwidth.filter(|&bandwidth| bandwidth > 0.0)
    }

    /// From here on the server is healthy.
    pub(crate) fn begin_serving(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Whether the server does not start if a model cannot be loaded now; its end then says why.
    pub(crate) fn ends_with_a_failure(&self) -> bool {
        !self.has_begun() && (self.entries.len() == 1 || self.options.models.preload)
    }

    /// The model that a request names. One that nobody named is the first; where there is one only, it answers to any name.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<&Arc<Entry>, Failure> {
        let first = self.entries.first();
        let lenient = self.entries.len() == 1 && !self.options.models.strict;
        let found = match name {
            None | Some("") => first,
            Some(name) => self.known(name).or(first.filter(|_| lenient)),
        };
        found.ok_or_else(|| self.unknown(name.unwrap_or_default()))
    }

    /// The model of this name, also where the server has one only.
    pub(crate) fn named(&self, name: &str) -> Result<&Arc<Entry>, Failure> {
        self.known(name).ok_or_else(|| self.unknown(name))
    }

    /// The model of a name, which may have the tag that ollama's clients add, or be that of the file.
    fn known(&self, name: &str) -> Option<&Arc<Entry>> {
        let ends = ["", ":latest", ".gguf", ".plan"];
        let mut names = ends.iter().filter_map(|end| name.strip_suffix(end));
        names.find_map(|name| self.entries.iter().find(|entry| entry.answers_to(name)))
    }

    fn unknown(&self, name: &str) -> Failure {
        let names: Vec<&str> = self.entries.iter().map(|entry| entry.source.name.as_str()).collect();
        let message = format!(
            "there is no model {}: the models are {}",
            cut(name, 100).escape_debug(),
            names.join(", ")
        );
        let mut failure = Failure::new(StatusCode::NOT_FOUND, "model_not_found", message);
        failure.refusal.param = Some("model".to_owned());
        failure
    }

    /// The model that a request names, loaded.
    pub(crate) async fn acquire(self: &Arc<Self>, name: Option<&str>) -> Result<Lease, Failure> {
        let entry = self.find(name)?;
        let wait = self.options.limits.load_timeout;
        match timeout(wait, self.loaded(entry)).await {
            Ok(Ok(running)) => Ok(running),
            // What stops in the middle because the server ends is not broken.
            Ok(Err(_)) if self.shutdown.is_draining() => Err(Failure::draining()),
            Ok(Err(why)) => {
                let message = format!("the model {} cannot be loaded: {why}", entry.source.name);
                Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "model_load_failed", message).for_good())
            }
            Err(_) => {
                let message = format!("the model {} is being loaded: try again later", entry.source.name);
                Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "model_loading", message).retry_after(5))
            }
        }
    }

    /// Has a model loaded if it is not, and waits for it.
    pub(crate) async fn loaded(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<Lease, String> {
        let turn = Turn::new(entry, &self.uses);
        let mut states = entry.state.subscribe();
        loop {
            {
                // A copy: while the state is borrowed, nobody can begin to load the model. It is dropped before the wait, because
                // it holds the model.
                let state = states.borrow_and_update().clone();
                match state {
                    State::Ready(running) if !turn.is_late() => return Ok(running),
                    State::Failed(why, when) if when.elapsed() <= COOLING => return Err(why),
                    State::Idle | State::Failed(..) => self.begin(entry),
                    State::Ready(_) | State::Loading => {}
                }
            }
            if states.changed().await.is_err() {
                return Err("the model is gone".to_owned());
            }
        }
    }

    /// Begins to load a model that is not.
    fn begin(self: &Arc<Self>, entry: &Arc<Entry>) {
        let begins = entry.state.send_if_modified(|state| {
            let begins = match state {
                State::Idle => true,
                State::Failed(_, when) => when.elapsed() > COOLING,
                State::Loading | State::Ready(_) => false,
            };
            if begins {
                *state = State::Loading;
            }
            begins
        });
        if begins {
            let (registry, entry) = (Arc::clone(self), Arc::clone(entry));
            tokio::spawn(async move { registry.load(&entry).await });
        }
    }

    async fn load(self: Arc<Self>, entry: &Arc<Entry>) {
        let _alone = self.loading.lock().await;
        (self.note)(&format!("loading {}", entry.source.name));
        self.make_room(entry.source.bytes).await;
        let (registry, this) = (Arc::clone(&self), Arc::clone(entry));
        // The second step counts what the model turned out to need.
        let opened = tokio::task::spawn_blocking(move || registry.open(&this)).await;
        let opened = opened.unwrap_or_else(|panic| Err(format!("a panic while it was opened: {panic}")));
        let result = match opened {
            Ok((service, engine_options, bytes)) => {
                self.make_room(bytes.saturating_sub(service.model.loaded().model.weight_bytes())).await;
                let (registry, metrics) = (Arc::clone(&self), Arc::clone(&entry.metrics));
                let started = tokio::task::spawn_blocking(move || {
                    registry.start(service, engine_options, bytes, metrics)
                });
                started.await.unwrap_or_else(|panic| Err(format!("a panic while it was started: {panic}")))
            }
            Err(why) => Err(why),
        };
        let state = match result {
            Ok(running) => {
                (self.note)(&describe(&entry.source.name, &running));
                State::Ready(Arc::new(running))
            }
            Err(why) => {
                if !self.ends_with_a_failure() {
                    (self.note)(&format!("cannot load {}: {why}", entry.source.name));
                }
                State::Failed(why, Instant::now())
            }
        };
        entry.state.send_replace(state);
    }

    /// Opens a model; what it needs.
    fn open(&self, entry: &Entry) -> Result<(Service, EngineOptions, u64), String> {
        let models = &self.options.models;
        let model = (entry.source.open)()?;
        let loaded = model.loaded();
        let _ = entry.hash.set(loaded.source_hash);
        let context = models.context.unwrap_or_else(|| loaded.default_context());
        if context > loaded.context {
            let own = loaded.context;
            (self.note)(&format!(
                "warning: the context of {context} tokens is more than the {own} that the model was trained for"
            ));
        }
        let of_context = loaded.context_bytes(context).saturating_mul(u64::from(models.parallel));
        let bytes = loaded.model.weight_bytes().saturating_add(of_context);
        if let Some(warning) =
            Memory::probe().available.and_then(|free| too_large(of_context, context, models.parallel, free))
        {
            (self.note)(&warning);
        }
        let chat = ChatEncoder::for_model(loaded, &entry.source.template).map(|(encoder, note)| {
            if let Some(note) = note {
                (self.note)(&note);
            }
            encoder
        });
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let engine = EngineOptions {
            max_step: Some(models.max_step),
            cache_ram: models.cache_ram.unwrap_or_else(EngineOptions::default_cache_ram),
            ..EngineOptions::of(context, models.threads, models.parallel)
        };
        let service = Service {
            chat,
            id: entry.source.name.clone(),
            created,
            context,
            defaults: models.defaults.clone(),
            limits: models.limits,
            strict_model: false,
            model,
        };
        Ok((service, engine, bytes))
    }

    fn start(
        &self,
        service: Service,
        options: EngineOptions,
        bytes: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Running, String> {
        let engine =
            service.model.engine_counting(options, metrics).map_err(|error| match error.session() {
                Some(SessionError::Memory { .. }) => {
                    format!("{error}: use a smaller context, for example -c 4096")
                }
                _ => error.to_string(),
            })?;
        let limits = self.options.limits;
        let admission =
            Admission::new(engine.metrics(), options.sequences, limits.queue, limits.queue_timeout);
        let (service, admission) = (Arc::new(service), Arc::new(admission));
        Ok(Running { service, engine, admission, bytes, sequences: options.sequences })
    }

    /// Unloads models that nobody uses, until there is room for `bytes` and for one more model. Where there are as many models as
    /// may be, waits for the least recently used one; memory that is short is no reason to wait, since the system's number is an
    /// estimate.
    async fn make_room(&self, bytes: u64) {
        let mut closed = None::<&Arc<Entry>>;
        loop {
            let loaded = self.entries.iter().filter(|entry| entry.running().is_some()).count();
            let too_many = self.options.models.most.is_some_and(|most| loaded >= most);
            let too_large = Memory::probe().available.is_some_and(|free| bytes > free);
            if !too_many && !too_large {
                break;
            }
            if let Some(oldest) = self.oldest(|entry| entry.is_unused(&entry.state.borrow())) {
                self.take_away(oldest, "unloaded {}, to make room").await;
                continue;
            }
            if !too_many {
                break;
            }
            if closed.is_none() {
                closed = self.oldest(|entry| entry.running().is_some());
                if let Some(entry) = closed {
                    entry.close(&self.uses);
                    let name = &entry.source.name;
                    (self.note)(&format!(
                        "another model waits for a place: new requests for {name} wait until {name} has been unloaded"
                    ));
                }
            }
            sleep(BUSY).await;
        }
        // Another one may have been put away.
        closed.into_iter().for_each(|entry| entry.reopen());
    }

    /// Unloads a model that nobody uses, and waits for the end of its engine; whether it is not loaded after that.
    pub(crate) async fn unload(&self, entry: &Entry) -> bool {
        self.take_away(entry, "unloaded {}, as a client asked").await;
        matches!(entry.state(), State::Idle | State::Failed(..))
    }

    async fn take_away(&self, entry: &Entry, note: &str) {
        if let Some(running) = entry.put_away() {
            (self.note)(&note.replace("{}", &entry.source.name));
            // Its engine's thread is waited for.
            drop(tokio::task::spawn_blocking(move || drop(running)).await);
        }
    }

    /// The least recently used one of some models.
    fn oldest(&self, of: impl Fn(&Entry) -> bool) -> Option<&Arc<Entry>> {
        let some = self.entries.iter().filter(|entry| of(entry));
        some.min_by_key(|entry| entry.used.load(Ordering::SeqCst))
    }
}

/// What to say of sequences that exceed the memory when all of them are full.
fn too_large(bytes: u64, context: u32, sequences: u32, free: u64) -> Option<String> {
    (bytes > free).then(|| {
        format!(
            "warning: {} of {context} tokens need {} when they are full, but {} of memory is available: use a smaller context, for \
             example -c 4096, or a smaller --parallel",
            counted(sequences),
            in_units(bytes),
            in_units(free)
        )
    })
}

fn counted(sequences: u32) -> String {
    format!("{sequences} sequence{}", if sequences == 1 { "" } else { "s" })
}

/// What a loaded model takes.
fn describe(name: &str, running: &Running) -> String {
    let Service { context, model, .. } = &*running.service;
    let weights = model.loaded().model.weight_bytes();
    format!(
        "{name} is ready: weights {}, and up to {} for the KV cache and buffers of {} of {context} tokens",
        in_units(weights),
        in_units(running.bytes - weights.min(running.bytes)),
        counted(running.sequences)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_bounded_where_nobody_says_how() {
        assert!(EngineOptions::default_cache_ram() <= 2 << 30);
    }

    #[test]
    fn sequences_that_exceed_the_memory_are_pointed_out() {
        assert_eq!(too_large(1 << 30, 4096, 8, 1 << 30), None);
        let warning = too_large(80_000_000_000, 1_000_000, 8, 23_000_000_000).unwrap();
        for words in
            ["8 sequences of 1000000 tokens need 80.00 GB", "23.00 GB of memory", "-c 4096", "--parallel"]
        {
            assert!(warning.contains(words), "{warning}");
        }
    }
}
