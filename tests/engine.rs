//! The scheduler, stepped by hand: who gets which rows, what ends what, and what is left behind. Over a stand-in for a model,
//! with a made-up clock; `tests/engine_model.rs` has the same over models, `tests/engine_thread.rs` the thread.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bitnetc::Error;
use bitnetc::constraint::{Constraint, ConstraintError};
use bitnetc::engine::{
    Completion, EngineError, EngineOptions, Event, GenerateOptions, Handle, Request, Scheduler, Stop,
};
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::{SampleError, SamplingParams, TokenMask};
use proptest::prelude::*;
use stand_in::{POISON, Seen, StandIn, VOCAB, alone, last_event, plain, prompt, request, scheduler};

/// Steps until all requests have ended; what each came to.
fn run_all(scheduler: &mut Scheduler<StandIn>, handles: Vec<Handle>) -> Vec<Result<Completion, Error>> {
    let mut results: Vec<_> = handles.iter().map(|_| None).collect();
    let mut handles = handles;
    while results.iter().any(Option::is_none) {
        scheduler.step();
        for (handle, result) in handles.iter_mut().zip(&mut results) {
            let mut text = String::new();
            match last_event(handle, &mut text) {
                Some(Event::Done(completion)) => *result = Some(Ok(*completion)),
                Some(Event::Failed(error)) => *result = Some(Err(error)),
                _ => {}
            }
        }
    }
    results.into_iter().flatten().collect()
}

#[test]
fn a_long_prompt_does_not_stop_those_who_decode() {
    let most = 48;
    let seen = Arc::<Seen>::default();
    let options = EngineOptions { max_prompt_rows: Some(most), ..EngineOptions::of(8192, 1, 9) };
    let mut scheduler = scheduler(StandIn::new(8192, &seen), options);
    let ignore_end = |prompt: &[u32], seed, limit| {
        let params = SamplingParams { seed, ..SamplingParams::default() };
        let options = GenerateOptions { limit: Some(limit), ignore_end: true, ..GenerateOptions::default() };
        // Nobody reads before the end.
        Request::new(prompt.to_vec(), params, options).unwrap().without_tokens()
    };
    let short: Vec<_> = (0..8).map(|seed| prompt(seed, 5)).collect();
    let mut handles: Vec<_> =
        short.iter().zip(0..).map(|(prompt, seed)| scheduler.submit(ignore_end(prompt, seed, 150))).collect();
    while scheduler.step().prompt_rows > 0 {}
    let long = prompt(99, 4000);
    handles.push(scheduler.submit(ignore_end(&long, 99, 20)));
    seen.log.lock().unwrap().clear();
    let mut steps_of_prompt = 0;
    loop {
        let step = scheduler.step();
        if step.prompt_rows == 0 {
            break;
        }
        assert_eq!(step.decode_rows, 8, "those who decode all get their row");
        assert!(step.prompt_rows <= most, "{step:?}");
        steps_of_prompt += 1;
    }
    assert_eq!(steps_of_prompt, 4000_u32.div_ceil(most));
    let results: Vec<_> = run_all(&mut scheduler, handles).into_iter().map(Result::unwrap).collect();
    for (seed, (result, prompt)) in (0..).zip(results.iter().zip(&short)) {
        let (mut scheduler, _) = plain(8192, 1);
        let handle = scheduler.submit(ignore_end(prompt, seed, 150));
        let single = scheduler.follow(handle, || true, |_| true).unwrap();
        assert_eq!((&result.text, &result.tokens), (&single.text, &single.tokens));
        assert_eq!(result.tokens.len(), 150);
        // The made-up clock: no token waited longer than the rows of a step take.
        let longest = result.timings.tokens.iter().max().unwrap();
        assert!(*longest <= Duration::from_millis(10 * (9 + u64::from(most))), "{longest:?}");
    }
    let (mut scheduler, _) = plain(8192, 1);
    let handle = scheduler.submit(ignore_end(&long, 99, 20));
    assert_eq!(results[8].text, scheduler.follow(handle, || true, |_| true).unwrap().text);
}

#[test]
fn the_head_runs_only_where_logits_are_wanted() {
    let (mut scheduler, seen) = plain(1024, 2);
    let handles = vec![
        scheduler.submit(request(&prompt(1, 700), 1, 4)),
        scheduler.submit(request(&prompt(2, 3), 2, 6)),
    ];
    let tokens: usize = run_all(&mut scheduler, handles).into_iter().map(|r| r.unwrap().tokens.len()).sum();
    // One row for each token; a text that ends by an end token has one row more.
    let heads = seen.heads.load(Ordering::SeqCst) as usize;
    assert!((tokens..=tokens + 2).contains(&heads), "{heads} for {tokens} tokens");
    assert!(seen.rows.load(Ordering::SeqCst) >= 703);
}

#[test]
fn requests_begin_in_the_order_in_which_they_came() {
    let (mut scheduler, _) = plain(64, 1);
    let mut handles: Vec<_> =
        (0..4).map(|seed| scheduler.submit(request(&prompt(seed, 9), seed, 3))).collect();
    let mut order = Vec::new();
    while order.len() < 4 {
        scheduler.step();
        for (number, handle) in handles.iter_mut().enumerate() {
            if last_event(handle, &mut String::new()).is_some() {
                order.push(number);
            }
        }
    }
    assert_eq!(order, [0, 1, 2, 3]);
    assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.unread()), (0, 0, 0));
}

#[test]
fn a_request_that_comes_later_joins_the_others() {
    let (mut scheduler, seen) = plain(256, 4);
    let first = scheduler.submit(request(&prompt(1, 4), 1, 200));
    for _ in 0..5 {
        scheduler.step();
    }
    let second = scheduler.submit(request(&prompt(2, 4), 2, 10));
    scheduler.step();
    assert_eq!(seen.log.lock().unwrap().last().unwrap().1, 2, "both have rows in the next step");
    let results = run_all(&mut scheduler, vec![first, second]);
    assert_eq!(results[0].as_ref().unwrap().text, alone(&prompt(1, 4), 1, 200).text);
    assert_eq!(results[1].as_ref().unwrap().text, alone(&prompt(2, 4), 2, 10).text);
}

#[test]
fn prefixes_are_computed_once() {
    let (mut scheduler, seen) = plain(1024, 3);
    let system = prompt(5, 100);
    let ask = |question: u64| [&system[..], &prompt(question, 10)].concat();
    let other = prompt(77, 50);
    let handles = vec![scheduler.submit(request(&ask(1), 1, 5)), scheduler.submit(request(&other, 2, 5))];
    run_all(&mut scheduler, handles)
        .into_iter()
        .for_each(|result| assert_eq!(result.unwrap().reused_tokens, 0));
    let before = seen.rows.load(Ordering::SeqCst);
    let handle = scheduler.submit(request(&ask(2), 3, 1));
    let again = scheduler.follow(handle, || true, |_| true).unwrap();
    assert_eq!((again.prompt_tokens, again.reused_tokens, again.computed_tokens()), (110, 100, 10));
    assert_eq!(seen.rows.load(Ordering::SeqCst) - before, 10);
    assert_eq!(again.text, alone(&ask(2), 3, 1).text);
    // The same prompt once more: its last token is computed for its logits.
    let handle = scheduler.submit(request(&ask(2), 4, 8));
    let same = scheduler.follow(handle, || true, |_| true).unwrap();
    assert_eq!((same.reused_tokens, same.text), (109, alone(&ask(2), 4, 8).text));
    // The other one is still there.
    let handle = scheduler.submit(request(&other, 2, 5));
    assert_eq!(scheduler.follow(handle, || true, |_| true).unwrap().reused_tokens, 49);
}

/// A constraint that fails in its own way after a number of tokens.
#[derive(Debug)]
struct Failing {
    after: u32,
    panics: bool,
}

impl Constraint for Failing {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        (0..VOCAB - 1).for_each(|id| mask.allow(id));
        Ok(())
    }
    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        match self.after.checked_sub(1) {
            Some(after) => self.after = after,
            None if self.panics => panic!("a constraint that panics, for a test"),
            None => return Err(ConstraintError::Step { reason: "for a test".to_owned() }),
        }
        Ok(())
    }
    fn is_complete(&self) -> bool {
        false
    }
    fn duplicate(&self) -> Box<dyn Constraint> {
        Box::new(Self { ..*self })
    }
}

#[test]
fn whatever_is_wrong_with_a_request_ends_it_alone() {
    let seen = Arc::<Seen>::default();
    let stand_in = StandIn { nan: true, ..StandIn::new(128, &seen) };
    let mut scheduler = scheduler(stand_in, EngineOptions::of(128, 1, 4));
    let failing =
        |panics| request(&prompt(9, 5), 9, 20).with_constraint(Box::new(Failing { after: 3, panics }));
    let biased = SamplingParams { logit_bias: [(VOCAB, 1.0)].into(), ..SamplingParams::default() };
    let bad: Vec<(&str, Request)> = vec![
        ("panic", failing(true)),
        ("constraint", failing(false)),
        ("nan", request(&[1, 2, POISON], 1, 20)),
        ("sampler", Request::new(vec![1], biased, GenerateOptions::default()).unwrap()),
        ("empty", request(&[], 1, 20)),
        ("unknown", request(&[1, VOCAB], 1, 20)),
        ("long", request(&prompt(3, 129), 1, 20)),
    ];
    // Before and after each of them, one that has to go through.
    let mut handles = Vec::new();
    let mut names = Vec::new();
    for (number, (name, request_of_bad)) in (0..).zip(bad) {
        handles.push(scheduler.submit(request(&prompt(number, 6), number, 30)));
        names.push(None);
        handles.push(scheduler.submit(request_of_bad));
        names.push(Some(name));
    }
    let results = run_all(&mut scheduler, handles);
    let mut number = 0;
    for (name, result) in names.into_iter().zip(results) {
        match (name, result) {
            (None, result) => {
                assert_eq!(result.unwrap().text, alone(&prompt(number, 6), number, 30).text, "{number}");
                number += 1;
            }
            (Some("panic"), Err(Error::Engine(EngineError::Panicked { message }))) => {
                assert!(message.contains("for a test"), "{message}");
            }
            (Some("constraint"), Err(Error::Constraint(ConstraintError::Step { .. })))
            | (Some("nan"), Err(Error::Session(SessionError::NotANumber { position: 2, .. })))
            | (Some("sampler"), Err(Error::Sample(SampleError::BiasOutOfRange { .. })))
            | (Some("empty"), Err(Error::Session(SessionError::Empty)))
            | (Some("unknown"), Err(Error::Session(SessionError::Token { id: VOCAB, position: 1, .. })))
            | (Some("long"), Err(Error::Session(SessionError::ContextFull { tokens: 129, .. }))) => {}
            (name, result) => panic!("{name:?}: {result:?}"),
        }
    }
    assert_eq!(number, 7);
    assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.unread()), (0, 0, 0));
}

#[test]
fn a_step_that_fails_ends_those_in_it_and_the_next_ones_go_on() {
    let seen = Arc::<Seen>::default();
    let stand_in = StandIn { broken: true, ..StandIn::new(128, &seen) };
    let mut scheduler = scheduler(stand_in, EngineOptions::of(128, 1, 2));
    let handles = (0..3).map(|seed| scheduler.submit(request(&prompt(seed, 5), seed, 5))).collect();
    for result in run_all(&mut scheduler, handles) {
        assert!(matches!(result, Err(Error::Engine(EngineError::Step(_)))), "{result:?}");
    }
    assert_eq!((scheduler.running(), scheduler.tokens()), (0, 0));
}

#[test]
fn no_tokens_and_a_full_context_end_texts() {
    let (mut scheduler, seen) = plain(40, 1);
    let handle = scheduler.submit(request(&[], 1, 0));
    let none = scheduler.follow(handle, || true, |_| true).unwrap();
    assert_eq!((none.finish, none.tokens.len(), seen.rows.load(Ordering::SeqCst)), (Stop::Limit, 0, 0));
    let endless = GenerateOptions { ignore_end: true, ..GenerateOptions::default() };
    let params = SamplingParams { seed: 3, ..SamplingParams::default() };
    let handle = scheduler.submit(Request::new(prompt(1, 30), params.clone(), endless.clone()).unwrap());
    let full = scheduler.follow(handle, || true, |_| true).unwrap();
    // The last token was made and has no place any more.
    assert_eq!((full.finish, full.tokens.len()), (Stop::ContextFull, 11));
    let handle = scheduler.submit(Request::new(prompt(1, 40), params, endless).unwrap());
    let one = scheduler.follow(handle, || true, |_| true).unwrap();
    assert_eq!((one.finish, one.tokens.len()), (Stop::ContextFull, 1));
}

#[test]
fn a_text_goes_on_in_another_context_with_all_its_state() {
    let stop = |limit| GenerateOptions {
        limit: Some(limit),
        ignore_end: true,
        stop: vec!["zzzzzz".to_owned()].into(),
        ..GenerateOptions::default()
    };
    let params = SamplingParams { seed: 8, temperature: 1.2, ..SamplingParams::default() };
    let long = prompt(4, 30);
    // In a context that has room for it.
    let (mut large, _) = plain(256, 1);
    let handle = large.submit(Request::new(long.clone(), params.clone(), stop(50)).unwrap());
    let whole = large.follow(handle, || true, |_| true).unwrap();
    assert_eq!(whole.tokens.len(), 50);
    // In one that is full after 11 tokens, and is then followed by a larger one that sees the same tokens.
    let (mut small, _) = plain(40, 1);
    let mut streamed = String::new();
    let handle = small.submit(Request::new(long.clone(), params, stop(50)).unwrap().with_state());
    let first = small.follow(
        handle,
        || true,
        |text| {
            streamed.push_str(text);
            true
        },
    );
    let first = first.unwrap();
    assert_eq!((first.finish, first.tokens.len()), (Stop::ContextFull, 11));
    let state = *first.state.unwrap();
    assert_eq!(state.tokens(), first.tokens);
    let handle = large.submit(Request::resume([&long[..], state.tokens()].concat(), state));
    let second = large.follow(
        handle,
        || true,
        |text| {
            streamed.push_str(text);
            true
        },
    );
    let second = second.unwrap();
    assert_eq!((&second.text, &second.tokens, second.finish), (&whole.text, &whole.tokens, Stop::Limit));
    assert_eq!(streamed, whole.text);
}

#[test]
fn a_dropped_or_cancelled_request_frees_its_sequence_within_a_step() {
    let (mut scheduler, _) = plain(512, 1);
    let first = scheduler.submit(request(&prompt(1, 300), 1, 50));
    let mut second = scheduler.submit(request(&prompt(2, 5), 2, 50));
    let third = scheduler.submit(request(&prompt(3, 5), 3, 50));
    scheduler.step();
    assert_eq!((scheduler.running(), scheduler.waiting()), (1, 2));
    // Dropped in the middle of its prompt; one that waits is cancelled, the last one dropped.
    drop(first);
    second.cancel();
    drop(third);
    scheduler.step();
    assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.unread()), (0, 0, 0));
    match second.try_recv() {
        Some(Event::Done(end)) => assert_eq!((end.finish, end.tokens.len()), (Stop::Interrupted, 0)),
        event => panic!("{event:?}"),
    }
    assert!(second.try_recv().is_none() && second.is_ended());
    // Cancelled while it decodes: what there is by then.
    let endless = || {
        let options = GenerateOptions { ignore_end: true, ..GenerateOptions::default() };
        Request::new(prompt(4, 5), SamplingParams::default(), options).unwrap()
    };
    let mut fourth = scheduler.submit(endless());
    for _ in 0..6 {
        scheduler.step();
    }
    fourth.cancel();
    scheduler.step();
    let mut text = String::new();
    let Some(Event::Done(end)) = last_event(&mut fourth, &mut text) else { panic!("no end") };
    assert_eq!((end.finish, end.tokens.len(), scheduler.running()), (Stop::Interrupted, 6, 0));
    assert_eq!(text + &end.tail, end.text);
    let (mut other, _) = plain(64, 1);
    let handle = other.submit(endless());
    assert!(other.follow(handle, || true, |_| true).unwrap().text.starts_with(&end.text));
}

#[test]
fn whoever_does_not_read_pauses_alone() {
    let seen = Arc::<Seen>::default();
    let options = EngineOptions { events: 4, ..EngineOptions::of(512, 1, 2) };
    let mut scheduler = scheduler(StandIn::new(512, &seen), options);
    let long = |seed| {
        let params = SamplingParams { seed, ..SamplingParams::default() };
        let options = GenerateOptions { limit: Some(60), ignore_end: true, ..GenerateOptions::default() };
        Request::new(prompt(seed, 5), params, options).unwrap()
    };
    let mut lazy = scheduler.submit(long(1));
    let mut eager = scheduler.submit(long(2));
    let mut text = String::new();
    let end = loop {
        assert!(!scheduler.step().is_idle());
        if let Some(Event::Done(end)) = last_event(&mut eager, &mut text) {
            break end;
        }
    };
    assert_eq!(end.tokens.len(), 60);
    // The other has made four tokens that wait to be read, and one that found no room.
    let steps = seen.steps.load(Ordering::SeqCst);
    assert!(scheduler.step().is_idle() && scheduler.step().is_idle());
    assert_eq!(seen.steps.load(Ordering::SeqCst), steps);
    assert_eq!(scheduler.running(), 1);
    let mut text = String::new();
    let end = loop {
        if let Some(Event::Done(end)) = last_event(&mut lazy, &mut text) {
            break end;
        }
        scheduler.step();
    };
    assert_eq!((end.tokens.len(), text.len()), (60, 60));
    // One that has ended holds no sequence, even if nobody reads it.
    let handle = scheduler.submit(long(3).without_tokens());
    let unread = scheduler.submit(long(4));
    let kept = scheduler.submit(long(5));
    drop(handle);
    for _ in 0..3 {
        scheduler.step();
    }
    unread.cancel();
    kept.cancel();
    scheduler.step();
    assert_eq!(scheduler.running(), 0);
    drop((unread, kept));
    scheduler.step();
    assert_eq!(scheduler.unread(), 0);
}

#[test]
fn pieces_are_the_text_and_its_tail() {
    let whole = alone(&prompt(6, 8), 6, 60);
    for at in (3..whole.text.len().saturating_sub(3)).step_by(5) {
        let never = format!("{}!", &whole.text[at..]);
        let (mut scheduler, _) = plain(256, 1);
        let params = SamplingParams { seed: 6, repeat_penalty: 1.1, ..SamplingParams::default() };
        let stop = vec![never];
        let options = GenerateOptions { limit: Some(60), stop: stop.into(), ..GenerateOptions::default() };
        let mut handle = scheduler.submit(Request::new(prompt(6, 8), params, options).unwrap());
        let mut text = String::new();
        let end = loop {
            scheduler.step();
            if let Some(Event::Done(end)) = last_event(&mut handle, &mut text) {
                break end;
            }
        };
        assert_eq!((&(text + &end.tail), &end.text), (&whole.text, &whole.text));
    }
}

/// Something that a client does.
#[derive(Clone, Debug)]
enum Act {
    Submit { seed: u64, length: usize, limit: u64, stream: bool },
    Cancel(usize),
    Drop(usize),
    Read(usize),
    Step,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0..40u64, 0..60usize, 0..12u64, any::<bool>())
            .prop_map(|(seed, length, limit, stream)| Act::Submit { seed, length, limit, stream }),
        1 => any::<usize>().prop_map(Act::Cancel),
        1 => any::<usize>().prop_map(Act::Drop),
        3 => any::<usize>().prop_map(Act::Read),
        4 => Just(Act::Step),
    ]
}

/// A client of the random test.
struct Client {
    handle: Handle,
    text: String,
    /// What its text has to be.
    of: (u64, usize, u64),
    cancelled: bool,
}

impl Client {
    /// Reads one event; whether it was the last.
    fn read(&mut self) -> bool {
        match self.handle.try_recv() {
            None | Some(Event::Progress(_) | Event::Scored(_)) => false,
            Some(Event::Token(token)) => {
                self.text.push_str(&token.text);
                false
            }
            Some(Event::Failed(error)) => {
                assert!(self.of.1 == 0 && matches!(error, Error::Session(SessionError::Empty)), "{error}");
                true
            }
            Some(Event::Done(end)) => {
                let (seed, length, limit) = self.of;
                let expected = alone(&prompt(seed, length.max(1)), seed, limit).text;
                match end.finish {
                    Stop::Interrupted => assert!(self.cancelled && expected.starts_with(&end.text)),
                    _ => assert_eq!(end.text, expected),
                }
                true
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// 10,000 acts of clients in random order, on schedulers of several shapes: every text that is read to its end is the
    /// one that it is alone, and nothing is left behind.
    #[test]
    fn ten_thousand_acts_leave_nothing_behind(
        acts in proptest::collection::vec(act(), 10_000),
        sequences in 1..5u32, events in 1..4u32, rows in proptest::option::of(1..50u32), chunk in 1..64u32,
    ) {
        let seen = Arc::<Seen>::default();
        let options = EngineOptions { events, max_prompt_rows: rows, ..EngineOptions::of(128, 1, sequences) };
        let mut scheduler = scheduler(StandIn { chunk, ..StandIn::new(128, &seen) }, options);
        let mut clients: Vec<Client> = Vec::new();
        for act in acts {
            match act {
                Act::Submit { seed, length, limit, stream } => {
                    let request = request(&prompt(seed, length), seed, limit);
                    let request = if stream { request } else { request.without_tokens() };
                    let handle = scheduler.submit(request);
                    clients.push(Client { handle, text: String::new(), of: (seed, length, limit), cancelled: false });
                }
                Act::Cancel(which) if !clients.is_empty() => {
                    let at = which % clients.len();
                    clients[at].cancelled = true;
                    clients[at].handle.cancel();
                }
                Act::Drop(which) if !clients.is_empty() => drop(clients.swap_remove(which % clients.len())),
                Act::Read(which) if !clients.is_empty() => {
                    let at = which % clients.len();
                    if clients[at].read() {
                        clients.swap_remove(at);
                    }
                }
                Act::Step => {
                    scheduler.step();
                }
                Act::Cancel(_) | Act::Drop(_) | Act::Read(_) => {}
            }
            prop_assert!(scheduler.running() <= sequences as usize);
        }
        while !clients.is_empty() {
            scheduler.step();
            clients.retain_mut(|client| !client.read());
        }
        prop_assert!(scheduler.step().is_idle());
        prop_assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.unread()), (0, 0, 0));
        prop_assert_eq!(seen.sequences.load(Ordering::SeqCst), sequences as usize);
        drop(scheduler);
        prop_assert_eq!(seen.sequences.load(Ordering::SeqCst), 0);
    }
}
