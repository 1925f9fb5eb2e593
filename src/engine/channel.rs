//! The bounded channel between the scheduler and one client.
//!
//! The scheduler never waits: an event that finds the channel full is kept in the [`Outlet`], and its sequence is not run
//! until the event is out. A client that reads from a full channel wakes the engine's thread, if there is one.
//!
//! Invariant (no wake-up is lost): the outlet marks itself as starved *before* the attempt whose failure lets the engine go
//! to sleep, and the client looks at the mark *after* it has taken an event. One of the two sees the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::event::Event;

/// Wakes the thread that steps the scheduler.
pub(super) type Waker = Arc<dyn Fn() + Send + Sync>;

/// What the two ends know of each other.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The client wants no more.
    cancelled: AtomicBool,
    /// The client's end is gone.
    dropped: AtomicBool,
    /// An event waits for room.
    starved: AtomicBool,
}

impl Control {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    pub(super) fn drop_client(&self) {
        self.dropped.store(true, Ordering::SeqCst);
        self.cancel();
    }

    /// Whether an event waits for the room that was just made.
    pub(super) fn take_starved(&self) -> bool {
        self.starved.swap(false, Ordering::SeqCst)
    }
}

/// The scheduler's end.
#[derive(Debug)]
pub(super) struct Outlet {
    sender: SyncSender<Event>,
    /// Events that found no room, oldest first.
    held: VecDeque<Event>,
    control: Arc<Control>,
}

/// A channel for at most `capacity` events.
pub(super) fn channel(capacity: usize) -> (Outlet, Receiver<Event>, Arc<Control>) {
    let (sender, receiver) = sync_channel(capacity.max(1));
    let control = Arc::new(Control::default());
    // A step makes a token event at most, and the end of a text one more.
    let held = VecDeque::with_capacity(2);
    (Outlet { sender, held, control: Arc::clone(&control) }, receiver, control)
}

impl Outlet {
    /// Whether the client wants no more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.control.cancelled.load(Ordering::SeqCst)
    }

    /// Whether nobody reads any more.
    pub(super) fn is_dropped(&self) -> bool {
        self.control.dropped.load(Ordering::SeqCst)
    }

    /// Whether events wait for room.
    pub(super) fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    /// Sends an event, or keeps it until there is room.
    pub(super) fn send(&mut self, event: Event) {
        self.held.push_back(event);
        self.flush();
    }

    /// Sends what was kept, as far as there is room.
    pub(super) fn flush(&mut self) {
        while let Some(event) = self.held.pop_front() {
            if let Err(event) = self.try_send(event) {
                self.held.push_front(event);
                return;
            }
        }
    }

    fn try_send(&self, event: Event) -> Result<(), Event> {
        let event = match self.sender.try_send(event) {
            // Without a reader there is nobody to keep it for.
            Ok(()) | Err(TrySendError::Disconnected(_)) => return Ok(()),
            Err(TrySendError::Full(event)) => event,
        };
        self.control.starved.store(true, Ordering::SeqCst);
        match self.sender.try_send(event) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {
                self.control.starved.store(false, Ordering::SeqCst);
                Ok(())
            }
            Err(TrySendError::Full(event)) => Err(event),
        }
    }
}
