//! Grammars are compiled on threads of their own: ahead of the texts that they are for, and for a limited time.
//!
//! The compiler of the engine counts its work and gives up in the end, but not always soon, and it recurses as deep as a
//! grammar goes. Its thread has a stack for the deepest that the limits of size allow; the caller gives up after
//! [`MAX_TIME`]. A thread cannot be ended from outside: one that nobody waits for any more runs on until it gives up. There
//! are never more than [`MAX_THREADS`]; what is beyond waits for its turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::{Constraint, ConstraintError};

/// Longest time that a grammar is waited for. What is read in time depends on the load of the machine, so that what is not is no fault
/// of the grammar ([`ConstraintError::Late`]); what a grammar may cost is counted elsewhere.
pub const MAX_TIME: Duration = Duration::from_secs(30);
/// Most threads at a time.
const MAX_THREADS: usize = 8;
/// How often it is looked whether a turn has come.
const POLL: Duration = Duration::from_millis(20);
/// How long it may wait for its turn.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Stack of a thread: reserved, not used unless a grammar is that deep.
const STACK: usize = 256 << 20;

/// How many threads there are.
static THREADS: AtomicUsize = AtomicUsize::new(0);

type Made = Result<Box<dyn Constraint>, ConstraintError>;

/// A grammar that is being compiled.
pub struct Compiling(State);

impl std::fmt::Debug for Compiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiling").field("done", &matches!(self.0, State::Done(_))).finish()
    }
}

type Work = Box<dyn FnOnce() -> Made + Send>;

enum State {
    Done(Made),
    /// It waits for its turn, until then.
    Waiting {
        work: Option<Work>,
        until: Instant,
    },
    Running {
        made: Receiver<Made>,
        deadline: Instant,
    },
}

/// Counts a thread for as long as it lives.
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let more = |threads| (threads < MAX_THREADS).then_some(threads + 1);
        THREADS.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Compiling {
    /// What is done already.
    pub fn done(made: Result<Box<dyn Constraint>, ConstraintError>) -> Self {
        Self(State::Done(made))
    }

    /// Has `work` done on a thread of its own.
    pub fn start(
        work: impl FnOnce() -> Result<Box<dyn Constraint>, ConstraintError> + Send + 'static,
    ) -> Self {
        let until = Instant::now() + MAX_WAIT;
        let mut this = Self(State::Waiting { work: Some(Box::new(work)), until });
        this.begin();
        this
    }

    /// Starts the thread, where there may be one more.
    fn begin(&mut self) {
        let State::Waiting { work, .. } = &mut self.0 else { return };
        let Some(counted) = Counted::new() else { return };
        let Some(work) = work.take() else { return };
        let (sender, made) = sync_channel(1);
        let thread = std::thread::Builder::new().name("bitnetc-grammar".to_owned()).stack_size(STACK);
        let started = thread.spawn(move || {
            let result = work();
            drop(counted);
            // Nobody may wait any more.
            drop(sender.send(result));
        });
        self.0 = match started {
            Ok(_) => State::Running { made, deadline: Instant::now() + MAX_TIME },
            Err(error) => State::Done(Err(ConstraintError::Thread(error))),
        };
    }

    /// Whether [`Compiling::wait`] returns at once.
    pub fn is_done(&mut self) -> bool {
        self.settle(Duration::ZERO)
    }

    /// The constraint, once it is there.
    ///
    /// # Errors
    /// What is wrong with the grammar; [`ConstraintError::Late`].
    pub fn wait(mut self) -> Result<Box<dyn Constraint>, ConstraintError> {
        while !self.settle(POLL) {}
        match self.0 {
            State::Done(made) => made,
            _ => Err(too_late()),
        }
    }

    /// Waits for as long as `most`, and not after the deadline.
    fn settle(&mut self, most: Duration) -> bool {
        self.begin();
        let (made, deadline) = match &self.0 {
            State::Done(_) => return true,
            State::Waiting { until, .. } if Instant::now() < *until => {
                std::thread::sleep(most);
                return false;
            }
            // All threads are busy with grammars that have been given up and have not ended yet.
            State::Waiting { .. } => {
                self.0 = State::Done(Err(too_late()));
                return true;
            }
            State::Running { made, deadline } => (made, deadline),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let result = match made.recv_timeout(most.min(left)) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) if left > most => return false,
            Err(RecvTimeoutError::Timeout) => Err(too_late()),
            Err(RecvTimeoutError::Disconnected) => {
                let reason = "the grammar engine failed on it".to_owned();
                Err(ConstraintError::Grammar { kind: "grammar", reason })
            }
        };
        self.0 = State::Done(result);
        true
    }
}

fn too_late() -> ConstraintError {
    ConstraintError::Late { seconds: MAX_TIME.as_secs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panics_or_fails_is_an_error() {
        let failed = Compiling::start(|| Err(ConstraintError::NoEndToken)).wait();
        assert!(matches!(failed, Err(ConstraintError::NoEndToken)));
        let panicked = Compiling::start(|| panic!("for a test")).wait();
        assert!(matches!(panicked, Err(ConstraintError::Grammar { .. })));
        let mut ready = Compiling::done(Err(ConstraintError::NoEndToken));
        assert!(ready.is_done());
    }

    #[test]
    fn work_that_takes_long_is_left_to_itself() {
        let (release, held) = sync_channel::<()>(0);
        let mut slow = Compiling::start(move || {
            let _ = held.recv();
            Err(ConstraintError::NoEndToken)
        });
        assert!(!slow.is_done());
        if let State::Running { deadline, .. } = &mut slow.0 {
            *deadline = Instant::now();
        }
        let late = slow.wait();
        assert!(matches!(late, Err(ConstraintError::Late { .. })));
        drop(release);
    }
}
