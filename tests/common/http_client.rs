//! A client of HTTP that can misbehave: it writes the bytes that it is given, as slowly as it is told, and reads one answer.

#![allow(dead_code, reason = "no test needs all of it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

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

/// A request without a body.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// The value of a metric in the text of `/metrics`, all labels together.
pub(crate) fn metric_in(text: &str, name: &str) -> f64 {
    let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    text.lines().filter(is_it).filter_map(value).sum()
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
