//! Signals: Ctrl-C, and the others that end a command or would.
//!
//! The first Ctrl-C asks a command that [`listen`]s to finish what it is doing and to stop; the second, and the first for any
//! other command, ends the process. SIGTERM (`docker stop`, `timeout`) and SIGHUP (a terminal that closes) end it at once, unless it
//! was started with them ignored, as `nohup` does. A file that grows beyond the limit of the process (SIGXFSZ) is an error of who writes
//! it.
//!
//! Invariant: a process that ends so leaves no temporary file.

use std::sync::atomic::{AtomicBool, Ordering};

static LISTENING: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Handles signals from here on. Where the system refuses, they do what they always do.
pub(crate) fn handle() {
    #[cfg(unix)]
    unix::handle();
}

/// From here on the first Ctrl-C is a request, which the command looks for.
pub(crate) fn listen() {
    LISTENING.store(true, Ordering::SeqCst);
}

/// Whether Ctrl-C was pressed.
pub(crate) fn requested() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Forgets that Ctrl-C was pressed: what it was pressed for has stopped.
pub(crate) fn clear() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}

#[cfg(unix)]
mod unix {
    use std::sync::Arc;

    use bitnetc_runtime::whole_file;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::{flag, low_level};

    use super::{AtomicBool, INTERRUPTED, LISTENING, Ordering};
    use crate::exit;

    pub(super) fn handle() {
        // With a handler, whatever it does, the write fails instead.
        drop(flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))));
        let ends = [SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
        let Ok(mut signals) = Signals::new(ends.chain([SIGINT])) else { return };
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("bitnetc-signals".to_owned());
        let started = thread.spawn(move || signals.forever().for_each(received));
        if started.is_err() {
            handle.close();
            // Nobody would hear of the signals.
            for signal in [SIGTERM, SIGHUP, SIGINT] {
                drop(flag::register_conditional_default(signal, Arc::new(AtomicBool::new(true))));
            }
        }
    }

    fn received(signal: i32) {
        let asked = signal == SIGINT && LISTENING.load(Ordering::SeqCst);
        if asked && !INTERRUPTED.swap(true, Ordering::SeqCst) {
            return;
        }
        whole_file::abandon_all();
        match signal {
            SIGINT => std::process::exit(i32::from(exit::INTERRUPTED)),
            // So that whoever started the process sees what ended it.
            _ => drop(low_level::emulate_default_handler(signal)),
        }
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
