//! The bounded channel between the scheduler and one client.
//!
//! The scheduler never waits: an event for which the channel has no room is kept in the [`Outlet`], and its sequence is paused
//! until the event has been sent. A client that reads from a full channel wakes the engine's thread, if there is one.
//!
//! If others wait for a sequence, it is taken from a client that does not read. The client gets a sequence again when at least half of
//! the channel has been read ([`Outlet::has_room`]), so that its text grows by more than a token before it is paused again.
//!
//! Invariants:
//! - no wake-up is lost: the outlet marks itself as starved *before* the attempt whose failure lets the engine go to sleep, and
//!   the client looks at the mark *after* it has taken an event. One of the two sees the other;
//! - no event is lost: what found no room when the outlet is dropped is left in [`Control`] for the client;
//! - a client that registered a callback is notified *after* an event can be read, and after the outlet is gone: a client that tries
//!   to read after each notification misses nothing;
//! - events are dropped under guard: they may own a constraint, and a panic while it is dropped concerns only its request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::guarded;
use super::event::Event;

/// Wakes the thread that steps the scheduler.
pub(super) type Waker = Arc<dyn Fn() + Send + Sync>;

/// Tells a client that its [`Handle`](super::Handle) has something to read. It is called on the thread that steps the
/// scheduler or on one that computes with it, so it must neither block nor read the handle itself; a panic in it is ignored.
/// Several events may come with one call, and a call with none.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// Notifies the client, also when it is dropped.
struct Bell(Option<Notify>);

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Bell").field(&self.0.is_some()).finish()
    }
}

impl Bell {
    fn ring(&self) {
        if let Some(notify) = &self.0 {
            // Whom the panic concerns is not there to be told.
            let _ = guarded(|| notify());
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

/// What the two ends know of each other.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The client wants no more.
    cancelled: AtomicBool,
    /// The client's end is gone.
    dropped: AtomicBool,
    /// An event waits for room, or a text for the channel to be half empty.
    starved: AtomicBool,
    /// Events in the channel, and one that is on its way into it.
    unread: AtomicUsize,
    /// Events that had found no room when the outlet was dropped.
    rest: Mutex<VecDeque<Event>>,
}

impl Control {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    pub(super) fn drop_client(&self) {
        self.dropped.store(true, Ordering::SeqCst);
        self.cancel();
        self.discard_rest();
    }

    /// Takes note of an event that was taken from the channel; says whether the engine waits for that.
    pub(super) fn taken(&self) -> bool {
        self.unread.fetch_sub(1, Ordering::SeqCst);
        self.starved.swap(false, Ordering::SeqCst)
    }

    /// The oldest event that was left where the outlet is gone.
    pub(super) fn take_rest(&self) -> Option<Event> {
        self.rest().pop_front()
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the events of an outlet that is dropped.
    fn leave(&self, events: VecDeque<Event>) {
        *self.rest() = events;
        if self.dropped.load(Ordering::SeqCst) {
            self.discard_rest();
        }
    }

    fn discard_rest(&self) {
        let events = std::mem::take(&mut *self.rest());
        events.into_iter().for_each(discard);
    }
}

/// Drops an event that nobody reads.
fn discard(event: Event) {
    // Whoever would be told of a panic is gone.
    let _ = guarded(|| drop(event));
}

/// The scheduler's end.
#[derive(Debug)]
pub(super) struct Outlet {
    sender: SyncSender<Event>,
    /// Events that found no room, oldest first.
    held: VecDeque<Event>,
    control: Arc<Control>,
    /// Events that the channel has room for.
    capacity: usize,
    /// The last field: it is dropped after the sender, when the end of the channel can be seen.
    bell: Bell,
}

/// A channel for at most `capacity` events, with what to call when there are any.
pub(super) fn channel(capacity: usize, notify: Option<Notify>) -> (Outlet, Receiver<Event>, Arc<Control>) {
    let capacity = capacity.max(1);
    let (sender, receiver) = sync_channel(capacity);
    let control = Arc::new(Control::default());
    // The last step of a prompt tells its probabilities, its end, a token and the end of the text at most.
    let held = VecDeque::with_capacity(4);
    let bell = Bell(notify);
    (Outlet { sender, held, control: Arc::clone(&control), capacity, bell }, receiver, control)
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

    /// Whether a text without a sequence may have one: its client has read what there was, or at least half of what the
    /// channel holds.
    pub(super) fn has_room(&self) -> bool {
        if self.is_blocked() {
            return false;
        }
        let is_half_empty = || self.control.unread.load(Ordering::SeqCst) <= self.capacity / 2;
        if is_half_empty() {
            return true;
        }
        self.control.starved.store(true, Ordering::SeqCst);
        is_half_empty()
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
        let Err(event) = self.attempt(event) else { return Ok(()) };
        self.control.starved.store(true, Ordering::SeqCst);
        self.attempt(event)?;
        self.control.starved.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Puts an event into the channel. Without a reader there is nobody to keep it for.
    fn attempt(&self, event: Event) -> Result<(), Event> {
        // Before the client can take it.
        self.control.unread.fetch_add(1, Ordering::SeqCst);
        let refused = self.sender.try_send(event).err();
        if refused.is_some() {
            self.control.unread.fetch_sub(1, Ordering::SeqCst);
        }
        match refused {
            None => {
                self.bell.ring();
                Ok(())
            }
            Some(TrySendError::Full(event)) => Err(event),
            Some(TrySendError::Disconnected(event)) => {
                discard(event);
                Ok(())
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.held.is_empty() {
            self.control.leave(std::mem::take(&mut self.held));
        }
    }
}
