//! A batch from file to file: which requests are left, what they need, and their answers.
//!
//! Invariants: a request whose result the output holds is not run again; the output gets one line for each request that is
//! left, in the order in which they end; an interruption loses what was under way and nothing that is in the output.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use super::{
    BatchError, Defaults, Done, Endpoint, Format, Input, Item, Output, Prepared, Refusal, Request, Settings,
    TextSource, printable, response,
};
use crate::engine::{EngineError, Scheduler, Stats, Supply};
use crate::error::Error;
use crate::load::Loaded;

/// Some requests of an input, and what they are answered with.
#[derive(Debug)]
pub struct Job<'a> {
    input: RefCell<Input>,
    items: Vec<Item>,
    defaults: Defaults,
    source: TextSource<'a>,
    /// The model's name for answers.
    model: String,
    vocab: u32,
    settings: Settings,
    skipped: usize,
    /// Tokens that a prompt may have, where the context is only as large as the requests need.
    most: Option<u32>,
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

/// What a generation is remembered by.
struct Key {
    number: usize,
    endpoint: Endpoint,
    seed: u64,
    /// The field that asked for a form.
    form: Option<&'static str>,
}

/// Most requests that are read, and their forms compiled, ahead of those that run.
const AHEAD: usize = 4;
/// Most of them where none of the first ones is ready, so that requests without a form pass those whose forms take long.
const MOST_AHEAD: usize = 64;
/// How long is waited for a form where nothing else is to be done, before an interruption is looked for.
const POLL: Duration = Duration::from_millis(5);

impl<'a> Job<'a> {
    /// The requests of `input` whose results are not in `done`, those of the output at `output`. `model` answers them, with
    /// `settings`.
    ///
    /// # Errors
    /// A result of another request under the id of one of these, or one that was made with other settings.
    pub fn new(
        input: Input,
        (done, output): (&Done, &std::path::Path),
        defaults: Defaults,
        settings: Settings,
        source: TextSource<'a>,
        model: &Loaded,
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
        let (input, model, vocab) = (RefCell::new(input), model.name.clone(), model.model.vocab());
        Ok(Self { input, items, defaults, source, model, vocab, settings, skipped, most: None })
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

    /// The request of an item as the engine takes it; without `follow` its text follows no form, which is quicker.
    fn prepare(
        &self,
        item: &Item,
        context: u32,
        follow: bool,
    ) -> Result<Result<(Endpoint, Prepared), Refusal>, BatchError> {
        if item.too_long {
            return Ok(Err(Request::too_long()));
        }
        let mut input = self.input.borrow_mut();
        let bytes = input.read(item)?;
        let request = Request::parse(&bytes, input.format(), item.line, &self.defaults);
        Ok(request.and_then(|request| {
            let endpoint = request.endpoint;
            let request = if follow { request } else { Request { form: None, ..request } };
            let json = if input.format() == Format::Jsonl { &bytes[..] } else { &[] };
            Ok((endpoint, request.prepare(json, &self.source, self.vocab, context)?))
        }))
    }

    /// The context that all requests have room in, at most `most`: what [`Job::run`] refuses longer prompts by. `keep_going`
    /// is asked before each request.
    ///
    /// # Errors
    /// An input that cannot be read; [`Error::Interrupted`] where `keep_going` said no.
    pub fn context_needed(
        &mut self,
        most: u32,
        mut keep_going: impl FnMut() -> bool,
    ) -> Result<u32, BatchError> {
        self.most = Some(most);
        let mut needed = 1;
        for item in &self.items {
            if !keep_going() {
                return Err(Error::Interrupted.into());
            }
            if let Ok(Ok(generation)) =
                self.prepare(item, most, false)?.map(|(_, prepared)| prepared.finish())
            {
                let limit = generation.options().limit.unwrap_or(u64::from(most));
                let wanted = (generation.prompt.len() as u64).saturating_add(limit);
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
        let context = self.most.unwrap_or(scheduler.context());
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
        // An input that cannot be read ends the batch after the requests before that.
        let mut unreadable = None;
        let mut next = |idle: bool| -> Result<Supply<Key>, BatchError> {
            while unreadable.is_none()
                && (ahead.len() < AHEAD
                    || ahead.len() < MOST_AHEAD && !ahead.iter_mut().any(|(_, prepared)| prepared.is_ready()))
            {
                let Some((number, item)) = items.next() else { break };
                if !keep_going() {
                    return Err(Error::Interrupted.into());
                }
                let prepared = match self.prepare(item, context, true) {
                    Ok(prepared) => prepared,
                    Err(error) => {
                        unreadable = Some(error);
                        break;
                    }
                };
                match prepared {
                    Ok((endpoint, prepared)) => {
                        let (seed, form) = (prepared.seed(), prepared.form());
                        ahead.push_back((Key { number, endpoint, seed, form }, prepared));
                    }
                    Err(refusal) => refuse(item, &refusal)?,
                }
            }
            if ahead.is_empty() {
                return unreadable.take().map_or(Ok(Supply::End), Err);
            }
            let Some(at) = ahead.iter_mut().position(|(_, prepared)| prepared.is_ready()) else {
                if idle {
                    std::thread::sleep(POLL);
                }
                return Ok(Supply::Later);
            };
            let Some((key, prepared)) = ahead.remove(at) else { return Ok(Supply::Later) };
            match prepared.finish() {
                Ok(request) => Ok(Supply::Request(key, Box::new(request))),
                Err(refusal) => {
                    refuse(&self.items[key.number], &refusal)?;
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
            let item = &self.items[key.number];
            let completion = match result {
                Ok(completion) => completion,
                Err(error) if is_of_request(&error) => {
                    return refuse(item, &Refusal::of_error(&error, key.form));
                }
                Err(error) => return Err(error.into()),
            };
            let Key { endpoint, seed, .. } = key;
            let tokenizer = self.source.tokenizer;
            let line = response::answered(item, endpoint, &self.model, seed, &completion, tokenizer);
            output.borrow_mut().append(&self.with_settings(line))?;
            let mut so_far = counts.get();
            so_far.answered += 1;
            so_far.prompt_tokens += completion.prompt_tokens as u64;
            so_far.generated_tokens += completion.tokens.len() as u64;
            count(so_far);
            Ok::<(), BatchError>(())
        });
        *outcome = Outcome { stats: scheduler.stats(), ..counts.get() };
        result?;
        failure.take().map_or(Ok(()), Err)
    }
}
