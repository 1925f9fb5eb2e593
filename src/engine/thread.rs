//! The engine's thread: steps a scheduler while there is work, and sleeps otherwise.
//!
//! Invariant: no panic ends the thread. A panic in a step ends all current texts with its message; later requests are served.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel as unbounded, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::channel::{Notify, Outlet, Waker, channel};
use super::error::{EngineError, guarded};
use super::event::Event;
use super::handle::Handle;
use super::metrics::Metrics;
use super::request::Request;
use super::scheduler::Scheduler;
use super::slot_file::{self, SavedSlot, Seats, SlotError, SlotShape};
use super::slots::{Board, SeatIndex, SlotState};
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

/// What is done with the sequences.
type SeatsJob = Box<dyn FnOnce(&mut dyn Seats) + Send>;

/// What the thread is told.
enum Message {
    Submit(Box<Submission>),
    /// Something is to be done with the sequences, between two steps.
    Seats(SeatsJob),
    /// A client has read, or cancelled.
    Wake,
    /// No handle is left.
    Stop,
}

/// A request on its way to the thread.
struct Submission {
    request: Request,
    outlet: Outlet,
    sent: Instant,
}

struct Thread {
    inbox: Sender<Message>,
    events: usize,
    waker: Waker,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
    shape: SlotShape,
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
        let (metrics, board) = (Arc::clone(scheduler.metrics()), Arc::clone(scheduler.board()));
        let shape = scheduler.slot_shape();
        let (inbox, messages) = unbounded();
        let thread = std::thread::Builder::new().name("bitnetc-engine".to_owned());
        let handle = thread.spawn(move || serve(scheduler, &messages)).map_err(EngineError::Thread)?;
        let wake = inbox.clone();
        // A thread that is gone has nothing to be woken for.
        let waker: Waker = Arc::new(move || drop(wake.send(Message::Wake)));
        let thread = Thread { inbox, events, waker, metrics, board, shape, handle: Mutex::new(Some(handle)) };
        Ok(Self { thread: Arc::new(thread) })
    }

    /// Has a text made. What is wrong with the request is its event.
    pub fn submit(&self, request: Request) -> Handle {
        self.send(request, None)
    }

    /// As [`Engine::submit`]; `notify` is called after there is something to read, so that a client need not wait on a
    /// thread of its own: [`Handle::try_recv`] gives it.
    pub fn submit_with(&self, request: Request, notify: Notify) -> Handle {
        self.send(request, Some(notify))
    }

    /// What is counted: readable at any time, without waiting for a step.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.thread.metrics)
    }

    /// What the sequences hold and do, as of the latest step that has begun or ended: no step is waited for.
    pub fn slots(&self) -> Vec<SlotState> {
        self.thread.board.read()
    }

    /// Saves what a free sequence holds to `path`, whole or not at all. Texts under way wait for the copy in memory only, not
    /// for the file.
    ///
    /// # Errors
    /// As [`Scheduler::save`]; the engine is gone.
    pub fn save(&self, seat: SeatIndex, path: &Path) -> Result<SavedSlot, SlotError> {
        let (prefix, salt) = self.ask(move |seats| seats.copy_seat(seat))?;
        slot_file::write(path, &prefix, salt)
    }

    /// Makes a free sequence hold what was saved to `path`, in the place of what it holds.
    ///
    /// # Errors
    /// As [`Scheduler::restore`]; the engine is gone.
    pub fn restore(&self, seat: SeatIndex, path: &Path) -> Result<SavedSlot, SlotError> {
        let (prefix, salt) = slot_file::read(path, self.thread.shape)?;
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let tokens = self.ask(move |seats| seats.fill_seat(seat, &prefix, salt))?;
        Ok(SavedSlot { tokens, bytes })
    }

    /// Makes a free sequence forget what it holds; returns how many tokens that were.
    ///
    /// # Errors
    /// As [`Scheduler::erase`]; the engine is gone.
    pub fn erase(&self, seat: SeatIndex) -> Result<u32, SlotError> {
        self.ask(move |seats| seats.erase_seat(seat))
    }

    /// Has something done with the sequences between two steps, and waits for it.
    fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut dyn Seats) -> Result<T, SlotError> + Send + 'static,
    ) -> Result<T, SlotError> {
        let (reply, answer) = sync_channel(1);
        // Whoever asked and is gone needs no answer.
        let act = move |seats: &mut dyn Seats| drop(reply.try_send(act(seats)));
        drop(self.thread.inbox.send(Message::Seats(Box::new(act))));
        answer.recv().unwrap_or(Err(SlotError::Engine(EngineError::Stopped)))
    }

    fn send(&self, request: Request, notify: Option<Notify>) -> Handle {
        let (outlet, events, control) = channel(self.thread.events, notify);
        // Where the thread is gone, the outlet is dropped and the handle says so.
        let submission = Submission { request, outlet, sent: Instant::now() };
        drop(self.thread.inbox.send(Message::Submit(Box::new(submission))));
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

/// The thread: takes turns until it is told to stop, then ends what there is.
fn serve<S: Stepper>(mut scheduler: Scheduler<S>, messages: &Receiver<Message>) {
    loop {
        let goes_on = guarded(|| turn(&mut scheduler, messages));
        if let Err(EngineError::Panicked { message }) = &goes_on {
            scheduler.end_all(|| EngineError::Panicked { message: message.clone() });
        }
        if matches!(goes_on, Ok(false)) {
            break;
        }
    }
    while let Ok(message) = messages.try_recv() {
        if let Message::Submit(submission) = message {
            refuse(*submission, EngineError::Stopped);
        }
    }
    scheduler.end_all(|| EngineError::Stopped);
    // What a sequence does when it is dropped is no reason to end the thread with a panic.
    let _ = guarded(|| drop(scheduler));
}

/// Takes what the inbox holds, up to the first work on sequences, and computes a step: however much of that there is, texts go on
/// between. Waits for a message where nothing can be computed. Says whether to go on.
fn turn<S: Stepper>(scheduler: &mut Scheduler<S>, messages: &Receiver<Message>) -> bool {
    loop {
        match messages.try_recv() {
            Ok(message) => {
                let is_work = matches!(message, Message::Seats(_));
                if !take(scheduler, message) {
                    return false;
                }
                if is_work {
                    break;
                }
            }
            Err(TryRecvError::Disconnected) => return false,
            Err(TryRecvError::Empty) => break,
        }
    }
    !scheduler.step().is_idle() || messages.recv().is_ok_and(|message| take(scheduler, message))
}

/// Does what the message says; false if the thread is to stop.
fn take<S: Stepper>(scheduler: &mut Scheduler<S>, message: Message) -> bool {
    match message {
        Message::Submit(submission) => match guarded(|| scheduler.now()) {
            Ok(now) => {
                let Submission { request, outlet, sent } = *submission;
                scheduler.enqueue(request, outlet, now.saturating_sub(sent.elapsed()));
            }
            Err(panic) => refuse(*submission, panic),
        },
        Message::Seats(act) => act(scheduler),
        Message::Wake => {}
        Message::Stop => return false,
    }
    true
}

/// Ends a request that the scheduler never had.
fn refuse(submission: Submission, error: EngineError) {
    let Submission { request, mut outlet, .. } = submission;
    outlet.send(Event::Failed(error.into()));
    // What its constraint does then is nobody's business any more.
    let _ = guarded(|| drop(request));
}
