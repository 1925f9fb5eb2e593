//! Requests whose head hyper cannot read, or does not read to its end because it is too long.
//!
//! hyper answers them itself, with a status and an empty body, without calling the service. [`Heads`] is the socket as hyper sees it.
//! What hyper writes while no request is being answered is such an answer: it is withheld, and [`crate::connection`] sends one
//! with a body of JSON.
//!
//! Invariant: no byte of the service's answers is withheld. A request counts as being answered from the call of the service until
//! the body of its answer has been dropped and hyper has flushed what it had buffered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the socket and the service of a connection know of each other. Both run in the task of the connection, so that no ordering
/// between threads is needed.
#[derive(Debug, Default)]
struct Shared {
    /// Requests whose answer is not complete.
    open: AtomicUsize,
    /// Whether hyper may have bytes of an answer that it has not written.
    is_unwritten: AtomicBool,
}

/// The socket of a connection.
pub(crate) struct Heads<S> {
    socket: S,
    shared: Arc<Shared>,
    /// The status of hyper's own answer.
    refused: Option<u16>,
}

/// Takes note of the requests of a connection that are answered by the service.
#[derive(Clone, Debug)]
pub(crate) struct Answers(Arc<Shared>);

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Shared>);

impl Answers {
    /// A request has reached the service.
    pub(crate) fn begin(&self) -> Answering {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.is_unwritten.store(true, Ordering::Relaxed);
        Answering(Arc::clone(&self.0))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> Heads<S> {
    pub(crate) fn new(socket: S) -> (Self, Answers) {
        let shared = Arc::<Shared>::default();
        let answers = Answers(Arc::clone(&shared));
        (Self { socket, shared, refused: None }, answers)
    }

    /// The socket, and the status with which hyper refused a head.
    pub(crate) fn into_parts(self) -> (S, Option<u16>) {
        (self.socket, self.refused)
    }

    /// Whether hyper writes an answer of its own; takes note of its status.
    fn withholds(&mut self, bytes: &[u8]) -> bool {
        if self.shared.is_unwritten.load(Ordering::Relaxed) {
            return false;
        }
        let status = || std::str::from_utf8(bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?.parse().ok();
        if self.refused.is_none() {
            self.refused = status();
        }
        self.refused.is_some()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.withholds(bytes) {
            true => Poll::Ready(Ok(bytes.len())),
            false => Pin::new(&mut self.socket).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.withholds(slices.first().map_or(&[], |slice| slice)) {
            true => Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum())),
            false => Pin::new(&mut self.socket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        // hyper flushes when all that it had buffered is written.
        if self.shared.open.load(Ordering::Relaxed) == 0 {
            self.shared.is_unwritten.store(false, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn only_what_answers_no_request_is_withheld() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let (mut heads, answers) = Heads::new(ours);
        let answer = answers.begin();
        heads.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        heads.flush().await.unwrap();
        heads.write_all(b"a body").await.unwrap();
        drop(answer);
        // Still of the same answer: hyper had it buffered.
        heads.write_all(b", HTTP/1.1 400 and its end").await.unwrap();
        heads.flush().await.unwrap();
        heads.write_all(b"HTTP/1.1 431 Too Large\r\n").await.unwrap();
        heads.write_all(b"\r\n").await.unwrap();
        let (ours, refused) = heads.into_parts();
        assert_eq!(refused, Some(431));
        drop(ours);
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "HTTP/1.1 200 OK\r\n\r\na body, HTTP/1.1 400 and its end");
    }
}
