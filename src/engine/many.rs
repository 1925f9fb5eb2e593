//! Texts for callers that step the scheduler themselves: one text as it is generated, or many until all have ended.

use super::error::EngineError;
use super::event::{Completion, Event};
use super::handle::Handle;
use super::request::Request;
use super::scheduler::Scheduler;
use super::stepper::Stepper;
use crate::error::Error;

/// The next request of many.
#[derive(Debug)]
pub enum Supply<K> {
    /// A request with its key.
    Request(K, Box<Request>),
    /// There is none yet.
    Later,
    /// There are no more.
    End,
}

impl<S: Stepper> Scheduler<S> {
    /// Steps until the next event of a request; `None` after the last one. A request of another scheduler fails with
    /// [`EngineError::Elsewhere`] where this one has nothing to compute.
    pub fn next_event(&mut self, handle: &mut Handle) -> Option<Event> {
        while !handle.is_ended() {
            if let Some(event) = handle.try_recv() {
                return Some(event);
            }
            if self.step().is_idle() {
                return handle.try_recv().or_else(|| Some(handle.give_up(EngineError::Elsewhere)));
            }
        }
        None
    }

    /// Steps until the request of `handle` has ended, as [`Handle::follow`] waits for it. `keep_going` is asked before
    /// every step and cancels the request by returning false.
    ///
    /// # Errors
    /// Why the request failed; [`EngineError::Stopped`] where its last event has been read already, and
    /// [`EngineError::Elsewhere`] where it is not this scheduler's.
    pub fn follow(
        &mut self,
        mut handle: Handle,
        mut keep_going: impl FnMut() -> bool,
        mut emit: impl FnMut(&str) -> bool,
    ) -> Result<Completion, Error> {
        let mut stopped = false;
        let mut idle = false;
        loop {
            while let Some(event) = handle.try_recv() {
                idle = false;
                if let Some(result) = handle.digest(event, &mut stopped, &mut emit) {
                    return result;
                }
            }
            if handle.is_ended() {
                return Err(EngineError::Stopped.into());
            }
            if idle {
                return Err(EngineError::Elsewhere.into());
            }
            if !keep_going() {
                handle.cancel();
            }
            idle = self.step().is_idle();
        }
    }

    /// Makes all of `requests`, as many at a time as there are sequences. `done` is given what each came to under its key
    /// as soon as it has ended; an error of `done` ends the work. `keep_going` is asked before every request and every step.
    ///
    /// # Errors
    /// What `done` returns; [`Error::Interrupted`] where `keep_going` said no. Requests under way are cancelled then.
    pub fn complete_all<K, E: From<Error>>(
        &mut self,
        requests: impl IntoIterator<Item = (K, Request)>,
        keep_going: impl FnMut() -> bool,
        done: impl FnMut(K, Result<Completion, Error>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut requests = requests.into_iter();
        let next =
            |_| requests.next().map_or(Supply::End, |(key, request)| Supply::Request(key, Box::new(request)));
        self.complete_supplied(next, keep_going, done)
    }

    /// As [`Scheduler::complete_all`], with requests that may be late: `next` is told whether there is nothing else to do,
    /// so that it may wait.
    ///
    /// # Errors
    /// As [`Scheduler::complete_all`].
    pub fn complete_supplied<K, E: From<Error>>(
        &mut self,
        mut next: impl FnMut(bool) -> Supply<K>,
        mut keep_going: impl FnMut() -> bool,
        mut done: impl FnMut(K, Result<Completion, Error>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut under_way: Vec<(K, Handle)> = Vec::with_capacity(self.sequences());
        let mut ended = false;
        loop {
            while under_way.len() < self.sequences() && !ended {
                if !keep_going() {
                    return Err(Error::Interrupted.into());
                }
                match next(under_way.is_empty()) {
                    Supply::Request(key, request) => {
                        under_way.push((key, self.submit(request.without_tokens())));
                    }
                    Supply::Later => break,
                    Supply::End => ended = true,
                }
            }
            if under_way.is_empty() && ended {
                return Ok(());
            }
            if !keep_going() {
                return Err(Error::Interrupted.into());
            }
            if under_way.is_empty() {
                continue;
            }
            self.step();
            let mut at = 0;
            while at < under_way.len() {
                let mut ended = None;
                let event = under_way[at].1.try_recv();
                if let Some(event) = event {
                    ended = under_way[at].1.digest(event, &mut false, &mut |_| true);
                }
                match ended {
                    None => at += 1,
                    Some(result) => done(under_way.remove(at).0, result)?,
                }
            }
        }
    }
}
