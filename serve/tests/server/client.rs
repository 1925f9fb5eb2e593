//! A server in this process, and a client that can misbehave: it writes the bytes that it is given, as slowly as it is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bitnetc::chat::Wish;
use bitnetc::describe::Description;
use bitnetc::load::Source;
use bitnetc::{MapMode, Model};
use bitnetc_serve::{ModelSource, Options, ServeError, Server, Shutdown};
use serde_json::Value;

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
        ask(self.address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        ask(self.address, &post(path, body))
    }

    /// The value of a metric of the server, all labels together.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        text.lines().filter(is_it).filter_map(value).sum()
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

/// Waits for something that happens soon.
pub(crate) fn eventually(mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}: {:?}", self.head, self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let named =
            |line: &&str| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        self.head.lines().skip(1).find(named).map(|line| line[name.len() + 1..].trim())
    }

    /// The objects of a stream, and whether it ended as one should.
    pub(crate) fn events(&self) -> (Vec<Value>, bool) {
        let text = self.text();
        let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let done = data.last() == Some(&"[DONE]");
        (data.iter().filter_map(|data| serde_json::from_str(data).ok()).collect(), done)
    }
}

/// A request with a body of JSON.
pub(crate) fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Sends bytes and reads one answer.
pub(crate) fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    read(&mut stream)
}

/// Reads one answer, to its end.
pub(crate) fn read(stream: &mut TcpStream) -> Answer {
    let mut reader = Buffered { stream, bytes: Vec::new() };
    let head = loop {
        if let Some(at) = find(&reader.bytes, b"\r\n\r\n") {
            let head = reader.take(at + 4);
            break String::from_utf8(head).unwrap();
        }
        assert!(reader.more(), "no answer: {:?}", String::from_utf8_lossy(&reader.bytes));
    };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, head, body: Vec::new() };
    if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            let line = loop {
                if let Some(at) = find(&reader.bytes, b"\r\n") {
                    break String::from_utf8(reader.take(at + 2)).unwrap();
                }
                if !reader.more() {
                    return answer;
                }
            };
            let length = usize::from_str_radix(line.trim(), 16).unwrap();
            while reader.bytes.len() < length + 2 && reader.more() {}
            let chunk = reader.take(length + 2);
            if length == 0 {
                return answer;
            }
            answer.body.extend_from_slice(&chunk[..length]);
        }
    }
    match answer.header("content-length").map(|length| length.parse::<usize>().unwrap()) {
        Some(length) => {
            while reader.bytes.len() < length && reader.more() {}
            answer.body = reader.take(length);
        }
        None if status == 204 => {}
        None => {
            while reader.more() {}
            answer.body = std::mem::take(&mut reader.bytes);
        }
    }
    answer
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

struct Buffered<'s> {
    stream: &'s mut TcpStream,
    bytes: Vec<u8>,
}

impl Buffered<'_> {
    fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(read) => {
                self.bytes.extend_from_slice(&buffer[..read]);
                read > 0
            }
            Err(error) => {
                assert!(
                    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "no answer in time"
                );
                false
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(count.min(self.bytes.len()));
        std::mem::replace(&mut self.bytes, rest)
    }
}
