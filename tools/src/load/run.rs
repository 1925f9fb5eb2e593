//! Running a test: threads that ask, and what their requests gave.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use bitnetc_ir::random::SplitMix;

use super::LoadError;
use super::http::Target;
use super::lengths::{Mix, unit};
use super::request::{Answer, Ending, Template, ask};

/// How often progress is told and interruptions are looked for.
const TICK: Duration = Duration::from_millis(50);
/// How often it is looked whether all threads have ended.
const SHORT_TICK: Duration = Duration::from_millis(10);
/// Longest time between two requests, in seconds.
const LONGEST_PAUSE: f64 = 3600.0;
/// Stack of a thread that asks.
const STACK: usize = 512 << 10;
/// Most requests under way at a time where requests do not wait for each other.
const MOST_AT_ONCE: u64 = 1024;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// This number of clients, each of which asks again as soon as it has an answer.
    Closed(u32),
    /// At random times, on average this number per second (a Poisson process).
    Poisson(f64),
}

/// Something to measure.
#[derive(Clone, Debug)]
pub struct Test {
    /// When requests are sent.
    pub arrivals: Arrivals,
    /// Requests, at least 1.
    pub requests: u32,
    /// Lengths of prompts and answers.
    pub mix: Mix,
    /// Tokens at the beginning of every prompt that all of them share.
    pub shared_prefix: u32,
    /// Temperature of sampling.
    pub temperature: f64,
    /// Seed of lengths, prompts, arrivals and answers.
    pub seed: u64,
    /// The model to ask for; the first that the server lists if there is none.
    pub model: Option<String>,
}

/// What a test gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was measured.
    pub test: Test,
    /// The model that was asked for.
    pub model: String,
    /// How each request ended, in the order in which they ended; fewer than the test's where it was interrupted.
    pub endings: Vec<Ending>,
    /// From the first request to the last answer.
    pub duration: Duration,
    /// Whether the test was interrupted.
    pub interrupted: bool,
}

impl Outcome {
    /// The complete answers.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.endings.iter().filter_map(|ending| match ending {
            Ending::Answered(answer) => Some(answer),
            _ => None,
        })
    }
}

/// What the threads of a test share.
struct Shared<'a> {
    target: &'a Target,
    test: &'a Test,
    template: &'a Template,
    next: AtomicU64,
    under_way: AtomicU64,
    stopped: AtomicBool,
    endings: Mutex<Vec<Ending>>,
}

impl Shared<'_> {
    /// Numbers the tests of a run apart, so that none finds the prompts of another in a cache.
    fn stream(&self) -> u64 {
        match self.test.arrivals {
            Arrivals::Closed(clients) => u64::from(clients),
            Arrivals::Poisson(rate) => rate.to_bits(),
        }
    }

    /// Sends a request; false if no further one should be sent.
    fn ask(&self, index: u64) -> bool {
        let mut rng = self.template.random(self.stream(), index);
        let (prompt, answer) = (self.test.mix.prompt.draw(&mut rng), self.test.mix.answer.draw(&mut rng));
        let body = self.template.body(prompt, answer, &mut rng);
        let ending = ask(self.target, &body, &mut |_| true);
        let go_on = ending != Ending::Interrupted;
        self.endings.lock().unwrap_or_else(PoisonError::into_inner).push(ending);
        if !go_on {
            self.stopped.store(true, Ordering::Relaxed);
        }
        go_on
    }

    /// A client of a closed loop.
    fn client(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= u64::from(self.test.requests) || !self.ask(index) {
                return;
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || !self.target.keep_going().ask()
    }

    fn done(&self) -> usize {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Waits until `time`; false if the test was interrupted meanwhile.
fn wait_until(time: Instant, shared: &Shared<'_>, progress: &mut dyn FnMut(usize)) -> bool {
    loop {
        progress(shared.done());
        if shared.is_stopped() {
            return false;
        }
        let now = Instant::now();
        if now >= time {
            return true;
        }
        std::thread::sleep((time - now).min(TICK));
    }
}

/// Starts a thread of a test. Where the system refuses it, the threads that were started end with their requests.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &'scope Shared<'_>,
    work: impl FnOnce() + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, ()>, LoadError> {
    let thread = std::thread::Builder::new().name("bitnetc-client".to_owned()).stack_size(STACK);
    thread.spawn_scoped(scope, work).map_err(|source| {
        shared.next.store(u64::from(shared.test.requests), Ordering::Relaxed);
        LoadError::Io { server: shared.target.name(), source }
    })
}

/// Clients that ask again as soon as they have an answer.
fn closed<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &'scope Shared<'_>,
    clients: u32,
    progress: &mut dyn FnMut(usize),
) -> Result<(), LoadError> {
    let clients = (0..clients.min(shared.test.requests)).map(|_| start(scope, shared, || shared.client()));
    let clients: Vec<_> = clients.collect::<Result<_, _>>()?;
    while clients.iter().any(|client| !client.is_finished()) {
        progress(shared.done());
        std::thread::sleep(SHORT_TICK);
    }
    Ok(())
}

/// Requests at random times.
fn poisson<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &'scope Shared<'_>,
    rate: f64,
    progress: &mut dyn FnMut(usize),
) -> Result<(), LoadError> {
    let mut rng = SplitMix::new(shared.test.seed ^ rate.to_bits());
    let mut at = Instant::now();
    for index in 0..u64::from(shared.test.requests) {
        at += Duration::from_secs_f64((-(1.0 - unit(&mut rng)).ln() / rate).min(LONGEST_PAUSE));
        if !wait_until(at, shared, progress) {
            break;
        }
        while shared.under_way.load(Ordering::Relaxed) >= MOST_AT_ONCE && !shared.is_stopped() {
            std::thread::sleep(TICK);
        }
        shared.under_way.fetch_add(1, Ordering::Relaxed);
        start(scope, shared, move || {
            shared.ask(index);
            shared.under_way.fetch_sub(1, Ordering::Relaxed);
        })?;
    }
    while shared.under_way.load(Ordering::Relaxed) > 0 {
        progress(shared.done());
        std::thread::sleep(SHORT_TICK);
    }
    Ok(())
}

/// Measures a test, after one request that tries the server out and is not counted. `progress` is told how many requests have ended.
///
/// # Errors
/// A server that cannot be reached or refuses that first request; threads that cannot be started.
pub fn run(target: &Target, test: &Test, progress: &mut dyn FnMut(usize)) -> Result<Outcome, LoadError> {
    let options = (test.temperature, test.seed, test.shared_prefix);
    let template = Template::of(target, test.model.as_deref(), options)?;
    try_out(target, test, &template)?;
    let shared = Shared {
        target,
        test,
        template: &template,
        next: AtomicU64::new(0),
        under_way: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        endings: Mutex::new(Vec::new()),
    };
    let begun = Instant::now();
    std::thread::scope(|scope| match test.arrivals {
        Arrivals::Closed(clients) => closed(scope, &shared, clients, progress),
        Arrivals::Poisson(rate) => poisson(scope, &shared, rate, progress),
    })?;
    let duration = begun.elapsed();
    let mut endings = shared.endings.into_inner().unwrap_or_else(PoisonError::into_inner);
    endings.retain(|ending| *ending != Ending::Interrupted);
    let interrupted = endings.len() < test.requests as usize;
    Ok(Outcome { test: test.clone(), model: template.model, endings, duration, interrupted })
}

/// A short request that is not counted: what it needs for the first time is there afterwards, and a server that refuses it is not
/// worth measuring.
pub(super) fn try_out(target: &Target, test: &Test, template: &Template) -> Result<(), LoadError> {
    let mut rng = template.random(u64::MAX, 0);
    let prompt = test.mix.prompt.draw(&mut rng).min(16);
    let mut body = template.body(prompt, 2, &mut rng);
    body["stream"] = false.into();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("stream_options");
    }
    target.json("/v1/completions", Some(&body)).map(drop)
}
