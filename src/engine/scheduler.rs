//! The scheduler: takes requests, computes steps, emits events.
//!
//! **Admission** is first come, first served: the oldest waiting request gets the first free sequence, whatever its length
//! ([`admission`](super::admission)); [`prefix`](super::prefix) chooses among several. **Steps**: sequences that decode come first, prompts
//! share the rows that [`plan`](super::plan) leaves. **Parking**: if a request waits and the client of another one does not read, the
//! other text gives up its sequence, and waits in its old position until its client has read and a sequence is free. **The end**: a
//! sequence is free in the step in which its text ends, or in the one after a cancellation; it keeps its tokens for later prompts.
//!
//! Invariants: `places[i]` is the request of `seats[i]`; a seat with a request has tokens to feed; `waiting` is in the order in
//! which the requests came; events of ended requests for which there was no room are in `leaving`, and occupy no seat; after a
//! step that computed nothing, only texts whose clients must read first are waiting (a request that waits for the prompt of another
//! one waits for rows of that prompt).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::{Record, Wanted, vec_with_room};
use bitnetc_runtime::memory::Memory;
use bitnetc_runtime::model::Model;
use bitnetc_runtime::tokenizer::{TokenId, Tokenize};

use super::channel::{Notify, Outlet, channel};
use super::cost::{CostEstimate, StepWork};
use super::error::{EngineError, guarded};
use super::handle::Handle;
use super::mask;
use super::metrics::Metrics;
use super::plan::{Budget, Demand, TimeBudget, plan, work};
use super::request::{Request, Salt};
use super::running::{Next, Rows, Running};
use super::sampling::{Sampled, Sampling};
use super::slots::{Board, SlotState, Told};
use super::stepper::{MachineStepper, Part, Stepper, emptied};
use super::store::Store;
use super::text::Stop;

/// What an engine is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Tokens that each sequence has room for.
    pub context: u32,
    /// Threads that compute, the one that calls [`Scheduler::step`] among them.
    pub threads: u32,
    /// Texts that are made at the same time, at least 1. Each has a KV cache of its own; memory that is not used is not
    /// taken.
    pub sequences: u32,
    /// Rows of prompts in a step, at most: how long others wait for their next token while a prompt is read. `None`: as
    /// many as read the weights once where nobody decodes, else 32.
    pub max_prompt_rows: Option<u32>,
    /// Time of a step in which sequences decode, at most: prompts get as many rows as are expected to fit, going by the times
    /// of earlier steps, and at least one. `None`: rows are bounded by their number alone.
    pub max_step: Option<Duration>,
    /// Bytes of beginnings of texts that are kept when their sequences are given to others, at most.
    pub cache_ram: u64,
    /// Events of a request that wait to be read, 1 to 65,536; one more pauses the request.
    pub events: u32,
    /// What the machine records of its time.
    pub record: Record,
}

impl EngineOptions {
    /// Events that wait to be read, unless asked otherwise.
    const EVENTS: u32 = 64;
    /// Events that wait to be read, at most.
    const MOST_EVENTS: u32 = 1 << 16;

    /// For one text at a time.
    pub fn single(context: u32, threads: u32) -> Self {
        Self {
            context,
            threads,
            sequences: 1,
            max_prompt_rows: None,
            max_step: None,
            cache_ram: 0,
            events: Self::EVENTS,
            record: Record::Nothing,
        }
    }

    /// Bytes of earlier prompts that are kept where nobody says how many: a tenth of the memory, at most 2 GiB.
    pub fn default_cache_ram() -> u64 {
        Memory::probe().total.unwrap_or(0).div_euclid(10).min(2 << 30)
    }

    /// A scheduler for this number of concurrent texts.
    pub fn of(context: u32, threads: u32, sequences: u32) -> Self {
        Self { sequences, ..Self::single(context, threads) }
    }
}

/// Tells the time since some moment, on any thread.
pub type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// What a step computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Rows of sequences that decode.
    pub decode_rows: u32,
    /// Rows of prompts.
    pub prompt_rows: u32,
}

impl Step {
    /// Whether nothing could be computed: there is nothing to do, or all clients have events to read first.
    pub fn is_idle(self) -> bool {
        self.decode_rows + self.prompt_rows == 0
    }
}

/// What a scheduler has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Steps that computed something.
    pub steps: u64,
    /// Rows of prompts that were computed.
    pub prompt_rows: u64,
    /// Rows of latest tokens that were computed.
    pub decode_rows: u64,
    /// Texts that gave up their sequence to others, because their clients did not read.
    pub parked: u64,
    /// Time of the steps, without sampling.
    pub step_time: Duration,
    /// Time for sampling and decoding text, of all texts of a step together.
    pub sample_time: Duration,
}

/// A sequence, and what it is fed next.
#[derive(Debug)]
pub(super) struct Seat<Q> {
    pub(super) sequence: Q,
    /// Whose prompts may reuse what it holds.
    pub(super) salt: Option<Salt>,
    /// The prompt of its request, then its latest token.
    pub(super) pending: Vec<TokenId>,
    /// Tokens of `pending` that have been fed, or were there already.
    pub(super) fed: usize,
    /// Rising numbers: when a request last began or ended here; 0 if there was none.
    pub(super) used: u64,
}

impl<Q> Seat<Q> {
    fn waiting(&self) -> u32 {
        (self.pending.len() - self.fed) as u32
    }

    /// The next rows; with the logits after each of them, or after the last one if a token follows it.
    fn part(&mut self, rows: u32, scores: bool) -> Part<'_, Q> {
        let logits = match scores {
            true => Wanted::All,
            false if rows == self.waiting() => Wanted::Last,
            false => Wanted::None,
        };
        let tokens = &self.pending[self.fed..self.fed + rows as usize];
        Part { sequence: &mut self.sequence, tokens, logits }
    }
}

/// A request without a sequence: one that has not begun, or was parked.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) running: Running,
    /// What is fed to its sequence: its prompt, and the tokens that it has by now.
    pub(super) tokens: Arc<[TokenId]>,
}

/// See the module.
pub struct Scheduler<S: Stepper = MachineStepper> {
    pub(super) stepper: S,
    pub(super) tokenizer: Arc<dyn Tokenize>,
    budget: Budget,
    /// Time of a step in which sequences decode, and what steps have cost.
    max_step: Option<Duration>,
    estimate: CostEstimate,
    events: usize,
    clock: Clock,
    pub(super) seats: Vec<Seat<S::Sequence>>,
    pub(super) places: Vec<Option<Running>>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) store: Store,
    leaving: Vec<Outlet>,
    /// Of the step in the making: what each seat waits for, its rows, and the seats that have any.
    demands: Vec<Demand>,
    rows: Vec<u32>,
    active: Vec<usize>,
    /// Memory for the texts of a step, empty between steps.
    sampled: Vec<Sampled<'static>>,
    work: StepWork,
    arrivals: u64,
    /// Times that a request began or ended in a seat.
    uses: u64,
    pub(super) stats: Stats,
    pub(super) metrics: Arc<Metrics>,
    board: Arc<Board>,
}

impl<S: Stepper> std::fmt::Debug for Scheduler<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("sequences", &self.seats.len())
            .field("running", &self.running())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    /// A scheduler over a model, which `source` identifies ([`Loaded::source_hash`](crate::load::Loaded::source_hash)), with
    /// the system's clock.
    ///
    /// # Errors
    /// Memory could not be allocated, threads could not be started, or the model has no such entry points.
    pub fn new(
        model: Arc<Model>,
        source: [u8; 32],
        tokenizer: Arc<dyn Tokenize>,
        options: EngineOptions,
    ) -> Result<Self, SessionError> {
        let EngineOptions { context, threads, sequences, record, .. } = options;
        let stepper = MachineStepper::new(model, source, context, threads, sequences, record)?;
        let start = Instant::now();
        Self::over(stepper, tokenizer, options, Box::new(move || start.elapsed()))
    }
}

impl<S: Stepper> Scheduler<S> {
    /// A scheduler over anything that computes rows, with a clock; `context`, `threads` and `record` of the options are the
    /// stepper's business.
    ///
    /// # Errors
    /// Memory could not be allocated.
    pub fn over(
        stepper: S,
        tokenizer: Arc<dyn Tokenize>,
        options: EngineOptions,
        clock: Clock,
    ) -> Result<Self, SessionError> {
        let count = options.sequences.max(1) as usize;
        let seat = || {
            let sequence = stepper.sequence()?;
            Ok(Seat { sequence, salt: None, pending: Vec::new(), fed: 0, used: 0 })
        };
        let mut places = vec_with_room("requests of sequences", count)?;
        let demands = vec_with_room("plan of a step", count)?;
        let rows = vec_with_room("plan of a step", count)?;
        let active = vec_with_room("plan of a step", count)?;
        let sampled = vec_with_room("texts of a step", count)?;
        let mut seats = vec_with_room("sequences", count)?;
        for _ in 0..count {
            seats.push(seat()?);
            places.push(None);
        }
        let metrics = Arc::<Metrics>::default();
        metrics.kv_capacity.set(u64::from(stepper.context()) * count as u64);
        Ok(Self {
            metrics,
            board: Arc::new(Board::new(count, stepper.context())),
            budget: Budget {
                chunk: stepper.chunk(),
                max_prompt_rows: options.max_prompt_rows,
                time: None,
                turn: 0,
            },
            max_step: options.max_step,
            estimate: CostEstimate::default(),
            store: Store::new(options.cache_ram),
            stepper,
            tokenizer,
            events: options.events.clamp(1, EngineOptions::MOST_EVENTS) as usize,
            clock,
            seats,
            places,
            waiting: VecDeque::new(),
            leaving: Vec::new(),
            demands,
            rows,
            active,
            sampled,
            work: StepWork::default(),
            arrivals: 0,
            uses: 0,
            stats: Stats::default(),
        })
    }

    /// What computes the rows.
    pub fn stepper(&self) -> &S {
        &self.stepper
    }

    /// Tokens that each sequence has room for.
    pub fn context(&self) -> u32 {
        self.stepper.context()
    }

    /// Events of a request that wait to be read.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Sequences, free ones among them.
    pub fn sequences(&self) -> usize {
        self.seats.len()
    }

    /// Requests that have a sequence.
    pub fn running(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Requests that wait for a sequence; parked ones, whose clients do not read, among them.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that have ended and whose clients have yet to read it.
    pub fn unread(&self) -> usize {
        self.leaving.len()
    }

    /// Tokens that the sequences hold, of free ones too.
    pub fn tokens(&self) -> usize {
        self.seats.iter().map(|seat| S::tokens(&seat.sequence).len()).sum()
    }

    /// Tokens of the sequence in which a text began or ended last: of this text, but for those that have not been fed.
    pub fn latest_tokens(&self) -> usize {
        let latest = self.seats.iter().max_by_key(|seat| seat.used);
        latest.map_or(0, |seat| S::tokens(&seat.sequence).len())
    }

    /// What has been done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What is counted, to be read at any time and on any thread.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The same, counting in `metrics`, which keeps the counts that it has.
    pub fn counting(mut self, metrics: Arc<Metrics>) -> Self {
        metrics.kv_capacity.set(self.metrics.kv_capacity.get());
        self.metrics = metrics;
        self
    }

    /// What the sequences hold and do.
    pub fn slots(&self) -> Vec<SlotState> {
        self.board.read()
    }

    /// Where the sequences' states are written down.
    pub(super) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Takes a request, to be read from the handle. What is wrong with it is its event.
    pub fn submit(&mut self, request: Request) -> Handle {
        self.submit_for(request, None)
    }

    /// As [`Scheduler::submit`]; `notify` is called after there is something to read.
    pub fn submit_with(&mut self, request: Request, notify: Notify) -> Handle {
        self.submit_for(request, Some(notify))
    }

    fn submit_for(&mut self, request: Request, notify: Option<Notify>) -> Handle {
        let (outlet, events, control) = channel(self.events, notify);
        let now = self.now();
        self.enqueue(request, outlet, now);
        Handle::new(events, control, None)
    }

    /// The time.
    pub(super) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// Puts a request at the end of the queue, unless it has ended before it began.
    pub(super) fn enqueue(&mut self, request: Request, outlet: Outlet, submitted: Duration) {
        let refused = request.check(self.stepper.vocab(), self.stepper.context()).err();
        let (running, tokens) = Running::new(request, outlet, self.arrivals, submitted);
        if let Some(error) = refused.filter(|_| !running.is_complete()) {
            self.metrics.refused.add(1);
            return self.leave(running.refuse(Err(error.into())));
        }
        if running.is_complete() {
            let now = self.now();
            return self.leave(running.stop(Stop::Limit, now, &self.metrics));
        }
        self.arrivals += 1;
        self.waiting.push_back(Waiting { running, tokens });
    }

    /// Computes the next rows of all requests that are not paused, and tells what they were.
    pub fn step(&mut self) -> Step {
        self.deliver();
        self.sweep();
        self.admit();
        let step = self.plan();
        self.publish();
        if !step.is_idle() {
            let time = self.compute();
            let bytes = self.stepper.read_bytes(self.work);
            self.metrics.stepped(step, bytes, time);
            self.stats.steps += 1;
            self.stats.prompt_rows += u64::from(step.prompt_rows);
            self.stats.decode_rows += u64::from(step.decode_rows);
            self.publish();
        }
        step
    }

    /// Writes down what others may look at while the next step is computed.
    pub(super) fn publish(&self) {
        self.metrics.running.set(self.running() as u64);
        self.metrics.waiting.set(self.waiting.len() as u64);
        // What ended texts have left can be taken from them, and is no load.
        let running = self.seats.iter().zip(&self.places).filter(|(_, place)| place.is_some());
        let tokens: usize = running.map(|(seat, _)| S::tokens(&seat.sequence).len()).sum();
        self.metrics.kv_tokens.set(tokens as u64);
        self.metrics.stored_bytes.set(self.store.bytes());
        self.metrics.stored_prefixes.set(self.store.len() as u64);
        for (index, (seat, place)) in self.seats.iter().zip(&self.places).enumerate() {
            let task = place.as_ref().map(Running::told);
            self.board.tell(index, Told { tokens: S::tokens(&seat.sequence).len(), task });
        }
    }

    /// Sends events that found no room before.
    fn deliver(&mut self) {
        self.places.iter_mut().flatten().for_each(|running| running.outlet.flush());
        self.waiting.iter_mut().for_each(|waiting| waiting.running.outlet.flush());
        self.leaving.retain_mut(|outlet| {
            outlet.flush();
            outlet.is_blocked() && !outlet.is_dropped()
        });
    }

    /// Ends what clients have cancelled.
    fn sweep(&mut self) {
        let now = self.now();
        for index in 0..self.places.len() {
            if let Some(running) = self.places[index].take_if(|running| running.outlet.is_cancelled()) {
                self.touch(index);
                self.leave(running.stop(Stop::Interrupted, now, &self.metrics));
            }
        }
        if self.waiting.iter().any(|waiting| waiting.running.outlet.is_cancelled()) {
            for waiting in std::mem::take(&mut self.waiting) {
                match waiting.running.outlet.is_cancelled() {
                    false => self.waiting.push_back(waiting),
                    true => self.leave(waiting.running.stop(Stop::Interrupted, now, &self.metrics)),
                }
            }
        }
    }

    /// Takes note of a seat in which a request has begun or ended.
    pub(super) fn touch(&mut self, index: usize) {
        self.uses += 1;
        self.seats[index].used = self.uses;
    }

    /// Keeps an outlet until its last event is out.
    fn leave(&mut self, outlet: Outlet) {
        if outlet.is_blocked() && !outlet.is_dropped() {
            self.leaving.push(outlet);
        }
    }

    /// Decides which rows are computed.
    fn plan(&mut self) -> Step {
        self.demands.clear();
        self.demands.extend(self.places.iter().zip(&self.seats).map(|(place, seat)| {
            let position = S::tokens(&seat.sequence).len() as u32;
            match place {
                Some(running) if running.outlet.is_blocked() => Demand::Nothing,
                Some(running) if running.decoding => Demand::Decode { position },
                Some(running) => Demand::Prompt {
                    rows: seat.waiting(),
                    arrival: running.arrival,
                    position,
                    scored: running.is_scoring(),
                },
                None => Demand::Nothing,
            }
        }));
        self.hold_masks();
        let seconds = self.max_step.map(|time| time.as_secs_f64());
        let time = seconds.zip(self.estimate.cost()).map(|(seconds, cost)| TimeBudget { seconds, cost });
        self.budget = Budget { time, turn: self.stats.steps, ..self.budget };
        plan(&self.budget, &self.demands, &mut self.rows);
        self.work = work(self.budget.chunk, &self.demands, &self.rows);
        self.active.clear();
        let mut step = Step::default();
        let context = self.stepper.context() as usize;
        for (index, (&rows, demand)) in self.rows.iter().zip(&self.demands).enumerate() {
            match demand {
                Demand::Decode { .. } => step.decode_rows += rows,
                Demand::Prompt { .. } => step.prompt_rows += rows,
                Demand::Nothing => {}
            }
            if rows > 0 {
                self.active.push(index);
                let seat = &self.seats[index];
                if let Some(running) = &mut self.places[index] {
                    let (start, count) = (S::tokens(&seat.sequence).len(), rows as usize);
                    let fills_context = start + count >= context;
                    running.rows = Rows { start, count, completes: rows == seat.waiting(), fills_context };
                }
            }
        }
        step
    }

    /// What the masks of a step may take together.
    fn mask_share(&self) -> Option<Duration> {
        self.max_step.map(mask::share_of)
    }

    /// Lets texts miss the step whose masks would make the others wait.
    fn hold_masks(&mut self) {
        let Some(share) = self.mask_share() else { return };
        let count = self.demands.len();
        let (mut used, mut held) = (Duration::ZERO, None);
        for turn in 0..count {
            // Each is the first one at times.
            let index = (self.stats.steps as usize % count + turn) % count;
            let demand = self.demands[index];
            let Some(running) = &mut self.places[index] else { continue };
            let is_masked = matches!(demand, Demand::Decode { .. }) && running.is_constrained();
            if is_masked && !running.mask.is_due(&mut used, share) {
                held.get_or_insert((index, demand));
                self.demands[index] = Demand::Nothing;
            }
        }
        if let Some((index, demand)) = held
            && self.demands.iter().all(|demand| *demand == Demand::Nothing)
        {
            self.demands[index] = demand;
        }
    }

    /// Computes the rows that were decided on; how long that took.
    fn compute(&mut self) -> Duration {
        let started = (self.clock)();
        let Self { stepper, tokenizer, clock, seats, places, rows, demands, metrics, sampled, .. } = self;
        let mut texts = emptied(std::mem::take(sampled));
        // Who has rows has a request.
        texts.extend(places.iter_mut().zip(&*rows).filter(|&(_, &rows)| rows > 0).filter_map(
            |(place, _)| {
                let running = place.as_mut()?;
                Some(Sampled { running, tokenizer: &**tokenizer, clock, token_made: None })
            },
        ));
        let seats = seats.iter_mut().zip(&*rows).zip(&*demands).filter(|&((_, &rows), _)| rows > 0);
        let mut parts = seats.map(|((seat, &rows), demand)| {
            seat.part(rows, matches!(demand, Demand::Prompt { scored: true, .. }))
        });
        let (opened, time) = (started, Duration::ZERO);
        let mut sampling = Sampling { texts, clock, metrics, opened, time };
        let result = stepper.step(&mut parts, &mut sampling);
        let Sampling { texts, time: sampling, .. } = sampling;
        *sampled = emptied(texts);
        let time = (self.clock)().saturating_sub(started).saturating_sub(sampling);
        self.stats.step_time += time;
        self.stats.sample_time += sampling;
        match result {
            Ok(()) => self.settle(time),
            Err(error) => self.fail_step(&Arc::new(error)),
        }
        let all = time + sampling;
        if self.max_step.is_some() {
            self.estimate.observe(self.work, all.as_secs_f64());
        }
        all
    }

    /// Takes note of what the step brought.
    fn settle(&mut self, time: Duration) {
        let masks = self.mask_share();
        for at in 0..self.active.len() {
            let index = self.active[at];
            let seat = &mut self.seats[index];
            seat.fed += self.rows[index] as usize;
            let Some(running) = &mut self.places[index] else { continue };
            running.stepped(time, masks);
            match std::mem::replace(&mut running.next, Next::Rows) {
                Next::Rows => {}
                Next::Token(id) => {
                    seat.pending.clear();
                    seat.pending.push(id);
                    seat.fed = 0;
                }
                Next::End(result) => self.end(index, result),
            }
        }
    }

    /// Ends the request of a seat.
    pub(super) fn end(&mut self, index: usize, result: Result<Stop, crate::Error>) {
        let Some(running) = self.places[index].take() else { return };
        self.touch(index);
        let now = self.now();
        self.leave(running.finish(result, now, &self.metrics));
    }

    /// Ends all requests, those that wait too. What sequences hold is not to be relied on.
    pub(super) fn end_all(&mut self, error: impl Fn() -> EngineError) {
        // The clock is code of others too, and may be what went wrong.
        let now = guarded(|| self.now()).unwrap_or_default();
        for waiting in std::mem::take(&mut self.waiting) {
            self.leave(waiting.running.finish(Err(error().into()), now, &self.metrics));
        }
        for index in 0..self.places.len() {
            S::truncate(&mut self.seats[index].sequence, 0);
            if let Some(running) = self.places[index].take() {
                self.touch(index);
                self.leave(running.finish(Err(error().into()), now, &self.metrics));
            }
        }
        self.publish();
    }

    /// Ends all requests that had a part in a step that failed. What their sequences hold is not to be relied on.
    fn fail_step(&mut self, error: &Arc<SessionError>) {
        for at in 0..self.active.len() {
            let index = self.active[at];
            S::truncate(&mut self.seats[index].sequence, 0);
            self.end(index, Err(EngineError::Step(Arc::clone(error)).into()));
        }
    }
}
