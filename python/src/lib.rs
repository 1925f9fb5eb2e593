//! The native module of the Python package `bitnetc`: what its Python layer (`python/bitnetc`) is made of.
//!
//! | module | what for |
//! |---|---|
//! | `model` | a model with its engine; tokens, scores, IR, reports |
//! | `open` | how a model is opened and served, from Python's options |
//! | `call` | a request under way: events, frames of a stream, the body of an answer |
//! | `session` | logits after tokens |
//! | `bell` | waiting for news, in a thread or in an event loop |
//! | `signals` | long work that Ctrl-C ends |
//! | `errors` | errors of the library as Python's |
//! | `process` | what a process that was forked must not touch |
//! | `command` | the command `bitnetc` |
//!
//! Invariants: nothing waits or computes while it holds the interpreter; threads of the engine never ask for it; a lock that is held
//! is given back before Python code can run; nothing is printed.
#![forbid(unsafe_code)]

mod bell;
mod call;
mod command;
mod errors;
mod model;
mod open;
mod process;
mod session;
mod signals;

use pyo3::prelude::*;

#[pymodule]
mod _bitnetc {
    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_export]
    use super::bell::Wakeups;
    #[pymodule_export]
    use super::call::{Call, Finished, Token};
    #[pymodule_export]
    use super::command::command;
    #[pymodule_export]
    use super::model::{Model, fields, paths};
    #[pymodule_export]
    use super::session::Session;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
