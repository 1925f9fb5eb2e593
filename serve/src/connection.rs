//! Connections: their number is bounded, reads and writes have time limits, and they are closed gracefully.
//!
//! Each connection is a separate task, so a client that sends its head one byte at a time, or nothing at all, delays no other. If
//! the head has not arrived after [`Limits::read_timeout`](crate::Limits), the connection is closed.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use bitnetc::api::Refusal;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::app::{App, Front};
use crate::body::with_guest;
use crate::heads::Heads;
use crate::io::Timed;
use crate::places::Places;
use crate::shutdown::Phase;

/// The maximum size of the head of a request, in bytes. hyper may accept up to twice as much before it checks.
pub(crate) const HEAD: usize = 64 << 10;
/// The maximum number of headers of a request.
const HEADERS: usize = 100;
/// The maximum length of the address of a request, in bytes, as the `http` crate bounds it.
const LONGEST_URI: usize = 65_534;
/// How long data is still read from a connection that is being closed. Closing a socket with unread data would reset the connection, and
/// the client would lose the answer.
const LINGER: Duration = Duration::from_secs(1);
/// How long a client that has closed its connection may still be given an answer that is ready.
const GRACE: Duration = Duration::from_millis(250);
/// The pause after `accept` has failed because the system is out of a resource.
const SHORTAGE: Duration = Duration::from_millis(50);

/// Number of open connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn enter(&self) -> Opened {
        self.0.send_modify(|count| *count += 1);
        Opened(self.clone())
    }

    /// Waits until there is none.
    pub(crate) async fn none_left(&self) {
        drop(self.0.subscribe().wait_for(|&count| count == 0).await);
    }
}

struct Opened(Open);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// Accepts connections until it is dropped.
pub(crate) async fn serve(listener: TcpListener, front: Front, tls: Option<TlsAcceptor>, open: Open) {
    let places = Places::new(front.app.options.limits.connections);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                sleep(SHORTAGE).await;
                continue;
            }
        };
        let Some(place) = places.take(peer.ip()) else {
            tokio::spawn(refuse(stream, Arc::clone(&front.app), tls.is_some()));
            continue;
        };
        // What the system has no room to watch is closed.
        let Ok((stream, watched)) = watched(stream) else { continue };
        // Tokens are small and wanted at once.
        drop(stream.set_nodelay(true));
        let front = if place.is_spare { front.for_probes() } else { front.clone() };
        let (tls, opened) = (tls.clone(), open.enter());
        tokio::spawn(async move {
            let limits = front.app.options.limits;
            let stream = Timed::new(stream, limits.write_timeout);
            match tls {
                None => run(stream, &watched, peer, front).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = timeout(front.head_timeout(), tls.accept(stream)).await {
                        run(stream, &watched, peer, front).await;
                    }
                }
            }
            drop((place, opened));
        });
    }
}

/// Answers that there are too many connections.
async fn refuse(mut stream: TcpStream, app: Arc<App>, encrypted: bool) {
    // Whoever expects TLS understands no answer.
    if !encrypted {
        let refusal = Refusal::new(503, "too_many_connections", "too many connections: try again later");
        let answer = plain(&app, &refusal, "retry-after: 1\r\n");
        drop(timeout(LINGER, stream.write_all(answer.as_bytes())).await);
        linger(stream).await;
    }
}

/// An answer that is written without hyper.
fn plain(app: &App, refusal: &Refusal, headers: &str) -> String {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    app.counters.answered(status, false);
    let (reason, body) = (status.canonical_reason().unwrap_or_default(), refusal.to_openai().to_string());
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {}\r\n{headers}connection: \
         close\r\n\r\n{body}",
        status.as_u16(),
        body.len(),
        app.new_id()
    )
}

/// The refusal for a head that hyper refused with this status.
fn unreadable(status: u16) -> Refusal {
    match status {
        414 => Refusal::new(
            414,
            "uri_too_long",
            format!("the address of the request is longer than {LONGEST_URI} bytes"),
        ),
        431 => {
            let message = format!(
                "the head of the request is longer than {HEAD} bytes, or has more than {HEADERS} headers"
            );
            Refusal::new(431, "headers_too_large", message)
        }
        _ => Refusal::new(status, "invalid_head", "the head of the request is not one of HTTP/1.1"),
    }
}

/// Answers the requests of a connection.
async fn run<S>(stream: S, watched: &TcpStream, peer: SocketAddr, front: Front)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stream, answers) = Heads::new(stream);
    let service = service_fn(|request: Request<Incoming>| {
        let (front, answering) = (front.clone(), answers.begin());
        let answer: Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>> =
            Box::pin(async move {
                let response = front.answer(request.map(Body::new), peer.ip()).await;
                Ok(response.map(|body| with_guest(body, answering)))
            });
        answer
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(front.head_timeout())
        .keep_alive(front.keeps_alive())
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut ending = std::pin::pin!(front.app.shutdown.reached(Phase::Ending));
    let mut ends = false;
    let mut gone = std::pin::pin!(gone(watched));
    let result = poll_fn(|cx| {
        if gone.as_mut().poll(cx) == Poll::Ready(()) {
            return Poll::Ready(None);
        }
        if !ends && ending.as_mut().poll(cx) == Poll::Ready(()) {
            ends = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx).map(Some)
    });
    // Whoever is gone is told nothing, and what was done for it ends with the connection.
    let Some(result) = result.await else { return };
    let parts = connection.into_parts();
    let (mut stream, refused) = parts.io.into_inner().into_parts();
    let refusal = match refused {
        Some(status) => Some(unreadable(status)),
        // A connection that is kept and says nothing is closed without a word.
        None if result.is_err_and(|error| error.is_timeout()) && !parts.read_buf.is_empty() => {
            Some(Refusal::new(408, "request_timeout", "the head of the request did not arrive in time"))
        }
        None => None,
    };
    if let Some(refusal) = refusal {
        let answer = plain(&front.app, &refusal, "");
        drop(timeout(LINGER, stream.write_all(answer.as_bytes())).await);
    }
    linger(stream).await;
}

/// A socket, and another handle to it.
fn watched(stream: TcpStream) -> std::io::Result<(TcpStream, TcpStream)> {
    let stream = stream.into_std()?;
    let other = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, TcpStream::from_std(other)?))
}

/// Waits until a client has closed its connection. hyper sees that itself where it has read all that the client has sent, but what
/// comes after a request it reads only after its answer.
async fn gone(watched: &TcpStream) {
    while let Ok(ready) = watched.ready(Interest::READABLE).await {
        if ready.is_read_closed() {
            return sleep(GRACE).await;
        }
        // What there is to read is hyper's: the next news is waited for.
        let none = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
        drop(watched.try_io(Interest::READABLE, none));
    }
}

/// Closes a connection after the client has had time to read the answer.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let closing = async {
        drop(stream.shutdown().await);
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    drop(timeout(LINGER, closing).await);
}

/// A listener at the address.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
