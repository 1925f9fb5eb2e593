//! Long work that Ctrl-C ends.
//!
//! Python handles signals on its main thread, when that asks for them. So whatever waits or computes for long gives the interpreter
//! back and asks every [`LOOK`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::bell::Bell;
use crate::errors;

/// How often signals are asked for.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Whether work that nobody waits for is to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    /// Whether it is.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Has `work` done on a thread of its own, while this one asks for signals. Where one ends the wait, the work is told and its result
/// dropped.
///
/// # Errors
/// What a signal raised; a thread that cannot be started; a panic in `work`.
pub(crate) fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Abandoned) -> T + Send + 'static,
) -> PyResult<T> {
    let (abandoned, bell, slot) =
        (Abandoned::default(), Arc::new(Bell::default()), Arc::new(Mutex::new(None)));
    let (told, rung, filled) = (abandoned.clone(), Ring(Arc::clone(&bell)), Arc::clone(&slot));
    let thread = std::thread::Builder::new().name("bitnetc-python".to_owned());
    let thread = thread.spawn(move || {
        // Dropped last, also in a panic.
        let _rung = rung;
        let result = work(&told);
        *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    })?;
    loop {
        py.detach(|| bell.wait(LOOK));
        if let Some(result) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(result);
        }
        if thread.is_finished() {
            return Err(errors::error(py, "the work ended with a panic"));
        }
        if let Err(raised) = py.check_signals() {
            abandoned.0.store(true, Ordering::Release);
            return Err(raised);
        }
    }
}

/// Rings when it is dropped.
struct Ring(Arc<Bell>);

impl Drop for Ring {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// Something that one thread has at a time. Waiting for it asks for signals: another thread may compute with it for long.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    /// `None` while a thread has it.
    free: Mutex<Option<T>>,
    given_back: Condvar,
}

impl<T: Send> Shared<T> {
    /// That nobody has.
    pub(crate) fn new(value: T) -> Self {
        Self { free: Mutex::new(Some(value)), given_back: Condvar::new() }
    }

    /// Does something with it, without the interpreter.
    ///
    /// # Errors
    /// What a signal raised during the wait.
    pub(crate) fn with<R: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut T) -> R + Send) -> PyResult<R> {
        let mut work = Some(work);
        loop {
            let done = py.detach(|| {
                let mut taken = Taken { value: Some(self.take(LOOK)?), home: self };
                Some((work.take()?)(taken.value.as_mut()?))
            });
            if let Some(result) = done {
                return Ok(result);
            }
            py.check_signals()?;
        }
    }

    /// Takes it, waiting no longer than `time`.
    fn take(&self, time: Duration) -> Option<T> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.given_back.wait_timeout_while(free, time, |free| free.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

/// Gives it back when it is dropped, also in a panic.
struct Taken<'a, T> {
    value: Option<T>,
    home: &'a Shared<T>,
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        *self.home.free.lock().unwrap_or_else(PoisonError::into_inner) = self.value.take();
        self.home.given_back.notify_one();
    }
}

/// What is asked between the parts of a computation, and what a signal raised.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    ended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    asked: Option<Instant>,
    raised: Option<PyErr>,
}

impl Watch {
    /// Ends the computation, and all later ones.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether the computation is to go on. To be asked by a thread that has given the interpreter back.
    pub(crate) fn go_on(&self) -> bool {
        if self.ended.load(Ordering::Acquire) {
            return false;
        }
        let due = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let due = state.asked.is_none_or(|asked| asked.elapsed() >= LOOK);
            if due {
                state.asked = Some(Instant::now());
            }
            due
        };
        if !due {
            return true;
        }
        match Python::attach(|py| py.check_signals()) {
            Ok(()) => true,
            Err(raised) => {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).raised = Some(raised);
                false
            }
        }
    }

    /// What a signal raised, if one did.
    pub(crate) fn take(&self) -> Option<PyErr> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).raised.take()
    }
}
