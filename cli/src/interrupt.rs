//! Ctrl-C: the first asks the command to finish what it is doing and to stop, the second ends the process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<bool> = OnceLock::new();

/// Starts to listen for Ctrl-C. Where the system has no such signal, it stays what it was.
pub(crate) fn listen() {
    INSTALLED.get_or_init(|| {
        ctrlc::set_handler(|| {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
        })
        .is_ok()
    });
}

/// Whether Ctrl-C was pressed.
pub(crate) fn requested() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Forgets that Ctrl-C was pressed: what it was pressed for has stopped.
pub(crate) fn clear() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}
