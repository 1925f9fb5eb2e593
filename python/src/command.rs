//! The command `bitnetc`, called in the process of Python.

use std::ffi::OsString;
use std::io::Write;

use pyo3::prelude::*;

/// Runs the command with these words, its name first, and returns its exit code. `again` starts it in a process of its own.
#[pyfunction]
pub(crate) fn command(py: Python<'_>, words: Vec<OsString>, again: Vec<OsString>) -> u8 {
    py.detach(|| {
        let code = bitnetc_cli::main(bitnetc_cli::Invocation { words, again });
        // Nobody else does so where the program is not Rust's. A reader that is gone needs nothing.
        let _ = std::io::stdout().flush();
        code
    })
}
