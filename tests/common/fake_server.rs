//! A server of HTTP that answers as a test says, for tests of what asks servers: a thread for each connection.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::Value;

/// A request as it came.
#[derive(Debug)]
pub struct Asked {
    /// Its path, with what follows it.
    pub path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    /// A header, by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The next request of a connection; `None` at its end.
    fn read(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut asked = Self { path, headers: Vec::new(), body: Vec::new() };
        loop {
            let mut header = String::new();
            input.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            asked.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let length = asked.header("content-length").and_then(|length| length.parse().ok());
        asked.body.resize(length.unwrap_or(0), 0);
        input.read_exact(&mut asked.body)?;
        Ok(Some(asked))
    }
}

/// Starts a server; its address. `answer` answers a request and says whether the connection is kept.
pub fn start(answer: impl Fn(&Asked, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // A client that leaves ends its connection, no more.
            std::thread::spawn(move || drop(serve(stream, &*answer)));
        }
    });
    address
}

fn serve(
    mut stream: TcpStream,
    answer: &dyn Fn(&Asked, &mut TcpStream) -> io::Result<bool>,
) -> io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    while let Some(asked) = Asked::read(&mut input)? {
        if !answer(&asked, &mut stream)? {
            break;
        }
    }
    Ok(())
}

/// Writes an answer in one piece; `headers` are whole lines.
pub fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}
