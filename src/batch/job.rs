//! A batch from file to file: which requests are left, what they need, and their answers.
//!
//! Invariants: a request whose result the output holds is not run again; the output gets one line for each request that is
//! left, in the order in which they end; an interruption loses what was under way and nothing that is in the output.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::Value;

use super::request::{Lines, Request};
use super::{BatchError, Done, Input, Item, Output, Settings, printable, response};
use crate::api::{self, Call, ChoiceIndex, Prepared, Reading, Refusal, Reply, Route, Service};
use crate::engine::{EngineError, Event, Scheduler, Stats, Supply};
use crate::error::Error;

/// Some requests of an input, and what they are answered with.
pub struct Job {
    input: RefCell<Input>,
    items: Vec<Item>,
    service: Service,
    lines: Lines,
    settings: Settings,
    skipped: usize,
    /// What is done before the first chat is read.
    before_chats: Cell<Option<Box<dyn FnOnce()>>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("left", &self.items.len())
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

/// What a job did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were refused, or failed while they were answered.
    pub refused: u64,
    /// Tokens of the prompts of the answered ones.
    pub prompt_tokens: u64,
    /// Tokens of their answers.
    pub generated_tokens: u64,
    /// Steps and times of the scheduler.
    pub stats: Stats,
}

/// Whether an error is of the request that it ended, so that the others go on.
fn is_of_request(error: &Error) -> bool {
    !matches!(error, Error::Engine(EngineError::Stopped | EngineError::Step(_) | EngineError::Thread(_)))
}

/// What a generation is remembered by: its request, and which of the choices it is.
#[derive(Clone, Copy)]
struct Key {
    number: usize,
    choice: ChoiceIndex,
}

/// Most requests that are read, and their forms compiled, ahead of those that run.
const AHEAD: usize = 4;
/// Most of them where none of the first ones is ready, so that requests without a form pass those whose forms take long.
const MOST_AHEAD: usize = 64;
/// How long is waited for a form where nothing else is to be done, before an interruption is looked for.
const POLL: Duration = Duration::from_millis(5);

impl Job {
    /// The requests of `input` whose results are not in `done`, those of the output at `output`. `service` answers them, whose
    /// context is the one that prompts are refused by, with `settings`; `lines` says what lines of text are.
    ///
    /// # Errors
    /// A result of another request under the id of one of these, or one that was made with other settings.
    pub fn new(
        input: Input,
        (done, output): (&Done, &std::path::Path),
        service: Service,
        lines: Lines,
        settings: Settings,
    ) -> Result<Self, BatchError> {
        let mut items = Vec::new();
        for item in input.items() {
            match done.get(&item.custom_id) {
                None => items.push(item.clone()),
                Some((hash, of_result)) => {
                    let (path, id) = (output.to_owned(), printable(&item.custom_id));
                    if hash != item.hash {
                        return Err(BatchError::OtherRequest { path, id, line: item.line });
                    }
                    if let Some((setting, was, is)) = of_result.difference(&settings) {
                        return Err(BatchError::OtherSettings { path, id, setting, was, is });
                    }
                }
            }
        }
        let skipped = input.items().len() - items.len();
        let (input, before_chats) = (RefCell::new(input), Cell::new(None));
        Ok(Self { input, items, service, lines, settings, skipped, before_chats })
    }

    /// Has something done before the first chat is read.
    pub fn before_chats(&mut self, action: impl FnOnce() + 'static) {
        self.before_chats.set(Some(Box::new(action)));
    }

    /// Requests that are left.
    pub fn left(&self) -> usize {
        self.items.len()
    }

    /// Requests whose results were there already.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// A line of the output, with the settings that it was made with.
    fn with_settings(&self, mut line: Value) -> Value {
        line["settings"] = self.settings.to_json();
        line
    }

    /// The request of an item as the engine takes it; without `forms` its texts follow none, which is quicker.
    fn prepare(&self, item: &Item, forms: bool) -> Result<Result<Call, Refusal>, BatchError> {
        if item.too_long {
            return Ok(Err(Request::too_long()));
        }
        let mut input = self.input.borrow_mut();
        let bytes = input.read(item)?;
        let request = Request::parse(&bytes, input.format(), &self.lines);
        Ok(request.and_then(|Request { route, body }| {
            if route == Route::ChatCompletions
                && let Some(action) = self.before_chats.take()
            {
                action();
            }
            let defaults = &self.service.defaults;
            let of_line = defaults.params.seed.wrapping_add(item.line) & 0xffff_ffff;
            let seed = Some(defaults.seed.unwrap_or(of_line));
            let id = Some(item.hash.clone());
            let how = Reading { seed, forms, measured: false, id, fits: true, reserve: None };
            api::read(&self.service, route, &body, &how)
        }))
    }

    /// The context that all requests have room in, at most that of the service. `keep_going` is asked before each request.
    ///
    /// # Errors
    /// An input that cannot be read; [`Error::Interrupted`] where `keep_going` said no.
    pub fn context_needed(&self, mut keep_going: impl FnMut() -> bool) -> Result<u32, BatchError> {
        let most = self.service.context;
        let mut needed = 1;
        for item in &self.items {
            if !keep_going() {
                return Err(Error::Interrupted.into());
            }
            let Ok(call) = self.prepare(item, false)? else { continue };
            for choice in &call.choices {
                let limit = choice.limit().unwrap_or(u64::from(most));
                let wanted = (choice.prompt_tokens() as u64).saturating_add(limit);
                needed = needed.max(u32::try_from(wanted).unwrap_or(most).min(most));
            }
            if needed == most {
                break;
            }
        }
        Ok(needed)
    }

    /// Answers the requests, as many at a time as `scheduler` has sequences, and appends the results to `output`. A request
    /// that fails on the way has its line too. `progress` is told the requests that are done; `keep_going` is asked before
    /// every request and every step.
    ///
    /// # Errors
    /// Files that cannot be read or written, an interruption. What is in `outcome` and in the output by then counts.
    pub fn run(
        &self,
        scheduler: &mut Scheduler,
        output: &mut Output,
        outcome: &mut Outcome,
        keep_going: impl FnMut() -> bool,
        progress: impl FnMut(u64),
    ) -> Result<(), BatchError> {
        let (keep_going, progress) = (RefCell::new(keep_going), RefCell::new(progress));
        let keep_going = || (keep_going.borrow_mut())();
        let output = RefCell::new(output);
        let counts = Cell::new(Outcome::default());
        let failure = Cell::new(None);
        let count = |so_far: Outcome| {
            counts.set(so_far);
            (progress.borrow_mut())(so_far.answered + so_far.refused);
        };
        let refuse = |item: &Item, refusal: &Refusal| -> Result<(), BatchError> {
            output.borrow_mut().append(&self.with_settings(response::refused(item, refusal)))?;
            let so_far = counts.get();
            count(Outcome { refused: so_far.refused + 1, ..so_far });
            Ok(())
        };
        let mut items = self.items.iter().enumerate();
        // Requests in turn, their forms compiled ahead. Those that are refused have their results at once.
        let mut ahead: VecDeque<(Key, Prepared)> = VecDeque::new();
        // The answers in the making. A request that was refused has none, so its other choices are not made.
        let replies: RefCell<HashMap<usize, Reply>> = RefCell::default();
        // An input that cannot be read ends the batch after the requests before that.
        let mut unreadable = None;
        let mut next = |idle: bool| -> Result<Supply<Key>, BatchError> {
            ahead.retain(|(key, _)| replies.borrow().contains_key(&key.number));
            while unreadable.is_none()
                && (ahead.len() < AHEAD
                    || ahead.len() < MOST_AHEAD && !ahead.iter().any(|(_, prepared)| prepared.is_ready()))
            {
                let Some((number, item)) = items.next() else { break };
                if !keep_going() {
                    return Err(Error::Interrupted.into());
                }
                let prepared = match self.prepare(item, true) {
                    Ok(prepared) => prepared,
                    Err(error) => {
                        unreadable = Some(error);
                        break;
                    }
                };
                match prepared {
                    Ok(Call { choices, reply }) => {
                        replies.borrow_mut().insert(number, reply);
                        let key = |index| Key { number, choice: ChoiceIndex::new(index) };
                        ahead.extend(choices.into_iter().enumerate().map(|(index, one)| (key(index), one)));
                    }
                    Err(refusal) => refuse(item, &refusal)?,
                }
            }
            if ahead.is_empty() {
                return unreadable.take().map_or(Ok(Supply::End), Err);
            }
            let Some(at) = ahead.iter().position(|(_, prepared)| prepared.is_ready()) else {
                if idle {
                    std::thread::sleep(POLL);
                }
                return Ok(Supply::Later);
            };
            let Some((key, prepared)) = ahead.remove(at) else { return Ok(Supply::Later) };
            match prepared.finish() {
                Ok(request) => Ok(Supply::Request(key, Box::new(request))),
                Err(refusal) => {
                    if replies.borrow_mut().remove(&key.number).is_some() {
                        refuse(&self.items[key.number], &refusal)?;
                    }
                    Ok(Supply::Later)
                }
            }
        };
        let supply = |idle: bool| {
            next(idle).unwrap_or_else(|error| {
                failure.set(Some(error));
                Supply::End
            })
        };
        let result = scheduler.complete_supplied(supply, keep_going, |key: Key, result| {
            let event = match result {
                Ok(completion) => Event::Done(Box::new(completion)),
                Err(error) if is_of_request(&error) => Event::Failed(error),
                Err(error) => return Err(error.into()),
            };
            let mut replies = replies.borrow_mut();
            let Some(reply) = replies.get_mut(&key.number) else { return Ok(()) };
            reply.event(key.choice, event);
            if !reply.is_complete() {
                return Ok(());
            }
            let Some(reply) = replies.remove(&key.number) else { return Ok(()) };
            let (item, usage) = (&self.items[key.number], reply.usage());
            let body = match reply.into_body() {
                Ok(body) => body,
                Err(refusal) => return refuse(item, &refusal),
            };
            output.borrow_mut().append(&self.with_settings(response::answered(item, &body)))?;
            let mut so_far = counts.get();
            so_far.answered += 1;
            so_far.prompt_tokens += usage.prompt_tokens as u64;
            so_far.generated_tokens += usage.completion_tokens as u64;
            count(so_far);
            Ok::<(), BatchError>(())
        });
        *outcome = Outcome { stats: scheduler.stats(), ..counts.get() };
        result?;
        failure.take().map_or(Ok(()), Err)
    }
}
