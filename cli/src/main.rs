//! The binary `bitnetc`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Runs the command that was typed.
fn main() -> ExitCode {
    ExitCode::from(bitnetc_cli::main(bitnetc_cli::Invocation::of_process()))
}
