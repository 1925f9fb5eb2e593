//! What a process that was forked must not touch: the threads of its parent do not exist in it, and what they held stays as it was.
//!
//! Invariant: in a forked process nothing of the parent's waits, joins or frees what threads use.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// The process that something was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home(u32);

impl Home {
    /// This one.
    pub(crate) fn here() -> Self {
        Self(std::process::id())
    }

    /// Whether this process is it.
    pub(crate) fn is_here(self) -> bool {
        self == Self::here()
    }

    /// # Errors
    /// This process was forked from the one that made `what`.
    pub(crate) fn check(self, what: &str) -> PyResult<()> {
        if self.is_here() {
            return Ok(());
        }
        let (home, here) = (self.0, std::process::id());
        Err(PyRuntimeError::new_err(format!(
            "this {what} was made in process {home}, and this is process {here}, which was forked from it: the threads that compute \
             do not exist here. Make the {what} in the worker, or start workers without fork, for example by \
             multiprocessing.get_context(\"spawn\")"
        )))
    }
}

/// Something with threads, which is dropped in its own process only.
#[derive(Debug)]
pub(crate) struct AtHome<T> {
    home: Home,
    /// Taken away when it is dropped.
    value: Option<T>,
}

impl<T> AtHome<T> {
    /// Made in this process.
    pub(crate) fn new(value: T) -> Self {
        Self { home: Home::here(), value: Some(value) }
    }

    /// The value.
    ///
    /// # Errors
    /// This process was forked from the one that made it; `what` says what it is.
    pub(crate) fn get(&self, what: &str) -> PyResult<&T> {
        self.home.check(what)?;
        self.value.as_ref().ok_or_else(|| PyRuntimeError::new_err(format!("this {what} is gone")))
    }
}

impl<T> Drop for AtHome<T> {
    fn drop(&mut self) {
        if !self.home.is_here() {
            std::mem::forget(self.value.take());
        }
    }
}
