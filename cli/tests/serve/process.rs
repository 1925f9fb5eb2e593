//! `bitnetc serve` in a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::signals::with_default_signals;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_bitnetc");

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = with_default_signals(BINARY);
    command.args(args).env_remove("BITNETC_MODEL").env_remove("BITNETC_API_KEY").stdin(Stdio::null());
    command.env("BITNETC_CONFIG", "");
    command
}

/// A server in a process.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Served {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self::of(command(&[&["serve", "--port", "0", "-c", "256", "-t", "1"], args].concat()))
    }

    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().split("://").nth(1).unwrap_or_default().to_owned();
        let served = Self { child, address };
        assert!(!served.address.is_empty(), "{line:?}");
        served
    }

    pub(crate) fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn get(&self, path: &str, headers: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"))
    }

    pub(crate) fn healthy(self) -> Self {
        let begun = Instant::now();
        while !self.get("/health", "").starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        self
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// The exit code and what was said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}
