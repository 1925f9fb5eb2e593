//! A model with its engine, as the Python layer uses it.
//!
//! All threads and event loops that ask a model have their texts made by its one engine, together. What scores texts has a session of
//! its own, made when it is first needed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitnetc::api::{self, FIELDS, Refusal, Route, Service, Treatment};
use bitnetc::engine::{self, Engine};
use bitnetc::ir::{Stage, text};
use bitnetc::likelihood::Scorer;
use bitnetc::load::dump_module;
use bitnetc::runtime::error::SessionError;
use bitnetc::runtime::memory;
use bitnetc::serde_json::{Value, json};
use bitnetc::session::{self, SessionOptions};
use bitnetc::{TokenId, Tokenize};
use bitnetc_tools::explain::{self, ExplainOptions};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::bell::{Bell, Wakeups};
use crate::call::{Call, Choice};
use crate::errors;
use crate::open::{Options, Origin, Refused};
use crate::process::AtHome;
use crate::session::{Session, refused, set_watch};
use crate::signals::{LOOK, Shared, Watch, interruptible};

/// Paths that are answered without the engine.
const UTILITIES: [(&str, Utility); 6] = [
    ("/tokenize", |service, body| Ok(json!(api::tokenize(service, body)?))),
    ("/detokenize", api::detokenize),
    ("/apply-template", api::apply_template),
    ("/v1/messages/count_tokens", |service, body| api::count_tokens(service, Route::CountTokens, body)),
    ("/v1/chat/completions/input_tokens", |service, body| {
        api::count_tokens(service, Route::ChatTokens, body)
    }),
    ("/v1/responses/input_tokens", |service, body| api::count_tokens(service, Route::ResponseTokens, body)),
];

type Utility = fn(&Service, &[u8]) -> Result<Value, Refusal>;

/// How often it is looked whether a form is compiled.
const POLL: Duration = Duration::from_millis(1);

/// See the module.
#[pyclass(frozen, module = "bitnetc._bitnetc")]
pub(crate) struct Model {
    service: Arc<Service>,
    origin: Arc<Origin>,
    sequences: u32,
    /// `None` once the model is closed.
    engine: AtHome<Mutex<Option<Engine>>>,
    /// What scores texts; `None` until it is needed.
    scorer: AtHome<Shared<Option<Scorer>>>,
    /// What ends its work.
    watch: Arc<Watch>,
    notes: Vec<String>,
}

/// What a thread of its own makes of a model.
fn start(
    origin: &Origin,
    model: bitnetc::Model,
) -> Result<(Service, engine::EngineOptions, Engine, Vec<String>), bitnetc::Error> {
    let (service, options, notes) = origin.serve(model);
    let engine = service.model.engine(options)?;
    Ok((service, options, engine, notes))
}

fn option(py: Python<'_>, refused: Refused) -> PyErr {
    match refused {
        Refused::Option { name, why } => errors::refusal(py, &Refusal::field(name, format!("{name}: {why}"))),
        Refused::Model(error) => errors::model(py, &error.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Model {
    fn closed(py: Python<'_>) -> PyErr {
        errors::error(py, "the model is closed")
    }

    /// The engine.
    fn engine(&self, py: Python<'_>) -> PyResult<Engine> {
        lock(self.engine.get("Model")?).clone().ok_or_else(|| Self::closed(py))
    }

    fn tokenizer(&self) -> &dyn Tokenize {
        self.service.model.tokenizer()
    }

    /// A machine for one sequence.
    fn machine(&self, context: u32) -> Result<session::Session, bitnetc::Error> {
        let options = SessionOptions { context, threads: self.origin.threads() };
        Ok(session::Session::new(Arc::clone(&self.service.model.loaded().model), options)?)
    }

    /// The requests of a call, once their form is compiled.
    fn finish(py: Python<'_>, choices: Vec<api::Prepared>) -> PyResult<Vec<engine::Request>> {
        let mut asked = Instant::now();
        let mut requests = Vec::with_capacity(choices.len());
        for choice in choices {
            while !choice.is_ready() {
                py.detach(|| std::thread::sleep(POLL));
                if asked.elapsed() >= LOOK {
                    py.check_signals()?;
                    asked = Instant::now();
                }
            }
            requests.push(choice.finish().map_err(|refusal| errors::refusal(py, &refusal))?);
        }
        Ok(requests)
    }

    /// Makes a report about the compiled model, which takes a while.
    fn report<T: Send + 'static>(
        &self,
        py: Python<'_>,
        make: impl FnOnce(&Origin) -> Result<T, bitnetc_tools::Error> + Send + 'static,
    ) -> PyResult<T> {
        let origin = Arc::clone(&self.origin);
        let made = interruptible(py, move |_| make(&origin).map_err(|error| error.to_string()))?;
        made.map_err(|why| errors::error(py, &why))
    }
}

/// Explains what would run.
fn explained(origin: &Origin, depth: u32, texts: bool) -> Result<explain::Document, bitnetc_tools::Error> {
    let source = origin.source()?;
    let options = ExplainOptions { position: depth, texts, timings: None };
    explain::explain(&source, origin.build(), &origin.build().target()?, &options)
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (path, options, log))]
    fn new(py: Python<'_>, path: Option<PathBuf>, options: Options, log: Bound<'_, PyAny>) -> PyResult<Self> {
        let origin = py.detach(|| Origin::new(path, options)).map_err(|why| option(py, why))?;
        let (origin, said) = (Arc::new(origin), Arc::new(Mutex::new(Vec::new())));
        let (opening, noted) = (Arc::clone(&origin), Arc::clone(&said));
        let opened = interruptible(py, move |abandoned| {
            let model = opening.open(abandoned, &mut |note| lock(&noted).push(note))?;
            start(&opening, model)
        })?;
        for note in std::mem::take(&mut *lock(&said)) {
            log.call1((note,))?;
        }
        let (service, options, engine, notes) =
            opened.map_err(|error| errors::model(py, &error.to_string()))?;
        Ok(Self {
            service: Arc::new(service),
            origin,
            sequences: options.sequences,
            engine: AtHome::new(Mutex::new(Some(engine))),
            scorer: AtHome::new(Shared::new(None)),
            watch: Arc::default(),
            notes,
        })
    }

    /// Begins a request for a path of the server. `shaped` asks for its frames and its body; `wakeups` tells an event loop of news.
    #[pyo3(signature = (path, body, shaped, wakeups=None))]
    fn submit(
        &self,
        py: Python<'_>,
        path: &str,
        body: PyBackedBytes,
        shaped: bool,
        wakeups: Option<(Bound<'_, Wakeups>, u64)>,
    ) -> PyResult<Call> {
        let engine = self.engine(py)?;
        let route = Route::of_path(path).filter(|route| *route != Route::CountTokens);
        let route = route.ok_or_else(|| errors::refusal(py, &no_texts(path)))?;
        let service = Arc::clone(&self.service);
        let call = py.detach(|| api::accept(&service, route, &body));
        let call = call.map_err(|refusal| errors::refusal(py, &refusal))?;
        let requests = Self::finish(py, call.choices)?;
        let bell = wakeups.map_or_else(Bell::default, |(wakeups, number)| Bell::of(wakeups.get(), number));
        let bell = Arc::new(bell);
        let submit = |request: engine::Request| {
            let (seed, bell) = (request.seed(), Arc::clone(&bell));
            Choice { handle: engine.submit_with(request, Arc::new(move || bell.ring())), seed }
        };
        let choices = requests.into_iter().map(submit).collect();
        // There may be no texts, and so no news.
        bell.ring();
        Ok(Call::new(choices, call.reply, shaped, bell, service.model.clone()))
    }

    /// Answers a path of the server that needs no text to be made; `None` for others.
    fn answer(&self, py: Python<'_>, path: &str, body: PyBackedBytes) -> PyResult<Option<String>> {
        let Some((_, utility)) = UTILITIES.iter().find(|(known, _)| *known == path) else { return Ok(None) };
        let answered = py.detach(|| utility(&self.service, &body).map(|value| value.to_string()));
        answered.map(Some).map_err(|refusal| errors::refusal(py, &refusal))
    }

    /// Ends the engine: texts under way end with `Cancelled`. Nothing is made afterwards.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let (engine, scorer) = (self.engine.get("Model")?, self.scorer.get("Model")?);
        // A step that is under way is waited for.
        self.watch.end();
        py.detach(|| drop(lock(engine).take()));
        scorer.with(py, |scorer| drop(scorer.take()))
    }

    /// Whether the model is closed.
    #[getter(closed)]
    fn is_closed(&self) -> PyResult<bool> {
        Ok(lock(self.engine.get("Model")?).is_none())
    }

    /// The tokens of a text.
    fn encode(
        &self,
        py: Python<'_>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> PyResult<Vec<TokenId>> {
        let encoded = py.detach(|| self.tokenizer().encode(text, add_special, parse_special));
        encoded.map_err(|why| errors::refusal(py, &Refusal::field("text", format!("text: {why}"))))
    }

    /// The text of tokens. Bytes that are no UTF-8 become replacement characters.
    fn decode(&self, py: Python<'_>, ids: Vec<TokenId>, render_special: bool) -> PyResult<String> {
        self.known(py, &ids)?;
        Ok(py.detach(|| self.tokenizer().decode_lossy(&ids, render_special)))
    }

    /// The bytes of a token.
    fn token_bytes(&self, py: Python<'_>, id: TokenId) -> PyResult<Vec<u8>> {
        self.known(py, &[id])?;
        Ok(self.tokenizer().token_bytes(id).to_vec())
    }

    /// A session with room for so many tokens.
    fn session(&self, py: Python<'_>, context: Option<u32>) -> PyResult<Session> {
        self.engine(py)?;
        let made = py.detach(|| self.machine(context.unwrap_or(self.service.context)));
        made.map(Session::new).map_err(|error| errors::error(py, &error.to_string()))
    }

    /// How likely texts are after contexts: sums of logarithms, and whether each token is the likeliest.
    fn loglikelihood(
        &self,
        py: Python<'_>,
        pairs: Vec<(Vec<TokenId>, Vec<TokenId>)>,
    ) -> PyResult<Vec<(f64, bool)>> {
        self.engine(py)?;
        // What begins alike stands together, so that it is computed once.
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|&a, &b| pairs[a].cmp(&pairs[b]));
        let scored = self.scorer.get("Model")?.with(py, |scorer| {
            let scorer = match scorer {
                Some(scorer) => scorer,
                none => {
                    let mut session = self.machine(self.service.context)?;
                    set_watch(&mut session, &self.watch);
                    none.insert(Scorer::new(session))
                }
            };
            let mut results = vec![(0.0, true); pairs.len()];
            for at in order {
                // What follows a context that was just computed may need no more of the session.
                if !self.watch.go_on() {
                    return Err(SessionError::Interrupted.into());
                }
                let (context, text) = &pairs[at];
                let likelihood = scorer.likelihood(context, text)?;
                results[at] = (likelihood.sum, likelihood.is_greedy);
            }
            Ok(results)
        });
        scored?.map_err(|error: bitnetc::Error| match error {
            bitnetc::Error::Session(error) => refused(py, &self.watch, error),
            error => errors::error(py, &error.to_string()),
        })
    }

    /// The module in a stage, or one of its functions, as text.
    fn ir(&self, py: Python<'_>, stage: &str, entry: Option<String>) -> PyResult<String> {
        let named = stage.parse::<Stage>();
        let stage =
            named.map_err(|why| errors::refusal(py, &Refusal::field("stage", format!("stage: {why}"))))?;
        let wanted = entry.clone();
        let (text, names) = self.report(py, move |origin| {
            let mut module = dump_module(&origin.source()?, stage, origin.build())?;
            let names: Vec<String> = module.funcs().values().map(|func| func.name().to_owned()).collect();
            if let Some(entry) = wanted {
                module.retain_funcs(|func| func.name() == entry);
            }
            Ok((text::print(&module), names))
        })?;
        match entry.filter(|entry| !names.contains(entry)) {
            None => Ok(text),
            Some(entry) => {
                let message = format!("entry: there is no function {entry:?}: expected {}", names.join(", "));
                Err(errors::refusal(py, &Refusal::field("entry", message)))
            }
        }
    }

    /// What `bitnetc explain --json` says.
    fn explain(&self, py: Python<'_>, depth: u32) -> PyResult<String> {
        self.report(py, move |origin| Ok(explained(origin, depth, false)?.to_json()?.to_string()))
    }

    /// The page of `bitnetc explain --html`.
    fn explain_html(&self, py: Python<'_>, depth: u32) -> PyResult<String> {
        self.report(py, move |origin| Ok(explain::page::page(&explained(origin, depth, true)?)?))
    }

    /// What is known of the model, as JSON.
    fn info(&self) -> String {
        let loaded = self.service.model.loaded();
        let target = self.origin.build().target().map(|target| target.to_string());
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        json!({
            "name": self.service.id,
            "file": loaded.name,
            "architecture": loaded.architecture,
            "parameters": loaded.parameters(),
            "hidden_size": loaded.hidden(),
            "vocab_size": loaded.model.vocab(),
            "trained_context": loaded.context,
            "context": self.service.context,
            "parallel": self.sequences,
            "threads": self.origin.threads(),
            "head": loaded.head,
            "kv_type": loaded.cache_type().map(|dtype| dtype.name()),
            "target": target.unwrap_or_default(),
            "source_hash": hex(&loaded.source_hash),
            "chat_template": self.service.chat.as_ref().ok().map(|chat| chat.template().name()),
            "notes": self.notes,
        })
        .to_string()
    }

    /// Bytes of weights, of each sequence when it is full, and of the process.
    fn memory(&self) -> (u64, u64, Option<u64>) {
        let loaded = self.service.model.loaded();
        (loaded.model.weight_bytes(), loaded.context_bytes(self.service.context), memory::resident())
    }

    /// What the engine has counted, as JSON. Nothing waits for a step.
    fn metrics(&self, py: Python<'_>) -> PyResult<String> {
        let metrics = self.engine(py)?.metrics();
        let counted = json!({
            "running": metrics.running.get(),
            "waiting": metrics.waiting.get(),
            "steps": metrics.steps.get(),
            "prompt_tokens": metrics.prompt_tokens.get(),
            "cached_tokens": metrics.prefix_hits.get(),
            "completion_tokens": metrics.generation_tokens.get(),
            "finished": metrics.finished.total(),
        });
        Ok(counted.to_string())
    }

    /// The begin and the end token.
    fn special_tokens(&self) -> (Option<TokenId>, Option<TokenId>) {
        (self.tokenizer().bos(), self.tokenizer().eos())
    }
}

impl Model {
    /// # Errors
    /// An id that the vocabulary does not have.
    fn known(&self, py: Python<'_>, ids: &[TokenId]) -> PyResult<()> {
        let size = self.tokenizer().vocab_size();
        let wrong = ids.iter().find(|&&id| id as usize >= size);
        wrong.map_or(Ok(()), |id| {
            let message = format!("ids: there is no token {id}; the vocabulary has {size}");
            Err(errors::refusal(py, &Refusal::field("ids", message)))
        })
    }
}

/// The refusal of a path for which no texts are made.
fn no_texts(path: &str) -> Refusal {
    if UTILITIES.iter().any(|(known, _)| *known == path) {
        return Refusal::field(
            "stream",
            format!("stream: {path} answers in one piece: use openai() or aopenai()"),
        );
    }
    let known: Vec<&str> = known_paths().collect();
    Refusal::new(
        404,
        "not_found",
        format!("there is nothing at {path:?}: the paths are {}", known.join(", ")),
    )
}

fn known_paths() -> impl Iterator<Item = &'static str> {
    let routes = Route::ALL.into_iter().filter(|route| *route != Route::CountTokens);
    routes.map(Route::path).chain(UTILITIES.iter().map(|(path, _)| *path))
}

/// The paths that are answered.
#[pyfunction]
pub(crate) fn paths() -> Vec<&'static str> {
    known_paths().collect()
}

/// The fields that requests for a path may have: names, what they may hold, what counts without them, and what they do.
#[pyfunction]
pub(crate) fn fields(path: &str) -> Vec<(Vec<&'static str>, String, &'static str, &'static str)> {
    let Some(route) = Route::of_path(path) else { return Vec::new() };
    let read = FIELDS.iter().filter(|field| field.routes.has(route) && field.treatment == Treatment::Read);
    read.map(|field| (field.names().collect(), field.kind.describe(), field.default, field.meaning)).collect()
}
