//! Sequences that texts share: beginnings that are copied from one to another, and texts that give up theirs because nobody
//! reads them. Over a stand-in for a model; `tests/prefixes.rs` compares the bits of models.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::sync::Arc;

use bitnetc::Error;
use bitnetc::engine::{
    Completion, EngineError, EngineOptions, Event, GenerateOptions, Handle, Request, Scheduler, Stop,
};
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::SamplingParams;
use proptest::prelude::*;
use stand_in::{Seen, StandIn, alone, exactly, exactly_alone, last_event, plain, prompt, request, scheduler};

/// A scheduler whose channels hold this number of events.
fn with_events(sequences: u32, events: u32) -> Scheduler<StandIn> {
    let options = EngineOptions { events, ..EngineOptions::of(512, 1, sequences) };
    scheduler(StandIn::new(512, &Arc::<Seen>::default()), options)
}

/// Steps until a request of this client's text is blocked, and nothing else is to be done.
fn until_idle(scheduler: &mut Scheduler<StandIn>) {
    while !scheduler.step().is_idle() {}
}

/// The whole text of a client that reads at last.
fn read_out(scheduler: &mut Scheduler<StandIn>, mut handle: Handle) -> String {
    let mut text = String::new();
    loop {
        match last_event(&mut handle, &mut text) {
            Some(Event::Done(end)) => {
                assert_eq!(text + &end.tail, end.text);
                return end.text;
            }
            Some(event) => panic!("{event:?}"),
            None => {
                scheduler.step();
            }
        }
    }
}

#[test]
fn conversations_with_one_system_message_leave_each_other_alone() {
    let (mut scheduler, _) = plain(4096, 3);
    let system = prompt(500, 200);
    let mut talks = [system.clone(), system.clone()];
    for turn in 0..6 {
        for (who, talk) in talks.iter_mut().enumerate() {
            let computed_before = talk.len();
            talk.extend(prompt(turn * 10 + who as u64, 60));
            let handle = scheduler.submit(exactly(talk, turn, Some(20)));
            let end = scheduler.follow(handle, || true, |_| true).unwrap();
            // The last token of an answer is made, and not fed.
            let expected = match (turn, who) {
                (0, 0) => 0,
                (0, _) => system.len(),
                _ => computed_before - 1,
            };
            assert_eq!(end.reused_tokens, expected, "turn {turn} of {who}");
            assert_eq!(end.text, exactly_alone(talk, turn, 20).text);
            talk.extend(&end.tokens);
        }
    }
}

#[test]
fn a_prefix_is_copied_from_a_text_that_is_being_made() {
    let (mut scheduler, seen) = plain(1024, 2);
    let system = prompt(9, 100);
    let ask = |question| [&system[..], &prompt(question, 10)].concat();
    let first = scheduler.submit(exactly(&ask(1), 1, Some(30)));
    for _ in 0..5 {
        scheduler.step();
    }
    seen.log.lock().unwrap().clear();
    let second = scheduler.submit(exactly(&ask(2), 2, Some(30)));
    scheduler.step();
    assert_eq!(*seen.log.lock().unwrap(), [(11, 2)], "the row of the one, the rest of the other's prompt");
    let [first, second] = [first, second].map(|handle| scheduler.follow(handle, || true, |_| true).unwrap());
    assert_eq!((first.reused_tokens, second.reused_tokens), (0, 100));
    assert_eq!(first.text, exactly_alone(&ask(1), 1, 30).text);
    assert_eq!(second.text, exactly_alone(&ask(2), 2, 30).text);
}

#[test]
fn a_text_that_nobody_reads_gives_up_its_sequence() {
    let mut scheduler = with_events(1, 4);
    let lazy = scheduler.submit(exactly(&prompt(1, 30), 1, Some(60)));
    until_idle(&mut scheduler);
    assert_eq!((scheduler.running(), scheduler.stats().parked), (1, 0), "nobody else wants it");
    let other = scheduler.submit(exactly(&prompt(2, 30), 2, Some(40)));
    let end = scheduler.follow(other, || true, |_| true).unwrap();
    assert_eq!(end.text, exactly_alone(&prompt(2, 30), 2, 40).text);
    assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.stats().parked), (0, 1, 1));
    assert_eq!(read_out(&mut scheduler, lazy), exactly_alone(&prompt(1, 30), 1, 60).text);
    // One that is cancelled or dropped without a sequence has what there was.
    for drops in [false, true] {
        let mut lazy = scheduler.submit(exactly(&prompt(1, 30), 1, Some(60)));
        until_idle(&mut scheduler);
        let other = scheduler.submit(request(&prompt(2, 30), 2, 9));
        scheduler.follow(other, || true, |_| true).unwrap();
        if drops {
            drop(lazy);
            scheduler.step();
        } else {
            lazy.cancel();
            let mut text = String::new();
            let end = loop {
                scheduler.step();
                if let Some(Event::Done(end)) = last_event(&mut lazy, &mut text) {
                    break end;
                }
            };
            assert_eq!((end.finish, end.tokens.len()), (Stop::Interrupted, 5));
        }
        assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.unread()), (0, 0, 0));
    }
}

#[test]
fn a_slow_reader_is_not_parked_for_every_token() {
    let mut scheduler = with_events(1, 16);
    let mut slow = scheduler.submit(exactly(&prompt(1, 30), 1, Some(200)));
    until_idle(&mut scheduler);
    // There is always somebody who waits.
    let mut others: Vec<Handle> = Vec::new();
    let mut read = 0;
    for seed in 2.. {
        if others.len() < 2 {
            others.push(scheduler.submit(request(&prompt(seed, 10), seed, 10)));
        }
        for _ in 0..20 {
            scheduler.step();
        }
        others.retain_mut(|handle| last_event(handle, &mut String::new()).is_none());
        match slow.try_recv() {
            Some(Event::Done(end)) => {
                assert_eq!(end.text, exactly_alone(&prompt(1, 30), 1, 200).text);
                break;
            }
            Some(_) => read += 1,
            None => {}
        }
        assert!(seed < 5_000, "{read} read");
    }
    let parked = scheduler.stats().parked;
    assert!((2..=200 / 8 + 1).contains(&parked), "parked {parked} times");
}

#[test]
fn a_text_that_nobody_reads_stops_no_one_who_steps() {
    let mut scheduler = with_events(1, 4);
    let lazy = scheduler.submit(exactly(&prompt(1, 5), 1, Some(50)));
    let followed = scheduler.submit(exactly(&prompt(2, 5), 2, Some(50)));
    let end = scheduler.follow(followed, || true, |_| true).unwrap();
    assert_eq!(end.text, exactly_alone(&prompt(2, 5), 2, 50).text);
    let mut stepped = scheduler.submit(exactly(&prompt(3, 5), 3, Some(50)));
    let events = std::iter::from_fn(|| scheduler.next_event(&mut stepped)).count();
    assert_eq!(events, 51);
    let all = (4..7).map(|seed| (seed, exactly(&prompt(seed, 5), seed, Some(50))));
    let mut done = 0;
    let result = scheduler.complete_all(
        all,
        || true,
        |seed, result| {
            assert_eq!(result?.text, exactly_alone(&prompt(seed, 5), seed, 50).text);
            done += 1;
            Ok::<(), Error>(())
        },
    );
    result.unwrap();
    assert_eq!(done, 3);
    assert_eq!(read_out(&mut scheduler, lazy), exactly_alone(&prompt(1, 5), 1, 50).text);
}

#[test]
fn whoever_would_wait_for_ever_is_told() {
    let mut scheduler = with_events(1, 4);
    let mut of_another = with_events(1, 4).submit(request(&[1], 1, 5));
    let of_a_living_one = {
        let mut other = with_events(1, 4);
        let handles = [other.submit(request(&[1], 1, 5)), other.submit(request(&[2], 1, 5))];
        (other, handles)
    };
    assert!(matches!(
        scheduler.next_event(&mut of_another),
        Some(Event::Failed(Error::Engine(EngineError::Stopped)))
    ));
    let (mut other, [mut first, second]) = of_a_living_one;
    let event = scheduler.next_event(&mut first);
    assert!(matches!(event, Some(Event::Failed(Error::Engine(EngineError::Elsewhere)))), "{event:?}");
    assert!(first.is_ended() && scheduler.next_event(&mut first).is_none());
    let error = scheduler.follow(second, || true, |_| true).unwrap_err();
    assert!(matches!(error, Error::Engine(EngineError::Elsewhere)), "{error}");
    until_idle(&mut other);
    assert_eq!((other.running(), other.waiting()), (0, 0), "what is given up is cancelled");
    // Waiting on the thread that would have to step.
    let mut handle = other.submit(exactly(&[1], 1, Some(5)));
    other.step();
    assert!(matches!(handle.recv(), Some(Event::Token(_))), "what is there is given");
    let event = handle.next();
    assert!(matches!(event, Some(Event::Failed(Error::Engine(EngineError::NotStepped)))), "{event:?}");
    assert!(handle.recv().is_none() && handle.is_ended());
    other.step();
    assert_eq!(other.running(), 0);
    let error = other.submit(request(&[1], 1, 5)).complete().unwrap_err();
    assert!(matches!(error, Error::Engine(EngineError::NotStepped)), "{error}");
}

#[test]
fn requests_are_not_asked_for_after_the_last_one() {
    let (mut scheduler, _) = plain(64, 2);
    let mut asked = 0;
    // Ends, and then begins again, as an iterator that is not fused may.
    let requests = std::iter::from_fn(|| {
        asked += 1;
        (asked % 4 != 0).then(|| (asked, request(&prompt(asked, 5), asked, 3)))
    });
    let mut done = 0;
    let result = scheduler.complete_all(
        requests,
        || true,
        |_, _| {
            done += 1;
            Ok::<(), Error>(())
        },
    );
    result.unwrap();
    assert_eq!((done, asked), (3, 4));
}

#[test]
fn whoever_wants_no_more_is_given_no_more() {
    // A stop string that never comes holds back the end, which is the tail of a text that ends by an end token.
    let texts = (0..).map(|seed| (seed, alone(&prompt(6, 8), seed, 200)));
    let ended = |end: &Completion| matches!(end.finish, Stop::EndToken(_)) && end.tokens.len() > 12;
    let (seed, whole) = texts.into_iter().find(|(_, end)| ended(end)).unwrap();
    let ask = || {
        let stop = vec![format!("{}!", &whole.text[6..])];
        let params = SamplingParams { seed, repeat_penalty: 1.1, ..SamplingParams::default() };
        let options = GenerateOptions { limit: Some(200), stop: stop.into(), ..GenerateOptions::default() };
        Request::new(prompt(6, 8), params, options).unwrap()
    };
    for most in 1..12 {
        let (mut scheduler, _) = plain(256, 1);
        let handle = scheduler.submit(ask());
        let mut calls = 0;
        let end = scheduler.follow(
            handle,
            || true,
            |_| {
                calls += 1;
                calls < most
            },
        );
        let end = end.unwrap();
        assert_eq!((calls, end.finish), (most, Stop::Interrupted));
    }
    // The tail is one piece more than there are tokens, and whoever refuses it has been asked.
    let all = whole.tokens.len() + 1;
    let (mut scheduler, _) = plain(256, 1);
    let handle = scheduler.submit(ask());
    let mut pieces = Vec::new();
    let end = scheduler.follow(
        handle,
        || true,
        |piece| {
            pieces.push(piece.to_owned());
            pieces.len() < all
        },
    );
    let end = end.unwrap();
    assert_eq!((pieces.len(), &pieces.concat(), end.finish), (all, &whole.text, Stop::Interrupted));
    assert!(!end.tail.is_empty());
}

#[test]
fn numbers_that_no_memory_has_are_refused() {
    let model = bitnetc::Model::builtin().unwrap();
    let options = EngineOptions::of(64, 1, u32::MAX);
    let error = model.scheduler(options).unwrap_err();
    assert!(matches!(error, Error::Session(SessionError::Memory { .. })), "{error}");
    // A channel of this number of events would be gigabytes for each request.
    let mut scheduler = with_events(1, u32::MAX);
    let handle = scheduler.submit(request(&[1], 1, 3));
    scheduler.follow(handle, || true, |_| true).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Clients that read end in the time that their rows take, whatever the others do; and those who read late have the
    /// same texts.
    #[test]
    fn nobody_waits_for_those_who_do_not_read(
        clients in proptest::collection::vec((0..50u64, 1..60usize, 1..40u64, any::<bool>()), 1..14),
        sequences in 1..4u32, events in 1..6u32,
    ) {
        let mut scheduler = with_events(sequences, events);
        let mut eager = Vec::new();
        let mut lazy = Vec::new();
        let mut rows = 0;
        for (seed, length, limit, reads) in clients {
            let handle = scheduler.submit(exactly(&prompt(seed, length), seed, Some(limit)));
            let list = if reads { &mut eager } else { &mut lazy };
            list.push((handle, (seed, length, limit)));
            rows += length as u64 + limit;
        }
        // A text that is parked is read again at most once before nobody who reads is left.
        let mut steps = 0;
        while !eager.is_empty() {
            scheduler.step();
            steps += 1;
            prop_assert!(steps <= 3 * rows, "{} of those who read are left", eager.len());
            eager.retain_mut(|(handle, of)| match last_event(handle, &mut String::new()) {
                Some(Event::Done(end)) => {
                    assert_eq!(end.text, exactly_alone(&prompt(of.0, of.1), of.0, of.2).text);
                    false
                }
                Some(event) => panic!("{event:?}"),
                None => true,
            });
        }
        until_idle(&mut scheduler);
        for (handle, (seed, length, limit)) in lazy {
            let text = read_out(&mut scheduler, handle);
            prop_assert_eq!(text, exactly_alone(&prompt(seed, length), seed, limit).text);
        }
        prop_assert!(scheduler.step().is_idle());
        prop_assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.unread()), (0, 0, 0));
    }
}
