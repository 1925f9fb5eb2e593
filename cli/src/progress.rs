//! Progress on stderr, on a terminal only.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt;

/// Work that takes less is not worth a word.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often the sign of work turns.
const TICK: Duration = Duration::from_millis(120);

/// Whether progress is shown.
fn is_shown(quiet: bool) -> bool {
    !quiet && std::io::stderr().is_terminal()
}

/// A bar for `total` units of `what`; invisible when stderr is no terminal or `quiet` is set.
pub(crate) fn bar(what: &str, total: u64, quiet: bool) -> ProgressBar {
    styled("{msg:>12} [{bar:32}] {percent:>3}% {eta}", what, total, quiet)
}

/// A bar for `total` bytes, with the rate; invisible as [`bar`].
pub(crate) fn bytes(what: &str, total: u64, quiet: bool) -> ProgressBar {
    styled("{msg:>12} [{bar:32}] {percent:>3}% of {total_bytes} {bytes_per_sec} {eta}", what, total, quiet)
}

fn styled(template: &str, what: &str, total: u64, quiet: bool) -> ProgressBar {
    if !is_shown(quiet) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(what.to_owned());
    // There from the beginning, not from the first step on.
    bar.tick();
    bar
}

/// Does work of which nobody knows how long it takes: it is named on a terminal if it takes its time, with the seconds, and Ctrl-C
/// ends it.
pub(crate) fn working<T>(what: &'static str, quiet: bool, work: impl FnOnce() -> T) -> T {
    interrupt::listen();
    let _sign = is_shown(quiet).then(|| Sign::new(what));
    work()
}

/// The sign of work, on a thread of its own. It is gone when this is dropped.
struct Sign {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sign {
    fn new(what: &'static str) -> Self {
        let (stop, stopped) = channel::<()>();
        let show = move || {
            if stopped.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let style = ProgressStyle::with_template("{msg:>12} {spinner} {elapsed}");
            let bar = ProgressBar::new_spinner().with_message(what);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                bar.tick();
            }
            bar.finish_and_clear();
        };
        // Without a thread for it the work goes on unseen.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(show).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The line is clear before anything else is written.
            let _ = thread.join();
        }
    }
}
