//! A Hub in this process, for tests: one address for the Hub, another for its storage, both with faults on demand, by http or
//! https.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";
pub const NEWER: &str = "ffeeddccbbaa99887766554433221100ffeeddcc";

/// A way in which the storage misbehaves, once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Sends this number of bytes of the body and closes the connection.
    CutAfter(usize),
    /// Closes the connection without an answer.
    Silent,
    /// Answers with a status.
    Status(u16),
    /// Sends the whole file though a part was asked for.
    IgnoresRange,
    /// Says that it sends another part than it was asked for.
    WrongRange,
    /// Flips a bit.
    Damages,
    /// Sends the header and this number of bytes of the body, and then nothing, until the client goes.
    Hangs(usize),
    /// Each time: sends this number of bytes of the whole file, and refuses to go on in the middle.
    NeverResumes(usize),
}

pub struct State {
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files that the Hub serves itself, called by their git hash.
    pub small: Vec<String>,
    pub needs_token: Option<String>,
    pub faults: VecDeque<Fault>,
    /// Answers of the Hub, before it answers rightly.
    pub statuses: VecDeque<u16>,
    pub requests: Vec<Seen>,
    pub storage: String,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub storage: bool,
    pub line: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// A Hub that answers until the process ends.
pub struct Server {
    state: Arc<Mutex<State>>,
    pub endpoint: String,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub fn git_hash(bytes: &[u8]) -> String {
    let all = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    sha1::Sha1::digest(&all).iter().map(|b| format!("{b:02x}")).collect()
}

pub fn listen(handle: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The thread ends with the process of the tests.
    std::thread::spawn(move || listener.incoming().flatten().for_each(handle));
    address
}

/// The header of a request.
pub fn read_request(stream: &mut dyn Read, storage: bool) -> Option<Seen> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut seen = Seen { storage, line: lines.next()?.to_owned(), range: None, token: None };
    for header in lines.filter(|line| !line.is_empty()) {
        let (name, value) = header.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.trim().to_owned()),
            "authorization" => seen.token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    Some(seen)
}

pub fn answer(stream: &mut dyn Write, status: u16, headers: &str, body: &[u8], length: usize) {
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
    let _ =
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).and_then(|()| stream.flush());
}

fn hub(state: &Mutex<State>, stream: &mut (impl Read + Write)) {
    let Some(seen) = read_request(stream, false) else { return };
    let mut state = state.lock().unwrap();
    state.requests.push(seen.clone());
    if let Some(status) = state.statuses.pop_front() {
        return answer(stream, status, "", b"", 0);
    }
    if state.needs_token.is_some() && seen.token != state.needs_token {
        return answer(stream, 401, "", b"", 0);
    }
    let mut words = seen.line.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    if let Some(rest) = path.strip_prefix("/api/models/org/repo/revision/") {
        if !["main", COMMIT, NEWER].contains(&rest) {
            return answer(stream, 404, "", b"", 0);
        }
        let siblings: Vec<_> = state.files.keys().map(|f| serde_json::json!({ "rfilename": f })).collect();
        let body = serde_json::json!({ "sha": state.commit, "siblings": siblings }).to_string();
        return answer(stream, 200, "", body.as_bytes(), body.len());
    }
    // A repository that has been renamed.
    if let Some(rest) = path.strip_prefix("/api/models/old/name/") {
        let headers = format!("Location: /api/models/org/repo/{rest}\r\n");
        return answer(stream, 307, &headers, b"", 0);
    }
    let file = path.strip_prefix("/org/repo/resolve/").and_then(|rest| rest.split_once('/'));
    let Some((name, bytes)) = file.and_then(|(_, file)| Some((file, state.files.get(file)?))) else {
        return answer(stream, 404, "", b"", 0);
    };
    if state.small.iter().any(|small| small == name) {
        let headers = format!("ETag: \"{}\"\r\n", git_hash(bytes));
        let body = if method == "HEAD" { &[][..] } else { bytes };
        return answer(stream, 200, &headers, body, bytes.len());
    }
    let headers = format!(
        "Location: {}/{name}\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\nETag: \"other\"\r\n",
        state.storage,
        sha256(bytes),
        bytes.len()
    );
    answer(stream, 302, &headers, b"", 0);
}

fn storage(state: &Mutex<State>, stream: &mut (impl Read + Write)) {
    let Some(seen) = read_request(stream, true) else { return };
    let mut state = state.lock().unwrap();
    state.requests.push(seen.clone());
    let name = seen.line.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
    let mut bytes = state.files[&name].clone();
    let fault = match state.faults.front() {
        Some(Fault::NeverResumes(_)) => state.faults.front().copied(),
        _ => state.faults.pop_front(),
    };
    drop(state);
    let from = seen
        .range
        .as_deref()
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match fault {
        Some(Fault::Silent) => return,
        Some(Fault::Status(status)) => return answer(stream, status, "", b"", 0),
        Some(Fault::Damages) => bytes[0] ^= 1,
        Some(Fault::NeverResumes(_)) if from.is_some() => return answer(stream, 416, "", b"", 0),
        _ => {}
    }
    let (status, headers, body) = match from.filter(|_| fault != Some(Fault::IgnoresRange)) {
        Some(from) if from >= bytes.len() => return answer(stream, 416, "", b"", 0),
        Some(from) => {
            let said = if fault == Some(Fault::WrongRange) { from + 1 } else { from };
            let headers = format!("Content-Range: bytes {said}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            (206, headers, &bytes[from..])
        }
        None => (200, String::new(), &bytes[..]),
    };
    let sent = match fault {
        Some(Fault::CutAfter(n) | Fault::Hangs(n) | Fault::NeverResumes(n)) => &body[..n.min(body.len())],
        _ => body,
    };
    answer(stream, status, &headers, sent, body.len());
    if matches!(fault, Some(Fault::Hangs(_))) {
        let _ = stream.read(&mut [0]);
    }
}

fn new_state(files: &[(&str, Vec<u8>)]) -> Arc<Mutex<State>> {
    Arc::new(Mutex::new(State {
        commit: COMMIT.to_owned(),
        files: files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect(),
        small: Vec::new(),
        needs_token: None,
        faults: VecDeque::new(),
        statuses: VecDeque::new(),
        requests: Vec::new(),
        storage: String::new(),
    }))
}

/// Wraps a connection in TLS with the test certificate.
fn tls(data: &Path) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(data.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(data.join("server.key")).unwrap();
    let provider = Arc::new(rustls_graviola::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(builder.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())
}

impl Server {
    /// A Hub with a repository `org/repo` of these files.
    pub fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let state = new_state(files);
        let (for_storage, for_hub) = (Arc::clone(&state), Arc::clone(&state));
        let address = listen(move |mut stream| storage(&for_storage, &mut stream));
        state.lock().unwrap().storage = format!("http://{address}");
        let address = listen(move |mut stream| hub(&for_hub, &mut stream));
        Self { state, endpoint: format!("http://{address}") }
    }

    /// The same by https, with the certificate in the folder `data`.
    pub fn with_tls(files: &[(&str, Vec<u8>)], data: &Path) -> Self {
        let (state, config) = (new_state(files), tls(data));
        let connect = move |config: &Arc<rustls::ServerConfig>, stream| {
            let connection = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
            rustls::StreamOwned::new(connection, stream)
        };
        let (for_storage, own) = (Arc::clone(&state), Arc::clone(&config));
        let address = listen(move |stream| {
            let mut stream = connect(&own, stream);
            storage(&for_storage, &mut stream);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        });
        state.lock().unwrap().storage = format!("https://localhost:{}", address.port());
        let for_hub = Arc::clone(&state);
        let address = listen(move |stream| {
            let mut stream = connect(&config, stream);
            hub(&for_hub, &mut stream);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        });
        Self { state, endpoint: format!("https://localhost:{}", address.port()) }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Faults of the storage, in their order.
    pub fn faults(&self, faults: &[Fault]) {
        self.state().faults = faults.iter().copied().collect();
    }

    /// Requests to the storage, as the ranges that they asked for.
    pub fn ranges(&self) -> Vec<Option<String>> {
        self.state().requests.iter().filter(|r| r.storage).map(|r| r.range.clone()).collect()
    }
}
