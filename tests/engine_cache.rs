//! What is reused of earlier prompts: prompts that are computed once for all who share them, salts that keep tenants apart, the
//! store of what sequences lost, and sequences in files. Over a stand-in for a model; `tests/prefixes.rs` compares the bits of
//! models.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bitnetc::Error;
use bitnetc::engine::{
    CacheUse, Completion, Engine, EngineOptions, Event, Handle, Request, Salt, Scheduler, SeatIndex,
    SlotError,
};
use bitnetc_runtime::prefix::PrefixFileError;
use stand_in::{POISON, Seen, StandIn, exactly, exactly_alone, last_event, plain, prompt, scheduler};

fn with_store(sequences: u32, cache_ram: u64) -> (Scheduler<StandIn>, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let options = EngineOptions { cache_ram, ..EngineOptions::of(4096, 1, sequences) };
    (scheduler(StandIn::new(4096, &seen), options), seen)
}

fn with_cache(mut request: Request, cache: CacheUse) -> Request {
    request.cache = cache;
    request
}

fn salted(request: Request, salt: &str) -> Request {
    with_cache(request, CacheUse { salt: Some(Salt::of(salt)), ..CacheUse::default() })
}

/// Steps until the request has ended.
fn end_of(scheduler: &mut Scheduler<StandIn>, mut handle: Handle) -> Completion {
    loop {
        match last_event(&mut handle, &mut String::new()) {
            Some(Event::Done(end)) => return *end,
            Some(event) => panic!("{event:?}"),
            None => {
                scheduler.step();
            }
        }
    }
}

fn run(scheduler: &mut Scheduler<StandIn>, request: Request) -> Completion {
    let handle = scheduler.submit(request);
    end_of(scheduler, handle)
}

fn ask(system: &[u32], question: u64, length: usize) -> Vec<u32> {
    [system, &prompt(1000 + question, length)].concat()
}

#[test]
fn what_prompts_share_is_computed_once() {
    // The same prompt, long or short, and one system message for several.
    for (shared, rest) in [(300, 0), (20, 0), (200, 11), (64, 3)] {
        let (mut scheduler, _) = plain(4096, 4);
        let system = prompt(7, shared);
        let prompts: Vec<_> = (0..4).map(|seed| ask(&system, seed, rest)).collect();
        let handles: Vec<_> = (0..)
            .zip(&prompts)
            .map(|(seed, prompt)| scheduler.submit(exactly(prompt, seed, Some(10))))
            .collect();
        for (seed, (handle, prompt)) in (0..).zip(handles.into_iter().zip(&prompts)) {
            let end = end_of(&mut scheduler, handle);
            assert_eq!(end.text, exactly_alone(prompt, seed, 10).text);
            let kept = if rest == 0 { shared - 1 } else { shared };
            assert_eq!(end.reused_tokens, if seed == 0 { 0 } else { kept }, "{shared} and {rest}");
        }
        let computed = shared + rest + 3 * rest.max(1);
        assert_eq!(scheduler.stats().prompt_rows, computed as u64, "{shared} and {rest}");
    }
    // A few tokens are not worth the wait.
    let (mut scheduler, seen) = plain(4096, 2);
    let system = prompt(7, 40);
    let _handles = [1, 2].map(|seed| scheduler.submit(exactly(&ask(&system, seed, 30), seed, Some(10))));
    scheduler.step();
    assert_eq!(*seen.log.lock().unwrap(), [(128, 2)]);
}

#[test]
fn nobody_waits_for_a_prompt_that_comes_to_nothing() {
    let system = prompt(7, 1000);
    // The one that computes what they share is dropped, cancelled, or fails.
    for way in 0..3 {
        let seen = Arc::<Seen>::default();
        let stand_in = StandIn { nan: true, ..StandIn::new(4096, &seen) };
        let mut scheduler = scheduler(stand_in, EngineOptions::of(4096, 1, 3));
        let first = [&system[..], &[POISON]].concat();
        let first = scheduler.submit(exactly(&first, 1, Some(10)));
        let others: Vec<_> =
            (2..6).map(|seed| scheduler.submit(exactly(&ask(&system, seed, 9), seed, Some(10)))).collect();
        // Somebody who shares nothing passes those who wait.
        let mut passing = scheduler.submit(exactly(&prompt(50, 5), 50, Some(3)));
        scheduler.step();
        scheduler.step();
        assert_eq!((scheduler.running(), scheduler.waiting()), (2, 4));
        assert!(passing.try_recv().is_some());
        match way {
            0 => drop(first),
            1 => first.cancel(),
            _ => {
                let mut first = first;
                while last_event(&mut first, &mut String::new()).is_none() {
                    scheduler.step();
                }
            }
        }
        for (seed, handle) in (2..).zip(others) {
            let end = end_of(&mut scheduler, handle);
            assert_eq!(end.text, exactly_alone(&ask(&system, seed, 9), seed, 10).text);
        }
        drop(passing);
        scheduler.step();
        assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.unread()), (0, 0, 0));
        assert!(scheduler.stats().prompt_rows < 1200, "way {way}: {:?}", scheduler.stats());
    }
}

#[test]
fn salts_keep_tenants_apart() {
    let (mut scheduler, _) = with_store(2, 1 << 20);
    let shared = prompt(1, 200);
    let reused = |scheduler: &mut Scheduler<StandIn>, request| {
        let end = run(scheduler, request);
        assert_eq!(end.text, exactly_alone(&shared, 1, 5).text);
        end.reused_tokens
    };
    let plainly = || exactly(&shared, 1, Some(5));
    assert_eq!(reused(&mut scheduler, plainly()), 0);
    assert_eq!(reused(&mut scheduler, salted(plainly(), "a")), 0);
    assert_eq!(reused(&mut scheduler, salted(plainly(), "b")), 0);
    // Each finds its own again, in a sequence or in the store.
    assert_eq!(reused(&mut scheduler, plainly()), 199);
    assert_eq!(reused(&mut scheduler, salted(plainly(), "a")), 199);
    assert_eq!(reused(&mut scheduler, salted(plainly(), "b")), 199);
    assert_eq!(reused(&mut scheduler, salted(plainly(), "c")), 0);
    // At the same time: nobody waits for another's prompt.
    let (mut scheduler, _) = plain(4096, 2);
    let handles = ["a", "b"].map(|salt| scheduler.submit(salted(plainly(), salt)));
    for handle in handles {
        assert_eq!(end_of(&mut scheduler, handle).reused_tokens, 0);
    }
    assert_eq!(scheduler.stats().prompt_rows, 400);
}

#[test]
fn reading_can_be_turned_off_and_a_seat_be_wished_for() {
    let (mut scheduler, _) = plain(4096, 3);
    let shared = prompt(1, 100);
    let unread = CacheUse { read: false, ..CacheUse::default() };
    let reused: Vec<usize> = [unread, unread, CacheUse::default(), unread]
        .into_iter()
        .map(|cache| {
            let end = run(&mut scheduler, with_cache(exactly(&shared, 1, Some(5)), cache));
            assert_eq!(end.text, exactly_alone(&shared, 1, 5).text);
            end.reused_tokens
        })
        .collect();
    assert_eq!(reused, [0, 0, 99, 0]);
    // Nor is a prompt waited for.
    let before = scheduler.stats().prompt_rows;
    let fresh = prompt(2, 150);
    let handles = [1, 2].map(|seed| scheduler.submit(with_cache(exactly(&fresh, seed, Some(5)), unread)));
    for handle in handles {
        end_of(&mut scheduler, handle);
    }
    assert_eq!(scheduler.stats().prompt_rows - before, 300);
    for seat in [2, 0, 1, 2] {
        let wish = CacheUse { seat: Some(SeatIndex(seat)), ..CacheUse::default() };
        let handle = scheduler.submit(with_cache(exactly(&prompt(9, 30), 1, Some(5)), wish));
        scheduler.step();
        let slots = scheduler.slots();
        let busy: Vec<u32> =
            slots.iter().filter(|slot| slot.is_processing()).map(|slot| slot.seat.0).collect();
        assert_eq!(busy, [seat]);
        let slot = slots[seat as usize];
        let task = slot.task.unwrap();
        assert_eq!((slot.context, slot.tokens, task.prompt_tokens, task.decoded_tokens), (4096, 30, 30, 1));
        end_of(&mut scheduler, handle);
    }
}

#[test]
fn the_store_keeps_what_sequences_lose() {
    let talks: Vec<_> = (0..5).map(|seed| prompt(seed, 300)).collect();
    let rounds = |cache_ram| {
        let (mut scheduler, seen) = with_store(1, cache_ram);
        let mut reused = Vec::new();
        for round in 0..2 {
            for (seed, talk) in (0..).zip(&talks) {
                let end = run(&mut scheduler, exactly(talk, seed, Some(10)));
                assert_eq!(end.text, exactly_alone(talk, seed, 10).text);
                let metrics = scheduler.metrics();
                assert!(metrics.stored_bytes.get() <= cache_ram, "{cache_ram}");
                if round == 1 {
                    reused.push(end.reused_tokens);
                }
            }
        }
        (reused, seen.restores.load(Ordering::SeqCst))
    };
    assert_eq!(rounds(0), (vec![0; 5], 0));
    assert_eq!(rounds(1 << 20), (vec![299; 5], 5));
    // Room for one, which is gone when it is asked for.
    assert_eq!(rounds(309 * 8), (vec![0; 5], 0));
    assert_eq!(rounds(5 * 309 * 8), (vec![299; 5], 5));
    // Room for less than one, of which the beginning is kept.
    let (mut scheduler, _) = with_store(1, 200 * 8);
    run(&mut scheduler, exactly(&talks[0], 0, Some(10)));
    run(&mut scheduler, exactly(&prompt(9, 30), 9, Some(3)));
    let end = run(&mut scheduler, exactly(&talks[0], 0, Some(10)));
    assert_eq!((end.reused_tokens, end.text), (192, exactly_alone(&talks[0], 0, 10).text));
    // A talk that goes on has one entry, and of the same talk somewhere else none is made.
    let (mut scheduler, seen) = with_store(2, 1 << 20);
    let mut talk = prompt(1, 200);
    for turn in 0..4 {
        let end = run(&mut scheduler, exactly(&talk, turn, Some(10)));
        talk.extend(&end.tokens);
        talk.extend(prompt(70 + turn, 80));
        for other in 0..2 {
            run(&mut scheduler, exactly(&prompt(500 + 2 * turn + other, 200), 1, Some(2)));
        }
    }
    let of_others = 8 - 2;
    assert_eq!(scheduler.metrics().stored_prefixes.get(), of_others + 1);
    assert!(seen.restores.load(Ordering::SeqCst) >= 3);
}

#[test]
fn the_next_turn_computes_what_is_new() {
    // Six conversations on two sequences, with a system message of a thousand tokens.
    let (mut scheduler, _) = with_store(2, 1 << 22);
    let system = prompt(7, 1000);
    let mut talks: Vec<Vec<u32>> = vec![system.clone(); 6];
    for turn in 0..4 {
        for (who, talk) in talks.iter_mut().enumerate() {
            let before = talk.len();
            talk.extend(prompt(turn * 10 + who as u64, 40));
            let end = run(&mut scheduler, exactly(talk, turn, Some(20)));
            assert_eq!(end.text, exactly_alone(talk, turn, 20).text);
            match (turn, who) {
                (0, 0) => assert_eq!(end.reused_tokens, 0),
                // At most 3 % of the message, beside what is new.
                (0, _) => assert!(end.computed_tokens() <= 40 + 30, "{who}: {}", end.computed_tokens()),
                _ => assert!(end.computed_tokens() <= talk.len() - before + 1, "turn {turn} of {who}"),
            }
            talk.extend(&end.tokens);
        }
    }
}

/// A scheduler with a text in its first sequence, and what it would go on with.
fn with_a_text(id: [u8; 32]) -> (Scheduler<StandIn>, Vec<u32>) {
    let seen = Arc::<Seen>::default();
    let mut scheduler = scheduler(StandIn { id, ..StandIn::new(512, &seen) }, EngineOptions::of(512, 1, 2));
    let mut talk = prompt(3, 100);
    let end = run(&mut scheduler, salted(exactly(&talk, 3, Some(10)), "mine"));
    talk.extend(&end.tokens);
    (scheduler, talk)
}

fn reused(scheduler: &mut Scheduler<StandIn>, talk: &[u32], salt: &str) -> usize {
    let longer = [talk, &[4, 5]].concat();
    let end = run(scheduler, salted(exactly(&longer, 3, Some(3)), salt));
    assert_eq!(end.text, exactly_alone(&longer, 3, 3).text);
    end.reused_tokens
}

#[test]
fn sequences_are_saved_restored_and_erased() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk");
    let (scheduler, talk) = with_a_text([1; 32]);
    let saved = scheduler.save(SeatIndex(0), &path).unwrap();
    assert_eq!(saved.tokens as usize, talk.len() - 1, "the last token is made, and not fed");
    assert_eq!(saved.bytes, std::fs::metadata(&path).unwrap().len());
    drop(scheduler);
    let (mut other, _) = with_a_text([1; 32]);
    assert_eq!(other.erase(SeatIndex(0)).unwrap() as usize, talk.len() - 1);
    assert_eq!((other.tokens(), reused(&mut other, &talk, "mine")), (0, 0));
    other.erase(SeatIndex(0)).unwrap();
    assert_eq!(other.restore(SeatIndex(1), &path).unwrap(), saved);
    assert_eq!(other.slots()[1].tokens, saved.tokens);
    // Its salt has come with it.
    assert_eq!(reused(&mut other, &talk, "yours"), 0);
    assert_eq!(reused(&mut other, &talk, "mine"), talk.len() - 1);
    // Refusals change nothing.
    let (mut foreign, _) = with_a_text([2; 32]);
    let before = foreign.tokens();
    assert!(matches!(foreign.restore(SeatIndex(0), &path), Err(SlotError::File(PrefixFileError::Foreign))));
    let missing = foreign.restore(SeatIndex(0), &folder.path().join("none"));
    assert!(matches!(missing, Err(SlotError::File(PrefixFileError::Read(_)))));
    let none = foreign.save(SeatIndex(2), &path);
    assert!(matches!(none, Err(SlotError::NoSuchSeat { seat: SeatIndex(2), count: 2 })));
    assert!(matches!(foreign.save(SeatIndex(1), &path), Err(SlotError::Empty { seat: SeatIndex(1) })));
    let wish = CacheUse { seat: Some(SeatIndex(1)), ..CacheUse::default() };
    let _busy = foreign.submit(with_cache(exactly(&prompt(1, 5), 1, None).without_tokens(), wish));
    foreign.step();
    assert!(matches!(foreign.erase(SeatIndex(1)), Err(SlotError::InUse { seat: SeatIndex(1) })));
    assert!(matches!(foreign.save(SeatIndex(1), &path), Err(SlotError::InUse { .. })));
    assert_eq!(foreign.tokens(), before + 5);
    // A folder is not replaced.
    assert!(matches!(foreign.save(SeatIndex(0), folder.path()), Err(SlotError::File(_))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_engine_saves_and_restores_while_others_decode() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("talk");
    let (scheduler, talk) = with_a_text([1; 32]);
    let engine = Engine::start(scheduler).unwrap();
    let wish = CacheUse { seat: Some(SeatIndex(1)), ..CacheUse::default() };
    let busy = engine.submit(with_cache(exactly(&prompt(1, 5), 1, Some(400)).without_tokens(), wish));
    let saved = engine.save(SeatIndex(0), path).unwrap();
    assert_eq!(engine.erase(SeatIndex(0)).unwrap(), saved.tokens);
    assert!(matches!(engine.save(SeatIndex(0), path), Err(SlotError::Empty { .. })));
    assert_eq!(engine.restore(SeatIndex(0), path).unwrap(), saved);
    let longer = [&talk[..], &[4, 5]].concat();
    let end = engine.submit(salted(exactly(&longer, 3, Some(3)), "mine")).complete().unwrap();
    assert_eq!((end.reused_tokens, end.text), (saved.tokens as usize, exactly_alone(&longer, 3, 3).text));
    assert_eq!(busy.complete().unwrap().text, exactly_alone(&prompt(1, 5), 1, 400).text);
    assert_eq!(engine.slots().len(), 2);
    while engine.slots().iter().any(|slot| slot.is_processing()) {
        std::thread::yield_now();
    }
}

#[test]
fn clients_are_notified_and_need_not_wait() {
    let (scheduler, _) = plain(512, 2);
    let engine = Engine::start(scheduler).unwrap();
    let (sender, bell) = std::sync::mpsc::channel();
    let notify: bitnetc::engine::Notify = Arc::new(move || sender.send(()).unwrap_or(()));
    // More events than the channel holds, and an end of each kind.
    for (tokens, id) in [(200, 3), (3, stand_in::VOCAB)] {
        let mut handle = engine.submit_with(exactly(&[1, 2, id], 1, Some(tokens)), Arc::clone(&notify));
        let mut events = Vec::new();
        while !handle.is_ended() {
            while let Some(event) = handle.try_recv() {
                events.push(event);
            }
            if !handle.is_ended() {
                bell.recv_timeout(std::time::Duration::from_secs(60))
                    .expect("an event without a notification");
            }
        }
        match events.last() {
            Some(Event::Done(end)) => assert_eq!((end.tokens.len(), events.len()), (200, 201)),
            Some(Event::Failed(Error::Session(_))) => assert_eq!(id, stand_in::VOCAB),
            event => panic!("{event:?}"),
        }
    }
    // The engine goes while a text is under way: its end is notified too.
    let mut handle = engine.submit_with(exactly(&[1, 2], 1, None), notify);
    bell.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    drop(engine);
    let mut ended = false;
    while !ended {
        while let Some(event) = handle.try_recv() {
            ended = matches!(event, Event::Failed(_));
        }
        if !ended {
            bell.recv_timeout(std::time::Duration::from_secs(60)).expect("an end without a notification");
        }
    }
}
