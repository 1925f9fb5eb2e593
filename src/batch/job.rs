//! A batch from file to file: which requests are left, what they need, and their answers.
//!
//! Invariants: a request whose result the output holds is not run again; the output gets one line for each request that is
//! left, in the order in which they end; an interruption loses what was under way and nothing that is in the output.

use std::cell::{Cell, RefCell};

use super::{
    BatchError, Defaults, Done, Endpoint, Input, Item, Output, Refusal, Request, TextSource, printable,
    response,
};
use crate::engine::{self, EngineError, Scheduler, Stats};
use crate::error::Error;

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
}

impl<'a> Job<'a> {
    /// The requests of `input` whose results are not in `done`, those of the output at `output`.
    ///
    /// # Errors
    /// A result of another request under the id of one of these.
    pub fn new(
        input: Input,
        done: &Done,
        output: &std::path::Path,
        defaults: Defaults,
        source: TextSource<'a>,
        model: &str,
        vocab: u32,
    ) -> Result<Self, BatchError> {
        let mut items = Vec::new();
        for item in input.items() {
            match done.get(&item.custom_id) {
                None => items.push(item.clone()),
                Some(hash) if *hash == item.hash => {}
                Some(_) => {
                    let (path, id) = (output.to_owned(), printable(&item.custom_id));
                    return Err(BatchError::OtherRequest { path, id, line: item.line });
                }
            }
        }
        let skipped = input.items().len() - items.len();
        let (input, model) = (RefCell::new(input), model.to_owned());
        Ok(Self { input, items, defaults, source, model, vocab, skipped, most: None })
    }

    /// Requests that are left.
    pub fn left(&self) -> usize {
        self.items.len()
    }

    /// Requests whose results were there already.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The request of an item as the engine takes it; without `follow` its text follows no form, which is quicker.
    fn generation(
        &self,
        item: &Item,
        context: u32,
        follow: bool,
    ) -> Result<Result<(Endpoint, engine::Request), Refusal>, BatchError> {
        if item.too_long {
            return Ok(Err(Request::too_long()));
        }
        let mut input = self.input.borrow_mut();
        let bytes = input.read(item)?;
        let request = Request::parse(&bytes, input.format(), item.line, &self.defaults);
        Ok(request.and_then(|request| {
            let endpoint = request.endpoint;
            let request = if follow { request } else { Request { form: None, ..request } };
            Ok((endpoint, request.generation(&bytes, &self.source, self.vocab, context)?))
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
            if let Ok((_, generation)) = self.generation(item, most, false)? {
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
            output.borrow_mut().append(&response::refused(item, refusal))?;
            let so_far = counts.get();
            count(Outcome { refused: so_far.refused + 1, ..so_far });
            Ok(())
        };
        let mut items = self.items.iter().enumerate();
        // Requests in turn; those that are refused have their results at once.
        let mut next = || -> Result<Option<(Key, engine::Request)>, BatchError> {
            for (number, item) in items.by_ref() {
                if !keep_going() {
                    return Err(Error::Interrupted.into());
                }
                match self.generation(item, context, true)? {
                    Ok((endpoint, request)) => {
                        let seed = request.seed();
                        return Ok(Some((Key { number, endpoint, seed }, request)));
                    }
                    Err(refusal) => refuse(item, &refusal)?,
                }
            }
            Ok(None)
        };
        let requests = std::iter::from_fn(|| {
            next().unwrap_or_else(|error| {
                failure.set(Some(error));
                None
            })
        });
        let result = scheduler.complete_all(requests, keep_going, |key: Key, result| {
            let item = &self.items[key.number];
            let completion = match result {
                Ok(completion) => completion,
                Err(error) if is_of_request(&error) => return refuse(item, &Refusal::of_error(&error)),
                Err(error) => return Err(error.into()),
            };
            let Key { endpoint, seed, .. } = key;
            let tokenizer = self.source.tokenizer;
            let line = response::answered(item, endpoint, &self.model, seed, &completion, tokenizer);
            output.borrow_mut().append(&line)?;
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
