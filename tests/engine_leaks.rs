//! Clients of an engine over a model do what they like, in random order, on a thread of their own: every text that is read to its
//! end is the one that it is alone, and when the engine is gone no sequence and no thread of it is left. One test, because it counts
//! the threads of the process; `tests/engine.rs` has many more acts over a stand-in.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitnetc::engine::{
    Engine, EngineOptions, Event, GenerateOptions, Handle, MachineStepper, Part, Request, Scheduler, Stepper,
    Stop,
};
use bitnetc::{Model, SamplingParams, Tokenize};
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::{Record, Takers};
use bitnetc_runtime::prefix::{Prefix, PrefixFormat};
use bitnetc_runtime::sequence::Sequence;
use common::{random_tokens, tokens_by_hand};

const CONTEXT: u32 = 96;

/// A sequence that is counted.
struct Counted {
    sequence: Sequence,
    alive: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A machine that counts its sequences.
struct Counting {
    machine: MachineStepper,
    alive: Arc<AtomicUsize>,
}

impl Stepper for Counting {
    type Sequence = Counted;

    fn sequence(&self) -> Result<Counted, SessionError> {
        let sequence = self.machine.sequence()?;
        self.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Counted { sequence, alive: Arc::clone(&self.alive) })
    }
    fn tokens(sequence: &Counted) -> &[u32] {
        sequence.sequence.tokens()
    }
    fn truncate(sequence: &mut Counted, length: usize) -> usize {
        MachineStepper::truncate(&mut sequence.sequence, length)
    }
    fn copy_prefix(from: &Counted, to: &mut Counted, length: usize) -> usize {
        MachineStepper::copy_prefix(&from.sequence, &mut to.sequence, length)
    }
    fn prefix_format(&self) -> PrefixFormat {
        self.machine.prefix_format()
    }
    fn save(&self, sequence: &Counted, length: usize) -> Result<Prefix, SessionError> {
        self.machine.save(&sequence.sequence, length)
    }
    fn restore(&self, prefix: &Prefix, to: &mut Counted, length: usize) -> usize {
        self.machine.restore(prefix, &mut to.sequence, length)
    }
    fn context(&self) -> u32 {
        self.machine.context()
    }
    fn vocab(&self) -> u32 {
        self.machine.vocab()
    }
    fn chunk(&self) -> u32 {
        self.machine.chunk()
    }
    fn step<'a, T: Takers>(
        &mut self,
        parts: &mut dyn Iterator<Item = Part<'a, Counted>>,
        takers: &mut T,
    ) -> Result<(), SessionError>
    where
        Counted: 'a,
    {
        let mut parts = parts.map(|part| {
            let Part { sequence, tokens, logits } = part;
            Part { sequence: &mut sequence.sequence, tokens, logits }
        });
        self.machine.step(&mut parts, takers)
    }
}

/// Threads of this process, but for those of tests.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[cfg(not(target_os = "linux"))]
fn threads() -> usize {
    1
}

/// A client: its handle, what it asked for, whether it was cancelled.
type Client = (Handle, (u64, usize, u64), bool);

#[test]
fn clients_leave_no_sequence_and_no_thread_behind() {
    let model = Model::builtin().unwrap();
    let loaded = model.loaded();
    let params = |seed| SamplingParams { seed, ..SamplingParams::default() };
    let prompt = |seed: u64, length: usize| random_tokens(seed % 3, length, 90);
    let mut known: HashMap<(u64, usize, u64), Vec<u32>> = HashMap::new();
    let mut expected = |of: (u64, usize, u64)| {
        let alone = || tokens_by_hand(loaded, &prompt(of.0, of.1), params(of.0), of.2 as usize, true);
        known.entry(of).or_insert_with(alone).clone()
    };
    let before = threads();
    let alive = Arc::<AtomicUsize>::default();
    for (round, sequences) in [(1, 1), (2, 3)] {
        let machine =
            MachineStepper::new(loaded.model.clone(), [0; 32], CONTEXT, 2, sequences, Record::Nothing)
                .unwrap();
        let options = EngineOptions { events: 3, ..EngineOptions::of(CONTEXT, 2, sequences) };
        let clock = Instant::now();
        let counting = Counting { machine, alive: Arc::clone(&alive) };
        let tokenizer = Arc::clone(&loaded.tokenizer) as Arc<dyn Tokenize>;
        let scheduler = Scheduler::over(counting, tokenizer, options, Box::new(move || clock.elapsed()));
        let engine = Engine::start(scheduler.unwrap()).unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), sequences as usize);
        let mut clients: Vec<Client> = Vec::new();
        let mut read_to_the_end = 0;
        let mut finish = |client: &mut Client, event: Event| match event {
            Event::Token(_) | Event::Progress(_) | Event::Scored(_) => false,
            Event::Failed(error) => panic!("{error}"),
            Event::Done(end) => {
                let whole = expected(client.1);
                match end.finish {
                    Stop::Interrupted => assert!(client.2 && whole.starts_with(&end.tokens)),
                    _ => assert_eq!(end.tokens, whole, "{:?}", client.1),
                }
                read_to_the_end += 1;
                true
            }
        };
        let mut choices = random_tokens(round, 3_000, 1 << 16).into_iter().map(|choice| choice as usize);
        while let (Some(act), Some(which)) = (choices.next(), choices.next()) {
            let at = which % clients.len().max(1);
            match act % 10 {
                0 | 1 if clients.len() < 40 => {
                    let of = ((which % 6) as u64, 1 + which % 50, (which % 14) as u64);
                    let limit = GenerateOptions { limit: Some(of.2), ignore_end: true, ..Default::default() };
                    let request = Request::new(prompt(of.0, of.1), params(of.0), limit).unwrap();
                    let request = if act % 20 < 10 { request } else { request.without_tokens() };
                    clients.push((engine.submit(request), of, false));
                }
                2 if !clients.is_empty() => {
                    clients[at].0.cancel();
                    clients[at].2 = true;
                }
                3 if !clients.is_empty() => drop(clients.swap_remove(at)),
                _ if !clients.is_empty() => {
                    let event = clients[at].0.recv_timeout(Duration::from_micros(200));
                    if event.is_some_and(|event| finish(&mut clients[at], event)) {
                        clients.swap_remove(at);
                    }
                }
                _ => {}
            }
        }
        // The half of those who are left read on; the others go with the engine.
        let abandoned = clients.split_off(clients.len() / 2);
        for mut client in clients {
            while !client.0.is_ended() {
                let event = client.0.recv_timeout(Duration::from_secs(60)).expect("an event");
                finish(&mut client, event);
            }
        }
        assert!(read_to_the_end > 20, "{read_to_the_end}");
        drop(engine);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        drop(abandoned);
        assert_eq!(threads(), before, "threads of the engine or of its machine are left");
    }
}
