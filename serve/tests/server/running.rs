//! A server in this process.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use bitnetc::chat::Wish;
use bitnetc::describe::Description;
use bitnetc::load::Source;
use bitnetc::{MapMode, Model};
use bitnetc_serve::{ModelSource, Options, ServeError, Server, Shutdown};
use serde_json::Value;

use crate::http_client::{Answer, ask, eventually, get, metric_in, post};

/// The model of all tests, which is made ready once.
pub(crate) fn builtin() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::builtin().unwrap())
}

/// The built-in model under a name.
pub(crate) fn source(name: &str) -> ModelSource {
    ModelSource {
        name: name.to_owned(),
        aliases: Vec::new(),
        bytes: 0,
        modified: None,
        describe: Box::new(|| Description::of(&Source::open(None, MapMode::Mapped).ok()?).ok()),
        template: Wish::NameOrText("chatml".to_owned()),
        open: Box::new(|| Ok(builtin().clone())),
    }
}

/// Options of a small server.
pub(crate) fn options() -> Options {
    let mut options = Options { port: 0, ..Options::default() };
    options.models.context = Some(256);
    options.models.parallel = 4;
    options.models.cache_ram = Some(1 << 20);
    options
}

/// Options of a server that makes one text at a time, and a text that takes its time.
pub(crate) fn long_options() -> Options {
    let mut options = options();
    options.models.context = Some(8192);
    options.models.parallel = 1;
    options
}

/// A request for a text that takes its time.
pub(crate) fn long_text(stream: bool) -> Value {
    serde_json::json!({ "prompt": "a", "max_tokens": 8000, "ignore_eos": true, "stream": stream })
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    /// Remarks.
    pub(crate) notes: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Running {
    pub(crate) fn new(options: Options) -> Self {
        Self::with(options, vec![source("tiny")])
    }

    pub(crate) fn with(options: Options, models: Vec<ModelSource>) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        // Whoever holds the lock reads no lines.
        let sink = Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned()));
        let notes = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&notes);
        let note = Arc::new(move |note: &str| said.lock().unwrap().push(note.to_owned()));
        let server = Server::bind(options, models, note, sink).unwrap();
        let (address, shutdown) = (server.address(), server.shutdown());
        let thread = Some(std::thread::spawn(move || server.run(|| {})));
        Self { address, shutdown, log, notes, thread }
    }

    /// Waits until the server is healthy.
    pub(crate) fn healthy(self) -> Self {
        eventually(|| self.get("/health").status == 200);
        self
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        ask(self.address, &get(path))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        ask(self.address, &post(path, body))
    }

    /// The value of a metric of the server, all labels together.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        metric_in(&self.get("/metrics").text(), name)
    }

    /// How it ended.
    pub(crate) fn ended(mut self) -> Result<(), ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.end();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
