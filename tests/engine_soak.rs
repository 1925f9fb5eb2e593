//! Clients of all kinds in random order, with every way of reuse and every budget: each text is the one that it is alone, and
//! nothing is left behind.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bitnetc::engine::{CacheUse, EngineOptions, Event, Handle, Metrics, Salt, Scheduler, SeatIndex, Stop};
use bitnetc::{GenerateOptions, Model, Request, SamplingParams};
use common::{random_tokens, tokens_by_hand};
use proptest::prelude::*;
use stand_in::{OF_TWO_CORES, Seen, StandIn, alone, exactly, prompt, request, scheduler};

/// Everything that a text is made of.
type Of = (u64, usize, u64);

/// A prompt that may begin as others do.
fn prompt_of(seed: u64, length: usize) -> Vec<u32> {
    let system = prompt(seed % 3, 90);
    let shared = [0, 20, 70, 90][(seed / 3 % 4) as usize].min(length);
    [&system[..shared], &prompt(seed, length - shared)].concat()
}

#[derive(Clone, Debug)]
enum Act {
    Submit { of: Of, cache: CacheUse, stream: bool, scored: bool },
    Cancel(usize),
    Drop(usize),
    Read(usize),
    Step,
}

fn cache() -> impl Strategy<Value = CacheUse> {
    let salt = prop_oneof![Just(None), (0..2u32).prop_map(|n| Some(Salt::of(&n.to_string())))];
    (prop::bool::weighted(0.8), salt, prop::option::weighted(0.2, (0..4u32).prop_map(SeatIndex)))
        .prop_map(|(read, salt, seat)| CacheUse { read, salt, seat })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => ((0..60u64, 1..150usize, 0..12u64), cache(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(of, cache, stream, scored)| Act::Submit { of, cache, stream, scored }),
        1 => any::<usize>().prop_map(Act::Cancel),
        1 => any::<usize>().prop_map(Act::Drop),
        3 => any::<usize>().prop_map(Act::Read),
        4 => Just(Act::Step),
    ]
}

struct Client {
    handle: Handle,
    text: String,
    of: Of,
    cancelled: bool,
    scored: bool,
}

impl Client {
    /// Reads one event; whether it was the last.
    fn read(&mut self, known: &mut HashMap<Of, String>) -> bool {
        match self.handle.try_recv() {
            None | Some(Event::Progress(_) | Event::Scored(_)) => false,
            Some(Event::Token(token)) => {
                self.text.push_str(&token.text);
                false
            }
            Some(Event::Failed(error)) => panic!("{error}"),
            Some(Event::Done(end)) => {
                let (seed, length, limit) = self.of;
                let expected =
                    known.entry(self.of).or_insert_with(|| alone(&prompt_of(seed, length), seed, limit).text);
                match end.finish {
                    Stop::Interrupted => assert!(self.cancelled && expected.starts_with(&end.text)),
                    _ => {
                        assert_eq!(&end.text, expected);
                        assert_eq!(end.prompt_logprobs.len(), if self.scored { length - 1 } else { 0 });
                    }
                }
                true
            }
        }
    }
}

/// Nothing is under way, by all that is counted.
fn assert_at_rest(metrics: &Metrics, scheduler: &Scheduler<StandIn>, cache_ram: u64) {
    assert_eq!((metrics.running.get(), metrics.waiting.get()), (0, 0));
    assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.unread()), (0, 0, 0));
    assert!(metrics.stored_bytes.get() <= cache_ram);
    assert!(scheduler.slots().iter().all(|slot| !slot.is_processing()));
    let held: u64 = scheduler.slots().iter().map(|slot| u64::from(slot.tokens)).sum();
    assert_eq!((metrics.kv_tokens.get(), held), (0, scheduler.tokens() as u64));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn texts_are_the_same_whatever_happens_around_them(
        acts in proptest::collection::vec(act(), 4_000),
        sequences in 1..5u32, events in 1..4u32, rows in proptest::option::of(1..200u32),
        max_step in proptest::option::of(0..600u64), chunk in 1..150u32,
        cache_ram in prop_oneof![Just(0u64), 600..4000u64, Just(1u64 << 20)],
    ) {
        let seen = Arc::<Seen>::default();
        let options = EngineOptions {
            events,
            max_prompt_rows: rows,
            max_step: max_step.map(Duration::from_millis),
            cache_ram,
            ..EngineOptions::of(256, 1, sequences)
        };
        let stand_in = StandIn { chunk, price: OF_TWO_CORES, ..StandIn::new(256, &seen) };
        let mut scheduler = scheduler(stand_in, options);
        let metrics = Arc::clone(scheduler.metrics());
        let mut known = HashMap::new();
        let mut clients: Vec<Client> = Vec::new();
        let mut submitted = 0;
        for act in acts {
            match act {
                Act::Submit { of, cache, stream, scored } => {
                    let (seed, length, limit) = of;
                    let mut request = request(&prompt_of(seed, length), seed, limit);
                    (request.cache, request.stream) = (cache, stream);
                    request.prompt_logprobs = scored.then_some(2);
                    submitted += 1;
                    let handle = scheduler.submit(request);
                    clients.push(Client { handle, text: String::new(), of, cancelled: false, scored });
                }
                Act::Cancel(which) if !clients.is_empty() => {
                    let at = which % clients.len();
                    clients[at].cancelled = true;
                    clients[at].handle.cancel();
                }
                Act::Drop(which) if !clients.is_empty() => drop(clients.swap_remove(which % clients.len())),
                Act::Read(which) if !clients.is_empty() => {
                    let at = which % clients.len();
                    if clients[at].read(&mut known) {
                        clients.swap_remove(at);
                    }
                }
                Act::Step => {
                    scheduler.step();
                    prop_assert!(metrics.stored_bytes.get() <= cache_ram);
                }
                Act::Cancel(_) | Act::Drop(_) | Act::Read(_) => {}
            }
        }
        let mut steps = 0;
        while !clients.is_empty() {
            scheduler.step();
            clients.retain_mut(|client| !client.read(&mut known));
            steps += 1;
            prop_assert!(steps < 200_000, "{} clients wait for ever", clients.len());
        }
        prop_assert!(scheduler.step().is_idle());
        assert_at_rest(&metrics, &scheduler, cache_ram);
        prop_assert_eq!(metrics.finished.total(), submitted);
        prop_assert_eq!(metrics.finished.failed.get(), 0);
        prop_assert_eq!(seen.sequences.load(Ordering::SeqCst), sequences as usize);
        drop(scheduler);
        prop_assert_eq!(seen.sequences.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_thousand_cancellations_leak_nothing() {
    let seen = Arc::<Seen>::default();
    let options = EngineOptions { cache_ram: 10_000, ..EngineOptions::of(512, 1, 4) };
    let mut scheduler = scheduler(StandIn::new(512, &seen), options);
    let metrics = Arc::clone(scheduler.metrics());
    let mut random = bitnetc_ir::random::SplitMix::new(6);
    let mut handles: Vec<Handle> = Vec::new();
    let (mut cancelled, mut n) = (0, 0);
    while cancelled < 1000 {
        n += 1;
        handles
            .push(scheduler.submit(exactly(&prompt_of(n, 1 + random.below(150)), n, None).without_tokens()));
        for _ in 0..random.below(3) {
            scheduler.step();
        }
        while handles.len() > random.below(12) {
            let handle = handles.swap_remove(random.below(handles.len()));
            if random.below(2) == 0 {
                handle.cancel();
            }
            drop(handle);
            cancelled += 1;
            scheduler.step();
            // Free again before that step, and perhaps given to the next one.
            assert!(scheduler.running() <= handles.len());
        }
    }
    drop(handles);
    scheduler.step();
    assert_at_rest(&metrics, &scheduler, 10_000);
    assert_eq!((metrics.finished.cancelled.get(), metrics.finished.total()), (n, n));
    assert_eq!(seen.sequences.load(Ordering::SeqCst), 4);
}

#[test]
fn texts_of_a_model_are_the_same_whatever_is_reused() {
    let model = Model::builtin().unwrap();
    let vocab = model.loaded().model.vocab();
    let system = random_tokens(7, 80, vocab);
    let prompt = |of: u64| [&system[..], &random_tokens(of, 10 + of as usize % 30, vocab)].concat();
    let params = |seed| SamplingParams { seed, ..SamplingParams::default() };
    let limit = GenerateOptions { limit: Some(8), ignore_end: true, ..GenerateOptions::default() };
    let by_hand: Vec<_> =
        (0..10).map(|of| tokens_by_hand(model.loaded(), &prompt(of), params(of), 8, true)).collect();
    for (max_step, rows, cache_ram) in [
        (None, Some(1), 0),
        (Some(Duration::ZERO), None, 1 << 20),
        (Some(Duration::from_millis(20)), None, 100_000),
    ] {
        let options =
            EngineOptions { max_step, max_prompt_rows: rows, cache_ram, ..EngineOptions::of(256, 2, 2) };
        let engine = model.engine(options).unwrap();
        let mut reused = 0;
        for round in 0..2u64 {
            let handles: Vec<_> = (0..10)
                .map(|of| {
                    let mut request = Request::new(prompt(of), params(of), limit.clone()).unwrap();
                    request.cache.read = of % 5 != 4;
                    request.cache.salt = (of % 3 == 0).then(|| Salt::of("s"));
                    let handle = engine.submit(request);
                    if (of + round) % 4 == 3 {
                        drop(
                            engine.submit(Request::new(prompt(of + 50), params(of), limit.clone()).unwrap()),
                        );
                    }
                    handle
                })
                .collect();
            for (handle, expected) in handles.into_iter().zip(&by_hand) {
                let end = handle.complete().unwrap();
                assert_eq!(&end.tokens, expected);
                reused += end.reused_tokens;
            }
        }
        assert!(reused >= 10 * 80, "{reused}");
        let metrics = engine.metrics();
        assert!(metrics.stored_bytes.get() <= cache_ram);
        assert!(metrics.finished.limit.get() >= 20);
    }
}
