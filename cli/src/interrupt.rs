//! Signals: Ctrl-C, and the others that end a command or would.
//!
//! The first Ctrl-C ends the command within a second, the second at once. A command that can stop in order [`listen`]s, asks
//! [`requested`] often, and leaves what it has made in order. Work that asks nobody (a file that is being checked, a measurement, a
//! read from a pipe) is ended with the process, after [`GRACE`]. A command that would lose something by that, as a chat its
//! conversation, holds [`Patience`] meanwhile: then only the second Ctrl-C ends it.
//!
//! A server has work to end in order: where [`drain_with`] was called, the first Ctrl-C or SIGTERM asks it to, and the second ends the
//! process, unless it comes with the first.
//!
//! SIGTERM (`docker stop`, `timeout`), SIGHUP (a terminal that closes), SIGQUIT and SIGXCPU (`ulimit -t`) end the process at once. A
//! signal that was ignored when the process was started stays ignored: `nohup` does that with SIGHUP, and a shell without job control
//! with the SIGINT of what it starts in the background. A server hears SIGINT all the same: it is what runs in the background. A file that grows beyond the limit of the process (SIGXFSZ) is an error of the write.
//!
//! Invariant: a process that ends so leaves no temporary file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bitnetc_runtime::whole_file;

use crate::exit;

/// How long a command may take to notice.
const GRACE: Duration = Duration::from_millis(700);
/// Signals that follow the one which ends a server within this time belong to it: `timeout` sends one to the process and one to its
/// group, and a terminal sends one to all processes that a script has started.
#[cfg(unix)]
const SAME: Duration = Duration::from_millis(400);
/// How often the watch looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// What the first Ctrl-C or SIGTERM does instead of ending the process.
static DRAIN: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);
/// When that was done.
#[cfg(unix)]
static DRAINED: Mutex<Option<Instant>> = Mutex::new(None);
static LISTENING: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether the command has noticed.
static NOTICED: AtomicBool = AtomicBool::new(false);
/// Number of guards that suspend the time limit.
static PATIENT: AtomicUsize = AtomicUsize::new(0);
/// Folders of this process.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Installs the signal handlers. If the system refuses, signals keep their default action.
pub(crate) fn handle() {
    #[cfg(unix)]
    unix::handle();
}

/// From here on the first Ctrl-C is a request, which the command looks for.
pub(crate) fn listen() {
    LISTENING.store(true, Ordering::SeqCst);
}

/// From here on the first Ctrl-C or SIGTERM calls `drain`, and who asks [`requested`] is told too; the second ends the process.
#[cfg(feature = "serve")]
pub(crate) fn drain_with(drain: impl FnOnce() + Send + 'static) {
    *DRAIN.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(drain));
    #[cfg(unix)]
    unix::hear_interrupts();
}

/// Removes what is unfinished, for a command that ends while others of its threads may be at work.
#[cfg(feature = "serve")]
pub(crate) fn abandon() {
    abandon_all();
}

/// Whether a signal is a request that has been passed on.
#[cfg(unix)]
fn drained() -> bool {
    let drain = DRAIN.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut drained = DRAINED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(drain) = drain else { return drained.is_some_and(|at| at.elapsed() < SAME) };
    *drained = Some(Instant::now());
    // First: what stops because it was interrupted is then known to stop because the server ends.
    drain();
    INTERRUPTED.store(true, Ordering::SeqCst);
    true
}

/// Ctrl-C was pressed.
#[cfg(unix)]
fn pressed() {
    if drained() {
        return;
    }
    if !LISTENING.load(Ordering::SeqCst) || INTERRUPTED.swap(true, Ordering::SeqCst) {
        end();
    }
    // On another thread, since this one hears of the second.
    if std::thread::Builder::new().name("bitnetc-grace".to_owned()).spawn(watch).is_err() {
        watch();
    }
}

/// Ends the process unless the command notices the interruption in time.
#[cfg(unix)]
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

/// Ends the process.
#[cfg(unix)]
fn end() -> ! {
    abandon_all();
    std::process::exit(i32::from(exit::INTERRUPTED));
}

/// Removes what the process has not finished.
fn abandon_all() {
    whole_file::abandon_all();
    for folder in FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // There is nobody left to tell, and what its owner has removed is not there any more.
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Has a temporary folder removed when the process is ended.
pub(crate) fn remove_at_end(folder: &Path) {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(folder.to_owned());
}

fn requested_quietly() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Whether Ctrl-C was pressed. The caller must then stop soon.
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
    /// Suspends the time limit.
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

#[cfg(unix)]
mod unix {
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, OnceLock};

    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
    use signal_hook::iterator::{Handle, Signals};
    use signal_hook::{flag, low_level};

    static HANDLE: OnceLock<Handle> = OnceLock::new();

    /// From here on SIGINT is heard, also if it was ignored when the process was started.
    #[cfg(feature = "serve")]
    pub(super) fn hear_interrupts() {
        if let Some(handle) = HANDLE.get() {
            // Without it the signal keeps being ignored.
            let _ = handle.add_signal(SIGINT);
        }
    }

    pub(super) fn handle() {
        // With a handler, whatever it does, the write fails instead.
        drop(flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))));
        let ends = [SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGINT];
        let ends = ends.into_iter().filter(|&signal| !is_ignored(signal));
        let Ok(mut signals) = Signals::new(ends) else { return };
        let handle = signals.handle();
        let _ = HANDLE.set(handle.clone());
        let thread = std::thread::Builder::new().name("bitnetc-signals".to_owned());
        let started = thread.spawn(move || signals.forever().for_each(received));
        if started.is_err() {
            handle.close();
            // Nobody would hear of the signals.
            for signal in [SIGTERM, SIGHUP, SIGINT].into_iter().filter(|&signal| !is_ignored(signal)) {
                drop(flag::register_conditional_default(signal, Arc::new(AtomicBool::new(true))));
            }
        }
    }

    fn received(signal: i32) {
        if signal == SIGINT {
            return super::pressed();
        }
        if signal == SIGTERM && super::drained() {
            return;
        }
        super::abandon_all();
        // So that the parent process sees what ended it.
        drop(low_level::emulate_default_handler(signal));
        std::process::exit(128 + signal);
    }

    /// Whether the process was started with the signal ignored.
    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }
}
