//! A socket with a time limit for writes.
//!
//! If a client does not read, the system's buffers fill, then those of the connection, then the channel of the stream, and then the
//! text is paused. A write that makes no progress within the limit fails: the connection ends, its stream is dropped, and the text with
//! it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A socket, and the time within which a write must make progress.
pub(crate) struct Timed<S> {
    socket: S,
    patience: Duration,
    /// While a write waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub(crate) fn new(socket: S, patience: Duration) -> Self {
        Self { socket, patience, waits: None }
    }

    /// Fails a write that has waited too long.
    fn bounded<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waits = None;
            return polled;
        }
        let patience = self.patience;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waits.as_mut().poll(cx));
        // Whoever polls again is told again.
        waits.as_mut().reset(Instant::now());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.bounded(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.bounded(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_flush(cx);
        self.bounded(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.bounded(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn a_write_that_makes_no_progress_fails_and_one_that_does_goes_on() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let mut timed = Timed::new(ours, Duration::from_secs(1));
            let reading = tokio::spawn(async move {
                let mut buffer = [0; 16];
                for _ in 0..6 {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut buffer).await.unwrap();
                }
                theirs
            });
            // Longer than the patience in all, but never without progress for so long.
            timed.write_all(&[1; 160]).await.unwrap();
            let theirs = reading.await.unwrap();
            let begun = std::time::Instant::now();
            let error = timed.write_all(&[1; 160]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(begun.elapsed() >= Duration::from_secs(1));
            drop(theirs);
        });
    }
}
