//! Ctrl-C: the first ends the command within a second, the second at once.
//!
//! A command that can stop in order asks [`requested`] often, and leaves what it has made in order. Work that asks nobody
//! (a file that is being checked, a measurement, a read from a pipe) is ended with the process, after [`GRACE`]. Whoever has
//! something to lose by that, as a chat its conversation, or to leave behind, as a writer its unfinished file, holds [`Patience`]
//! meanwhile: then only the second Ctrl-C ends it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::exit;

/// How long a command may take to notice.
const GRACE: Duration = Duration::from_millis(700);
/// How often the watch looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether the command has noticed.
static NOTICED: AtomicBool = AtomicBool::new(false);
/// How many have patience.
static PATIENT: AtomicUsize = AtomicUsize::new(0);
static INSTALLED: OnceLock<bool> = OnceLock::new();
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Starts to listen for Ctrl-C. Where the system has no such signal, it stays what it was.
pub(crate) fn listen() {
    INSTALLED.get_or_init(|| {
        // The handler runs on a thread of its own.
        ctrlc::set_handler(|| match INTERRUPTED.swap(true, Ordering::SeqCst) {
            true => end(),
            false => watch(),
        })
        .is_ok()
    });
}

/// Ends the process unless the command notices the interruption in time.
fn watch() {
    let begun = Instant::now();
    while begun.elapsed() < GRACE {
        if PATIENT.load(Ordering::SeqCst) > 0 || NOTICED.load(Ordering::SeqCst) || !requested_quietly() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    end();
}

/// Ends the process, and removes what it has not finished.
fn end() -> ! {
    for path in UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // There is nobody left to tell, and what has been finished is not there any more.
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    std::process::exit(i32::from(exit::INTERRUPTED));
}

/// Has a temporary file or folder removed when the process is ended.
pub(crate) fn remove_at_end(path: &Path) {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
}

fn requested_quietly() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Whether Ctrl-C was pressed. Whoever asks stops then, and soon.
pub(crate) fn requested() -> bool {
    let requested = requested_quietly();
    if requested {
        NOTICED.store(true, Ordering::SeqCst);
    }
    requested
}

/// Forgets that Ctrl-C was pressed: what it was pressed for has stopped.
pub(crate) fn clear() {
    INTERRUPTED.store(false, Ordering::SeqCst);
    NOTICED.store(false, Ordering::SeqCst);
}

/// While one is there, the first Ctrl-C waits until the command notices it.
#[derive(Debug)]
pub(crate) struct Patience(());

impl Patience {
    /// Begins to have patience.
    pub(crate) fn new() -> Self {
        PATIENT.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        PATIENT.fetch_sub(1, Ordering::SeqCst);
    }
}
