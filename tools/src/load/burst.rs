//! What a long prompt does to streams that are under way, and they to it: streams decode, then a long prompt arrives.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::LoadError;
use super::http::Target;
use super::request::{Ending, Template, ask};
use super::run::{Test, try_out};

/// Pieces that each stream receives before the long prompt is sent.
const SETTLED: u32 = 16;
/// How often the state of the streams is looked at.
const TICK: Duration = Duration::from_millis(5);
/// Tokens that are generated after the long prompt.
const AFTER: u32 = 4;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BurstOptions {
    /// Streams that are under way.
    pub streams: u32,
    /// Tokens of the long prompt.
    pub prompt_tokens: u32,
    /// Repetitions, at least 1.
    pub repetitions: u32,
}

/// What it gave. Gaps are those of all streams together.
#[derive(Clone, Debug)]
pub struct Burst {
    /// What was measured.
    pub options: BurstOptions,
    /// The model that was asked for.
    pub model: String,
    /// Time to the first token of the long prompt with no other request under way, one for each repetition.
    pub alone: Vec<Duration>,
    /// The same while the streams decode.
    pub beside: Vec<Duration>,
    /// Gaps of the streams before the long prompt was sent.
    pub gaps_before: Vec<Duration>,
    /// Gaps that ended, or were open, between sending the long prompt and its first token.
    pub gaps_during: Vec<Duration>,
    /// Streams that ended before the long prompt had its first token: their answers were too short.
    pub ended_early: u32,
    /// Whether the measurement was interrupted.
    pub interrupted: bool,
}

/// The streams of a repetition.
struct Streams {
    /// When pieces came, by stream.
    pieces: Vec<Mutex<Vec<Instant>>>,
    settled: AtomicU32,
    ended: AtomicU32,
    over: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Streams {
    fn new(count: u32) -> Self {
        Self {
            pieces: (0..count).map(|_| Mutex::default()).collect(),
            settled: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            over: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Reads one stream until the repetition is over.
    fn read(&self, pieces: &Mutex<Vec<Instant>>, target: &Target, body: &serde_json::Value) {
        let ending = ask(target, body, &mut |now| {
            let mut pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
            pieces.push(now);
            if pieces.len() == SETTLED as usize {
                self.settled.fetch_add(1, Ordering::Relaxed);
            }
            !self.over.load(Ordering::Relaxed)
        });
        let failure = match ending {
            Ending::Refused { status, message } => {
                Some(format!("a stream was refused with status {status}: {message}"))
            }
            Ending::Failed(message) => Some(message),
            Ending::Answered(_) | Ending::Interrupted => None,
        };
        if let Some(message) = failure {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        }
        if !self.over.load(Ordering::Relaxed) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The gaps that ended before `sent`, and those that ended until `first` or were open then.
    fn gaps(&self, sent: Instant, first: Instant) -> (Vec<Duration>, Vec<Duration>) {
        let (mut before, mut during) = (Vec::new(), Vec::new());
        for pieces in &self.pieces {
            let pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
            for pair in pieces.windows(2) {
                let &[from, to] = pair else { continue };
                if to <= sent {
                    before.push(to - from);
                } else if from < first {
                    during.push(to - from);
                }
            }
        }
        (before, during)
    }
}

/// The time to the first token of a long prompt.
fn long_prompt(
    target: &Target,
    template: &Template,
    tokens: u32,
    number: u64,
) -> Result<(Instant, Duration), LoadError> {
    let mut rng = template.random(u64::MAX - 1, number);
    let body = template.body(tokens, AFTER, &mut rng);
    let sent = Instant::now();
    match ask(target, &body, &mut |_| true) {
        Ending::Answered(answer) => Ok((sent, answer.ttft)),
        Ending::Refused { status, message } => {
            Err(target.protocol(format!("the long prompt was refused with status {status}: {message}")))
        }
        Ending::Failed(what) => Err(target.protocol(what)),
        Ending::Interrupted => Err(LoadError::Interrupted),
    }
}

/// Measures streams with the lengths of `test`, into which a long prompt comes.
///
/// # Errors
/// A server that cannot be reached or refuses a request; threads that cannot be started.
pub fn burst(target: &Target, test: &Test, options: BurstOptions) -> Result<Burst, LoadError> {
    let template =
        Template::of(target, test.model.as_deref(), (test.temperature, test.seed, test.shared_prefix))?;
    try_out(target, test, &template)?;
    let mut burst = Burst {
        options,
        model: template.model.clone(),
        alone: Vec::new(),
        beside: Vec::new(),
        gaps_before: Vec::new(),
        gaps_during: Vec::new(),
        ended_early: 0,
        interrupted: false,
    };
    for repetition in 0..options.repetitions {
        match repeat(target, test, &template, repetition, &mut burst) {
            Err(LoadError::Interrupted) => {
                burst.interrupted = true;
                break;
            }
            result => result?,
        }
    }
    Ok(burst)
}

fn repeat(
    target: &Target,
    test: &Test,
    template: &Template,
    repetition: u32,
    burst: &mut Burst,
) -> Result<(), LoadError> {
    let tokens = burst.options.prompt_tokens;
    // No prompt of this measurement begins as another does, so that no cache helps.
    let number = |which: u32| u64::from(repetition) << 32 | u64::from(which);
    burst.alone.push(long_prompt(target, template, tokens, number(0))?.1);
    let streams = Streams::new(burst.options.streams);
    let (sent, ttft) = std::thread::scope(|scope| {
        let result = beside(scope, target, test, template, &streams, &number, tokens);
        streams.over.store(true, Ordering::Relaxed);
        result
    })?;
    let (before, during) = streams.gaps(sent, sent + ttft);
    burst.beside.push(ttft);
    burst.gaps_before.extend(before);
    burst.gaps_during.extend(during);
    burst.ended_early += streams.ended.load(Ordering::Relaxed);
    Ok(())
}

/// Starts the streams, waits until all of them flow, and sends the long prompt.
fn beside<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    target: &'scope Target,
    test: &Test,
    template: &Template,
    streams: &'scope Streams,
    number: &dyn Fn(u32) -> u64,
    tokens: u32,
) -> Result<(Instant, Duration), LoadError> {
    for (i, pieces) in streams.pieces.iter().enumerate() {
        let mut rng = template.random(u64::MAX - 2, number(i as u32));
        let (prompt, answer) = (test.mix.prompt.draw(&mut rng), test.mix.answer.draw(&mut rng));
        let body = template.body(prompt, answer, &mut rng);
        let thread = std::thread::Builder::new().name("bitnetc-stream".to_owned()).stack_size(512 << 10);
        thread
            .spawn_scoped(scope, move || streams.read(pieces, target, &body))
            .map_err(|source| LoadError::Io { server: target.name(), source })?;
    }
    let all = streams.pieces.len() as u32;
    while streams.settled.load(Ordering::Relaxed) < all {
        if !target.keep_going().ask() {
            return Err(LoadError::Interrupted);
        }
        if streams.ended.load(Ordering::Relaxed) > 0 {
            let failure = streams.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            let why = failure.unwrap_or_else(|| {
                format!("a stream ended before all of them had {SETTLED} pieces: ask for longer answers")
            });
            return Err(target.protocol(why));
        }
        std::thread::sleep(TICK);
    }
    let measured = long_prompt(target, template, tokens, number(all))?;
    // Gaps that are open when the first token comes end soon after it.
    std::thread::sleep(Duration::from_millis(200));
    Ok(measured)
}
