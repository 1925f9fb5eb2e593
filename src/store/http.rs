//! Requests to the Hub: ureq over rustls with the system's certificates and a cryptography library that is built without a
//! C compiler (`docs/adr/0017-models-by-name.md`).
//!
//! Redirects are followed here, because the access token may go to the Hub's own host only, and the file's storage is elsewhere.
//!
//! A server may be silent for a minute, and the user must be able to interrupt the wait: requests are made and bodies are read on
//! separate threads, and the caller checks for an interruption meanwhile. An abandoned thread ends with its time limit.
//!
//! Invariants: a token is sent to the endpoint's origin only, by https or to this machine; https is never left for http; every
//! read has a time limit; the waiting caller is asked every [`LOOK`] whether to continue.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use super::{HubSettings, StoreError};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// How often the waiting caller is asked whether to continue.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// Bytes of a body that are read at a time.
const CHUNK: usize = 256 << 10;
/// Chunks that have been read and not been taken.
const CHUNKS_AHEAD: usize = 4;

/// Asked while a server is waited for; stops the work by returning false.
pub(super) type KeepGoing<'k> = dyn FnMut() -> bool + 'k;

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Another try may help.
    Again(String),
    /// It will not.
    Store(StoreError),
}

impl Failed {
    /// What it means where it is not tried again.
    pub(super) fn into_error(self, url: &str) -> StoreError {
        match self {
            Failed::Again(why) => StoreError::Unreachable { url: url.to_owned(), why, attempts: 1 },
            Failed::Store(error) => error,
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Store(error)
    }
}

/// An answer whose body has not been read.
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) status: u16,
    response: ureq::http::Response<ureq::Body>,
}

impl Answer {
    /// A header's value, if it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The body, as it arrives.
    pub(super) fn into_body(self) -> Result<Body, Failed> {
        let mut reader = self.response.into_body().into_reader();
        let chunks = beside(CHUNKS_AHEAD, move |chunks| {
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = reader.read(&mut chunk).map(|read| {
                    chunk.truncate(read);
                    chunk
                });
                let is_last = read.as_ref().is_ok_and(Vec::is_empty)
                    || read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
                if chunks.send(read).is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Body { chunks: chunks? })
    }
}

/// A body that arrives.
pub(super) struct Body {
    chunks: Receiver<io::Result<Vec<u8>>>,
}

impl Body {
    /// The next bytes; none at the end.
    pub(super) fn next(&mut self, keep_going: &mut KeepGoing<'_>) -> Result<Vec<u8>, Failed> {
        loop {
            match wait(&self.chunks, keep_going)? {
                Ok(chunk) => return Ok(chunk),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failed::Again(error.to_string())),
            }
        }
    }
}

/// Runs `work` on a thread of its own; what it sends is received here.
fn beside<T: Send + 'static>(
    room: usize,
    work: impl FnOnce(SyncSender<T>) + Send + 'static,
) -> Result<Receiver<T>, Failed> {
    let (sender, receiver) = sync_channel(room);
    let thread = std::thread::Builder::new().name("bitnetc-http".to_owned());
    thread.spawn(move || work(sender)).map_err(StoreError::Thread)?;
    Ok(receiver)
}

/// What a thread sends.
fn wait<T>(receiver: &Receiver<T>, keep_going: &mut KeepGoing<'_>) -> Result<T, Failed> {
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(sent) => return Ok(sent),
            Err(RecvTimeoutError::Timeout) if keep_going() => {}
            Err(RecvTimeoutError::Timeout) => return Err(StoreError::Interrupted.into()),
            // The thread sends before it ends.
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failed::Again("the connection was lost".to_owned()));
            }
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ask {
    /// Headers only.
    pub(super) head: bool,
    /// From this byte on.
    pub(super) from: Option<u64>,
    /// Whether redirects to another host are followed.
    pub(super) abroad: bool,
}

/// The connections to the Hub.
pub(super) struct Client {
    agent: ureq::Agent,
    origin: String,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(settings: &HubSettings) -> Self {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("bitnetc/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(SILENCE))
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        if missing_for_tls().is_none() {
            let tls = TlsConfig::builder()
                .provider(TlsProvider::Rustls)
                .root_certs(RootCerts::PlatformVerifier)
                .unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()));
            config = config.tls_config(tls.build());
        }
        let origin = origin(&settings.endpoint).unwrap_or_default().to_owned();
        Self { agent: config.build().new_agent(), origin, token: settings.token.clone() }
    }

    /// Asks, and follows redirects.
    pub(super) fn ask(&self, url: &str, ask: Ask, keep_going: &mut KeepGoing<'_>) -> Result<Answer, Failed> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask_once(&url, ask, keep_going)?;
            let target = match answer.status {
                301 | 302 | 303 | 307 | 308 => answer.header("location").and_then(|to| join(&url, to)),
                _ => None,
            };
            match target {
                Some(target) if ask.abroad || origin(&target) == origin(&url) => {
                    if url.starts_with("https:") && !target.starts_with("https:") {
                        let why = "it redirects from https to another protocol".to_owned();
                        return Err(StoreError::Answer { url, why }.into());
                    }
                    url = target;
                }
                _ => return Ok(answer),
            }
        }
        Err(StoreError::Answer { url, why: "too many redirects".to_owned() }.into())
    }

    fn ask_once(&self, url: &str, ask: Ask, keep_going: &mut KeepGoing<'_>) -> Result<Answer, Failed> {
        if url.starts_with("https:")
            && let Some(needed) = missing_for_tls()
        {
            return Err(StoreError::NoTls { needed }.into());
        }
        let mut request = if ask.head { self.agent.head(url) } else { self.agent.get(url) };
        request = request.header("Accept-Encoding", "identity");
        if let Some(token) = self.token.as_deref().filter(|_| self.may_have_token(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(from) = ask.from {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let called = beside(1, move |answer| drop(answer.send(request.call())))?;
        match wait(&called, keep_going)? {
            Ok(response) => {
                let status = response.status().as_u16();
                Ok(Answer { url: url.to_owned(), status, response })
            }
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl)) => {
                Err(StoreError::Answer { url: url.to_owned(), why: error.to_string() }.into())
            }
            Err(error) if is_tls(&error) => {
                let (url, why) = (url.to_owned(), error.to_string());
                Err(StoreError::Tls { url, why }.into())
            }
            Err(error) if is_without_network(&error) => {
                Err(StoreError::NoNetwork { url: url.to_owned(), why: error.to_string() }.into())
            }
            Err(error) => Err(Failed::Again(error.to_string())),
        }
    }

    /// Whether the token may be sent there.
    fn may_have_token(&self, url: &str) -> bool {
        let safe = url.starts_with("https://") || origin(url).is_some_and(is_loopback);
        safe && !self.origin.is_empty() && origin(url) == Some(self.origin.as_str())
    }
}

/// Whether an error is one of TLS and not of the connection: of rustls itself, or what it makes of a handshake that fails.
fn is_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Whether this machine has no way to the server, which another try in a moment would not change.
fn is_without_network(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound => true,
        ureq::Error::Io(error) => {
            use std::io::ErrorKind::{HostUnreachable, NetworkUnreachable};
            // The standard library has no kind for a name that is not found, only this text.
            let no_such_name = error.to_string().starts_with("failed to lookup address");
            no_such_name || matches!(error.kind(), NetworkUnreachable | HostUnreachable)
        }
        _ => false,
    }
}

/// What https needs of a CPU, if this one lacks any of it.
pub fn missing_for_tls() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let there = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("adx")
            && std::arch::is_x86_feature_detected!("avx2");
        (!there).then_some("AES, PCLMULQDQ, BMI2, ADX and AVX2 (most x86-64 CPUs since 2015)")
    }
    #[cfg(target_arch = "aarch64")]
    {
        let there = std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("sha2")
            && std::arch::is_aarch64_feature_detected!("pmull");
        (!there).then_some("the cryptography extensions")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Some("x86-64 or 64-bit Arm")
    }
}

/// Protocol, host and port of a URL.
pub(super) fn origin(url: &str) -> Option<&str> {
    let host = url.find("://")? + 3;
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    (end > host).then(|| &url[..end])
}

/// Whether an origin is this machine.
fn is_loopback(origin: &str) -> bool {
    let host = origin.split("://").nth(1).unwrap_or_default();
    let name = host
        .strip_prefix('[')
        .and_then(|h| h.split(']').next())
        .unwrap_or(host.split(':').next().unwrap_or(host));
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Where a redirect from `base` leads.
fn join(base: &str, target: &str) -> Option<String> {
    let origin = origin(base)?;
    if target.starts_with("http://") || target.starts_with("https://") {
        return Some(target.to_owned());
    }
    if target.contains("://") || target.is_empty() {
        return None;
    }
    if let Some(rest) = target.strip_prefix("//") {
        return Some(format!("{}//{rest}", &base[..base.find("//")?]));
    }
    if target.starts_with('/') {
        return Some(format!("{origin}{target}"));
    }
    let path = base[origin.len()..].split(['?', '#']).next().unwrap_or_default();
    let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
    Some(format!("{origin}{folder}{target}"))
}

/// A path for a URL: everything but letters, digits, `-._~` and `/` as `%XX`.
pub(super) fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte as char)
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Client {
        Client::new(&HubSettings {
            endpoint: endpoint.to_owned(),
            cache: std::path::PathBuf::new(),
            token: Some("t".to_owned()),
            offline: false,
        })
    }

    #[test]
    fn tokens_stay_at_home() {
        for (endpoint, url, may) in [
            ("https://huggingface.co", "https://huggingface.co/o/r", true),
            ("https://huggingface.co", "https://huggingface.co:8443/o/r", false),
            ("https://huggingface.co", "https://cdn.huggingface.co/o/r", false),
            ("https://huggingface.co", "http://huggingface.co/o/r", false),
            ("https://huggingface.co", "https://huggingface.co.evil.example/o/r", false),
            ("http://mirror.example", "http://mirror.example/o/r", false),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/o/r", true),
            ("http://localhost:8080/hf", "http://localhost:8080/o/r", true),
            ("http://[::1]:8080", "http://[::1]:8080/o/r", true),
            ("nonsense", "nonsense", false),
        ] {
            assert_eq!(client(endpoint).may_have_token(url), may, "{endpoint} {url}");
        }
    }

    #[test]
    fn redirects_are_joined() {
        for (base, target, expected) in [
            ("https://a/b/c?x=/y", "https://d/e", Some("https://d/e")),
            ("https://a/b/c?x=/y", "//d/e", Some("https://d/e")),
            ("https://a/b/c?x=/y", "/e?f", Some("https://a/e?f")),
            ("https://a/b/c?x=/y", "e", Some("https://a/b/e")),
            ("https://a", "e", Some("https://a/e")),
            ("https://a/b", "file:///etc/passwd", None),
            ("https://a/b", "", None),
        ] {
            assert_eq!(join(base, target).as_deref(), expected, "{base} {target}");
        }
        assert_eq!(encoded("a/b c+ü%.gguf"), "a/b%20c%2B%C3%BC%25.gguf");
    }
}
