//! The engine's thread: it sleeps when there is nothing to do, wakes when there is, survives what its clients bring, and ends
//! with its last handle.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bitnetc::Error;
use bitnetc::constraint::{Constraint, ConstraintError};
use bitnetc::engine::{
    Engine, EngineError, EngineOptions, Event, Handle, Request, Scheduler, SeatIndex, Stop,
};
use bitnetc_runtime::sampling::TokenMask;
use stand_in::{Letters, Seen, StandIn, VOCAB, alone, exactly, exactly_alone, prompt, request, scheduler};

fn engine(events: u32, sequences: u32) -> (Engine, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let options = EngineOptions { events, ..EngineOptions::of(1 << 20, 1, sequences) };
    (Engine::start(scheduler(StandIn::new(1 << 20, &seen), options)).unwrap(), seen)
}

/// A text without an end.
fn endless(seed: u64) -> Request {
    exactly(&prompt(seed, 4), seed, None)
}

/// Waits until `done` says yes.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let clock = Instant::now();
    while !done() {
        assert!(clock.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the engine has nothing to compute: it is asked something several times, and would have computed a step before it answers
/// the next time, however slow the machine is.
fn is_asleep(engine: &Engine, seen: &Seen) -> bool {
    let steps = seen.steps.load(Ordering::SeqCst);
    (0..20).for_each(|_| drop(engine.erase(SeatIndex(u32::MAX)).unwrap_err()));
    seen.steps.load(Ordering::SeqCst) == steps
}

#[test]
fn clients_on_many_threads_get_the_texts_of_single_runs() {
    let (engine, seen) = engine(8, 3);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let engine = engine.clone();
            scope.spawn(move || {
                for round in 0..8 {
                    let seed = thread * 100 + round;
                    let prompt = prompt(seed, 3 + (seed as usize * 7) % 40);
                    let mut text = String::new();
                    let handle = engine.submit(request(&prompt, seed, 25));
                    let end = handle.follow(|piece| {
                        text.push_str(piece);
                        true
                    });
                    let expected = alone(&prompt, seed, 25);
                    assert_eq!((end.unwrap().tokens, text), (expected.tokens, expected.text));
                }
            });
        }
    });
    assert!(is_asleep(&engine, &seen));
    drop(engine);
    assert_eq!(seen.sequences.load(Ordering::SeqCst), 0, "the thread and its sequences are gone");
}

#[test]
fn a_client_that_does_not_read_stops_the_thread_and_a_read_wakes_it() {
    let (engine, seen) = engine(4, 2);
    let mut lazy = engine.submit(endless(1));
    wait_for("the channel fills", || is_asleep(&engine, &seen));
    let paused = seen.steps.load(Ordering::SeqCst);
    // Others go on beside it.
    let other = engine.submit(request(&prompt(2, 5), 2, 30)).complete().unwrap();
    assert_eq!(other.text, alone(&prompt(2, 5), 2, 30).text);
    assert!(seen.steps.load(Ordering::SeqCst) > paused);
    wait_for("the others have ended", || is_asleep(&engine, &seen));
    // Far more than the channel holds: every read makes room.
    for _ in 0..500 {
        assert!(matches!(lazy.recv_timeout(Duration::from_secs(60)), Some(Event::Token(_))), "not woken");
    }
    lazy.cancel();
    let end = lazy.find_map(|event| match event {
        Event::Done(end) => Some(end),
        _ => None,
    });
    let end = end.unwrap();
    assert!(end.finish == Stop::Interrupted && end.tokens.len() >= 500);
}

#[test]
fn dropped_handles_leave_the_thread_asleep() {
    let (engine, seen) = engine(1000, 2);
    let handles: Vec<_> = (0..5).map(|seed| engine.submit(endless(seed))).collect();
    wait_for("the first tokens", || seen.steps.load(Ordering::SeqCst) > 10);
    drop(handles);
    wait_for("nothing is left to do", || is_asleep(&engine, &seen));
    let after = engine.submit(request(&prompt(7, 5), 7, 10)).complete().unwrap();
    assert_eq!(after.text, alone(&prompt(7, 5), 7, 10).text);
}

#[test]
fn requests_of_an_engine_that_is_gone_end_with_an_error() {
    let (engine, seen) = engine(4, 1);
    let mut running = engine.submit(endless(1));
    let mut waiting = engine.submit(endless(2));
    assert!(matches!(running.recv(), Some(Event::Token(_))));
    let clone = engine.clone();
    drop(engine);
    assert!(matches!(running.recv(), Some(Event::Token(_))), "a handle to the engine is left");
    drop(clone);
    assert_eq!(seen.sequences.load(Ordering::SeqCst), 0, "the thread has ended");
    let last = |handle: &mut Handle| {
        let events: Vec<_> = handle.by_ref().collect();
        assert!(handle.is_ended() && handle.try_recv().is_none());
        matches!(events.last(), Some(Event::Failed(Error::Engine(EngineError::Stopped))))
    };
    assert!(last(&mut running) && last(&mut waiting));
}

#[test]
fn a_handle_can_wait_for_a_while() {
    let (engine, _) = engine(4, 1);
    // It waits for nobody to read.
    let first = engine.submit(endless(1).without_tokens());
    let mut second = engine.submit(request(&prompt(2, 5), 2, 3));
    assert!(second.recv_timeout(Duration::from_millis(5)).is_none() && !second.is_ended());
    drop(first);
    assert!(second.recv_timeout(Duration::from_secs(60)).is_some());
}

#[test]
fn a_text_that_had_ended_is_whole_when_the_engine_goes() {
    // The channel is full when the third token and the end come.
    let (engine, seen) = engine(2, 1);
    let done = engine.submit(exactly(&prompt(1, 4), 1, Some(3)));
    let cancelled = engine.submit(endless(2));
    wait_for("both have made what has room", || is_asleep(&engine, &seen));
    cancelled.cancel();
    wait_for("the cancellation is seen", || is_asleep(&engine, &seen));
    drop(engine);
    let end_of = |mut handle: Handle| {
        let mut pieces = String::new();
        let end = handle.by_ref().find_map(|event| match event {
            Event::Token(token) => {
                pieces.push_str(&token.text);
                None
            }
            Event::Progress(_) | Event::Scored(_) => panic!("nobody asked for it"),
            Event::Done(end) => Some(end),
            Event::Failed(error) => panic!("{error}"),
        });
        assert!(handle.is_ended() && handle.try_recv().is_none());
        let end = end.unwrap();
        assert_eq!(pieces + &end.tail, end.text);
        end
    };
    let done = end_of(done);
    assert_eq!((done.text, done.finish), (exactly_alone(&prompt(1, 4), 1, 3).text, Stop::Limit));
    let cancelled = end_of(cancelled);
    assert_eq!((cancelled.tokens.len(), cancelled.finish), (3, Stop::Interrupted));
}

#[test]
fn the_wait_for_the_step_under_way_is_waiting_too() {
    let seen = Arc::<Seen>::default();
    let clock = Instant::now();
    let scheduler = Scheduler::over(
        StandIn::new(1024, &seen),
        Arc::<Letters>::default(),
        EngineOptions::of(1024, 1, 2),
        Box::new(move || clock.elapsed()),
    );
    let engine = Engine::start(scheduler.unwrap()).unwrap();
    let wait = Duration::from_millis(80);
    let _first = {
        let hold = seen.hold.lock().unwrap();
        let first = engine.submit(exactly(&prompt(1, 4), 1, Some(50)));
        wait_for("a step begins", || seen.begun.load(Ordering::SeqCst) > 0);
        let second = engine.submit(request(&prompt(2, 4), 2, 3));
        std::thread::sleep(wait);
        drop(hold);
        let queue = second.complete().unwrap().timings.queue;
        assert!(queue >= wait, "{queue:?}");
        first
    };
}

/// Allows everything, and panics when it is dropped.
#[derive(Debug)]
struct DropsBadly;

impl Constraint for DropsBadly {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        (0..VOCAB - 2).for_each(|id| mask.allow(id));
        Ok(())
    }
    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        Ok(())
    }
    fn is_complete(&self) -> bool {
        false
    }
    fn duplicate(&self) -> Box<dyn Constraint> {
        Box::new(Self)
    }
}

impl Drop for DropsBadly {
    fn drop(&mut self) {
        panic!("a constraint that panics when it is dropped, for a test");
    }
}

#[test]
fn the_thread_survives_ends_that_nobody_reads() {
    let (engine, seen) = engine(2, 2);
    let bad = |seed| endless(seed).with_constraint(Box::new(DropsBadly)).with_state();
    let goes_on = || {
        let good = engine.submit(request(&prompt(7, 5), 7, 10)).complete().unwrap();
        assert_eq!(good.text, alone(&prompt(7, 5), 7, 10).text);
    };
    // It has no part in any of this.
    let mut bystander = engine.submit(endless(9));
    // The end, which owns the constraint, finds no reader,
    let unread = engine.submit(bad(1));
    wait_for("the channel fills", || is_asleep(&engine, &seen));
    drop(unread);
    goes_on();
    // or waits for room when its reader goes,
    let unread = engine.submit(bad(2));
    wait_for("the channel fills", || is_asleep(&engine, &seen));
    unread.cancel();
    wait_for("the text ends", || is_asleep(&engine, &seen));
    drop(unread);
    goes_on();
    for _ in 0..50 {
        let event = bystander.recv_timeout(Duration::from_secs(60));
        assert!(matches!(event, Some(Event::Token(_))), "{event:?}");
    }
    // or the engine goes first.
    let unread = engine.submit(bad(3));
    wait_for("the channel fills", || is_asleep(&engine, &seen));
    unread.cancel();
    wait_for("the text ends", || is_asleep(&engine, &seen));
    drop(engine);
    assert_eq!(seen.sequences.load(Ordering::SeqCst), 0);
    drop(unread);
}

#[test]
fn a_panic_is_told_to_those_whom_it_ends_and_the_next_ones_go_on() {
    let seen = Arc::<Seen>::default();
    let letters = Arc::<Letters>::default();
    let broken_clock = Arc::<AtomicBool>::default();
    let (panics, made_up) = (Arc::clone(&broken_clock), Arc::clone(&seen));
    let clock = move || {
        assert!(!panics.load(Ordering::SeqCst), "a clock that panics, for a test");
        Duration::from_micros(made_up.time.load(Ordering::SeqCst))
    };
    let options = EngineOptions { events: 4, ..EngineOptions::of(256, 1, 2) };
    let stand_in = StandIn::new(256, &seen);
    let scheduler = Scheduler::over(stand_in, Arc::clone(&letters) as _, options, Box::new(clock));
    let engine = Engine::start(scheduler.unwrap()).unwrap();
    let message_of = |mut handle: Handle| {
        let end = handle.by_ref().find(|event| !matches!(event, Event::Token(_)));
        match end {
            Some(Event::Failed(Error::Engine(EngineError::Panicked { message }))) => message,
            end => panic!("{end:?}"),
        }
    };
    let goes_on = || {
        let good = engine.submit(request(&prompt(7, 5), 7, 10)).complete().unwrap();
        assert_eq!(good.text, alone(&prompt(7, 5), 7, 10).text);
    };
    // When its text begins, the tokenizer is asked for the end tokens.
    let unread = engine.submit(endless(1));
    wait_for("the channel fills", || is_asleep(&engine, &seen));
    letters.panics.store(true, Ordering::SeqCst);
    let ended = message_of(engine.submit(endless(2)));
    letters.panics.store(false, Ordering::SeqCst);
    assert!(ended.contains("a tokenizer that panics"), "{ended}");
    goes_on();
    // Before a request is queued; the one that is paused does not notice.
    broken_clock.store(true, Ordering::SeqCst);
    let ended = message_of(engine.submit(endless(3)));
    assert!(ended.contains("a clock that panics"), "{ended}");
    broken_clock.store(false, Ordering::SeqCst);
    goes_on();
    // In the middle of a step.
    let (ended, waiting) = {
        let hold = seen.hold.lock().unwrap();
        let begun = seen.begun.load(Ordering::SeqCst);
        let ended = engine.submit(endless(4).without_tokens());
        wait_for("a step begins", || seen.begun.load(Ordering::SeqCst) > begun);
        let waiting = engine.submit(endless(5));
        broken_clock.store(true, Ordering::SeqCst);
        drop(hold);
        (message_of(ended), message_of(waiting))
    };
    assert!(ended.contains("a clock that panics") && waiting.contains("a clock that panics"));
    assert!(message_of(unread).contains("a clock that panics"), "the step was its own too");
    broken_clock.store(false, Ordering::SeqCst);
    goes_on();
}
