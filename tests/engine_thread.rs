//! The engine's thread: it sleeps when there is nothing to do, wakes when there is, and ends with its last handle.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bitnetc::Error;
use bitnetc::engine::{Engine, EngineError, EngineOptions, Event, GenerateOptions, Request, Stop};
use bitnetc_runtime::sampling::SamplingParams;
use stand_in::{Seen, StandIn, alone, prompt, request, scheduler};

fn engine(events: u32, sequences: u32) -> (Engine, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let options = EngineOptions { events, ..EngineOptions::of(1 << 20, 1, sequences) };
    (Engine::start(scheduler(StandIn::new(1 << 20, &seen), options)).unwrap(), seen)
}

/// A text without an end.
fn endless(seed: u64) -> Request {
    let params = SamplingParams { seed, ..SamplingParams::default() };
    let options = GenerateOptions { ignore_end: true, ..GenerateOptions::default() };
    Request::new(prompt(seed, 4), params, options).unwrap()
}

/// Waits until `done` says yes.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let clock = Instant::now();
    while !done() {
        assert!(clock.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the engine computes nothing any more.
fn is_asleep(seen: &Seen) -> bool {
    let steps = seen.steps.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(20));
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
    assert!(is_asleep(&seen));
    drop(engine);
    assert_eq!(seen.sequences.load(Ordering::SeqCst), 0, "the thread and its sequences are gone");
}

#[test]
fn a_client_that_does_not_read_stops_the_thread_and_a_read_wakes_it() {
    let (engine, seen) = engine(4, 2);
    let mut lazy = engine.submit(endless(1));
    wait_for("the channel fills", || is_asleep(&seen));
    let paused = seen.steps.load(Ordering::SeqCst);
    // Others go on beside it.
    let other = engine.submit(request(&prompt(2, 5), 2, 30)).complete().unwrap();
    assert_eq!(other.text, alone(&prompt(2, 5), 2, 30).text);
    assert!(seen.steps.load(Ordering::SeqCst) > paused);
    wait_for("the others have ended", || is_asleep(&seen));
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
    wait_for("nothing is left to do", || is_asleep(&seen));
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
    let last = |handle: &mut bitnetc::Handle| {
        let events: Vec<_> = handle.by_ref().collect();
        assert!(handle.is_ended() && handle.try_recv().is_none());
        matches!(events.last(), Some(Event::Failed(Error::Engine(EngineError::Stopped))))
    };
    assert!(last(&mut running) && last(&mut waiting));
}

#[test]
fn a_handle_can_wait_for_a_while() {
    let (engine, _) = engine(4, 1);
    let first = engine.submit(endless(1));
    let mut second = engine.submit(request(&prompt(2, 5), 2, 3));
    assert!(second.recv_timeout(Duration::from_millis(5)).is_none() && !second.is_ended());
    drop(first);
    assert!(second.recv_timeout(Duration::from_secs(60)).is_some());
}
