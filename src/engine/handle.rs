//! The client's end of a request.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use super::channel::{Control, Waker};
use super::error::EngineError;
use super::event::{Completion, Event};
use super::text::Stop;
use crate::error::Error;

/// A request under way: its events, oldest first. Dropping the handle cancels the request.
///
/// The channel holds a bounded number of events ([`EngineOptions::events`](super::EngineOptions::events)); while it is
/// full, the request is paused, and no other: a sequence that others wait for is given to them, and the text goes on in another
/// one when half of the channel has been read.
///
/// The handle of a [`Scheduler`](super::Scheduler) is for [`Handle::try_recv`] and for the scheduler's own
/// [`follow`](super::Scheduler::follow): whatever would wait for events that only a step brings fails with
/// [`EngineError::NotStepped`] instead, and cancels the request.
pub struct Handle {
    events: Receiver<Event>,
    control: Arc<Control>,
    /// Wakes the engine's thread; `None` where the scheduler's owner calls it.
    waker: Option<Waker>,
    ended: bool,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Handle {
    pub(super) fn new(events: Receiver<Event>, control: Arc<Control>, waker: Option<Waker>) -> Self {
        Self { events, control, waker, ended: false }
    }

    /// Waits for the next event; `None` after the last one. An engine that is gone gives [`EngineError::Stopped`], and a
    /// [`Scheduler`](super::Scheduler), for which nobody can wait, [`EngineError::NotStepped`].
    pub fn recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        if self.waker.is_none() {
            return self.try_recv().or_else(|| Some(self.give_up(EngineError::NotStepped)));
        }
        let event = self.events.recv();
        Some(self.received(event.ok()))
    }

    /// Ends a request whose events would never come; its last event.
    pub(super) fn give_up(&mut self, why: EngineError) -> Event {
        self.ended = true;
        self.control.drop_client();
        self.wake();
        Event::Failed(why.into())
    }

    /// The next event, waited for no longer than `time`; `None` after the last one too: [`Handle::is_ended`] tells them apart.
    pub fn recv_timeout(&mut self, time: Duration) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = match self.events.recv_timeout(time) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => None,
        };
        Some(self.received(event))
    }

    /// The next event, if there is one; `None` after the last one too: [`Handle::is_ended`] tells them apart.
    pub fn try_recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = match self.events.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => None,
        };
        Some(self.received(event))
    }

    /// An event of the channel; of one that is closed, what was left there.
    fn received(&mut self, event: Option<Event>) -> Event {
        if event.is_some() && self.control.taken() {
            self.wake();
        }
        let event = event.or_else(|| self.control.take_rest());
        let event = event.unwrap_or(Event::Failed(EngineError::Stopped.into()));
        self.ended = matches!(event, Event::Done(_) | Event::Failed(_));
        event
    }

    /// Whether the last event has been read.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Asks for the end of the text, which comes as [`Stop::Interrupted`] with what there is by then, unless it has ended
    /// for another reason already.
    pub fn cancel(&self) {
        self.control.cancel();
        self.wake();
    }

    fn wake(&self) {
        if let Some(wake) = &self.waker {
            wake();
        }
    }

    /// Waits for the whole text. `emit` is given its pieces as they become certain, an empty one for a token that
    /// completes none, and cancels the request by returning false; it is not called again then.
    ///
    /// # Errors
    /// Why the request failed.
    pub fn follow(mut self, mut emit: impl FnMut(&str) -> bool) -> Result<Completion, Error> {
        let mut stopped = false;
        while let Some(event) = self.recv() {
            if let Some(result) = self.digest(event, &mut stopped, &mut emit) {
                return result;
            }
        }
        Err(EngineError::Stopped.into())
    }

    /// Waits for the whole text.
    ///
    /// # Errors
    /// Why the request failed.
    pub fn complete(self) -> Result<Completion, Error> {
        self.follow(|_| true)
    }

    /// Hands the text of an event to `emit`, and returns what the request came to if it was the last. `stopped` remembers
    /// that `emit` wanted no more.
    pub(super) fn digest(
        &self,
        event: Event,
        stopped: &mut bool,
        emit: &mut impl FnMut(&str) -> bool,
    ) -> Option<Result<Completion, Error>> {
        match event {
            Event::Progress(_) | Event::Scored(_) => None,
            Event::Token(token) => {
                if !*stopped && !emit(&token.text) {
                    *stopped = true;
                    self.cancel();
                }
                None
            }
            Event::Done(mut completion) => {
                *stopped = *stopped || !completion.tail.is_empty() && !emit(&completion.tail);
                if *stopped {
                    completion.finish = Stop::Interrupted;
                }
                Some(Ok(*completion))
            }
            Event::Failed(error) => Some(Err(error)),
        }
    }
}

/// The events of the request, waited for one by one.
impl Iterator for Handle {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.ended {
            self.control.drop_client();
            self.wake();
        }
    }
}
