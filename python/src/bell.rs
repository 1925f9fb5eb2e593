//! Waiting for news from the engine: in a thread, by [`Bell::wait`], or in an event loop, by [`Wakeups`].
//!
//! The engine's thread rings and goes on: it never asks for the interpreter. An event loop watches a socket that a ring writes to, so
//! no thread of Python waits for it either.
//!
//! Invariants: who looks for news after each wait misses none; a socket has at most one byte for each time that it was emptied.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

/// Whoever waits is told here that there is something to read.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    news: Condvar,
    /// The event loop that is told too, and the number by which it knows whom it concerns.
    told: Option<(Arc<Told>, u64)>,
}

impl Bell {
    /// A bell for an event loop, which knows it by this number.
    pub(crate) fn of(wakeups: &Wakeups, number: u64) -> Self {
        Self { told: Some((Arc::clone(&wakeups.told), number)), ..Self::default() }
    }

    /// Tells whoever waits.
    pub(crate) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.news.notify_all();
        if let Some((told, number)) = &self.told {
            told.tell(*number);
        }
    }

    /// Waits until it is rung, or was since the last time, no longer than `time`.
    pub(crate) fn wait(&self, time: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.news.wait_timeout_while(rung, time, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// The end of a socket that rings are written to.
#[derive(Debug)]
pub(crate) struct Told {
    socket: UnixStream,
    numbers: Mutex<Vec<u64>>,
}

impl Told {
    fn tell(&self, number: u64) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.is_empty() {
            // A loop that is gone needs no byte, and a socket that is full has one.
            let _ = (&self.socket).write(&[0]);
        }
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
}

/// What an event loop watches: a socket that can be read when one of its calls has news.
#[pyclass(frozen, module = "bitnetc._bitnetc")]
#[derive(Debug)]
pub(crate) struct Wakeups {
    told: Arc<Told>,
    socket: UnixStream,
}

#[pymethods]
impl Wakeups {
    #[new]
    fn new() -> PyResult<Self> {
        let (socket, other) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        Ok(Self { told: Arc::new(Told { socket: other, numbers: Mutex::default() }), socket })
    }

    /// The descriptor to watch.
    fn fileno(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// The numbers of the calls that have news since the last time.
    fn take(&self) -> Vec<u64> {
        let mut bytes = [0; 64];
        // Nothing to read is no error here: the numbers say what there is.
        while (&self.socket).read(&mut bytes).is_ok_and(|read| read == bytes.len()) {}
        std::mem::take(&mut *self.told.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
