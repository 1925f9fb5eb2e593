//! Steps that take a bounded time: nobody who decodes waits for somebody's long prompt, and the prompt does not wait for them.
//! Over a stand-in whose steps take the time that they take on a machine, by a made-up clock.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bitnetc::constraint::{Constraint, ConstraintError};
use bitnetc::engine::{EngineOptions, Event, Handle, Latency, Scheduler};
use bitnetc::runtime::sampling::TokenMask;
use stand_in::{OF_TWO_CORES, Price, Seen, StandIn, exactly, exactly_alone, last_event, prompt, scheduler};

const MAX_STEP: Duration = Duration::from_millis(250);

fn timed(price: Price, sequences: u32, max_step: Option<Duration>) -> (Scheduler<StandIn>, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let stand_in = StandIn { price, ..StandIn::new(16_384, &seen) };
    let options = EngineOptions { max_step, ..EngineOptions::of(16_384, 1, sequences) };
    (scheduler(stand_in, options), seen)
}

fn now(seen: &Seen) -> Duration {
    Duration::from_micros(seen.time.load(Ordering::SeqCst))
}

/// Steps until the request has ended.
fn until_ended(scheduler: &mut Scheduler<StandIn>, handle: &mut Handle) -> String {
    let mut text = String::new();
    loop {
        if let Some(Event::Done(end)) = last_event(handle, &mut text) {
            return end.text;
        }
        scheduler.step();
    }
}

/// The time that a prompt takes where nobody else is.
fn alone(price: Price, tokens: usize) -> Duration {
    let (mut scheduler, seen) = timed(price, 1, Some(MAX_STEP));
    let _handle = scheduler.submit(exactly(&prompt(99, tokens), 99, Some(5)));
    while scheduler.step().decode_rows == 0 {}
    now(&seen)
}

/// What a long prompt does to eight texts, and they to it.
struct Outcome {
    gaps: Latency,
    prompt: Duration,
}

fn eight_and_a_long_prompt(price: Price, tokens: usize) -> Outcome {
    let (mut scheduler, seen) = timed(price, 9, Some(MAX_STEP));
    let mut handles: Vec<_> = (0..8)
        .map(|seed| scheduler.submit(exactly(&prompt(seed, 40), seed, Some(400)).without_tokens()))
        .collect();
    while scheduler.step().prompt_rows > 0 {}
    for _ in 0..20 {
        scheduler.step();
    }
    let begun = now(&seen);
    let mut long = scheduler.submit(exactly(&prompt(99, tokens), 99, Some(5)));
    let mut gaps = Vec::new();
    loop {
        let before = now(&seen);
        let step = scheduler.step();
        if step.prompt_rows == 0 {
            assert_eq!(step.decode_rows, 9);
            break;
        }
        assert_eq!(step.decode_rows, 8, "those who decode all get their row");
        gaps.push(now(&seen) - before);
    }
    let prompt_time = now(&seen) - begun;
    assert_eq!(until_ended(&mut scheduler, &mut long), exactly_alone(&prompt(99, tokens), 99, 5).text);
    for (seed, handle) in (0..).zip(&mut handles) {
        let text = until_ended(&mut scheduler, handle);
        assert_eq!(text, exactly_alone(&prompt(seed, 40), seed, 400).text);
    }
    Outcome { gaps: Latency::of(&gaps).unwrap(), prompt: prompt_time }
}

#[test]
fn a_long_prompt_and_eight_texts_share_the_time() {
    let Outcome { gaps, prompt } = eight_and_a_long_prompt(OF_TWO_CORES, 4096);
    assert!(gaps.p99 <= MAX_STEP * 3 / 2 && gaps.max <= MAX_STEP * 2, "{gaps:?}");
    assert!(gaps.p50 >= MAX_STEP * 4 / 5, "the time that there is gets used: {gaps:?}");
    let alone = alone(OF_TWO_CORES, 4096);
    assert!(prompt <= alone * 13 / 10, "{prompt:?} and {alone:?} alone");
}

#[test]
fn keys_far_back_cost_rows_and_not_time() {
    // Attention is most of the time here.
    let price = Price { key: 2_000, row: 1_000_000, ..OF_TWO_CORES };
    let Outcome { gaps, .. } = eight_and_a_long_prompt(price, 8000);
    assert!(gaps.p99 <= MAX_STEP * 3 / 2 && gaps.max <= MAX_STEP * 2, "{gaps:?}");
}

#[test]
fn a_fast_machine_makes_short_steps() {
    let price = Price { pass: 300_000, row: 20_000, logits: 10_000, key: 1, noise: 10 };
    let Outcome { gaps, prompt } = eight_and_a_long_prompt(price, 4096);
    // A chunk and no more: longer steps would bring the prompt little.
    assert!(gaps.max <= Duration::from_millis(5), "{gaps:?}");
    let alone = alone(price, 4096);
    assert!(prompt <= alone * 13 / 10, "{prompt:?} and {alone:?} alone");
}

#[test]
fn a_machine_that_is_too_slow_moves_prompts_by_a_row() {
    let price = Price { pass: 400_000_000, ..OF_TWO_CORES };
    let (mut scheduler, _) = timed(price, 2, Some(MAX_STEP));
    let mut first = scheduler.submit(exactly(&prompt(1, 10), 1, Some(100)).without_tokens());
    while scheduler.step().prompt_rows > 0 {}
    let mut second = scheduler.submit(exactly(&prompt(2, 30), 2, Some(3)));
    let mut rows = 0;
    while rows < 30 {
        let step = scheduler.step();
        assert!(step.decode_rows == 1 && step.prompt_rows >= 1, "{step:?}");
        rows += step.prompt_rows;
    }
    assert_eq!(until_ended(&mut scheduler, &mut second), exactly_alone(&prompt(2, 30), 2, 3).text);
    assert_eq!(until_ended(&mut scheduler, &mut first), exactly_alone(&prompt(1, 10), 1, 100).text);
}

#[test]
fn a_short_prompt_passes_a_long_one() {
    let (mut scheduler, _) = timed(OF_TWO_CORES, 10, Some(MAX_STEP));
    let _eight: Vec<_> = (0..8)
        .map(|seed| scheduler.submit(exactly(&prompt(seed, 40), seed, None).without_tokens()))
        .collect();
    while scheduler.step().prompt_rows > 0 {}
    let _long = scheduler.submit(exactly(&prompt(99, 4096), 99, Some(5)));
    for _ in 0..10 {
        scheduler.step();
    }
    let mut short = scheduler.submit(exactly(&prompt(50, 100), 50, Some(5)));
    let mut steps = 0;
    while short.try_recv().is_none() {
        scheduler.step();
        steps += 1;
    }
    assert!(steps <= 5, "{steps} steps to the first token");
}

/// Allows everything, and takes its time.
#[derive(Debug)]
struct SlowMask {
    seen: Arc<Seen>,
    time: Duration,
}

impl Constraint for SlowMask {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        self.seen.time.fetch_add(self.time.as_micros() as u64, Ordering::SeqCst);
        (0..stand_in::VOCAB).for_each(|id| mask.allow(id));
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn is_complete(&self) -> bool {
        false
    }

    fn duplicate(&self) -> Box<dyn Constraint> {
        Box::new(Self { seen: Arc::clone(&self.seen), time: self.time })
    }
}

#[test]
fn masks_that_take_long_do_not_make_the_others_wait() {
    let (mut scheduler, seen) = timed(OF_TWO_CORES, 9, Some(MAX_STEP));
    let slow = |seed| {
        let mask = SlowMask { seen: Arc::clone(&seen), time: Duration::from_millis(100) };
        exactly(&prompt(seed, 20), seed, Some(12)).with_constraint(Box::new(mask)).without_tokens()
    };
    let mut slow: Vec<_> = (0..8).map(|seed| scheduler.submit(slow(seed))).collect();
    while scheduler.step().prompt_rows > 0 {}
    let mut quick = scheduler.submit(exactly(&prompt(9, 20), 9, Some(60)).without_tokens());
    while scheduler.step().prompt_rows > 0 {}
    let mut gaps = Vec::new();
    for _ in 0..50 {
        let before = now(&seen);
        scheduler.step();
        gaps.push(now(&seen) - before);
    }
    // One mask in a step, where eight of them take 0.8 s; and none in many, to make up for those that take longer than their share.
    let gaps = Latency::of(&gaps).unwrap();
    assert!(gaps.max <= MAX_STEP, "{gaps:?}");
    assert_eq!(until_ended(&mut scheduler, &mut quick), exactly_alone(&prompt(9, 20), 9, 60).text);
    // All of them get to their end, with nobody else there too, and the texts are the same.
    for (seed, handle) in (0..).zip(&mut slow) {
        assert_eq!(until_ended(&mut scheduler, handle), exactly_alone(&prompt(seed, 20), seed, 12).text);
    }
}

#[test]
fn what_is_counted_adds_up() {
    let (mut scheduler, seen) = timed(OF_TWO_CORES, 2, Some(MAX_STEP));
    let metrics = Arc::clone(scheduler.metrics());
    let handles: Vec<_> =
        (0..3).map(|seed| scheduler.submit(exactly(&prompt(seed, 50), seed, Some(20)))).collect();
    let dropped = scheduler.submit(exactly(&prompt(9, 50), 9, Some(20)));
    let refused = scheduler.submit(exactly(&[], 9, Some(20)));
    scheduler.step();
    assert_eq!((metrics.running.get(), metrics.waiting.get(), metrics.refused.get()), (2, 2, 1));
    assert!(metrics.kv_tokens.get() > 0);
    drop((dropped, refused));
    for mut handle in handles {
        until_ended(&mut scheduler, &mut handle);
    }
    assert_eq!((metrics.running.get(), metrics.waiting.get(), metrics.kv_tokens.get()), (0, 0, 0));
    assert!(scheduler.tokens() > 0, "what has ended stays for the prompts to come");
    let finished = &metrics.finished;
    assert_eq!((finished.limit.get(), finished.cancelled.get(), finished.total()), (3, 1, 4));
    assert_eq!((metrics.prompt_tokens.get(), metrics.generation_tokens.get()), (150, 60));
    assert_eq!(metrics.steps.get(), seen.steps.load(Ordering::SeqCst));
    let rows = seen.rows.load(Ordering::SeqCst);
    assert_eq!((metrics.step_rows.sum(), metrics.step_rows.count()), (rows as f64, metrics.steps.get()));
    let steps = &metrics.step_seconds;
    assert_eq!(steps.decode.count() + steps.mixed.count() + steps.prefill.count(), metrics.steps.get());
    let time = steps.decode.sum() + steps.mixed.sum() + steps.prefill.sum();
    assert!((time - now(&seen).as_secs_f64()).abs() < 1e-6, "{time}");
    assert_eq!((metrics.first_token_seconds.count(), metrics.inter_token_seconds.count()), (3, 57));
    assert_eq!(metrics.queue_seconds.count(), 3);
    assert!(metrics.inter_token_seconds.sum() > 1.0 && metrics.queue_seconds.sum() > 0.5);
    assert_eq!((metrics.request_prompt_tokens.sum(), metrics.request_generation_tokens.sum()), (200.0, 60.0));
    assert_eq!((metrics.prefix_queries.get(), metrics.prefix_hits.get()), (150, 0));
    let spans = metrics.prefill_seconds.sum() + metrics.decode_seconds.sum() + metrics.queue_seconds.sum();
    assert!((spans - metrics.request_seconds.sum()).abs() < 1e-6);
}
