//! HTTP/1.1 over a socket, https too: one request per connection, an answer read piece by piece.
//!
//! Invariants: no read waits longer than [`TICK`] without asking whether to go on; lines, heads and chunks have bounds.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use bitnetc_runtime::machine::KeepGoing;
use serde_json::Value;

use super::LoadError;
use super::socket::{Socket, Tls, is_silence};

/// Longest wait between two questions whether to go on.
const TICK: Duration = Duration::from_millis(100);
/// Longest time for connecting.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest line of a head, and longest line that says the size of a chunk.
const MAX_LINE: usize = 64 << 10;
/// Most lines of a head.
const MAX_HEADERS: usize = 200;
/// Longest answer that is read in one piece.
const MAX_BODY: usize = 64 << 20;

/// What a server can be asked about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether its model is loaded.
    Health,
    /// Whether it would take a new request.
    Ready,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Ready => "/ready",
        }
    }
}

/// A server.
#[derive(Clone, Debug)]
pub struct Target {
    host: String,
    port: u16,
    /// `None`: plain.
    tls: Option<Tls>,
    /// What stands before every path; without a slash at the end.
    prefix: String,
    key: Option<String>,
    /// Longest silence of the server.
    timeout: Duration,
    keep_going: KeepGoing,
}

impl Target {
    /// The server at an address such as `http://127.0.0.1:8080`. `timeout` is the longest silence that is borne.
    ///
    /// # Errors
    /// An address that is not one of HTTP; the system's certificates cannot be read.
    pub fn new(
        url: &str,
        key: Option<String>,
        timeout: Duration,
        keep_going: KeepGoing,
    ) -> Result<Self, LoadError> {
        let wrong = |why| LoadError::Address { url: url.to_owned(), why };
        let (encrypted, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong("the port is not a number up to 65535"))?)
            }
            _ => (authority, if encrypted { 443 } else { 80 }),
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@') {
            return Err(wrong("the host is not a name or an address"));
        }
        let prefix = path.trim_end_matches('/');
        // The paths of requests begin with it.
        let prefix = prefix.strip_suffix("/v1").unwrap_or(if prefix == "v1" { "" } else { prefix });
        if prefix.contains(|c: char| c.is_whitespace() || c.is_control() || c == '?' || c == '#') {
            return Err(wrong("the path has characters that no path has"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        if key.as_deref().is_some_and(|key| key.contains(|c: char| c.is_control())) {
            return Err(wrong("the key has control characters"));
        }
        let tls = encrypted.then(|| Tls::new(bare(host))).transpose()?;
        Ok(Self { host: host.to_owned(), port, tls, prefix, key, timeout, keep_going })
    }

    /// Host and port, for people.
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(super) fn keep_going(&self) -> &KeepGoing {
        &self.keep_going
    }

    fn io(&self, source: std::io::Error) -> LoadError {
        LoadError::Io { server: self.name(), source }
    }

    pub(super) fn protocol(&self, what: impl Into<String>) -> LoadError {
        LoadError::Protocol { server: self.name(), what: what.into() }
    }

    /// Called while the server is silent, since `begun`.
    fn wait(&self, begun: Instant) -> Result<(), LoadError> {
        if !self.keep_going.ask() {
            return Err(LoadError::Interrupted);
        }
        if begun.elapsed() > self.timeout {
            let silence = self.timeout.as_secs();
            return Err(self.protocol(format!("no answer for {silence} seconds")));
        }
        Ok(())
    }

    fn connect(&self) -> Result<Socket, LoadError> {
        let stream = self.connect_plain()?;
        let begun = Instant::now();
        match &self.tls {
            None => Ok(Socket::Plain(stream)),
            Some(tls) => tls.connect(stream, || self.wait(begun), |e| self.io(e)),
        }
    }

    fn connect_plain(&self) -> Result<TcpStream, LoadError> {
        let addresses = (bare(&self.host), self.port).to_socket_addrs().map_err(|e| self.io(e))?;
        let mut failure = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    let ready = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(TICK)));
                    ready
                        .and_then(|()| stream.set_write_timeout(Some(self.timeout)))
                        .map_err(|e| self.io(e))?;
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(self.io(failure))
    }

    /// Sends a request, with a body if there is one, and reads the head of the answer.
    pub(super) fn send(&self, path: &str, body: Option<&Value>) -> Result<Response<'_>, LoadError> {
        if !self.keep_going.ask() {
            return Err(LoadError::Interrupted);
        }
        let mut stream = self.connect()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let method = if body.is_empty() { "GET" } else { "POST" };
        let mut head = format!("{method} {}{path} HTTP/1.1\r\nhost: {}\r\n", self.prefix, self.name());
        head += "connection: close\r\nuser-agent: bitnetc-bench\r\n";
        if let Some(key) = &self.key {
            head += &format!("authorization: Bearer {key}\r\n");
        }
        if !body.is_empty() {
            head += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        let sent = stream.write_all(format!("{head}\r\n{body}").as_bytes()).and_then(|()| stream.flush());
        sent.map_err(|e| self.io(e))?;
        Response::read(self, stream)
    }

    /// The JSON of an answer in one piece.
    pub(super) fn json(&self, path: &str, body: Option<&Value>) -> Result<Value, LoadError> {
        let response = self.send(path, body)?;
        let status = response.status;
        let bytes = response.body()?;
        if status != 200 {
            return Err(self.refused(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|e| self.protocol(format!("{path} is not JSON: {e}")))
    }

    /// Asks the server about itself: an error is a no, and a refusal with status 503 one that may change.
    ///
    /// # Errors
    /// A server that cannot be reached, or that refuses.
    pub fn ask(&self, probe: Probe) -> Result<(), LoadError> {
        self.json(probe.path(), None).map(drop)
    }

    /// A refusal with what the server says.
    pub(super) fn refused(&self, status: u16, body: &[u8]) -> LoadError {
        let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
        let said = [&parsed["error"]["message"], &parsed["error"], &parsed["status"]];
        let message = said.iter().find_map(|said| said.as_str()).unwrap_or("no reason");
        let message = message.chars().filter(|c| !c.is_control()).take(500).collect();
        LoadError::Refused { server: self.name(), status, message }
    }
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// How the end of a body is found.
#[derive(Debug)]
enum Framing {
    /// Bytes left of the chunk that is being read.
    Chunked(u64),
    /// Bytes left.
    Length(u64),
    /// The server closes.
    Close,
    /// The body is complete.
    End,
}

/// An answer whose head was read.
#[derive(Debug)]
pub(super) struct Response<'a> {
    target: &'a Target,
    stream: Socket,
    /// What was received and not used.
    buffer: Vec<u8>,
    framing: Framing,
    /// The status.
    pub(super) status: u16,
}

impl<'a> Response<'a> {
    fn read(target: &'a Target, stream: Socket) -> Result<Self, LoadError> {
        let mut response = Self { target, stream, buffer: Vec::new(), framing: Framing::Close, status: 0 };
        let line = response.line()?;
        let status =
            line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|s| s.parse().ok());
        response.status = status.ok_or_else(|| target.protocol("the answer is not HTTP/1.1"))?;
        for _ in 0..MAX_HEADERS {
            let line = response.line()?;
            if line.is_empty() {
                return Ok(response);
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("transfer-encoding", value) if value.eq_ignore_ascii_case("chunked") => {
                    response.framing = Framing::Chunked(0);
                }
                ("content-length", value) if !matches!(response.framing, Framing::Chunked(_)) => {
                    let length =
                        value.parse().map_err(|_| target.protocol("content-length is not a number"))?;
                    response.framing = if length == 0 { Framing::End } else { Framing::Length(length) };
                }
                _ => {}
            }
        }
        Err(target.protocol("the head of the answer does not end"))
    }

    /// Receives more; false at the end of the connection.
    fn fill(&mut self) -> Result<bool, LoadError> {
        let begun = Instant::now();
        let mut piece = [0; 16 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.buffer.extend_from_slice(piece.get(..n).unwrap_or_default());
                    return Ok(true);
                }
                Err(e) if is_silence(&e) => self.target.wait(begun)?,
                Err(e) => return Err(self.target.io(e)),
            }
        }
    }

    /// A line without its end.
    fn line(&mut self) -> Result<String, LoadError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer.iter().skip(searched).position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=searched + at).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            searched = self.buffer.len();
            if searched > MAX_LINE {
                return Err(self.target.protocol(format!("a line has more than {MAX_LINE} bytes")));
            }
            if !self.fill()? {
                return Err(self.target.protocol("the connection ended within the head of the answer"));
            }
        }
    }

    /// Appends the next bytes of the body to `out`; false at its end.
    pub(super) fn more(&mut self, out: &mut Vec<u8>) -> Result<bool, LoadError> {
        if let Framing::Chunked(0) = self.framing {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16)
                .map_err(|_| self.target.protocol("the size of a chunk is not a number"))?;
            self.framing = if size == 0 { Framing::End } else { Framing::Chunked(size) };
        }
        if let Framing::End = self.framing {
            return Ok(false);
        }
        if self.buffer.is_empty() && !self.fill()? {
            return match self.framing {
                Framing::Close => Ok(false),
                _ => Err(self.target.protocol("the connection ended within the answer")),
            };
        }
        let left = match self.framing {
            Framing::Chunked(left) | Framing::Length(left) => left,
            Framing::Close | Framing::End => u64::MAX,
        };
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
        out.extend(self.buffer.drain(..take));
        let left = left - take as u64;
        match self.framing {
            Framing::Chunked(_) => {
                self.framing = Framing::Chunked(left);
                if left == 0 {
                    self.line()?;
                }
            }
            Framing::Length(_) => {
                self.framing = if left == 0 { Framing::End } else { Framing::Length(left) };
            }
            Framing::Close | Framing::End => {}
        }
        Ok(true)
    }

    /// All of the body.
    pub(super) fn body(mut self) -> Result<Vec<u8>, LoadError> {
        let mut body = Vec::new();
        while self.more(&mut body)? {
            if body.len() > MAX_BODY {
                return Err(self.target.protocol(format!("an answer has more than {MAX_BODY} bytes")));
            }
        }
        Ok(body)
    }

    pub(super) fn target(&self) -> &'a Target {
        self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, LoadError> {
        Target::new(url, None, Duration::from_secs(1), KeepGoing::default())
    }

    #[test]
    fn addresses_are_understood_or_refused() {
        let parts = |url: &str| target(url).map(|t| (t.host, t.port, t.prefix)).unwrap();
        let encrypted = target("https://localhost/v1").unwrap();
        assert!(encrypted.tls.is_some() && encrypted.port == 443, "{encrypted:?}");
        assert!(target("https://[::1]:81").unwrap().tls.is_some());
        assert_eq!(parts("http://localhost:8080"), ("localhost".into(), 8080, String::new()));
        assert_eq!(parts("http://localhost/"), ("localhost".into(), 80, String::new()));
        assert_eq!(parts("http://[::1]:81/api/v1/"), ("[::1]".into(), 81, "/api".into()));
        assert_eq!(parts("http://[::1]"), ("[::1]".into(), 80, String::new()));
        assert_eq!(parts("http://a/v1"), ("a".into(), 80, String::new()));
        assert_eq!(parts("http://a/apiv1/"), ("a".into(), 80, "/apiv1".into()));
        for url in [
            "",
            "localhost:8080",
            "ftp://localhost",
            "http://",
            "https://",
            "http://:80",
            "http://a:x",
            "http://a:70000",
            "http://a b",
            "http://a/b c",
        ] {
            assert!(matches!(target(url), Err(LoadError::Address { .. })), "{url}");
        }
    }
}
