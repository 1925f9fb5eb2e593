//! The engine's thread: a scheduler that is stepped while there is something to do, and sleeps otherwise.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel as unbounded};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::channel::{Outlet, Waker, channel};
use super::error::EngineError;
use super::handle::Handle;
use super::request::Request;
use super::scheduler::Scheduler;
use super::stepper::Stepper;

/// A handle to the thread that makes texts. Clones are handles to the same thread; it ends when the last one is dropped,
/// and requests that are waiting or under way end with [`EngineError::Stopped`].
#[derive(Clone)]
pub struct Engine {
    thread: Arc<Thread>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// What the thread is told.
enum Message {
    Submit(Box<Request>, Outlet),
    /// A client has read, or cancelled.
    Wake,
    /// No handle is left.
    Stop,
}

struct Thread {
    inbox: Sender<Message>,
    events: usize,
    waker: Waker,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Gives `scheduler` a thread.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn start<S>(scheduler: Scheduler<S>) -> Result<Self, EngineError>
    where
        S: Stepper + Send + 'static,
        S::Sequence: Send + 'static,
    {
        let events = scheduler.events();
        let (inbox, messages) = unbounded();
        let thread = std::thread::Builder::new().name("bitnetc-engine".to_owned());
        let handle = thread.spawn(move || serve(scheduler, &messages)).map_err(EngineError::Thread)?;
        let wake = inbox.clone();
        // A thread that is gone has nothing to be woken for.
        let waker: Waker = Arc::new(move || drop(wake.send(Message::Wake)));
        let thread = Thread { inbox, events, waker, handle: Mutex::new(Some(handle)) };
        Ok(Self { thread: Arc::new(thread) })
    }

    /// Has a text made. What is wrong with the request is its event.
    pub fn submit(&self, request: Request) -> Handle {
        let (outlet, events, control) = channel(self.thread.events);
        // Where the thread is gone, the outlet is dropped and the handle says so.
        drop(self.thread.inbox.send(Message::Submit(Box::new(request), outlet)));
        Handle::new(events, control, Some(Arc::clone(&self.thread.waker)))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.inbox.send(Message::Stop));
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by the thread itself, in a constraint that owns it.
        if let Some(handle) = handle.filter(|handle| handle.thread().id() != std::thread::current().id()) {
            drop(handle.join());
        }
    }
}

/// The thread: steps until it is told to stop, and waits for messages where a step computes nothing.
fn serve<S: Stepper>(mut scheduler: Scheduler<S>, messages: &Receiver<Message>) {
    loop {
        loop {
            match messages.try_recv() {
                Ok(Message::Submit(request, outlet)) => scheduler.enqueue(*request, outlet),
                Ok(Message::Wake) => {}
                Ok(Message::Stop) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => break,
            }
        }
        if scheduler.step().is_idle() {
            match messages.recv() {
                Ok(Message::Submit(request, outlet)) => scheduler.enqueue(*request, outlet),
                Ok(Message::Wake) => {}
                Ok(Message::Stop) | Err(_) => return,
            }
        }
    }
}
